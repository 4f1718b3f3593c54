"""Objects followed through a video by ByteTrack (arXiv 2110.06864), of the package trackers or an older supervision."""

import csv
import importlib
from collections import defaultdict, deque
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from dino_nb.draw import PALETTE
from dino_nb.errors import UserError
from dino_nb.files import atomic_path
from dino_nb.inference.results import Result

_TRACE = 40  # positions of an object that its trace shows


@dataclass
class Track:
    """What is known of one object: ``first`` and ``last`` seen in seconds, in how many ``frames``."""

    name: str
    first: float
    last: float
    frames: int = 0


class Tracker:
    """Gives the detections of one video, frame by frame, numbers that stay with their object.

    Args:
        rate: frames per second.
        threshold: score from which an object is followed; once it is, lower scores keep it (results should reach down
            to half of this).

    Attributes:
        tracks: number -> ``Track``.
    """

    def __init__(self, rate: float | Fraction, threshold: float) -> None:
        self._update, self._rate = _byte_track(float(rate), threshold), float(rate)
        self.tracks: dict[int, Track] = {}
        self._places: dict[int, deque] = defaultdict(lambda: deque(maxlen=_TRACE))

    def update(self, result: Result) -> Result:
        """The result's followed detections, with their numbers in ``tracks``."""
        detections = result.to_supervision()
        detections.data["row"] = np.arange(len(result))
        found = self._update(detections)
        numbers = np.asarray(found.tracker_id if found.tracker_id is not None else [], dtype=np.int64)
        rows = np.asarray(found.data.get("row", []), dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        order = order[numbers[order] >= 0]
        followed = result.take(torch.from_numpy(rows[order]))
        followed.tracks = torch.from_numpy(numbers[order])
        now = result.time if result.time is not None else (result.frame or 0) / self._rate
        for number, detection in zip(followed.tracks.tolist(), followed):
            track = self.tracks.setdefault(number, Track(detection.name, now, now))
            track.last, track.frames = now, track.frames + 1
            x0, y0, x1, y1 = detection.box
            self._places[number].append(((x0 + x1) / 2, (y0 + y1) / 2))
        return followed

    def draw(self, result: Result, **options: Any) -> Image.Image:
        """``result`` of :meth:`update` drawn with numbers, and the way that each object has come."""
        drawn = result.draw(**options)
        canvas, width = ImageDraw.Draw(drawn), max(2, min(drawn.size) // 250)
        for number in [] if result.tracks is None else result.tracks.tolist():
            if len(self._places[number]) > 1:
                canvas.line(list(self._places[number]), fill=PALETTE[number % len(PALETTE)], width=width)
        return drawn

    def save_counts(self, path: str | Path) -> Path:
        """Write a CSV: a row per class with its number of objects, then one per object with when it was seen."""
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["class", "track", "objects", "frames", "first_seconds", "last_seconds"])
            for name in dict.fromkeys(track.name for track in self.tracks.values()):
                own = [track for track in self.tracks.values() if track.name == name]
                first, last = min(track.first for track in own), max(track.last for track in own)
                frames = sum(track.frames for track in own)
                rows.writerow([name, "all", len(own), frames, f"{first:.2f}", f"{last:.2f}"])
            for number, track in self.tracks.items():
                rows.writerow([track.name, number, 1, track.frames, f"{track.first:.2f}", f"{track.last:.2f}"])
        return Path(path)


def _byte_track(rate: float, threshold: float) -> Any:
    """``update(detections) -> detections`` with ``tracker_id`` of whichever package is installed."""
    try:
        trackers = importlib.import_module("trackers")
        return trackers.ByteTrackTracker(
            frame_rate=rate, track_activation_threshold=threshold, high_conf_det_threshold=threshold
        ).update
    except ImportError:
        pass
    try:
        supervision = importlib.import_module("supervision")
        return supervision.ByteTrack(
            frame_rate=max(1, round(rate)), track_activation_threshold=threshold
        ).update_with_detections
    except (ImportError, AttributeError):  # supervision has handed tracking over to trackers
        raise UserError("following objects needs the package trackers: pip install trackers") from None
