"""A COCODIR written in other formats: nothing lost, nothing outside, and convert reads it back."""

import json

import pytest
from PIL import Image

from dino_nb.cli import main
from dino_nb.errors import UserError
from dino_nb.prepare.export import FORMATS, export_dataset, export_results
from dino_nb.prepare.sample import make_sample
from tests.prepare.annotation_writers import coco_dict, convert, put, put_image, put_images, read_back


def cocodir(root, dataset, classes, split="train", **changes):
    """A COCODIR written by hand: ``{name: (size, boxes)}``."""
    put_images(root / f"{split}2017", dataset)
    put(root / f"annotations/instances_{split}2017.json", coco_dict(dataset, classes) | changes)
    return root


@pytest.mark.parametrize("format", FORMATS)
def test_export_and_convert_give_the_same_boxes(tmp_path, format):
    sample = make_sample(tmp_path / "coco", 5, 3)
    convert(sample, tmp_path / "known")
    export_dataset(sample, tmp_path / "out", format)
    report = convert(tmp_path / "out", tmp_path / "back")
    assert report.format == format
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 5, "val": 3}
    known, found = read_back(tmp_path / "known"), read_back(tmp_path / "back")
    assert known.keys() == found.keys()
    for name, boxes in known.items():
        assert [b[0] for b in boxes] == [b[0] for b in found[name]]
        assert [b[1:] for b in found[name]] == [pytest.approx(b[1:], abs=0.01) for b in boxes]


@pytest.mark.parametrize("name", ["../../../evil.png", "/tmp/evil.png", "..\\..\\evil.png", "C:\\evil.png"])
@pytest.mark.parametrize("format", FORMATS)
def test_export_writes_nothing_outside(tmp_path, format, name):
    root = cocodir(tmp_path / "a/b/c/coco", {"a.png": ((64, 48), [("cat", 1, 1, 9, 9)])}, ["cat"])
    put_image(tmp_path / "a/b/evil.png")
    document = json.loads((root / "annotations/instances_train2017.json").read_text())
    document["images"][0]["file_name"] = name
    put(root / "annotations/instances_train2017.json", document)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="leaves the image folder"):
        export_dataset(root, tmp_path / "x/y/out", format)
    assert {p for p in set(tmp_path.rglob("*")) - before if p.is_file()} == set()


def test_export_follows_no_link_out_of_the_folder(tmp_path):
    root = cocodir(tmp_path / "coco", {"a.png": ((64, 48), [("cat", 1, 1, 9, 9)])}, ["cat"])
    secret = put(tmp_path / "secret.txt", "password")
    (root / "train2017/a.png").unlink()
    (root / "train2017/a.png").symlink_to(secret)
    with pytest.raises(UserError, match="link that leads out"):
        export_dataset(root, tmp_path / "out", "yolo")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_export_of_names_that_differ_in_their_ending_only(tmp_path, format):
    dataset = {
        "a.jpg": ((64, 48), [("cat", 1, 1, 9, 9)]),
        "a.png": ((64, 48), [("dog", 2, 2, 20, 20)]),
        "A.PNG": ((64, 48), [("dog", 3, 3, 30, 30)]),
    }
    export_dataset(cocodir(tmp_path / "coco", dataset, ["cat", "dog"]), tmp_path / "out", format)
    convert(tmp_path / "out", tmp_path / "back", val_fraction=0)
    assert sorted(b for boxes in read_back(tmp_path / "back").values() for b in boxes) == [
        ("cat", 1, 1, 9, 9),
        ("dog", 2, 2, 20, 20),
        ("dog", 3, 3, 30, 30),
    ]


def test_export_voc_of_one_name_in_two_splits(tmp_path):
    root = cocodir(tmp_path / "coco", {"a.png": ((64, 48), [("cat", 1, 1, 9, 9)])}, ["cat"])
    cocodir(root, {"a.png": ((64, 48), [("cat", 2, 2, 20, 20)])}, ["cat"], split="val")
    export_dataset(root, tmp_path / "out", "voc")
    report = convert(tmp_path / "out", tmp_path / "back")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 1, "val": 1}
    assert sorted(b for boxes in read_back(tmp_path / "back").values() for b in boxes) == [
        ("cat", 1, 1, 9, 9),
        ("cat", 2, 2, 20, 20),
    ]


def test_export_takes_classes_of_every_split_and_sizes_of_the_files(tmp_path):
    root = cocodir(tmp_path / "coco", {"a.png": ((64, 48), [("cat", 1, 1, 9, 9)])}, ["cat"])
    cocodir(root, {"b.png": ((64, 48), [("dog", 2, 2, 20, 20)])}, ["dog", "cat"], split="val")
    file = root / "annotations/instances_val2017.json"
    document = json.loads(file.read_text())
    del document["images"][0]["width"], document["images"][0]["height"]
    put(file, document)
    for format in FORMATS:
        export_dataset(root, tmp_path / format, format)
        convert(tmp_path / format, tmp_path / f"{format}-back")
        back = read_back(tmp_path / f"{format}-back")
        assert back["b.png"] == [("dog", 2, 2, 20, 20)] and back["a.png"] == [("cat", 1, 1, 9, 9)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["3", "caf\u00e9 \u732b", "a\x1b[2Jb", "a\ud800b", "<&>'\"", "no: yes, [x]"])
def test_export_of_odd_class_names(tmp_path, format, name):
    root = cocodir(tmp_path / "coco", {"a.png": ((64, 48), [("x", 1, 1, 9, 9)])}, ["x"])
    document = json.loads((root / "annotations/instances_train2017.json").read_text())
    document["categories"][0]["name"] = int(name) if name.isdigit() else name
    put(root / "annotations/instances_train2017.json", document)
    export_dataset(root, tmp_path / "out", format)
    report = convert(tmp_path / "out", tmp_path / "back", val_fraction=0)
    assert len(report.classes) == 1
    if name.isprintable():
        assert list(report.classes) == [name]


def test_export_of_names_of_249_bytes_and_with_spaces(tmp_path):
    names = ["a (1).png", "a (2).png", "b" * 245 + ".png", "\u732b" * 80 + ".png", "x\ty.png"]
    dataset = {name: ((64, 48), [("cat", 1, 1, 9 + i, 9)]) for i, name in enumerate(names)}
    root = cocodir(tmp_path / "coco", dataset, ["cat"])
    for format in FORMATS:
        export_dataset(root, tmp_path / format, format)
        report = convert(tmp_path / format, tmp_path / f"{format}-back", val_fraction=0)
        assert report.splits["train"] == {"images": 5, "boxes": 5, "empty": 0}


def test_export_copies_unless_told(tmp_path):
    sample = make_sample(tmp_path / "coco", 2, 1)
    export_dataset(sample, tmp_path / "copy", "yolo")
    export_dataset(sample, tmp_path / "hard", "yolo", link="hard")
    assert {p.stat().st_nlink for p in (tmp_path / "copy").rglob("*.jpg")} == {1}
    assert {p.stat().st_nlink for p in (tmp_path / "hard").rglob("*.jpg")} == {2}


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ("[[1, 2]]", "entry 0 of the detections has image_id None"),
        ('[{"image_id": [1], "category_id": 1}]', "entry 0 of the detections has image_id"),
        ('{"images": []}', "not a JSON list"),
        ("[" * 100_000, "not a JSON file"),
        ("oops", "not a JSON file"),
    ],
)
def test_results_that_are_no_detections_are_told(tmp_path, capsys, results, said):
    sample = make_sample(tmp_path / "src", 2, 1, format="voc")
    convert(sample, tmp_path / "coco")
    put(tmp_path / "r.json", results)
    assert main(["convert", str(tmp_path / "r.json"), str(tmp_path / "o"), "--results-of", str(tmp_path / "coco")]) == 1
    assert said in capsys.readouterr().err
    mapping = json.loads((tmp_path / "coco/mapping.json").read_text())
    del mapping["splits"]["val"]["images"][0]["original_id"]
    put(tmp_path / "coco/mapping.json", mapping)
    with pytest.raises(UserError, match=r"mapping.json is damaged"):
        export_results(tmp_path / "coco", [], tmp_path / "o")
    put(tmp_path / "coco/mapping.json", "[]")
    with pytest.raises(UserError, match=r"mapping.json is damaged"):
        export_results(tmp_path / "coco", [], tmp_path / "o")


def test_export_of_an_image_with_exif_keeps_the_upright_size(tmp_path):
    root = cocodir(tmp_path / "coco", {"a.jpg": ((48, 64), [("cat", 1, 1, 9, 9)])}, ["cat"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48), (9, 90, 9)).save(root / "train2017/a.jpg", exif=exif)
    export_dataset(root, tmp_path / "out", "yolo")
    assert (tmp_path / "out/labels/train/a.txt").read_text().startswith("0 0.10416667 0.078125")
