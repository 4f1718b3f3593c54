"""Turn annotations of any format into a COCODIR: train2017/ val2017/ [test2017/] annotations/instances_*2017.json.

    dino-nb convert my_export.zip coco
    dino-nb convert roboflow://workspace/project/3 coco
    dino-nb convert drive_folder coco --val-fraction 0.2 --seed 1
    dino-nb convert aerial coco --slice 800
    dino-nb convert coco coco_as_yolo --to yolo
    dino-nb convert results.json own_results.json --results-of coco

Reads COCO (also Roboflow's), Pascal VOC, YOLO, LabelMe, CVAT, VIA, CreateML, Supervisely and CSV, from a folder, a
file, a zip or tar, a link or id of Google Drive, or from roboflow://workspace/project/version, kaggle://owner/dataset
or hf://datasets/owner/name with the key in $ROBOFLOW_API_KEY, $KAGGLE_USERNAME and $KAGGLE_KEY, or $HF_TOKEN. Faults
are listed by file and line; then nothing is written.
"""

import argparse
import contextlib
import json
from pathlib import Path

from dino_nb.colab import hosts
from dino_nb.prepare.convert import FORMATS, LINKS, convert_dataset
from dino_nb.prepare.export import FORMATS as EXPORTS
from dino_nb.prepare.export import export_dataset, export_results
from dino_nb.prepare.folders import refuse_existing, temporary_folder
from dino_nb.prepare.table import LAYOUTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``dino-nb convert``."""
    parser.add_argument("src", metavar="SRC", help="folder, file, zip, tar, link, Drive id, or roboflow://...")
    parser.add_argument("cocodir", metavar="COCODIR", help="folder to make; it appears when it is complete")
    parser.add_argument("--format", choices=FORMATS, help="format of SRC (default: found by looking)")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, if they are not in SRC")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="share of val where SRC has none (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the division into train and val (%(default)s)")
    parser.add_argument("--resplit", action="store_true", help="split again although SRC has splits")
    parser.add_argument("--link", choices=LINKS, default="copy", help="images: copies, or hard links (no space)")
    parser.add_argument("--overwrite", action="store_true", help="replace a COCODIR that is there")
    parser.add_argument("--skip-bad", action="store_true", help="leave out faulty lines and images, and count them")
    parser.add_argument("--classes", metavar="A,B,...", help="class names by number, where SRC does not have them")
    parser.add_argument("--box-format", choices=LAYOUTS, help="how boxes of COCO or CSV are written, if unusually")
    parser.add_argument("--scale-boxes", action="store_true", help="scale boxes where the annotated size is another")
    parser.add_argument("--slice", type=int, metavar="PIXELS", help="cut training images that are larger into tiles")
    parser.add_argument("--overlap", type=float, default=0.2, help="share that neighbouring tiles have in common")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--to", choices=EXPORTS, help="the other way: SRC is a COCODIR, written in this format")
    parser.add_argument("--results-of", metavar="COCODIR", help="SRC is a JSON of detections on it: write source ids")
    parser.add_argument("--split", default="val", help="the split that those detections are of (%(default)s)")


def run(args: argparse.Namespace) -> None:
    """Convert, and print what was done."""
    if args.to:
        print(f"wrote {export_dataset(args.src, args.cocodir, args.to, link=args.link)} as {args.to}")
        return
    if args.results_of:
        count = export_results(args.results_of, args.src, args.cocodir, args.split)
        print(f"wrote {count:,} detections to {args.cocodir} with the ids of the source")
        return
    names = ("format", "images", "val_fraction", "seed", "resplit", "link", "overwrite", "skip_bad")
    options = {name: getattr(args, name) for name in (*names, "box_format", "scale_boxes", "overlap")}
    with contextlib.ExitStack() as stack:
        source, target = args.src, Path(args.cocodir)
        if hosts.is_hosted(source):
            refuse_existing(target, args.overwrite)
            source = hosts.fetch(source, stack.enter_context(temporary_folder(target, "download")))
        report = convert_dataset(source, target, class_names=args.classes, slice_size=args.slice, **options)
    report.source = args.src
    print(json.dumps(report.to_dict(), ensure_ascii=False) if args.json else report)
