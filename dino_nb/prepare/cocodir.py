"""Writing a COCODIR from measured pictures: files linked or copied, ids contiguous, the source's own kept."""

import posixpath
from collections import Counter

from tqdm.auto import tqdm

from dino_nb.errors import UserError
from dino_nb.files import write_text
from dino_nb.prepare.findings import printable
from dino_nb.prepare.folders import place_file
from dino_nb.prepare.formats.write import to_json, write_coco_json
from dino_nb.prepare.split import SPLITS

MAPPING = "mapping.json"
_UNPRACTICAL = '\\:*?"<>|'  # in file names, on one system or another


def categories(source, pictures, listed):
    """``{name: original id}`` in the order of the new ids, after the checks that need all classes."""
    splits = {split: Counter() for split in SPLITS}
    for picture in pictures:
        splits[picture.split].update(box.name for box in picture.boxes)
    found = set().union(*splits.values())
    if not found:
        raise UserError(f"{source.root}: its {len(pictures):,} pictures have no usable box, so nothing to learn.")
    only_val = sorted(set(splits["val"]) - set(splits["train"]))
    if only_val and any(picture.split == "train" for picture in pictures):
        name = only_val[0]
        file = next(p.file for p in pictures if p.split == "val" and any(b.name == name for b in p.boxes))
        raise UserError(
            f"{', '.join(repr(printable(n)) for n in only_val[:10])}: only in val ({splits['val'][name]:,} boxes of "
            f"{printable(name)!r}, as in {file}), so never learnt. Move pictures of it to train, correct its name, "
            "or say --resplit (resplit=True) to divide anew."
        )
    only_test = sorted(set(splits["test"]) - set(splits["train"]) - set(splits["val"]))
    if only_test and splits["train"]:
        source.note(f"only in test, so never learnt: {', '.join(map(printable, only_test[:10]))}.")
    names = dict(listed or {})
    names |= dict.fromkeys(sorted(found - set(names)))
    unused = [name for name in names if name not in found]
    if unused:
        source.note(f"{len(unused)} listed classes have no boxes: {', '.join(map(printable, unused[:10]))}.")
    spellings = {}
    for name in names:
        spellings.setdefault(" ".join(name.lower().replace("_", " ").replace("-", " ").split()), []).append(name)
    for alike in spellings.values():
        if len(alike) > 1:
            source.note(f"{' and '.join(repr(printable(n)) for n in alike)} differ in spelling only, as two classes.")
    return names


def write_cocodir(folder, source, pictures, categories, link, report, progress=True):
    """Fill ``folder``; ``report`` gets the counts of pictures, boxes and classes a split."""
    ids = {name: i for i, name in enumerate(categories, 1)}
    report.classes = {name: dict.fromkeys(SPLITS, 0) for name in ids}
    records = [{"id": i, "name": name} for name, i in ids.items()]
    mapping = {"format": report.format, "categories": [], "splits": {}}
    mapping["categories"] = [{"id": ids[name], "name": name, "original_id": own} for name, own in categories.items()]
    with tqdm(total=len(pictures), desc="writing", unit="picture", disable=not progress, leave=False) as bar:
        for split in SPLITS:
            part = sorted((p for p in pictures if p.split == split), key=lambda p: p.file)
            if not part:
                continue
            place = folder / f"{split}2017"
            place.mkdir()
            images, annotations, own_images, own_annotations = [], [], [], []
            for image_id, (picture, name) in enumerate(zip(part, _names(part)), 1):
                place_file(source.paths[picture.file], place / name, link)
                width, height = picture.size
                images.append({"id": image_id, "file_name": name, "width": width, "height": height})
                own = {"id": image_id, "file_name": name, "original_file": picture.file, "original_id": picture.id}
                own_images.append(own)
                for box in picture.boxes:
                    annotations.append(_annotation(len(annotations) + 1, image_id, ids, box))
                    if box.id is not None:
                        own_annotations.append([len(annotations), box.id])
                    report.classes[box.name][split] += 1
                bar.update()
            write_coco_json(folder / f"annotations/instances_{split}2017.json", images, annotations, records)
            mapping["splits"][split] = {"images": own_images, "annotations": own_annotations}
            empty = sum(not picture.boxes for picture in part)
            report.splits[split] = {"pictures": len(part), "boxes": len(annotations), "empty": empty}
    report.classes = {name: {s: n[s] for s in report.splits} for name, n in report.classes.items()}
    write_text(folder / MAPPING, to_json(mapping) + "\n")


def _annotation(id, image_id, ids, box):
    x, y, w, h = box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1
    record = {"id": id, "image_id": image_id, "category_id": ids[box.name], "bbox": [_short(v) for v in (x, y, w, h)]}
    return record | {"area": _short(box.area), "iscrowd": box.iscrowd}


def _short(value):
    value = round(value, 3)
    return int(value) if value == int(value) else value


def _names(pictures):
    """A file name for each picture, unlike the others even where case does not count, the source's own if it can be."""
    taken = set()
    for picture in pictures:
        folder, name = posixpath.split(
            "".join(c if c.isprintable() and c not in '\\:*?"<>|' else "_" for c in picture.file)
        )
        stem, ending = posixpath.splitext(name)
        choices = [name, f"{folder.replace('/', '_')}_{name}" if folder else name]
        number = 2
        while choices[0].lower() in taken:
            choices = choices[1:] or [f"{stem}_{number}{ending}"]
            number += 1
        taken.add(choices[0].lower())
        yield choices[0]
