import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dino_nb.data.dataset import CocoDataset
from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector
from dino_nb.prepare.convert import convert_dataset
from tests.inference.fake import FakeModel


@pytest.fixture
def detector():
    return Detector(FakeModel(), "cpu")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pets.jpg"
    Image.new("RGB", (200, 100), "grey").save(path)
    return path


def test_result_is_taken_by_supervision(detector, path):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed (extra 'test' has it)")
    result = detector.predict(path)
    names = dict(enumerate(detector.class_names))
    detections = supervision.Detections.from_transformers(result, id2label=names)
    np.testing.assert_array_equal(detections.xyxy, result["boxes"].numpy())
    np.testing.assert_array_equal(detections.class_id, [0, 2])
    np.testing.assert_allclose(detections.confidence, [0.9, 0.6], rtol=1e-6)
    assert detections.data["class_name"].tolist() == ["cat", "dog"]
    assert len(supervision.Detections.from_transformers(detector.predict(path, threshold=1.0))) == 0


def test_to_supervision_brings_class_names(detector, path):
    pytest.importorskip("supervision", reason="supervision is not installed (extra 'test' has it)")
    result = detector.predict(path)
    detections = result.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, result.boxes.numpy())
    assert detections.data["class_name"].tolist() == ["cat", "dog"]
    assert detections.class_id.tolist() == [0, 2]
    assert len(detector.predict(path, threshold=1.0).to_supervision()) == 0


def test_result_is_a_sequence_of_detections(detector, path):
    result = detector.predict(path)
    assert len(result) == 2 and result
    assert [d.name for d in result] == result.names == ["cat", "dog"]
    assert result[0] == result[-2]
    assert (result[0].name, result[0].label, result[0].box) == ("cat", 0, pytest.approx((80, 30, 120, 70)))
    assert result[1:].names == ["dog"] and result[1:].size == (200, 100)
    assert not detector.predict(path, threshold=1.0)
    with pytest.raises(IndexError):
        result[2]


def test_result_is_a_mapping_of_columns(detector, path):
    result = detector.predict(path)
    assert list(dict(result)) == ["scores", "labels", "boxes", "names"] == list(result.keys())
    for key in ("scores", "labels", "boxes"):
        assert result[key] is getattr(result, key) and key in result
    assert "masks" not in result
    with pytest.raises(KeyError, match="Did you mean 'boxes'"):
        result["boxe"]


def test_to_pandas_has_a_row_per_detection(detector, path, monkeypatch):
    frames = SimpleNamespace(DataFrame=lambda rows, columns: [dict(zip(columns, row)) for row in rows])
    monkeypatch.setitem(sys.modules, "pandas", frames)
    first, second = detector.predict(path).to_pandas()
    assert first["file"] == str(path) and first["score"] == pytest.approx(0.9)
    assert [second[key] for key in ("name", "x0", "y0", "x1", "y1", "label")] == ["dog", 0, 0, 100, 50, 2]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        detector.predict(path).to_pandas()


def test_draw_leaves_out_names_on_request_and_where_they_repeat(detector, path):
    result = detector.predict(path)
    full, bare, unscored = result.draw(), result.draw(labels=False, scores=False), result.draw(scores=False)
    assert len({image.tobytes() for image in (full, bare, unscored)}) == 3
    single = Detector(FakeModel(["cat", None, None]), "cpu").predict(path)
    assert single.draw().tobytes() == single.draw(labels=False).tobytes()
    assert single.draw(labels=True).tobytes() != single.draw().tobytes()


def test_draw_takes_colours_of_some_classes(detector, path):
    assert detector.predict(path).draw(colors={"cat": "#123456"}).size == (200, 100)


def test_show_opens_the_drawn_image(detector, path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.get_ipython", lambda: None)  # an earlier test may have made a shell
    monkeypatch.setattr(Image.Image, "show", lambda image, title=None: shown.append((image.size, title)))
    detector.predict(path).show()
    assert shown == [((480, 240), "pets.jpg")]


def test_filter_makes_a_new_result(detector, path):
    result = detector.predict(path, threshold=0.05)
    assert result.filter(threshold=0.5).names == ["cat", "dog"]
    assert result.filter(classes="dog").names == ["dog", "dog"]
    assert result.filter(classes=["dog", 0], max_detections=2).names == ["cat", "dog"]
    assert result.filter(classes=[]).names == []
    assert result.names == ["cat", "dog", "dog"]
    kept = result.filter(threshold=0.5)
    assert (kept.path, kept.size, kept.class_names) == (result.path, result.size, result.class_names)
    with pytest.raises(UserError, match="Did you mean 'cat'"):
        result.filter(classes="cats")
    with pytest.raises(UserError, match="class number 3"):
        result.filter(classes=3)


def test_to_dict_has_the_plain_numbers(detector, path):
    entry = json.loads(json.dumps(detector.predict(path).to_dict()))
    assert (entry["file"], entry["width"], entry["height"]) == (str(path), 200, 100)
    assert entry["detections"] == [
        {"name": "cat", "label": 0, "score": 0.9, "box": [80, 30, 120, 70]},
        {"name": "dog", "label": 2, "score": 0.6, "box": [0, 0, 100, 50]},
    ]


def test_save_writes_the_drawn_image_and_never_the_source(detector, path, tmp_path):
    result = detector.predict(path)
    saved = result.save(tmp_path / "deep" / "drawn.png")
    assert Image.open(saved).size == (200, 100)
    np.testing.assert_array_equal(np.asarray(Image.open(saved)), np.asarray(result.draw()))
    assert [p.name for p in saved.parent.iterdir()] == ["drawn.png"]
    before = path.read_bytes()
    with pytest.raises(UserError, match="overwritten"):
        result.save(path)
    with pytest.raises(UserError, match="cannot be written as drawn"):
        result.save(tmp_path / "drawn.xyz")
    assert path.read_bytes() == before


def test_a_notebook_shows_a_image_of_moderate_size(detector, tmp_path):
    for size, shown in (((4000, 1000), (1000, 250)), ((60, 30), (480, 240))):
        image = detector.predict(Image.new("RGB", size))._repr_png_()
        (tmp_path / "shown.png").write_bytes(image)
        assert Image.open(tmp_path / "shown.png").size == shown


def test_result_of_a_file_keeps_no_pixels(detector, path):
    result = pickle.loads(pickle.dumps(detector.predict(path)))
    assert len(pickle.dumps(result)) < 10_000
    assert result.image.size == (200, 100)
    assert result.names == ["cat", "dog"] and torch.equal(result["labels"], torch.tensor([0, 2]))


def test_result_says_that_its_image_was_dropped(detector):
    result = detector.predict(Image.new("RGB", (20, 20))).drop_image()
    assert result._repr_png_() is None
    with pytest.raises(UserError, match="stream"):
        result.draw()


def test_result_text_counts_the_objects(detector, path):
    assert repr(detector.predict(path, threshold=0.05)) == "Result(pets.jpg, 200 x 100: 2 dog, 1 cat)"
    assert repr(detector.predict(path, threshold=1.0)) == "Result(pets.jpg, 200 x 100: nothing found)"


@pytest.fixture
def folder(tmp_path):
    for name in ("a/same.jpg", "b/same.jpg", "b/tall.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 60 if "same" in name else 150), "grey").save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_results_save_writes_images_and_a_json(detector, folder, tmp_path):
    results = detector.predict([folder / "a", folder / "b", np.zeros((9, 9, 3), np.uint8)])
    saved = results.save(tmp_path / "out")
    entries = json.loads((saved / "predictions.json").read_text(encoding="utf-8"))
    names = [entry["output"] for entry in entries]
    assert len(set(names)) == 4 and [names[0], *names[2:]] == ["same.jpg", "tall.png", "image_000003.png"]
    assert entries[0]["detections"] == results[0].to_dict()["detections"]
    assert {p.name for p in saved.iterdir()} == {"predictions.json", *(entry["output"] for entry in entries)}
    assert [p.name for p in results.save(tmp_path / "numbers", images=False).iterdir()] == ["predictions.json"]
    with pytest.raises(UserError, match="one of the sources"):
        results.save(folder / "a")
    assert [p.name for p in (folder / "a").iterdir()] == ["same.jpg"]


@pytest.mark.parametrize("format", ["labelme", "yolo", "voc", "cvat", "coco"])
def test_save_labels_come_back_through_convert(detector, folder, tmp_path, format):
    """Predict, correct, train: what is written is what convert reads."""
    results = detector.predict([folder / "a", folder / "b"])
    saved = results.save_labels(tmp_path / "labels", format)
    convert_dataset(saved, tmp_path / "coco", val_fraction=0)
    data = CocoDataset(tmp_path / "coco", "train")
    assert sorted(data.class_names) == ["cat", "dog"] and len(data) == 3
    sizes = {tuple(data.size(i)) for i in range(3)}
    assert sizes == {(60, 100), (150, 100)}
    for i in range(3):
        target = data.target(i)
        want = next(r for r in results if (r.size[1], r.size[0]) == data.size(i))
        names = [data.class_names[label] for label in target["labels"].tolist()]
        assert sorted(names) == sorted(want.names)
        for name, box in zip(names, target["boxes"].as_subclass(torch.Tensor)):
            np.testing.assert_allclose(box, want.boxes[want.names.index(name)], atol=0.02)


def test_results_filter_every_image(detector, folder):
    results = detector.predict(folder / "b", threshold=0.05).filter(0.7)
    assert [r.names for r in results] == [["cat"], ["cat"]] and results[0].threshold == 0.7
    assert results.skipped == []


def test_save_labels_says_what_is_wrong(detector, folder, tmp_path):
    results = detector.predict([folder / "a"])
    with pytest.raises(UserError, match="Did you mean 'labelme'"):
        results.save_labels(tmp_path / "x", "labelm")
    with pytest.raises(UserError, match="no results"):
        detector.predict([]).save_labels(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_to_coco_cuts_boxes_at_the_border(detector, folder):
    results = detector.predict(folder / "b", threshold=0.05)
    data = results.to_coco()
    assert [image["file_name"] for image in data["images"]] == ["same.jpg", "tall.png"]
    assert [category["name"] for category in data["categories"]] == ["cat", "dog"]
    last = data["annotations"][2]
    assert (last["image_id"], last["category_id"], last["score"]) == (1, 2, pytest.approx(0.1))
    assert last["bbox"] == pytest.approx([70, 42, 30, 18])  # of a box that reaches 10 % over the border
    assert results[1].to_coco()["images"][0]["height"] == 150
