"""Writing a COCODIR from measured images: files copied or linked, ids contiguous, the source's own kept; and telling
what was done."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dino_nb.data.images import open_image
from dino_nb.errors import UserError, printable
from dino_nb.files import write_text
from dino_nb.prepare.check_classes import spelling
from dino_nb.prepare.folders import MAPPING, place_file, plain_names
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.write import to_json, write_coco_json
from dino_nb.prepare.table import SPLITS, BoxRow, ImageRow
from dino_nb.prepare.tiles import tile_name
from dino_nb.printer import Block, Lines, Printed, Table, counted, examples


@dataclass(repr=False)
class ConvertReport(Printed):
    """The result of `dino_nb.prepare.convert.convert_dataset`.

    Attributes:
        source, cocodir: as given; ``format``: what was read (``voc``, ``coco``, ...).
        splits: ``{"train": {"images": n, "boxes": n, "empty": n}, ...}``; empty images have no boxes.
        classes: ``{name: {"train": boxes, ...}}`` in the order of their ids, 1 and up.
        dropped: ``{reason: [count, first examples]}`` of boxes left out, each example with its file.
        changed: the same for what was altered; ``notes``: sentences on how the source was understood.
        own_split: whether train and val were divided here.
    """

    source: str
    cocodir: str
    format: str
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, list] = field(default_factory=dict)
    changed: dict[str, list] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    own_split: bool = False

    @property
    def num_dropped(self) -> int:
        """Boxes that were left out."""
        return sum(count for count, _ in self.dropped.values())

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return vars(self) | {"num_dropped": self.num_dropped}

    def blocks(self) -> list[Block]:
        """The report's blocks."""
        how = "divided here" if self.own_split else "as given"
        head = f"{printable(self.source, 300)} ({self.format}) -> {printable(self.cocodir, 300)}, splits {how}"
        rows = [[i, name, *counts.values()] for i, (name, counts) in enumerate(self.classes.items(), 1)]
        splits = [[name, counts["images"], counts["boxes"], counts["empty"]] for name, counts in self.splits.items()]
        boxes = counted(self.num_dropped, "degenerate box", "degenerate boxes")
        more = [f"{boxes} left out:"] if self.dropped else []
        for word, tally in (("box ", self.dropped), ("", self.changed)):
            for what, (count, shown) in tally.items():
                more += [f"{count:,} x {word}{what}", *(f"  {line}" for line in examples(shown, count))]
        for note in self.notes:
            more += f"note: {note}".splitlines()
        return [
            Lines([head]),
            Table(["split", "images", "boxes", "without objects"], splits),
            Table(["id", "class", *self.splits], rows),
            Lines(more),
        ]


def class_ids(source: Source, images: list[ImageRow], listed: dict[str, Any] | None) -> dict[str, Any]:
    """``{name: original id}`` in the order of the new ids, after the checks that need all classes."""
    splits: dict[str | None, Counter[str]] = {split: Counter() for split in SPLITS}
    for image in images:
        splits[image.split].update(box.name for box in image.boxes)
    found = set().union(*splits.values())
    if not found:
        reasons = [f"\n  {n:,} {what}, such as {shown[0]}" for what, (n, shown) in source.dropped.items()]
        why = f" Left out were boxes of which{''.join(reasons)}" if reasons else " The annotations list no boxes."
        raise UserError(f"{source.root}: its {len(images):,} images have no usable box, so nothing to learn.{why}")
    for split, known in (("val", ["train"]), ("test", ["train", "val"])):
        only = sorted(set(splits[split]) - set().union(*(splits[name] for name in known)))
        if only and splits["train"]:
            name = only[0]
            file = next(i.file for i in images if i.split == split and any(b.name == name for b in i.boxes))
            source.note(
                f"{_some(only)}: only in {split} ({splits[split][name]:,} boxes of {printable(name)!r}, as in {file}), "
                "so never learned. Move images of it to train, correct its name, or say --resplit (resplit=True)."
            )
    names = dict(listed or {})
    names |= dict.fromkeys(sorted(found - set(names)))
    if unused := [name for name in names if name not in found]:
        source.note(f"listed without any box: {counted(len(unused), 'class', 'classes')}, {_some(unused)}.")
    alike = defaultdict(list)
    for name in names:
        alike[spelling(name)].append(name)
    for several in alike.values():
        if len(several) > 1:
            source.note(f"{' and '.join(repr(printable(n)) for n in several)} differ in spelling only, as two classes.")
    return names


def write_cocodir(
    folder: Path, source: Source, images: list[ImageRow], categories: dict[str, Any], link: str, report: ConvertReport
) -> None:
    """Fill ``folder``; ``report`` gets the counts of images, boxes and classes per split."""
    decoded = lru_cache(1)(open_image)  # the tiles of an image follow each other
    ids = {name: i for i, name in enumerate(categories, 1)}
    splits = {split: [image for image in images if image.split == split] for split in SPLITS}
    splits = {split: sorted(part, key=lambda image: image.file) for split, part in splits.items() if part}
    report.classes = {name: dict.fromkeys(splits, 0) for name in ids}
    records = [{"id": i, "name": name} for name, i in ids.items()]
    own = [{"id": ids[name], "name": name, "original_id": original} for name, original in categories.items()]
    mapping: dict[str, Any] = {"format": report.format, "categories": own, "splits": {}}
    bar = tqdm(total=len(images), desc="writing", unit="image", disable=not source.progress, leave=False)
    for split, part in splits.items():
        place = folder / f"{split}2017"
        place.mkdir()
        rows: list[dict] = []
        annotations: list[dict] = []
        own_images, own_annotations = [], []
        for image_id, (image, name) in enumerate(zip(part, plain_names(map(tile_name, part))), 1):
            file = source.paths[image.file]
            if image.window:  # without loss, unless the source had some
                decoded(file).crop(image.window).save(place / name, quality=95, subsampling=0)
            else:
                moved = source.temporary and file.is_relative_to(source.root)
                place_file(file, place / name, "hard" if moved else link)
            width, height = image.size or (0, 0)
            rows.append({"id": image_id, "file_name": name, "width": width, "height": height})
            about = {"id": image_id, "file_name": name, "original_file": image.file, "original_id": image.id}
            own_images.append(about | ({"window": image.window} if image.window else {}))
            for box in image.boxes:
                annotations.append(_annotation(len(annotations) + 1, image_id, ids, box))
                if box.id is not None:
                    own_annotations.append([len(annotations), box.id])
                report.classes[box.name][split] += 1
            bar.update()
        write_coco_json(folder / f"annotations/instances_{split}2017.json", rows, annotations, records)
        mapping["splits"][split] = {"images": own_images, "annotations": own_annotations}
        empty = sum(not image.boxes for image in part)
        report.splits[split] = {"images": len(part), "boxes": len(annotations), "empty": empty}
    bar.close()
    write_text(folder / MAPPING, to_json(mapping) + "\n")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(printable(name)) for name in names[:10]) + more


def _annotation(id: int, image_id: int, ids: dict[str, int], box: BoxRow) -> dict[str, Any]:
    bbox = [_short(v) for v in (box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1)]
    record = {"id": id, "image_id": image_id, "category_id": ids[box.name], "bbox": bbox}
    return record | {"area": _short(box.area), "iscrowd": box.iscrowd}


def _short(value):
    value = round(value, 3)
    return int(value) if value == int(value) else value
