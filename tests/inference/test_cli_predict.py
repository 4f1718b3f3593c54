import json

import pytest
from PIL import Image

from dino_nb.cli import main
from tests.inference.test_video import make_clip


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for i, name in enumerate(("a/same.jpg", "b/same.jpg", "b/other.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80 + i, 60), "grey").save(folder / name)
    return folder


def predict(tmp_path, *arguments):
    code = main(["predict", "dino-tiny", *map(str, arguments), "-o", str(tmp_path / "out"), "--device", "cpu"])
    file = tmp_path / "out" / "predictions.json"
    return code, json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def test_predict_writes_images_and_a_json(tmp_path, images, capsys):
    code, entries = predict(tmp_path, images / "a", images / "b", "--threshold", 0, "--max_detections", 2)
    assert code == 0
    assert [entry["output"] for entry in entries] == ["same.jpg", "other.png", "same_2.jpg"]
    assert [entry["file"] for entry in entries] == [
        str(images / n) for n in ("a/same.jpg", "b/other.png", "b/same.jpg")
    ]
    assert all(len(entry["detections"]) == 2 for entry in entries)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"same.jpg", "same_2.jpg", "other.png", "predictions.json"}
    assert Image.open(tmp_path / "out" / "other.png").size == (82, 60)
    assert "3 images, 6 objects" in capsys.readouterr().out


def test_predict_names_a_bad_image_and_does_the_others(tmp_path, images, capsys):
    (images / "a" / "bad.jpg").write_bytes(b"bad")
    code, entries = predict(tmp_path, images / "a", "--no_images")
    assert code == 1
    assert [entry["output"] for entry in entries] == [None]
    assert f"left out: {images / 'a' / 'bad.jpg'}" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]
    assert predict(tmp_path, images / "a", "--errors", "raise")[0] == 1


def test_predict_slices(tmp_path, images, capsys):
    code, entries = predict(tmp_path, images / "a", "--slice_size", 32, "--threshold", 0, "--no_images")
    assert code == 0 and len(entries[0]["detections"]) > 100  # more than one pass over the image gives
    assert predict(tmp_path, images / "a", "--slice_size", 8)[0] == 1
    assert "slice_size must be at least 32" in capsys.readouterr().err


def test_predict_looks_again_and_writes_labels(tmp_path, images, capsys):
    options = ["--threshold", 0.01, "--flip", "--scales", 1, 1.5, "--nms", 0.7, "--save_labels", "yolo"]
    code, entries = predict(tmp_path, images / "a", *options)
    assert code == 0 and len(entries) == 1
    text = capsys.readouterr().out
    assert f"dino-nb convert {tmp_path / 'out' / 'labels'} COCODIR" in text
    lines = (tmp_path / "out" / "labels" / "labels" / "train" / "same.txt").read_text().splitlines()
    assert 0 < len(lines) <= len(entries[0]["detections"])
    assert predict(tmp_path, images / "a", *options)[0] == 1  # labels that may be corrected already are never replaced
    assert "labels" in capsys.readouterr().err
    assert predict(tmp_path, images / "a", "--nms", 3)[0] == 1
    assert "nms must be in" in capsys.readouterr().err


def test_predict_of_videos(tmp_path, images):
    pytest.importorskip("av", reason="PyAV is not installed (extra 'test' has it)")
    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    code, entries = predict(tmp_path, clip, images / "a" / "same.jpg", "--threshold", 0, "--max_detections", 1)
    assert code == 0
    assert [(entry.get("frame"), entry["output"]) for entry in entries] == [
        (None, "same.jpg"),
        *((i, "clip.mp4") for i in range(3)),
    ]
    assert (tmp_path / "out" / "clip.mp4").stat().st_size > 0


def test_predict_never_overwrites_a_source(tmp_path, images, capsys):
    before = (images / "a" / "same.jpg").read_bytes()
    assert main(["predict", "dino-tiny", str(images / "a"), "-o", str(images / "a")]) == 1
    assert "overwritten" in capsys.readouterr().err
    assert (images / "a" / "same.jpg").read_bytes() == before
    assert [p.name for p in (images / "a").iterdir()] == ["same.jpg"]


def test_predict_says_what_is_wrong(tmp_path, images, capsys):
    assert predict(tmp_path, tmp_path / "gone")[0] == 1
    assert "no image file" in capsys.readouterr().err
    assert predict(tmp_path, images / "a", "--classes", "red circl")[0] == 1
    assert "Did you mean 'red circle'" in capsys.readouterr().err
    assert main(["predict", "dino-tiny"]) == 2
