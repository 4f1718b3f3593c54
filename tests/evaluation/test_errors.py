"""One planted error of each kind is found, counted and costed."""

import pytest

from dino_nb.data.coco_file import to_pycocotools
from dino_nb.evaluation.coco import score
from dino_nb.evaluation.errors import KINDS, analyse_errors

A, B = 0, 7  # category ids


def truth(*objects, images=(1, 2, 3)):
    """``objects``: (image, category, x) of 100-pixel squares; category "crowd" makes a crowd of A."""
    annotations = [
        {
            "id": i,
            "image_id": image,
            "category_id": A if category == "crowd" else category,
            "bbox": [x, 0, 100, 100],
            "area": 1e4,
            "iscrowd": int(category == "crowd"),
        }
        for i, (image, category, x) in enumerate(objects)
    ]
    categories = [{"id": A, "name": "a"}, {"id": B, "name": "b"}]
    images = [{"id": i, "file_name": str(i)} for i in images]
    return to_pycocotools({"images": images, "categories": categories, "annotations": annotations})


def found(image, category, x, certain=0.9):
    return {"image_id": image, "category_id": category, "bbox": [x, 0, 100, 100], "score": certain}


OBJECTS = [(1, A, 0), (1, B, 1000), (2, A, 0), (2, B, 1000)]
RIGHT = [found(*o, 0.8) for o in OBJECTS]


def test_no_errors():
    errors = analyse_errors(truth(*OBJECTS), RIGHT)
    assert dict(errors.counts) == {"correct": 4} and errors.ap50 == pytest.approx(1)
    assert set(errors.cost) == set(KINDS) and not any(errors.cost.values()) and errors.worst() == []


@pytest.mark.parametrize(
    "kind, results",
    [
        ("missed", RIGHT[:3]),
        ("confused", [*RIGHT[:3], found(2, A, 1010)]),
        ("localisation", [*RIGHT[:3], found(2, B, 1060)]),
        ("both", [*RIGHT, found(2, A, 1060)]),
        ("duplicate", [*RIGHT, found(2, B, 1010, 0.85)]),
        ("background", [*RIGHT, found(2, B, 5000)]),
    ],
)
def test_one_of_each(kind, results):
    errors = analyse_errors(truth(*OBJECTS), results)
    expected = {"correct": 3, kind: 1} if results[:4] != RIGHT else {"correct": 4, kind: 1}
    if kind == "duplicate":  # the surer one is the match, the exact one repeats it
        expected = {"correct": 4, "duplicate": 1}
    assert dict(errors.counts) == expected
    assert errors.worst() == [2] and errors.images[1] == {"correct": 2}
    if kind != "duplicate":
        assert errors.ap50 < 0.99
    assert errors.ap50 + errors.cost[kind] == pytest.approx(1)  # putting it right makes it perfect
    assert f"{kind:13}      1" in str(errors)


def test_crowds_are_no_errors():
    errors = analyse_errors(truth(*OBJECTS, (3, "crowd", 0)), [*RIGHT, found(3, A, 10), found(3, A, 12)])
    assert dict(errors.counts) == {"correct": 4} and errors.ap50 == pytest.approx(1)


def test_counts_are_of_certain_detections_costs_of_all():
    results = [*RIGHT[:3], found(2, B, 1000, 0.1), found(3, B, 0, 0.2)]
    errors = analyse_errors(truth(*OBJECTS), results, threshold=0.5)
    assert dict(errors.counts) == {"correct": 3, "missed": 1}
    assert errors.cost["background"] > 0 and errors.cost["missed"] == 0


def test_nothing_found_and_subset():
    coco = truth(*OBJECTS)
    errors = analyse_errors(coco, [])
    assert errors.counts == {"missed": 4} and errors.ap50 == 0
    assert analyse_errors(coco, RIGHT[:2], image_ids=[1]).ap50 == score(coco, RIGHT[:2], [1]).metrics["AP50"]
    assert list(analyse_errors(coco, RIGHT, image_ids=[2, 3]).images) == [2, 3]
