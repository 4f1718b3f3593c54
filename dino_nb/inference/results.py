"""What an image's detections are handed over in."""

import copy
import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image

from dino_nb.data.images import open_image
from dino_nb.draw import PALETTE, Color, class_colors, color_of, draw_boxes
from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.files import atomic_path
from dino_nb.inference.output import OutputFolder, save_labels, to_coco
from dino_nb.inference.sources import SourceImage

if TYPE_CHECKING:
    import pandas
    import supervision

Classes = str | int | Sequence[str | int]  # one class or several, by name or output number

_DISPLAY = 1000  # pixels of the long side at most where a notebook shows a result by itself
_SAVED_AS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}


class Detection(NamedTuple):
    """One detection: ``box`` is x0, y0, x1, y1 in pixels, ``label`` an output of the class head."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int


class Result:
    """The detections of one image, best first.

    ``len(result)`` is their number, ``for detection in result`` and ``result[0]`` give :class:`Detection` tuples, an
    empty result is false. ``result["boxes"]``, ``keys()`` and ``dict(result)`` serve whoever expects a mapping of
    tensors, such as ``supervision.Detections.from_transformers``.

    Attributes:
        scores: ``(n,)`` float32 in [0, 1].
        labels: ``(n,)`` int64, outputs of the class head.
        boxes: ``(n, 4)`` float32: x0, y0, x1, y1 in pixels of the upright image, as the network gives them
            (a box may reach over the border).
        names: n class names.
        class_names: a name for every output (None for outputs without a class).
        threshold: the score below which nothing was kept.
        size: (width, height) of the upright image in pixels.
        name: a file name for the image. path: its file, or None. source: the path or URL it came from, or None.
        frame, time: number and seconds of a video's frame, or None.
        tracks: ``(n,)`` int64: numbers that follow the objects of a video, or None.
    """

    def __init__(
        self,
        scores: torch.Tensor,
        labels: torch.Tensor,
        boxes: torch.Tensor,
        class_names: Sequence[str | None],
        source: SourceImage,
        threshold: float = 0.0,
    ) -> None:
        self.scores, self.labels, self.boxes = scores, labels, boxes
        self.class_names, self.threshold = class_names, threshold
        self.size = source.image.size
        self.name, self.path, self.source = source.name, source.path, source.source
        self.frame, self.time = source.frame, source.time
        self.tracks: torch.Tensor | None = None
        # A file can be read again when it is asked for: the results of a large folder stay small.
        self._image = None if source.path else source.image

    @property
    def names(self) -> list[str]:
        """One class name per detection."""
        return [str(self.class_names[label]) for label in self.labels.tolist()]

    @property
    def image(self) -> Image.Image:
        """The upright RGB image; read from its file again where there is one."""
        if self._image is not None:
            return self._image
        if self.path is None:
            raise UserError(f"the image of {self.name} was not kept: use Detector.stream, which hands it over.")
        return open_image(self.path)

    @property
    def has_image(self) -> bool:
        """Whether :attr:`image` is at hand."""
        return self._image is not None or self.path is not None

    def drop_image(self) -> "Result":
        """Forget an image that lies in memory alone (a video's frames); returns the result."""
        self._image = None
        return self

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.names, self.scores.tolist(), self.boxes.tolist(), self.labels.tolist())
        return (Detection(name, score, (box[0], box[1], box[2], box[3]), label) for name, score, box, label in rows)

    def keys(self) -> tuple[str, ...]:
        """The columns that ``result[name]`` gives."""
        return "scores", "labels", "boxes", "names"

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __getitem__(self, key: Any) -> Any:
        """A column by its name, a :class:`Detection` by its number, a new result by a slice."""
        if isinstance(key, str):
            if key not in self:
                raise KeyError(f"a result has {', '.join(self.keys())}, not {key!r}.{did_you_mean(key, self.keys())}")
            return getattr(self, key)
        if isinstance(key, slice):
            return self.take(torch.arange(len(self))[key])
        return list(self)[key]

    def filter(
        self, threshold: float | None = None, classes: Classes | None = None, max_detections: int | None = None
    ) -> "Result":
        """A new result of the detections that score at least ``threshold``, belong to ``classes`` (names or output
        numbers, one or several; None takes all), and of these the best ``max_detections``."""
        keep = torch.ones(len(self), dtype=torch.bool)
        if threshold is not None:
            keep &= self.scores.cpu() >= threshold
        if classes is not None:
            keep &= torch.isin(self.labels.cpu(), torch.tensor(class_numbers(classes, self.class_names)))
        kept = self.take(keep.nonzero().flatten()[:max_detections])
        kept.threshold = max(self.threshold, threshold or 0.0)
        return kept

    def take(self, index: torch.Tensor) -> "Result":
        """A new result of the detections at ``index``, ``(m,)`` int64 or ``(n,)`` bool."""
        new = copy.copy(self)
        index = index.to(self.scores.device)
        new.scores, new.labels, new.boxes = self.scores[index], self.labels[index], self.boxes[index]
        new.tracks = None if self.tracks is None else self.tracks[index]
        return new

    def draw(
        self,
        image: Image.Image | None = None,
        scale: float = 1.0,
        colors: Color | Sequence[Color] | Mapping[Any, Color] | None = None,
        *,
        labels: bool | None = None,
        scores: bool = True,
        enlarge_to: int = 0,
        line: str | Sequence[str] = "solid",
        font_file: str | Path | None = None,
    ) -> Image.Image:
        """The image with boxes, names and scores on it.

        Args:
            image, scale: an image to draw on instead, ``scale`` times as large as the result's own.
            colors: see ``dino_nb.viz.draw_boxes``. Default: a colour per class.
            labels: whether names are written. Default: unless the detector knows a single class, and of more than four
                detections of one class the best alone is named.
            scores: whether scores are written.
            enlarge_to, line, font_file: see ``dino_nb.viz.draw_boxes``.
        """
        names, tracks = self.names, [] if self.tracks is None else self.tracks.tolist()
        known = class_colors(self.class_names)
        shown: list[str | None] = [f"{name} #{number}" for name, number in zip(names, tracks)] if tracks else [*names]
        if labels is False or (labels is None and not tracks and len(known) == 1):
            shown = [None] * len(names)
        elif labels is None and scores and len(names) > 4 and len(set(shown)) == 1:
            shown[1:] = [None] * (len(names) - 1)
        if colors is None and tracks:
            colors = [PALETTE[number % len(PALETTE)] for number in tracks]
        elif colors is None or isinstance(colors, Mapping):  # by class, whatever of the names is shown
            colors = [(known if colors is None else colors).get(name) or color_of(name) for name in names]
        return draw_boxes(
            self.image if image is None else image,
            self.boxes * scale,
            shown,
            self.scores.tolist() if scores else None,
            colors,
            enlarge_to=enlarge_to,
            line=line,
            font_file=font_file,
        )

    plot = draw

    def show(self, **options: Any) -> None:
        """Show the drawn image: below the cell in a notebook, else in the system's viewer. Options as :meth:`draw`."""
        shown = self._reduced(**options)
        try:
            from IPython import display, get_ipython
        except ImportError:
            get_ipython = None
        if get_ipython is None or get_ipython() is None:
            shown.show(self.name)
        else:
            display.display(shown)

    @disk_errors()
    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the drawn image to ``path`` (.jpg, .png, .webp, .bmp, .tif) atomically; returns the path."""
        path = Path(path)
        kind = _SAVED_AS.get(path.suffix.lower())
        if kind is None:
            raise UserError(f"an image cannot be written as {path.name}: end it with one of {', '.join(_SAVED_AS)}.")
        if self.path and path.exists() and path.samefile(self.path):
            raise UserError(f"{path} is the image itself: the drawn one needs another name, it would be overwritten.")
        with atomic_path(path) as temporary:
            self.draw(**options).save(temporary, kind, **({"quality": 92} if kind in ("JPEG", "WEBP") else {}))
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers: ``file``, ``width``, ``height``, ``detections`` (``name``, ``label``, ``score``,
        ``box`` x0, y0, x1, y1), and ``frame`` and ``time`` for a frame of a video."""
        entry: dict[str, Any] = {"file": self.source or self.name, "width": self.size[0], "height": self.size[1]}
        if self.frame is not None:
            entry |= {"frame": self.frame, "time": self.time}
        tracks = [{}] * len(self) if self.tracks is None else [{"track": number} for number in self.tracks.tolist()]
        entry["detections"] = [
            {"name": d.name, "label": d.label, "score": round(d.score, 6), "box": [round(x, 3) for x in d.box], **track}
            for d, track in zip(self, tracks)
        ]
        return entry

    def to_coco(self) -> dict[str, list[dict[str, Any]]]:
        """A COCO data set of this image: ``images``, ``annotations`` (with ``score``) and ``categories``."""
        return to_coco([self])

    def to_pandas(self) -> "pandas.DataFrame":
        """A row per detection: ``file``, ``name``, ``score``, ``x0``, ``y0``, ``x1``, ``y1`` in pixels, ``label``."""
        return Results([self]).to_pandas()

    def to_supervision(self) -> "supervision.Detections":
        """``supervision.Detections`` with class names, ready for its annotators and trackers."""
        import numpy as np

        return _optional("supervision").Detections(
            xyxy=self.boxes.float().cpu().numpy().reshape(-1, 4),
            confidence=self.scores.float().cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in Counter(self.names).most_common())
        return f"Result({self.name}, {self.size[0]} x {self.size[1]}: {counts or 'nothing found'})"

    def _repr_png_(self) -> bytes | None:
        return self._reduced()._repr_png_() if self.has_image else None

    def _reduced(self, **options: Any) -> Image.Image:
        """Drawn at a size for a page: text drawn on a large image would be unreadable once scaled down."""
        image = self.image
        shrink = min(1.0, _DISPLAY / max(image.size))
        if shrink < 1:
            image = image.resize([max(1, round(s * shrink)) for s in image.size], Image.Resampling.LANCZOS)
        return self.draw(image, shrink, **{"enlarge_to": 480, **options})


class Results(list[Result]):
    """Results in the order of their images; ``skipped`` holds a ``(source, reason)`` for each unreadable one."""

    def __init__(self, results: Iterable[Result] = (), skipped: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(results)
        self.skipped = list(skipped)

    def filter(
        self, threshold: float | None = None, classes: Classes | None = None, max_detections: int | None = None
    ) -> "Results":
        """``Result.filter`` of every image."""
        return Results((result.filter(threshold, classes, max_detections) for result in self), self.skipped)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row per detection, as ``Result.to_pandas`` has them."""
        columns = ["file", "name", "score", "x0", "y0", "x1", "y1", "label"]
        rows = [(one.source or one.name, d.name, d.score, *d.box, d.label) for one in self for d in one]
        return _optional("pandas").DataFrame(rows, columns=columns)

    def to_coco(self) -> dict[str, list[dict[str, Any]]]:
        """A COCO data set: ``images``, ``annotations`` (with ``score``) and ``categories``, ids from 1."""
        return to_coco(self)

    @disk_errors()
    def save(self, folder: str | Path, images: bool = True, **options: Any) -> Path:
        """Write every image with its boxes, and ``predictions.json`` with the numbers, to ``folder``; returns it.

        ``images=False`` leaves out the images; ``options`` are those of ``Result.draw``.
        """
        with OutputFolder(folder, [result.path for result in self if result.path]) as output:
            for result in self:
                drawn = images and (result.path or result.has_image)
                output.add(result, result.save(output.path(result.name), **options) if drawn else None)
        return Path(folder)

    def save_labels(self, folder: str | Path, format: str = "labelme", split: str = "train") -> Path:
        """Write images and boxes as a data set in the new ``folder``, in the format of a labelling tool.

        ``format``: ``labelme``, ``yolo``, ``voc``, ``cvat`` or ``coco``. Correct it there; ``dino-nb convert`` brings
        it back.
        """
        return save_labels(self, folder, format, split)


def class_numbers(classes: Classes, class_names: Sequence[str | None]) -> list[int]:
    """Output numbers of ``classes``: one name or number, or several. Unknown names raise with the nearest one."""
    numbers: list[int] = []
    several: Any = [classes] if isinstance(classes, (str, Integral)) else classes
    for one in several:
        if isinstance(one, str):
            found = [i for i, name in enumerate(class_names) if name == one]
            if not found:
                known = [name for name in class_names if name is not None]
                shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
                raise UserError(f"there is no class {one!r}.{did_you_mean(one, known)} Known: {shown}.")
            numbers += found
        elif isinstance(one, Integral) and 0 <= int(one) < len(class_names):
            numbers.append(int(one))
        else:
            raise UserError(f"there is no class number {one}: they go from 0 to {len(class_names) - 1}.")
    return numbers


def _optional(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"this needs the package {package}: pip install {package}") from None
