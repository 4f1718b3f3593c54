"""Sources that real tools and real people make, and hostile ones: read rightly, or refused in one sentence."""

import json
import os
import subprocess
import unicodedata
import zipfile
from pathlib import Path

import pytest

from dino_nb.errors import UserError
from dino_nb.prepare.sample import make_sample
from tests.prepare.annotation_writers import (
    PLAIN,
    SIZE,
    WRITERS,
    coco_dict,
    convert,
    digest,
    faults,
    put,
    put_image,
    put_images,
    read_back,
    source,
    voc_xml,
)

KNOWN = {name: sorted(boxes) for name, (_, boxes) in PLAIN.items()}


def corner_document(dataset, classes):
    document = coco_dict(dataset, classes)
    for a in document["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]
    return document


def grid(count=40, side=12, seed=7):
    """Boxes spread over 64 x 48 images."""
    import random

    draw = random.Random(seed)
    dataset = {}
    for i in range(count):
        x, y = draw.randrange(0, 64 - side), draw.randrange(0, 48 - side)
        dataset[f"{i:03}.png"] = (SIZE, [("cat", x, y, x + side, y + side - i % 3)])
    return dataset


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["one sticks out", "few overflow", "no sizes", "few boxes"])
def test_layout_coco_corners_are_never_read_as_widths(tmp_path, change):
    dataset = grid(3 if change == "few boxes" else 40)
    if change == "few overflow":  # most boxes in the upper left quarter
        dataset = {
            n: (SIZE, [("cat", 4 + i % 5, 5, 25, 20)] if i % 5 else b) for i, (n, (_, b)) in enumerate(dataset.items())
        }
    document = corner_document(dataset, ["cat"])
    if change == "one sticks out":
        document["annotations"][0]["bbox"][2] = 70
    if change == "no sizes":
        for image in document["images"]:
            del image["width"], image["height"]
    put_images(tmp_path / "s", dataset)
    put(tmp_path / "s/labels.json", document)
    assert "--box-format xyxy" in faults(tmp_path / "s", tmp_path)
    convert(tmp_path / "s", tmp_path / "o", box_format="xyxy")
    assert read_back(tmp_path / "o")["002.png"] == dataset["002.png"][1]


def test_layout_coco_fractions_are_never_read_as_pixels(tmp_path):
    for name, sized in (("a", True), ("b", False)):
        document = coco_dict(PLAIN, ["cat", "dog"])
        for a in document["annotations"]:
            a["bbox"] = [v / s for v, s in zip(a["bbox"], SIZE * 2)]
        if not sized:
            for image in document["images"]:
                del image["width"], image["height"]
        put_images(tmp_path / name, PLAIN)
        put(tmp_path / name / "labels.json", document)
        assert "--box-format xywh-relative" in faults(tmp_path / name, tmp_path)


def test_layout_good_boxes_with_one_over_the_border_are_cut(tmp_path):
    dataset = grid()
    dataset["000.png"] = (SIZE, [("cat", 50, 30, 80, 60)])
    report = convert(source(tmp_path / "s", dataset, classes=["cat"]), tmp_path / "o")
    assert report.changed and read_back(tmp_path / "o")["000.png"] == [("cat", 50, 30, 64, 48)]


def test_layout_csv_without_names_of_x_y_width_height(tmp_path):
    dataset = grid()
    put_images(tmp_path / "s", dataset)
    rows = [f"{n},{b[1]},{b[2]},{b[3] - b[1]},{b[4] - b[2]},cat" for n, (_, [b]) in dataset.items()]
    put(tmp_path / "s/t.csv", "\n".join(rows))
    report = convert(tmp_path / "s", tmp_path / "o")
    assert read_back(tmp_path / "o") == {n: b for n, (_, b) in dataset.items()}
    assert "x, y, width, height in columns 2, 3, 4, 5" in str(report)


def test_layout_voc_fractions_are_never_read_as_pixels(tmp_path):
    relative = {
        n: (s, [(b[0], *(v / w for v, w in zip(b[1:], SIZE * 2))) for b in boxes]) for n, (s, boxes) in PLAIN.items()
    }
    src = source(tmp_path / "s", relative, "voc")
    assert "--box-format xyxy-relative" in faults(src, tmp_path)
    convert(src, tmp_path / "o", box_format="xyxy-relative")
    assert read_back(tmp_path / "o") == KNOWN


def test_units_of_two_files_agree_before_their_boxes_are_joined(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    put(tmp_path / "s/a.csv", "filename,xmin,ymin,xmax,ymax,class\np0.png,4,5,20,30,cat\np1.png,4,5,20,30,cat\n")
    put(
        tmp_path / "s/b.csv",
        "filename,xmin,ymin,xmax,ymax,class\np0.png,0.5,0.25,0.75,0.5,dog\np1.png,0.5,0.25,0.75,0.5,dog\n",
    )
    convert(tmp_path / "s", tmp_path / "o")
    assert read_back(tmp_path / "o")["p0.png"] == [("cat", 4, 5, 20, 30), ("dog", 32, 12, 48, 24)]


# --- copies, earlier outputs, predictions ---------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["coco", "csv", "voc"])
def test_second_copy_of_the_annotations_doubles_no_box(tmp_path, writer):
    src = source(tmp_path / "s", writer=writer)
    for path in list(src.rglob("*.*")):
        if path.suffix in (".json", ".csv", ".xml"):
            copy = src / "copy" / path.name
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    report = convert(src, tmp_path / "o")
    assert read_back(tmp_path / "o") == KNOWN
    assert "8 that were there twice only once" in str(report)


def test_second_copy_of_yolo_labels_and_predictions_are_not_read(tmp_path):
    src = source(tmp_path / "s", writer="yolo")
    for name in PLAIN:
        put(src / "runs/detect/predict/labels" / f"{name[:-4]}.txt", "0 0.5 0.5 0.2 0.2 0.91\n")
    put_images(src / "runs/detect/train", ["results.png", "p0.png"])
    report = convert(src, tmp_path / "o")
    found = read_back(tmp_path / "o")
    assert {n: [b[0] for b in boxes] for n, boxes in found.items()} == {n: ["cat", "dog"] for n in PLAIN}
    assert "runs" in str(report)


@pytest.mark.parametrize("kind", ["coco", "csv"])
def test_predictions_beside_annotations_are_left_out(tmp_path, kind):
    src = source(tmp_path / "s", writer=kind)
    if kind == "coco":
        document = coco_dict(PLAIN, ["cat", "dog"])
        for a in document["annotations"]:
            a["score"], a["bbox"] = 0.7, [1, 1, 5, 5]
        put(src / "predicted.json", document)
    else:
        put(src / "predicted.csv", "filename,xmin,ymin,xmax,ymax,class,confidence\np0.png,1,1,9,9,cat,0.83\n")
    assert "left out as predictions" in str(convert(src, tmp_path / "o"))
    assert read_back(tmp_path / "o") == KNOWN


def test_earlier_output_inside_the_source_does_not_win(tmp_path):
    src = source(tmp_path / "s", writer="voc")
    convert(src, src / "coco")
    for path in (src / "Annotations").iterdir():
        path.write_text(path.read_text().replace("cat", "lynx"))
    report = convert(src, tmp_path / "o")
    assert report.format == "voc" and list(report.classes) == ["dog", "lynx"]
    assert "coco: written by an earlier conversion" in str(report)
    (tmp_path / "t").mkdir()
    (src / "coco").rename(tmp_path / "t/coco")  # alone, it is what is to be read
    assert list(convert(tmp_path / "t", tmp_path / "p").classes) == ["cat", "dog"]


# --- lists and splits -----------------------------------------------------------------------------------------------


def test_imagesets_names_with_spaces(tmp_path):
    dataset = {f"a ({i}).png": (SIZE, [("cat", 1, 1, 9, 9 + i)]) for i in range(4)}
    src = source(tmp_path / "s", dataset, "voc")
    put(src / "ImageSets/Main/train.txt", "a (0)\na (1)\na (2)  1\n")
    put(src / "ImageSets/Main/val.txt", "a (3).png\n")
    report = convert(src, tmp_path / "o")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 3, "val": 1}
    assert len(read_back(tmp_path / "o")) == 4


@pytest.mark.parametrize("writer", ["voc", "coco"])
def test_imagesets_train_and_val_the_same_are_divided_here(tmp_path, writer):
    dataset = {f"{i:03}.png": (SIZE, [("cat", 1, 1, 9, 9)]) for i in range(60)}
    src = source(tmp_path / "s", dataset, writer, ["cat"])
    listed = "".join(f"{name[:-4]}\n" for name in dataset)
    put(src / "ImageSets/Main/train.txt", listed)
    put(src / "ImageSets/Main/val.txt", listed)
    report = convert(src, tmp_path / "o")
    assert report.splits["train"]["images"] == 48 and report.splits["val"]["images"] == 12
    assert len(report.notes) < 10


def test_imagesets_in_two_lists_are_one_note(tmp_path):
    dataset = {f"{i:03}.png": (SIZE, [("cat", 1, 1, 9, 9)]) for i in range(60)}
    src = source(tmp_path / "s", dataset, "voc", ["cat"])
    put(src / "ImageSets/Main/train.txt", "".join(f"{i:03}\n" for i in range(60)))
    put(src / "ImageSets/Main/val.txt", "".join(f"{i:03}\n" for i in range(30)))
    report = convert(src, tmp_path / "o")
    assert report.splits["train"]["images"] == 30 and len(report.notes) < 6
    assert "lists 000 in both train and val" in str(report) or "lists 000 in both val and train" in str(report)


def test_yaml_train_and_val_the_same_are_divided_here(tmp_path):
    src = source(tmp_path / "s", writer="yolo")
    for name in ("train", "val"):
        put(src / f"{name}.txt", "".join(f"images/{n}\n" for n in PLAIN))
    put(src / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    report = convert(src, tmp_path / "o")
    assert report.own_split and report.splits["train"]["images"] == 3


def test_train_and_val_folders_of_the_same_bytes_say_so(tmp_path):
    src = tmp_path / "s"
    for split in ("train", "val"):
        for i in range(3):
            put_image(src / "images" / split / f"{i}.png", colour=(i, 2, 3))
            put(src / "labels" / split / f"{i}.txt", "0 0.5 0.5 0.5 0.5")
    put(src / "classes.txt", "cat")
    assert "--resplit" in faults(src, tmp_path)
    assert convert(src, tmp_path / "o", resplit=True).own_split


def test_split_without_val_is_said(tmp_path):
    src = source(tmp_path / "s", {"a.png": (SIZE, [("cat", 1, 1, 9, 9)])}, classes=["cat"])
    assert "there is no val split" in str(convert(src, tmp_path / "o"))


def test_yaml_path_is_heeded(tmp_path):
    src = tmp_path / "s"
    for split in ("train", "val"):
        put_images(src / "data/images" / split, [f"{split}{i}.png" for i in range(3)])
        for i in range(3):
            put(src / "data/labels" / split / f"{split}{i}.txt", "0 0.5 0.5 0.5 0.5\n")
    put_images(src / "runs/detect/train", ["confusion_matrix.png", "results.png"])
    put_images(src / "plots", ["summary.png"])
    for place in ("data.yaml", "data/data.yaml"):
        put(src / place, "path: data\ntrain: images/train\nval: images/val\nnames: [cat]\n")
        report = convert(src, tmp_path / "o", overwrite=True)
        assert {s: n["images"] for s, n in report.splits.items()} == {"train": 3, "val": 3}
        assert {n["empty"] for n in report.splits.values()} == {0}
        (src / place).unlink()


# --- faulty boxes ---------------------------------------------------------------------------------------------------


def test_polygons_over_the_border_are_cut(tmp_path):
    src = source(tmp_path / "s", writer="yolo")
    put(src / "labels/p0.txt", "0 -0.1 -0.1 0.5 -0.1 0.5 0.5 -0.1 0.5\n")
    report = convert(src, tmp_path / "o")
    assert read_back(tmp_path / "o")["p0.png"] == [("cat", 0, 0, 32, 24)]
    assert "cut at the border" in str(report)


def test_images_whose_boxes_are_all_faulty_are_no_background(tmp_path):
    src = source(tmp_path / "s", writer="yolo")
    put(src / "labels/p0.txt", "0 320 240 20 20\n")
    put(src / "labels/p1.txt", "0 320 240 20 20\n0 0.5 0.5 0.5 0.5\n")
    report = convert(src, tmp_path / "o", skip_bad=True)
    assert sorted(read_back(tmp_path / "o")) == ["p1.png", "p2.png", "p3.png"]
    assert "left out, since all their boxes were faulty: 1 image," in str(report)
    assert "kept without the boxes that were faulty: 1 image," in str(report)


def test_coco_images_whose_boxes_are_all_faulty_are_no_background(tmp_path):
    document = coco_dict(PLAIN, ["cat", "dog"])
    for i, change in enumerate(({"bbox": [1, 2]}, {"category_id": 77}, {"bbox": None})):
        document["annotations"][i] |= change  # both of p0.png, one of p1.png
    put_images(tmp_path / "s", PLAIN)
    put(tmp_path / "s/labels.json", document)
    report = convert(tmp_path / "s", tmp_path / "o", skip_bad=True)
    assert sorted(read_back(tmp_path / "o")) == ["p1.png", "p2.png", "p3.png"]
    assert "left out, since all their boxes were faulty: 1 image," in str(report)


def test_source_without_a_usable_box_says_why(tmp_path):
    src = source(tmp_path / "s", {"a.png": (SIZE, [("cat", 5, 5, 5, 9)]), "b.png": (SIZE, [("cat", 9, 9, 4, 12)])})
    text = faults(src, tmp_path)
    assert "no usable box" in text and "1 has no width, such as images/a.png" in text
    assert "list no boxes" in faults(source(tmp_path / "t", {"a.png": (SIZE, [])}), tmp_path)


# --- the output folder ----------------------------------------------------------------------------------------------


def test_overwrite_keeps_the_users_files(tmp_path):
    src, out = source(tmp_path / "s"), tmp_path / "o"
    convert(src, out)
    mine = {
        "notes.txt": "n",
        "annotations/captions_train2017.json": "{}",
        "train2017/my own.png": "p",
        "old/a/b.txt": "b",
    }
    for name, text in mine.items():
        put(out / name, text)
    (out / "link").symlink_to(src)
    before = digest(out)
    convert(src, out, overwrite=True)
    assert digest(out) == before and (out / "link").is_symlink()
    convert(src, out, overwrite=True, val_fraction=0.5, seed=3)
    for name, text in mine.items():
        assert (out / name).read_text() == text
    listed = {i["file_name"] for i in json.loads((out / "annotations/instances_val2017.json").read_text())["images"]}
    assert {p.name for p in (out / "val2017").iterdir()} == listed


def test_overwrite_does_not_replace_what_is_in_the_way(tmp_path):
    src, out = source(tmp_path / "s"), tmp_path / "o"
    convert(src, out, val_fraction=0)
    put(out / "val2017/p0.png", "mine")
    before = digest(out)
    with pytest.raises(UserError, match="in the way"):
        convert(src, out, overwrite=True, val_fraction=0.9)
    assert digest(out) == before and sorted(p.name for p in tmp_path.iterdir()) == ["o", "s"]


def test_overwritten_sample_is_a_sample_no_more(tmp_path):
    out = make_sample(tmp_path / "o", 2, 1)
    convert(source(tmp_path / "s"), out, overwrite=True)
    with pytest.raises(UserError, match="something else"):
        make_sample(out)


# --- files that are not what they seem ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("set.zip", b"<!DOCTYPE html><html>sign in</html>", "a web page"),
        ("set.zip", b"7z\xbc\xaf\x27\x1c rest", "7z"),
        ("set.zip", b"Rar!\x1a\x07 rest", "rar archive"),
        ("set.zip", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("set.zip", b"", "is empty"),
        ("labels.json", b"  \n", "is empty"),
        ("set.tgz", b"\x1f\x8b\x08 cut", "cut or damaged"),
    ],
)
def test_file_is_called_what_it_is_and_its_neighbours_are_not(tmp_path, name, content, said):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(content)
    put_images(tmp_path / "d", ["private holiday.png"])
    put(tmp_path / "d/passwords.odt", "x")
    text = faults(tmp_path / "d" / name, tmp_path)
    assert said in text and "private" not in text and "odt" not in text and ".png" not in text


def test_cut_zip_is_called_so(tmp_path):
    src = make_sample(tmp_path / "set", 3, 0, format="voc")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as bundle:
        for path in src.rglob("*.*"):
            bundle.write(path, path.relative_to(src))
    (tmp_path / "set.zip").write_bytes((tmp_path / "set.zip").read_bytes()[:-3000])
    assert "a zip archive that is cut or damaged" in faults(tmp_path / "set.zip", tmp_path)


def test_zip_of_windows_with_backslashes(tmp_path):
    src = source(tmp_path / "s", writer="voc")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as bundle:
        for folder in ("images", "Annotations"):
            bundle.writestr(zipfile.ZipInfo(f"{folder}\\"), "")
        for path in sorted(src.rglob("*.*")):
            info = zipfile.ZipInfo("x")
            info.filename = str(path.relative_to(src)).replace("/", "\\")
            bundle.writestr(info, path.read_bytes())
    convert(tmp_path / "w.zip", tmp_path / "o")
    assert read_back(tmp_path / "o") == KNOWN


@pytest.mark.parametrize("head", ["</annotation>", "<>", "< >", "<", "<!--", "<?xml", "<annotation", "\ufeff<>"])
def test_xml_that_begins_oddly_is_no_traceback(tmp_path, head):
    src = source(tmp_path / "s", writer="voc")
    put(src / "Annotations/odd.xml", head)
    convert(src, tmp_path / "o", skip_bad=True)
    assert "known format" in faults(put(tmp_path / "odd.xml", head), tmp_path) or head == "<annotation"


@pytest.mark.parametrize("ending", ["heic", "cr2", "mpo"])
def test_unsupported_images_are_named_as_such(tmp_path, ending):
    src = source(tmp_path / "s")
    (src / "images/p1.png").rename(src / f"images/p1.{ending}")
    text = faults(src, tmp_path)
    assert f"({ending})" in text.lower() or ending.upper() in text or f".{ending}" in text
    assert "export it as JPEG" in text


def test_folders_without_end_are_not_followed(tmp_path):
    src = source(tmp_path / "s")
    here = Path.cwd()
    try:
        os.chdir(src)
        for _ in range(1100):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(here)
    convert(src, tmp_path / "o")
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as bundle:
        bundle.writestr("d/" * 700 + "a.json", "{}")
    assert "nested too deeply" in faults(tmp_path / "deep.zip", tmp_path)
    subprocess.run(["rm", "-r", str(src / "d")], check=True)  # pytest calls itself for each level


def test_archive_in_a_folder_is_pointed_at(tmp_path):
    (tmp_path / "d").mkdir()
    with zipfile.ZipFile(tmp_path / "d/set.zip", "w") as bundle:
        bundle.writestr("a.json", "{}")
    assert "beside the archive set.zip" in faults(tmp_path / "d", tmp_path)


@pytest.mark.parametrize("names", [",", "cat,", "cat,cat", ["cat", " "]])
def test_class_names_need_a_name_each(tmp_path, names):
    with pytest.raises(UserError, match="a name of its own"):
        convert(source(tmp_path / "s", writer="yolo"), tmp_path / "o", class_names=names)


def test_pipes_are_not_waited_for(tmp_path):
    src = source(tmp_path / "s")
    os.mkfifo(src / "pipe.json")
    os.mkfifo(src / "images/pipe.png")
    convert(src, tmp_path / "o")
    assert "pipe or a device" in faults(src / "pipe.json", tmp_path)


def test_mistyped_folder_of_many_letters_is_no_drive_id(tmp_path, nowhere):
    text = faults(tmp_path / "my_beautiful_long_data_set_folder", tmp_path)
    assert "there is no file or folder" in text
    assert "no file or folder my_beautiful_long_data_set_folder" in faults(
        "my_beautiful_long_data_set_folder", tmp_path
    )


def test_unreadable_files_are_a_sentence(tmp_path, monkeypatch):
    src = source(tmp_path / "s", writer="voc")
    read = Path.read_bytes

    def refuse(path):
        if path.name == "p1.xml":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "permissions forbid it" in faults(src, tmp_path)


@pytest.mark.parametrize("writer", ["csv", "yolo", "voc", "labelme"])
def test_windows_1252_is_read_and_said(tmp_path, writer):
    dataset = {f"p{i}.png": (SIZE, [("caf\u00e9", 4, 5, 20, 30)]) for i in range(3)}
    src = source(tmp_path / "s", dataset, writer, ["caf\u00e9"])
    for path in src.rglob("*.*"):
        if path.suffix in (".csv", ".txt", ".xml", ".json"):
            text = path.read_text(encoding="utf-8").replace("\\u00e9", "\u00e9")
            path.write_bytes(text.encode("cp1252"))
    report = convert(src, tmp_path / "o")
    assert list(report.classes) == ["caf\u00e9"]
    if writer != "voc":
        assert "Windows-1252" in str(report)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("writer", ["coco", "csv", "yolo", "voc", "labelme", "cvat"])
def test_byte_order_marks_are_read(tmp_path, writer, encoding):
    src = source(tmp_path / "s", writer=writer)
    for path in src.rglob("*.*"):
        if path.suffix in (".csv", ".txt", ".xml", ".json"):
            text = path.read_text(encoding="utf-8").replace(' encoding="utf-8"', "")
            path.write_bytes(text.encode(encoding))
    convert(src, tmp_path / "o")
    found = read_back(tmp_path / "o")
    assert found.keys() == PLAIN.keys() and all([b[0] for b in boxes] == ["cat", "dog"] for boxes in found.values())


@pytest.mark.parametrize("writer", ["coco", "csv", "labelme", "cvat", "voc"])
def test_names_with_accents_as_macos_writes_them(tmp_path, writer):
    dataset = {f"caf\u00e9 {i}.png": boxes for i, boxes in enumerate(PLAIN.values())}
    src = source(tmp_path / "s", dataset, writer)
    for path in (src / "images").iterdir():
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    convert(src, tmp_path / "o")
    assert len(read_back(tmp_path / "o")) == 4


def test_csv_first_row_without_a_box(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    put(tmp_path / "s/t.csv", "p0.png,,,,,\np1.png,4,5,20,30,cat\n")
    convert(tmp_path / "s", tmp_path / "o", val_fraction=0)
    assert read_back(tmp_path / "o") == {"p0.png": [], "p1.png": [("cat", 4, 5, 20, 30)]}


def test_labelme_with_image_data_first(tmp_path):
    put_images(tmp_path / "s", ["a.png", "b.png"])
    for name in "ab":
        shapes = [{"label": "cat", "points": [[1, 2], [30, 40]], "shape_type": "rectangle"}]
        put(tmp_path / "s" / f"{name}.json", {"imageData": "A" * 100_000, "imagePath": f"{name}.png", "shapes": shapes})
    assert convert(tmp_path / "s", tmp_path / "o").format == "labelme"


def test_coco_ids_as_fractions_and_text(tmp_path):
    document = coco_dict(PLAIN, ["cat", "dog"])
    for a in document["annotations"]:
        a |= {"image_id": float(a["image_id"]), "category_id": str(a["category_id"]), "iscrowd": "0"}
    put_images(tmp_path / "s", PLAIN)
    put(tmp_path / "s/labels.json", document)
    convert(tmp_path / "s", tmp_path / "o", val_fraction=0)
    assert read_back(tmp_path / "o") == KNOWN
    written = json.loads((tmp_path / "o/annotations/instances_train2017.json").read_text())
    assert {a["iscrowd"] for a in written["annotations"]} == {0}


def test_open_images_class_names_and_groups(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    rows = [f"p{i},x,/m/0199g,1,0.0625,0.3125,0.125,0.625,0,0,{i}" for i in range(2)]
    put(tmp_path / "s/train-annotations-bbox.csv", "\n".join([head, *rows]))
    put(tmp_path / "s/class-descriptions-boxable.csv", "/m/0199g,Bicycle\n/m/01yrx,Cat\n")
    report = convert(tmp_path / "s", tmp_path / "o")
    assert list(report.classes) == ["Bicycle"]
    files = (tmp_path / "o/annotations").iterdir()
    assert sorted(a["iscrowd"] for f in files for a in json.loads(f.read_text())["annotations"]) == [0, 1]


@pytest.mark.parametrize("names", ["Images Labels", "IMAGES LABELS", "images labels"])
def test_yolo_folders_in_capitals(tmp_path, names):
    images, labels = names.split()
    src = source(tmp_path / "s", writer="yolo")
    (src / "images").rename(src / "i")
    (src / "i").rename(src / images)
    (src / "labels").rename(src / "l")
    (src / "l").rename(src / labels)
    report = convert(src, tmp_path / "o")
    assert sum(n["boxes"] for n in report.splits.values()) == 8


def test_yolo_names_that_differ_in_case_keep_their_own_labels(tmp_path):
    src = tmp_path / "s"
    put_images(src / "images", ["a.png", "A.png"])
    put(src / "labels/a.txt", "0 0.5 0.5 0.5 0.5\n")
    put(src / "labels/A.txt", "1 0.5 0.5 0.5 0.5\n")
    put(src / "classes.txt", "cat\ndog\n")
    convert(src, tmp_path / "o", val_fraction=0)
    assert {n: b[0][0] for n, b in read_back(tmp_path / "o").items()} == {"a.png": "cat", "A.png": "dog"}


def test_tools_file_taken_for_anothers_is_a_fault(tmp_path):
    for format, document in (("labelme", {"imageData": None}), ("supervisely", {"classTitle": 1})):
        put_images(tmp_path / format, ["p0.png"])
        put(tmp_path / format / "p0.json", document)
        assert "p0.json: it is not built as this format is" in faults(tmp_path / format, tmp_path, format=format)


@pytest.mark.parametrize("lists", [False, True])
def test_voc_same_names_in_folders_that_mirror_each_other(tmp_path, lists):
    src = tmp_path / "s"
    for i, part in enumerate("ab"):
        put_images(src / "JPEGImages" / part, ["1.png", "2.png"])
        for k in (1, 2):
            put(src / "Annotations" / part / f"{k}.xml", voc_xml(f"{k}.png", SIZE, [(part, 1, 1, 10 * k, 9 + i)]))
    if lists:
        put(src / "ImageSets/Main/train.txt", "a/1\nb/1\na/2\n")
        put(src / "ImageSets/Main/val.txt", "b/2\n")
    report = convert(src, tmp_path / "o")
    assert report.classes["a"] and sum(n["boxes"] for n in report.splits.values()) == 4
    if lists:
        assert {s: n["images"] for s, n in report.splits.items()} == {"train": 3, "val": 1}
    mapping = json.loads((tmp_path / "o/mapping.json").read_text())
    for split, own in mapping["splits"].items():
        written = json.loads((tmp_path / f"o/annotations/instances_{split}2017.json").read_text())
        names = {c["id"]: c["name"] for c in written["categories"]}
        for image in own["images"]:
            classes = {names[a["category_id"]] for a in written["annotations"] if a["image_id"] == image["id"]}
            assert classes == {image["original_file"].split("/")[1]}


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("[yes, no]", ["yes", "no"]),
        ("[007, 1.10]", ["007", "1.10"]),
        ("[2024-01-01, null]", ["2024-01-01", "null"]),
        ("{0: 0x10, 1: 1e3}", ["0x10", "1e3"]),
        ("{'0': a, \"1\": b}", ["a", "b"]),
        ("[2024-13-45, 99999999999999999999]", ["2024-13-45", "9" * 20]),
        ("[" + "9" * 5000 + ", b]", ["9" * 5000, "b"]),
    ],
)
def test_yaml_names_are_texts(tmp_path, names, classes):
    src = source(tmp_path / "s", writer="yolo")
    put(src / "data.yaml", f"names: {names}\n")
    assert list(convert(src, tmp_path / "o").classes) == classes


@pytest.mark.parametrize(
    "text",
    [
        "names: &a [*a, *a]\n",
        "names: *nothing\n",
        "names: {? [a, b] : c}\n",
        "- names:\n- x\n",
        "names: [a, b]\ntrain: {a: b}\nval: [[1]]\npath: [1]\n",
        "names: !!set {a, b}\n",
        "names: " + "[" * 1200,
        "names: [" + "a, " * 400_000 + "]",
        "names:\n\t- a\n",
        "---\nnames: [a, b]\n---\nnames: [c]\n",
    ],
)
def test_yaml_oddities_are_a_sentence_or_read(tmp_path, text):
    src = source(tmp_path / "s", writer="yolo")
    put(src / "data.yaml", text)
    try:
        convert(src, tmp_path / "o")
    except UserError as error:
        assert "yaml" in str(error).lower()


@pytest.mark.parametrize("digits", ["1" * 5000, "-" + "9" * 5000, "1e999", "\u0663", "\u00b2"])
def test_numbers_of_thousands_of_digits(tmp_path, digits):
    put_images(tmp_path / "c", ["p0.png", "p1.png"])
    put(
        tmp_path / "c/t.csv",
        f"filename,xmin,ymin,xmax,ymax,class\np0.png,1,2,{digits},40,cat\np1.png,1,2,30,40,{digits}\n",
    )
    convert(tmp_path / "c", tmp_path / "oc", skip_bad=True, class_names="a,b")
    src = source(tmp_path / "y", writer="yolo")
    put(src / "labels/p1.txt", f"{digits} 0.5 0.5 0.2 0.2\n0 {digits} 0.5 0.2 0.2\n")
    convert(src, tmp_path / "oy", skip_bad=True)
    text = json.dumps(coco_dict(PLAIN, ["cat", "dog"])).replace('"bbox": [4, 5', f'"bbox": [{digits}, 5')
    put_images(tmp_path / "j", PLAIN)
    put(tmp_path / "j/labels.json", text)
    assert "labels.json" in faults(tmp_path / "j", tmp_path)


# --- formats that are read, or named --------------------------------------------------------------------------------


def test_via_in_its_two_forms(tmp_path):
    regions = [
        {
            "shape_attributes": {"name": "rect", "x": 4, "y": 5, "width": 16, "height": 25},
            "region_attributes": {"class": "cat"},
        },
        {
            "shape_attributes": {"name": "circle", "cx": 40, "cy": 20, "r": 5},
            "region_attributes": {"type": {"dog": True}},
        },
        {
            "shape_attributes": {"name": "polygon", "all_points_x": [1, 9, 5], "all_points_y": [1, 3, 20]},
            "region_attributes": {"label": "cat"},
        },
    ]
    entries = {f"p{i}.png123": {"filename": f"p{i}.png", "size": 123, "regions": regions} for i in range(2)}
    keyed = {k: v | {"regions": {str(i): r for i, r in enumerate(regions)}} for k, v in entries.items()}
    for name, document in (("a", {"_via_settings": {}, "_via_img_metadata": entries}), ("b", keyed)):
        put_images(tmp_path / name, ["p0.png", "p1.png"])
        put(tmp_path / name / "via.json", document)
        assert convert(tmp_path / name, tmp_path / f"o{name}").format == "via"
        assert read_back(tmp_path / f"o{name}")["p0.png"] == [
            ("cat", 1, 1, 9, 20),
            ("cat", 4, 5, 20, 30),
            ("dog", 35, 15, 45, 25),
        ]


def test_createml(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    annotations = [{"label": "cat", "coordinates": {"x": 12, "y": 17.5, "width": 16, "height": 25}}]
    put(tmp_path / "s/a.json", [{"image": f"p{i}.png", "annotations": annotations} for i in range(2)])
    assert convert(tmp_path / "s", tmp_path / "o").format == "createml"
    assert read_back(tmp_path / "o")["p1.png"] == [("cat", 4, 5, 20, 30)]
    put(tmp_path / "s/a.json", [{"image": "p0.png", "annotations": [{"label": "cat", "coordinates": {"x": 12}}]}])
    assert "entry 1: the 'cat' has missing or wrong points" in faults(tmp_path / "s", tmp_path)


def test_supervisely(tmp_path):
    put_images(tmp_path / "s/ds/img", ["p0.png", "p1.png"])
    points = {"exterior": [[4, 5], [20, 30]], "interior": []}
    objects = [{"classTitle": "cat", "geometryType": "rectangle", "points": points}]
    for i in range(2):
        document = {"description": "", "size": {"height": 48, "width": 64}, "tags": [], "objects": objects}
        put(tmp_path / f"s/ds/ann/p{i}.png.json", document)
    put(tmp_path / "s/meta.json", {"classes": [{"title": "cat", "shape": "rectangle"}], "tags": []})
    assert convert(tmp_path / "s", tmp_path / "o").format == "supervisely"
    assert read_back(tmp_path / "o")["p1.png"] == [("cat", 4, 5, 20, 30)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "ls.json",
            [{"annotations": [{"completed_by": 1, "result": []}], "data": {"image": "p0.png"}}],
            "Label Studio",
        ),
        ("bdd.json", [{"name": "p0.png", "labels": [{"category": "car", "box2d": {"x1": 1}}]}], "BDD100K"),
        (
            "label/p0.txt",
            "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n",
            "KITTI",
        ),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, name, text, said):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    put(tmp_path / "s" / name, text)
    assert f"{said}" in faults(tmp_path / "s", tmp_path) and "which is not read" in faults(tmp_path / "s", tmp_path)


@pytest.mark.parametrize("name", ["a\x1b[2J\nb.png", "x" * 245 + ".png", "\u202egnp.png", "a:b?c*.png"])
def test_names_that_some_system_cannot_hold(tmp_path, name):
    src = source(tmp_path / "s", {name: (SIZE, [("cat", 1, 1, 9, 9)]), "b.png": (SIZE, [("cat", 1, 1, 9, 9)])}, "csv")
    report = convert(src, tmp_path / "o", val_fraction=0)
    written = [p.name for p in (tmp_path / "o/train2017").iterdir()]
    assert len(written) == 2 and all(n.isprintable() and len(n) < 220 and not set(n) & set(':?*"') for n in written)
    assert "\x1b" not in str(report)


def test_patterns_take_no_time_over_long_lines(tmp_path):
    put_images(tmp_path / "s", ["p0.png", "p1.png"])
    for i in range(20):
        put(tmp_path / "s" / f"{i}.txt", "a" * 70_000)
    assert "known format" in faults(tmp_path / "s", tmp_path)
    src = source(tmp_path / "t", writer="voc")
    put(src / "ImageSets/Main/train.txt", "p0\np1\np2" + " " * 300_000 + "x\n")
    put(src / "ImageSets/Main/val.txt", "p3\n")
    convert(src, tmp_path / "o", skip_bad=True)
    put(tmp_path / "u/0.txt", "0 " + "1 " * 30_000 + "x")
    put_images(tmp_path / "u", ["0.png"])
    put(tmp_path / "u/classes.txt", "a")
    assert "columns" in faults(tmp_path / "u", tmp_path) or "known format" in faults(tmp_path / "u", tmp_path)


def test_messages_are_bounded_and_harmless(tmp_path):
    dataset = {"a.png": (SIZE, [("cat", 1, 1, 9, 9)])}
    put_images(tmp_path / "s", dataset)
    document = coco_dict(dataset, ["cat"])
    document["images"] += [{"id": 100 + i, "file_name": f"\x1b]0;evil\x07{'y' * 100_000}{i}.png"} for i in range(100)]
    document["annotations"][0]["category_id"] = "\x1b[31m" * 10_000
    put(tmp_path / "s/labels.json", document)
    text = faults(tmp_path / "s", tmp_path)
    assert "\x1b" not in text and "\x07" not in text and len(text) < 10_000 and "101 faults" in text


@pytest.mark.parametrize("writer", WRITERS)
def test_keyword_misspelt_is_refused(tmp_path, writer):
    with pytest.raises(TypeError):
        convert(tmp_path, tmp_path / "o", val_fracton=0.3)
