"""``evaluate`` and ``dino-nb eval``: numbers, files, and what is said when classes do not fit."""

import json
import resource
import shutil
import subprocess
import sys

import pytest
import torch

import dino_nb
from dino_nb.cli import main
from dino_nb.data.dataset import CocoDataset
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError
from dino_nb.evaluation.coco import METRICS, score
from dino_nb.evaluation.collect import collect_predictions, ground_truth_as_predictions
from dino_nb.prepare.sample import CLASSES, make_sample
from tests.evaluation.oracle import Oracle, odd_cocodir
from tests.evaluation.test_coco import by_pycocotools

NAMES = ["dog house", "bird", "CAT", "red circle"]
LABEL_OF = {10**12: 3, 0: 2, 17: 0}


def oracle(folder, names=NAMES, label_of=LABEL_OF, split="val"):
    return Oracle(CocoDataset(folder, split, eval_transform(64, 107), label_of), names)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("data") / "sample", n_train=2, n_val=6)


@pytest.fixture(scope="module")
def tiny():
    return dino_nb.load("dino-tiny", "cpu")


def test_true_answers_and_everything_written(tmp_path):
    folder = odd_cocodir(tmp_path / "odd")
    out = tmp_path / "out"
    result = dino_nb.evaluate(folder, oracle(folder), output_dir=out, check=False, progress=False)
    assert result.metrics["AP"] == pytest.approx(1) and list(result.metrics) == list(METRICS)
    assert [r["name"] for r in result.per_class] == ["cat", "Dog_house", "Red  Circle"]
    assert all(r["AP"] == pytest.approx(1) for r in result.per_class)
    assert result.seconds > 0 and result.images_per_second > 0
    assert "3 of 3 classes matched by name" in str(result) and "bird" in str(result)
    assert "1.000  IoU 0.50:0.95" in str(result)
    assert json.loads((out / "results.json").read_text()) == result.results
    report = json.loads((out / "report.json").read_text())
    assert report["metrics"] == result.metrics
    assert report["data"] == {**report["data"], "images": 5, "objects": 20, "classes": 3, "split": "val"}
    assert "Dog_house" in (out / "report.html").read_text()
    assert (out / "report.txt").read_text().startswith(f"{folder}/val2017: 5 images, 20 objects")


def test_results_file_gives_pycocotools_the_same_numbers(tmp_path, sample, tiny):
    result = dino_nb.evaluate(sample, tiny, output_dir=tmp_path, progress=False)
    expected, _ = by_pycocotools(sample / "annotations/instances_val2017.json", tmp_path / "results.json")
    assert result.metrics == expected
    assert {r["image_id"] for r in result.results} == set(result.image_ids)
    assert len(result.results) == 6 * tiny.model.config.num_select


def test_the_same_as_the_detector_finds(sample, tiny):
    """Evaluation and ``Detector.predict`` see the same pixels and give the same boxes."""
    dataset = CocoDataset(sample, "val", eval_transform(*tiny.input_size))
    results = collect_predictions(tiny.model, dataset, [1], progress=False)
    found = tiny.predict(dataset.path(1), threshold=0)
    assert [r["score"] for r in results] == pytest.approx(found["scores"].tolist(), abs=1e-6)
    boxes = torch.tensor([r["bbox"] for r in results])
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(boxes, found["boxes"], atol=1e-3, rtol=1e-4)
    assert [CLASSES[dataset.label_of[r["category_id"]]] for r in results] == found["names"]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_real_annotations_score_one(tmp_path_factory, bccd, split):
    folder = tmp_path_factory.getbasetemp() / "bccd"
    if not folder.exists():
        dino_nb.convert_dataset(bccd, folder)
    dataset = CocoDataset(folder, split)
    metrics = score(dataset.coco(), ground_truth_as_predictions(dataset)).metrics
    assert metrics["AP"] == metrics["APs"] == metrics["APm"] == metrics["APl"] == pytest.approx(1)


def test_limit_and_input_size(sample, tiny):
    result = dino_nb.evaluate(sample, tiny, limit=2, input_size=(64, 96), check=False, progress=False)
    assert len(result.image_ids) == 2 == len({r["image_id"] for r in result.results})
    assert "resized to 64 / 96" in str(result)
    with pytest.raises(UserError, match="at least 1"):
        dino_nb.evaluate(sample, tiny, limit=0, check=False, progress=False)


@pytest.mark.parametrize("annotations", [[], None])
def test_a_split_without_annotations_is_predicted_and_not_scored(tmp_path, annotations):
    folder = odd_cocodir(tmp_path / "odd", "test")
    file = folder / "annotations/instances_test2017.json"
    data = json.loads(file.read_text())
    del data["annotations"]
    file.write_text(json.dumps(data if annotations is None else {**data, "annotations": annotations}))
    result = dino_nb.evaluate(
        folder, oracle(folder, split="test"), split="test", output_dir=tmp_path / "out", check=False, progress=False
    )
    assert set(result.metrics.values()) == {-1} and len(result.results) == 5 * 5 * 3
    for text in (str(result), result._repr_html_(), (tmp_path / "out/report.txt").read_text()):
        assert "no annotations, so nothing was scored" in text


def test_unmatched_classes_are_named_and_scored_apart(tmp_path):
    folder = odd_cocodir(tmp_path / "odd")
    model = oracle(folder, ["dog_house", "cats"], {17: 0})
    result = dino_nb.evaluate(folder, model, check=False, progress=False)
    assert result.match.missing == ["cat (did you mean 'cats'?)", "Red  Circle"]
    assert result.metrics["AP"] == pytest.approx(1 / 3)
    text = str(result)
    assert "AP of the matched classes alone: 1.000" in text and "cat (not known)" in text
    assert result.to_dict()["AP_of_matched_classes"] == pytest.approx(1)


def test_no_class_in_common(tmp_path):
    folder = odd_cocodir(tmp_path / "odd")
    with pytest.raises(UserError, match=r"no class of the data set is known.*Model: zebra"):
        dino_nb.evaluate(folder, oracle(folder, ["zebra"], {}), check=False, progress=False)


def test_published_head_says_how_it_was_matched(tmp_path):
    folder = odd_cocodir(tmp_path / "odd")
    file = folder / "annotations/instances_val2017.json"
    data = json.loads(file.read_text())
    for category, name in zip(data["categories"], ("Stop Sign", "cat", "helmet")):
        category["name"] = name
    file.write_text(json.dumps(data))
    model = oracle(folder, [None] * 91, {10**12: 13, 0: 17})
    model.class_names = None
    result = dino_nb.evaluate(folder, model, check=False, progress=False)
    assert "2 of 3 classes matched by COCO name" in str(result) and result.match.missing == ["helmet"]
    assert [round(r["AP"], 6) for r in result.per_class] == [1, 0, 1]


def test_names_are_escaped_in_html_and_tamed_in_text(tmp_path):
    folder = odd_cocodir(tmp_path / "odd")
    evil = "<script>alert(1)</script>\x1b[2J"
    file = folder / "annotations/instances_val2017.json"
    file.write_text(file.read_text().replace('"cat"', json.dumps(evil)))
    result = dino_nb.evaluate(
        folder, oracle(folder, ["dog house", "b", evil, "red circle"]), output_dir=tmp_path, check=False, progress=False
    )
    for text in (result._repr_html_(), (tmp_path / "report.html").read_text()):
        assert "<script" not in text and "&lt;script&gt;" in text
    assert "\x1b" not in str(result)


def test_the_check_stops_a_bad_data_set(sample, tmp_path, tiny):
    bad = tmp_path / "bad"
    shutil.copytree(sample, bad)
    next((bad / "val2017").iterdir()).unlink()
    with pytest.raises(UserError, match="missing"):
        dino_nb.evaluate(bad, tiny, progress=False)


def test_memory_does_not_grow_with_images(sample, tiny):
    """Many images cost their results alone: the same few images, seen again and again."""
    dataset = CocoDataset(sample, "val", eval_transform(48, 80))
    collect_predictions(tiny.model, dataset, [0] * 8, progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = collect_predictions(tiny.model, dataset, [0, 1] * 20, progress=False)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert len(results) == 40 * tiny.model.config.num_select
    assert grown < 1000 * len(results) + 8e6


def test_command(sample, tmp_path, capsys):
    assert main(["eval", str(sample), "dino-tiny", "-o", str(tmp_path / "a"), "--device", "cpu"]) == 0
    first = capsys.readouterr().out
    assert "AP50" in first and all(name in first for name in CLASSES)
    published = ["--coco_path", str(sample), "--resume", "dino-tiny", "--eval", "-c", "dino-tiny"]
    published += ["--options", "dn_scalar=100", "embed_init_tgt=TRUE", "use_ema=False", "dn_box_noise_scale=1.0"]
    assert main(["eval", *published, "--output_dir", str(tmp_path / "b"), "--no-check", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert "without effect on an evaluation: dn_scalar, embed_init_tgt, use_ema" in captured.err
    assert (tmp_path / "a/results.json").read_text() == (tmp_path / "b/results.json").read_text()


def test_two_processes_write_what_one_does(sample, tmp_path):
    command = ["eval", str(sample), "dino-tiny", "--device", "cpu", "--limit", "5"]
    assert main([*command, "-o", str(tmp_path / "one")]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "dino_nb", *command, "-o", str(tmp_path / "two")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("AP50 ") == 2  # the number and the head of the table, from one process
    one, two = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two"))
    assert one == two and len({r["image_id"] for r in one}) == 5
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("one", "two")]
    differ = {key for key in reports[0] if reports[0][key] != reports[1][key]}
    assert differ <= {"seconds", "images_per_second", "milliseconds_per_image"}
    assert not list((tmp_path / "two").glob("results.part*"))


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["DATA"], 2, "no CHECKPOINT is named"),
        ([], 2, "no COCODIR is named"),
        (["DATA", "dino-tiny", "--resume", "dino-tiny"], 2, "what is 'dino-tiny'?"),
        (["DATA", "dino-tiny", "--spilt", "val"], 2, "--spilt"),
        (["DATA", "dino-tiny", "--split", "vall"], 1, "Did you mean 'val'?"),
        (["DATA", "nowhere.pth"], 1, "nowhere.pth"),
        (["nowhere", "dino-tiny"], 1, "nowhere"),
        (["DATA", "dino-tiny", "-c", "DINO_4scale"], 1, "backbone=resnet50, the checkpoint test_convnext"),
        (["DATA", "dino-tiny", "-c", "DINO_4scales"], 1, "Did you mean 'DINO_4scale'?"),
        (["DATA", "dino-tiny", "--options", "dn_scaler=5"], 1, "Did you mean 'dn_scalar'?"),
        (["DATA", "dino-tiny", "--options", "hidden_dim=256"], 1, "the checkpoint has 64"),
        (["DATA", "dino-tiny", "--options", "num_select"], 1, "key=value"),
    ],
)
def test_command_line_errors(sample, tmp_path, capsys, arguments, code, message):
    arguments = [str(sample) if a == "DATA" else a for a in arguments]
    assert main(["eval", *arguments, "-o", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_compares_and_stores_the_threshold(sample, tmp_path, capsys, tiny):
    file = dino_nb.checkpoints.checkpoint.save_checkpoint(tmp_path / "mine.pth", tiny.model)
    common = ["--device", "cpu", "--no_check", "-o", str(tmp_path / "out")]
    assert main(["eval", str(sample), str(file), *common, "--store_threshold", "--against", "dino-tiny"]) == 0
    out = capsys.readouterr().out
    assert "AP +0.0 [+0.0, +0.0]: the two cannot be told apart on 6 images." in out
    stored = dino_nb.load(str(file), "cpu").model.thresholds
    assert f"stored in {file}: threshold {stored['overall']:.3f}" in out and set(stored["per_class"]) == set(CLASSES)
    assert {p.name for p in (tmp_path / "out").glob("comparison.*")} == {
        *("comparison.html", "comparison.txt", "comparison.json")
    }
    result = dino_nb.evaluate(sample, str(file), check=False, progress=False, threshold=None)
    assert result.thresholds.used == stored["overall"]  # what the checkpoint stores is used
    saved = str(tmp_path / "out")
    assert main(["eval", str(sample), "dino-tiny", *common[:-1], str(tmp_path / "b"), "--against", saved]) == 0
    assert main(["eval", str(sample), "dino-tiny", *common, "--store_threshold"]) == 1
    assert main(["eval", str(sample), "dino-tiny", *common, "--compare_precision"]) == 1
    errors = capsys.readouterr().err
    assert "there is no file dino-tiny" in errors and "needs a GPU" in errors


def test_evaluate_exported_onnx_file(sample, tmp_path, tiny):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    file = dino_nb.export(tiny, tmp_path / "tiny.onnx", format="onnx")
    exported = dino_nb.evaluate(sample, str(file), check=False, progress=False, output_dir=tmp_path / "out")
    whole = dino_nb.evaluate(sample, tiny, check=False, progress=False)
    assert exported.metrics["AP"] == pytest.approx(whole.metrics["AP"], abs=0.02) and exported.metrics["AP"] > 0.5


def test_save_labels_flag_writes_a_folder_for_labelme_once(tmp_path, sample, capsys):
    command = ["eval", str(sample), "dino-tiny", "-o", str(tmp_path), "--device", "cpu", "--save_labels", "labelme"]
    assert main([*command, "--threshold", "1"]) == 0
    assert "no label looks wrong" in capsys.readouterr().out and not (tmp_path / "labels").exists()
    command += ["--threshold", "0.02"]  # doubtful detections, which look like missing boxes
    assert main(command) == 0
    assert "dino-nb convert" in capsys.readouterr().out and list((tmp_path / "labels/val").glob("*.json"))
    assert main(command) == 1  # corrections may be in it
    assert str(tmp_path / "labels") in capsys.readouterr().err
