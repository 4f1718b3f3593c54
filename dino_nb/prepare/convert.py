"""Any annotation format to a COCODIR: ``{train,val,test}2017/`` and ``annotations/instances_*2017.json``.

    dino_nb.convert_dataset("my_pictures.zip", "coco", val_fraction=0.2)

The same source and options give the same bytes. ``mapping.json`` keeps the source's own ids, names and
files; `dino_nb.prepare.export` reads it to give results back with them.
"""

import contextlib
import importlib
import posixpath
from collections import Counter
from pathlib import Path

from dino_nb.errors import UserError, did_you_mean
from dino_nb.prepare.archive import extract, is_archive
from dino_nb.prepare.cocodir import categories, write_cocodir
from dino_nb.prepare.convert_report import ConvertReport
from dino_nb.prepare.folders import new_folder, refuse_existing, temporary_folder
from dino_nb.prepare.formats.boxes import FORMS
from dino_nb.prepare.formats.imagesets import image_sets
from dino_nb.prepare.formats.source import Options, Source, split_of
from dino_nb.prepare.measure import Tally, measure
from dino_nb.prepare.split import divide

# In order of preference where a source has several: what names its classes and splits best comes first.
FORMATS = ("coco", "cvat", "voc", "labelme", "yolo", "csv")
_LINKS = ("hard", "copy")
# files that are read when a format is said although none looks like it: the reader tells what is wrong with them
_ENDINGS = dict.fromkeys(("coco", "labelme"), (".json",)) | dict.fromkeys(("voc", "cvat"), (".xml",))
_ENDINGS |= {"yolo": (".txt", ".yaml", ".yml"), "csv": (".csv", ".tsv")}


def convert_dataset(
    src,
    cocodir,
    *,
    format=None,
    images=None,
    val_fraction=0.2,
    seed=0,
    resplit=False,
    link="hard",
    overwrite=False,
    skip_bad=False,
    class_names=None,
    box_format=None,
    scale_boxes=False,
    progress=True,
):
    """Convert ``src`` to a COCODIR and return a `ConvertReport`.

    Args:
        src: a folder, an annotation file, a zip or tar of them, or a link or id of Google Drive.
        cocodir: the folder to make; it appears when it is complete.
        format: one of ``FORMATS``; found by looking if None.
        images: the folder of the pictures, if it is not in ``src``.
        val_fraction: val's share of the pictures, where the source has no val split.
        seed: of the division into train and val.
        resplit: divide anew although the source has splits.
        link: ``hard`` links the pictures (no space; copies where a link is impossible) or ``copy``.
        overwrite: replace a COCODIR that is there.
        skip_bad: leave out faulty lines and pictures (counted in the report) rather than refuse the source.
        class_names: names of the classes, in order of their numbers, where the source has none.
        box_format: ``xywh``, ``xyxy`` or ``cxcywh``, also with ``-relative``: how COCO or CSV boxes are written, if
            differently from their format's rule.
        scale_boxes: scale boxes of pictures whose annotated size is not theirs.
        progress: show progress bars.

    Raises ``UserError`` listing the faults by file and line; then nothing is written.
    """
    _check_options(format, link, box_format, val_fraction)
    cocodir = Path(cocodir).expanduser().resolve()
    refuse_existing(cocodir, overwrite)
    if isinstance(class_names, str):
        class_names = class_names.split(",")
    class_names = tuple(name.strip() for name in class_names or ()) or None
    with _opened(src, cocodir, images, progress) as (source, only):
        format, labels = _read(source, only, format, Options(class_names, box_format))
        dropped, changed = Tally(), Tally()
        if not labels.pictures:
            source.raise_faults()
            raise UserError(f"{src}: no picture with annotations was found in it (read as {format}).")
        pictures = measure(source, _merged(source, labels.pictures), dropped, changed, scale_boxes, progress)
        source.raise_faults(skip_bad)
        pictures, own_split = divide(source, pictures, val_fraction, seed, resplit, progress)
        names = categories(source, pictures, labels.categories)
        report = ConvertReport(str(src), str(cocodir), format, notes=source.notes, own_split=own_split)
        report.dropped = {what: [n, dropped.examples[what]] for what, n in dropped.counts.items()}
        report.changed = {what: [n, changed.examples[what]] for what, n in changed.counts.items()}
        with new_folder(cocodir, overwrite) as folder:
            write_cocodir(folder, source, pictures, names, link, report, progress)
    return report


def find_format(source):
    """``[(format, files)]`` of all formats that ``source`` shows, the preferred one first."""
    found = ((format, _reader(format).find(source)) for format in FORMATS)
    return [(format, files) for format, files in found if files]


def _check_options(format, link, box_format, val_fraction):
    for name, value, choices in (("format", format, FORMATS), ("box_format", box_format, FORMS)):
        if value is not None and value not in choices:
            raise UserError(f"{name} is one of {', '.join(choices)}, not {value!r}.{did_you_mean(value, choices)}")
    if not 0 <= val_fraction < 1:
        raise UserError(f"val_fraction is a share from 0 up to, but not including, 1, not {val_fraction}.")
    if link not in _LINKS:
        raise UserError(f"link is hard or copy, not {link!r}.{did_you_mean(link, _LINKS)}")


def _reader(format):
    module = "csv_file" if format == "csv" else format
    return importlib.import_module(f"dino_nb.prepare.formats.{module}")


@contextlib.contextmanager
def _opened(src, cocodir, images, progress):
    """The `Source` of a folder, file, archive or link, and the key of the one file that was named (or None)."""
    if images is not None and not Path(images).expanduser().is_dir():
        raise UserError(f"there is no folder of pictures {images}.")
    images = None if images is None else Path(images).expanduser().resolve()
    path = Path(src).expanduser()
    with contextlib.ExitStack() as stack:
        if not _exists(path):
            path = _fetched(str(src), stack, cocodir)
        path = path.resolve()
        if path.is_file() and is_archive(path):
            folder = stack.enter_context(temporary_folder(cocodir, "unpacked"))
            path = extract(path, folder, progress)
        if cocodir == path or cocodir in path.parents:
            raise UserError(f"the source {src} lies in the output folder {cocodir}: name another output folder.")
        only = path.name if path.is_file() else None
        alone = only if images is not None and not _is_yaml(only) else None
        yield Source(path.parent if only else path, images, cocodir, progress, alone), only


def _exists(path):
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a zero byte: a link, or nothing
        return False


def _fetched(src, stack, cocodir):
    """Where a link or a Drive id was downloaded to."""
    from dino_nb.checkpoints import drive

    if not (drive.is_link(src) or drive.file_id(src)):
        near = did_you_mean(Path(src).name, [p.name for p in Path(src).expanduser().absolute().parent.glob("*")])
        raise UserError(f"there is no file or folder {src}.{near}")
    return Path(drive.fetch(src, stack.enter_context(temporary_folder(cocodir, "download"))))


def _read(source, only, format, options):
    if only is not None and format is None:
        source_formats = [(f, _files_of(only, files)) for f, files in find_format(source) if only in files]
    elif format is None:
        source_formats = find_format(source)
    else:
        files = _reader(format).find(source) or source.ending(*_ENDINGS[format])
        files = _files_of(only, files) if only else files
        if not files:
            raise UserError(f"{source.root} has no files that look like {format}. {_inventory(source)}")
        source_formats = [(format, files)]
    if not source_formats:
        raise UserError(
            f"{source.root / only if only else source.root} has no annotations of a known format. "
            f"{_inventory(source)} Known: {', '.join(FORMATS)}; --format says which one to read."
        )
    format, files = source_formats[0]
    for other, ignored in source_formats[1:]:
        more = f" and {len(ignored) - 1:,} more" if len(ignored) > 1 else ""
        source.note(f"read as {format}; {ignored[0]}{more} as {other} not used (--format {other} would).")
    if not source.images:
        raise UserError(f"there are no pictures in {source.root}: --images (images=...) says which folder has them.")
    labels = _reader(format).read(source, files, options)
    used = {picture.file for picture in labels.pictures}
    left = [key for key in source.images if key not in used]
    if left and not source.fault_count and format != "yolo":  # which tells of its own
        source.note(f"{len(left):,} pictures are in no annotation file and are left out: {', '.join(left[:3])}...")
    if not any(picture.split for picture in labels.pictures):  # the annotations do not tell: the pictures' folders may
        sets = image_sets(source)
        for picture in labels.pictures:
            stem = posixpath.splitext(posixpath.basename(picture.file))[0]
            picture.split = sets.get(stem) if sets else split_of(picture.file)
    return format, labels


def _is_yaml(name):
    return (name or "").lower().endswith((".yaml", ".yml"))


def _files_of(only, files):
    """What belongs to the one file that was named: nothing else, but the label files of a YOLO YAML."""
    return [only, *(key for key in files if not _is_yaml(key))] if _is_yaml(only) else [only]


def _inventory(source):
    endings = Counter(posixpath.splitext(key)[1].lower() or "without ending" for key in source.paths)
    listed = ", ".join(f"{n:,} {ending}" for ending, n in endings.most_common(6))
    return f"It holds {listed or 'no files'}."


def _merged(source, pictures):
    """One picture for each file and split; two annotation files may describe the same one."""
    merged = {}
    for picture in pictures:
        first = merged.setdefault((picture.file, picture.split), picture)
        if first is not picture:
            first.boxes = first.boxes + picture.boxes
    if len(merged) < len(pictures):
        source.note(f"{len(pictures) - len(merged):,} pictures are annotated in several places: boxes put together.")
    return list(merged.values())
