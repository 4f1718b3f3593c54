"""Write a checkpoint for use elsewhere.

  dino-nb export run/best.pth                        # published names: the original code loads it
  dino-nb export run/best.pth --format onnx          # runs with onnxruntime, without this package
  dino-nb export run/best.pth --format onnx_tensorrt # the attention op as the node of TensorRT's plugin
  dino-nb export run/best.pth --format torch_export  # runs with PyTorch alone
  dino-nb export run/best.pth -o small.pth --slim    # ours, the weights alone: no optimiser, half the precision
  dino-nb export run/best.pth -o model.safetensors   # ours, readable without running code

The class names and the settings travel with ours and with ONNX; published files have no place for them. A network with
a backbone or a setting that the original code does not have is written as ours. An ONNX or torch.export file is checked
against the network on a few images before it gets its name.
"""

import argparse
from pathlib import Path

from dino_nb.checkpoints.load import load_model
from dino_nb.errors import UserError
from dino_nb.inference.export import ENDINGS, export, lacks
from dino_nb.models.dino import DINO

_FORMAT_OF = {".onnx": "onnx", ".pt2": "torch_export", ".safetensors": "safetensors", ".pth": "official"}
_FORMAT_OF[".pt"] = "official"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument(
        "-o", "--output", help="file to write (default: beside CHECKPOINT, with a name that tells what it is)"
    )
    parser.add_argument("--format", choices=ENDINGS, help="default: what the ending of OUTPUT says, or published names")
    parser.add_argument("--slim", action="store_true", help="the same as --format slim")
    parser.add_argument(
        "--images", nargs="+", metavar="SOURCE", help="images that ONNX and torch_export are checked on"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")


def run(args: argparse.Namespace) -> None:
    model = load_model(args.checkpoint, "cpu")
    source, output = Path(args.checkpoint), Path(args.output) if args.output else None
    format = "slim" if args.slim else args.format
    reason = lacks(model) if isinstance(model, DINO) else None
    if output is not None and output.suffix not in _FORMAT_OF:
        raise UserError(f"{output} must end in one of {', '.join(_FORMAT_OF)}: the ending chooses the format.")
    if format is None:
        format = _FORMAT_OF[output.suffix] if output else "safetensors" if reason else "official"
    if format == "official" and reason and output:
        raise UserError(
            f"the original code has {reason}, and could not compute what {source.name} does: write our format, as "
            f"--slim or as {output.with_suffix('.safetensors').name}."
        )
    path = export(args.checkpoint, output, format, images=args.images, overwrite=args.overwrite)
    kind = {"official": "published names", "safetensors": "our format", "slim": "our format"}.get(format, format)
    checked = ", checked against the network" if format in ("onnx", "onnx_tensorrt", "torch_export") else ""
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {kind}{checked}.")
