"""``dino_nb.export``: a checkpoint for use elsewhere, checked against the network that it was made from.

    dino_nb.export("run/checkpoint_best.pth", format="onnx")       # run/checkpoint_best.onnx
    detector = dino_nb.load("run/checkpoint_best.onnx")            # predicts as before, with onnxruntime

ONNX and ``torch.export`` files take ``images (B, 3, H, W)`` float32, ImageNet-normalised and resized as for the model,
and ``target_sizes (B, 2)`` int64 (height, width); they return ``scores (B, K)``, ``labels (B, K)`` and ``boxes
(B, K, 4)``: x0, y0, x1, y1 in pixels of ``target_sizes``. The attention op is written with ``Gather``, since runtimes
differ in how they compute ``GridSample``; in ``onnx_tensorrt`` it is the node of TensorRT's plugin. Batch, height and
width are free, as long as an image has enough tokens for the queries.

OpenVINO reads the same file, in float32 if told so: ``compile_model("model.onnx", "CPU", {"INFERENCE_PRECISION_HINT":
"f32"})``. Weights of eight bits are not offered: dynamic quantization keeps the AP and is no faster than
PyTorch in float32, static quantization loses more than a point.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dino_nb.checkpoints.checkpoint import FORMAT, describe, save_checkpoint
from dino_nb.checkpoints.load import as_model
from dino_nb.checkpoints.official import published_state
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import atomic_path
from dino_nb.inference import export_parity as parity
from dino_nb.inference.export_program import Program, gather_form, plugin_form, trace_onnx, traceable
from dino_nb.inference.sources import Source
from dino_nb.models.backbone import PUBLISHED
from dino_nb.models.dino import DINO
from dino_nb.version import __version__

# how a file's name ends if the user gives none
ENDINGS = {
    "onnx": ".onnx",
    "onnx_tensorrt": "_tensorrt.onnx",
    "torch_export": ".pt2",
    "official": "_published.pth",
    "safetensors": "_weights.safetensors",
    "slim": "_slim.pth",
}


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
        format: ``onnx``; ``onnx_tensorrt``, with the attention op as the node of TensorRT's plugin; ``torch_export``;
            ``official`` (the published names); ``safetensors`` (ours); ``slim`` (ours, in half precision).
        images: what an ONNX or ``torch.export`` file is checked on, anything that ``predict`` takes; a few drawn scenes
            of five sizes by default.
        overwrite: replace ``output`` if it exists.

    Raises:
        UserError: the file exists, the format has no place for the model, a package is missing, or the exported program
            does not compute what the network does: then nothing is written, and the first op that differs is named.
    """
    if format not in ENDINGS:
        raise UserError(f"format={format!r} is not one of {', '.join(ENDINGS)}.{did_you_mean(format, ENDINGS)}")
    model = as_model(checkpoint, None if isinstance(getattr(checkpoint, "model", checkpoint), nn.Module) else "cpu")
    if not isinstance(model, DINO):
        raise UserError(f"{checkpoint} is exported already: export the checkpoint that it was made from.")
    source = Path(os.fspath(checkpoint)) if isinstance(checkpoint, (str, os.PathLike)) else Path("model")
    target = Path(output) if output is not None else source.with_name(source.stem + ENDINGS[format])
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


def _export_program(model: DINO, target: Path, format: str, images: Source | None) -> None:
    program = Program(model).eval()
    short = -(-min(model.input_size[0], 320) // 32) * 32
    sizes = torch.tensor([[short, short + 64]] * 2)
    inputs = {"images": torch.rand(2, 3, short, short + 64), "target_sizes": sizes}
    with atomic_path(target) as temporary:
        with traceable(plugin_form if format == "onnx_tensorrt" else gather_form):
            (_write_program if format == "torch_export" else _write_onnx)(program, inputs, temporary)
        if format == "torch_export":
            run = parity.program_runner(temporary)
        else:
            run = parity.onnx_runner(temporary, model.config.num_feature_levels)
        if problem := parity.disagreement(program, run, images):
            one = inputs["images"][:1], sizes[:1]
            where = "" if format == "torch_export" else parity.first_difference(program, temporary, one)
            raise UserError(f"the {format} export is not written: {problem}.{where}")


def _write_onnx(program: Program, inputs: dict[str, Tensor], path: Path) -> None:
    try:
        import onnx
    except ImportError as error:
        raise UserError('export to ONNX needs the package onnx: pip install "dino-nb[export]"') from error
    outputs = ["scores", "labels", "boxes"]
    free = {name: {0: "batch"} for name in (*inputs, *outputs)}
    free["images"] |= {2: "height", 3: "width"}
    trace_onnx(program, inputs, outputs, free, str(path))
    written = onnx.load(str(path))
    entry = written.metadata_props.add()
    entry.key, entry.value = FORMAT, json.dumps({"version": __version__, **describe(program.model)})
    onnx.save(written, str(path))


def _write_program(program: Program, inputs: dict[str, Tensor], path: Path) -> None:
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        program,
        tuple(inputs.values()),
        dynamic_shapes={"images": {0: free, 2: free, 3: free}, "target_sizes": {0: free}},
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    with path.open("wb") as file:
        torch.export.save(exported, file)
