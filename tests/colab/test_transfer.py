"""Copies between Drive and the local disk, with local folders in Drive's place."""

import os
import types

import pytest

from dino_nb import colab, files
from dino_nb.colab import transfer
from dino_nb.errors import UserError


@pytest.fixture
def drive(colab_session):
    """A mounted Drive."""
    colab_session.mount(files.DRIVE.parent)
    return files.DRIVE


def tree(folder):
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".dino_nb_staged")}


def write(folder, **contents):
    for name, data in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_stage_leaves_local_paths(nowhere, tmp_path):
    assert colab.stage(tmp_path) == tmp_path
    assert colab.stage(tmp_path / "nothing") == tmp_path / "nothing"


def test_stage_copies_a_folder_and_keeps_it_in_step(drive, tmp_path):
    data = drive / "my data"
    write(data, a_jpg=b"a" * 5000, sub__b_jpg=b"b", c_jpg=b"")
    local = colab.stage(data, tmp_path / "local")
    assert local == tmp_path / "local" / "my data"
    assert tree(local) == tree(data)
    first = (local / "a.jpg").stat().st_ino
    write(data, sub__b_jpg=b"other", d_jpg=b"d")
    (data / "c.jpg").unlink()
    assert tree(colab.stage(data, tmp_path / "local")) == tree(data)
    assert (local / "a.jpg").stat().st_ino == first  # unchanged, not copied again


def test_stage_never_deletes_or_replaces_what_is_not_its_copy(drive, tmp_path):
    data, local = drive / "data", tmp_path / "local" / "data"
    write(data, a_jpg=b"a", b_jpg=b"b")
    write(local, notes_txt=b"mine")
    colab.stage(data, tmp_path / "local")
    write(local, more_txt=b"mine too")
    (data / "b.jpg").unlink()
    colab.stage(data, tmp_path / "local")
    assert tree(local) == {"a.jpg": b"a", "notes.txt": b"mine", "more.txt": b"mine too"}
    write(local, a_jpg=b"edited here")
    os.utime(local / "a.jpg", (1, 1))
    with pytest.raises(UserError, match=r"a\.jpg is not a copy from .*data, and is left alone"):
        colab.stage(data, tmp_path / "local")
    assert (local / "a.jpg").read_bytes() == b"edited here"


def test_stage_leaves_an_edited_copy_whose_original_is_gone(drive, tmp_path):
    data, local = drive / "data", tmp_path / "local" / "data"
    write(data, a_jpg=b"a", b_jpg=b"b")
    colab.stage(data, tmp_path / "local")
    write(local, b_jpg=b"edited here")
    (data / "b.jpg").unlink()
    colab.stage(data, tmp_path / "local")
    assert tree(local) == {"a.jpg": b"a", "b.jpg": b"edited here"}


def test_stage_goes_on_after_an_interrupt(drive, tmp_path, monkeypatch):
    data = drive / "data"
    write(data, a_jpg=b"a", b_jpg=b"b")
    copy = transfer.shutil.copyfile

    def stop(source, target):
        if source.name == "b.jpg":
            raise KeyboardInterrupt
        return copy(source, target)

    monkeypatch.setattr(transfer.shutil, "copyfile", stop)
    with pytest.raises(KeyboardInterrupt):
        colab.stage(data, tmp_path / "local")
    monkeypatch.setattr(transfer.shutil, "copyfile", copy)
    write(data, a_jpg=b"newer")
    assert tree(colab.stage(data, tmp_path / "local")) == {"a.jpg": b"newer", "b.jpg": b"b"}


def test_stage_gives_an_archive_a_place_of_its_own(drive):
    write(drive, one__data_zip=b"1", two__data_zip=b"2")
    one, two = (colab.stage(drive / name / "data.zip") for name in ("one", "two"))
    assert (one.name, one.read_bytes()) == ("data.zip", b"1")
    assert (two.name, two.read_bytes()) == ("data.zip", b"2")
    write(drive, one__data_zip=b"changed")
    assert colab.stage(drive / "one" / "data.zip").read_bytes() == b"changed"
    for path in (one, two):
        path.unlink()


def test_stage_says_what_is_wrong(colab_session, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"is on Google Drive, which is not mounted: call dino_nb\.colab\.mount_drive"):
        colab.stage(files.DRIVE / "data")
    write(files.DRIVE, images__a_jpg=b"a" * 2000)
    with pytest.raises(UserError, match=r"there is no .*image\. Did you mean 'images'\?"):
        colab.stage(files.DRIVE / "image")
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"images takes 0\.0 MB and 0\.0 MB are free"):
        colab.stage(files.DRIVE / "images", tmp_path / "local")


def test_keep_copies_results_to_drive(colab_session, tmp_path):
    results = tmp_path / "logs"
    write(results, checkpoint_pth=b"weights", R50__log_jsonl=b"{}")
    with pytest.raises(UserError, match="not mounted"):
        colab.keep(results, "runs")
    colab.mount_drive()
    assert colab.keep(results, "runs") == files.DRIVE / "runs" / "logs"
    assert tree(files.DRIVE / "runs" / "logs") == tree(results)
    assert colab.keep(results / "checkpoint.pth", files.DRIVE / "best") == files.DRIVE / "best" / "checkpoint.pth"
    assert tree(files.DRIVE / "best") == {"checkpoint.pth": b"weights"}


def test_keep_copies_in_the_background(nowhere, tmp_path):
    write(tmp_path, logs__a_json=b"{}")
    copier = colab.keep(tmp_path / "logs", tmp_path / "kept", background=True)
    assert copier.wait()
    assert tree(tmp_path / "kept") == {"logs/a.json": b"{}"}


def test_keep_says_what_is_wrong(nowhere, tmp_path):
    with pytest.raises(UserError, match="there is no"):
        colab.keep(tmp_path / "nothing", tmp_path)
    write(tmp_path, logs__a_json=b"{}", file=b"")
    with pytest.raises(UserError, match=r"logs was not copied whole: logs/a\.json could not"):
        colab.keep(tmp_path / "logs", tmp_path / "file")
    assert tree(tmp_path / "logs") == {"a.json": b"{}"}
