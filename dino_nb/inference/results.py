"""What a picture's detections are handed over in."""

import json
from collections import Counter
from pathlib import Path

import torch
from PIL import Image

from dino_nb.data.images import open_image
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import atomic_path

_DISPLAY = 1000  # pixels of the long side at most where a notebook shows a result by itself
_SAVED_AS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}


class Result(dict):
    """The detections of one picture, best first: a dict of tensors and names, which also knows its picture.

    Keys:
        scores: ``(n,)`` float32 in [0, 1].
        labels: ``(n,)`` int64, outputs of the class head.
        boxes: ``(n, 4)`` float32: x0, y0, x1, y1 in pixels of the upright picture, as the network gives them
            (a box may reach over the border).
        names: n class names.

    Attributes:
        class_names: a name for every output (None for outputs without a class).
        size: (width, height) of the upright picture in pixels.
        name: a file name for the picture. path: its file, or None. source: the path or URL it came from, or None.
        frame, time: number and seconds of a video's frame, or None.
    """

    def __init__(self, scores, labels, boxes, class_names, picture):
        names = [class_names[i] for i in labels.tolist()]
        super().__init__(scores=scores, labels=labels, boxes=boxes, names=names)
        self.class_names = class_names
        self.size = picture.image.size
        self.name, self.path, self.source = picture.name, picture.path, picture.source
        self.frame, self.time = picture.frame, picture.time
        # A file can be read again when it is asked for, so that the results of a large folder stay small.
        self._image = None if picture.path else picture.image

    @property
    def names(self):
        """One class name per detection."""
        return self["names"]

    @property
    def image(self):
        """The upright RGB picture; read from its file again where there is one."""
        if self._image is not None:
            return self._image
        if self.path is None:
            raise UserError(f"the picture of {self.name} was not kept: use Detector.stream, which hands it over.")
        return open_image(self.path)

    def drop_image(self):
        """Forget a picture that lies in memory alone (a video's frames); returns the result."""
        self._image = None
        return self

    def filter(self, threshold=None, classes=None, top=None):
        """A new result of the detections that score at least ``threshold``, belong to ``classes`` (names or output
        numbers, one or several; None takes all), and of these the best ``top``."""
        keep = torch.ones(len(self["scores"]), dtype=torch.bool)
        if threshold is not None:
            keep &= self["scores"].cpu() >= threshold
        if classes is not None:
            keep &= torch.isin(self["labels"].cpu(), torch.tensor(class_numbers(classes, self.class_names)))
        index = keep.nonzero().flatten()[:top]
        new = Result.__new__(Result)
        new.__dict__.update(self.__dict__)
        for key in ("scores", "labels", "boxes"):
            new[key] = self[key][index.to(self[key].device)]
        new["names"] = [self["names"][i] for i in index.tolist()]
        return new

    def draw(self, image=None, scale=1.0, colors=None, **options):
        """The picture with boxes, names and scores on it, a ``PIL.Image``.

        ``image`` is drawn on instead of the picture itself, ``scale`` times as large as that; other options are those
        of ``dino_nb.viz.draw_boxes``.
        """
        # viz stands above this layer; its drawing module needs nothing from here and is loaded when asked for
        from dino_nb.draw import class_colors, draw_boxes

        return draw_boxes(
            self.image if image is None else image,
            self["boxes"] * scale,
            self["names"],
            self["scores"],
            class_colors(self.class_names) if colors is None else colors,
            **options,
        )

    def save(self, path, **options):
        """Write the drawn picture to ``path`` (.jpg, .png, .webp, .bmp, .tif) atomically; returns the path."""
        path = Path(path)
        kind = _SAVED_AS.get(path.suffix.lower())
        if kind is None:
            raise UserError(f"a picture cannot be written as {path.name}: end it with one of {', '.join(_SAVED_AS)}.")
        if self.path and path.exists() and path.samefile(self.path):
            raise UserError(f"{path} is the picture itself: the drawn one needs another name, it would be overwritten.")
        with atomic_path(path) as temporary:
            self.draw(**options).save(temporary, kind, **({"quality": 92} if kind in ("JPEG", "WEBP") else {}))
        return path

    def to_dict(self):
        """Plain lists and numbers: ``file``, ``width``, ``height``, ``detections`` (``name``, ``label``, ``score``,
        ``box`` x0, y0, x1, y1), and ``frame`` and ``time`` for a frame of a video."""
        rows = zip(self["names"], self["labels"].tolist(), self["scores"].tolist(), self["boxes"].tolist())
        entry = {"file": self.source or self.name, "width": self.size[0], "height": self.size[1]}
        if self.frame is not None:
            entry |= {"frame": self.frame, "time": self.time}
        entry["detections"] = [
            {"name": name, "label": label, "score": round(score, 6), "box": [round(x, 3) for x in box]}
            for name, label, score, box in rows
        ]
        return entry

    def to_json(self, **options):
        """:meth:`to_dict` as a JSON text; ``options`` go to ``json.dumps``."""
        return json.dumps(self.to_dict(), ensure_ascii=False, **options)

    def __repr__(self):
        counts = ", ".join(f"{n} {name}" for name, n in Counter(self["names"]).most_common())
        return f"Result({self.name}, {self.size[0]} x {self.size[1]}: {counts or 'nothing found'})"

    def _repr_png_(self):
        if self._image is None and self.path is None:
            return None
        image = self.image
        shrink = min(1.0, _DISPLAY / max(image.size))
        if shrink < 1:  # the text of a large picture would be unreadable once the browser has scaled it down
            image = image.resize([max(1, round(s * shrink)) for s in image.size], Image.Resampling.LANCZOS)
        return self.draw(image, shrink, enlarge_to=480)._repr_png_()


class Results(list):
    """Results in the order of their pictures; ``skipped`` holds a ``(source, reason)`` for each unreadable one."""

    def __init__(self, results=(), skipped=()):
        super().__init__(results)
        self.skipped = list(skipped)


def class_numbers(classes, class_names):
    """Output numbers of ``classes``: one name or number, or several. Unknown names raise with the nearest one."""
    numbers = []
    for one in [classes] if isinstance(classes, (str, int)) else classes:
        if isinstance(one, str):
            found = [i for i, name in enumerate(class_names) if name == one]
            if not found:
                known = [name for name in class_names if name is not None]
                shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
                raise UserError(f"there is no class {one!r}.{did_you_mean(one, known)} Known: {shown}.")
            numbers += found
        elif 0 <= one < len(class_names):
            numbers.append(int(one))
        else:
            raise UserError(f"there is no class number {one}: they go from 0 to {len(class_names) - 1}.")
    return numbers
