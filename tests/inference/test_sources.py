import numpy as np
import pytest
import torch
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.inference.sources import is_one, leaves, read


def read_all(source):
    return [picture for number, leaf in enumerate(leaves(source)) for picture in read(leaf, number)]


def test_a_folder_gives_its_pictures_by_name_and_nothing_else(tmp_path):
    for name in ("b.png", "a.JPG", "c.bmp", "._hidden.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "deeper").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "deeper" / "d.png")
    assert [p.name for p in read_all(tmp_path)] == ["a.JPG", "b.png", "c.bmp"]
    assert [p.name for p in read_all(str(tmp_path / "**" / "*.png"))] == ["b.png", "d.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="below it"):
        read_all(tmp_path / "empty")
    with pytest.raises(UserError, match="no picture matches"):
        read_all(str(tmp_path / "*.gif"))


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [p.name for p in read_all("~/a.png")] == ["a.png"]
    assert not is_one("~")


def test_a_name_with_brackets_is_a_file_where_there_is_one(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "shot[1].png")
    assert is_one(tmp_path / "shot[1].png")
    assert [p.name for p in read_all(tmp_path / "shot[1].png")] == ["shot[1].png"]


def test_exif_and_odd_modes_become_upright_rgb(tmp_path):
    turned = Image.new("RGB", (30, 10), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_all(tmp_path / "turned.jpg")[0].image.size == (10, 30)
    assert read_all(Image.open(tmp_path / "turned.jpg"))[0].image.size == (10, 30)
    deep = Image.fromarray(np.full((4, 6), 30_000, np.uint16))
    assert read_all(deep)[0].image.getpixel((0, 0)) == (117, 117, 117)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays(shape):
    [picture] = read_all(np.full(shape, 200, np.uint8))
    assert (picture.image.size, picture.image.mode, picture.image.getpixel((0, 0))) == ((7, 5), "RGB", (200,) * 3)


def test_arrays_that_are_views_and_batches():
    array = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    mirrored = read_all(array[0, :, ::-1])[0]
    assert mirrored.image.getpixel((0, 0)) == tuple(array[0, 0, -1])
    assert not is_one(array)
    assert [p.name for p in read_all(array)] == ["picture_000000.png", "picture_000001.png"]


@pytest.mark.parametrize("tensor", [torch.full((3, 5, 7), 0.5), torch.full((1, 5, 7), 128, dtype=torch.uint8)])
def test_tensors(tensor):
    [picture] = read_all(tensor)
    assert (picture.image.size, picture.image.getpixel((0, 0))) == ((7, 5), (128, 128, 128))


def test_lists_are_flattened_lazily(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert len(read_all([tmp_path, (str(tmp_path / "a.png"), torch.zeros(3, 4, 4))])) == 3

    def endless():
        while True:
            yield np.zeros((4, 4, 3), np.uint8)

    assert next(leaves(endless())).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((5, 7, 3)), "uint8"),
        (np.zeros((3, 5, 7), np.uint8), "channels-first"),
        (np.zeros((0, 7, 3), np.uint8), "not a picture"),
        (torch.zeros(5, 7, 3), "3, H, W"),
        (torch.full((3, 5, 7), 255.0), "divide by 255"),
        (torch.full((3, 5, 7), float("nan")), r"\[0, 1\]"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "int64"),
        (7, "an? int is not a picture"),
        ({"image": 1}, "dict is not a picture"),
        (b"bytes", "bytes is not a picture"),
        ("ftp://example.org/a.jpg", "only http"),
        ("file:///etc/hostname", "only http"),
        ("gone.jpg", "no image file gone.jpg"),
        ("x" * 5000, "cannot be read"),
        ("null\0character.png", "cannot be read"),
    ],
)
def test_what_is_no_picture_is_said(source, words):
    with pytest.raises(UserError, match=words):
        read_all(source)
