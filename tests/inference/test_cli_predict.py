import json

import pytest
from PIL import Image

from dino_nb.cli import main
from tests.inference.test_video import make_clip


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for i, name in enumerate(("a/same.jpg", "b/same.jpg", "b/other.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80 + i, 60), "grey").save(folder / name)
    return folder


def predict(tmp_path, *arguments):
    code = main(["predict", "dino-tiny", *map(str, arguments), "-o", str(tmp_path / "out"), "--device", "cpu"])
    file = tmp_path / "out" / "predictions.json"
    return code, json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def test_annotated_pictures_and_a_json(tmp_path, pictures, capsys):
    code, entries = predict(tmp_path, pictures / "a", pictures / "b", "--threshold", 0, "--max_detections", 2)
    assert code == 0
    assert [entry["output"] for entry in entries] == ["same.jpg", "other.png", "same_2.jpg"]
    assert [entry["file"] for entry in entries] == [
        str(pictures / n) for n in ("a/same.jpg", "b/other.png", "b/same.jpg")
    ]
    assert all(len(entry["detections"]) == 2 for entry in entries)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"same.jpg", "same_2.jpg", "other.png", "predictions.json"}
    assert Image.open(tmp_path / "out" / "other.png").size == (82, 60)
    assert "3 pictures, 6 objects" in capsys.readouterr().out


def test_a_bad_picture_is_named_and_the_others_are_done(tmp_path, pictures, capsys):
    (pictures / "a" / "bad.jpg").write_bytes(b"bad")
    code, entries = predict(tmp_path, pictures / "a", "--no_pictures")
    assert code == 1
    assert [entry["output"] for entry in entries] == [None]
    assert f"left out: {pictures / 'a' / 'bad.jpg'}" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]
    assert predict(tmp_path, pictures / "a", "--errors", "raise")[0] == 1


def test_slices_reach_the_detector(tmp_path, pictures, capsys):
    code, entries = predict(tmp_path, pictures / "a", "--slice_size", 32, "--threshold", 0, "--no_pictures")
    assert code == 0 and len(entries[0]["detections"]) > 100  # more than one pass over the picture gives
    assert predict(tmp_path, pictures / "a", "--slice_size", 8)[0] == 1
    assert "slice_size must be at least 32" in capsys.readouterr().err


def test_videos_come_out_as_videos(tmp_path, pictures):
    pytest.importorskip("av", reason="PyAV is not installed (extra 'test' has it)")
    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    code, entries = predict(tmp_path, clip, pictures / "a" / "same.jpg", "--threshold", 0, "--max_detections", 1)
    assert code == 0
    assert [(entry.get("frame"), entry["output"]) for entry in entries] == [
        (None, "same.jpg"),
        *((i, "clip.mp4") for i in range(3)),
    ]
    assert (tmp_path / "out" / "clip.mp4").stat().st_size > 0


def test_a_source_is_never_overwritten(tmp_path, pictures, capsys):
    before = (pictures / "a" / "same.jpg").read_bytes()
    assert main(["predict", "dino-tiny", str(pictures / "a"), "-o", str(pictures / "a")]) == 1
    assert "overwritten" in capsys.readouterr().err
    assert (pictures / "a" / "same.jpg").read_bytes() == before
    assert [p.name for p in (pictures / "a").iterdir()] == ["same.jpg"]


def test_what_is_wrong_on_the_command_line_is_said(tmp_path, pictures, capsys):
    assert predict(tmp_path, tmp_path / "gone")[0] == 1
    assert "no image file" in capsys.readouterr().err
    assert predict(tmp_path, pictures / "a", "--classes", "red circl")[0] == 1
    assert "Did you mean 'red circle'" in capsys.readouterr().err
    assert main(["predict", "dino-tiny"]) == 2
