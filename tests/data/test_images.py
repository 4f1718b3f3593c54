import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dino_nb.data.images import header, image_size, is_image, open_image, turned_boxes, turned_size
from dino_nb.errors import UserError


def _photo(size=(40, 24)):
    """A image whose four quarters differ, so that a wrong turn shows."""
    array = np.zeros((size[1], size[0], 3), np.uint8)
    array[: size[1] // 2, : size[0] // 2] = (250, 20, 20)
    array[: size[1] // 2, size[0] // 2 :] = (20, 250, 20)
    array[size[1] // 2 :, : size[0] // 2] = (20, 20, 250)
    return Image.fromarray(array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_open_image_exif_orientation_is_applied_to_pixels_and_size(tmp_path, orientation, suffix):
    path = tmp_path / f"photo{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    _photo().save(path, exif=exif)
    with Image.open(path) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    upright = open_image(path)
    assert upright.size == image_size(path) == expected.size
    assert np.array_equal(np.asarray(upright), np.asarray(expected))
    if suffix != ".tif":
        assert header(path) == (40, 24, orientation)
    assert ImageOps.exif_transpose(upright).size == upright.size  # not turned twice


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK"])
def test_open_image_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.png" if mode in ("1", "L", "P", "RGBA", "LA") else "x.tif")
    image = _photo().convert(mode)
    image.save(path)
    opened = open_image(path)
    assert opened.mode == "RGB" and opened.size == (40, 24)
    red, green, _ = (int(v) for v in np.asarray(opened)[2, 2])
    assert red > green or mode in ("1", "L", "LA")


def test_open_image_palette_with_transparency(tmp_path):
    path = tmp_path / "p.png"
    _photo().quantize(4).save(path, transparency=b"\x00\xff\xff\xff")
    assert tuple(np.asarray(open_image(path))[2, 2]) == (250, 20, 20)


def test_open_image_sixteen_bits_scale_to_eight(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(8, 0)
    for name in ("ramp.png", "ramp.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        values = np.asarray(open_image(tmp_path / name))
        assert values.shape == (8, 256, 3)
        assert np.abs(values[0, :, 1].astype(int) - np.arange(256)).max() <= 1


def test_open_image_float_tiff(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "f.tif")
    values = np.asarray(open_image(tmp_path / "f.tif"))
    assert values.min() == 0 and values.max() == 255


def test_open_image_missing_empty_text_folder_and_truncated_files_name_the_path(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    _photo((400, 300)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for name in ("missing.jpg", "empty.jpg", "text.png", "folder.png", "cut.jpg"):
        with pytest.raises(UserError, match=name):
            open_image(tmp_path / name)
    assert image_size(tmp_path / "cut.jpg") == (400, 300)  # the header alone is whole


def _png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + ihdr + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("limit", ["pillow", None])
def test_open_image_a_header_of_enormous_size_is_refused(tmp_path, monkeypatch, limit):
    if limit is None:  # another library may have switched Pillow's own check off
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(50_000, 50_000))
    for read in (open_image, image_size):
        with pytest.raises(UserError, match=r"bomb\.png.*refused"):
            read(path)


def test_open_image_damaged_exif_does_not_cost_the_image(tmp_path):
    _photo().save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert image_size(tmp_path / "x.jpg") == open_image(tmp_path / "x.jpg").size == (40, 24)


def test_is_image_by_ending():
    assert is_image("A.JPG") and is_image("b.webp") and not is_image("c.txt") and not is_image("jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_boxes_stay_on_their_pixels(orientation):
    stored = np.zeros((24, 40), np.uint8)
    stored[3:9, 10:31] = 255
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    ((x1, y1, x2, y2),) = turned_boxes([[10, 3, 31, 9]], (40, 24), orientation).astype(int)
    assert turned_size((40, 24), orientation) == upright.shape[::-1]
    assert (upright[y1:y2, x1:x2] == 255).all() and (upright == 255).sum() == (x2 - x1) * (y2 - y1)


def test_open_image_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (open_image, image_size):
        with pytest.raises(UserError, match=r"pipe\.jpg is a pipe or device, not an image"):
            read(tmp_path / "pipe.jpg")


def test_open_image_kinds_that_are_not_read_are_named(tmp_path):
    for name, words in (("a.CR2", "raw camera file"), ("a.heic", "HEIC photo: pip install pillow-heif")):
        (tmp_path / name).write_bytes(b"II*\0")
        if not is_image(name):  # HEIC is read where its library is installed
            with pytest.raises(UserError, match=words):
                open_image(tmp_path / name)


def test_open_image_disk_errors_are_sentences(tmp_path):
    for name, words in (("x" * 300 + ".jpg", "longer name"), ("a.jpg/b.jpg", "a part of its path is a file")):
        (tmp_path / "a.jpg").touch()
        with pytest.raises(UserError, match=words):
            open_image(tmp_path / name)
