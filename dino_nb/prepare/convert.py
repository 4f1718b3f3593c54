"""Any annotation format to a COCODIR: ``{train,val,test}2017/`` and ``annotations/instances_*2017.json``.

    dino_nb.convert_dataset("my_images.zip", "coco", val_fraction=0.2)

The same source and options give the same bytes. ``mapping.json`` keeps the source's own ids, names and
files; `dino_nb.prepare.export` reads it to give results back with them.
"""

import contextlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dino_nb.checkpoints import drive
from dino_nb.checkpoints.web import is_link
from dino_nb.data.images import unsupported
from dino_nb.errors import UserError, did_you_mean, disk_errors, printable
from dino_nb.prepare.archive import extract, is_archive, what_is
from dino_nb.prepare.cocodir import ConvertReport, class_ids, write_cocodir
from dino_nb.prepare.folders import new_folder, refuse_existing, temporary_folder
from dino_nb.prepare.formats import coco, csv_file, cvat, json_shapes, voc, yolo
from dino_nb.prepare.formats.imagesets import image_sets
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.values import split_of
from dino_nb.prepare.measure import measure
from dino_nb.prepare.split import divide
from dino_nb.prepare.table import LAYOUTS, Annotations
from dino_nb.prepare.tiles import SMALLEST, sliced

# In order of preference where a source has several: what names its classes and splits best comes first.
_READERS: dict[str, Any] = {
    "coco": coco,
    "cvat": cvat,
    "voc": voc,
    "labelme": json_shapes.LABELME,
    "via": json_shapes.VIA,
    "createml": json_shapes.CREATEML,
    "supervisely": json_shapes.SUPERVISELY,
    "yolo": yolo,
    "csv": csv_file,
}
FORMATS = tuple(_READERS)
LINKS = ("copy", "hard")
# files that are read when a format is said although none looks like it: the reader tells what is wrong with them
_ENDINGS: dict[str, tuple[str, ...]] = {"voc": (".xml",), "cvat": (".xml",), "csv": (".csv", ".tsv")}
_ENDINGS |= {"yolo": (".txt", ".yaml", ".yml")}
# formats that are known by sight and not read
_FOREIGN = (
    ("Label Studio's JSON", ".json", re.compile(r'"(completed_by|from_name|original_width)"\s*:')),
    ("BDD100K's JSON", ".json", re.compile(r'"box2d"\s*:')),
    ("KITTI's labels", ".txt", re.compile(r"^[A-Za-z]\w{0,30}( -?\d+(\.\d+)?){14,15}\s*$", re.M)),
)
_FOREIGN_WAY_OUT = "Export it as COCO, YOLO or Pascal VOC, which its tool can, or convert it to one of them"


@disk_errors()
def convert_dataset(
    src: str | Path,
    cocodir: str | Path,
    *,
    format: str | None = None,
    images: str | Path | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    resplit: bool = False,
    link: str = "copy",
    overwrite: bool = False,
    skip_bad: bool = False,
    class_names: str | Sequence[str] | None = None,
    box_format: str | None = None,
    scale_boxes: bool = False,
    slice_size: int | None = None,
    overlap: float = 0.2,
    progress: bool = True,
) -> ConvertReport:
    """Convert ``src`` to a COCODIR and return a `ConvertReport`.

    Args:
        src: a folder, an annotation file, a zip or tar of them, or a link or id of Google Drive.
        cocodir: the folder to make; it appears when it is complete.
        format: one of ``FORMATS``; found by looking if None.
        images: the folder of the images, if it is not in ``src``.
        val_fraction: val's share of the images, where the source has no val split; from 0 up to 1.
        seed: of the division into train and val.
        resplit: split again although the source has splits.
        link: ``copy`` the images, or link them ``hard``: no space, but who edits one edits the other, too.
        overwrite: replace a COCODIR that is there; files that do not belong to it stay.
        skip_bad: leave out faulty lines and images (counted in the report) rather than refuse the source.
        class_names: names of the classes, in order of their numbers, where the source has none.
        box_format: ``xywh``, ``xyxy`` or ``cxcywh``, also with ``-relative``: how COCO or CSV boxes are written, if
            differently from their format's rule.
        scale_boxes: scale boxes of images whose annotated size is not theirs.
        slice_size: cut training images that are larger into tiles of that many pixels (see `prepare.tiles`), for
            ``predict(slice_size=...)``; at least 32.
        overlap: share of their side that neighbouring tiles have in common; from 0 up to 1.
        progress: show progress bars.

    Raises ``UserError`` listing the faults by file and line; then nothing is written.
    """
    for name, value, choices in (("format", format, FORMATS), ("box_format", box_format, LAYOUTS)):
        if value is not None and value not in choices:
            raise UserError(f"{name} is one of {', '.join(choices)}, not {value!r}.{did_you_mean(value, choices)}")
    if link not in LINKS:
        raise UserError(f"link is hard or copy, not {link!r}.{did_you_mean(link, LINKS)}")
    for name, share in (("val_fraction", val_fraction), ("overlap", overlap)):
        if not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise UserError(f"{name} is a share from 0 up to, but not including, 1, not {share!r}.")
    if slice_size is not None and (type(slice_size) is not int or slice_size < SMALLEST):
        raise UserError(f"slice_size is a number of pixels from {SMALLEST}, not {slice_size!r}.")
    cocodir = Path(cocodir).expanduser().resolve()
    refuse_existing(cocodir, overwrite)
    given = class_names.split(",") if isinstance(class_names, str) else class_names or ()
    names = tuple(str(name).strip() for name in given)
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"--classes (class_names) needs a name of its own for each class, not {', '.join(names)!r}.")
    with _opened(src, cocodir, images, progress) as source:
        source.class_names, source.box_format = names, box_format
        format, labels = _read(source, format)
        if not labels.images:
            source.raise_faults()
            raise UserError(f"{src}: no image with annotations was found in it (read as {format}).")
        rows = measure(source, labels.images, scale_boxes)
        source.raise_faults(skip_bad)
        # images all of whose boxes were faulty are not background: their objects are only not known
        lost = [image for image in rows if image.faulty and not image.boxes]
        source.note_images("left out, since all their boxes were faulty", lost)
        source.note_images("kept without the boxes that were faulty", [i for i in rows if i.faulty and i.boxes])
        rows = [image for image in rows if not image.faulty or image.boxes]
        rows, own_split = divide(source, rows, val_fraction, seed, resplit)
        classes = class_ids(source, rows, labels.categories)
        if slice_size:
            rows = sliced(source, rows, slice_size, overlap, seed)
        report = ConvertReport(str(src), str(cocodir), format, own_split=own_split)
        report.notes, report.dropped, report.changed = source.all_notes(), source.dropped, source.changed
        with new_folder(cocodir, overwrite) as folder:
            write_cocodir(folder, source, rows, classes, link, report)
    return report


@contextlib.contextmanager
def _opened(src: str | Path, cocodir: Path, images: str | Path | None, progress: bool) -> Iterator[Source]:
    """The `Source` of a folder, file, archive or link."""
    if images is not None and not Path(images).expanduser().is_dir():
        raise UserError(f"there is no folder of images {images}.")
    images = None if images is None else Path(images).expanduser().resolve()
    path = Path(src).expanduser()
    with contextlib.ExitStack() as stack:
        temporary = not os.path.exists(path)  # noqa: PTH110 (of a link, Path.exists may raise)
        if temporary:
            path = _fetched(str(src), stack, cocodir)
        path = path.resolve()
        if path.is_file() and is_archive(path):
            folder = stack.enter_context(temporary_folder(cocodir, "unpacked"))
            path, temporary = extract(path, folder, progress), True
        elif path.is_file() and (what := what_is(path)):
            raise UserError(f"{src} is {what}.")
        elif not path.is_file() and not path.is_dir():
            raise UserError(f"{src} is neither a file nor a folder, but a pipe or a device: give a file or a folder.")
        if cocodir == path or cocodir in path.parents:
            raise UserError(f"the source {src} lies in the output folder {cocodir}: name another output folder.")
        only = path.name if path.is_file() else None
        alone = only if images is not None and not _is_yaml(path.name) else None
        source = Source(path.parent if only else path, images, cocodir, progress, alone)
        source.only, source.temporary = only, temporary
        yield source


def _fetched(src: str, stack: contextlib.ExitStack, cocodir: Path) -> Path:
    """Where a link or a Drive id was downloaded to."""
    near = ""
    with contextlib.suppress(OSError, ValueError):  # it may be no path at all
        near = did_you_mean(Path(src).name, [p.name for p in Path(src).expanduser().absolute().parent.glob("*")])
    bare_id = drive.file_id(src) and re.search(r"\d", src) and re.search(r"[A-Z]", src)
    if not is_link(src) and (near or not bare_id):
        raise UserError(f"there is no file or folder {printable(src, 300)}.{near}")
    return Path(drive.fetch(src, stack.enter_context(temporary_folder(cocodir, "download"))))


def _read(source: Source, format: str | None) -> tuple[str, Annotations]:
    """``(format, annotations)`` of the files of that format, else of the first format that the source shows."""
    only, place = source.only, source.root / source.only if source.only else source.root
    formats = {f: found for f in ([format] if format else _READERS) if (found := _READERS[f].find(source))}
    if format and not formats and (found := source.ending(*_ENDINGS.get(format, (".json",)))):
        formats[format] = found
    if only:  # nothing else than the one file that was named, but the label files of a YOLO YAML
        formats = {f: found for f, found in formats.items() if format or only in found}
        formats = {f: [only, *(k for k in found if _is_yaml(only) and not _is_yaml(k))] for f, found in formats.items()}
    if format and not formats:
        raise UserError(f"{source.root} has no files that look like {format}. {_inventory(source)}")
    if not formats:
        known = f"Known: {', '.join(FORMATS)}; --format says which one to read."
        unknown = f"{place} has no annotations of a known format. {_inventory(source)} {known}"
        raise UserError(_foreign(source) or unknown)
    (format, files), *others_seen = formats.items()
    for other, ignored in others_seen:
        more = f" and {len(ignored) - 1:,} more" if len(ignored) > 1 else ""
        source.note(f"read as {format}; {ignored[0]}{more} as {other} not used (--format {other} would).")
    if not source.images:
        unread = [f" {posixpath.basename(key)} {why}." for key in source.paths if (why := unsupported(key))]
        raise UserError(
            f"there are no images in {source.root}: --images (images=...) says which folder has them."
            + "".join(unread[:1])
        )
    labels: Annotations = _READERS[format].read(source, files)
    left = sorted(set(source.images) - {image.file for image in labels.images})
    if not source.fault_count and format != "yolo":  # which tells of its own
        source.note_images("left out, since they are in no annotation file", left)
    if not any(image.split for image in labels.images):  # the annotations do not tell: the images' folders may
        sets = image_sets(source)
        for image in labels.images:
            listed = sets.find(posixpath.splitext(image.file)[0])
            image.split = (sets[listed] if listed else None) if sets else split_of(image.file)
    return format, labels


def _is_yaml(name: str) -> bool:
    return name.lower().endswith((".yaml", ".yml"))


def _inventory(source: Source) -> str:
    if source.only:  # what lies beside it is nobody's business
        return f"It begins with {printable(source.head(source.only)[:60])!r}."
    endings = Counter(posixpath.splitext(key)[1].lower() or "without ending" for key in source.paths)
    listed = ", ".join(f"{n:,} {printable(ending, 20)}" for ending, n in endings.most_common(6))
    return f"It holds {listed or 'no files'}."


def _foreign(source: Source) -> str | None:
    """A sentence that names a format which is not read here, or a file that is not what its name says."""
    for name, ending, pattern in _FOREIGN:
        keys = [source.only] if source.only else source.ending(ending)
        for key in keys[:20]:
            if key.lower().endswith(ending) and pattern.search(source.head(key)):
                return f"{key} is {name}, which is not read here. {_FOREIGN_WAY_OUT}."
    for key in source.ending(".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".json", ".xml", ".yaml", ".csv")[:20]:
        if source.only in (None, key) and is_archive(source.paths[key]):
            return f"{source.root} has no annotations beside the archive {key}: give that alone, or unpack it first."
        if source.only in (None, key) and (what := what_is(source.paths[key])):
            return f"{source.root / key} is {what}."
    return None
