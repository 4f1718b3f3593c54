import io
import stat
import tarfile
import zipfile

import pytest

from dino_nb.errors import UserError
from dino_nb.prepare.archive import extract, is_archive, pack, restore
from dino_nb.prepare.sample import make_sample


def make_zip(path, entries, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as bundle:
        for name, data in entries.items():
            bundle.writestr(name, data)
    return path


def make_tar(path, entries, links=(), mode="w:gz"):
    with tarfile.open(path, mode) as bundle:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            bundle.addfile(info, io.BytesIO(data))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            bundle.addfile(info)
    return path


def refused(archive, tmp_path):
    """The refusal; nothing may lie outside the folder."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        extract(archive, tmp_path / "deep" / "out", progress=False)
    outside = set(tmp_path.rglob("*")) - before
    assert all(p == tmp_path / "deep" or tmp_path / "deep" / "out" in [p, *p.parents] for p in outside)
    assert archive.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_extract_leaves_out_junk(tmp_path, make):
    entries = {"a/b/c.txt": b"text", "./d.bin": bytes(1000), "__MACOSX/a/._c.txt": b"junk", "a/.DS_Store": b"junk"}
    archive = make(tmp_path / "set.x", entries)
    assert is_archive(archive) and not is_archive(tmp_path)
    extract(archive, tmp_path / "out", progress=False)
    files = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    assert files == {"a/b/c.txt": b"text", "d.bin": bytes(1000)}


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:\\evil.txt", "C:/evil.txt"]
)
def test_extract_lets_no_path_escape(tmp_path, make, name):
    archive = make(tmp_path / "evil.x", {"fine.txt": b"1", name: b"2"})
    assert "outside" in refused(archive, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_tar_links_and_devices_are_refused(tmp_path, kind):
    archive = make_tar(tmp_path / "evil.tar.gz", {"a.txt": b"1"}, [("link", "/etc/passwd", kind)])
    assert "'link' is a link or a device" in refused(archive, tmp_path)


def test_zip_symbolic_links_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as bundle:
        bundle.writestr(info, "/etc/passwd")
    assert "is a link" in refused(tmp_path / "evil.zip", tmp_path)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_bombs_are_refused_before_they_fill_the_disk(tmp_path, make):
    archive = make(tmp_path / "bomb.x", {f"{i}.bmp": bytes(8 << 20) for i in range(6)})
    assert archive.stat().st_size < 100_000
    assert "more than 200 times its size" in refused(archive, tmp_path)
    assert sum(p.stat().st_size for p in (tmp_path / "deep").rglob("*.bmp")) <= 16 << 20


def test_extract_believes_no_announced_size(tmp_path):
    archive = make_zip(tmp_path / "lies.zip", {"a.bmp": bytes(30 << 20)})
    data = archive.read_bytes().replace((30 << 20).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    archive.write_bytes(data)
    refused(archive, tmp_path)
    assert sum(p.stat().st_size for p in (tmp_path / "deep").rglob("*.bmp")) < 12 << 20


def test_damaged_and_cut_archives_are_named(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a.txt": b"hello" * 100}, zipfile.ZIP_STORED)
    archive.write_bytes(archive.read_bytes().replace(b"hellohello", b"hellqhello", 1))
    assert "damaged" in refused(archive, tmp_path)
    archive = make_tar(tmp_path / "b.tar", {"a.bin": bytes(100_000)}, mode="w")
    archive.write_bytes(archive.read_bytes()[:50_000])
    assert "damaged" in refused(archive, tmp_path)


def test_keep_and_restore(tmp_path):
    sample = make_sample(tmp_path / "coco", 3, 2)
    first = pack(sample, tmp_path / "drive" / "kept.zip", progress=False).read_bytes()
    assert pack(sample, tmp_path / "drive" / "kept.zip", progress=False).read_bytes() == first
    back = restore(tmp_path / "drive" / "kept.zip", tmp_path / "back", progress=False)
    for path in sample.rglob("*.*"):
        if path.is_file() and not path.name.startswith("."):
            assert (back / path.relative_to(sample)).read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        restore(tmp_path / "drive" / "kept.zip", tmp_path / "back", progress=False)
    restore(tmp_path / "drive" / "kept.zip", tmp_path / "back", overwrite=True, progress=False)


def test_pack_follows_no_link_out_of_the_folder(tmp_path):
    sample = make_sample(tmp_path / "coco", 2, 1)
    (tmp_path / "secret.txt").write_text("password")
    (sample / "train2017" / "shapes_9.jpg").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UserError, match="link that leads out"):
        pack(sample, tmp_path / "kept.zip", progress=False)
    assert not (tmp_path / "kept.zip").exists()
    (sample / "train2017" / "shapes_9.jpg").unlink()
    (sample / "again").symlink_to(sample)  # a circle inside is no reason to fail, and no reason to go round
    pack(sample, tmp_path / "kept.zip", progress=False)


def test_restore_keeps_the_users_files_and_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    sample = make_sample(tmp_path / "coco", 2, 1)
    archive = pack(sample, tmp_path / "kept.zip", progress=False)
    restore(archive, tmp_path / "back", progress=False)
    (tmp_path / "back/notes.txt").write_text("mine")
    restore(archive, tmp_path / "back", overwrite=True, progress=False)
    assert (tmp_path / "back/notes.txt").read_text() == "mine"

    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(UserError, match="disk is full"):
        restore(archive, tmp_path / "new" / "place", progress=False)


def test_corrupt_lzma_is_damage(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"a.txt": bytes(range(256)) * 40}, zipfile.ZIP_LZMA)
    data = bytearray(archive.read_bytes())
    data[45:120] = bytes(75)
    archive.write_bytes(data)
    assert "damaged" in refused(archive, tmp_path)


def test_pack_and_restore_take_a_cocodir_only(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="no COCODIR"):
        pack(tmp_path / "other", tmp_path / "x.zip", progress=False)
    with pytest.raises(UserError, match="does not exist"):
        restore(tmp_path / "x.zip", tmp_path / "back", progress=False)
    make_zip(tmp_path / "x.zip", {"a.txt": b"1"})
    with pytest.raises(UserError, match="dino-nb convert"):
        restore(tmp_path / "x.zip", tmp_path / "back", progress=False)
    assert not (tmp_path / "back").exists() and not list(tmp_path.glob(".back*"))
