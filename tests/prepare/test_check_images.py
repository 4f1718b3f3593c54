import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dino_nb.prepare.check import check_dataset
from tests.prepare.planting import edit, image_file, make_valid, read


@pytest.fixture
def root(tmp_path):
    return make_valid(tmp_path / "set")


def check(root, images=True):
    return check_dataset(root, images=images, progress=False)


def as_bytes(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("images", ["full", "header", True])
def test_check_images_missing_file(root, images):
    file = image_file(root, read(root))
    file.unlink()
    finding = check(root, images)["image-missing"]
    assert finding.count == 1 and file.name in str(finding)
    assert "image-missing" not in check(root, False)


@pytest.mark.parametrize("name", ["images/{}", "D:\\data\\{}", "../{}", "\\x\\{}"])
def test_check_images_missing_file_that_is_there_under_another_name(root, name):
    file = image_file(root, read(root)).name
    edit(root, "train", lambda d: d["images"][0].update(file_name=name.format(file.upper())))
    report = check(root)
    fault = "image-missing" if name.startswith("images") else "image-path-unsafe"
    assert f"there is '{file}'" in str(report[fault])
    assert "image-unlisted" not in report


@pytest.mark.parametrize("images", ["full", "header"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_check_images_cut_short(root, images, kind):
    file = image_file(root, read(root))
    data = as_bytes(Image.open(file), format=kind)
    file.write_bytes(data)
    assert check(root, images).ok
    file.write_bytes(data[: len(data) * 2 // 3])
    finding = check(root, images)["image-unreadable"]
    assert finding.count == 1 and "truncated" in str(finding)


def test_check_images_damage_in_the_middle_needs_full_decoding(root):
    file = image_file(root, read(root))
    data = bytearray(
        as_bytes(Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)), format="PNG")
    )
    data[len(data) // 2 : len(data) // 2 + 500] = b"\0" * 500
    file.write_bytes(data)
    edit(root, "train", lambda d: d["images"][0].update(width=90, height=90))
    assert "image-unreadable" in check(root) and "image-unreadable" not in check(root, "header")


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff\xe0" + b"\0" * 50, b"\x89PNG\r\n\x1a\n"])
def test_check_images_not_an_image(root, data):
    image_file(root, read(root)).write_bytes(data)
    assert "image-unreadable" in check(root)


def test_check_images_made_to_exhaust_memory(root):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )
    image_file(root, read(root)).write_bytes(bomb)
    for images in ("full", "header"):
        assert "million pixels" in str(check(root, images)["image-unreadable"])


def test_check_images_size_differs_from_the_json(root):
    file = image_file(root, read(root))
    image = Image.open(file)
    image.resize((image.width * 2, image.height * 2)).save(file)
    finding = check(root)["image-size"]
    assert finding.level == "error" and finding.count == 1
    assert f"is {image.width * 2} x {image.height * 2}; the JSON says {image.width} x {image.height}" in str(finding)


@pytest.mark.parametrize("orientation, size_differs", [(3, False), (6, True), (8, True)])
def test_check_images_exif_rotation(root, orientation, size_differs):
    file = image_file(root, read(root))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(file).save(file, exif=exif)
    report = check(root)
    assert report["image-rotated"].count == 1 and f"orientation {orientation}" in str(report)
    assert ("image-size" in report) == size_differs
    if size_differs:
        assert "turned by its EXIF tag" in str(report["image-size"])
        edit(
            root,
            "train",
            lambda d: d["images"][0].update(width=d["images"][0]["height"], height=d["images"][0]["width"]),
        )
        assert "image-size" not in check(root)


@pytest.mark.parametrize("size", [(20, 100), (900, 100), (8100, 1100)])
def test_check_images_extreme_images(root, size):
    Image.new("RGB", size).save(image_file(root, read(root)))
    edit(root, "train", lambda d: d["images"][0].update(width=size[0], height=size[1]))
    assert f"{size[0]} x {size[1]}" in str(check(root)["image-extreme"])


def test_check_images_unlisted_images_are_noted(root):
    shutil.copy(image_file(root, read(root)), root / "train2017" / "more.jpg")
    (root / "train2017" / "notes.txt").write_text("not an image")
    finding = check(root)["image-unlisted"]
    assert finding.count == 1 and "more.jpg" in str(finding)


def test_check_images_the_same_image_in_two_splits_and_twice_in_one(root):
    train, val = read(root), read(root, "val")
    shutil.copy(image_file(root, train), image_file(root, val, 2, "val"))
    shutil.copy(image_file(root, train, 3), image_file(root, train, 4))
    size = {k: train["images"][0][k] for k in ("width", "height")}
    edit(root, "val", lambda d: d["images"][2].update(size))
    report = check(root)
    assert report["split-leak"].count == 1 and image_file(root, val, 2, "val").name in str(report["split-leak"])
    assert report["image-duplicate-content"].count == 1


def test_check_images_a_missing_folder_of_images(root):
    shutil.rmtree(root / "val2017")
    report = check(root)
    assert "val2017" in str(report["layout"]) and report["image-missing"].count == 5


def test_check_images_odd_names(root):
    for name in ("x" * 400 + ".jpg", "\ud800.jpg", "a\0b.jpg", ".", "sub/"):
        edit(root, "train", lambda d, name=name: d["images"][0].update(file_name=name))
        report = check(root)
        assert not report.ok and {"image-missing", "image-path-unsafe"} & {f.name for f in report.findings}, name


def test_check_images_pipes_are_reported_and_not_waited_for(root):
    file = image_file(root, read(root))
    file.unlink()
    os.mkfifo(file)
    assert check(root)["image-missing"].count == 1
    (root / "annotations" / "instances_val2017.json").unlink()
    os.mkfifo(root / "annotations" / "instances_val2017.json")
    assert "instances_val2017.json" in str(check(root)["layout"])


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".jpg", "a\0b.jpg", "\ud800.jpg", "\x1b[2J.jpg", ".", "a/", "train/../x.jpg"]
)
def test_check_images_odd_names_are_findings(root, name):
    edit(root, "train", lambda d: d["images"][0].update(file_name=name))
    for images in ("full", False):
        report = check(root, images=images)
        assert "\x1b" not in str(report) and str(report).encode() and report.to_json()
    assert {"image-missing", "image-path-unsafe", "image-unreadable"} & {f.name for f in check(root).findings}
