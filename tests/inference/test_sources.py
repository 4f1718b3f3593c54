import numpy as np
import pytest
import torch
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.inference.sources import is_one, leaves, read


def read_all(source):
    return [image for number, leaf in enumerate(leaves(source)) for image in read(leaf, number)]


def test_read_of_a_folder_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "c.bmp", "._hidden.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "deeper").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "deeper" / "d.png")
    assert [p.name for p in read_all(tmp_path)] == ["a.JPG", "b.png", "c.bmp"]
    assert [p.name for p in read_all(str(tmp_path / "**" / "*.png"))] == ["b.png", "d.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="below it"):
        read_all(tmp_path / "empty")
    with pytest.raises(UserError, match="no image matches"):
        read_all(str(tmp_path / "*.gif"))


def test_read_finds_the_home_folder(tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [p.name for p in read_all("~/a.png")] == ["a.png"]
    assert not is_one("~")


def test_read_of_a_name_with_brackets(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "shot[1].png")
    assert is_one(tmp_path / "shot[1].png")
    assert [p.name for p in read_all(tmp_path / "shot[1].png")] == ["shot[1].png"]


def test_read_makes_upright_rgb(tmp_path):
    turned = Image.new("RGB", (30, 10), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_all(tmp_path / "turned.jpg")[0].image.size == (10, 30)
    assert read_all(Image.open(tmp_path / "turned.jpg"))[0].image.size == (10, 30)
    deep = Image.fromarray(np.full((4, 6), 30_000, np.uint16))
    assert read_all(deep)[0].image.getpixel((0, 0)) == (117, 117, 117)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_read_of_arrays(shape):
    [image] = read_all(np.full(shape, 200, np.uint8))
    assert (image.image.size, image.image.mode, image.image.getpixel((0, 0))) == ((7, 5), "RGB", (200,) * 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_read_takes_floats_and_channels_first_alike(dtype, make):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    values = pixels if dtype == np.uint8 else (pixels / 255).astype(dtype)
    for one in (values, np.ascontiguousarray(values.transpose(2, 0, 1))):
        [read_image] = read_all(make(one))
        np.testing.assert_array_equal(np.asarray(read_image.image), pixels)


def test_read_prefers_the_usual_layout_where_both_fit():
    assert read_all(np.zeros((3, 9, 3), np.uint8))[0].image.size == (9, 3)
    assert read_all(torch.zeros(3, 9, 3))[0].image.size == (3, 9)


def test_read_of_views_and_batches():
    array = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    mirrored = read_all(array[0, :, ::-1])[0]
    assert mirrored.image.getpixel((0, 0)) == tuple(array[0, 0, -1])
    assert not is_one(array)
    assert [p.name for p in read_all(array)] == ["image_000000.png", "image_000001.png"]


@pytest.mark.parametrize("tensor", [torch.full((3, 5, 7), 0.5), torch.full((1, 5, 7), 128, dtype=torch.uint8)])
def test_read_of_tensors(tensor):
    [image] = read_all(tensor)
    assert (image.image.size, image.image.getpixel((0, 0))) == ((7, 5), (128, 128, 128))


def test_leaves_flattens_lists_lazily(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert len(read_all([tmp_path, (str(tmp_path / "a.png"), torch.zeros(3, 4, 4))])) == 3

    def endless():
        while True:
            yield np.zeros((4, 4, 3), np.uint8)

    assert next(leaves(endless())).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((5, 7, 3), np.uint16), "uint16 is not an image: use uint8"),
        (np.zeros((5, 7, 9), np.uint8), r"must be \(H, W\)"),
        (np.full((5, 7, 3), 255.0), "divide by 255"),
        (np.array([["a"]]), "use uint8"),
        (np.zeros((0, 7, 3), np.uint8), "not an image"),
        (torch.zeros(5, 7, 9), "3, H, W"),
        (torch.full((3, 5, 7), 255.0), "divide by 255"),
        (torch.full((3, 5, 7), float("nan")), r"\[0, 1\]"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "int64"),
        (7, "an? int is not an image"),
        ({"image": 1}, "dict is not an image"),
        (b"bytes", "bytes is not an image"),
        ("ftp://example.org/a.jpg", "only http"),
        ("file:///etc/hostname", "only http"),
        ("", "source is empty"),
        (" ", "source is empty"),
        (Image.new("RGB", (0, 0)), "no pixels"),
        (np.array(3.0), "not an image"),
        ("gone.jpg", "no image file gone.jpg"),
        ("x" * 5000, "image xxx"),
        ("null\0character.png", "cannot be read"),
    ],
)
def test_read_says_what_is_no_image(source, words):
    with pytest.raises(UserError, match=words):
        read_all(source)


def test_read_of_a_pipe_does_not_wait(tmp_path):
    """A FIFO that nobody writes to: opening it would wait for ever."""
    import os

    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("pipe.png", "pipe.mp4"):
        with pytest.raises(UserError, match=name):
            read_all(tmp_path / name)
    with pytest.raises(UserError, match="no image in the folder"):
        read_all(tmp_path)
    with pytest.raises(UserError, match="no image matches"):
        read_all(str(tmp_path / "*.png"))
