import hashlib
import os
import threading

import pytest

from dino_nb import files


@pytest.fixture(autouse=True)
def no_drive(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "DRIVE", tmp_path / "drive")


def test_home_is_the_variable_then_drive_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DINO_NB_HOME", str(tmp_path / "chosen"))
    assert files.home_dir() == tmp_path / "chosen"
    monkeypatch.delenv("DINO_NB_HOME")
    assert files.home_dir() == tmp_path / "cache" / "dino_nb"
    files.DRIVE.mkdir()
    assert files.home_dir() == files.DRIVE / "dino_nb"
    assert files.home_dir().is_dir()


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
