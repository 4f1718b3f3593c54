"""The session: what it has, what gets in the way, and mounting Drive, with local folders in Drive's place."""

import sys
import types

import pytest
import torch

import dino_nb
from dino_nb import colab, files
from dino_nb.cli import main
from dino_nb.colab import session
from dino_nb.errors import UserError

LABELS = [
    *("dino_nb", "session", "device", "memory", "precision", "attention op"),
    *("downloads", "working folder", "Google Drive"),
]


@pytest.fixture
def gpu(monkeypatch):
    """``gpu(name, capability)``: a session with that GPU."""

    def pretend(name, capability):
        fakes = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "is_bf16_supported": lambda *_, **__: True,  # what a T4 says
            "get_device_capability": lambda *_: capability,
            "get_device_name": lambda *_: name,
            "mem_get_info": lambda *_: (14_700_000_000, 15_800_000_000),
        }
        for function, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, function, fake)

    return pretend


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def disk(monkeypatch):
    """``disk(free_bytes)``: so much is free everywhere."""
    return lambda free: monkeypatch.setattr(session.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=free))


def test_session_is_detected(nowhere, monkeypatch):
    assert not colab.in_colab() and not colab.in_kaggle()
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert colab.in_kaggle() and not colab.in_colab()
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    assert colab.in_colab()


def test_info_describes_the_session(nowhere, home, capsys):
    described = dino_nb.info()
    assert list(described) == LABELS
    assert dino_nb.__version__ in described["dino_nb"] and torch.__version__.split("+")[0] in described["dino_nb"]
    assert str(home) in described["downloads"] and "GB free" in described["downloads"]
    assert "GB free" in described["memory"]
    assert described["Google Drive"] == "none, this is not Colab"
    assert "not known" not in str(described)
    assert str(described).count("\n") == len(LABELS) - 1
    assert main(["info"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [label.split()[0] for label in LABELS]


def test_info_survives_what_fails_and_escapes_it(nowhere, home, monkeypatch):
    monkeypatch.setattr(session, "_versions", lambda: 1 / 0)
    monkeypatch.setattr(session, "_session", lambda: "<b>bold</b>")
    described = colab.info()
    assert described["dino_nb"] == "not known (ZeroDivisionError: division by zero)"
    assert "&lt;b&gt;bold" in described._repr_html_() and "<b>" not in described._repr_html_()


@pytest.mark.parametrize(
    "capability, words",
    [
        ((7, 5), "fp16 for training; bfloat16 is not native here"),
        ((8, 0), "bf16 for training; bfloat16 is native here"),
    ],
)
def test_info_judges_bfloat16_by_the_capability_of_the_gpu(nowhere, home, gpu, capability, words):
    gpu("Tesla T4", capability)
    described = colab.info()
    assert described["precision"] == words
    expected = f"Tesla T4, 14.7 of 15.8 GB free, compute capability {capability[0]}.{capability[1]}"
    assert described["device"].startswith(expected)


def test_info_names_the_driver(nowhere, home, gpu, monkeypatch):
    gpu("Tesla T4", (7, 5))
    monkeypatch.setattr(session.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    answer = types.SimpleNamespace(stdout="580.82.07\n")
    monkeypatch.setattr(session.subprocess, "run", lambda *_, **__: answer)
    assert colab.info()["device"].endswith(", driver 580.82.07")


def test_mount_is_for_colab_only(nowhere, capsys):
    assert colab.mount_drive() is None
    assert "not a Colab session" in capsys.readouterr().out


def test_mount_happens_once_and_moves_the_downloads(colab_session, monkeypatch, no_gpu):
    monkeypatch.delenv("DINO_NB_HOME", raising=False)
    assert colab.info()["Google Drive"] == "not mounted: dino_nb.colab.mount_drive()"
    assert "Change runtime type" in colab.info()["device"]
    assert colab.mount_drive() == colab.mount_drive() == files.DRIVE
    assert colab_session.mounts == [str(files.DRIVE.parent)]
    assert files.home_dir() == files.DRIVE / "dino_nb"
    assert colab.info()["Google Drive"].startswith(f"mounted at {files.DRIVE}, ")


def test_mount_that_is_refused_is_one_sentence(colab_session):
    colab_session.refuse = ValueError("mount failed")
    with pytest.raises(UserError, match=r"Google Drive was not mounted \(mount failed\): run this again"):
        colab.setup(str(files.DRIVE / "coco.zip"))
    colab_session.refuse = None
    colab.setup(str(files.DRIVE / "coco.zip"))
    assert files.DRIVE.is_dir()


def test_setup_mounts_drive_only_where_a_path_is_on_it(colab_session, home, tmp_path):
    colab.setup("", None, "dino-tiny", "https://drive.google.com/file/d/1/view", tmp_path, "training")
    assert colab_session.mounts == [] and colab_session.widgets
    colab.setup("", f" {files.DRIVE / 'run'} ")
    assert colab_session.mounts == [str(files.DRIVE.parent)]


def test_setup_refuses_a_misspelt_drive_path(colab_session):
    with pytest.raises(UserError, match=r"MyDrive/run is not on Google Drive.*write .*/content/drive/MyDrive/run"):
        colab.setup("MyDrive/run")
    assert colab_session.mounts == []


def test_setup_makes_no_drive_outside_colab(nowhere):
    with pytest.raises(UserError, match=r"only Colab has"):
        colab.setup("/content/drive/MyDrive/run")
    assert not nowhere.exists()


@pytest.mark.parametrize(
    "variable, words",
    [
        ("COLAB_RELEASE_TAG", "choose Runtime > Change runtime type > T4 GPU"),
        ("KAGGLE_KERNEL_RUN_TYPE", "choose Settings > Accelerator > GPU T4 x2"),
    ],
)
def test_setup_warns_without_a_gpu(nowhere, home, no_gpu, monkeypatch, capsys, variable, words):
    monkeypatch.setenv(variable, "x")
    colab.setup(gpu=False)
    assert "GPU" not in capsys.readouterr().out
    colab.setup()
    assert words in capsys.readouterr().out


def test_setup_warns_of_a_gpu_that_is_too_old(nowhere, home, gpu, monkeypatch, capsys):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "x")
    gpu("Tesla P100-PCIE-16GB", (6, 0))
    colab.setup()
    assert "Tesla P100-PCIE-16GB is too old" in (out := capsys.readouterr().out) and "GPU T4 x2" in out
    gpu("Tesla T4", (7, 5))
    colab.setup()
    assert "Warning" not in capsys.readouterr().out


def test_setup_warns_of_a_full_drive(colab_session, home, capsys, disk):
    colab_session.mount(files.DRIVE.parent)
    disk(1.5e9)
    colab.setup(gpu=False)
    out = capsys.readouterr().out
    assert "only 1.50 GB are free on the disk" in out and "empty its trash" in out


def test_setup_warns_of_a_notebook_of_another_version(nowhere, home, capsys):
    colab.setup(gpu=False, made_for=dino_nb.__version__)
    assert "Warning" not in capsys.readouterr().out
    colab.setup(gpu=False, made_for="0.0.9")
    assert f"made for dino_nb 0.0.9, and {dino_nb.__version__} is installed" in capsys.readouterr().out
