import base64
import gc
import io
import json
import re
import shutil
import sys
import weakref

import ipywidgets
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
def images():
    return [Image.new("RGB", size, "grey") for size in ((200, 100), (60, 50), (3000, 800))]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("widgets") / "sample", n_train=3, n_val=5)


def shown(view):
    """What the browser gets."""
    return Image.open(io.BytesIO(view._shown.value))


def test_explore_sliders_filter_what_is_shown(detector, images):
    view = explore(detector, images)
    assert "1 cat" in view.caption and "1 dog" in view.caption
    view.controls["threshold"].value = 0.05
    assert "2 dog" in view.caption
    view.controls["max_detections"].value = 1
    assert "1 cat" in view.caption and "dog" not in view.caption
    view.controls["max_detections"].value = 300
    view.controls["classes"].value = ("dog",)
    assert "2 dog" in view.caption and "cat" not in view.caption
    before = view.image
    view.controls["threshold"].value = 0.99
    assert "nothing" in view.caption and view.image.tobytes() != before.tobytes()
    assert view.controls["classes"].options == ("cat", "dog")


def test_view_step_stops_at_both_ends(detector, images):
    view = explore(detector, images)
    sizes = [shown(view).size]
    for _ in range(4):
        view.step(1)
        sizes.append(shown(view).size)
    # small images are enlarged, large ones scaled down to what a notebook shows
    assert sizes == [(480, 240), (480, 400), (900, 240), (900, 240), (900, 240)]
    for _ in range(4):
        view.step(-1)
    assert view.position.value == 1
    assert [len(batch) for batch in detector.model.seen] == [1, 1, 1]  # every image went through the network once


def test_explore_of_a_damaged_image_says_so(detector, tmp_path):
    (tmp_path / "a<b>.png").write_bytes(b"damaged")
    Image.new("RGB", (30, 30)).save(tmp_path / "b.png")
    view = explore(detector, tmp_path)
    assert "a&lt;b&gt;.png is not an image" in view.caption
    view.step(1)
    assert "b.png" in view.caption and "1 cat" in view.caption


def test_explore_escapes_class_names(images):
    view = explore(Detector(FakeModel(["<script>alert(1)</script>", None, "dog"]), "cpu"), images)
    assert "<script" not in view._line.value
    assert "&lt;script&gt;" in view._line.value


@pytest.fixture
def displayed(monkeypatch):
    """What IPython is asked to display."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: outputs.append(json.loads(json.dumps(bundle))))
    return outputs


def test_view_leaves_an_image_for_a_notebook_that_is_opened_again(detector, images, displayed):
    """Without a kernel a front-end says "model not found" of the widget; the image is an output of its own."""
    view = explore(detector, images)
    view._ipython_display_()
    still, widget = displayed
    assert WIDGET not in still and widget[WIDGET]["model_id"] == view.widget.model_id
    assert still["text/plain"] == widget["text/plain"] == "View(image 1 of 3)"
    data = re.search(r"data:image/jpeg;base64,([^\"]+)", still["text/html"])[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == view.image.size
    key = re.search(r"body:has\(\.([\w-]+)-live\) \.([\w-]+)-still { display: none }", still["text/html"])
    script = re.search(r"<script>(.*)</script>", still["text/html"], re.S)[1].strip()
    assert script.startswith("{\n") and "\n}" in script  # a page with two views must not declare a name twice
    assert f"{key[1]}-live" in view.widget._dom_classes and f'class="{key[2]}-still"' in still["text/html"]


def test_view_works_without_ipywidgets(detector, images, displayed, monkeypatch):
    with_widgets = explore(detector, images).set(1, threshold=0.05, classes=("dog",))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    view = explore(detector, images)
    assert view.widget is None and "1 cat" in view.caption
    view.set(1, threshold=0.05, classes=("dog",))
    assert view.caption == with_widgets.caption and view.image.tobytes() == with_widgets.image.tobytes()
    view.step(1)
    assert view.index == 2
    view._ipython_display_()
    assert len(displayed) == 1 and "base64" in displayed[0]["text/html"]
    with pytest.raises(UserError, match="Did you mean 'threshold'"):
        view.set(treshold=0.5)
    with pytest.raises(UserError, match="no image 9"):
        view.set(9)
    for one in (view, with_widgets):
        with pytest.raises(UserError, match=r"no class 'doge'\. Did you mean 'dog'"):
            one.set(classes=["doge"])


def test_view_shows_names_as_they_are(images, displayed, tmp_path):
    """Words that the page's template uses may be names of files and classes."""
    images[0].save(tmp_path / "IMAGE_KEY_SUMMARY.png")
    explore(Detector(FakeModel(["CAPTION", None, "dog"]), "cpu"), tmp_path)._ipython_display_()
    page = displayed[0]["text/html"]
    assert "<b>IMAGE_KEY_SUMMARY.png</b>" in page and "1 CAPTION" in page


def test_explore_keeps_no_full_size_images(detector, tmp_path, monkeypatch):
    """Of the images seen only a few reduced ones stay in memory."""
    kept = []
    from dino_nb.viz import widgets

    def read(leaf, number):
        source = original(leaf, number)
        for one in source:
            kept.append(weakref.ref(one.image))
            yield one

    original = widgets.read
    monkeypatch.setattr(widgets, "read", read)
    view = explore(detector, (Image.new("RGB", (2000, 10 + i)) for i in range(12)))
    for _ in range(11):
        view.step(1)
    gc.collect()
    assert not [ref for ref in kept if ref() is not None and max(ref().size) > 900]
    cached = view.scene.image.cache_info()
    assert cached.currsize == cached.maxsize == 8


def test_explore_takes_results_and_looks_no_more(detector, images):
    results = detector.predict(images, threshold=0.05)
    detector.model.seen.clear()
    view = explore(results)
    assert "1 cat" in view.caption and view.position.max == 3
    assert explore(results[0]).position.max == 1
    assert detector.model.seen == []
    with pytest.raises(UserError, match="no image"):
        explore([])


def test_explore_and_compare_honour_slice_size(detector, sample, tmp_path):
    for make in (explore, compare):
        detector.model.seen.clear()
        make(detector, sample, slice_size=64)
        assert len(detector.model.seen) > 10
    detector.model.seen.clear()
    explore(detector, Image.new("RGB", (200, 100)), slice_size=64)
    assert len(detector.model.seen) > 4


def test_explore_and_compare_start_at_the_detectors_threshold(detector, images, sample):
    detector.threshold = 0.7
    assert explore(detector, images).controls["threshold"].value == 0.7
    assert compare(detector, sample).controls["threshold"].value == 0.7
    assert explore(detector.predict(images)).controls["threshold"].value == 0.7


def test_explore_refuses_what_is_out_of_range(detector, images):
    with pytest.raises(UserError, match=r"threshold must be in \[0, 1\], not 2"):
        explore(detector, images, threshold=2)
    with pytest.raises(UserError, match="Did you mean 'threshold'"):
        explore(detector, images, treshold=0.2)


def test_explore_of_one_image_and_of_none(detector, images):
    assert view_types(explore(detector, images[0]).widget).count("IntSlider") == 1  # that of "at most"
    with pytest.raises(UserError, match="no image"):
        explore(detector, [])
    with pytest.raises(UserError, match="annotate_video"):
        explore(detector, "clip.mp4")


def view_types(widget):
    return [type(widget).__name__, *(t for child in getattr(widget, "children", ()) for t in view_types(child))]


def test_browse_shows_the_annotations(sample):
    view = browse(sample, "val")
    assert (view.position.min, view.position.max) == (1, 5)
    captions = []
    for position in range(1, 6):
        view.position.value = position
        captions.append(view.caption)
    file = json.loads((sample / "annotations" / "instances_val2017.json").read_text())
    assert sum(int(part) for c in captions for part in counts(c)) == len(file["annotations"])
    view.controls["classes"].value = (CLASSES[0],)
    assert all(name not in view.caption for name in CLASSES[1:])
    with pytest.raises(UserError):
        browse(sample, "test")


def counts(caption):
    return [part.split()[0] for part in caption.split("&thinsp;")[1:]]


def test_browse_shows_crowds_dashed(sample, tmp_path):
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
    assert dashed.width == plain.width and dashed.height > plain.height  # there is a legend


def test_compare_puts_both_side_by_side(sample):
    view = compare(Detector(FakeModel(["red circle", None, "dog"]), "cpu"), sample, threshold=0.5)
    assert view.image.width > 1.8 * view.image.height
    truth, _, detected = view.caption.partition("detected:")
    assert counts(truth) and counts(detected) == ["1", "1"]
    assert set(view.controls["classes"].options) == {*CLASSES, "dog"}
    view.controls["classes"].value = ("dog",)
    assert "red circle" not in view.caption and "1 dog" in view.caption
    view.controls["classes"].value = ("blue square",)  # a class that the detector does not know
    assert "detected: " in view.caption and "detected: 1" not in view.caption


def test_compare_rates_move_with_the_threshold(sample):
    detector = Detector(FakeModel(["red circle", None, "blue square"]), "cpu")
    view = compare(detector, sample, threshold=0.5)
    one = view.scene.judged["detected"]
    assert "all 5 images at 0.50" in view.summary and "precision <b>" in view.summary
    before = view.summary
    assert before.count("<polyline") == 3 and view._about.value == before
    view.controls["threshold"].value = 0.95
    one.matches.taken[0], one.matches.counted[0] = 0, True  # as if one was right
    assert "&#9670;&nbsp;best F1" in view.scene.summary(threshold=0.5, classes=())
    one.matches.taken[0] = -1
    assert "at 0.95" in view.summary and view.summary != before and view._about.value == view.summary
    assert "precision —" in view.summary and one.rates(0.95)["recall"] == 0
    assert view.image.size[0] > 1000


def test_compare_walks_through_images_with_errors_alone(sample):
    detector = Detector(FakeModel(["red circle", None, "blue square"]), "cpu")
    view = compare(detector, sample, threshold=0.95)
    one = view.scene.judged["detected"]
    one.matches.found_at[one.matches.truth[:, 0] == 1] = 1.0  # as if all objects of the second image were found
    view.controls["errors"].value = True
    assert view.position.max == 4 and view.index == 0
    view.step(1)
    assert (view.index, view.position.value) == (2, 2)
    view.controls["errors"].value = False
    assert (view.index, view.position.value, view.position.max) == (2, 3, 5)


def test_compare_of_two_detectors_shows_both(sample):
    detectors = [Detector(FakeModel([name, None, "dog"]), "cpu") for name in ("red circle", "blue square")]
    view = compare(detectors, sample, names=["before", "after"], limit=2)
    assert "before, all 2 images" in view.summary and "after, all 2 images" in view.summary
    assert "before: " in view.caption and "after: " in view.caption
    with pytest.raises(UserError, match="a name for each"):
        compare(detectors, sample, names=["one"])


def test_compare_and_explore_take_names_and_networks(sample):
    assert explore("dino-tiny", sample / "val2017").position.max == 5
    view = compare([FakeModel(["red circle", None, "dog"]), "dino-tiny"], sample, limit=1)
    assert "second, all 1 image at" in view.summary
    with pytest.raises(UserError, match="a int finds nothing"):
        compare(7, sample)
    with pytest.raises(UserError, match="a dict finds nothing"):
        explore({}, sample)


def test_compare_takes_results(sample):
    detector = Detector(FakeModel(["red circle", None, "dog"]), "cpu")
    results = detector.predict(sample / "val2017", threshold=0.05)
    whole, part = compare(detector, sample), compare(results[:3], sample)
    assert part.position.max == 3 and part.image.tobytes() == whole.image.tobytes()
    with pytest.raises(UserError, match="no images of these"):
        compare(detector.predict([Image.new("RGB", (9, 9))]), sample)
    with pytest.raises(UserError, match="no results"):
        compare([], sample)


def test_view_of_results_goes_no_lower_than_they_do(sample):
    """Below the threshold that results were made with, rates would be wrong and stay as they are."""
    detector = Detector(FakeModel(["red circle", None, "dog"]), "cpu")
    results = detector.predict(sample / "val2017", threshold=0.05)
    assert compare(results, sample).controls["threshold"].min == 0.05
    results = [result.filter(0.4) for result in results]
    assert compare(results, sample).controls["threshold"].min == 0.4
    assert explore(results).controls["threshold"].min == 0.4
    assert compare(results, sample).scene.judged["detected"].floor == 0.4


def test_compare_of_an_unreadable_image_goes_on(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "copy")
    first = sorted((tmp_path / "copy" / "val2017").iterdir())[0]
    first.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=first.name):
        view = compare(Detector(FakeModel(), "cpu"), tmp_path / "copy")
    assert "is not an image" in view.caption
    view.step(1)
    assert "detected" in view.caption


def test_grid_lays_images_out(detector, images):
    sheet = grid(images, columns=2, titles=["one", "two", "a title far too long for its column " * 9], width=600)
    assert sheet.width == 600
    result = detector.predict(images[0])
    assert grid([result], width=400).size == (400, 200)
    with pytest.raises(UserError, match="no image"):
        grid([])
    with pytest.raises(UserError, match="titles"):
        grid(images, titles=["one"])


def test_view_uses_widgets_of_old_front_ends_alone(detector, images, sample):
    for view in (explore(detector, images), browse(sample), compare(detector, sample)):
        known = {"VBox", "HBox", "IntSlider", "FloatSlider", "SelectMultiple", "Button", "HTML", "Image", "Checkbox"}
        assert set(view_types(view.widget)) <= known
    assert int(ipywidgets.__version__.split(".")[0]) in (7, 8)
