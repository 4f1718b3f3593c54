"""Find what is wrong with a COCODIR: annotation files, images, boxes and splits. Exit code 1 if there are errors.

dino-nb check COCODIR
dino-nb check COCODIR --json > report.json
dino-nb check COCODIR --fix FIXED      (writes a repaired copy, with a log of every change)
"""

import argparse
from typing import Any

from dino_nb.prepare.check import check_dataset
from dino_nb.prepare.repair import fix_dataset

_IMAGES: dict[str, bool | str] = {"auto": True, "header": "header", "full": "full", "none": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cocodir", metavar="COCODIR", help="folder with train2017/, val2017/ and annotations/")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--fix", metavar="OUT", help="write a repaired copy to the new folder OUT, and check it")
    parser.add_argument(
        "--images",
        choices=_IMAGES,
        default="auto",
        help="full: decode every image; header: sizes and ends of files; auto (default): full up to 20,000 images",
    )


def run(args: argparse.Namespace) -> int:
    how: Any = {"images": _IMAGES[args.images], "progress": not args.json}
    fixed = fix_dataset(args.cocodir, args.fix, **how) if args.fix is not None else None
    report = fixed.report if fixed else check_dataset(args.cocodir, **how)
    print((fixed or report).to_json() if args.json else fixed or report)
    return 0 if report.ok else 1
