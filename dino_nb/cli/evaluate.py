"""Score a checkpoint on a COCODIR: the 12 COCO numbers, a table of the classes, results.json.

  dino-nb eval COCODIR checkpoint0011_4scale.pth
  dino-nb eval COCODIR dino-4scale-r50-12ep --split test --output_dir logs/DINO/R50-MS4-test
  torchrun --nproc-per-node 8 -m dino_nb eval COCODIR checkpoint0011_4scale.pth
  dino-nb eval COCODIR checkpoint0011_4scale.pth --slurm --gpus 8
  dino-nb eval COCODIR mine.pth --against yours.pth --store_threshold --save_labels labelme

CHECKPOINT is a file (published or made here), a name that `dino-nb zoo` lists, or dino-tiny. The published spelling
`-c DINO_4scale --coco_path COCODIR --resume CHECKPOINT --eval --options key=value ...` is understood too; the
architecture is read off the checkpoint, and -c is checked against it.
"""

import argparse
import sys
from pathlib import Path

import torch

from dino_nb import distributed
from dino_nb.checkpoints.checkpoint import store_thresholds
from dino_nb.checkpoints.load import as_model
from dino_nb.cli.parser import AMP, AMP_HELP, add_options, add_unused
from dino_nb.cli.published import apply_options, check_architecture
from dino_nb.errors import UserError
from dino_nb.evaluation.coco import LIBRARIES
from dino_nb.evaluation.compare import compare, saved_results
from dino_nb.evaluation.evaluate import EvalResult, evaluate
from dino_nb.prepare.export import FORMATS
from dino_nb.prepare.folders import refuse_existing
from dino_nb.training import slurm

# flags that are arguments of `evaluate`
_SAME = ("split", "batch_size", "num_workers", "input_size", "classes", "limit", "threshold", "metrics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cocodir", metavar="COCODIR", nargs="?", help="folder with val2017/ and annotations/")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?")
    parser.add_argument("--split", default="val", help="train, val or test (default: %(default)s)")
    parser.add_argument("-o", "--output_dir", default="logs/DINO/eval", help="results.json and the reports go here")
    batch = "published numbers are those of 1; auto takes images of one shape together, with the same results"
    parser.add_argument("--batch_size", type=batch_size, default=1, metavar="N", help=batch)
    parser.add_argument("--device", help="cuda, cuda:0, cpu (default: a GPU if there is one)")
    parser.add_argument("--amp", nargs="?", const="fp16", choices=AMP, default="auto", help=AMP_HELP)
    parser.add_argument("--num_workers", type=int, help="processes that read images")
    sides = "images are resized to this short side and at most this long side (default: the checkpoint's own)"
    parser.add_argument("--input_size", type=int, nargs=2, metavar=("SHORT", "LONG"), help=sides)
    pairs = "pair classes of data and checkpoint by name or by category id (default: names where there are any)"
    parser.add_argument("--classes", choices=("auto", "name", "id"), default="auto", help=pairs)
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only")
    parser.add_argument("--no_check", action="store_true", help="do not check the data set first")
    parser.add_argument("--threshold", type=float, help="count errors from this score (default: the best F1's)")
    parser.add_argument("--store_threshold", action="store_true", help="write the best thresholds into CHECKPOINT")
    doubtful = (
        "also write images whose labels may be wrong to OUTPUT_DIR/labels for a labelling tool (convert reads it)"
    )
    parser.add_argument("--save_labels", choices=FORMATS, help=doubtful)
    parser.add_argument("--against", metavar="B", help="a checkpoint or saved results.json to compare with")
    parser.add_argument("--compare_precision", action="store_true", help="measure float32 and half precision")
    parser.add_argument("--metrics", choices=LIBRARIES, default=LIBRARIES[0], help="(default: %(default)s)")
    published = parser.add_argument_group("published spelling")
    published.add_argument("-c", "--config_file", metavar="NAME", help="DINO_4scale, ...: checked, not needed")
    add_options(published, "num_select=...; others are checked")
    published.add_argument("--coco_path", metavar="COCODIR")
    either = "resume an interrupted evaluation in --output_dir; with a value, the published spelling of CHECKPOINT"
    parser.add_argument("--resume", metavar="CHECKPOINT", nargs="?", const=True, help=either)
    published.add_argument("--eval", action="store_true", help="accepted; this command does nothing else")
    add_unused(parser)
    slurm.add_arguments(parser)


def batch_size(text: str) -> int | str:
    """A number or ``auto``."""
    return text if text == "auto" else int(text)


def run(args: argparse.Namespace) -> int:
    # `eval CHECKPOINT --coco_path DIR` and `eval COCODIR --resume FILE` leave one positional argument for the other
    given = [p for p in (args.cocodir, args.checkpoint) if p is not None]
    cocodir = args.coco_path if args.coco_path is not None else given.pop(0) if given else None
    if isinstance(args.resume, str) and Path(args.resume).is_dir():  # `eval --resume COCODIR CHECKPOINT`
        cocodir, given, args.resume = args.resume, [p for p in (cocodir, *given) if p is not None], True
    checkpoint = args.resume if isinstance(args.resume, str) else given.pop(0) if given else None
    if cocodir is None or checkpoint is None or given:
        wrong = f"what is {given[0]!r}?" if given else f"no {'COCODIR' if cocodir is None else 'CHECKPOINT'} is named."
        print(f"dino-nb eval: {wrong} Usage: dino-nb eval COCODIR CHECKPOINT (--help tells more)", file=sys.stderr)
        return 2
    if args.slurm:
        slurm.submit(run, args, args.output_dir, resumes=False)
        return 0
    if args.store_threshold and not Path(checkpoint).is_file():
        raise UserError(f"thresholds are stored in a checkpoint file of yours, and there is no file {checkpoint}.")
    labels = Path(args.output_dir) / "labels"
    if args.save_labels:
        refuse_existing(labels)
    with distributed.session() as device:
        device = args.device or device
        if args.compare_precision and str(device) == "cpu":
            raise UserError("--compare_precision needs a GPU: a CPU computes in float32 alone.")
        folder, amp = Path(args.output_dir), "fp32" if args.compare_precision else args.amp
        result = _evaluate(args, cocodir, checkpoint, device, folder, amp)
        distributed.print_main(result)
        if args.save_labels and distributed.is_main():
            told = f"no label looks wrong: {labels} is not written"
            if result.analysis.label_errors:
                result.save_labels(labels, args.save_labels)
                told = f"correct the labels in {labels}, then: dino-nb convert {labels} COCODIR"
            print(told)
        other: str | EvalResult | None = args.against
        if args.compare_precision:
            other, result = result, _evaluate(args, cocodir, checkpoint, device, folder / "half_precision", "fp16")
        elif args.against and not saved_results(args.against):
            other = _evaluate(args, cocodir, args.against, device, folder / "against", args.amp)
        if distributed.is_main() and other is not None:
            comparison = compare(other, result, cocodir, split=args.split)
            comparison.write(folder)
            print(f"\n{comparison}")
        if distributed.is_main() and args.store_threshold:
            store_thresholds(checkpoint, result.thresholds.to_dict())
            print(f"stored in {checkpoint}: threshold {result.thresholds.best:.3f}")
    return 0


def _evaluate(
    args: argparse.Namespace, cocodir: str, checkpoint: str, device: str | torch.device, folder: Path, amp: str
) -> EvalResult:
    if not distributed.is_main():
        distributed.barrier()  # the main process fetches the checkpoint, the others find it fetched
    model = as_model(checkpoint, device)
    if distributed.is_main():
        distributed.barrier()
    if args.config_file:
        check_architecture(model, args.config_file)
    ignored = apply_options(model, args.options)
    if ignored and distributed.is_main():
        print(f"without effect on an evaluation: {', '.join(ignored)}", file=sys.stderr)
    return evaluate(
        cocodir,
        model,
        output_dir=folder,
        check=not args.no_check,
        amp=amp,
        resume=args.resume is True or distributed.is_restart(),
        name=checkpoint,
        **{name: getattr(args, name) for name in _SAME},
    )
