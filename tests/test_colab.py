"""The session module, with local folders in place of Colab's Drive."""

import sys
import types

import pytest
import torch

import dino_nb
from dino_nb import colab, files
from dino_nb.cli import main
from dino_nb.errors import UserError

LABELS = [
    *("dino_nb", "session", "device", "precision", "attention op"),
    *("downloads", "working folder", "Google Drive"),
]


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Neither Colab nor Kaggle, and Drive's place not there."""
    for variable in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(files, "DRIVE", tmp_path / "content" / "drive" / "MyDrive")
    return files.DRIVE


@pytest.fixture
def colab_session(nowhere, monkeypatch):
    """A Colab session whose Drive appears when it is mounted; a list of the mounts is returned."""
    mounts = []

    def mount(place):
        mounts.append(place)
        files.DRIVE.mkdir(parents=True)

    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    google = types.ModuleType("google")
    google.colab = types.ModuleType("google.colab")
    google.colab.drive = types.SimpleNamespace(mount=mount)
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", google.colab)
    return mounts


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder, **contents):
    for name, data in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_where_we_are(nowhere, monkeypatch):
    assert not colab.in_colab() and not colab.in_kaggle()
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert colab.in_kaggle() and not colab.in_colab()
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    assert colab.in_colab()


def test_info_tells_the_session(nowhere, home, capsys):
    told = dino_nb.info()
    assert list(told) == LABELS
    assert dino_nb.__version__ in told["dino_nb"] and torch.__version__.split("+")[0] in told["dino_nb"]
    assert str(home) in told["downloads"] and "GB free" in told["downloads"]
    assert told["Google Drive"] == "none, this is not Colab"
    assert "not known" not in str(told)
    assert str(told).count("\n") == len(LABELS) - 1
    assert main(["info"]) == 0
    assert capsys.readouterr().out == f"{told}\n"


def test_info_survives_what_fails_and_escapes_it(nowhere, home, monkeypatch):
    monkeypatch.setattr(colab, "_versions", lambda: 1 / 0)
    monkeypatch.setattr(colab, "_session", lambda: "<b>bold</b>")
    told = colab.info()
    assert told["dino_nb"] == "not known (ZeroDivisionError: division by zero)"
    assert "&lt;b&gt;bold" in told._repr_html_() and "<b>" not in told._repr_html_()


@pytest.mark.parametrize(
    "capability, words",
    [
        ((7, 5), "fp16 for training; bfloat16 is not native here"),
        ((8, 0), "bf16 for training; bfloat16 is native here"),
    ],
)
def test_bfloat16_is_judged_by_the_capability_of_the_gpu(nowhere, home, monkeypatch, capability, words):
    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda *_, **__: True,  # what a T4 says
        "get_device_capability": lambda *_: capability,
        "get_device_name": lambda *_: "Tesla T4",
        "mem_get_info": lambda *_: (14_700_000_000, 15_800_000_000),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    told = colab.info()
    assert told["precision"] == words
    assert told["device"] == f"Tesla T4, 14.7 of 15.8 GB free, compute capability {capability[0]}.{capability[1]}"


def test_mounting_is_for_colab_only(nowhere, capsys):
    assert colab.mount_drive() is None
    assert "not a Colab session" in capsys.readouterr().out


def test_mounting_in_colab_happens_once_and_moves_the_downloads(colab_session, monkeypatch):
    monkeypatch.delenv("DINO_NB_HOME", raising=False)
    assert colab.info()["Google Drive"] == "not mounted: dino_nb.colab.mount_drive()"
    assert "Change runtime type" in colab.info()["device"] or torch.cuda.is_available()
    assert colab.mount_drive() == colab.mount_drive() == files.DRIVE
    assert colab_session == [str(files.DRIVE.parent)]
    assert files.home_dir() == files.DRIVE / "dino_nb"
    assert colab.info()["Google Drive"] == f"mounted at {files.DRIVE}"


def test_a_refused_mount_is_one_sentence(colab_session, monkeypatch):
    def refuse(place):
        raise ValueError("mount failed")

    monkeypatch.setattr(sys.modules["google.colab"].drive, "mount", refuse)
    with pytest.raises(UserError, match=r"Google Drive was not mounted \(mount failed\): run this again"):
        colab.mount_drive()


def test_local_paths_are_staged_nowhere(nowhere, tmp_path):
    assert colab.stage(tmp_path) == tmp_path
    assert colab.stage(tmp_path / "nothing") == tmp_path / "nothing"


def test_a_folder_on_drive_is_copied_and_kept_in_step(nowhere, tmp_path):
    data = files.DRIVE / "my data"
    write(data, a_jpg=b"a" * 5000, sub__b_jpg=b"b", c_jpg=b"")
    local = colab.stage(data, tmp_path / "local")
    assert local == tmp_path / "local" / "my data"
    assert tree(local) == tree(data)
    first = (local / "a.jpg").stat().st_ino
    write(data, sub__b_jpg=b"other", d_jpg=b"d")
    (data / "c.jpg").unlink()
    assert tree(colab.stage(data, tmp_path / "local")) == tree(data)
    assert (local / "a.jpg").stat().st_ino == first  # unchanged, not copied again


def test_an_archive_on_drive_is_copied_to_a_place_of_its_own(nowhere):
    write(files.DRIVE, one__data_zip=b"1", two__data_zip=b"2")
    one, two = (colab.stage(files.DRIVE / name / "data.zip") for name in ("one", "two"))
    assert (one.name, one.read_bytes()) == ("data.zip", b"1")
    assert (two.name, two.read_bytes()) == ("data.zip", b"2")
    for path in (one, two):
        path.unlink()


def test_staging_says_what_is_wrong(nowhere, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"is on Google Drive, which is not mounted: call dino_nb\.colab\.mount_drive"):
        colab.stage(files.DRIVE / "data")
    write(files.DRIVE, pictures__a_jpg=b"a" * 2000)
    with pytest.raises(UserError, match=r"there is no .*picture\. Did you mean 'pictures'\?"):
        colab.stage(files.DRIVE / "picture")
    monkeypatch.setattr(colab.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"pictures takes 0\.0 MB and 0\.0 MB are free"):
        colab.stage(files.DRIVE / "pictures", tmp_path / "local")


def test_results_are_kept_on_drive(colab_session, tmp_path):
    results = tmp_path / "logs"
    write(results, checkpoint_pth=b"weights", R50__log_jsonl=b"{}")
    with pytest.raises(UserError, match="not mounted"):
        colab.keep(results, "runs")
    colab.mount_drive()
    assert colab.keep(results, "runs") == files.DRIVE / "runs" / "logs"
    assert tree(files.DRIVE / "runs" / "logs") == tree(results)
    assert colab.keep(results / "checkpoint.pth", files.DRIVE / "best") == files.DRIVE / "best" / "checkpoint.pth"
    assert tree(files.DRIVE / "best") == {"checkpoint.pth": b"weights"}


def test_results_are_kept_in_the_background(nowhere, tmp_path):
    write(tmp_path, logs__a_json=b"{}")
    copier = colab.keep(tmp_path / "logs", tmp_path / "kept", background=True)
    assert copier.wait()
    assert tree(tmp_path / "kept") == {"logs/a.json": b"{}"}


def test_keeping_says_what_is_wrong(nowhere, tmp_path):
    with pytest.raises(UserError, match="there is no"):
        colab.keep(tmp_path / "nothing", tmp_path)
    write(tmp_path, logs__a_json=b"{}", file=b"")
    with pytest.raises(UserError, match=r"logs was not copied whole: logs/a\.json could not"):
        colab.keep(tmp_path / "logs", tmp_path / "file")
    assert tree(tmp_path / "logs") == {"a.json": b"{}"}
