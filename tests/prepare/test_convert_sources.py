"""Where a data set may come from, and the ways back: exports, results, the command."""

import json
import tarfile
import zipfile

import pytest

from dino_nb.cli import main
from dino_nb.errors import UserError
from dino_nb.prepare.export import export_results
from dino_nb.prepare.sample import make_sample
from tests.prepare.annotation_writers import (
    PLAIN,
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

# --- where it comes from --------------------------------------------------------------------------------------------


def test_zip_and_tar_give_what_their_folder_gives(tmp_path):
    src = make_sample(tmp_path / "set", 6, 0, format="voc")
    convert(src, tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as bundle:
        for path in src.rglob("*.*"):
            bundle.write(path, path.relative_to(src))
    convert(tmp_path / "set.zip", tmp_path / "zip")
    assert {p.stat().st_nlink for p in (tmp_path / "zip").rglob("*.jpg")} == {1}
    with tarfile.open(tmp_path / "set.tgz", "w:gz") as bundle:
        bundle.add(src, ".")
    convert(tmp_path / "set.tgz", tmp_path / "tar")
    assert digest(tmp_path / "zip") == digest(tmp_path / "folder") == digest(tmp_path / "tar")
    assert not list(tmp_path.glob(".*"))


def test_json_beside_a_folder_of_images_elsewhere(tmp_path):
    put_images(tmp_path / "photos", PLAIN)
    labels = put(tmp_path / "labels" / "my.json", coco_dict(PLAIN, ["cat", "dog"]))
    assert "--images" in faults(labels, tmp_path)
    convert(labels, tmp_path / "o", images=tmp_path / "photos")
    assert read_back(tmp_path / "o") == {n: sorted(b) for n, (_, b) in PLAIN.items()}
    with pytest.raises(UserError, match="no folder of images"):
        convert(labels, tmp_path / "p", images=tmp_path / "fotos")


def test_yaml_and_its_labels_beside_another_yaml(tmp_path):
    src = source(tmp_path / "s", writer="yolo")
    put(src / "first.yaml", "names: [one]\n")
    chosen = put(src / "second.yaml", "names: [katze, hund]\n")
    assert list(convert(chosen, tmp_path / "o").classes) == ["katze", "hund"]
    assert len(read_back(tmp_path / "o")) == 4


def test_links_of_folders_are_followed_but_not_in_circles(tmp_path):
    src = source(tmp_path / "s")
    (src / "images").rename(tmp_path / "elsewhere")
    (src / "images").symlink_to(tmp_path / "elsewhere")
    (src / "circle").symlink_to(src)
    convert(src, tmp_path / "o")
    assert len(read_back(tmp_path / "o")) == 4


def test_images_without_annotation_are_told(tmp_path):
    src = source(tmp_path / "s")
    put_images(src / "images", ["extra.png"])
    assert "left out, since they are in no annotation file: 1 image, such as images/extra.png" in str(
        convert(src, tmp_path / "o")
    )


def test_drive_link_is_downloaded_and_read(tmp_path, fake_drive):
    from tests.fake_drive import File

    src = source(tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as bundle:
        for path in src.rglob("*.*"):
            bundle.write(path, path.relative_to(src))
    drive_id = "1" + "a" * 32
    fake_drive.files[drive_id] = File("set.zip", (tmp_path / "set.zip").read_bytes())
    convert(f"https://drive.google.com/file/d/{drive_id}/view?usp=sharing", tmp_path / "o")
    assert len(read_back(tmp_path / "o")) == 4
    assert not list(tmp_path.glob(".*"))


def test_missing_source_offers_the_nearest(tmp_path):
    source(tmp_path / "images")
    with pytest.raises(UserError, match="Did you mean 'images'"):
        convert(tmp_path / "imges", tmp_path / "o")


def test_png_header_of_enormous_size_is_refused(tmp_path):
    from tests.data.test_images import _png_header

    src = source(tmp_path / "s")
    (src / "images/p1.png").write_bytes(_png_header(50_000, 50_000))
    assert "p1.png is refused" in faults(src, tmp_path)


# --- and back -------------------------------------------------------------------------------------------------------


def test_results_go_back_with_the_ids_of_the_source(tmp_path):
    document = coco_dict(PLAIN, ["cat", "dog"])
    for image in document["images"]:
        image["id"] += 700
    for a in document["annotations"]:
        a["image_id"] += 700
        a["category_id"] *= 10
    for category in document["categories"]:
        category["id"] *= 10
    put_images(tmp_path / "s", PLAIN)
    put(tmp_path / "s/labels.json", document)
    convert(tmp_path / "s", tmp_path / "o")
    coco = coco_of(tmp_path / "o", "val")
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
        for a in coco["annotations"]
    ]
    put(tmp_path / "results.json", results)
    assert export_results(tmp_path / "o", tmp_path / "results.json", tmp_path / "own.json") == len(results)
    own = json.loads((tmp_path / "own.json").read_text())
    known = {(a["image_id"], a["category_id"], *a["bbox"]) for a in document["annotations"]}
    assert len(own) == 2 and all((r["image_id"], r["category_id"], *r["bbox"]) in known for r in own)
    mapping = json.loads((tmp_path / "o/mapping.json").read_text())
    ids = {id for split in mapping["splits"].values() for _, id in split["annotations"]}
    assert ids == {a["id"] for a in document["annotations"]}
    results[0]["image_id"] = 999
    with pytest.raises(UserError, match="entry 0 of the detections has image_id 999"):
        export_results(tmp_path / "o", results, tmp_path / "own.json")


def test_results_of_a_source_without_ids_get_file_and_class_names(tmp_path):
    convert(source(tmp_path / "s", writer="voc"), tmp_path / "o")
    export_results(
        tmp_path / "o", [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1}], tmp_path / "r"
    )
    (entry,) = json.loads((tmp_path / "r").read_text())
    assert entry["category_id"] == "dog" and entry["image_id"].startswith("images/p")


# --- the command ----------------------------------------------------------------------------------------------------


def test_convert_command(tmp_path, capsys):
    src = str(source(tmp_path / "s"))
    out = str(tmp_path / "o")
    assert main(["convert", src, out, "--val-fraction", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["val"]["images"] == 2
    assert main(["convert", src, out]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", src, out, "--format", "pdf"]) == 2
    assert main(["convert", out, str(tmp_path / "y"), "--to", "yolo"]) == 0
    assert main(["convert", str(tmp_path / "y"), str(tmp_path / "o2")]) == 0
    assert read_back(tmp_path / "o2") == read_back(tmp_path / "o")
    assert main(["convert", src, out, "--val-fraction", "1.5"]) == 1
    results = put(tmp_path / "r.json", [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}])
    assert main(["convert", str(results), str(tmp_path / "own.json"), "--results-of", out]) == 0
    assert "1 detections" in capsys.readouterr().out


def test_options_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'labelme'"):
        convert(tmp_path, tmp_path / "o", format="label me")
    with pytest.raises(UserError, match="link is hard or copy"):
        convert(tmp_path, tmp_path / "o", link="soft")


def test_unpacked_images_are_moved_and_those_of_the_user_copied(tmp_path, monkeypatch):
    put_images(tmp_path / "photos", PLAIN)
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as bundle:
        bundle.writestr("labels.json", json.dumps(coco_dict(PLAIN, ["cat", "dog"])))
        bundle.write(tmp_path / "photos" / "p0.png", "p0.png")
    placed = []

    def place(file, target, link):
        placed.append((file.parent == tmp_path / "photos", link))
        target.write_bytes(file.read_bytes())

    monkeypatch.setattr("dino_nb.prepare.cocodir.place_file", place)
    convert(tmp_path / "labels.zip", tmp_path / "o", images=tmp_path / "photos")
    assert sorted(placed) == [(False, "hard"), (True, "copy"), (True, "copy"), (True, "copy")]
