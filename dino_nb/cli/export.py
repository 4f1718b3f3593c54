"""Write a checkpoint for use elsewhere.

  dino-nb export run/best.pth                        # published names: the original code loads it
  dino-nb export run/best.pth -o small.pth --slim    # ours, the weights alone: no optimiser, half the precision
  dino-nb export run/best.pth -o model.safetensors   # ours, readable without running code

The class names and the settings travel with ours; published files have no place for them. A network with a backbone or
a setting that the original code does not have is written as ours.
"""

from pathlib import Path

from dino_nb.errors import UserError


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument(
        "-o", "--output", help="file to write (default: beside CHECKPOINT, with a name that tells what it is)"
    )
    parser.add_argument("--slim", action="store_true", help="our format in half precision, nothing but the network")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")


def run(args):
    import torch

    from dino_nb.checkpoints.checkpoint import save_checkpoint
    from dino_nb.checkpoints.official import export_official
    from dino_nb.files import atomic_path
    from dino_nb.inference.detector import load
    from dino_nb.models.backbone import PUBLISHED

    model = load(args.checkpoint, "cpu").model
    config = model.config
    lacking = [] if config.backbone in PUBLISHED else [f"no backbone {config.backbone!r}"]
    lacking += [f"no proposal_nms, here {config.proposal_nms:g}"] if config.proposal_nms else []
    ending = "slim.pth" if args.slim else "weights.safetensors" if lacking else "published.pth"
    source = Path(args.checkpoint)
    output = Path(args.output) if args.output else source.with_name(f"{source.stem}_{ending}")
    if output.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(f"{output} must end in .pth or .safetensors: the ending chooses the format.")
    if output.exists() and (not args.overwrite or (source.exists() and output.samefile(source))):
        raise UserError(f"{output} exists: name another file with -o, or say --overwrite (never onto the source).")
    ours = args.slim or output.suffix == ".safetensors"
    if lacking and not ours:
        raise UserError(
            f"the original code has {' and '.join(lacking)}, and could not compute what {source.name} does: write our "
            f"format, as --slim or as {output.with_suffix('.safetensors').name}."
        )
    if args.slim:
        model.half()
    if ours:
        save_checkpoint(output, model)
        kind = "our format"
    else:
        with atomic_path(output) as temporary:
            torch.save({"model": export_official(model)}, temporary)
        kind = "published names"
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {kind}.")
