import numpy as np
import pytest
import torch
from PIL import Image

from dino_nb.draw import _LONGEST_NAME, PALETTE, _captions, add_legend, class_colors, color_of, draw_boxes
from dino_nb.errors import UserError


def rgb(paint):
    return Image.new("RGB", (1, 1), paint).getpixel((0, 0))


def colors_in(image):
    return {color for _, color in image.getcolors(maxcolors=1 << 24)}


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (2000, 40), (40, 2000), (640, 480)])
def test_draw_boxes_keeps_the_size(size):
    width, height = size
    drawn = draw_boxes(Image.new("RGB", size), [[1, 1, width - 2, height - 2]], ["cell"], [0.87], ["#D55E00"])
    assert drawn.size == size
    assert {rgb("#D55E00"), (0, 0, 0)} <= colors_in(drawn)


def test_draw_boxes_leaves_the_image_alone():
    image = Image.new("RGB", (100, 80), "grey")
    before = image.tobytes()
    assert draw_boxes(image, [[5, 5, 50, 50]], ["x"]).tobytes() != before
    assert image.tobytes() == before


def test_draw_boxes_outline_lies_on_the_box():
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = np.asarray(draw_boxes(image, torch.tensor([[50.2, 60.0, 199.8, 149.6]]), colors="#56B4E9"))
    painted = (drawn == rgb("#56B4E9")).all(-1)
    rows, columns = np.nonzero(painted)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (50, 200, 60, 150)
    assert not painted[70:140, 60:190].any()


def test_draw_boxes_without_boxes_and_beyond_the_border():
    image = Image.new("L", (60, 40), 128)
    assert draw_boxes(image, []).getextrema() == ((128, 128),) * 3
    drawn = draw_boxes(image, [[-50, -50, 500, 20], [30, 30, 30, 30]], ["far out", "no area"], [1.0, 0.0])
    assert drawn.size == (60, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_draw_boxes_takes_every_mode(mode):
    assert draw_boxes(Image.new(mode, (50, 50)), [[1, 1, 40, 40]], [3]).mode == "RGB"


def test_draw_boxes_applies_exif_orientation():
    image = Image.new("RGB", (80, 40))
    image.getexif()[0x0112] = 6
    assert draw_boxes(image, [[0, 0, 39, 79]]).size == (40, 80)


def test_draw_boxes_enlarges_image_and_boxes():
    drawn = draw_boxes(Image.new("RGB", (50, 25)), [[10, 5, 40, 20]], colors="#009E73", enlarge_to=500)
    assert drawn.size == (500, 250)
    rows, columns = np.nonzero((np.asarray(drawn) == rgb("#009E73")).all(-1))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (100, 400, 50, 200)


def test_draw_boxes_dashes_leave_gaps():
    full, dashed = (draw_boxes(Image.new("RGB", (300, 300)), [[20, 20, 250, 250]], line=d) for d in ("solid", "dashed"))
    count = [(np.asarray(p) == rgb(PALETTE[0])).all(-1).sum() for p in (full, dashed)]
    assert 0.4 * count[0] < count[1] < 0.7 * count[0]


def test_class_colors_by_position():
    names = ["a", None, "b", "c"]
    assert class_colors(names) == {"a": PALETTE[0], "b": PALETTE[1], "c": PALETTE[2]}
    assert len(set(PALETTE)) == len(PALETTE) >= 21
    assert color_of("platelet") == color_of("platelet")
    assert color_of(2) == color_of(np.int64(2)) == PALETTE[2]
    drawn = draw_boxes(Image.new("RGB", (200, 200)), [[50, 50, 150, 150]], ["b"], colors=class_colors(names))
    assert rgb(PALETTE[1]) in colors_in(drawn)


def test_draw_boxes_tags_do_not_cover_each_other():
    image = Image.new("RGB", (400, 300))
    boxes = [[100, 100, 200, 200], [110, 110, 190, 190]]
    both = np.asarray(draw_boxes(image, boxes, ["first", "second"], [0.9, 0.8], ["#F0E442", "#56B4E9"]))
    for box, name, score, paint in zip(boxes, ["first", "second"], [0.9, 0.8], ["#F0E442", "#56B4E9"]):
        alone = np.asarray(draw_boxes(image, [box], [name], [score], [paint]))
        # a tag that is partly covered would lose more than the pixels that the other outline crosses
        count = [(x == rgb(paint)).all(-1).sum() for x in (both, alone)]
        assert count[0] > 0.8 * count[1]


def test_draw_boxes_captions():
    assert _captions("red\n cell", 0.876) == ["red cell 88%", "red cell"]
    assert _captions(None, None) == []
    assert _captions(7, None) == ["7"]
    assert _captions("x" * 100, 1.0)[0] == "x" * (_LONGEST_NAME - 1) + "… 100%"
    assert "\x1b" not in _captions("\x1b[31mred", None)[0]


@pytest.mark.parametrize("color", [(255, 128, 0), [255, 128, 0], np.array([255, 128, 0]), "#ff8000"])
@pytest.mark.parametrize("n", [1, 3, 4])
def test_draw_boxes_takes_one_colour_for_all_boxes(color, n):
    boxes = [[5, 5 + 20 * i, 50, 20 + 20 * i] for i in range(n)]
    drawn = draw_boxes(Image.new("RGB", (90, 90)), boxes, colors=color)
    assert colors_in(drawn) == {(255, 128, 0), (0, 0, 0)}


def test_draw_boxes_tags_leave_small_neighbours_visible():
    """Nine small boxes in a row: no tag covers more than a quarter of any."""
    boxes = [[20 + 64 * i, 200 + 9 * (i % 3), 38 + 64 * i, 240 + 9 * (i % 3)] for i in range(9)]
    drawn = np.asarray(draw_boxes(Image.new("RGB", (640, 480)), boxes, ["person"] * 9, [0.9] * 9, "#0072B2"))
    for x0, y0, x1, y1 in boxes:
        inside = (drawn[y0 + 3 : y1 - 2, x0 + 3 : x1 - 2] == 0).all(-1)
        assert inside.mean() > 0.75
    crowded = [
        [100 + 12 * (i % 10), 100 + 12 * (i // 10), 108 + 12 * (i % 10), 108 + 12 * (i // 10)] for i in range(100)
    ]
    drawn = np.asarray(draw_boxes(Image.new("RGB", (640, 480)), crowded, ["person"] * 100, [0.9] * 100, "#0072B2"))
    hidden = [(drawn[y0 + 3 : y1 - 2, x0 + 3 : x1 - 2] != 0).any(-1).mean() for x0, y0, x1, y1 in crowded]
    assert max(hidden) <= 0.5


def test_draw_boxes_tags_follow_the_size_of_the_box():
    image = Image.new("RGB", (640, 480))
    small, large = (
        draw_boxes(image, [box], ["car"], colors="#0072B2") for box in ([300, 200, 320, 220], [9, 9, 630, 400])
    )
    heights = [np.nonzero((np.asarray(d) == (255, 255, 255)).all(-1).sum(1) > 3)[0] for d in (small, large)]
    assert 0 < np.ptp(heights[0]) < 22
    tag = [(np.asarray(d)[:, :, 2] == 0xB2).sum() for d in (small, large)]
    assert tag[0] < 0.2 * tag[1]


def test_draw_boxes_lines_differ():
    drawn = [draw_boxes(Image.new("RGB", (300, 300)), [[20, 20, 250, 250]], line=kind) for kind in ("dashed", "dotted")]
    assert drawn[0].tobytes() != drawn[1].tobytes()


def test_class_colors_named_after_a_colour():
    colors = class_colors(["red circle", "blue_square", "cat"])
    assert (colors["red circle"], colors["blue_square"], colors["cat"]) == ("#D62728", "#0072B2", PALETTE[2])
    chess = class_colors(["black king", "black pawn", "white king"])
    assert len(set(chess.values())) == 3 and chess["black king"] == PALETTE[0]
    assert class_colors(["orange"])["orange"] == PALETTE[0]  # the fruit


def test_add_legend_explains_lines_below_the_image():
    image = Image.new("RGB", (300, 100), "#123456")
    entries = [("correct", "#009E73", "solid"), ("wrong", "#D55E00", "dashed"), ("missed", "#F0E442", "dotted")]
    sheet = add_legend(image, entries)
    assert sheet.width == 300 and sheet.height > 110
    assert sheet.crop((0, 0, 300, 100)).tobytes() == image.tobytes()
    assert {rgb(color) for _, color, _ in entries} <= colors_in(sheet)
    narrow = add_legend(image.resize((80, 100)), entries)
    assert narrow.height > sheet.height + 10  # a row for each


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"boxes": [[1, 2, 3]]}, "shape"),
        ({"boxes": [[1, 2, 3, float("nan")]]}, "finite"),
        ({"boxes": [[1, 2, 3, 4]], "labels": ["a", "b"]}, "2 labels"),
        ({"boxes": [[1, 2, 3, 4]], "scores": []}, "0 scores"),
        ({"boxes": [[1, 2, 3, 4]], "line": ["solid", "solid"]}, "2 lines"),
        ({"boxes": [[1, 2, 3, 4]], "line": "dased"}, "Did you mean 'dashed'"),
        ({"boxes": [[1, 2, 3, 4]], "colors": (1.0, 0.5, 0.0)}, "0 to 255"),
        ({"boxes": [[1, 2, 3, 4]], "colors": (300, 0, 0)}, "0 to 255"),
        ({"boxes": [[1, 2, 3, 4]], "labels": ["a"], "colors": {"a": (1, 2)}}, "three numbers"),
        ({"boxes": [[1, 2, 3, 4]], "colors": "no such"}, "no colour 'no such'"),
        ({"boxes": [[1, 2, 3, 4]], "colors": ["red", "blue"]}, "2 colors"),
        ({"boxes": [[1, 2, 3, 4]], "labels": ["a"], "font_file": "/nowhere.ttf"}, "font file"),
        ({"image": np.zeros((5, 5, 3)), "boxes": []}, "uint8"),
        ({"image": "image.jpg", "boxes": []}, "str"),
    ],
)
def test_draw_boxes_errors_say_what_is_wrong(arguments, words):
    with pytest.raises(UserError, match=words):
        draw_boxes(**{"image": Image.new("RGB", (20, 20)), **arguments})
