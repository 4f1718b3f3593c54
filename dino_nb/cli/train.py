"""Train or fine-tune on a COCODIR.

  dino-nb train COCODIR --pretrain_model_path dino-4scale-r50-12ep      fine-tune a published checkpoint
  dino-nb train COCODIR --pretrain_model_path checkpoint_best.pth --preset t4 --resume auto --max_hours 11
  dino-nb train COCODIR                                                 the published 12 epochs from scratch
  dino-nb train COCODIR BACKBONE_DIR -c DINO_4scale_swin                the same with Swin-L
  torchrun --nproc-per-node 8 -m dino_nb train COCODIR --preset 5scale-r50-24ep
  dino-nb train COCODIR --slurm --nodes 2 --gpus 8 --preset 5scale-swinl-12ep

Number and names of classes come from the data set. The output folder gets checkpoint_best.pth, checkpoint_last.pth,
log.jsonl, curves.png and the states that --resume continues from.
"""

import argparse
from typing import Any

from dino_nb.cli.parser import add_options, add_unused
from dino_nb.data.augment import NAMES, PRESETS
from dino_nb.errors import UserError
from dino_nb.options import parse_options
from dino_nb.presets import TRAIN_PRESETS, preset_name
from dino_nb.training import slurm
from dino_nb.training.finetune import finetune


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cocodir", metavar="COCODIR", nargs="?", help="folder with {train,val}2017 and annotations/")
    parser.add_argument("backbone_dir", metavar="BACKBONE", nargs="?", help="from scratch: backbone weights")
    parser.add_argument("--coco_path", metavar="COCODIR", help="the same as COCODIR")
    start = parser.add_argument_group("where to start")
    start.add_argument("--pretrain_model_path", metavar="CHECKPOINT", help="file, zoo name or Drive link to fine-tune")
    start.add_argument("--finetune_ignore", nargs="+", default=(), metavar="PART", help="tensors not to take from it")
    start.add_argument("--no_pretrained_backbone", action="store_true", help="from scratch, the backbone too")
    start.add_argument("--resume", metavar="auto|STATE", help="continue the output folder's newest state, or a file")
    start.add_argument("--overwrite", action="store_true", help="start again even if the output folder holds a state")
    start.add_argument("--no_check", action="store_true", help="train on a data set with errors, too")
    how = parser.add_argument_group("how to train")
    how.add_argument("--preset", help=f"recipe: {', '.join(TRAIN_PRESETS)}")
    how.add_argument("-c", "--config_file", metavar="NAME", help="published configuration, e.g. DINO_4scale")
    add_options(how, "any setting, in the published spelling too")
    how.add_argument("--epochs", type=int)
    how.add_argument("--steps", type=int, help="optimiser steps of the run; epochs, rates and the like follow from it")
    how.add_argument("--batch_size", type=int, help="images per optimiser step, over all GPUs")
    how.add_argument("--lr", type=float)
    how.add_argument(
        "--amp", nargs="?", const="auto", choices=("auto", "fp32", "fp16", "bf16"), help="precision (default: auto)"
    )
    how.add_argument("--augment", metavar="NAME[,NAME...]", help=f"{', '.join(PRESETS)}, or steps: {', '.join(NAMES)}")
    how.add_argument("--num_workers", type=int)
    how.add_argument("--seed", type=int)
    how.add_argument("--device", help="cuda, cuda:0, cpu (default: a GPU if there is one)")
    how.add_argument("--max_hours", type=float, help="save and stop then; a run sized in steps ends within it")
    parser.add_argument("-o", "--output_dir", help="results (default: logs/DINO/ and the model, as logs/DINO/R50-MS4)")
    parser.add_argument("--drive_dir", help="a second folder that gets states and results in the background")
    parser.add_argument("--tensorboard", action="store_true", help="TensorBoard events in OUTPUT_DIR/tensorboard")
    add_unused(parser)
    slurm.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.slurm:
        slurm.submit(run, args, args.output_dir or "logs/DINO")
        return 0
    cocodir = args.cocodir or args.coco_path
    if not cocodir:
        raise UserError("which data set? Give COCODIR (or --coco_path).")
    if args.backbone_dir and args.pretrain_model_path:
        raise UserError("BACKBONE is for training from scratch; --pretrain_model_path brings its own backbone.")
    options = parse_options(args.options)
    for note in options.notes:
        print(note)
    settings: dict[str, Any] = {"model": preset_name(args.config_file)} if args.config_file else {}
    settings |= options.training
    # what is not given is the recipe's, or finetune's own default
    for name in ("epochs", "steps", "batch_size", "lr", "amp", "augment", "num_workers", "seed", "output_dir"):
        if (value := getattr(args, name)) is not None:
            settings[name] = value
    for name in ("preset", "resume", "overwrite", "finetune_ignore", "max_hours", "device", "drive_dir", "tensorboard"):
        settings[name] = getattr(args, name)
    result = finetune(
        cocodir,
        args.pretrain_model_path,
        model_options=options.model,
        backbone_weights=args.backbone_dir or not args.no_pretrained_backbone,
        check=not args.no_check,
        **settings,
    )
    return {"SIGINT": 130, "SIGTERM": 143}.get(result.stopped, 0)
