"""Detect objects in pictures and videos: annotated copies and one JSON.

  dino-nb predict dino-4scale-r50-24ep photo.jpg folder/ 'more/**/*.png' clip.mp4 --output_dir found

CHECKPOINT is a file, a name that `dino-nb zoo` lists, or dino-tiny. SOURCE is a picture, a URL, a folder, a quoted
pattern or a video. With --slice_size 800, say, small objects of large pictures are found, too. The output folder gets
every picture with its boxes under the picture's own name (videos as .mp4), and predictions.json: a list with an entry a
picture or frame. Pictures that cannot be read are listed at the end, and the exit code is then 1.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from dino_nb.errors import UserError
from dino_nb.files import atomic_path


def add_arguments(parser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("source", metavar="SOURCE", nargs="+")
    parser.add_argument("-o", "--output_dir", default="predictions", help="folder to write to (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score, 0 to 1 (default: %(default)s)")
    parser.add_argument("--max_detections", type=int, help="at most so many a picture")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes")
    parser.add_argument("--batch_size", type=int, default=1, help="pictures at a time (default: %(default)s)")
    parser.add_argument("--device", help="cuda, cuda:0, cpu (default: a GPU if there is one)")
    parser.add_argument("--amp", action="store_true", help="half precision on a GPU")
    parser.add_argument("--slice_size", type=int, metavar="PIXELS", help="look at squares of large pictures, too")
    parser.add_argument("--errors", choices=("skip", "raise"), default="skip", help="at a picture that cannot be read")
    parser.add_argument("--no_pictures", action="store_true", help="write predictions.json alone")


def run(args):
    from tqdm.auto import tqdm

    from dino_nb.inference.detector import load
    from dino_nb.inference.sources import leaves
    from dino_nb.inference.video import is_video

    files = list(leaves(args.source))
    detector = load(args.checkpoint, args.device)
    options = {name: getattr(args, name) for name in ("max_detections", "classes", "amp", "slice_size")}
    folder = Path(args.output_dir)
    place = _Names(folder, files)
    skipped, counts, seen = [], Counter(), 0
    with _json_list(folder / "predictions.json") as write, tqdm(total=len(files), unit="file") as bar:
        pictures = [f for f in files if not is_video(f)]
        for result in detector.stream(
            _ticking(pictures, bar), args.threshold, args.batch_size, errors=args.errors, skipped=skipped, **options
        ):
            output = None if args.no_pictures else result.save(place(result.name)).name
            write(result.to_dict() | {"output": output})
            counts.update(result.names)
            seen += 1
        for video in (f for f in files if is_video(f)):
            frames, found = _video(detector, video, place, write, args, options, skipped)
            counts.update(found)
            seen += frames
            bar.update()
    print(f"{seen} pictures, {sum(counts.values())} objects: see {folder}.")
    for name, count in counts.most_common():
        print(f"  {count:6} {name}")
    for _, reason in skipped:
        print(f"left out: {reason}", file=sys.stderr)
    return 1 if skipped else 0


def _ticking(files, bar):
    """Yield ``files``, moving the bar on when the next one is asked for."""
    for file in files:
        bar.set_postfix_str(Path(file).name[:30], refresh=False)
        yield file
        bar.update()


def _video(detector, video, place, write, args, options, skipped):
    """Number of frames and a count of the objects in them."""
    from tqdm.auto import tqdm

    from dino_nb.inference.video import describe

    found, frames = Counter(), 0
    output = None if args.no_pictures else place(f"{Path(video).stem}.mp4")

    def on_frame(result):
        nonlocal frames
        write(result.to_dict() | {"output": output and output.name})
        found.update(result.names)
        frames += 1
        bar.update()

    try:
        with tqdm(total=describe(video)[1], unit="frame", desc=Path(video).name, leave=False) as bar:
            if output is None:
                for result in detector.stream(video, args.threshold, args.batch_size, **options):
                    on_frame(result)
            else:
                detector.annotate_video(video, output, args.threshold, args.batch_size, on_frame, **options)
    except UserError as error:
        if args.errors == "raise":
            raise
        skipped.append((video, str(error)))
    return frames, found


class _Names:
    """Paths in the output folder: one for each name, numbered where two sources share a name, never a source."""

    def __init__(self, folder, files):
        from dino_nb.inference.sources import exists

        self.folder, self.taken = folder, set()
        self.sources = {Path(f).resolve() for f in files if exists(f)}

    def __call__(self, name):
        stem, suffix = Path(name).stem or "picture", Path(name).suffix.lower()
        suffix = suffix if suffix in (".jpg", ".jpeg", ".png", ".webp", ".mp4") else ".png"
        number, path = 1, self.folder / f"{stem}{suffix}"
        while path.name.lower() in self.taken:
            number += 1
            path = self.folder / f"{stem}_{number}{suffix}"
        self.taken.add(path.name.lower())
        if path.resolve() in self.sources:
            raise UserError(f"{path} is one of the sources and would be overwritten: choose another --output_dir.")
        return path


class _json_list:
    """Context that yields ``write(entry)``; the list appears under its name once it is complete."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.context = atomic_path(self.path)
        self.file = self.context.__enter__().open("w", encoding="utf-8")
        self.start = "[\n"
        return self.write

    def write(self, entry):
        self.file.write(self.start + json.dumps(entry, ensure_ascii=False))
        self.start = ",\n"

    def __exit__(self, *error):
        self.file.write("\n]\n" if self.start != "[\n" else "[]\n")
        self.file.close()
        return self.context.__exit__(*error)
