"""Detect objects in images and videos: annotated copies and one JSON.

  dino-nb predict dino-4scale-r50-24ep photo.jpg folder/ 'more/**/*.png' clip.mp4 --output_dir found

CHECKPOINT is a file, a name that `dino-nb zoo` lists, or dino-tiny. SOURCE is an image, a URL, a folder, a quoted
pattern or a video. With --slice_size 800, for example, small objects in large images are found too. The output folder
gets every image with its boxes under the image's own name (videos as .mp4), and predictions.json: a list with an entry
per image or frame. --save_labels labelme writes the boxes for a labelling tool, and `dino-nb convert` reads what was
corrected there. --track follows objects through videos. Images that cannot be read are listed at the end, and the exit
code is then 1.
"""

import argparse
import functools
import sys
from collections import Counter
from pathlib import Path

from dino_nb.cli.parser import AMP, AMP_HELP
from dino_nb.errors import UserError
from dino_nb.inference.detector import load
from dino_nb.inference.output import LABEL_FORMATS, OutputFolder, save_labels
from dino_nb.inference.results import Result
from dino_nb.inference.sources import leaves
from dino_nb.inference.video import is_video
from dino_nb.prepare.folders import refuse_existing
from dino_nb.printer import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("source", metavar="SOURCE", nargs="+")
    parser.add_argument("-o", "--output_dir", default="predictions", help="folder to write to (default: %(default)s)")
    parser.add_argument("--threshold", type=float, help="lowest score, 0 to 1 (default: the checkpoint's, else 0.3)")
    parser.add_argument("--max_detections", type=int, help="per image")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes")
    parser.add_argument("--batch_size", type=int, default=1, help="images at a time (default: %(default)s)")
    parser.add_argument("--device", help="cuda, cuda:0, cpu (default: a GPU if there is one)")
    parser.add_argument("--amp", nargs="?", const="fp16", choices=AMP, default="auto", help=AMP_HELP)
    parser.add_argument("--slice_size", type=int, metavar="PIXELS", help="look at squares of large images, too")
    parser.add_argument(
        "--scales", nargs="+", type=float, default=[1.0], metavar="FACTOR", help="look at several sizes, as 0.75 1 1.25"
    )
    parser.add_argument("--flip", action="store_true", help="look at the mirrored image, too")
    parser.add_argument("--nms", type=float, metavar="IOU", help="leave out boxes that overlap a better one of a class")
    parser.add_argument("--track", action="store_true", help="number the objects of videos, and count them")
    parser.add_argument(
        "--save_labels",
        choices=LABEL_FORMATS,
        help="also write OUTPUT_DIR/labels for a labelling tool (convert reads it)",
    )
    parser.add_argument("--errors", choices=("skip", "raise"), default="skip", help="at an image that cannot be read")
    parser.add_argument("--no_images", action="store_true", help="write predictions.json alone")


def run(args: argparse.Namespace) -> int:
    files = [str(source) for source in leaves(args.source)]
    detector = load(args.checkpoint, args.device)
    options = {name: getattr(args, name) for name in ("threshold", "batch_size", "max_detections", "classes")}
    options |= {"slice_size": args.slice_size, "amp": args.amp}
    looks = {"scales": args.scales, "flip": args.flip, "nms": args.nms}  # of images; videos would take too long
    labels = Path(args.output_dir) / "labels"
    if args.save_labels:
        refuse_existing(labels)
    kept: list[Result] = []
    counts, skipped, seen = Counter[str](), list[tuple[str, str]](), 0

    with OutputFolder(args.output_dir, files) as output:

        def add(result: Result, path: Path | None) -> None:
            nonlocal seen
            output.add(result, path)
            counts.update(result.names)
            seen += 1

        images = [file for file in files if not is_video(file)]
        for result in detector.stream(images, errors=args.errors, skipped=skipped, progress=True, **options, **looks):
            if args.save_labels:
                kept.append(result)
            add(result, None if args.no_images else result.save(output.path(result.name)))
        for video in filter(is_video, files):
            path = None if args.no_images else output.path(f"{Path(video).stem}.mp4")
            try:
                if path is not None:
                    detector.annotate_video(
                        video, path, on_frame=functools.partial(add, path=path), track=args.track, **options
                    )
                    continue
                for result in detector.stream(video, errors="raise", progress=True, **options):
                    add(result, None)
            except UserError as error:
                if args.errors == "raise":
                    raise
                skipped.append((video, str(error)))
    if kept:
        save_labels(kept, labels, args.save_labels)
        print(f"correct the labels in {labels}, then: dino-nb convert {labels} COCODIR")
    print(f"{counted(seen, 'image')}, {counted(sum(counts.values()), 'object')}: see {output.folder}.")
    for name, count in counts.most_common():
        print(f"  {count:6} {name}")
    for _, reason in skipped:
        print(f"left out: {reason}", file=sys.stderr)
    return 1 if skipped else 0
