import numpy as np
import pytest
import torch
from PIL import Image

from dino_nb.draw import _LONGEST_NAME, PALETTE, _caption, class_colors, color_of, draw_boxes
from dino_nb.errors import UserError


def rgb(paint):
    return Image.new("RGB", (1, 1), paint).getpixel((0, 0))


def colors_in(picture):
    return {color for _, color in picture.getcolors(maxcolors=1 << 24)}


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (2000, 40), (40, 2000), (640, 480)])
def test_boxes_and_names_show_at_any_size_and_the_size_stays(size):
    width, height = size
    picture = draw_boxes(Image.new("RGB", size), [[1, 1, width - 2, height - 2]], ["cell"], [0.87], ["#D55E00"])
    assert picture.size == size
    assert {rgb("#D55E00"), (0, 0, 0)} <= colors_in(picture)


def test_the_original_picture_is_not_touched():
    image = Image.new("RGB", (100, 80), "grey")
    before = image.tobytes()
    assert draw_boxes(image, [[5, 5, 50, 50]], ["x"]).tobytes() != before
    assert image.tobytes() == before


def test_the_outline_lies_on_the_box():
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = np.asarray(draw_boxes(image, torch.tensor([[50.2, 60.0, 199.8, 149.6]]), colors="#56B4E9"))
    painted = (drawn == rgb("#56B4E9")).all(-1)
    rows, columns = np.nonzero(painted)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (50, 200, 60, 150)
    assert not painted[70:140, 60:190].any()


def test_no_boxes_and_boxes_beyond_the_border():
    image = Image.new("L", (60, 40), 128)
    assert draw_boxes(image, []).getextrema() == ((128, 128),) * 3
    drawn = draw_boxes(image, [[-50, -50, 500, 20], [30, 30, 30, 30]], ["far out", "no area"], [1.0, 0.0])
    assert drawn.size == (60, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    assert draw_boxes(Image.new(mode, (50, 50)), [[1, 1, 40, 40]], [3]).mode == "RGB"


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (80, 40))
    image.getexif()[0x0112] = 6
    assert draw_boxes(image, [[0, 0, 39, 79]]).size == (40, 80)


def test_small_pictures_can_be_enlarged_with_their_boxes():
    drawn = draw_boxes(Image.new("RGB", (50, 25)), [[10, 5, 40, 20]], colors="#009E73", enlarge_to=500)
    assert drawn.size == (500, 250)
    rows, columns = np.nonzero((np.asarray(drawn) == rgb("#009E73")).all(-1))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (100, 400, 50, 200)


def test_dashes_leave_gaps():
    full, dashed = (draw_boxes(Image.new("RGB", (300, 300)), [[20, 20, 250, 250]], dashed=d) for d in (False, True))
    count = [(np.asarray(p) == rgb(PALETTE[0])).all(-1).sum() for p in (full, dashed)]
    assert 0.4 * count[0] < count[1] < 0.7 * count[0]


def test_a_class_keeps_its_colour():
    names = ["a", None, "b", "c"]
    assert class_colors(names) == {"a": PALETTE[0], "b": PALETTE[1], "c": PALETTE[2]}
    assert len(set(PALETTE)) == len(PALETTE) >= 21
    assert color_of("platelet") == color_of("platelet")
    assert color_of(2) == color_of(np.int64(2)) == PALETTE[2]
    drawn = draw_boxes(Image.new("RGB", (200, 200)), [[50, 50, 150, 150]], ["b"], colors=class_colors(names))
    assert rgb(PALETTE[1]) in colors_in(drawn)


def test_tags_of_neighbours_do_not_cover_each_other():
    image = Image.new("RGB", (400, 300))
    boxes = [[100, 100, 200, 200], [110, 110, 190, 190]]
    both = np.asarray(draw_boxes(image, boxes, ["first", "second"], [0.9, 0.8], ["#F0E442", "#56B4E9"]))
    for box, name, score, paint in zip(boxes, ["first", "second"], [0.9, 0.8], ["#F0E442", "#56B4E9"]):
        alone = np.asarray(draw_boxes(image, [box], [name], [score], [paint]))
        # a tag that is partly covered would lose more than the pixels that the other outline crosses
        count = [(x == rgb(paint)).all(-1).sum() for x in (both, alone)]
        assert count[0] > 0.8 * count[1]


def test_captions():
    assert _caption("red\n cell", 0.876) == "red cell 88%"
    assert _caption(None, None) == ""
    assert _caption(7, None) == "7"
    assert _caption("x" * 100, 1.0) == "x" * (_LONGEST_NAME - 1) + "… 100%"
    assert "\x1b" not in _caption("\x1b[31mred", None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"boxes": [[1, 2, 3]]}, "shape"),
        ({"boxes": [[1, 2, 3, float("nan")]]}, "finite"),
        ({"boxes": [[1, 2, 3, 4]], "labels": ["a", "b"]}, "2 labels"),
        ({"boxes": [[1, 2, 3, 4]], "scores": []}, "0 scores"),
        ({"boxes": [[1, 2, 3, 4]], "dashed": [True, False]}, "2 dashes"),
        ({"boxes": [[1, 2, 3, 4]], "colors": ["red", "blue"]}, "2 colors"),
        ({"boxes": [[1, 2, 3, 4]], "labels": ["a"], "font_file": "/nowhere.ttf"}, "font file"),
        ({"image": np.zeros((5, 5, 3)), "boxes": []}, "uint8"),
        ({"image": "picture.jpg", "boxes": []}, "str"),
    ],
)
def test_errors_say_what_is_wrong(arguments, words):
    with pytest.raises(UserError, match=words):
        draw_boxes(**{"image": Image.new("RGB", (20, 20)), **arguments})
