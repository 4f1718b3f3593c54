"""Copies between Drive and the local disk, with local folders in Drive's place."""

import errno
import types

import pytest

from dino_nb import colab, files
from dino_nb.colab import transfer
from dino_nb.errors import UserError


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder of this test's own for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(transfer.tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def drive(colab_session):
    """A mounted Drive."""
    colab_session.mount(files.DRIVE.parent)
    return files.DRIVE


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder, **contents):
    for name, data in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_stage_leaves_local_paths(nowhere, tmp_path):
    assert colab.stage(tmp_path) == tmp_path
    assert colab.stage(tmp_path / "nothing") == tmp_path / "nothing"


def test_stage_copies_a_folder_once_for_each_state_of_it(drive):
    data = drive / "my data"
    write(data, a_jpg=b"a" * 5000, sub__b_jpg=b"b", c_jpg=b"")
    local = colab.stage(data)
    assert local.name == "my data" and not local.is_relative_to(drive)
    assert tree(local) == tree(data)
    first = (local / "a.jpg").stat().st_ino
    assert colab.stage(data) == local and (local / "a.jpg").stat().st_ino == first  # not copied again
    before = tree(local)
    write(data, sub__b_jpg=b"other", d_jpg=b"d")
    (data / "c.jpg").unlink()
    assert tree(colab.stage(data)) == tree(data)
    assert tree(local) == before  # nothing at hand is replaced or removed


def test_stage_leaves_an_edited_copy(drive):
    write(drive / "data", a_jpg=b"a")
    local = colab.stage(drive / "data")
    write(local, a_jpg=b"edited here", notes_txt=b"mine")
    assert colab.stage(drive / "data") == local
    assert tree(local) == {"a.jpg": b"edited here", "notes.txt": b"mine"}


def test_stage_goes_on_after_an_interrupt(drive, monkeypatch):
    data = drive / "data"
    write(data, a_jpg=b"a", b_jpg=b"b")
    copy = transfer.shutil.copyfile

    def stop(source, target):
        if source.name == "b.jpg":
            raise KeyboardInterrupt
        return copy(source, target)

    monkeypatch.setattr(transfer.shutil, "copyfile", stop)
    with pytest.raises(KeyboardInterrupt):
        colab.stage(data)
    monkeypatch.setattr(
        transfer.shutil, "copyfile", lambda source, target: copied.append(source) or copy(source, target)
    )
    copied = []
    assert tree(colab.stage(data)) == {"a.jpg": b"a", "b.jpg": b"b"}
    assert data / "b.jpg" in copied


def test_stage_gives_an_archive_a_place_of_its_own(drive):
    write(drive, one__data_zip=b"1", two__data_zip=b"2")
    one, two = (colab.stage(drive / name / "data.zip") for name in ("one", "two"))
    assert (one.name, one.read_bytes()) == ("data.zip", b"1")
    assert (two.name, two.read_bytes()) == ("data.zip", b"2")
    write(drive, one__data_zip=b"changed")
    assert colab.stage(drive / "one" / "data.zip").read_bytes() == b"changed"


def test_stage_says_what_is_wrong(colab_session, monkeypatch):
    with pytest.raises(UserError, match=r"is on Google Drive, which is not mounted: call dino_nb\.colab\.mount_drive"):
        colab.stage(files.DRIVE / "data")
    write(files.DRIVE, images__a_jpg=b"a" * 2000)
    with pytest.raises(UserError, match=r"there is no .*image\. Did you mean 'images'\?"):
        colab.stage(files.DRIVE / "image")
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"images takes 0\.0 MB and 0\.0 MB are free"):
        colab.stage(files.DRIVE / "images")


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


def test_keep_of_a_full_drive_is_a_sentence(drive, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    write(tmp_path / "logs", a_json=b"{}")
    monkeypatch.setattr(transfer.shutil, "copyfile", full)
    with pytest.raises(UserError, match="disk is full"):
        colab.keep(tmp_path / "logs", drive / "kept")
    assert tree(drive) == {}


def test_keep_says_what_is_wrong(nowhere, tmp_path):
    with pytest.raises(UserError, match="there is no"):
        colab.keep(tmp_path / "nothing", tmp_path)
    write(tmp_path, logs__a_json=b"{}", file=b"")
    with pytest.raises(UserError, match=r"logs cannot be reached: a part of its path is a file"):
        colab.keep(tmp_path / "logs", tmp_path / "file")
    assert tree(tmp_path / "logs") == {"a.json": b"{}"}
