"""COCO in its variants; every fault is named by entry or line."""

import json

import pytest

from tests.prepare.annotation_writers import (
    PLAIN,
    SIZE,
    coco_dict,
    convert,
    faults,
    put,
    put_images,
    read_back,
)


def coco_source(root, change=lambda document: None, **options):
    put_images(root, PLAIN)
    document = coco_dict(PLAIN, ["cat", "dog"], **options)
    change(document)
    put(root / "labels.json", document)
    return root


def test_coco_zero_based_ids_with_gaps_and_text_ids(tmp_path):
    def change(document):
        document["categories"][1]["id"] = 4_000_000_000
        for a in document["annotations"]:
            a["category_id"] = 4_000_000_000 if a["category_id"] == 1 else 0
            a["image_id"] = str(a["image_id"])

    report = convert(coco_source(tmp_path / "s", change, first_id=0), tmp_path / "o")
    assert {n: sorted(b) for n, (_, b) in PLAIN.items()} == read_back(tmp_path / "o")
    mapping = json.loads((tmp_path / "o/mapping.json").read_text())
    assert [c["original_id"] for c in mapping["categories"]] == [0, 4_000_000_000]
    assert "ids as text" in str(report)


def roboflow(root, placeholder_used=False):
    for split, names in (("train", ["a.png", "b.png", "c.png"]), ("valid", ["a.png", "d.png"]), ("test", ["e.png"])):
        put_images(root / split, [f"{split}_{n}" for n in names], size=(64, 40 + len(split)))
        dataset = {
            f"{split}_{n}": ((64, 40 + len(split)), [("WBC", 1, 2, 30, 31), ("RBC", 5, 6, 9, 12)]) for n in names
        }
        document = coco_dict(dataset, ["cells", "RBC", "WBC"], first_id=0)
        for category in document["categories"]:
            category["supercategory"] = "none" if category["id"] == 0 else "cells"
        if placeholder_used:
            document["annotations"][0]["category_id"] = 0
        put(root / split / "_annotations.coco.json", document)
    return root


def test_roboflow_splits_and_placeholder_class(tmp_path):
    report = convert(roboflow(tmp_path / "s"), tmp_path / "o")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert list(report.classes) == ["RBC", "WBC"] and not report.own_split
    assert "placeholder category 0 'cells'" in str(report)
    assert "has the id" not in str(report)


def test_placeholder_class_with_annotations_stays(tmp_path):
    report = convert(roboflow(tmp_path / "s", placeholder_used=True), tmp_path / "o")
    assert list(report.classes) == ["cells", "RBC", "WBC"]


def test_coco_a_json_a_split_beside_other_files(tmp_path):
    src = tmp_path / "s"
    for i, split in enumerate(("train", "val")):
        data = {f"{split}{n}.png": (SIZE, [("cat", 1, 1, 9 + n, 9)]) for n in range(2 + i)}
        put_images(src / f"{split}2017", data, size=(64, 48 + i))
        put(src / "annotations" / f"instances_{split}2017.json", coco_dict(data, ["cat"]))
        put(src / "annotations" / f"captions_{split}2017.json", {"images": [], "annotations": [{"caption": "x"}]})
    report = convert(src, tmp_path / "o")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 2, "val": 3}


def test_coco_keeps_crowds_and_given_areas(tmp_path):
    def change(document):
        document["annotations"][0] |= {"iscrowd": 1, "area": 17.5}

    convert(coco_source(tmp_path / "s", change), tmp_path / "o", val_fraction=0)
    coco = json.loads((tmp_path / "o/annotations/instances_train2017.json").read_text())
    assert coco["annotations"][0]["iscrowd"] == 1 and coco["annotations"][0]["area"] == 17.5
    assert coco["annotations"][1]["area"] == pytest.approx(29.5 * 41.75)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"][2].update(bbox=[1, 2, 3]), r"annotations[2] (id 3): bbox must be four"),
        (lambda d: d["annotations"][2].update(bbox=[1, 2, "x", 3]), "annotations[2] (id 3): bbox"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, float("nan"), 3]), "annotations[0] (id 1): bbox"),
        (lambda d: d["annotations"][1].update(image_id=99), "annotations[1] (id 2): image_id 99"),
        (lambda d: d["annotations"][1].update(category_id=9), "annotations[1] (id 2): category_id 9"),
        (lambda d: d["images"][1].update(id=1), "images[1]: image id 1 is there twice"),
        (lambda d: d["images"][3].update(file_name="p33.png"), "images[3]: there is no image 'p33.png'"),
        (lambda d: d["images"][3].update(file_name="../../etc/passwd.png"), "there is no image"),
        (lambda d: d["images"][3].pop("file_name"), "images[3]: an image needs"),
        (lambda d: d["categories"][1].update(id=1), "categories[1]: category id 1 is there twice"),
        (lambda d: d.pop("categories"), "labels.json: the list 'categories' is missing"),
    ],
)
def test_coco_faults_name_the_entry(tmp_path, change, said):
    assert said in faults(coco_source(tmp_path / "s", change), tmp_path)


def test_coco_corners_and_fractions_in_place_of_xywh_are_noticed(tmp_path):
    def corners(document):
        for a in document["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"] = [x + 20, y + 15, min(x + w + 20, 64), min(y + h + 15, 48)]

    assert "--box-format xyxy" in faults(coco_source(tmp_path / "a", corners), tmp_path)
    convert(tmp_path / "a", tmp_path / "o", box_format="xyxy")
    assert read_back(tmp_path / "o")["p0.png"][0] == ("cat", 24, 20, 40, 45)

    def fractions(document):
        for a in document["annotations"]:
            a["bbox"] = [v / s for v, s in zip(a["bbox"], SIZE * 2)]

    assert "--box-format xywh-relative" in faults(coco_source(tmp_path / "b", fractions), tmp_path)
    convert(tmp_path / "b", tmp_path / "p", box_format="xywh-relative")
    assert read_back(tmp_path / "p") == {n: sorted(b) for n, (_, b) in PLAIN.items()}


def test_one_json_of_images_in_folders_of_splits(tmp_path):
    dataset = {f"{split}/{i}.png": (SIZE, [("cat", 1, 1, 9, 9)]) for split in ("train", "val") for i in range(3)}
    put_images(tmp_path / "s", dataset)
    put(tmp_path / "s/all.json", coco_dict(dataset, ["__background__", "cat"], first_id=0))
    report = convert(tmp_path / "s", tmp_path / "o")
    assert not report.own_split and report.splits["val"]["images"] == 3
    assert list(report.classes) == ["cat"]


def test_json_that_does_not_even_look_like_coco_is_read_when_told(tmp_path):
    src = coco_source(tmp_path / "s")
    (src / "labels.json").write_text("{images: [], annotations: []}")
    assert "known format" in faults(src, tmp_path)
    assert "labels.json:1: column 2" in faults(src, tmp_path, format="coco")


def test_json_errors_have_line_and_column(tmp_path):
    src = coco_source(tmp_path / "s")
    text = (src / "labels.json").read_text().replace('"annotations"', '\n"annotations" oops', 1)
    (src / "labels.json").write_text(text)
    assert "labels.json:2: column 15" in faults(src, tmp_path)
    (src / "labels.json").write_text('{"images": [], "annotations": ' + "[" * 100_000)
    assert "nested too deeply" in faults(src, tmp_path)
    (src / "labels.json").write_bytes(b'{"images": [\n"caf\xe9"], "annotations": []}')
    assert "labels.json:2: byte 0xe9 is not UTF-8" in faults(src, tmp_path)
