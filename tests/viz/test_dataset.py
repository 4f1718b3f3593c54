import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.viz import summary_figure
from tests.prepare.planting import edit, image_file, make_valid, read


@pytest.fixture
def root(tmp_path):
    return make_valid(tmp_path / "set")


def render(figure):
    """(H, W, 3) pixels."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(40)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def titles(figure):
    return [axes.get_title(loc) for axes in figure.axes for loc in ("left", "center") if axes.get_title(loc)]


def texts(figure):
    from matplotlib.text import Text

    return " | ".join(t.get_text() for t in figure.findobj(Text))


def test_the_figure_shows_classes_sizes_shapes_and_images(root, tmp_path):
    figure = summary_figure(root)
    assert titles(figure)[:5] == [
        "Boxes of each class",
        "Boxes per image",
        "Sizes, and what COCO calls them",
        "Shapes",
        "Width and height",
    ]
    document = read(root)
    words = texts(figure)
    assert f"10 images, {len(document['annotations'])} boxes, 5 classes" in words
    assert all(c["name"] in words for c in document["categories"])
    assert sum(i["file_name"] in words for i in document["images"]) == 10
    pixels = render(figure)
    assert (pixels.reshape(-1, 3) < 200).any(1).mean() > 0.15  # not blank
    figure.savefig(tmp_path / "summary.png", dpi=50)
    assert min(Image.open(tmp_path / "summary.png").size) > 300


def test_shares_of_small_medium_and_large(root):
    def sizes(d):
        for n, a in enumerate(d["annotations"]):
            a["bbox"] = [1, 1, *((8, 8), (50, 50), (100, 100))[n % 3]]
        d["annotations"] = d["annotations"][: len(d["annotations"]) // 3 * 3]

    edit(root, "train", sizes)
    assert texts(summary_figure(root)).count("\n33%") == 3


def test_every_class_is_on_the_sheet(root):
    def rare(d):
        d["categories"].append({"id": 9, "name": "rare"})
        d["annotations"][-1]["category_id"] = 9

    edit(root, "train", rare)
    document = read(root)
    last = next(i for i in document["images"] if i["id"] == document["annotations"][-1]["image_id"])
    for seed in range(3):
        assert last["file_name"] in texts(summary_figure(root, images=6, seed=seed))


def test_boxes_that_are_written_as_corners_are_drawn_as_meant(root):
    good = render(summary_figure(root, images=6))
    edit(root, "train", lambda d: [a.update(bbox=_corners(a["bbox"])) for a in d["annotations"]])
    np.testing.assert_array_equal(render(summary_figure(root, images=6)), good)


def _corners(box):
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


FAULTY = {
    "no boxes": lambda d: d.update(annotations=[]),
    "no classes": lambda d: d.update(categories=[], annotations=[]),
    "no sizes": lambda d: [i.pop("width") for i in d["images"]],
    "boxes without area": lambda d: [a.update(bbox=[1, 1, 0, 0]) for a in d["annotations"]],
    "far away": lambda d: d["annotations"][0].update(bbox=[-9e11, 5, 1e11, 9e11]),
    "odd names": lambda d: [c.update(name="$\\frac{<b>\x1b" + "x" * 200 + str(c["id"])) for c in d["categories"]],
    "unsafe name": lambda d: d["images"][0].update(file_name="../../x.jpg"),
    "many classes": lambda d: d["categories"].extend({"id": n, "name": f"c{n}"} for n in range(10, 300)),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_faulty_sets_have_a_figure_too(root, fault):
    edit(root, "train", FAULTY[fault])
    assert render(summary_figure(root, images=3)).shape[2] == 3


def test_image_that_cannot_be_read_is_said_so(root):
    image_file(root, read(root)).write_bytes(b"no image")
    assert "cannot be read" in texts(summary_figure(root))


def test_nothing_to_show(root, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        summary_figure(tmp_path / "nowhere")
    edit(root, "train", lambda d: d.update(images=[]))
    with pytest.raises(UserError, match="no-images"):
        summary_figure(root)
    assert "val: 5 images" in texts(summary_figure(root, "val2017"))
