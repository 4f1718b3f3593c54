import base64
import io
import json

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector
from dino_nb.prepare.sample import CLASSES, make_sample
from dino_nb.viz import browse, compare, explore, grid
from tests.inference.fake import FakeModel

WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def detector():
    return Detector(FakeModel(), "cpu")


@pytest.fixture
def pictures():
    return [Image.new("RGB", size, "grey") for size in ((200, 100), (60, 50), (3000, 800))]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("widgets") / "sample", n_train=3, n_val=5)


def shown(view):
    """What the browser gets."""
    return Image.open(io.BytesIO(view._picture.value))


def test_the_sliders_filter_what_is_shown(detector, pictures):
    view = explore(detector, pictures)
    assert "1 cat" in view.caption and "1 dog" in view.caption
    view.controls["threshold"].value = 0.05
    assert "2 dog" in view.caption
    view.controls["top"].value = 1
    assert "1 cat" in view.caption and "dog" not in view.caption
    view.controls["top"].value = 300
    view.controls["classes"].value = ("dog",)
    assert "2 dog" in view.caption and "cat" not in view.caption
    before = view.image
    view.controls["threshold"].value = 0.99
    assert "nothing" in view.caption and view.image.tobytes() != before.tobytes()
    assert view.controls["classes"].options == ("cat", "dog")


def test_the_browser_walks_and_stops_at_both_ends(detector, pictures):
    view = explore(detector, pictures)
    sizes = [shown(view).size]
    for _ in range(4):
        view._move(1)
        sizes.append(shown(view).size)
    # small pictures are enlarged, large ones scaled down to what a notebook shows
    assert sizes == [(480, 240), (480, 400), (900, 240), (900, 240), (900, 240)]
    for _ in range(4):
        view._move(-1)
    assert view.position.value == 0
    assert [len(batch) for batch in detector.model.seen] == [1, 1, 1]  # every picture went through the network once


def test_a_damaged_picture_says_so_and_the_walk_goes_on(detector, tmp_path):
    (tmp_path / "a<b>.png").write_bytes(b"damaged")
    Image.new("RGB", (30, 30)).save(tmp_path / "b.png")
    view = explore(detector, tmp_path)
    assert "a&lt;b&gt;.png is not an image" in view.caption
    view._move(1)
    assert "b.png" in view.caption and "1 cat" in view.caption


def test_names_cannot_bring_html(pictures):
    view = explore(Detector(FakeModel(["<script>alert(1)</script>", None, "dog"]), "cpu"), pictures)
    assert "<script" not in view.widget.children[1].value
    assert "&lt;script&gt;" in view.widget.children[1].value


def test_a_picture_stands_where_no_widgets_are_shown(detector, pictures):
    view = explore(detector, pictures)
    bundle = json.loads(json.dumps(view._repr_mimebundle_(include=None, exclude=None)))
    assert bundle[WIDGET]["model_id"] == view.widget.model_id
    assert bundle["text/plain"] == "View(picture 1 of 3)"
    static = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    np.testing.assert_array_equal(np.asarray(static), np.asarray(view.image))


def test_one_picture_needs_no_browser_and_none_is_an_error(detector, pictures):
    assert view_types(explore(detector, pictures[0]).widget).count("IntSlider") == 1  # that of "at most"
    with pytest.raises(UserError, match="no picture"):
        explore(detector, [])
    with pytest.raises(UserError, match="annotate_video"):
        explore(detector, "clip.mp4")


def view_types(widget):
    return [type(widget).__name__, *(t for child in getattr(widget, "children", ()) for t in view_types(child))]


def test_browse_shows_the_annotations(sample):
    view = browse(sample, "val")
    assert view.position.max == 4
    captions = []
    for index in range(5):
        view.position.value = index
        captions.append(view.caption)
    file = json.loads((sample / "annotations" / "instances_val2017.json").read_text())
    assert sum(int(part) for c in captions for part in counts(c)) == len(file["annotations"])
    view.controls["classes"].value = (CLASSES[0],)
    assert all(name not in view.caption for name in CLASSES[1:])
    with pytest.raises(UserError):
        browse(sample, "test")


def counts(caption):
    return [part.split()[0] for part in caption.split("&thinsp;")[1:]]


def test_crowds_are_shown_dashed(sample, tmp_path):
    file = sample / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    plain = browse(sample).image
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    crowded = tmp_path / "crowded"
    (crowded / "annotations").mkdir(parents=True)
    (crowded / "annotations" / file.name).write_text(json.dumps(content))
    (crowded / "val2017").symlink_to(sample / "val2017")
    dashed = browse(crowded).image
    assert dashed.size == plain.size and dashed.tobytes() != plain.tobytes()


def test_compare_puts_both_side_by_side(sample):
    view = compare(Detector(FakeModel(["red circle", None, "dog"]), "cpu"), sample, threshold=0.5)
    assert view.image.width > 1.9 * view.image.height
    truth, _, detected = view.caption.partition("detected:")
    assert counts(truth) and counts(detected) == ["1", "1"]
    assert set(view.controls["classes"].options) == {*CLASSES, "dog"}
    view.controls["classes"].value = ("dog",)
    assert "red circle" not in view.caption and "1 dog" in view.caption
    view.controls["classes"].value = ("blue square",)  # a class that the detector does not know
    assert view.caption.endswith("detected: nothing")


def test_grid_lays_pictures_out(detector, pictures):
    sheet = grid(pictures, columns=2, titles=["one", "two", "a title far too long for its column " * 9], width=600)
    assert sheet.width == 600
    result = detector.predict(pictures[0])
    assert grid([result], width=400).size == (400, 200)
    with pytest.raises(UserError, match="no picture"):
        grid([])
    with pytest.raises(UserError, match="titles"):
        grid(pictures, titles=["one"])


def test_only_widgets_that_old_front_ends_know_are_used(detector, pictures, sample):
    for view in (explore(detector, pictures), browse(sample), compare(detector, sample)):
        known = {"VBox", "HBox", "IntSlider", "FloatSlider", "SelectMultiple", "Button", "HTML", "Image"}
        assert set(view_types(view.widget)) <= known
    assert int(ipywidgets.__version__.split(".")[0]) in (7, 8)
