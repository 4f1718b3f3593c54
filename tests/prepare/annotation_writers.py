"""One labelled set, ``{file: (size, [(class, x1, y1, x2, y2)])}``, in every format that convert reads, and back."""

import csv
import hashlib
import json
import zlib
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from PIL import Image

from dino_nb.errors import UserError
from dino_nb.prepare.convert import convert_dataset

SIZE = (64, 48)
PLAIN = {f"p{i}.png": (SIZE, [("cat", 4, 5, 20 + i, 30), ("dog", 30.5, 2.25, 60, 44)]) for i in range(4)}


def put_image(path, size=(64, 48), colour=(90, 120, 60)):
    """Save a one-coloured image."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def put_images(folder, names, size=(64, 48)):
    """Images of different content: each path has a colour of its own."""
    for name in names:
        own = zlib.crc32(repr((str(folder), name)).encode()).to_bytes(4, "big")
        put_image(Path(folder) / name, size, tuple(own[:3]))


def put(path, content):
    """Write text, or anything else as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def coco_dict(dataset, classes, first_id=1):
    """The set as a COCO dictionary whose ids of all kinds begin with ``first_id``."""
    images, annotations = [], []
    for i, (name, (size, boxes)) in enumerate(dataset.items(), first_id):
        images.append({"id": i, "file_name": name, "width": size[0], "height": size[1]})
        for label, x1, y1, x2, y2 in boxes:
            entry = {"id": len(annotations) + first_id, "image_id": i, "category_id": classes.index(label) + first_id}
            annotations.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, first_id)]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(root, dataset, classes):
    put(root / "labels.json", coco_dict(dataset, classes))


def voc(root, dataset, classes):
    for name, (size, boxes) in dataset.items():
        put(root / "Annotations" / f"{Path(name).stem}.xml", voc_xml(name, size, boxes))


def voc_xml(name, size, boxes):
    """One VOC file."""
    objects = "".join(
        f"<object>\n<name>{escape(label)}</name>\n<bndbox><xmin>{x1!r}</xmin><ymin>{y1!r}</ymin>"
        f"<xmax>{x2!r}</xmax><ymax>{y2!r}</ymax></bndbox>\n</object>\n"
        for label, x1, y1, x2, y2 in boxes
    )
    head = f"<filename>{escape(name)}</filename>\n<size><width>{size[0]}</width><height>{size[1]}</height></size>\n"
    return f"<annotation>\n{head}{objects}</annotation>\n"


def yolo(root, dataset, classes, polygons=False):
    put(root / "classes.txt", "".join(f"{name}\n" for name in classes))
    for name, ((w, h), boxes) in dataset.items():
        rows = []
        for label, x1, y1, x2, y2 in boxes:
            if polygons:
                points = [x1, (y1 + y2) / 2, (x1 + x2) / 2, y1, x2, (y1 + y2) / 2, (x1 + x2) / 2, y2]
                values = [v / s for v, s in zip(points, (w, h) * 4)]
            else:
                values = [(x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h]
            rows.append(" ".join([str(classes.index(label)), *(f"{v:.9f}" for v in values)]))
        put(root / "labels" / f"{Path(name).stem}.txt", "\n".join(rows))


def yolo_polygons(root, dataset, classes):
    yolo(root, dataset, classes, polygons=True)


def labelme(root, dataset, classes):
    for name, (size, boxes) in dataset.items():
        shapes = [
            {"label": label, "points": [[x2, y2], [x1, y1]], "shape_type": "rectangle", "group_id": None}
            for label, x1, y1, x2, y2 in boxes
        ]
        document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"..\\images\\{name}"}
        document |= {"imageData": None, "imageWidth": size[0], "imageHeight": size[1]}
        put(root / "json" / f"{Path(name).stem}.json", document)


def cvat(root, dataset, classes):
    labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in classes)
    lines = [
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><meta><task><labels>{labels}</labels></task></meta>'
    ]
    for i, (name, (size, boxes)) in enumerate(dataset.items()):
        lines.append(f'<image id="{i}" name={quoteattr(name)} width="{size[0]}" height="{size[1]}">')
        for label, x1, y1, x2, y2 in boxes:
            corners = f'xtl="{x1!r}" ytl="{y1!r}" xbr="{x2!r}" ybr="{y2!r}"'
            lines.append(f"<box label={quoteattr(label)} occluded='0' {corners}></box>")
        lines.append("</image>")
    put(root / "annotations.xml", "\n".join([*lines, "</annotations>"]))


def csv_(root, dataset, classes, relative=False):
    with (root / "boxes.csv").open("w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(["filename", "xmin", "ymin", "xmax", "ymax", "class"])
        for name, ((w, h), boxes) in dataset.items():
            scale = (w, h, w, h) if relative else (1, 1, 1, 1)
            for label, *corners in boxes:
                table.writerow([name, *(repr(v / s) for v, s in zip(corners, scale)), label])
            if not boxes:
                table.writerow([name, "", "", "", "", ""])


def csv_relative(root, dataset, classes):
    csv_(root, dataset, classes, relative=True)


WRITERS = {
    "coco": coco,
    "voc": voc,
    "yolo": yolo,
    "yolo polygons": yolo_polygons,
    "labelme": labelme,
    "cvat": cvat,
    "csv": csv_,
    "csv relative": csv_relative,
}


def read_back(cocodir):
    """``{original file name: sorted [(class, x1, y1, x2, y2)]}`` of all splits of a COCODIR, ids checked on the way."""
    found = {}
    mapping = json.loads((cocodir / "mapping.json").read_text(encoding="utf-8"))
    for split, own in mapping["splits"].items():
        coco = json.loads((cocodir / "annotations" / f"instances_{split}2017.json").read_text(encoding="utf-8"))
        for key in ("images", "annotations", "categories"):
            assert [entry["id"] for entry in coco[key]] == list(range(1, len(coco[key]) + 1))
        names = {c["id"]: c["name"] for c in coco["categories"]}
        originals = {image["id"]: Path(image["original_file"]).name for image in own["images"]}
        for image in coco["images"]:
            with Image.open(cocodir / f"{split}2017" / image["file_name"]) as opened:
                assert opened.size == (image["width"], image["height"])
            assert originals[image["id"]] not in found
            found[originals[image["id"]]] = []
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            assert a["area"] > 0 and a["iscrowd"] in (0, 1)
            found[originals[a["image_id"]]].append((names[a["category_id"]], x, y, x + w, y + h))
    return {name: sorted(boxes) for name, boxes in found.items()}


def convert(src, out, **options):
    return convert_dataset(src, out, progress=False, **options)


def faults(src, tmp_path, **options):
    """The message of the refusal; nothing may have been written."""
    with pytest.raises(UserError) as caught:
        convert(src, tmp_path / "refused", **options)
    assert not list(tmp_path.glob("*refused*"))
    return str(caught.value)


def source(root, dataset=PLAIN, writer="coco", classes=("cat", "dog")):
    put_images(root / "images", dataset)
    WRITERS[writer](root, dataset, list(classes))
    return root


def digest(folder):
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return [(p.relative_to(folder).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


def coco_of(cocodir, split):
    return json.loads((cocodir / f"annotations/instances_{split}2017.json").read_text(encoding="utf-8"))
