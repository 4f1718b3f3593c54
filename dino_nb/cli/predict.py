"""Detect objects in images and videos: annotated copies and one JSON.

  dino-nb predict dino-4scale-r50-24ep photo.jpg folder/ 'more/**/*.png' clip.mp4 --output_dir found

CHECKPOINT is a file, a name that `dino-nb zoo` lists, or dino-tiny. SOURCE is an image, a URL, a folder, a quoted
pattern or a video. With --slice_size 800, for example, small objects in large images are found too. The output folder
gets every image with its boxes under the image's own name (videos as .mp4), and predictions.json: a list with an entry
per image or frame. Images that cannot be read are listed at the end, and the exit code is then 1.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dino_nb.errors import UserError
from dino_nb.files import atomic_path
from dino_nb.inference.detector import Detector, load
from dino_nb.inference.results import Result
from dino_nb.inference.sources import exists, leaves
from dino_nb.inference.video import describe, is_video

Write = Callable[[dict[str, Any]], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("source", metavar="SOURCE", nargs="+")
    parser.add_argument("-o", "--output_dir", default="predictions", help="folder to write to (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score, 0 to 1 (default: %(default)s)")
    parser.add_argument("--max_detections", type=int, help="per image")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes")
    parser.add_argument("--batch_size", type=int, default=1, help="images at a time (default: %(default)s)")
    parser.add_argument("--device", help="cuda, cuda:0, cpu (default: a GPU if there is one)")
    parser.add_argument(
        "--amp", nargs="?", const="fp16", choices=("fp16", "fp32"), default="fp32", help="half precision on a GPU"
    )
    parser.add_argument("--slice_size", type=int, metavar="PIXELS", help="look at squares of large images, too")
    parser.add_argument("--errors", choices=("skip", "raise"), default="skip", help="at an image that cannot be read")
    parser.add_argument("--no_images", action="store_true", help="write predictions.json alone")


def run(args: argparse.Namespace) -> int:
    files = [str(source) for source in leaves(args.source)]
    detector = load(args.checkpoint, args.device)
    work = _Work(args, detector, files)
    with _json_list(work.folder / "predictions.json") as work.write, tqdm(total=len(files), unit="file") as bar:
        work.images(_ticking([f for f in files if not is_video(f)], bar))
        for video in filter(is_video, files):
            work.video(video)
            bar.update()
    print(f"{work.seen} images, {sum(work.counts.values())} objects: see {work.folder}.")
    for name, count in work.counts.most_common():
        print(f"  {count:6} {name}")
    for _, reason in work.skipped:
        print(f"left out: {reason}", file=sys.stderr)
    return 1 if work.skipped else 0


class _Work:
    """One run: its options, and what has been found so far."""

    def __init__(self, args: argparse.Namespace, detector: Detector, files: list[str]) -> None:
        self.args, self.detector, self.folder = args, detector, Path(args.output_dir)
        self.options = {name: getattr(args, name) for name in ("max_detections", "classes", "slice_size")}
        self.options |= {"threshold": args.threshold, "batch_size": args.batch_size, "amp": args.amp == "fp16"}
        self.place = _Names(self.folder, files)
        self.write: Write = print
        self.skipped: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.seen = 0

    def images(self, files: Iterable[str]) -> None:
        for result in self.detector.stream(files, errors=self.args.errors, skipped=self.skipped, **self.options):
            self._add(result, None if self.args.no_images else result.save(self.place(result.name)).name)

    def video(self, video: str) -> None:
        output = None if self.args.no_images else self.place(f"{Path(video).stem}.mp4")
        try:
            with tqdm(total=describe(video)[1], unit="frame", desc=Path(video).name, leave=False) as bar:

                def on_frame(result: Result) -> None:
                    self._add(result, output and output.name)
                    bar.update()

                if output is not None:
                    self.detector.annotate_video(video, output, on_frame=on_frame, **self.options)
                    return
                for result in self.detector.stream(video, **self.options):
                    on_frame(result)
        except UserError as error:
            if self.args.errors == "raise":
                raise
            self.skipped.append((video, str(error)))

    def _add(self, result: Result, output: str | None) -> None:
        self.write(result.to_dict() | {"output": output})
        self.counts.update(result.names)
        self.seen += 1


def _ticking(files: list[str], bar: tqdm) -> Iterator[str]:
    """Yield ``files``, moving the bar on when the next one is asked for."""
    for file in files:
        bar.set_postfix_str(Path(file).name[:30], refresh=False)
        yield file
        bar.update()


class _Names:
    """Paths in the output folder: one for each name, numbered where two sources share a name, never a source."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.taken = folder, set[str]()
        self.sources = {Path(f).resolve() for f in files if exists(f)}

    def __call__(self, name: str) -> Path:
        stem, suffix = Path(name).stem or "image", Path(name).suffix.lower()
        suffix = suffix if suffix in (".jpg", ".jpeg", ".png", ".webp", ".mp4") else ".png"
        number, path = 1, self.folder / f"{stem}{suffix}"
        while path.name.lower() in self.taken:
            number += 1
            path = self.folder / f"{stem}_{number}{suffix}"
        self.taken.add(path.name.lower())
        if path.resolve() in self.sources:
            raise UserError(f"{path} is one of the sources and would be overwritten: choose another --output_dir.")
        return path


@contextmanager
def _json_list(path: Path) -> Iterator[Write]:
    """Yield ``write(entry)``; the list appears under its name once it is complete."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        before = "[\n"

        def write(entry: dict[str, Any]) -> None:
            nonlocal before
            file.write(before + json.dumps(entry, ensure_ascii=False))
            before = ",\n"

        yield write
        file.write("[]\n" if before == "[\n" else "\n]\n")
