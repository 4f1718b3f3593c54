"""Writing a COCODIR from measured images: files copied or linked, ids contiguous, the source's own kept."""

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dino_nb.data.images import open_image
from dino_nb.errors import UserError, printable
from dino_nb.files import write_text
from dino_nb.prepare.convert_report import ConvertReport
from dino_nb.prepare.folders import MAPPING, place_file, plain_names
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.write import to_json, write_coco_json
from dino_nb.prepare.measure import Tally
from dino_nb.prepare.table import SPLITS, BoxRow, ImageRow
from dino_nb.prepare.tiles import tile_name, write_tile


def categories(source: Source, images: list[ImageRow], listed: dict[str, Any] | None, dropped: Tally) -> dict[str, Any]:
    """``{name: original id}`` in the order of the new ids, after the checks that need all classes."""
    splits: dict[str | None, Counter[str]] = {split: Counter() for split in SPLITS}
    for image in images:
        splits[image.split].update(box.name for box in image.boxes)
    found = set().union(*splits.values())
    if not found:
        reasons = [f"\n  {n:,} {what}, such as {dropped.examples[what][0]}" for what, n in dropped.counts.items()]
        why = f" Left out were boxes of which{''.join(reasons)}" if reasons else " The annotations list no boxes."
        raise UserError(f"{source.root}: its {len(images):,} images have no usable box, so nothing to learn.{why}")
    for split, known in (("val", ["train"]), ("test", ["train", "val"])):
        only = sorted(set(splits[split]) - set().union(*(splits[name] for name in known)))
        if only and splits["train"]:
            name = only[0]
            file = next(i.file for i in images if i.split == split and any(b.name == name for b in i.boxes))
            source.note(
                f"{_some(only)}: only in {split} ({splits[split][name]:,} boxes of {printable(name)!r}, as in {file}), "
                "so never learnt. Move images of it to train, correct its name, or say --resplit (resplit=True)."
            )
    names = dict(listed or {})
    names |= dict.fromkeys(sorted(found - set(names)))
    unused = [name for name in names if name not in found]
    if unused:
        source.note(f"{len(unused)} listed classes have no boxes: {_some(unused)}.")
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(" ".join(name.lower().replace("_", " ").replace("-", " ").split()), []).append(name)
    for alike in spellings.values():
        if len(alike) > 1:
            source.note(f"{' and '.join(repr(printable(n)) for n in alike)} differ in spelling only, as two classes.")
    return names


def write_cocodir(
    folder: Path,
    source: Source,
    images: list[ImageRow],
    categories: dict[str, Any],
    link: str,
    report: ConvertReport,
    progress: bool = True,
) -> None:
    """Fill ``folder``; ``report`` gets the counts of images, boxes and classes per split."""
    decoded = lru_cache(1)(open_image)  # the tiles of an image follow each other
    ids = {name: i for i, name in enumerate(categories, 1)}
    classes = {name: dict.fromkeys(SPLITS, 0) for name in ids}
    records = [{"id": i, "name": name} for name, i in ids.items()]
    mapping: dict[str, Any] = {"format": report.format, "categories": [], "splits": {}}
    mapping["categories"] = [{"id": ids[name], "name": name, "original_id": own} for name, own in categories.items()]
    with tqdm(total=len(images), desc="writing", unit="image", disable=not progress, leave=False) as bar:
        for split in SPLITS:
            part = sorted((image for image in images if image.split == split), key=lambda image: image.file)
            if not part:
                continue
            place = folder / f"{split}2017"
            place.mkdir()
            rows: list[dict] = []
            annotations: list[dict] = []
            own_images, own_annotations = [], []
            for image_id, (image, name) in enumerate(zip(part, plain_names(map(tile_name, part))), 1):
                if image.window:
                    write_tile(decoded(source.paths[image.file]), image.window, place / name)
                else:
                    file = source.paths[image.file]
                    moved = source.temporary and file.is_relative_to(source.root)
                    place_file(file, place / name, "hard" if moved else link)
                width, height = image.size or (0, 0)
                rows.append({"id": image_id, "file_name": name, "width": width, "height": height})
                own = {"id": image_id, "file_name": name, "original_file": image.file, "original_id": image.id}
                own_images.append(own | ({"window": image.window} if image.window else {}))
                for box in image.boxes:
                    annotations.append(_annotation(len(annotations) + 1, image_id, ids, box))
                    if box.id is not None:
                        own_annotations.append([len(annotations), box.id])
                    classes[box.name][split] += 1
                bar.update()
            write_coco_json(folder / f"annotations/instances_{split}2017.json", rows, annotations, records)
            mapping["splits"][split] = {"images": own_images, "annotations": own_annotations}
            empty = sum(not image.boxes for image in part)
            report.splits[split] = {"images": len(part), "boxes": len(annotations), "empty": empty}
    report.classes = {name: {s: n[s] for s in report.splits} for name, n in classes.items()}
    write_text(folder / MAPPING, to_json(mapping) + "\n")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(printable(name)) for name in names[:10]) + more


def _annotation(id: int, image_id: int, ids: dict[str, int], box: BoxRow) -> dict[str, Any]:
    x, y, w, h = box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1
    record = {"id": id, "image_id": image_id, "category_id": ids[box.name], "bbox": [_short(v) for v in (x, y, w, h)]}
    return record | {"area": _short(box.area), "iscrowd": box.iscrowd}


def _short(value):
    value = round(value, 3)
    return int(value) if value == int(value) else value
