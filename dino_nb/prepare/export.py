"""Back from a COCODIR: the data set as YOLO or VOC, and detections with the ids, names and files of its source."""

import json
from pathlib import Path

from dino_nb.data.coco_file import read_coco, split_files
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import write_text
from dino_nb.prepare.cocodir import MAPPING
from dino_nb.prepare.folders import new_folder, place_file
from dino_nb.prepare.formats.write import Labelled, picture_path, to_json, write
from dino_nb.prepare.split import SPLITS

FORMATS = ("yolo", "voc")  # a COCODIR is COCO already


def export_dataset(cocodir, folder, format):
    """Write a COCODIR as ``yolo`` or ``voc`` to the new ``folder`` (pictures are hard-linked or copied).

    Crowd boxes are left out, since neither format has them. Returns ``folder``.
    """
    if format not in FORMATS:
        raise UserError(f"exports are {', '.join(FORMATS)}, not {format!r}.{did_you_mean(format, FORMATS)}")
    cocodir, splits, classes = Path(cocodir), {}, None
    with new_folder(folder) as root:
        for split in SPLITS:
            if not (cocodir / "annotations" / f"instances_{split}2017.json").is_file():
                continue
            pictures, annotations = split_files(cocodir, split)
            data = read_coco(annotations)
            if classes is None:
                classes = {c["id"]: (i, c["name"]) for i, c in enumerate(data["categories"])}
            splits[split] = _labelled(data, classes)
            for picture in splits[split]:
                target = picture_path(root, format, split, picture.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():
                    raise UserError(f"{picture.name} is in two splits of {cocodir}; {format} has one folder for all.")
                place_file(pictures / picture.name, target)
        if not splits:
            raise UserError(f"{cocodir} has no annotations/instances_*2017.json: it is not a COCODIR.")
        write(root, format, [name for _, name in classes.values()], splits)
    return Path(folder)


def export_results(cocodir, results, path, split="val"):
    """Rewrite detections (COCO results, a list or a JSON file) of a converted data set with its source's own ids.

    Each entry keeps ``bbox`` and ``score``, gets ``image_id`` and ``category_id`` of the source where it had some
    (else the file name and the class name take their place), and ``file_name`` and ``category_name``. Written to
    ``path``; returns the number of entries.
    """
    mapping_file = Path(cocodir) / MAPPING
    if not mapping_file.is_file():
        raise UserError(f"there is no {mapping_file}: only what dino-nb convert made knows its source's ids.")
    mapping = json.loads(mapping_file.read_text(encoding="utf-8"))
    if split not in mapping["splits"]:
        known = list(mapping["splits"])
        raise UserError(f"{cocodir} has no split {split!r} but {', '.join(known)}.{did_you_mean(split, known)}")
    images = {image["id"]: image for image in mapping["splits"][split]["images"]}
    categories = {category["id"]: category for category in mapping["categories"]}
    if not isinstance(results, list):
        try:
            results = json.loads(Path(results).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{results} is not a JSON file of detections ({error}).") from None
    rewritten = []
    for i, entry in enumerate(results):
        image, category = images.get(entry.get("image_id")), categories.get(entry.get("category_id"))
        if image is None or category is None:
            key = "image_id" if image is None else "category_id"
            raise UserError(f"entry {i} of the detections has {key} {entry.get(key)!r}, which {split} does not have.")
        own = {
            "image_id": image["original_file"] if image["original_id"] is None else image["original_id"],
            "category_id": category["name"] if category["original_id"] is None else category["original_id"],
            "file_name": image["original_file"],
            "category_name": category["name"],
        }
        rewritten.append(entry | own)
    write_text(path, to_json(rewritten) + "\n")
    return len(rewritten)


def _labelled(data, classes):
    boxes = {}
    for a in data["annotations"]:
        x, y, w, h = a["bbox"]
        if not a["iscrowd"]:
            boxes.setdefault(a["image_id"], []).append((classes[a["category_id"]][0], x, y, x + w, y + h))
    return [Labelled(i["file_name"], i["width"], i["height"], boxes.get(i["id"], [])) for i in data["images"]]
