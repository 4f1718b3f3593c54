import json

import numpy as np
import pytest

import dino_nb
from dino_nb.cli import main
from dino_nb.errors import UserError
from dino_nb.prepare.check import check_dataset
from dino_nb.prepare.faults import FAULTS, LEVELS
from dino_nb.prepare.repair import fix_dataset
from tests.prepare.planting import LABEL, edit, image_file, make_valid, read, write


@pytest.fixture
def root(tmp_path):
    return make_valid(tmp_path / "set")


def check(root, **options):
    return check_dataset(root, progress=False, **options)


def names(report):
    return {f.name for f in report.findings}


def harmless(report):
    return names(report) <= {"class-few", "box-tiny"}


def test_check_a_good_set_has_no_errors_and_no_warnings(root):
    report = check(root)
    assert report.ok and harmless(report), report
    assert report.splits["train"]["images"] == 10 and report.splits["val"]["classes"] == 5
    assert report.raise_if_errors() is report
    assert dino_nb.check_dataset is check_dataset


def test_check_every_fault_is_described():
    for name, fault in FAULTS.items():
        assert fault.level in LEVELS and name == name.lower()
        assert fault.title and fault.consequence.endswith(".") and fault.remedy.endswith((".", "?"))
    levels = [LEVELS.index(f.level) for f in FAULTS.values()]
    assert levels == sorted(levels)


def duplicate_image_id(d):
    d["images"][1]["id"] = d["images"][0]["id"]


def text_reference(d):
    d["annotations"][0]["image_id"] = str(d["annotations"][0]["image_id"])


def text_category(d):
    d["annotations"][0]["category_id"] = str(d["annotations"][0]["category_id"])


def text_ids(d):
    for image in d["images"]:
        image["id"] = f"{image['id']}"
    for annotation in d["annotations"]:
        annotation["image_id"] = f"{annotation['image_id']}"


def repeat_box(shift):
    def plant(d):
        wide = max(d["annotations"], key=lambda a: a["bbox"][2])
        copy = json.loads(json.dumps(wide)) | {"id": 9999}
        copy["bbox"][0] += shift
        d["annotations"].append(copy)

    return plant


def first_box(*box):
    def plant(d):
        d["annotations"][0]["bbox"] = list(box)

    return plant


def drop(*path):
    def plant(d):
        for key in path[:-1]:
            d = d[key]
        del d[path[-1]]

    return plant


def put(value, *path):
    def plant(d):
        for key in path[:-1]:
            d = d[key]
        d[path[-1]] = value

    return plant


def forget_first_image(d):
    first = d["images"][0]["id"]
    d["annotations"] = [a for a in d["annotations"] if a["image_id"] != first]


def whole_image(d):
    image = next(i for i in d["images"] if i["id"] == d["annotations"][0]["image_id"])
    d["annotations"][0]["bbox"] = [0, 0, image["width"], image["height"]]


def many(d):
    for n in range(101):
        x = n % 20 * 7
        bbox = [x, 7 * (n // 20), 5, 5]
        d["annotations"].append(d["annotations"][0] | {"id": 5000 + n, "bbox": bbox})


def append(section, record):
    return lambda d: d[section].append(record)


PLANTED = [
    ("image-duplicate-ids", duplicate_image_id),
    ("image-duplicate-files", lambda d: d["images"].append(d["images"][0] | {"id": 777})),
    ("image-malformed", append("images", {"id": 5})),
    ("image-malformed", append("images", {"id": None, "file_name": "a.jpg"})),
    ("image-malformed", append("images", ["not", "a", "record"])),
    ("image-malformed", put(7, "images", 0, "file_name")),
    ("image-malformed", put(True, "images", 0, "id")),
    ("image-size-missing", drop("images", 0, "width")),
    ("image-size-missing", put("wide", "images", 0, "height")),
    ("image-path-unsafe", put("../../secret.jpg", "images", 0, "file_name")),
    ("image-path-unsafe", put("/etc/passwd", "images", 0, "file_name")),
    ("image-path-unsafe", put("C:\\a.jpg", "images", 0, "file_name")),
    ("category-duplicate-ids", append("categories", {"id": 1, "name": "other"})),
    ("category-duplicate-names", append("categories", {"id": 77, "name": "red circle"})),
    ("category-spelling", append("categories", {"id": 77, "name": "Red_Circle "})),
    ("category-malformed", append("categories", {"id": 77})),
    ("category-malformed", append("categories", "dog")),
    ("category-malformed", append("categories", {"name": "dog"})),
    ("class-unused", append("categories", {"id": 0, "name": "objects"})),
    ("annotation-duplicate-ids", lambda d: put(d["annotations"][0]["id"], "annotations", 1, "id")(d)),
    ("annotation-duplicate-ids", drop("annotations", 0, "id")),
    ("annotation-malformed", drop("annotations", 0, "image_id")),
    ("annotation-malformed", put([1], "annotations", 0, "category_id")),
    ("annotation-malformed", append("annotations", None)),
    ("unknown-image", put(123456, "annotations", 0, "image_id")),
    ("unknown-category", put(123456, "annotations", 0, "category_id")),
    ("id-mismatch", text_reference),
    ("id-mismatch", text_category),
    ("id-type", text_ids),
    ("id-type", put(1.0, "annotations", 0, "id")),
    ("box-malformed", put(None, "annotations", 0, "bbox")),
    ("box-malformed", first_box(1, 2, 3)),
    ("box-malformed", first_box(1, 2, 3, True)),
    ("box-malformed", first_box(1, 2, 3, "4")),
    ("box-malformed", drop("annotations", 0, "bbox")),
    ("box-not-finite", first_box(1, 2, float("nan"), 4)),
    ("box-not-finite", first_box(1, 2, 3, float("inf"))),
    ("box-not-finite", first_box(1, 2, 3, 10**400)),
    ("box-empty", first_box(5, 5, 0, 10)),
    ("box-empty", first_box(50, 50, -10, 10)),
    ("box-outside", first_box(-20, 5, 30, 30)),
    ("box-outside", first_box(5000, 5000, 30, 30)),
    ("box-full-image", whole_image),
    ("box-tiny", first_box(5, 5, 1, 10)),
    ("box-aspect", first_box(5, 5, 100, 4)),
    ("box-duplicate", repeat_box(0)),
    ("box-near-duplicate", repeat_box(1)),
    ("crowd", put(1, "annotations", 0, "iscrowd")),
    ("missing-area", drop("annotations", 0, "area")),
    ("missing-area", put(None, "annotations", 0, "area")),
    ("missing-iscrowd", drop("annotations", 0, "iscrowd")),
    ("many-boxes", many),
    ("image-empty", forget_first_image),
    ("no-annotations", put([], "annotations")),
    ("no-images", put([], "images")),
    ("no-categories", put([], "categories")),
    ("categories-missing", append("categories", {"id": 77, "name": "dog"})),
    ("json-structure", drop("images")),
    ("json-structure", put({}, "annotations")),
]


@pytest.mark.parametrize("fault, plant", PLANTED, ids=[f"{f}-{i}" for i, (f, _) in enumerate(PLANTED)])
def test_check_planted_in_the_records(root, fault, plant):
    assert fault not in check(root, images=False) or fault in ("box-tiny", "class-unused")
    edit(root, "train", plant)
    report = check(root)
    finding = report[fault]
    assert finding.count >= 1 and 1 <= len(finding.examples) <= 5
    assert finding in getattr(report, finding.level + "s")
    assert LABEL["train"] in str(finding) or LABEL["val"] in str(finding)
    assert finding.consequence in str(report) and finding.remedy in str(report)
    json.loads(report.to_json())


def test_check_categories_that_disagree_between_splits(root):
    edit(root, "val", lambda d: [c.update(id=c["id"] % 5 + 1) for c in d["categories"]])
    finding = check(root)["categories-disagree"]
    assert finding.level == "error" and finding.count == 5
    assert "'red circle' is 2 in val and 1 in train" in str(finding)


def test_check_a_class_that_the_splits_spell_differently(root):
    edit(root, "val", lambda d: d["categories"][0].update(name="Red_circle"))
    report = check(root)
    assert "'Red_circle' in val is spelled 'red circle' in train" in str(report["category-spelling"])
    assert report.ok and "categories-missing" not in report


def test_check_another_class_under_the_same_id(root):
    edit(root, "val", lambda d: d["categories"][0].update(name="dog"))
    report = check(root)
    assert "id 1 is 'dog' in val and 'red circle' in train" in str(report["categories-disagree"])
    assert report["categories-missing"].count == 2


@pytest.mark.parametrize("lacking", ["train", "val"])
def test_check_class_without_boxes_in_one_split(root, lacking):
    def empty_class(d):
        d["annotations"] = [a for a in d["annotations"] if a["category_id"] != 3]

    edit(root, lacking, empty_class)
    finding = check(root)["class-absent"]
    assert finding.count == 1
    assert f"0 in {lacking}" in str(finding) and "green triangle" in str(finding)


def test_boxes_as_corners_are_detected_and_otherwise_judged_as_meant(root):
    def corners(d):
        for a in d["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"] = [x, y, x + w, y + h]

    edit(root, "train", corners)
    report = check(root)
    boxes = len(read(root)["annotations"])
    assert report["box-xyxy"].count == boxes
    assert names(report) - {"class-few", "box-tiny"} == {"box-xyxy"}


def test_check_a_split_too_small_to_tell_follows_the_others(root, tmp_path):
    def corners(d):
        for a in d["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"] = [x, y, x + w, y + h]

    def one_in_the_corner(d):
        d["annotations"] = [a | {"bbox": [10, 12, 31, 40]} for a in d["annotations"][:1]]

    edit(root, "val", one_in_the_corner)
    assert "box-xyxy" not in check(root)
    edit(root, "train", corners)
    assert check(root)["box-xyxy"].count == len(read(root)["annotations"]) + 1
    fix_dataset(root, tmp_path / "fixed", progress=False)
    assert read(tmp_path / "fixed", "val")["annotations"][0]["bbox"] == [10, 12, 21, 28]
    edit(root, "val", lambda d: d["annotations"][0].update(bbox=[100, 12, 31, 40]))
    assert check(root)["box-xyxy"].count == len(read(root)["annotations"])


def test_boxes_as_centres_are_detected(root):
    def centres(d):
        for a in d["annotations"]:
            x, y, w, h = a["bbox"]
            a["bbox"] = [x + w / 2, y + h / 2, w, h]

    edit(root, "train", centres)
    report = check(root)
    assert "box-centre" in report and "box-outside" not in report


@pytest.mark.parametrize("layout", ["xywh", "xyxy", "cxcywh"])
def test_check_normalised_boxes_are_detected(root, layout):
    def normalise(d):
        size = {i["id"]: (i["width"], i["height"]) for i in d["images"]}
        for a in d["annotations"]:
            x, y, w, h = np.array(a["bbox"]) / np.tile(size[a["image_id"]], 2)
            a["bbox"] = {"xywh": [x, y, w, h], "xyxy": [x, y, x + w, y + h], "cxcywh": [x + w / 2, y + h / 2, w, h]}[
                layout
            ]

    edit(root, "train", normalise)
    report = check(root)
    assert "box-normalised" in report
    assert ("box-xyxy" in report) == (layout == "xyxy") and ("box-centre" in report) == (layout == "cxcywh")
    assert "box-outside" not in report and "box-full-image" not in report


def test_check_a_few_boxes_outside_are_not_taken_for_another_layout(root):
    def push(d):
        for a in d["annotations"][:4]:
            a["bbox"][0] += 200

    edit(root, "train", push)
    report = check(root)
    assert "box-outside" in report and not {"box-xyxy", "box-centre", "box-normalised"} & names(report)


def test_check_examples_name_file_line_and_id(root):
    document = read(root)
    document["annotations"][7]["bbox"] = [1, 2, 3]
    document["annotations"][7]["id"] = 4242
    write(root, document)
    (example,) = check(root)["box-malformed"].examples
    lines = (root / LABEL["train"]).read_text().splitlines()
    assert example.id == 4242 and example.file == LABEL["train"]
    record = "\n".join(lines[example.line - 1 :])
    assert json.JSONDecoder().raw_decode(record.strip())[0]["id"] == 4242
    assert str(example).startswith(f"{LABEL['train']}:{example.line}: annotation 4242: ")


def test_check_examples_are_five_and_the_count_is_all(root):
    edit(root, "train", lambda d: [a.update(bbox=None) for a in d["annotations"]])
    finding = check(root)["box-malformed"]
    assert finding.count == len(read(root)["annotations"]) and len(finding.examples) == 5
    assert f"and {finding.count - 5} more" in str(finding)


def test_check_class_names_with_html_and_control_characters_are_neutralised(root):
    evil = "<img src=x onerror=alert(1)>\x1b[2J\ud800"
    edit(root, "train", lambda d: d["categories"].append({"id": 77, "name": evil}))
    report = check(root)
    assert "<img" not in report._repr_html_() and "&lt;img" in report._repr_html_()
    assert "\x1b" not in str(report) and str(report).encode("utf-8")


def test_check_a_folder_that_is_no_cocodir(tmp_path, root):
    assert "layout" in check(tmp_path / "nothing")
    assert "check that" in str(check(root.parent)["layout"])
    (root / LABEL["val"]).rename(root / "annotations" / "instances_valid2017.json")
    assert "Did you mean 'instances_valid2017.json'" in str(check(root)["layout"])
    assert check(root, splits=["train"]).ok
    with pytest.raises(UserError, match="Did you mean 'train'"):
        check(root, splits=["trian"])
    with pytest.raises(UserError, match="images must be"):
        check(root, images="all")


def test_check_a_test_split_may_have_no_boxes(root):
    bare = {k: v for k, v in read(root, "val").items() if k != "annotations"} | {"images": []}
    (root / "annotations" / "image_info_test2017.json").write_text(json.dumps(bare))
    (root / "test2017").mkdir()
    report = check(root)
    assert "test" in report.splits and "no-annotations" not in report and "class-absent" not in report


def test_check_raise_if_errors_names_what_is_wrong(root):
    file = image_file(root, read(root))
    file.unlink()
    with pytest.raises(UserError, match=f"image-missing.*(?s:.*){file.name}.*(?s:.*)--no-check"):
        check(root).raise_if_errors()


def test_check_command_line(root, capsys):
    assert main(["check", str(root)]) == 0
    assert "train: 10 images" in capsys.readouterr().out
    image_file(root, read(root)).unlink()
    assert main(["check", str(root), "--images", "none"]) == 0
    capsys.readouterr()
    assert main(["check", str(root), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    (missing,) = [f for f in result["findings"] if f["name"] == "image-missing"]
    assert missing["count"] == 1 and missing["level"] == "error" and missing["examples"][0]["file"] == LABEL["train"]
    assert not result["ok"]


def test_check_the_degenerate_boxes_of_bccd_are_found_when_planted(bccd, tmp_path):
    """Two boxes of the original have no width and no height; conversion leaves them out, so they are put back."""
    root = tmp_path / "bccd"
    dino_nb.convert_dataset(bccd, root)
    assert check(root).ok and not check(root).warnings
    planted = {"BloodImage_00338.jpg": [504, 337, 0, 0], "BloodImage_00343.jpg": [181, 329, 0, 0]}
    for split in ("train", "val", "test"):
        file = root / "annotations" / f"instances_{split}2017.json"
        document = json.loads(file.read_text())
        for image in document["images"]:
            if image["file_name"] in planted:
                record = document["annotations"][0] | {"image_id": image["id"], "bbox": planted[image["file_name"]]}
                document["annotations"].append(record | {"id": 100_000 + image["id"]})
        file.write_text(json.dumps(document, indent=1))
    finding = check(root)["box-empty"]
    assert finding.count == 2 and all(name in str(finding) for name in planted)
    fixed = fix_dataset(root, tmp_path / "fixed", progress=False)
    assert len(fixed.changes) == 2 and harmless(fixed.report)
