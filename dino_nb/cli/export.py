"""Write a checkpoint for use elsewhere.

  dino-nb export run/best.pth                        # published names: the original code loads it
  dino-nb export run/best.pth -o small.pth --slim    # ours, the weights alone: no optimiser, half the precision
  dino-nb export run/best.pth -o model.safetensors   # ours, readable without running code

The class names and the settings travel with ours; published files have no place for them.
"""

from pathlib import Path

from dino_nb.errors import UserError


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("-o", "--output", help="file to write (default: beside CHECKPOINT, _published.pth at its end)")
    parser.add_argument("--slim", action="store_true", help="our format in half precision, nothing but the network")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")


def run(args):
    import torch

    from dino_nb.checkpoints.files import save_checkpoint
    from dino_nb.checkpoints.official import export_official
    from dino_nb.files import atomic_path
    from dino_nb.inference.detector import load

    model = load(args.checkpoint, "cpu").model
    ending = "slim" if args.slim else "published"
    source = Path(args.checkpoint)
    output = Path(args.output) if args.output else source.with_name(f"{source.stem}_{ending}.pth")
    if output.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(f"{output} must end in .pth or .safetensors: the ending chooses the format.")
    if output.exists() and (not args.overwrite or (source.exists() and output.samefile(source))):
        raise UserError(f"{output} exists: name another file with -o, or say --overwrite (never onto the source).")
    if args.slim:
        model.half()
    if args.slim or output.suffix == ".safetensors":
        save_checkpoint(output, model)
        kind = "our format"
    else:
        with atomic_path(output) as temporary:
            torch.save({"model": export_official(model)}, temporary)
        kind = "published names"
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {kind}.")
