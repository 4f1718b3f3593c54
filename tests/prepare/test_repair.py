import errno
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from dino_nb.cli import main
from dino_nb.data.coco_file import read_coco
from dino_nb.data.images import open_image
from dino_nb.errors import UserError
from dino_nb.prepare.check import check_dataset
from dino_nb.prepare.repair import LOG, fix_dataset
from tests.prepare.planting import LABEL, edit, image_file, make_valid, read


@pytest.fixture
def root(tmp_path):
    return make_valid(tmp_path / "set")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "fixed"


def fix(root, out):
    fixed = fix_dataset(root, out, progress=False)
    assert (out / LOG).read_text().splitlines() == [str(c) for c in fixed.changes]
    return fixed


def boxes_of(document):
    return {a["id"]: a["bbox"] for a in document["annotations"]}


def test_fix_a_good_set_is_copied_as_it_is(root, out):
    (root / "annotations" / "mapping.json").write_text("{}")
    fixed = fix(root, out)
    assert fixed.changes == [] and fixed.report.ok and "Nothing needed a change" in str(fixed)
    for split in LABEL:
        assert read(out, split) == read(root, split)
    one, copy = image_file(root, read(root)), image_file(out, read(root))
    assert one.read_bytes() == copy.read_bytes() and not one.samefile(copy)  # an edit of the one leaves the other
    assert (out / "annotations" / "mapping.json").is_file()


def test_fix_the_original_is_not_touched(root, out):
    edit(root, "train", lambda d: d["annotations"][0].update(bbox=None))
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    fix(root, out)
    assert before == {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("layout", ["xyxy", "cxcywh", "relative xywh", "relative cxcywh", "relative xyxy"])
def test_boxes_in_another_layout_come_back(root, out, layout):
    good = boxes_of(read(root))

    def plant(d):
        size = {i["id"]: (i["width"], i["height"]) for i in d["images"]}
        for a in d["annotations"]:
            x, y, w, h = np.array(a["bbox"]) / (np.tile(size[a["image_id"]], 2) if "relative" in layout else 1)
            ways = {"xyxy": [x, y, x + w, y + h], "cxcywh": [x + w / 2, y + h / 2, w, h], "xywh": [x, y, w, h]}
            a["bbox"] = ways[layout.split()[-1]]

    edit(root, "train", plant)
    fixed = fix(root, out)
    assert fixed.report.ok and not fixed.report.warnings
    repaired = boxes_of(read(out))
    assert repaired.keys() == good.keys()
    np.testing.assert_allclose([repaired[k] for k in good], list(good.values()), atol=1e-3)
    assert len(fixed.changes) == len(good)


def test_boxes_that_are_cut_or_removed(root, out):
    def plant(d):
        a = d["annotations"]
        size = next(i for i in d["images"] if i["id"] == a[0]["image_id"])
        a[0]["bbox"], a[0]["area"] = [-10, 5, 30, 20], 600
        a[1]["bbox"] = [size["width"] + 50, 5, 30, 20]
        a[2]["bbox"] = [5, 5, 0, 20]
        a[3]["bbox"] = [5, 5, float("nan"), 20]
        a[4]["bbox"] = ["1", "2", "30.5", "40"]
        a[5]["bbox"], a[5]["segmentation"] = None, [[10, 20, 30, 20, 30, 50]]
        a[6]["bbox"] = [1, 2]
        del a[7]["area"], a[7]["iscrowd"]
        a.append(a[8] | {"id": 999})

    edit(root, "train", plant)
    ids = [a["id"] for a in read(root)["annotations"]]
    fixed = fix(root, out)
    repaired = {a["id"]: a for a in read(out)["annotations"]}
    assert repaired[ids[0]]["bbox"] == [0, 5, 20, 20] and repaired[ids[0]]["area"] == 400
    assert repaired[ids[4]]["bbox"] == [1, 2, 30.5, 40] and repaired[ids[5]]["bbox"] == [10, 20, 20, 30]
    assert not {ids[1], ids[2], ids[3], ids[6], 999} & repaired.keys()
    w, h = repaired[ids[7]]["bbox"][2:]
    assert repaired[ids[7]]["area"] == w * h and repaired[ids[7]]["iscrowd"] == 0
    faults = {c.fault for c in fixed.changes}
    expected = {"box-outside", "box-empty", "box-malformed", "box-not-finite", "missing-area", "missing-iscrowd"}
    assert faults == expected | {"box-duplicate"}
    assert any(str(ids[1]) in str(c) and LABEL["train"] in str(c) for c in fixed.changes)
    assert fixed.report.ok and not fixed.report.warnings


def test_fix_images_and_ids(root, out):
    def plant(d):
        i, a = d["images"], d["annotations"]
        i[1]["file_name"] = "C:\\images\\" + i[1]["file_name"].upper()
        i[2]["id"] = i[3]["id"]
        i.append(i[4] | {"id": 500})
        a[-1]["image_id"] = str(a[-1]["image_id"])
        a[1]["id"] = a[0]["id"]
        d["annotations"].append(a[0] | {"id": 998, "image_id": 12345})

    good = read(root)
    edit(root, "train", plant)
    image_file(root, good, 0).unlink()
    fixed = fix(root, out)
    assert fixed.report.ok and not [w for w in fixed.report.warnings if w.name != "class-absent"]
    assert any("image_id '10' is now 10" in str(c) for c in fixed.changes)
    repaired = read(out)
    left = [i["file_name"] for i in repaired["images"]]
    assert left == [i["file_name"] for n, i in enumerate(good["images"]) if n not in (0, 2, 3)]
    gone = {good["images"][n]["id"] for n in (0, 2, 3)}
    assert len(repaired["annotations"]) == sum(a["image_id"] not in gone for a in good["annotations"])
    assert not (out / "train2017" / good["images"][0]["file_name"]).exists()


def test_fix_text_ids_become_integers(root, out):
    def plant(d):
        for image in d["images"]:
            image["id"] = f"image {image['id']}"
        for a in d["annotations"]:
            a["image_id"] = f"image {a['image_id']}"

    good = read(root)
    edit(root, "train", plant)
    assert fix(root, out).report.ok
    name = {i["id"]: i["file_name"] for i in good["images"]}
    names = {i["id"]: i["file_name"] for i in read(out)["images"]}
    assert all(isinstance(i, int) for i in names)
    assert [names[a["image_id"]] for a in read(out)["annotations"]] == [
        name[a["image_id"]] for a in good["annotations"]
    ]


def test_fix_categories_are_joined_by_name(root, out):
    good = read(root, "val")

    def shuffle(d):
        for c in d["categories"]:
            c["id"] = c["id"] % 5 + 1
        for a in d["annotations"]:
            a["category_id"] = a["category_id"] % 5 + 1
        d["categories"].append({"id": 7, "name": "Red_Circle"})
        d["categories"].append({"id": 9, "name": "new"})

    edit(root, "val", shuffle)
    fixed = fix(root, out)
    assert not {"categories-disagree", "category-spelling", "categories-missing"} & {
        f.name for f in fixed.report.findings
    }
    assert read(out)["categories"] == read(out, "val")["categories"]
    assert [a["category_id"] for a in read(out, "val")["annotations"]] == [
        a["category_id"] for a in good["annotations"]
    ]


def test_fix_resized_images_take_their_boxes_along(root, out):
    file = image_file(root, read(root))
    image = Image.open(file)
    image.resize((image.width * 2, image.height * 2)).save(file)
    first = read(root)["images"][0]["id"]
    fixed = fix(root, out)
    good, repaired = read(root), read(out)
    assert (repaired["images"][0]["width"], repaired["images"][0]["height"]) == (image.width * 2, image.height * 2)
    for a, b in zip(good["annotations"], repaired["annotations"]):
        assert b["bbox"] == ([2 * v for v in a["bbox"]] if a["image_id"] == first else a["bbox"])
    assert fixed.report.ok and "boxes are scaled" in str(fixed)


def state(factor, chosen=lambda n: True):
    """Plant another width and height in the JSON than the files have."""

    def plant(d):
        for n, image in enumerate(d["images"]):
            if chosen(n):
                image.update(width=round(image["width"] * factor), height=round(image["height"] * factor))

    return plant


@pytest.mark.parametrize("factor", [2, 1.5, 0.5, 0.75])
def test_boxes_stay_where_only_the_stated_size_is_wrong(root, out, factor):
    good = read(root)
    edit(root, "train", state(factor))
    fixed = fix(root, out)
    assert fixed.report.ok and "boxes stay" in str(fixed) and "scaled" not in str(fixed)
    assert read(out)["annotations"] == good["annotations"]
    assert read(out)["images"] == good["images"]


def test_boxes_move_with_images_that_were_made_smaller(root, out):
    good = read(root)
    for image in good["images"]:
        file = root / "train2017" / image["file_name"]
        with Image.open(file) as opened:
            small = opened.resize((image["width"] // 2, image["height"] // 2))
        small.save(file)
    fixed = fix(root, out)
    assert fixed.report.ok and str(fixed.changes).count("boxes are scaled") == len(good["images"])
    for a, b in zip(good["annotations"], read(out)["annotations"]):
        np.testing.assert_allclose(b["bbox"], np.array(a["bbox"]) / 2, atol=0.6)


def test_fix_links_out_of_the_set_are_not_followed(root, out, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (root / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (root / "annotations" / "more.json").symlink_to(tmp_path / "secret.txt")
    (root / "inner.txt").symlink_to(root / LABEL["val"])
    elsewhere = tmp_path / "elsewhere"
    (root / "train2017").rename(elsewhere)  # images may lie on another disk
    (root / "train2017").symlink_to(elsewhere)
    fixed = fix(root, out)
    assert fixed.report.ok and (out / "inner.txt").is_file()
    assert not (out / "notes.txt").exists() and not (out / "annotations" / "more.json").exists()
    assert str(fixed).count("link to a file outside of the data set") == 2


def test_fix_crowds_written_as_text_and_boxes_from_polygons(root, out):
    def plant(d):
        a = d["annotations"]
        a[0]["iscrowd"], a[1]["iscrowd"], a[2]["iscrowd"] = "0", "1", None
        a[3]["bbox"], a[3]["segmentation"] = [1, 2, float("nan"), 4], [[10, 20, 30, 20, 30, 50]]

    edit(root, "train", plant)
    assert {a["iscrowd"] for a in read_coco(root / LABEL["train"])["annotations"][:1]} == {0}
    assert check_dataset(root, progress=False)["missing-iscrowd"].count == 3
    fixed = fix(root, out)
    repaired = read(out)["annotations"]
    assert [a["iscrowd"] for a in repaired[:3]] == [0, 1, 0] and repaired[3]["bbox"] == [10, 20, 20, 30]
    assert fixed.report.ok and not fixed.report.warnings


def test_fix_polygons_are_pixels_whatever_the_layout_of_the_boxes(root, out):
    def plant(d):
        for a in d["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"], a["segmentation"] = [x, y, x + w, y + h], [[x, y, x + w, y, x + w, y + h, x, y + h]]
        del d["annotations"][0]["bbox"]

    good = boxes_of(read(root))
    edit(root, "train", plant)
    fix(root, out)
    assert boxes_of(read(out)) == good


def test_fix_a_disk_that_cannot_be_written_is_a_sentence(root, out, monkeypatch):
    for code, words in ((errno.ENOSPC, "its disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permissions")):

        def refuse(*_, code=code):
            raise OSError(code, os.strerror(code), str(out / "x"))

        monkeypatch.setattr("dino_nb.prepare.repair.write_text", refuse)
        with pytest.raises(UserError, match=words):
            fix_dataset(root, out, progress=False)
    assert not out.exists()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_drawn_before_the_exif_rotation_are_turned(root, out, orientation):
    """A white rectangle on black is where its box says, before and after."""
    stored = np.zeros((60, 90, 3), np.uint8)
    stored[10:25, 50:80] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(root / "train2017" / "turned.png", exif=exif)

    def plant(d):
        d["images"].append({"id": 600, "file_name": "turned.png", "width": 90, "height": 60})
        box = {"id": 601, "image_id": 600, "category_id": 1, "bbox": [50, 10, 30, 15], "area": 450, "iscrowd": 0}
        d["annotations"].append(box)

    edit(root, "train", plant)
    fixed = fix(root, out)
    assert "image-size" not in fixed.report and "boxes are turned" in str(fixed)
    x, y, w, h = boxes_of(read(out))[601]
    shown = np.asarray(open_image(out / "train2017" / "turned.png"))
    assert shown.shape[:2] == (90, 60) and (shown[y : y + h, x : x + w] == 255).all()
    assert (shown == 255).sum() == 3 * w * h


def test_fix_a_leaked_image_leaves_training(root, out):
    train, val = read(root), read(root, "val")
    shutil.copy(image_file(root, val, 1, "val"), image_file(root, train, 4))
    edit(root, "train", lambda d: d["images"][4].update({k: val["images"][1][k] for k in ("width", "height")}))
    fixed = fix(root, out)
    assert "split-leak" not in fixed.report
    assert len(read(out)["images"]) == 9 and len(read(out, "val")["images"]) == 5
    assert [c.fault for c in fixed.changes][:1] == ["split-leak"]


def test_fix_what_a_person_must_decide(root, out):
    edit(root, "train", lambda d: d["categories"].append({"id": 1, "name": "dog"}))
    with pytest.raises(UserError, match="category 1 is dog and red circle"):
        fix(root, out)
    assert not out.exists() and list(out.parent.glob(".fixed*")) == []


def test_fix_out_must_be_new_and_elsewhere(root, out):
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    for bad, words in ((out, "exists already"), (root / "fixed", "in, or around"), (root, "exists already")):
        with pytest.raises(UserError, match=words):
            fix(root, bad)
    assert (out / "precious.txt").read_text() == "mine"


def test_fix_an_interrupted_repair_leaves_nothing(root, out, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dino_nb.prepare.repair.write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        fix(root, out)
    assert sorted(p.name for p in out.parent.iterdir()) == ["set"]


def test_fix_command_line(root, out, capsys):
    edit(root, "train", lambda d: d["annotations"][0].update(bbox=None))
    assert main(["check", str(root), "--fix", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["changes"][0]["fault"] == "box-malformed" and result["report"]["ok"]
    assert main(["check", str(root), "--fix", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert check_dataset(out, progress=False).ok
