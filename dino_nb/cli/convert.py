"""Turn annotations of any format into a COCODIR: train2017/ val2017/ [test2017/] annotations/instances_*2017.json.

    dino-nb convert my_export.zip coco
    dino-nb convert drive_folder coco --val-fraction 0.2 --seed 1
    dino-nb convert aerial coco --slice 800
    dino-nb convert coco coco_as_yolo --to yolo
    dino-nb convert results.json own_results.json --results-of coco

Reads COCO (also Roboflow's), Pascal VOC, YOLO, LabelMe, CVAT, VIA, CreateML, Supervisely and CSV, from a folder, a
file, a zip or tar, or a link or id of Google Drive. Faults are listed by file and line; then nothing is
written.
"""

import argparse
import json

from dino_nb.prepare.convert import FORMATS, convert_dataset
from dino_nb.prepare.export import FORMATS as EXPORTS
from dino_nb.prepare.export import export_dataset, export_results
from dino_nb.prepare.table import LAYOUTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``dino-nb convert``."""
    parser.add_argument("src", metavar="SRC", help="folder, annotation file, zip, tar, or a Google Drive link or id")
    parser.add_argument("cocodir", metavar="COCODIR", help="folder to make; it appears when it is complete")
    parser.add_argument("--format", choices=FORMATS, help="format of SRC (default: found by looking)")
    parser.add_argument("--images", metavar="DIR", help="folder of the images, if they are not in SRC")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="share of val where SRC has none (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the division into train and val (%(default)s)")
    parser.add_argument("--resplit", action="store_true", help="split again although SRC has splits")
    parser.add_argument(
        "--link", choices=("hard", "copy"), default="copy", help="images: copies, or hard links (no space)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a COCODIR that is there")
    parser.add_argument("--skip-bad", action="store_true", help="leave out faulty lines and images, and count them")
    parser.add_argument("--classes", metavar="A,B,...", help="class names by number, where SRC does not have them")
    parser.add_argument("--box-format", choices=LAYOUTS, help="how boxes of COCO or CSV are written, if unusually")
    parser.add_argument("--scale-boxes", action="store_true", help="scale boxes where the annotated size is another")
    parser.add_argument("--slice", type=int, metavar="PIXELS", help="cut training images that are larger into tiles")
    parser.add_argument("--overlap", type=float, default=0.2, help="share that neighbouring tiles have in common")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--to", choices=EXPORTS, help="the other way: SRC is a COCODIR, written in this format")
    parser.add_argument("--results-of", metavar="COCODIR", help="SRC is a JSON of detections on this one's images: "
                        "write them with the ids of the source that it was converted from")  # fmt: skip
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
    report = convert_dataset(
        args.src,
        args.cocodir,
        format=args.format,
        images=args.images,
        val_fraction=args.val_fraction,
        seed=args.seed,
        resplit=args.resplit,
        link=args.link,
        overwrite=args.overwrite,
        skip_bad=args.skip_bad,
        class_names=args.classes,
        box_format=args.box_format,
        scale_boxes=args.scale_boxes,
        slice_size=args.slice,
        overlap=args.overlap,
    )
    print(json.dumps(report.to_dict(), ensure_ascii=False) if args.json else report)
