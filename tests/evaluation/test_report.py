"""The report: one file that is safe to open, every number as JSON, tables, and labels that come back corrected."""

import csv
import json
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import dino_nb
from dino_nb.data.classes import match_classes
from dino_nb.data.dataset import CocoDataset
from dino_nb.errors import UserError
from dino_nb.evaluation import report
from dino_nb.evaluation.coco import score
from dino_nb.evaluation.evaluate import EvalResult
from dino_nb.evaluation.labels import labels_to_check
from dino_nb.printer import to_page

EVIL = [
    "<script>alert(1)</script>",
    "</style><b onload=x>",
    "=HYPERLINK(1)",
    '"&\x1b[2J',
    "日本語 \u202e",
    "_ %s {0} $x",
]


def evaluated(folder, names, images=3, seed=0, found=None, objects=6):
    """Random objects, most of them found, of which some are taken for the next class."""
    rng = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    data = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate(names)]}
    results = []
    for i in range(images):
        Image.new("RGB", (200, 100), "gray").save(folder / f"val2017/{i}.png")
        data["images"].append({"id": i, "file_name": f"{i}.png", "width": 200, "height": 100})
        for _ in range(objects):
            box = [float(v) for v in (*rng.uniform(0, 60, 2), *rng.uniform(20, 40, 2))]
            category = int(rng.integers(len(names)))
            record = {"image_id": i, "category_id": category + 1, "bbox": box}
            data["annotations"].append({"id": len(data["annotations"]) + 1, **record})
            category = (category + (rng.random() < 0.3)) % len(names)
            if rng.random() < 0.8:
                results.append({**record, "category_id": int(category) + 1, "score": float(rng.uniform(0.2, 1))})
        results.append({"image_id": i, "category_id": 1, "bbox": [150.0, 50.0, 40.0, 40.0], "score": 0.9})
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(data))
    dataset = CocoDataset(folder, "val")
    match = match_classes(dataset.categories, len(names), dataset.class_names)
    scores = score(dataset.coco(), results if found is None else found)
    return EvalResult(scores, match, dataset, 1.0, 2.0, {"checkpoint": EVIL[0]})


class Tags(HTMLParser):
    """Whether every tag is closed in order, and what there is."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "br", "img", "path", "polyline", "!doctype"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_page_is_one_safe_file(tmp_path):
    result = evaluated(tmp_path / "set", EVIL)
    report.write(result, tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text()
    tags = Tags(text)
    assert tags.open == [] and not {"script", "link", "iframe", "b onload"} & set(tags.seen)
    assert not [a for a in tags.attributes if a[0].startswith("on")]
    links = [value for key, value in tags.attributes if key in ("href", "src")]
    assert all(value.startswith(("#", "data:image/jpeg;base64,")) for value in links)
    anchors = {value for key, value in tags.attributes if key == "id"}
    assert {value[1:] for value in links if value[0] == "#"} <= anchors and len(anchors) > 2
    assert "&lt;script&gt;" in text and "\x1b" not in text and "prefers" not in text and "light dark" in text
    for name in report.PARTS:
        part = result.show(name)
        assert "\x1b" not in str(part) and "<script" not in part._repr_html_()
    with pytest.raises(UserError, match="Did you mean 'worst'"):
        result.show("wurst")


def test_report_json_and_tables_have_every_number(tmp_path):
    result = evaluated(tmp_path / "set", ["cat", "=dog"], seed=1)
    report.write(result, tmp_path / "out")
    saved = json.loads((tmp_path / "out/report.json").read_text())
    analysis = result.analysis
    assert saved["metrics"] == result.metrics and saved["errors"]["counts"] == analysis.counts
    assert saved["threshold"]["best"] == analysis.thresholds.best and saved["where"] == analysis.where
    assert sum(c["count"] for c in saved["confusion"]) == analysis.confusion.sum()
    assert len(saved["label_errors"]) == len(analysis.label_errors) > 0
    with (tmp_path / "out/per_class.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [r["name"] for r in rows] == ["cat", "'=dog"]  # no formula for a spreadsheet
    assert [float(r["AP"]) for r in rows] == [r["AP"] for r in result.per_class]
    with (tmp_path / "out/label_errors.csv").open() as f:
        listed = list(csv.DictReader(f))
    assert [r["kind"] for r in listed] == [c["kind"] for c in analysis.label_errors]
    assert [float(r["certainty"]) for r in listed] == sorted((float(r["certainty"]) for r in listed), reverse=True)


def test_reliability_is_drawn_from_the_bins(tmp_path):
    result = evaluated(tmp_path / "set", ["cat", "dog"], images=9)
    bins, page = result.thresholds.reliability, result.show("threshold")._repr_html_()
    points = " ".join(f"{40 + 400 * b['score']:.1f},{250 - 230 * b['right']:.1f}" for b in bins)
    assert len(bins) > 3 and f'points="{points}"' in page and 'points="40.0,250.0 440.0,20.0"' in page


def test_labels_to_check_come_back_through_convert(tmp_path):
    result = evaluated(tmp_path / "set", ["cat", "dog"], seed=2)
    report.write(result, tmp_path / "out")
    shutil.copytree(tmp_path / "set/val2017", tmp_path / "labelled/images")
    data = json.loads((tmp_path / "out/labels_to_check.json").read_text())
    missing = [c for c in result.analysis.label_errors if c["kind"] == "missing box"]
    assert len(data["annotations"]) == 18 + len(missing) and missing
    assert sum("suspicion" in a for a in data["annotations"]) >= len(missing)
    (tmp_path / "labelled/corrected.json").write_text(json.dumps(data))
    dino_nb.convert_dataset(tmp_path / "labelled", tmp_path / "again")
    counts = [
        len(json.loads(p.read_text())["annotations"]) for p in (tmp_path / "again/annotations").glob("instances_*")
    ]
    assert sum(counts) == len(data["annotations"])


@pytest.mark.parametrize("format", ["labelme", "cvat"])
def test_labels_to_check_of_a_labelling_tool_come_back_through_convert(tmp_path, format):
    result = evaluated(tmp_path / "set", ["cat", "dog"], seed=2)
    folder = result.save_labels(tmp_path / "labels", format)
    assert dino_nb.convert_dataset(folder, tmp_path / "again").format == format
    known = {i["id"]: i["file_name"] for i in labels_to_check(result)["images"]}
    expected = sorted(
        (known[a["image_id"]], a["category_id"], *a["bbox"]) for a in labels_to_check(result)["annotations"]
    )
    found = []
    for path in (tmp_path / "again/annotations").glob("instances_*"):
        data = json.loads(path.read_text())
        names = {i["id"]: i["file_name"] for i in data["images"]}
        found += [(names[a["image_id"]], a["category_id"], *a["bbox"]) for a in data["annotations"]]
    assert [f[:2] for f in sorted(found)] == [e[:2] for e in expected]
    assert np.allclose([f[2:] for f in sorted(found)], [e[2:] for e in expected], atol=0.01)
    assert any(c["kind"] == "missing box" for c in result.analysis.label_errors) and len(known) == 3
    (folder / "mine.txt").write_text("corrected")
    with pytest.raises(UserError, match="labels"):  # never overwritten: corrections may be in it
        result.save_labels(folder, format)
    with pytest.raises(UserError, match="Did you mean 'labelme'"):
        result.save_labels(tmp_path / "new", "labelm")


def test_counts_of_one_are_in_the_singular(monkeypatch):
    row = {"file": "a.jpg", "question": "cat here?", "certainty": 0.3}
    monkeypatch.setattr(report, "label_rows", lambda result: [row])
    kinds = dict.fromkeys(("correct", *report.KINDS), 1)
    analysis = SimpleNamespace(threshold=0.5, counts=kinds, cost=dict.fromkeys(kinds, 0.0), where=[])
    analysis.label_errors = [{"object": 1, "detection": 2}]
    result = SimpleNamespace(analysis=analysis)
    assert report.labels(result)[0].text()[0].startswith("1 label to look at")
    assert report.errors(result)[0].text() == ["Correct from score 0.500 on: 1 detection. Wrong ones:"]


def test_save_labels_of_perfect_results_says_so(tmp_path):
    result = evaluated(tmp_path / "set", ["cat"], objects=0, found=[])
    with pytest.raises(UserError, match="no label looks wrong"):
        result.save_labels(tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"names": ["one"], "images": 1},
        {"names": [f"class {i}" for i in range(1000)]},
        {"names": ["cat", "dog"], "found": []},
        {"names": ["cat", "dog"], "objects": 0},
        {"names": ["cat"], "found": [{"image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}] * 3},
        {"names": ["cat"], "found": [{"image_id": 0, "category_id": 1, "bbox": [0, 0, 0, 0], "score": 0.0}]},
        {"names": ["cat"], "found": [{"image_id": 0, "category_id": 1, "bbox": [500, 500, 9, 9], "score": 0.9}]},
    ],
)
def test_report_of_odd_evaluations(tmp_path, options):
    result = evaluated(tmp_path / "set", **options)
    report.write(result, tmp_path / "out")
    assert Tags((tmp_path / "out/report.html").read_text()).open == []
    json.loads((tmp_path / "out/report.json").read_text())
    assert (tmp_path / "out/report.html").stat().st_size < 3e6
    assert "class " in str(result) or "one" in str(result) or "cat" in str(result) or "no annotations" in str(result)


def test_report_of_more_than_twenty_classes_stays_readable(tmp_path):
    result = evaluated(tmp_path / "set", [f"class {i}" for i in range(30)], images=8)
    text = result.show("classes")._repr_html_()
    assert "worst and best three named" in text and text.count("&#9632;") == 7  # and the mean
    assert "The 20 classes with the most mistakes of 30" in str(result.show("confusion"))


def test_report_page_names_a_missing_image(tmp_path):
    result = evaluated(tmp_path / "set", ["cat", "dog"])
    for file in (tmp_path / "set/val2017").iterdir():
        file.unlink()
    assert "0.png" in to_page(report.worst(result), "x")


def test_published_ap_stands_beside_the_measured_one(tmp_path):
    result = evaluated(tmp_path / "set", ["cat"])
    result.settings["published"] = {
        "name": "dino-4scale-r50-12ep",
        "AP": 0.49,
        "differs": ["batch size 2 instead of 1"],
    }
    assert "published AP of dino-4scale-r50-12ep: 0.490; measured with batch size 2 instead of 1" in str(result)
