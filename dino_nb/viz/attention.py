"""Where the network looks: the sampling points of its deformable attention (Deformable DETR, section 4.1)."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image, ImageDraw, ImageEnhance
from torch import Tensor

from dino_nb.data.transforms import resized_size
from dino_nb.draw import PALETTE, draw_boxes
from dino_nb.errors import UserError
from dino_nb.fonts import draw_text, text_width
from dino_nb.inference.detector import Detector
from dino_nb.inference.results import Result
from dino_nb.models.layers import cxcywh_to_xyxy
from dino_nb.models.tap import Attention, Trace, watch
from dino_nb.viz.view import Scene

_LONG_SIDE = 900  # pixels of the shown image


@dataclass
class SamplingPoints(Scene):
    """The places that one query sampled, in every layer; shows itself with a slider over the layers. A click on the
    image of the encoder's chooses another token.

    Attributes:
        image: the upright image. part: ``"decoder"`` or ``"encoder"``.
        box: ``(4,)`` xyxy in pixels of the detection, or None.
        points: ``(layers, n, 2)`` x, y in pixels of the image (places beyond its border count as zeros).
        weights: ``(layers, n)``: how much each contributes; the heads' means, adding up to 1.
        levels: ``(n,)`` int64: the feature map of each, 0 the finest.
        origins: ``(layers, 2)`` x, y in pixels: the place that the points lie around.
        at: the same for another point (x, y in pixels), or None.
    """

    image: Image.Image
    part: str
    box: Tensor | None
    points: Tensor
    weights: Tensor
    levels: Tensor
    origins: Tensor
    at: Callable[[tuple[float, float]], "SamplingPoints"] | None = None
    unit: ClassVar[str] = "layer"

    def __post_init__(self) -> None:
        self.count = len(self.points)
        self.clicked = self._move if self.at else None

    def _move(self, x: float, y: float) -> None:
        if self.at:
            down = y * self.draw(0).height / _LONG_SIDE * max(self.image.size)  # the legend is a part of it
            other = self.at((x * self.image.width, min(down, self.image.height)))
            self.points, self.weights, self.origins = other.points, other.weights, other.origins

    def draw(self, layer: int = -1) -> Image.Image:
        """Dots at the points of a layer: their colour tells the feature map, their area the weight."""
        if not -self.count <= layer < self.count:
            raise UserError(f"there is no {self.part} layer {layer}: it has {self.count}.")
        scale = _LONG_SIDE / max(self.image.size)
        size = [max(1, round(side * scale)) for side in self.image.size]
        dim = ImageEnhance.Color(self.image.resize(size, Image.Resampling.BICUBIC)).enhance(0.4)
        boxes = torch.zeros(0, 4) if self.box is None else self.box[None] * scale
        drawn = draw_boxes(ImageEnhance.Brightness(dim).enhance(0.75), boxes, colors="white")
        canvas, widest = ImageDraw.Draw(drawn), 0.012 * max(size)
        weights = self.weights[layer]
        order = weights.argsort(descending=True)  # light points on top of heavy ones
        columns = self.points[layer] * scale, weights / weights.max(), self.levels
        for (x, y), weight, level in zip(*(column[order].tolist() for column in columns)):
            radius = max(1.5, widest * math.sqrt(weight))
            place = (x - radius, y - radius, x + radius, y + radius)
            canvas.ellipse(place, fill=PALETTE[level % len(PALETTE)], outline="black")
        x, y = (self.origins[layer] * scale).tolist()
        for dx, dy in ((widest, 0), (0, widest)):
            canvas.line((x - dx, y - dy, x + dx, y + dy), fill="white", width=2)
        return self._with_legend(drawn, layer % self.count)

    def shown(self, index: int) -> tuple[Image.Image, str]:
        """For the slider."""
        return self.draw(index), f"{self.part} layer {index + 1} of {self.count}"

    def _with_legend(self, drawn: Image.Image, layer: int) -> Image.Image:
        """``drawn``, and below it how much of the weight lies on which feature map."""
        parts = [(f"{self.part} layer {layer + 1} of {self.count}", "white")]
        for level in range(int(self.levels.max()) + 1):
            share = self.weights[layer][self.levels == level].sum()
            parts += [("   ● ", PALETTE[level % len(PALETTE)]), (f"map {level}: {share:.0%}", "white")]
        text = "".join(part for part, _ in parts)
        letters = max(6, min(round(min(drawn.size) / 32), int(20 * (drawn.width - 16) / text_width(text, 20))))
        sheet = Image.new("RGB", (drawn.width, drawn.height + 4 + round(1.7 * letters)), "#222")
        sheet.paste(drawn, (0, 0))
        x, canvas = 8, ImageDraw.Draw(sheet)
        for part, paint in parts:
            draw_text(canvas, (x, drawn.height + 4), part, letters, paint)
            x += text_width(part, letters)
        return sheet


def sampling_points(detector: Detector, result: Result, index: int = 0) -> SamplingPoints:
    """Where the query of one detection looked, in every decoder layer.

    Args:
        detector, result: as ``result = detector.predict(image)`` of one image.
        index: the detection's number in ``result``, 0 the most certain.
    """
    if not 0 <= index < len(result):
        raise UserError(f"there is no detection {index}: this result has {len(result)}.")
    trace, size = look(detector, result.image)
    query = query_of(trace, result.boxes[index], size)
    return _sampled(detector, result.image, trace.decoder, "decoder", query, result.boxes[index])


def encoder_attention(
    detector: Detector, image: Image.Image | Result, point: tuple[float, float], level: int = 0
) -> SamplingPoints:
    """Where the image token at ``point`` (x, y in pixels) of feature map ``level`` (0 the finest) looked, in every
    encoder layer."""
    image = image.image if isinstance(image, Result) else image
    again = functools.partial(encoder_attention, detector, image, level=level)
    if not (0 <= point[0] <= image.width and 0 <= point[1] <= image.height):
        raise UserError(f"the point {point} is outside the image of {image.width} x {image.height} pixels.")
    trace, _ = look(detector, image)
    shapes = trace.spatial_shapes
    if not 0 <= level < len(shapes):
        raise UserError(f"there is no feature map {level}: they go from 0 to {len(shapes) - 1}.")
    height, width = shapes[level]
    places = torch.tensor(point) / torch.tensor(image.size) / _padded(detector, image.size)
    x, y = (places.clamp(0, 1 - 1e-6) * torch.tensor([width, height])).long().tolist()
    token = sum(h * w for h, w in shapes[:level]) + y * width + x
    return _sampled(detector, image, trace.encoder, "encoder", token, None, again)


def look(detector: Detector, image: Image.Image) -> tuple[Trace, Tensor]:
    """What the network did with ``image``, and the image's size ``(4,)`` (width, height, width, height)."""
    model: Any = detector.model
    with watch(model) as trace:
        detector.forward([image])
    return trace, torch.tensor([*image.size, *image.size], dtype=torch.float32)


def query_of(trace: Trace, box: Tensor, size: Tensor) -> int:
    """The query whose last box is nearest to ``box`` (xyxy in pixels)."""
    boxes = cxcywh_to_xyxy(trace.boxes[-1, 0].float().cpu()) * size
    return int((boxes - box).abs().sum(-1).argmin())


def _sampled(
    detector: Detector,
    image: Image.Image,
    layers: list[Attention],
    part: str,
    query: int,
    box: Tensor | None,
    at: Callable[[tuple[float, float]], SamplingPoints] | None = None,
) -> SamplingPoints:
    scale = torch.tensor(image.size) * _padded(detector, image.size)  # places are shares of the padded image
    points, weights, origins = [], [], []
    for layer in layers:
        places, shares = layer.sampling_locations([query]), layer.attention_weights([query])  # [1, 1, M, L, P, (2)]
        points.append(places[0, 0].reshape(-1, 2).float().cpu() * scale)
        weights.append(shares[0, 0].flatten().float().cpu() / shares.shape[2])
        origins.append(layer.reference_points[0, query, 0, :2].float().cpu() * scale)
    levels = torch.arange(shares.shape[3])[None, :, None].expand(shares.shape[2:]).flatten()
    return SamplingPoints(image, part, box, torch.stack(points), torch.stack(weights), levels, torch.stack(origins), at)


def _padded(detector: Detector, size: tuple[int, int]) -> Tensor:
    """How many times wider and higher than the image the network's input is: 1, but for very thin images."""
    height, width = resized_size(size[1], size[0], *detector.input_size)
    model: Any = detector.model
    least = model.backbone.least_side
    return torch.tensor([max(width, least) / width, max(height, least) / height])
