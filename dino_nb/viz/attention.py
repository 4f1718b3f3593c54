"""Where the network looks: the sampling points of the deformable attention behind one detection."""

import math
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageEnhance

from dino_nb.data.transforms import resized_size
from dino_nb.draw import PALETTE, draw_boxes
from dino_nb.errors import UserError
from dino_nb.fonts import font
from dino_nb.models.layers import cxcywh_to_xyxy

_LONG_SIDE = 900  # pixels of the shown picture


@dataclass
class Look:
    """The places that one query sampled in one layer.

    Attributes:
        points: ``(n, 2)`` x, y in pixels of the upright picture (places beyond its border count as zeros).
        weights: ``(n,)``, how much each contributes; the heads' means, adding up to 1.
        levels: ``(n,)`` int64: the feature map of each, 0 the finest.
        origin: ``(2,)`` x, y in pixels: the place that the points lie around.
    """

    points: torch.Tensor
    weights: torch.Tensor
    levels: torch.Tensor
    origin: torch.Tensor


def show_attention(detector, result, index=0, part="decoder", layer=-1):
    """A picture of where the network looked for one detection.

    Dots are sampling points: their colour tells the feature map (finest to coarsest), their area the weight.

    Args:
        detector, result: as ``result = detector.predict(picture)`` with one picture at a time.
        index: the detection's number in ``result``, 0 the most certain.
        part: ``"decoder"``, the query that became the detection; ``"encoder"``, the image token at its middle, on the
            feature map whose objects are of its size.
        layer: number of the layer, from 0 or (negative) from the end.

    Returns:
        PIL RGB picture.
    """
    look = look_of(detector, result, index, part, layer)
    image = result.image
    scale = _LONG_SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    dim = ImageEnhance.Brightness(ImageEnhance.Color(image.resize(size, Image.Resampling.BICUBIC)).enhance(0.4))
    box = result["boxes"][index : index + 1] * scale
    name, score = result["names"][index : index + 1], result["scores"][index : index + 1]
    picture = draw_boxes(dim.enhance(0.75), box, name, score, "white")
    canvas = ImageDraw.Draw(picture)
    widest = 0.012 * max(size)
    order = look.weights.argsort(descending=True)  # light points on top of heavy ones
    for (x, y), weight, level in zip(*(v[order].tolist() for v in (look.points * scale, look.weights, look.levels))):
        radius = max(1.5, widest * math.sqrt(weight / look.weights.max().item()))
        canvas.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=PALETTE[level % len(PALETTE)], outline="black"
        )
    x, y = (look.origin * scale).tolist()
    for dx, dy in ((widest, 0), (0, widest)):
        canvas.line((x - dx, y - dy, x + dx, y + dy), fill="white", width=2)
    count = len(getattr(detector.model, part).layers)
    _legend(canvas, look, f"{part} layer {layer % count + 1} of {count}", size)
    return picture


def look_of(detector, result, index=0, part="decoder", layer=-1):
    """The numbers behind :func:`show_attention`, a ``Look``; same arguments."""
    if part not in ("decoder", "encoder"):
        raise UserError(f"part must be 'decoder' or 'encoder', not {part!r}.")
    if not 0 <= index < len(result["scores"]):
        raise UserError(f"there is no detection {index}: this result has {len(result['scores'])}.")
    layers = getattr(detector.model, part).layers
    if not -len(layers) <= layer < len(layers):
        raise UserError(f"there is no {part} layer {layer}: it has {len(layers)}.")
    module = layers[layer].cross_attn if part == "decoder" else layers[layer].self_attn
    seen = []
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    try:
        outputs = detector.forward([result.image])
    finally:
        handle.remove()
    query, references, _, shapes, _ = seen[0]
    picture = torch.tensor(result.size, dtype=torch.float32)  # width, height
    box = result["boxes"][index] / picture.repeat(2)
    padded = _padded(detector, result.size)
    number = _query_of(outputs, box) if part == "decoder" else _token_of(box / padded.repeat(2), shapes)
    picture = picture * padded  # places are shares of the padded picture
    with torch.inference_mode():
        places, weights = sampling(module, query[:, [number]], references[:, [number]], shapes)
    points = places[0, 0].reshape(-1, 2).cpu().float() * picture
    levels = torch.arange(len(shapes))[None, :, None].expand(weights.shape[2:]).flatten()
    weights = weights[0, 0].flatten().cpu().float() / weights.shape[2]
    return Look(points, weights, levels, references[0, number, 0, :2].cpu().float() * picture)


def _padded(detector, size):
    """How many times wider and higher than the picture the network's input is: 1, but for very thin pictures."""
    height, width = resized_size(size[1], size[0], *detector.input_size)
    least = detector.model.backbone.least_side
    return torch.tensor([max(width, least) / width, max(height, least) / height])


def sampling(module, query, references, shapes):
    """The places and weights of a ``MSDeformAttn``: ``(B, Q, M, L, P, 2)`` in [0, 1] and ``(B, Q, M, L, P)``."""
    grid = (*query.shape[:2], module.n_heads, module.n_levels, module.n_points)
    offsets = module.sampling_offsets(query).view(*grid, 2)
    weights = module.attention_weights(query).view(*grid[:3], -1).softmax(-1).view(grid)
    centres = references[:, :, None, :, None, :2]
    if references.shape[-1] == 4:  # around boxes: their size is the unit
        reach = references[:, :, None, :, None, 2:] * 0.5 / module.n_points
    else:  # around points: a cell of the level is
        reach = 1 / torch.tensor([[w, h] for h, w in shapes], device=query.device)[:, None].to(query.dtype)
    return centres + offsets * reach, weights


def _query_of(outputs, box):
    """The query whose box is nearest to ``box`` (x0, y0, x1, y1 in [0, 1])."""
    boxes = cxcywh_to_xyxy(outputs["pred_boxes"][0].cpu())
    return (boxes - box).abs().sum(-1).argmin().item()


def _token_of(box, shapes):
    """The token at the middle of ``box``, on the level whose proposals (5 % of the picture, doubling) fit its size."""
    size = (box[2:] - box[:2]).clamp(min=1e-4).prod().sqrt()
    level = min(range(len(shapes)), key=lambda i: abs(math.log(0.05 * 2**i) - math.log(size)))
    h, w = shapes[level]
    x, y = ((box[:2] + box[2:]) / 2).clamp(0, 1 - 1e-6).tolist()
    return sum(a * b for a, b in shapes[:level]) + int(y * h) * w + int(x * w)


def _legend(canvas, look, title, size):
    """A line that tells how much of the weight lies on which feature map."""
    shares = [look.weights[look.levels == level].sum() for level in range(int(look.levels.max()) + 1)]
    parts = [(title, "white")]
    for level, share in enumerate(shares):
        parts += [("   ● ", PALETTE[level % len(PALETTE)]), (f"map {level}: {share:.0%}", "white")]
    letters = font(max(10, round(min(size) / 32)))
    length = sum(canvas.textlength(text, font=letters) for text, _ in parts)
    if length > size[0] - 16:
        letters = font(max(6, int(letters.size * (size[0] - 16) / length)))
    x, y = 8, size[1] - sum(letters.getmetrics()) - 8
    canvas.rectangle((0, y - 6, size[0], size[1]), fill="#222")
    for text, paint in parts:
        canvas.text((x, y), text, font=letters, fill=paint)
        x += canvas.textlength(text, font=letters)
