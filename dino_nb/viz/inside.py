"""What the queries do: the boxes after each decoder layer, where they start, and the denoising queries of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dino_nb.data.dataset import CocoDataset
from dino_nb.data.images import open_image
from dino_nb.draw import Color, add_legend, class_colors, draw_boxes
from dino_nb.errors import UserError
from dino_nb.inference.detector import Detector
from dino_nb.inference.results import Result
from dino_nb.models.denoising import prepare_denoising
from dino_nb.models.layers import cxcywh_to_xyxy, xyxy_to_cxcywh
from dino_nb.printer import counted
from dino_nb.viz.attention import look, query_of
from dino_nb.viz.judged import reduced
from dino_nb.viz.view import Scene


@dataclass
class DecoderLayers(Scene):
    """The boxes of all queries, layer by layer; shows itself with a slider over the layers.

    Layer 0 is the start: the proposals that the query selection took from the encoder (section 3.4 of the paper).

    Attributes:
        image: the upright image. class_names: of the outputs.
        boxes: ``(layers + 1, Q, 4)`` xyxy in pixels.
        scores, labels: ``(layers + 1, Q)``: each query's best class.
        query: the query whose path is drawn, or None.
        grid_boxes: ``(Q, 4)`` xyxy in pixels: the grid's boxes that the proposals were refined from.
        levels: ``(Q,)`` the feature map that each proposal comes from, 0 the finest.
    """

    image: Image.Image
    class_names: Sequence[str | None]
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    query: int | None
    grid_boxes: Tensor
    levels: Tensor
    unit: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        self.count = len(self.boxes)
        options = {"value": 0.3, "min": 0.0, "max": 1.0, "step": 0.01, "description": "threshold"}
        self.controls = {"threshold": ("FloatSlider", options)}

    def draw(self, layer: int = -1, threshold: float = 0.3, query: int | None = None) -> Image.Image:
        """The boxes of a layer that score at least ``threshold``, and the path of ``query`` through all layers."""
        if not -self.count <= layer < self.count:
            raise UserError(f"there is no layer {layer}: they go from 0, the start, to {self.count - 1}.")
        image, scale = reduced(self.image)
        kept = (self.scores[layer] >= threshold).nonzero().flatten()
        kept = kept[self.scores[layer][kept].argsort(descending=True)][:100]
        names = [self.class_names[i] for i in self.labels[layer][kept].tolist()]
        colors, named = class_colors(self.class_names), [name or "no class" for name in names]
        drawn = draw_boxes(image, self.boxes[layer][kept] * scale, named, self.scores[layer][kept].tolist(), colors)
        query = self.query if query is None else query
        return drawn if query is None else self._path(drawn, query, scale)

    def shown(self, index: int, threshold: float) -> tuple[Image.Image, str]:
        """For the slider."""
        title = f"after decoder layer {index} of {self.count - 1}" if index else "the start: the selected proposals"
        number = int((self.scores[index] >= threshold).sum())
        return self.draw(index, threshold), f"{title}, {counted(number, 'box', 'boxes')}"

    def proposals(self, top: int = 100) -> Image.Image:
        """Where the queries start: a dot for each proposal, and the boxes of the ``top`` most certain."""
        image, scale = reduced(self.image)
        order = self.scores[0].argsort(descending=True)
        drawn = draw_boxes(image, self.boxes[0][order[:top]] * scale, colors=_shades(self.scores[0][order[:top]]))
        canvas = ImageDraw.Draw(drawn)
        for (x, y), color in zip(_middles(self.boxes[0][order] * scale), _shades(self.scores[0][order])):
            canvas.ellipse((x - 2, y - 2, x + 2, y + 2), fill=color)
        best, least = self.scores[0].max(), self.scores[0].min()
        about = [(f"score {best:.2f}", _HIGH, "solid"), (f"score {least:.2f}", _LOW, "solid")]
        return add_legend(drawn, about)

    def _path(self, drawn: Image.Image, query: int, scale: float) -> Image.Image:
        boxes = self.boxes[:, query] * scale
        ends = [("start", _LOW, "dotted"), ("last layer", _HIGH, "solid")]
        drawn = draw_boxes(drawn, boxes[[0, -1]], colors=[_LOW, _HIGH], line=["dotted", "solid"])
        canvas, middles = ImageDraw.Draw(drawn), _middles(boxes)
        canvas.line(middles, fill="white", width=2)
        for i, (x, y) in enumerate(middles):
            canvas.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_mix(i / (self.count - 1)), outline="black")
        return add_legend(drawn, ends)


_LOW, _HIGH = "#56B4E9", "#D55E00"


def decoder_layers(detector: Detector, source: Result | Image.Image, index: int | None = 0) -> DecoderLayers:
    """The boxes after each decoder layer, and where they start.

    Args:
        source: a result of ``detector.predict(image)``, or an upright PIL image.
        index: the detection of a result whose query's path is drawn; None for none.
    """
    image = source.image if isinstance(source, Result) else source
    trace, size = look(detector, image)
    query = None
    if isinstance(source, Result) and index is not None and len(source):
        if not 0 <= index < len(source):
            raise UserError(f"there is no detection {index}: this result has {len(source)}.")
        query = query_of(trace, source.boxes[index], size)
    start = trace.proposals
    boxes = torch.cat([start["pred_boxes"][:1], trace.boxes[:, 0]]).float().cpu()
    logits = torch.cat([start["pred_logits"][:1], trace.logits[:, 0]]).float().cpu()
    scores, labels = logits.sigmoid().max(-1)
    ends = torch.tensor([h * w for h, w in trace.spatial_shapes]).cumsum(0)
    levels = torch.bucketize(start["tokens"][0].cpu(), ends, right=True)
    grid_boxes = cxcywh_to_xyxy(start["proposal_boxes"][0].float().cpu()) * size
    boxes = cxcywh_to_xyxy(boxes) * size
    return DecoderLayers(image, detector.class_names, boxes, scores, labels, query, grid_boxes, levels)


@dataclass
class Denoising(Scene):
    """The denoising queries of a training image (section 3.3 of the paper); shows itself with a slider over the groups.

    Attributes:
        image: the upright image. class_names: of the outputs.
        truth: ``(n, 4)`` xyxy in pixels: the annotated boxes. truth_labels: ``(n,)`` outputs.
        boxes: ``(groups, 2, n, 4)`` xyxy in pixels; of each group first the positives, which the network is to move
            back onto the object, then the negatives, which it is to call nothing. labels: ``(groups, 2, n)``.
    """

    image: Image.Image
    class_names: Sequence[str | None]
    truth: Tensor
    truth_labels: Tensor
    boxes: Tensor
    labels: Tensor
    unit: ClassVar[str] = "group"

    def __post_init__(self) -> None:
        self.count = len(self.boxes)

    def draw(self, group: int = 0) -> Image.Image:
        """One group: objects, positives with the class that they claim, and negatives."""
        if not 0 <= group < self.count:
            raise UserError(f"there is no group {group}: they go from 0 to {self.count - 1}.")
        image, scale = reduced(self.image)
        looks = [("object", "#FFFFFF", "solid"), ("positive", "#009E73", "dashed"), ("negative", "#D55E00", "dotted")]
        n = len(self.truth)
        names = [self.class_names[i] for i in [*self.truth_labels.tolist(), *self.labels[group, 0].tolist()]]
        boxes = torch.cat([self.truth, *self.boxes[group]]) * scale
        colors: list[Color] = [color for _, color, _ in looks for _ in range(n)]
        lines = [line for *_, line in looks for _ in range(n)]
        return add_legend(draw_boxes(image, boxes, [*names, *[None] * n], colors=colors, line=lines), looks)

    def shown(self, index: int) -> tuple[Image.Image, str]:
        """For the slider."""
        flipped = int((self.labels[index] != self.truth_labels).sum())
        return self.draw(index), f"{2 * len(self.truth)} queries, {flipped} with another class than their object"


def denoising_queries(
    detector: Detector, cocodir: str | Path, index: int = 0, split: str = "train", seed: int = 0
) -> Denoising:
    """The denoising queries that training would make of image ``index`` of a split, by the detector's settings."""
    data = CocoDataset(cocodir, split)
    if not 0 <= index < len(data):
        raise UserError(f"there is no image {index}: {split} has {len(data)}.")
    known = {name: i for i, name in reversed(list(enumerate(detector.class_names)))}
    image = open_image(data.path(index))
    target = data.target(index, image.height, image.width)
    names = [data.class_names[label] for label in target["labels"].tolist()]
    keep = torch.tensor([i for i, name in enumerate(names) if name in known], dtype=torch.int64)
    if not len(keep):
        raise UserError(f"{data.path(index).name} has no object of the detector's classes.")
    labels = torch.tensor([known[names[i]] for i in keep])
    truth = target["boxes"].as_subclass(torch.Tensor)[keep]
    size = torch.tensor([*image.size, *image.size], dtype=torch.float32)
    model: Any = detector.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = prepare_denoising([{"labels": labels, "boxes": xyxy_to_cxcywh(truth / size)}], model.config)
    if made is None:
        raise UserError("this detector was made without denoising queries (dn_number is 0).")
    shape = (made.num_dn_groups, 2, made.max_gt)
    boxes = cxcywh_to_xyxy(made.box_logits[0].sigmoid()) * size
    chosen = made.chosen[0]
    return Denoising(
        image, detector.class_names, truth[chosen], labels[chosen], boxes.view(*shape, 4), made.labels[0].view(shape)
    )


def _middles(boxes: Tensor) -> list[tuple[float, float]]:
    return [(x, y) for x, y in ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()]


def _shades(scores: Tensor) -> list[Color]:
    low, high = float(scores.min()), float(scores.max())
    return [_mix((score - low) / max(high - low, 1e-6)) for score in scores.tolist()]


def _mix(share: float) -> Color:
    """A colour between ``_LOW`` and ``_HIGH``."""
    ends = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (_LOW, _HIGH)]
    return tuple(round(a + (b - a) * share) for a, b in zip(*ends))
