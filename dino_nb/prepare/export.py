"""Back from a COCODIR: the data set in other formats, and detections with the ids, names and files of its source."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from dino_nb.data.coco_file import annotation_file, read_coco, split_files
from dino_nb.data.images import image_size
from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.files import links_out, write_text
from dino_nb.prepare.folders import MAPPING, new_folder, place_file, plain_names
from dino_nb.prepare.formats.write import FORMATS as WRITTEN
from dino_nb.prepare.formats.write import Labelled, image_path, to_json, write
from dino_nb.prepare.table import SPLITS

FORMATS = tuple(format for format in WRITTEN if format != "coco")  # a COCODIR is COCO already


@disk_errors()
def export_dataset(cocodir: str | Path, folder: str | Path, format: str, *, link: str = "copy") -> Path:
    """Write a COCODIR as ``yolo``, ``voc``, ``labelme`` or ``cvat`` to the new ``folder``; returns it.

    Images are copied, or with ``link="hard"`` linked. Their names are changed where the format cannot hold them (two
    that differ in their ending only, in the case of letters, or in their folder). Crowd boxes are left out, since
    none of these formats has them.
    """
    if format not in FORMATS:
        raise UserError(f"exports are {', '.join(FORMATS)}, not {format!r}.{did_you_mean(format, FORMATS)}")
    cocodir = Path(cocodir).expanduser()
    found = {split: split_files(cocodir, split) for split in SPLITS if annotation_file(cocodir, split).is_file()}
    if not found:
        raise UserError(f"{cocodir} has no annotations/instances_*2017.json: it is not a COCODIR.")
    data = {split: read_coco(annotations) for split, (_, annotations) in found.items()}
    names = [str(c["name"]) for part in data.values() for c in part["categories"]]
    classes = {name: i for i, name in enumerate(dict.fromkeys(names))}
    taken: dict[str, set[str]] = defaultdict(set)
    with new_folder(folder) as root:
        splits = {
            split: place_images(
                root, format, split, images, data[split], classes, taken["" if format == "voc" else split], link
            )  # Pascal VOC has one folder for all splits
            for split, (images, _) in found.items()
        }
        write(root, format, list(classes), splits)
    return Path(folder)


def place_images(
    root: Path, format: str, split: str, images: Path, data: dict, classes: dict[str, int], taken: set[str], link: str
) -> list[Labelled]:
    """Put the images of a COCO file ``data``, which lie in the folder ``images``, where ``format`` keeps those of
    ``split`` below ``root``; return them with their boxes. ``classes``: name -> index; ``taken``: see `plain_names`.
    """
    names = {c["id"]: str(c["name"]) for c in data["categories"]}
    boxes: dict[Any, list] = defaultdict(list)
    for a in data["annotations"]:
        x, y, w, h = a["bbox"]
        if not a.get("iscrowd"):
            boxes[a["image_id"]].append((classes[names[a["category_id"]]], x, y, x + w, y + h))
    labelled = []
    files = [image["file_name"] for image in data["images"]]
    for image, name in zip(data["images"], plain_names(files, taken=taken, stems=True)):
        file, target = images / image["file_name"], image_path(root, format, split, name)
        if links_out(file, images):
            raise UserError(f"{file} is a link that leads out of its folder: put the image in its place.")
        target.parent.mkdir(parents=True, exist_ok=True)
        place_file(file, target, link)
        width, height = image.get("width"), image.get("height")
        if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
            width, height = image_size(target)
        labelled.append(Labelled(name, width, height, boxes[image["id"]]))
    return labelled


@disk_errors()
def export_results(
    cocodir: str | Path, results: list[dict[str, Any]] | str | Path, path: str | Path, split: str = "val"
) -> int:
    """Rewrite detections (COCO results, a list or a JSON file) of a converted data set with its source's own ids.

    Each entry keeps ``bbox`` and ``score``, gets ``image_id`` and ``category_id`` of the source where it had some
    (else the file name and the class name take their place), and ``file_name`` and ``category_name``. Written to
    ``path``; returns the number of entries.
    """
    mapping_file = Path(cocodir) / MAPPING
    if not mapping_file.is_file():
        raise UserError(f"there is no {mapping_file}: only what dino-nb convert made knows its source's ids.")
    try:
        mapping = json.loads(mapping_file.read_text(encoding="utf-8"))
        known = list(mapping["splits"])
        images = mapping["splits"].get(split, {"images": []})["images"]
        own = [
            {i["id"]: (i["original_id"], i["original_file"]) for i in images},
            {c["id"]: (c["original_id"], c["name"]) for c in mapping["categories"]},
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{mapping_file} is damaged: convert the source again.") from None
    if split not in known:
        raise UserError(f"{cocodir} has no split {split!r} but {', '.join(known)}.{did_you_mean(split, known)}")
    rewritten = []
    for i, entry in enumerate(results if isinstance(results, list) else _read_results(Path(results))):
        found: dict[str, Any] = {}
        for key, named, table in (("image_id", "file_name", own[0]), ("category_id", "category_name", own[1])):
            value = entry.get(key) if isinstance(entry, dict) else None
            if not isinstance(value, (int, float, str)) or value not in table:
                raise UserError(f"entry {i} of the detections has {key} {value!r}, which {split} does not have.")
            id, name = table[value]
            found |= {key: name if id is None else id, named: name}
        rewritten.append(entry | found)
    write_text(path, to_json(rewritten) + "\n")
    return len(rewritten)


def _read_results(path: Path) -> list:
    if not path.is_file():
        raise UserError(f"there is no file of detections {path}.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a JSON file of detections ({error}).") from None
    if not isinstance(entries, list):
        raise UserError(f"{path} is not a JSON list of detections: dino-nb eval --save-results writes one.")
    return entries
