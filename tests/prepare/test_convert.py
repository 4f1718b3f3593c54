"""From a source to a COCODIR: splits, sizes, names, whole or not at all, and back."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.prepare.export import export_dataset
from dino_nb.prepare.sample import CLASSES, make_sample
from tests.prepare.annotation_writers import (
    SIZE,
    WRITERS,
    coco_dict,
    coco_of,
    convert,
    digest,
    faults,
    put,
    put_images,
    read_back,
    source,
)


def split_source(root, images):
    """VOC-free way to given splits: ``{"train/a.png": [classes]}`` as YOLO."""
    names = sorted({name for classes in images.values() for name in classes})
    put(root / "classes.txt", "\n".join(names))
    for key, classes in images.items():
        split, _, name = key.partition("/")
        put_images(root / "images" / split, [name])
        rows = [f"{names.index(c)} 0.5 0.5 0.{i + 2} 0.5" for i, c in enumerate(classes)]
        put(root / "labels" / split / f"{Path(name).stem}.txt", "\n".join(rows))
    return root


# --- the sample and the real set ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["voc", "yolo", "coco"])
def test_sample_in_each_form_gives_the_same_cocodir(tmp_path, format):
    src = make_sample(tmp_path / "src", 6, 5, format=format)
    report = convert(src, tmp_path / "out")
    assert report.format == format and not report.own_split
    expected = make_sample(tmp_path / "coco", 6, 5)
    for split in ("train", "val"):
        found, known = coco_of(tmp_path / "out", split), coco_of(expected, split)
        assert [i["file_name"] for i in found["images"]] == [i["file_name"] for i in known["images"]]
        assert [a["bbox"] for a in found["annotations"]] == [pytest.approx(a["bbox"]) for a in known["annotations"]]
        assert sorted(c["name"] for c in found["categories"]) == sorted(CLASSES)


def test_bccd_by_its_image_sets(bccd, tmp_path):
    report = convert(bccd, tmp_path / "voc")
    assert report.format == "voc"
    assert [n["images"] for n in report.splits.values()] == [205, 87, 72]
    assert report.num_dropped == 2
    for name in ("BloodImage_00338.jpg", "BloodImage_00343.jpg"):
        assert name in str(report) and name in report._repr_html_()
    for split in ("train", "val", "test"):
        coco = coco_of(tmp_path / "voc", split)
        assert [c["name"] for c in coco["categories"]] == ["Platelets", "RBC", "WBC"]
        assert [c["id"] for c in coco["categories"]] == [1, 2, 3]
    again = convert(bccd, tmp_path / "csv", format="csv")
    assert again.num_dropped == 2
    assert read_back(tmp_path / "csv") == read_back(tmp_path / "voc")


def test_bccd_there_and_back(bccd, tmp_path):
    convert(bccd, tmp_path / "coco")
    known = read_back(tmp_path / "coco")
    assert sum(map(len, known.values())) == 4886
    export_dataset(tmp_path / "coco", tmp_path / "yolo", "yolo")
    convert(tmp_path / "yolo", tmp_path / "from_yolo")
    convert(tmp_path / "coco", tmp_path / "from_coco")
    for other in ("from_yolo", "from_coco"):
        found = read_back(tmp_path / other)
        assert found.keys() == known.keys()
        for name, boxes in known.items():
            assert [b[0] for b in found[name]] == [b[0] for b in boxes]
            for a, b in zip(found[name], boxes):
                assert a[1:] == pytest.approx(b[1:], abs=0.5)


# --- splits ---------------------------------------------------------------------------------------------------------


def test_convert_divides_two_hundred_images_of_one_json(tmp_path):
    dataset = {f"{i:03}.png": (SIZE, [("cat" if i % 3 else "dog", 1, 1, 9, 9)]) for i in range(200)}
    report = convert(source(tmp_path / "s", dataset), tmp_path / "a")
    assert [n["images"] for n in report.splits.values()] == [160, 40] and report.own_split
    assert report.classes["dog"]["val"] == 13
    convert(tmp_path / "s", tmp_path / "b", seed=1)
    names = [{i["file_name"] for i in coco_of(tmp_path / x, "val")["images"]} for x in "ab"]
    assert names[0] != names[1]
    report = convert(tmp_path / "s", tmp_path / "c", val_fraction=0.5)
    assert report.splits["val"]["images"] == 100


def test_class_only_in_the_given_val_is_told_and_kept(tmp_path):
    src = split_source(tmp_path / "s", {"train/a.png": ["cat"], "train/b.png": ["cat"], "valid/c.png": ["cat", "yak"]})
    report = convert(src, tmp_path / "o")
    assert report.classes["yak"] == {"train": 0, "val": 1} and not report.own_split
    assert "'yak': only in val" in str(report) and "images/valid/c.png" in str(report) and "--resplit" in str(report)
    report = convert(src, tmp_path / "p", resplit=True)
    assert report.own_split and report.classes["yak"] == {"train": 1, "val": 0}


def test_val_is_taken_from_train_where_it_is_not_given_and_test_stays(tmp_path):
    images = {f"train/{i}.png": ["cat"] for i in range(10)} | {"test/x.png": ["cat"]}
    report = convert(split_source(tmp_path / "s", images), tmp_path / "o")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 8, "val": 2, "test": 1}
    assert "train gives 2 images" in str(report)


def test_same_image_is_never_on_both_sides(tmp_path):
    src = split_source(tmp_path / "s", {f"train/{i}.png": ["cat"] for i in range(4)} | {"val/x.png": ["cat"]})
    (src / "images/val/x.png").write_bytes((src / "images/train/2.png").read_bytes())
    report = convert(src, tmp_path / "o")
    assert report.splits["train"]["images"] == 3 and report.splits["val"]["images"] == 1
    assert "images/train/2.png (= images/val/x.png)" in str(report)
    dataset = {f"{i}.png": (SIZE, [("cat", 1, 1, 9, 9)]) for i in range(20)}
    src = source(tmp_path / "t", dataset)
    for i in range(1, 20, 2):  # ten pairs of the same content under two names
        (src / f"images/{i}.png").write_bytes((src / f"images/{i - 1}.png").read_bytes())
    convert(src, tmp_path / "p", val_fraction=0.5)
    sides = [{p.read_bytes() for p in (tmp_path / "p" / f"{s}2017").iterdir()} for s in ("train", "val")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 10


def test_source_without_boxes_is_an_error(tmp_path):
    src = source(tmp_path / "s", {"a.png": (SIZE, []), "b.png": (SIZE, [("cat", 5, 5, 5, 9)])})
    assert "no usable box" in faults(src, tmp_path)


# --- boxes and sizes ------------------------------------------------------------------------------------------------


def test_degenerate_and_outlying_boxes(tmp_path):
    boxes = [
        ("cat", 5, 5, 5, 9),
        ("cat", 9, 9, 4, 12),
        ("cat", 70, 5, 90, 9),
        ("cat", -3, 40, 20, 60),
        ("cat", 1, 2, 3, 4),
    ]
    report = convert(source(tmp_path / "s", {"a.png": (SIZE, boxes), "b.png": (SIZE, [])}, "voc"), tmp_path / "o")
    assert read_back(tmp_path / "o") == {"a.png": [("cat", 0, 40, 20, 48), ("cat", 1, 2, 3, 4)], "b.png": []}
    assert {what: n for what, (n, _) in report.dropped.items()} == {
        "has no width": 1,
        "has its corners exchanged": 1,
        "is outside of the image": 1,
    }
    assert "1 x boxes cut at the border" in str(report) and "a.xml:" in str(report)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_stored_image_follow_its_exif_orientation(tmp_path, orientation):
    src, mark = tmp_path / "s", (8, 4, 24, 16)
    for i in range(2):
        image = Image.new("RGB", SIZE, (20 + i, 20, 20))
        image.paste((250, 250, 250), mark)
        exif = Image.Exif()
        exif[0x0112] = orientation
        (src / "images").mkdir(parents=True, exist_ok=True)
        image.save(src / "images" / f"{i}.png", exif=exif)
    WRITERS["coco"](src, {f"{i}.png": (SIZE, [("mark", *mark)]) for i in range(2)}, ["mark"])
    report = convert(src, tmp_path / "o")
    if orientation <= 4:  # sizes alone do not tell these
        return
    from dino_nb.data.images import open_image

    coco = coco_of(tmp_path / "o", "train")
    upright = open_image(tmp_path / "o/train2017" / coco["images"][0]["file_name"])
    x, y, w, h = coco["annotations"][0]["bbox"]
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == upright.size == (48, 64)
    assert upright.convert("L").point(lambda v: 255 * (v > 128)).getbbox() == (x, y, x + w, y + h)
    assert "EXIF" in str(report)


def test_wrong_annotated_size_is_told_and_boxes_may_be_scaled(tmp_path):
    src = source(tmp_path / "s", {f"{i}.png": ((128, 96), [("cat", 20, 20, 60, 80)]) for i in range(2)})
    assert "0.png is 64 x 48, annotated as 128 x 96" in str(convert(src, tmp_path / "a"))
    convert(src, tmp_path / "b", scale_boxes=True)
    assert read_back(tmp_path / "b")["0.png"] == [("cat", 10, 10, 30, 40)]


def test_unreadable_images_are_named(tmp_path):
    src = source(tmp_path / "s")
    (src / "images/p1.png").write_bytes(b"not a image")
    assert "p1.png is not an image" in faults(src, tmp_path)
    report = convert(src, tmp_path / "o", skip_bad=True)
    assert sum(n["images"] for n in report.splits.values()) == 3


# --- what is written ------------------------------------------------------------------------------------------------


def test_convert_gives_the_same_bytes_wherever(tmp_path):
    src = make_sample(tmp_path / "src", 8, 0, format="voc")
    for name in ("a", "b"):
        convert(src, tmp_path / name / "coco", link="copy")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    src.rename(tmp_path / "moved")
    convert(tmp_path / "moved", tmp_path / "c" / "coco")
    assert digest(tmp_path / "c") == digest(tmp_path / "a")


def test_links_and_copies(tmp_path):
    src = source(tmp_path / "s")
    convert(src, tmp_path / "hard", link="hard")
    convert(src, tmp_path / "copy")
    assert {p.stat().st_nlink for p in (tmp_path / "hard").rglob("*.png")} == {2}
    assert {p.stat().st_nlink for p in (tmp_path / "copy").rglob("*.png")} == {1}


def test_where_links_are_impossible_images_are_copied(tmp_path, monkeypatch):
    def no_links(self, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    convert(source(tmp_path / "s"), tmp_path / "o", link="hard")
    assert len(read_back(tmp_path / "o")) == 4


def test_refuses_to_overwrite_unless_told(tmp_path):
    src, out = source(tmp_path / "s"), tmp_path / "o"
    convert(src, out)
    before = digest(out)
    with pytest.raises(UserError, match="--overwrite"):
        convert(src, out, val_fraction=0.5)
    assert digest(out) == before
    convert(src, out, val_fraction=0.5, overwrite=True)
    assert digest(out) != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o", "s"]
    precious = put(tmp_path / "home/thesis.txt", "years of work")
    with pytest.raises(UserError, match="holds no COCODIR"):
        convert(src, tmp_path / "home", overwrite=True)
    assert precious.exists()
    with pytest.raises(UserError, match="output folder"):
        convert(out, out, overwrite=True)
    assert out.is_dir()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_convert_leaves_nothing(tmp_path, monkeypatch, interrupt):
    src, out = source(tmp_path / "s"), tmp_path / "o"
    convert(src, out)
    before, calls = digest(out), []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise interrupt

    monkeypatch.setattr("dino_nb.prepare.cocodir.place_file", stop)
    for target, overwrite in ((out, True), (tmp_path / "new", False)):
        calls.clear()
        with pytest.raises((KeyboardInterrupt, UserError)):
            convert(src, target, overwrite=overwrite)
        assert len(calls) == 3
    assert digest(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o", "s"]


def test_output_folder_inside_the_source_is_not_read(tmp_path):
    src = source(tmp_path / "s")
    convert(src, src / "coco")
    before = digest(src / "coco")
    convert(src, src / "coco", overwrite=True)
    assert digest(src / "coco") == before


def test_names_differing_in_case_only_stay_apart(tmp_path):
    dataset = {"a/X.png": (SIZE, [("cat", 1, 1, 9, 9)]), "b/x.PNG": (SIZE, [("cat", 1, 1, 9, 9)])}
    convert(source(tmp_path / "s", dataset), tmp_path / "o", val_fraction=0)
    assert sorted(p.name for p in (tmp_path / "o/train2017").iterdir()) == ["X.png", "images_b_x.PNG"]


def test_names_that_are_not_unicode_survive(tmp_path):
    dataset = {f"caf\udce9 {i}.png": (SIZE, [("a\ud800b", 1, 1, 9, 9)]) for i in range(2)}
    try:
        source(tmp_path / "s", {}, classes=["cat"])
        put_images(tmp_path / "s/images", dataset)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes Unicode names only")
    (tmp_path / "s/labels.json").write_text(json.dumps(coco_dict(dataset, ["a\ud800b"])))
    convert(tmp_path / "s", tmp_path / "o")
    assert read_back(tmp_path / "o") == {name: boxes for name, (_, boxes) in dataset.items()}


def test_class_names_with_html_are_escaped_where_html_is_shown(tmp_path):
    evil = "<script>alert('x')</script>"
    dataset = {f"{i}.png": (SIZE, [(evil, 1, 1, 9, 9), ("a\x1b[2J\u202eb", 2, 2, 8, 8)]) for i in range(3)}
    report = convert(source(tmp_path / "s", dataset, classes=[evil, "a\x1b[2J\u202eb"]), tmp_path / "o")
    assert "<script" not in report._repr_html_() and "&lt;script&gt;" in report._repr_html_()
    assert "\x1b" not in str(report) + report._repr_html_()
    assert coco_of(tmp_path / "o", "train")["categories"][0]["name"] == evil
