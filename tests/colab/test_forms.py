"""What form fields may say: data sets, checkpoints, recipes and run folders, as people type them."""

import errno
import shutil

import pytest
import torch

import dino_nb
from dino_nb import colab, files
from dino_nb.checkpoints import zoo
from dino_nb.checkpoints.checkpoint import save_checkpoint
from dino_nb.colab import forms
from dino_nb.errors import UserError
from dino_nb.prepare.archive import pack
from dino_nb.prepare.sample import make_sample
from dino_nb.presets import TRAIN_PRESETS
from tests.fake_drive import File


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def drive(colab_session):
    """A mounted Drive."""
    colab_session.mount(files.DRIVE.parent)
    return files.DRIVE


@pytest.fixture(scope="module")
def archive(sample_coco, tmp_path_factory):
    return pack(sample_coco, tmp_path_factory.mktemp("kept") / "coco.zip")


@pytest.fixture
def foreign(sample_coco, tmp_path):
    """A COCODIR of classes that the sample's network does not know."""
    folder = shutil.copytree(sample_coco, tmp_path / "foreign")
    for file in folder.glob("annotations/*.json"):
        text = file.read_text(encoding="utf-8")
        for name in ("red circle", "blue square", "green triangle", "yellow diamond", "purple ring"):
            text = text.replace(name, name[::-1])
        file.write_text(text, encoding="utf-8")
    return folder


def images(cocodir):
    return sorted(p.name for p in (cocodir / "val2017").iterdir())


@pytest.mark.parametrize("typed, name", [("", "red circle"), (" cells ", "red cell"), ("aerial", "house")])
def test_source_may_be_drawn(here, typed, name):
    folder = colab.source(typed, n_train=3, n_val=1, format="voc")
    assert any(f"<name>{name}</name>" in file.read_text() for file in folder.glob("Annotations/*.xml"))


@pytest.mark.parametrize("typed", ["", None, "  ", '""'])
def test_dataset_of_an_empty_field_is_the_sample(here, typed):
    folder = colab.dataset(typed, n_train=5, n_val=2)
    assert len(images(folder)) == 2


def test_dataset_of_the_sample_is_drawn_once_and_replaced_by_nobody(here):
    folder = colab.dataset("", n_train=5, n_val=2)
    before = (folder / "annotations" / "instances_val2017.json").stat()
    assert colab.dataset("", n_train=5, n_val=2) == folder
    other = colab.dataset("", n_train=1, n_val=3)
    assert other != folder and len(images(other)) == 3
    after = (folder / "annotations" / "instances_val2017.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_dataset_of_a_half_drawn_sample_is_drawn_again(here):
    folder = colab.dataset("", n_train=5, n_val=2)
    next((folder / "val2017").iterdir()).unlink()
    assert len(images(colab.dataset("", n_train=5, n_val=2))) == 2


def test_dataset_takes_a_folder_a_zip_and_what_holds_one(here, sample_coco, archive, tmp_path):
    for typed in (sample_coco, f" {sample_coco} ", f"'{sample_coco}'", archive, archive.parent, sample_coco.parent):
        assert images(colab.dataset(typed)) == images(sample_coco)
    assert len(list((here / "data").iterdir())) == 1  # the zip was unpacked once
    wrapped = tmp_path / "wrapped"
    shutil.copytree(sample_coco, wrapped / "outer" / "coco")
    zipped = shutil.make_archive(str(tmp_path / "outer"), "zip", wrapped / "outer")
    assert images(colab.dataset(zipped)) == images(sample_coco)


def test_dataset_on_drive_is_copied_to_the_local_disk(here, drive, sample_coco, archive):
    shutil.copytree(sample_coco, drive / "coco")
    shutil.copy(archive, drive / "coco.zip")
    for typed in (drive / "coco", drive / "coco.zip"):
        folder = colab.dataset(str(typed))
        assert images(folder) == images(sample_coco)
        assert not folder.resolve().is_relative_to(drive)


def test_dataset_behind_a_link_is_downloaded(here, home, fake_drive, archive):
    file = "1" + "a" * 32
    fake_drive.files[file] = File("coco.zip", archive.read_bytes())
    for _ in range(2):
        assert len(images(colab.dataset(f"https://drive.google.com/file/d/{file}/view?usp=sharing"))) == 4
    assert len(list((here / "data").iterdir())) == 2  # the download, and what was unpacked once


def test_dataset_may_be_uploaded(here, colab_session, archive):
    with pytest.raises(UserError, match="no file was chosen"):
        colab.dataset("upload")
    colab_session.uploads = {"coco.zip": archive.read_bytes()}
    assert len(images(colab.dataset("Upload"))) == 4


def test_upload_is_for_colab_only(here, nowhere):
    with pytest.raises(UserError, match="upload works in Colab alone"):
        colab.dataset("upload")


def test_dataset_says_what_is_missing(here, sample_coco, archive, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.zip", "b.zip"):
        shutil.copy(archive, tmp_path / "two" / name)
    (tmp_path / "note.txt").write_text("x")
    for typed, words in [
        (tmp_path / "plain", "holds none"),
        (tmp_path / "two", r"several: a\.zip, b\.zip; name one"),
        (tmp_path / "note.txt", "is no COCODIR and no zip of one"),
        (tmp_path / "plane", "Did you mean 'plain'"),
        ("MyDrive/coco.zip", "only Colab has"),
    ]:
        with pytest.raises(UserError, match=words):
            colab.dataset(typed)


@pytest.mark.parametrize("typed", ["auto", "", None, " AUTO "])
def test_checkpoint_for_the_sample_is_the_one_that_knows_it(sample_coco, typed, capsys):
    assert colab.checkpoint(typed, sample_coco) == "dino-tiny"
    assert "dino-tiny" in capsys.readouterr().out


def test_checkpoint_for_ones_own_data_is_the_published_one(foreign, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(zoo, "fetch", lambda name: f"/zoo/{name}.pth")
    for train in (False, True):
        assert colab.checkpoint("auto", foreign, train) == f"/zoo/{forms.PUBLISHED}.pth"
    assert forms.PUBLISHED in capsys.readouterr().out


def test_checkpoint_for_training_without_a_gpu_is_an_imagenet_backbone(foreign, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert colab.checkpoint("auto", foreign, train=True) is None
    assert "ImageNet backbone" in capsys.readouterr().out
    assert colab.recipe("auto", None) == TRAIN_PRESETS["small"]


def test_checkpoint_that_cannot_be_downloaded(foreign, home, offline, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert colab.checkpoint("auto", foreign, train=True) is None
    assert "CHECKPOINT: none, since" in capsys.readouterr().out
    with pytest.raises(UserError, match="download"):
        colab.checkpoint("auto", foreign)


def test_checkpoint_of_a_run_is_its_best(here, drive):
    run = drive / "run"
    run.mkdir()
    with pytest.raises(UserError, match="not on Google Drive"):
        colab.checkpoint("MyDrive/run")
    (run / "checkpoint_best.pth").write_bytes(b"x")
    assert colab.checkpoint(f"{run} ") == str(run / "checkpoint_best.pth")
    assert colab.checkpoint(str(run / "checkpoint_best.pth")) == str(run / "checkpoint_best.pth")
    assert colab.checkpoint(" dino-4scale-r50-12ep ") == "dino-4scale-r50-12ep"


@pytest.mark.parametrize(
    "capability, start, expected",
    [
        (None, "dino-tiny", "tiny-finetune"),
        (None, "x.pth", "finetune"),
        ((7, 5), "x.pth", "t4"),
        ((8, 0), "x.pth", "finetune"),
    ],
)
def test_recipe_suits_the_start_and_the_gpu(monkeypatch, capability, start, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert colab.recipe("auto", start) == TRAIN_PRESETS[expected]
    assert colab.recipe(" tiny ", start) == TRAIN_PRESETS["tiny"]


def test_recipe_of_a_small_network_is_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    build = dino_nb.build_model("dino-tiny")
    build.input_size = (96, 160)
    save_checkpoint(tmp_path / "mine.pth", build)
    suited = colab.recipe("auto", str(tmp_path / "mine.pth"))
    assert suited.lr == TRAIN_PRESETS["tiny-finetune"].lr and suited.input_size == build.input_size


def test_run_folder_is_kept_for_the_same_run_and_not_for_another(here, sample_coco, capsys):
    first = colab.run_folder("training", data=sample_coco, start="dino-tiny", lr=0.0)
    assert first == (files.Path("training"), None)
    assert colab.run_folder(" training ", data=sample_coco, start="dino-tiny", lr=0.0) == first
    assert not capsys.readouterr().out
    other = make_sample(here / "other", n_train=5, n_val=2)
    for settings in ({"data": other, "start": "dino-tiny"}, {"data": sample_coco, "start": "x.pth"}):
        numbered = colab.run_folder("training", lr=0.0, **settings)
        assert numbered == colab.run_folder("training", lr=0.0, **settings)
        assert numbered[0].parent == first[0]
        assert "training holds another run" in capsys.readouterr().out
    assert sorted(p.name for p in first[0].iterdir() if p.is_dir()) == ["run-2", "run-3"]


def test_run_folder_on_drive_decides_in_a_new_session(here, drive, sample_coco):
    other = make_sample(here / "other", n_train=5, n_val=2)
    assert colab.run_folder("training", drive / "run", data=sample_coco)[1] == drive / "run"
    shutil.rmtree("training")
    assert colab.run_folder("training", drive / "run", data=other)[1] == drive / "run" / "run-2"
    assert colab.run_folder("training", drive / "run", data=sample_coco)[1] == drive / "run"


def test_run_folder_on_a_full_drive_is_a_sentence(here, drive, sample_coco, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_text", full)
    with pytest.raises(UserError, match="its disk is full"):
        colab.run_folder("training", drive / "run", data=sample_coco)


def test_run_folder_that_is_misspelt_is_refused(here, colab_session, sample_coco):
    with pytest.raises(UserError, match=r"write .*MyDrive/run"):
        colab.run_folder("training", "MyDrive/run", data=sample_coco)
    with pytest.raises(UserError, match="not mounted"):
        colab.run_folder("training", files.DRIVE / "run", data=sample_coco)
