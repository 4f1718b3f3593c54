import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.prepare.sample import CLASSES, FORMATS, make_sample


def _digest(folder):
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return [(p.relative_to(folder).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


@pytest.mark.parametrize("format", FORMATS)
def test_two_runs_give_the_same_bytes_and_seeds_differ(tmp_path, format):
    runs = [_digest(make_sample(tmp_path / str(i), 3, 2, seed=i // 2, format=format)) for i in range(3)]
    assert runs[0] == runs[1] != runs[2]


def test_the_coco_form_is_a_finished_cocodir(tmp_path):
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


def test_the_three_forms_hold_the_same_boxes(tmp_path):
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


def test_a_sample_is_replaced_and_anything_else_is_refused(tmp_path):
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
