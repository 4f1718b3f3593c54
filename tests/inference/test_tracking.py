import csv
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector
from dino_nb.inference.results import Result
from dino_nb.inference.sources import SourceImage
from dino_nb.inference.tracking import Tracker
from dino_nb.inference.video import read_frames
from tests.inference.fake import FakeModel
from tests.inference.test_video import make_clip

pytest.importorskip("supervision", reason="supervision is not installed (extra 'test' has it)")


class NearestTracker:
    """Stands for ``trackers.ByteTrackTracker``: same answers, in another order, for boxes that move little."""

    def __init__(self, **settings):
        self.settings, self.last = settings, {}

    def update(self, detections):
        numbers = []
        for box, score in zip(detections.xyxy, detections.confidence):
            near = [n for n, old in self.last.items() if np.abs(old - box).max() < 15]
            number = (
                near[0] if near else (len(self.last) if score >= self.settings["track_activation_threshold"] else -1)
            )
            self.last |= {number: box} if number >= 0 else {}
            numbers.append(number)
        order = np.arange(len(detections))[::-1]
        found = detections[order]
        found.tracker_id = np.array(numbers, dtype=int)[order]
        return found


@pytest.fixture
def trackers(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", SimpleNamespace(ByteTrackTracker=NearestTracker))


def frame(index, *rows):
    scores, labels, boxes = zip(*rows)
    source = SourceImage(Image.new("RGB", (200, 100)), f"clip_{index}.png", frame=index, time=index / 10)
    boxes = torch.tensor(boxes, dtype=torch.float32)
    return Result(torch.tensor(scores), torch.tensor(labels), boxes, ["cat", None, "dog"], source)


def test_tracker_numbers_stay_with_their_objects(trackers, tmp_path):
    tracker = Tracker(10, 0.5)
    followed = []
    for i in range(5):
        cat, dog = (0.9 if i else 0.6, 0, [10 + 5 * i, 10, 40 + 5 * i, 50]), (0.3 if i else 0.8, 2, [90, 20, 150, 90])
        followed.append(tracker.update(frame(i, dog, cat, (0.3, 2, [160, 2, 190, 30]))))
    assert [r.names for r in followed] == [["dog", "cat"]] * 5  # never the third, which is not certain in any frame
    assert all(r.tracks.tolist() == followed[0].tracks.tolist() for r in followed)
    assert followed[2].to_dict()["detections"][0]["track"] == followed[2].tracks[0].item()
    assert followed[2].filter(classes="cat").tracks.tolist() == followed[2].tracks[1:].tolist()
    plain = followed[4].draw()
    assert tracker.draw(followed[4]).tobytes() != plain.tobytes()  # there is a trace
    rows = list(csv.DictReader(tracker.save_counts(tmp_path / "counts.csv").open()))
    assert [(r["class"], r["track"], r["objects"], r["frames"]) for r in rows[:2]] == [
        ("dog", "all", "1", "5"),
        ("cat", "all", "1", "5"),
    ]
    assert len(rows) == 4 and (rows[2]["first_seconds"], rows[2]["last_seconds"]) == ("0.00", "0.40")


def test_annotate_video_with_tracks_counts_objects(trackers, tmp_path):
    pytest.importorskip("av")
    clip = make_clip(tmp_path / "clip.mp4", frames=6)
    seen = []
    output = Detector(FakeModel(), "cpu").annotate_video(
        clip, tmp_path / "out" / "found.mp4", on_frame=seen.append, track=True
    )
    assert len(list(read_frames(output))) == 6 and all(result.tracks.tolist() == [0, 1] for result in seen)
    rows = list(csv.DictReader((tmp_path / "out" / "found_counts.csv").open()))
    assert {(row["class"], row["objects"]) for row in rows if row["track"] == "all"} == {("cat", "1"), ("dog", "1")}


def test_tracker_of_an_older_supervision(monkeypatch):
    import supervision

    class ByteTrack(NearestTracker):
        update_with_detections = NearestTracker.update

    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setattr(supervision, "ByteTrack", ByteTrack, raising=False)
    assert Tracker(30, 0.5).update(frame(0, (0.9, 0, [10, 10, 40, 50]))).tracks.tolist() == [0]


def test_tracker_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install trackers"):
        Tracker(30, 0.5)


def test_tracker_of_an_empty_frame(trackers):
    empty = frame(0, (0.9, 0, [10, 10, 40, 50])).filter(threshold=1)
    assert Tracker(30, 0.5).update(empty).tracks.tolist() == []
