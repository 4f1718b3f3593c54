"""The script that measures recipes, on a few images."""

import json

import pytest

import dino_nb
from dino_nb.prepare.sample import make_sample
from tests.benchmarks.recipes import COLUMNS, joined, main, subset


def test_recipes_append_a_row_a_run(tmp_path, capsys):
    cocodir = make_sample(tmp_path / "sample", n_train=6, n_val=2)
    rows, figure = tmp_path / "rows.jsonl", tmp_path / "rows.png"
    command = [str(cocodir), "--start", "dino-tiny", "--images", "4", "--rows", str(rows), "--options", "size=64"]
    command += ["max_size=107", "--recipes", "tiny:epochs=1", "finetune:steps=2,amp=fp32", "--figure", str(figure)]
    main(command)
    first, second = map(json.loads, rows.read_text().splitlines())
    assert (first["set"], first["images"], first["steps"], first["recipe"]) == (
        "sample", 4, 1, "tiny:epochs=1 size=64 max_size=107",
    )  # fmt: skip
    assert second["steps"] == 2 and [record["epoch"] for record in second["history"]] == [0, 1, 2]
    assert figure.stat().st_size > 1000
    capsys.readouterr()
    main(["--table", "--rows", str(rows)])
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4 and table[0] == f"| {' | '.join(COLUMNS)} |"


def test_recipes_change_the_network_too(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(dino_nb, "finetune", lambda *args, **options: given.update(options) or 1 / 0)
    cocodir = make_sample(tmp_path / "sample", n_train=2, n_val=2)
    with pytest.raises(ZeroDivisionError):
        main([str(cocodir), "--recipes", "tiny:iou_target=True,lr=0.1", "--rows", str(tmp_path / "rows")])
    assert given["model_options"] == {"iou_target": "True"} and given["lr"] == 0.1


def test_recipes_subsets_are_nested(tmp_path):
    cocodir = make_sample(tmp_path / "sample", n_train=8, n_val=2)
    names = [
        {
            image["file_name"]
            for image in json.loads((folder / "annotations/instances_train2017.json").read_text())["images"]
        }
        for folder in (subset(cocodir, 2, tmp_path / "two"), subset(cocodir, 5, tmp_path / "five"))
    ]
    assert len(names[0]) == 2 and len(names[1]) == 5 and names[0] < names[1]
    assert all((tmp_path / "two" / "train2017" / name).exists() for name in names[0])


def test_recipes_join_sets_with_the_classes_of_all(tmp_path):
    one, two = (make_sample(tmp_path / name, n_train=3, n_val=2) for name in ("one", "two"))
    for path in two.glob("annotations/*.json"):
        path.write_text(path.read_text().replace("red circle", "raccoon"))
    cocodir = joined([one, two], tmp_path)
    assert cocodir.name == "one+two"
    for split, count in (("train", 6), ("val", 4)):
        data, *parts = (
            json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())
            for folder in (cocodir, one, two)
        )
        assert len({image["id"] for image in data["images"]}) == count
        assert all((cocodir / f"{split}2017" / image["file_name"]).exists() for image in data["images"])
        assert len({a["id"] for a in data["annotations"]}) == sum(len(part["annotations"]) for part in parts)
        names = [category["name"] for category in data["categories"]]
        assert len(names) == len(set(names)) == 6 and {"raccoon", "red circle"} <= set(names)
        boxes = [sorted(labelled(file)) for file in (data, *parts)]
        assert boxes[0] == sorted(boxes[1] + boxes[2])


def labelled(data):
    """Class name and box of each annotation of a file."""
    names = {category["id"]: category["name"] for category in data["categories"]}
    return [(names[a["category_id"]], a["bbox"]) for a in data["annotations"]]
