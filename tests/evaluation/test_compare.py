"""Two evaluations compared: the bootstrap against one by hand, saved results, and what cannot be compared."""

import json
import shutil

import numpy as np
import pytest

import dino_nb
from dino_nb.data.coco_file import to_pycocotools
from dino_nb.data.dataset import CocoDataset
from dino_nb.errors import UserError
from dino_nb.evaluation import compare as module
from dino_nb.evaluation.coco import score
from dino_nb.evaluation.compare import compare
from tests.evaluation.oracle import odd_cocodir
from tests.evaluation.test_coco import random_case
from tests.evaluation.test_evaluate import oracle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return odd_cocodir(tmp_path_factory.mktemp("data") / "odd")


@pytest.fixture
def evaluated(folder, tmp_path):
    return dino_nb.evaluate(folder, oracle(folder), output_dir=tmp_path / "a", check=False, progress=False)


def without(result, kept):
    """The saved results with those alone that ``kept`` says."""
    path = result.output_dir.parent / "b" / "results.json"
    path.parent.mkdir()
    shutil.copy(result.output_dir / "report.json", path.parent)
    path.write_text(json.dumps([r for r in result.results if kept(r)]))
    return path


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("seed", range(12))
def test_bootstrap_with_every_image_once_is_coco(seed):
    truth, results = random_case(seed)
    scores = score(to_pycocotools(truth), results)
    found = module._bootstrap(scores, np.ones((1, len(truth["images"])), int), module._AREAS)
    assert set(found) == set(scores.metrics)
    for name, values in found.items():
        assert np.nan_to_num(np.nanmean(values), nan=-1) == pytest.approx(scores.metrics[name]), name
    for k, row in enumerate(scores.per_class):
        if row["objects"]:
            assert [found[n][0, k].mean() for n in ("AP", "AP50", "AR100")] == pytest.approx(
                [row["AP"], row["AP50"], row["AR100"]]
            )
        else:
            assert np.isnan(found["AP"][0, k]).all()


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_bootstrap_counts_an_image_as_often_as_it_is_drawn():
    """As if the image was there twice, under another id."""
    truth, results = random_case(5, images=3)
    results = [{**r, "score": r["score"] + i * 1e-6} for i, r in enumerate(results)]
    scores = score(to_pycocotools(truth), results)
    twice = {**truth, "images": [*truth["images"], {"id": 99, "file_name": "again.jpg"}]}
    twice["annotations"] = truth["annotations"] + [
        {**a, "id": 1000 + i, "image_id": 99} for i, a in enumerate(truth["annotations"]) if a["image_id"] == 11
    ]
    again = score(to_pycocotools(twice), results + [{**r, "image_id": 99} for r in results if r["image_id"] == 11])
    found = module._bootstrap(scores, np.array([[1, 2, 1]]), module._AREAS)
    for name in ("AP", "APs", "APl", "AR1", "AR10"):
        assert np.nan_to_num(np.nanmean(found[name][0]), nan=-1) == pytest.approx(again.metrics[name], abs=1e-9)


def test_compare_says_that_worse_results_are_worse(evaluated, folder):
    worse = without(evaluated, lambda r: r["bbox"][0] < 6)
    found = compare(evaluated, worse)
    row = found.rows[0]
    assert row["difference"] == pytest.approx(found.b.metrics["AP"] - 1) and row["difference"] < -0.3
    assert row["low"] <= row["difference"] <= row["high"] < 0 and row["verdict"] == "worse"
    assert "is worse, measured on 5 images" in str(found) and f"AP {100 * row['difference']:+.1f} [" in str(found)
    assert [r["name"] for r in found.per_class] == ["cat", "Dog_house", "Red  Circle"]
    image, before, after = found.changed[0]
    assert before == 1 and after < 0.6 and image in evaluated.image_ids
    assert compare(worse, evaluated).rows[0]["verdict"] == "better"
    found.write(evaluated.output_dir)
    page = (evaluated.output_dir / "comparison.html").read_text()
    assert page.count("<img") == 3 * min(4, len(found.changed))
    saved = json.loads((evaluated.output_dir / "comparison.json").read_text())
    assert saved["metrics"][0]["difference"] == row["difference"] and saved["images"] == 5


def test_compare_cannot_tell_equal_results_apart(evaluated):
    found = compare(evaluated.output_dir, evaluated.output_dir / "results.json")
    assert found.sentence() == "AP +0.0 [+0.0, +0.0]: the two cannot be told apart on 5 images."
    assert found.changed == [] and found.images() == []


def test_compare_takes_common_images_alone(evaluated, folder):
    some = dino_nb.evaluate(folder, oracle(folder), limit=3, check=False, progress=False)
    found = compare(evaluated, some)
    assert found.a.image_ids == found.b.image_ids == some.image_ids and found.rows[0]["difference"] == 0
    assert len(evaluated.image_ids) == 5  # what was given is left alone


def test_saved_results_give_the_numbers_of_the_evaluation(evaluated, folder):
    for given in (evaluated.output_dir, str(evaluated.output_dir / "results.json")):
        assert module._result(given, None, None, {}).metrics == evaluated.metrics
    (evaluated.output_dir / "report.json").unlink()
    assert module._result(evaluated.output_dir, folder, None, {}).metrics == evaluated.metrics
    with pytest.raises(UserError, match="nothing says which data set"):
        compare(evaluated.output_dir, evaluated)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[{]", "cannot be read as results"),
        ('{"images": []}', "does not hold COCO results"),
        ('[{"image_id": 9}]', "number 0"),
        ('[{"image_id": 9, "category_id": 0, "bbox": [1, 2, 3, NaN], "score": 0.5}]', "finite"),
        ('[{"image_id": 9, "category_id": 0, "bbox": [1, 2, 3, 4], "score": NaN}]', "finite"),
        ('[{"image_id": 123, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 1}]', "image_id 123"),
        ('[{"image_id": [], "category_id": 0, "bbox": [1, 2, 3, 4], "score": 1}]', "image_id"),
        ('[{"image_id": 9, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 1}]', "category_id 5"),
        ("[" * 100_000, "cannot be read as results"),
    ],
)
def test_results_file_that_is_damaged_or_foreign_is_named(evaluated, folder, tmp_path, content, message):
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        compare(evaluated, file, folder)
    assert str(file) in str(error.value)


def test_results_file_that_is_not_there(evaluated, folder, tmp_path):
    with pytest.raises(UserError, match=r"there is no file or folder .*nowhere.json"):
        compare(evaluated, tmp_path / "nowhere.json", folder)


def test_compare_of_checkpoints_needs_the_data_set(evaluated):
    with pytest.raises(UserError, match="name the data set"):
        compare("dino-tiny", evaluated)


def test_compare_refuses_other_classes(evaluated, folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    file = other / "annotations/instances_val2017.json"
    file.write_text(
        file.read_text().replace('"id": 17,', '"id": 18,').replace('"category_id": 17', '"category_id": 18')
    )
    model = oracle(other, label_of={10**12: 3, 0: 2, 18: 0})
    with pytest.raises(UserError, match="different classes"):
        compare(evaluated, dino_nb.evaluate(other, model, check=False, progress=False))
    assert isinstance(evaluated.dataset, CocoDataset)
