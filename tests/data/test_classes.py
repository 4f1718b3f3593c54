"""Outputs of a model against categories of a data set."""

import pytest

from dino_nb.coco_classes import COCO_CLASSES, COCO_OUTPUTS
from dino_nb.data.classes import match_classes
from dino_nb.errors import UserError


def categories(*pairs):
    return [{"id": i, "name": n} for i, n in pairs]


def test_match_classes_coco_table():
    assert len(COCO_CLASSES) == 80 and len(COCO_OUTPUTS) == 91
    assert [i for i in range(91) if COCO_OUTPUTS[i] is None] == [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    spots = {1: "person", 13: "stop sign", 44: "bottle", 65: "bed", 67: "dining table", 82: "refrigerator"}
    assert {i: COCO_CLASSES[i] for i in spots} == spots and COCO_CLASSES[90] == "toothbrush"


@pytest.mark.parametrize("names", [None, COCO_OUTPUTS])
def test_match_classes_published_head_by_coco_id(names):
    match = match_classes(categories(*COCO_CLASSES.items()), 91, names)
    assert match.label_of == {i: i for i in COCO_CLASSES} == match.category_of
    assert "by COCO id" in match.how and not match.missing and not match.unused
    some = match_classes(categories((44, "Bottle"), (1, "person")), 91, names)
    assert some.label_of == {44: 44, 1: 1} and "by COCO id" in some.how and len(some.unused) == 78


@pytest.mark.parametrize("names", [None, COCO_OUTPUTS])
def test_match_classes_published_head_by_coco_name(names):
    match = match_classes(categories((0, "Traffic_light"), (1, "car"), (2, "tooth brush"), (3, "RBC")), 91, names)
    assert match.label_of == {0: 10, 1: 3}
    assert "by COCO name" in match.how
    assert match.missing == ["tooth brush (did you mean 'toothbrush'?)", "RBC"]
    assert "2 of 4 classes" in str(match) and "RBC" in str(match)


def test_match_classes_by_name_is_loose_in_case_and_spaces_and_exact_wins():
    model = ["cat", "Red  Circle", "Cat", None]
    match = match_classes(categories((9, "Cat"), (5, "cat"), (2**40, "red-circle")), 4, model)
    assert match.label_of == {9: 2, 5: 0, 2**40: 1} and match.category_of == {2: 9, 0: 5, 1: 2**40}
    assert match.how == "by name." and not match.missing and not match.unused


def test_match_classes_two_spellings_one_output():
    match = match_classes(categories((1, "Cat"), (2, "cat")), 1, ["CAT"])
    assert match.label_of == {1: 0} and match.missing == ["cat"]
    assert "cat more than once" in match.how


def test_match_classes_names_win_over_ids():
    match = match_classes(categories((1, "b"), (2, "a")), 2, ["a", "b"], [1, 2])
    assert match.label_of == {1: 1, 2: 0}


def test_match_classes_ids_on_request_and_for_a_head_without_names():
    assert match_classes(categories((5, "x"), (3, "y")), 2, ["a", "b"], [3, 5], by="id").label_of == {5: 1, 3: 0}
    assert match_classes(categories((1, "RBC"), (2, "WBC")), 91, by="id").label_of == {1: 1, 2: 2}
    match = match_classes(categories((1, "RBC"), (7, "WBC")), 4)
    assert match.label_of == {1: 1} and match.missing == ["WBC (id 7)"] and "no class names" in match.how


def test_match_classes_nothing_in_common():
    with pytest.raises(UserError, match=r"RBC.*person.*--classes id"):
        match_classes(categories((1, "RBC")), 91)
    with pytest.raises(UserError, match=r"Data set: RBC. Model: a, b\. Fine-tune it .* choose another checkpoint\.$"):
        match_classes(categories((1, "RBC")), 2, ["a", "b"])
    with pytest.raises(UserError, match="no category"):
        match_classes(categories((100, "RBC")), 4)
    with pytest.raises(UserError, match="no class names"):
        match_classes(categories((1, "RBC")), 4, by="name")
    with pytest.raises(UserError, match="Did you mean 'name'"):
        match_classes(categories((1, "RBC")), 4, by="names")
