import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest

from dino_nb import files
from dino_nb.errors import UserError


def test_home_is_the_variable_then_drive_then_the_cache(colab_session, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DINO_NB_HOME", str(tmp_path / "chosen"))
    assert files.home_dir() == tmp_path / "chosen"
    monkeypatch.delenv("DINO_NB_HOME")
    assert files.home_dir() == tmp_path / "cache" / "dino_nb"
    files.DRIVE.mkdir(parents=True)
    assert files.home_dir() == files.DRIVE / "dino_nb"
    assert files.home_dir().is_dir()
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    monkeypatch.delitem(sys.modules, "google.colab")
    assert files.home_dir() == tmp_path / "cache" / "dino_nb"  # a folder of that name elsewhere is no Drive


@pytest.mark.parametrize(
    "typed, inside",
    [
        *(("MyDrive/run", "run"), ("/MyDrive/run", "run"), ("./MyDrive/run", "run"), ("My Drive/my run", "my run")),
        *(("mydrive/run", "run"), ("drive/MyDrive/run", "run"), ("/drive/MyDrive/run/", "run"), ("MyDrive", "")),
        *(("/content/MyDrive/run", "run"), ("/content/gdrive/My Drive/run", "run"), ("/content/drive/run", "run")),
        *(("content/drive/MyDrive/a/b", "a/b"), ("gdrive/run", "run"), ("Google Drive/run", "run")),
    ],
)
def test_user_path_refuses_a_misspelt_drive_with_the_right_spelling(
    colab_session, monkeypatch, tmp_path, typed, inside
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="is not on Google Drive") as error:
        files.user_path(f" {typed} ")
    assert str(error.value).endswith(f"write {files.DRIVE / inside}")
    assert [p.name for p in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize("typed", ["run", "drives/run", "mydriver", "/tmp/MyDrive.zip", "a/MyDrive/run", "drive"])
def test_user_path_leaves_other_paths(colab_session, typed):
    assert files.user_path(f'"{typed}"') == Path(typed)


def test_user_path_takes_the_drive_of_colab(colab_session, monkeypatch):
    monkeypatch.setattr(files, "DRIVE", Path("/content/drive/MyDrive"))
    for typed in ("/content/drive/MyDrive/run", "/content/drive/MyDrive", "/content/drive/Shareddrives/lab/run"):
        assert files.user_path(typed) == Path(typed) and files.on_drive(typed)


def test_user_path_on_drive_is_refused_outside_colab(nowhere, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for typed in ("/content/drive/MyDrive/run", "MyDrive/run"):
        with pytest.raises(UserError, match="only Colab has"):
            files.user_path(typed)
    (tmp_path / "MyDrive" / "run").mkdir(parents=True)
    assert files.user_path("MyDrive/run") == Path("MyDrive/run")  # somebody's own folder of that name


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    files.write_text(path, "old ä")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old ä"
    assert list(path.parent.iterdir()) == [path]


def test_readers_see_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "file.txt"
    texts = {letter * 200_000 for letter in "abcd"}
    files.write_text(path, "a" * 200_000)
    threads = [threading.Thread(target=files.write_text, args=(path, text)) for text in texts for _ in range(3)]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        seen.add(path.read_text())
    assert seen <= texts
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX")
def test_a_written_file_has_ordinary_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_sha256_reads_files_larger_than_a_block(tmp_path):
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("count, text", [(0, "0.0 MB"), (41_300_000, "41.3 MB"), (1_270_000_000, "1.27 GB")])
def test_sizes_for_people(count, text):
    assert files.size_text(count) == text


def test_a_name_as_long_as_the_disk_allows_is_written(tmp_path):
    for name in ("x" * 251 + ".txt", "图" * 83 + ".txt"):
        files.write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "C:\\a", "..\\a", "\\a", "a\0b", "c:a"])
def test_names_that_leave_their_folder(name):
    assert files.leaves_folder(name)


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "..a", "a..b/c", "a\\b.jpg", ".a", "1:30.jpg"])
def test_names_that_stay_in_their_folder(name):
    assert not files.leaves_folder(name)


def test_links_out_of_a_folder(tmp_path):
    (tmp_path / "set" / "inner").mkdir(parents=True)
    (tmp_path / "secret").touch()
    (tmp_path / "set" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "set" / "inside").symlink_to(tmp_path / "set" / "inner")
    assert files.links_out(tmp_path / "set" / "out", tmp_path / "set")
    assert not files.links_out(tmp_path / "set" / "inside", tmp_path / "set")
    (tmp_path / "link").symlink_to(tmp_path / "set")  # the set itself may be a link
    assert not files.links_out(tmp_path / "link" / "inner", tmp_path / "link")


@pytest.mark.parametrize(
    "head, words",
    [
        (b"PK\x03\x04", "a zip archive"),
        (b"Rar!\x1a\x07", "a rar archive"),
        (b"  <!DOCTYPE HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"", "empty"),
        (b"\0\0 \n", "empty"),
        (b"\x89PNG\r\n", "an image"),
        (b'{"images": []}', None),
    ],
)
def test_mistaken_files_are_called_what_they_are(head, words):
    what = files.what_is(head)
    assert what is None if words is None else words in what
