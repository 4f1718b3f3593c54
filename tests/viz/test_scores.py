"""The sheet of the worst images, and the crops behind a cell of the confusion matrix."""

import json

import pytest
from PIL import Image

from dino_nb.data.classes import match_classes
from dino_nb.data.dataset import CocoDataset
from dino_nb.errors import UserError
from dino_nb.evaluation.analysis import analyse_errors
from dino_nb.evaluation.coco import score
from dino_nb.evaluation.collect import ground_truth_as_predictions
from dino_nb.evaluation.evaluate import EvalResult
from dino_nb.viz import confused, pick_confused, worst_images


def evaluation(folder, names, keep=1.0, classes=None, boxes=True):
    """An evaluation on three images with one object a class, of which the first ``keep`` are found."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 100} for i in range(3)]
    for image in images:
        Image.new("RGB", (200, 100), "gray").save(folder / "val2017" / image["file_name"])
    annotations = [
        {"id": i, "image_id": i % 3, "category_id": i % len(names), "bbox": [10 + 3 * i, 5, 50, 40]}
        for i in range(3 * len(names) if boxes else 0)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(data))
    dataset = CocoDataset(folder, "val")
    results = ground_truth_as_predictions(dataset)
    results = results[: round(keep * len(results))]
    match = match_classes(dataset.categories, len(names), dataset.class_names)
    return EvalResult(score(dataset.coco(), results), match, dataset, 1.0, 1.0, {})


def test_worst_images(tmp_path):
    result = evaluation(tmp_path / "a", ["cat", "dog"], keep=0.5)
    errors = analyse_errors(result.dataset.coco(), result.results)
    sheet = worst_images(result, errors, n=2, width=800)
    assert sheet.width == 800 and len(errors.worst(2)) == 2
    assert len(sheet.getcolors(1 << 20)) > 10  # boxes and titles are drawn on the plain images
    assert worst_images(evaluation(tmp_path / "b", ["cat"])) is None


def test_crops_behind_a_cell(tmp_path):
    result = evaluation(tmp_path, ["cat", "dog"], keep=0.5)
    assert confused(result, "cat", "dog") is None
    sheet = confused(result, "cat")  # missed
    assert 160 < sheet.width < 1000 and len(sheet.getcolors(1 << 20)) > 10
    with pytest.raises(UserError, match="Did you mean 'cat'"):
        confused(result, "cats")
    picker = pick_confused(result)
    assert {child.value for child in picker.children[:2]} == {"background"} | {picker.children[0].value}
    picker.update()
