"""``dino_nb.export``: a checkpoint for use elsewhere, checked against the network that it was made from.

    dino_nb.export("run/checkpoint_best.pth", format="onnx")       # run/checkpoint_best.onnx
    detector = dino_nb.load("run/checkpoint_best.onnx")            # predicts as before, with onnxruntime

ONNX and ``torch.export`` files take ``images (B, 3, H, W)`` float32, ImageNet-normalised and resized as for the model,
and ``target_sizes (B, 2)`` int64 (height, width); they return ``scores (B, K)``, ``labels (B, K)`` and ``boxes
(B, K, 4)``: x0, y0, x1, y1 in pixels of ``target_sizes``. The attention op is written with ``Gather``, since runtimes
differ in how they compute ``GridSample``. Height, width and, in ONNX, batch are free.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dino_nb.checkpoints.checkpoint import FORMAT, describe, save_checkpoint
from dino_nb.checkpoints.load import as_model
from dino_nb.checkpoints.official import published_state
from dino_nb.data.transforms import eval_transform
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import atomic_path
from dino_nb.inference.sources import Source, read_all
from dino_nb.models import attention
from dino_nb.models.backbone import PUBLISHED
from dino_nb.models.dino import DINO
from dino_nb.models.postprocess import postprocess
from dino_nb.prepare.scenes import draw_scene
from dino_nb.version import __version__

OPSET = 17
ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2", "official": ".pth", "safetensors": ".safetensors", "slim": ".pth"}
_SIZES = ((320, 240), (240, 320), (400, 300), (512, 288), (333, 517))  # of the images that parity is checked on
_SCORE, _PIXELS, _RELATIVE = 1e-3, 1e-3, 1e-4  # largest differences: score; box, plus this share of the long side


def export(
    checkpoint: Any,
    output: str | os.PathLike[str] | None = None,
    format: str = "onnx",
    *,
    images: Source | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model for use elsewhere and return the file's path.

    Args:
        checkpoint: a checkpoint's name or path, a ``Detector``, or a ``DINO`` module.
        output: the file to write. Default: beside the checkpoint, with an ending for the format.
        format: ``onnx``, ``torch_export``, ``official`` (the published names), ``safetensors`` (ours), ``slim`` (ours,
            in half precision).
        images: what an ONNX or ``torch.export`` file is checked on, anything that ``predict`` takes; a few drawn scenes
            of five sizes by default.
        overwrite: replace ``output`` if it exists.

    Raises:
        UserError: the file exists, the format has no place for the model, a package is missing, or the exported program
            does not compute what the network does: then nothing is written, and the first layer that differs is named.
    """
    if format not in ENDINGS:
        raise UserError(f"format={format!r} is not one of {', '.join(ENDINGS)}.{did_you_mean(format, ENDINGS)}")
    model = as_model(checkpoint, None if isinstance(getattr(checkpoint, "model", checkpoint), nn.Module) else "cpu")
    if not isinstance(model, DINO):
        raise UserError(f"{checkpoint} is exported already: export the checkpoint that it was made from.")
    source = Path(os.fspath(checkpoint)) if isinstance(checkpoint, (str, os.PathLike)) else Path("model")
    target = Path(output) if output is not None else source.with_name(source.stem + _ending(format))
    if target.exists() and (not overwrite or (source.exists() and target.samefile(source))):
        raise UserError(f"{target} exists: name another file with -o, or say --overwrite (never onto the source).")
    if format == "official":
        if reason := lacks(model):
            raise UserError(f"the original code has {reason}, and could not compute what {source.name} does.")
        with atomic_path(target) as temporary:
            torch.save({"model": published_state(model)}, temporary)
    elif format in ("safetensors", "slim"):
        save_checkpoint(target, model.half() if format == "slim" else model)
    else:
        _export_program(model.float().cpu().eval(), target, format, images)
    return target


def lacks(model: DINO) -> str | None:
    """What of ``model`` the original code does not have, as the end of a sentence; None where it has all."""
    config = model.config
    missing = [] if config.backbone in PUBLISHED else [f"no backbone {config.backbone!r}"]
    missing += [f"no proposal_nms, here {config.proposal_nms:g}"] if config.proposal_nms else []
    return " and ".join(missing) or None


class Program(nn.Module):
    """A network with its post-processing, as it is exported."""

    def __init__(self, model: DINO) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, target_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the module's docstring."""
        outputs = self.model(images)
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        num_queries, num_classes = logits.shape[1:]
        scores, index = (
            logits.sigmoid().flatten(1).topk(min(self.model.config.num_select, num_queries * num_classes), 1)
        )
        query, labels = index // num_classes, index % num_classes
        xy, wh = boxes.gather(1, query[..., None].expand(-1, -1, 4)).split(2, -1)
        scale = target_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
        return scores, labels, torch.cat([xy - wh / 2, xy + wh / 2], -1) * scale


def gather_form(
    value: Tensor,
    spatial_shapes: Sequence,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """``ops.ms_deform_attn_fused`` by picking rows: plain indexing, which every runtime computes alike."""
    n, q, m, _, points, _ = sampling_offsets.shape
    d, cells = value.shape[3], sum(h * w for h, w in spatial_shapes)
    rows = value.transpose(1, 2).reshape(-1, d)  # [n * m * cells, d]
    start = torch.arange(n * m, device=value.device).view(n, m, 1, 1) * cells
    weights = attention_logits.flatten(-2).softmax(-1).view(attention_logits.shape).transpose(1, 2)  # [n, m, q, L, P]
    out: Tensor | float = 0.0
    for level, (h, w) in enumerate(spatial_shapes):
        offsets = sampling_offsets[:, :, :, level].transpose(1, 2)  # [n, m, q, P, 2]
        reference = reference_points[:, None, :, level, None]
        if reference.shape[-1] == 2:
            x, y = reference[..., 0] * w + offsets[..., 0], reference[..., 1] * h + offsets[..., 1]
        else:
            place = reference[..., :2] + offsets / points * reference[..., 2:] * 0.5
            x, y = place[..., 0] * w, place[..., 1] * h
        x, y = x - 0.5, y - 0.5
        left, top = x.floor(), y.floor()
        fx, fy = x - left, y - top
        index, share = [], []
        for dx, dy, part in (
            (0, 0, (1 - fx) * (1 - fy)),
            (1, 0, fx * (1 - fy)),
            (0, 1, (1 - fx) * fy),
            (1, 1, fx * fy),
        ):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column <= w - 1) & (row >= 0) & (row <= h - 1)
            index.append(torch.where(inside, row * w + column, torch.zeros_like(row)).long() + start)
            share.append(torch.where(inside, part, torch.zeros_like(part)) * weights[:, :, :, level])
        sampled = rows[torch.cat(index, -1).flatten()].view(n, m, q, 4 * points, d)
        out = out + (torch.cat(share, -1)[..., None, :] @ sampled)[..., 0, :]  # [n, m, q, d]
        start = start + h * w
    return out.transpose(1, 2).reshape(n, q, m * d)  # type: ignore[union-attr]


def _ending(format: str) -> str:
    return {"official": "_published.pth", "safetensors": "_weights.safetensors", "slim": "_slim.pth"}.get(
        format, ENDINGS[format]
    )


def _export_program(model: DINO, target: Path, format: str, images: Source | None) -> None:
    program = Program(model).eval()
    examples = list(_examples(model, images))
    with atomic_path(target) as temporary:
        with _traceable(), torch.no_grad():
            (_write_onnx if format == "onnx" else _write_program)(program, temporary)
        run = _onnx_runner(temporary) if format == "onnx" else _program_runner(temporary)
        for name, image, size in examples:
            with torch.inference_mode():
                outputs = model([image])
                (want,) = postprocess(outputs, [size], model.config.num_select)
            problem = difference(want, run(image[None], torch.tensor([size])), max(size))
            if problem:
                where = _first_difference(program, temporary, image) if format == "onnx" else ""
                raise UserError(f"the {format} export is not written: on {name} {problem}.{where}")


def _examples(model: DINO, images: Source | None) -> Iterator[tuple[str, Tensor, tuple[int, int]]]:
    """(name, input of the network, (height, width)) of each image that parity is checked on."""
    transform = eval_transform(*model.input_size)
    if images is None:
        rng = np.random.default_rng(0)
        for number, size in enumerate(_SIZES):
            pixels, _ = draw_scene(rng, ("cells", "aerial")[number % 2], 0)
            image = Image.fromarray(pixels).convert("RGB").resize(size)
            yield f"a drawn scene of {size[0]} x {size[1]} pixels", transform(image), (image.height, image.width)
    else:
        for found in read_all(images, "raise"):
            yield found.name, transform(found.image), (found.image.height, found.image.width)


def difference(want: dict[str, Tensor], got: Sequence[Any], long_side: float) -> str | None:
    """How detections differ, as the middle of a sentence; None where they are the same within the tolerance.

    Each of the best 100 must have a counterpart: ranks of equal scores may be exchanged.
    """
    scores, labels, boxes = (torch.as_tensor(part)[0].float() for part in got)
    most = _PIXELS + _RELATIVE * long_side
    for score, label, box in zip(*(want[key][:100] for key in ("scores", "labels", "boxes"))):
        alike = (labels == label) & ((scores - score).abs() <= _SCORE)
        shift = (boxes[alike] - box).abs().amax(1).min().item() if alike.any() else float("inf")
        if not shift <= most:
            found = f"the nearest is off by {shift:.3g} pixels" if alike.any() else "there is none like it"
            return f"a detection of output {int(label)} with score {score:.3f} is missing: {found}"
    return None


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """The network without what exists as compiled code only; warnings about what is meant to be constant are off."""
    before, fast = attention.fused_unchecked, torch.backends.mha.get_fastpath_enabled()
    attention.fused_unchecked = gather_form  # type: ignore[assignment]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        attention.fused_unchecked = before
        torch.backends.mha.set_fastpath_enabled(fast)


def _inputs(model: DINO) -> tuple[Tensor, Tensor]:
    short = -(-min(model.input_size[0], 320) // 32) * 32
    return torch.rand(1, 3, short, short + 64), torch.tensor([[short, short + 64]])


def _write_onnx(program: Program, path: Path) -> None:
    try:
        import onnx
    except ImportError as error:
        raise UserError('export to ONNX needs the package onnx: pip install "dino-nb[export]"') from error
    outputs = ["scores", "labels", "boxes"]
    free: dict[str, dict[int, str]] = {"images": {0: "batch", 2: "height", 3: "width"}, "target_sizes": {0: "batch"}}
    torch.onnx.export(
        program,
        _inputs(program.model),
        str(path),
        dynamo=False,  # the other exporter takes minutes for a graph of this size, and fixes some of its sizes
        opset_version=OPSET,
        input_names=["images", "target_sizes"],
        output_names=outputs,
        dynamic_axes={**free, **{name: {0: "batch"} for name in outputs}},
    )
    written = onnx.load(str(path))
    entry = written.metadata_props.add()
    entry.key, entry.value = FORMAT, json.dumps({"version": __version__, **describe(program.model)})
    onnx.save(written, str(path))


def _write_program(program: Program, path: Path) -> None:
    images, sizes = _inputs(program.model)
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        program,
        (images, sizes),
        dynamic_shapes={"images": {2: free, 3: free}, "target_sizes": {}},
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    with path.open("wb") as file:
        torch.export.save(exported, file)


def _onnx_runner(path: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images, sizes: session.run(None, {"images": images.numpy(), "target_sizes": sizes.numpy()})


def _program_runner(path: Path) -> Any:
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _first_difference(program: Program, path: Path, image: Tensor) -> str:
    """Names the first layer whose output differs between the network and the ONNX file, in a sentence of its own."""
    import onnx
    import onnxruntime

    graph = onnx.load(str(path))
    last: dict[str, str] = {}  # layer -> the last value that is computed in it
    for node in graph.graph.node:
        scope, _, operation = node.name.rpartition("/")
        if node.output and operation and not operation.startswith("Constant"):
            last[scope.replace("/", ".").strip(".")] = node.output[0]
    wanted: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                wanted.setdefault(name, output.clone())

        return hook

    hooks = [m.register_forward_hook(record(n)) for n, m in program.named_modules() if n in last]
    size = torch.tensor([image.shape[-2:]])
    with torch.inference_mode():
        program(image[None], size)
    for hook in hooks:
        hook.remove()
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(last[name]) for name in wanted)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run([last[name] for name in wanted], {"images": image[None].numpy(), "target_sizes": size.numpy()})
    for name, values in zip(wanted, got):
        there, here = torch.from_numpy(values), wanted[name]
        if there.shape == here.shape and not torch.allclose(
            there, here, rtol=1e-2, atol=1e-3 * float(here.abs().max())
        ):
            return f" The first layer with another result is {name.removeprefix('model.')}."
    return ""
