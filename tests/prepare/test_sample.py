import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.prepare.folders import SAMPLE_MARK
from dino_nb.prepare.sample import CLASSES, FORMATS, KINDS, _image, make_sample


def _digest(folder):
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return [(p.relative_to(folder).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


@pytest.mark.parametrize("format", FORMATS)
def test_sample_gives_the_same_bytes_and_seeds_differ(tmp_path, format):
    runs = [_digest(make_sample(tmp_path / str(i), 3, 2, seed=i // 2, format=format)) for i in range(3)]
    assert runs[0] == runs[1] != runs[2]


def test_sample_as_coco_is_a_finished_cocodir(tmp_path):
    folder = make_sample(tmp_path / "s", n_train=10, n_val=5)
    for split, count in (("train", 10), ("val", 5)):
        coco = json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())
        assert [c["name"] for c in coco["categories"]] == list(CLASSES)
        assert len(coco["images"]) == count
        assert {a["category_id"] for a in coco["annotations"]} == {1, 2, 3, 4, 5}
        sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"]}
        for image in coco["images"]:
            with Image.open(folder / f"{split}2017" / image["file_name"]) as opened:
                assert opened.size == sizes[image["id"]]
                assert 160 <= opened.width <= 240 and 128 <= opened.height <= 200
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            width, height = sizes[a["image_id"]]
            assert w >= 8 and h >= 8 and x >= 0 and y >= 0 and x + w <= width and y + h <= height
            assert a["area"] == w * h and a["iscrowd"] == 0


def test_sample_formats_hold_the_same_boxes(tmp_path):
    folders = {f: make_sample(tmp_path / f, 3, 2, format=f) for f in FORMATS}
    coco = json.loads((folders["coco"] / "annotations" / "instances_train2017.json").read_text())
    image = coco["images"][0]
    boxes = [a["bbox"] for a in coco["annotations"] if a["image_id"] == image["id"]]
    stem = Path(image["file_name"]).stem
    objects = ET.parse(folders["voc"] / "Annotations" / f"{stem}.xml").getroot().findall("object")
    corners = [[int(o.find("bndbox")[i].text) for i in range(4)] for o in objects]
    assert [[x, y, x + w, y + h] for x, y, w, h in boxes] == corners
    rows = (folders["yolo"] / "labels" / "train" / f"{stem}.txt").read_text().splitlines()
    size = (image["width"], image["height"]) * 2
    yolo = [[float(v) * s for v, s in zip(row.split()[1:], size)] for row in rows]
    assert [[x + w / 2, y + h / 2, w, h] for x, y, w, h in boxes] == [pytest.approx(b, abs=1e-4) for b in yolo]


def test_default_shapes_never_change():
    """dino-tiny was trained on these very pixels."""
    digest = hashlib.sha256()
    for number in range(1, 6):
        pixels, boxes = _image(np.random.default_rng([0, number]), first_class=number - 1)
        digest.update(pixels.tobytes() + repr(boxes).encode())
    assert digest.hexdigest() == "43f5a3643849e83dc10dd980d10da699e23257397b667da8f3fbfa437d014ca9"


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_deterministic_and_have_every_class(tmp_path, kind):
    runs = [_digest(make_sample(tmp_path / str(i), 5, 4, seed=i // 2, kind=kind)) for i in range(3)]
    assert runs[0] == runs[1] != runs[2]
    for split, count in (("train", 5), ("val", 4)):
        coco = json.loads((tmp_path / "0/annotations" / f"instances_{split}2017.json").read_text())
        sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"]}
        assert len(sizes) == count
        assert {a["category_id"] for a in coco["annotations"]} >= set(range(1, 1 + min(count, len(coco["categories"]))))
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            width, height = sizes[a["image_id"]]
            assert w >= 6 and h >= 6 and x >= 0 and y >= 0 and x + w <= width and y + h <= height


def test_classes_are_drawn_in_the_order_given(tmp_path):
    classes = ["red circle", "orange star", "white crescent", "cyan cross"]
    folder = make_sample(tmp_path / "s", 8, 4, classes=classes)
    coco = json.loads((folder / "annotations/instances_train2017.json").read_text())
    assert [c["name"] for c in coco["categories"]] == classes
    assert {a["category_id"] for a in coco["annotations"]} == {1, 2, 3, 4}
    with pytest.raises(UserError, match="Did you mean 'orange star'"):
        make_sample(tmp_path / "n", classes=["orange stra"])
    with pytest.raises(UserError, match="Did you mean 'aerial'"):
        make_sample(tmp_path / "n", kind="arial")


def test_sample_made_again_is_left_alone_unless_damaged(tmp_path):
    folder = make_sample(tmp_path / "s", 3, 1)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    make_sample(folder, 3, 1)
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    known = _digest(folder)
    (folder / "train2017/shapes_0002.jpg").write_bytes(b"cut")
    make_sample(folder, 3, 1)
    assert _digest(folder) == known
    (folder / "val2017/shapes_0004.jpg").unlink()
    make_sample(folder, 3, 1)
    assert _digest(folder) == known


def test_sample_keeps_the_users_files(tmp_path):
    folder = make_sample(tmp_path / "s", 3, 1)
    for name in ("notes.txt", "train2017/mine.jpg", "logs/a/log.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    mark = folder / SAMPLE_MARK
    mark.write_text(mark.read_text() + f"0 ../outside.txt\n0 {outside}\n")
    make_sample(folder, 2, 2, format="yolo")
    make_sample(folder, 2, 1, kind="cells")
    assert all((folder / n).read_text() == "mine" for n in ("notes.txt", "train2017/mine.jpg", "logs/a/log.jsonl"))
    assert outside.read_text() == "mine"
    assert sorted(p.name for p in folder.rglob("*.jpg")) == [
        "cells_0001.jpg",
        "cells_0002.jpg",
        "cells_0003.jpg",
        "mine.jpg",
    ]


def test_sample_of_an_earlier_version_is_replaced(tmp_path):
    folder = make_sample(tmp_path / "s", 3, 1)
    (folder / SAMPLE_MARK).write_text("A generated sample; it is replaced when made again.\n")
    make_sample(folder, 2, 1)
    assert len(list((folder / "train2017").iterdir())) == 2


def test_interrupted_sample_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return _image(*arguments)

    monkeypatch.setattr("dino_nb.prepare.sample._image", stop)
    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path / "s", 3, 1)
    monkeypatch.undo()
    assert _digest(make_sample(tmp_path / "s", 2, 2, format="voc")) == _digest(
        make_sample(tmp_path / "t", 2, 2, format="voc")
    )


def test_sample_is_replaced_and_anything_else_is_refused(tmp_path):
    make_sample(tmp_path / "s", 4, 1)
    make_sample(tmp_path / "s", 2, 1)
    assert len(list((tmp_path / "s" / "train2017").iterdir())) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="something else"):
        make_sample(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(UserError, match="Did you mean 'coco'"):
        make_sample(tmp_path / "n", format="cocco")
