"""Pascal VOC and YOLO in their variants; every fault is named by file and line."""

import pytest

from tests.prepare.annotation_writers import (
    PLAIN,
    SIZE,
    WRITERS,
    convert,
    faults,
    put,
    put_image,
    put_images,
    read_back,
    voc_xml,
)


def voc_source(root):
    put_images(root / "JPEGImages", PLAIN)
    WRITERS["voc"](root, PLAIN, None)
    return root


def test_voc_without_image_sets_is_divided_here(tmp_path):
    report = convert(voc_source(tmp_path / "s"), tmp_path / "o")
    assert report.own_split and report.splits["val"]["images"] == 1


def test_voc_trainval_and_test_lists(tmp_path):
    src = voc_source(tmp_path / "s")
    put(src / "ImageSets/Main/trainval.txt", "p0\np1\np2\n")
    put(src / "ImageSets/Main/test.txt", "p3\n")
    put(src / "ImageSets/Main/cat_trainval.txt", "p0 1\np1 -1\n")
    report = convert(src, tmp_path / "o")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 2, "val": 1, "test": 1}


def test_voc_renamed_together_with_a_stale_filename(tmp_path):
    src = voc_source(tmp_path / "s")
    put(src / "Annotations/p1.xml", voc_xml("holiday 17.JPG", SIZE, [("cat", 1, 2, 3, 4)]))
    put(src / "Annotations/other.xml", voc_xml("p0.png", SIZE, [("dog", 1, 2, 3, 4)]))
    report = convert(src, tmp_path / "o")
    back = read_back(tmp_path / "o")
    assert back["p1.png"] == [("cat", 1, 2, 3, 4)] and ("dog", 1, 2, 3, 4) in back["p0.png"]
    assert "annotated in several places" in str(report)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<xmin>4</xmin>", "<xmin>four</xmin>", "p1.xml:4: the 'cat' needs a <bndbox>"),
        ("<xmin>4</xmin>", "", "p1.xml:4: the 'cat' needs a <bndbox>"),
        ("<xmin>4</xmin>", "<xmin>nan</xmin>", "p1.xml:4: the 'cat' needs a <bndbox>"),
        ("<name>dog</name>", "<name> </name>", "p1.xml:8: the object has no <name>"),
        (
            "</bndbox>\n</object>\n<object>",
            "</bndbox>\n<object>",
            "p1.xml:11: column 3: not correct XML",
        ),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY l "lol">]><annotation>', "p1.xml: refused, since it defines entities"),
    ],
)
def test_voc_faults_name_file_and_line(tmp_path, old, new, said):
    src = voc_source(tmp_path / "s")
    path = src / "Annotations" / "p1.xml"
    path.write_text(path.read_text().replace(old, new, 1))
    assert said in faults(src, tmp_path)


def test_entity_bomb_is_refused_at_once(tmp_path):
    src = voc_source(tmp_path / "s")
    entities = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(12))
    bomb = f'<!DOCTYPE x [<!ENTITY a0 "ha">{entities}]><annotation><object><name>&a12;</name></object></annotation>'
    put(src / "Annotations/p2.xml", bomb)
    assert "p2.xml: refused" in faults(src, tmp_path)


def test_yolo_data_yaml_as_roboflow_writes_it(tmp_path):
    src = tmp_path / "s"
    for i, (split, count) in enumerate((("train", 3), ("valid", 2), ("test", 1))):
        names = [f"{split}{n}.jpg" for n in range(count)]
        put_images(src / split / "images", names, size=(64, 40 + i))
        for name in names:
            put(src / split / "labels" / f"{name[:-4]}.txt", "1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n")
    put(
        src / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: [cat, 'no']\n",
    )
    put_image(src / "train/images/background.jpg", colour=(1, 2, 3))
    report = convert(src, tmp_path / "o")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 4, "val": 2, "test": 1}
    assert report.splits["train"]["empty"] == 1 and list(report.classes) == ["cat", "no"]
    assert "taken as background" in str(report)
    assert read_back(tmp_path / "o")["test0.jpg"] == [
        ("cat", pytest.approx(6.4), pytest.approx(4.2), pytest.approx(19.2), pytest.approx(16.8)),
        ("no", pytest.approx(24), pytest.approx(10.5), pytest.approx(40), pytest.approx(31.5)),
    ]


def test_yolo_list_files_and_numbered_names(tmp_path):
    src = tmp_path / "s"
    put_images(src / "images", [f"{i}.png" for i in range(4)])
    for i in range(4):
        put(src / "labels" / f"{i}.txt", "0 0.5 0.5 0.5 0.5")
    put(src / "train.txt", "/content/set/images/0.png\n/content/set/images/1.png\n./images/2.png\n")
    put(src / "val.txt", "images/3.png\n")
    put(src / "my.yaml", "path: /content/set\ntrain: train.txt\nval: val.txt\nnames:\n  0: person\n")
    report = convert(src, tmp_path / "o")
    assert {s: n["images"] for s, n in report.splits.items()} == {"train": 3, "val": 1}


def yolo_source(root):
    put_images(root / "images", PLAIN)
    WRITERS["yolo"](root, PLAIN, ["cat", "dog"])
    return root


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0 0.5 0.5 0.2", "p1.txt:2: 4 columns"),
        ("0 0.5 0.5 0.2 0.2 0.9", "p1.txt:2: 6 columns"),
        ("7 0.5 0.5 0.2 0.2", "p1.txt:2: class 7 is not one of the 2 classes"),
        ("0 320 240 20 20", "p1.txt:2: 320 is not a fraction"),
        ("cat 0.5 0.5 0.2 0.2", "p1.txt:2: a line is"),
        ("0 0.5 nan 0.2 0.2", "p1.txt:2: a line is"),
    ],
)
def test_yolo_faults_name_file_and_line_and_may_be_skipped(tmp_path, row, said):
    src = yolo_source(tmp_path / "s")
    lines = (src / "labels/p1.txt").read_text().splitlines()
    put(src / "labels/p1.txt", f"{lines[0]}\n{row}\n{lines[1]}\n")
    assert said in faults(src, tmp_path)
    report = convert(src, tmp_path / "o", skip_bad=True)
    assert "1 fault, left out as told" in str(report) and said in str(report)
    assert sum(n["boxes"] for n in report.splits.values()) == 8


def test_yolo_without_names_says_what_to_do(tmp_path):
    src = yolo_source(tmp_path / "s")
    (src / "classes.txt").unlink()
    assert "--classes" in faults(src, tmp_path)
    assert list(convert(src, tmp_path / "o", class_names="cat,dog").classes) == ["cat", "dog"]


def test_yolo_label_without_image(tmp_path):
    src = yolo_source(tmp_path / "s")
    (src / "images/p2.png").unlink()
    assert "labels/p2.txt: there is no image" in faults(src, tmp_path)


def test_yaml_cannot_run_code_and_its_errors_have_lines(tmp_path):
    src = yolo_source(tmp_path / "s")
    put(src / "data.yaml", f"names: !!python/object/apply:os.mkdir [{tmp_path / 'owned'}]\n")
    assert "data.yaml:1" in faults(src, tmp_path)
    assert not (tmp_path / "owned").exists()
    put(src / "data.yaml", "train: images\nnames: [cat, dog\n")
    assert "data.yaml:3" in faults(src, tmp_path)
    laughs = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
    put(src / "data.yaml", f"a0: &a0 [ha]\n{laughs}names: [*a9, cat]\n")
    assert "none, or an empty one" in faults(src, tmp_path)
    put(src / "data.yaml", "names: [cat, cat]\n")
    assert "'cat' twice" in faults(src, tmp_path)
