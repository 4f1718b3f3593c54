"""``check_dataset``: everything that is wrong with a COCODIR, before it costs hours of training.

    report = dino_nb.check_dataset("cocodir")
    print(report)                    # in a notebook, `report` alone shows a table
    report.raise_if_errors()         # what training and scoring do before they start
    fix_dataset("cocodir", "fixed")  # dino_nb.prepare.repair: a repaired copy

The faults are listed in ``check_faults.py``. Nothing that a data set contains makes the check itself fail.
"""

from pathlib import Path

from dino_nb.errors import UserError, did_you_mean
from dino_nb.prepare.check_boxes import guess_layouts, report_boxes, report_counts
from dino_nb.prepare.check_images import Folder, known_sizes, look_at_images, report_images, same_pictures
from dino_nb.prepare.check_json import read_json
from dino_nb.prepare.check_records import read_split
from dino_nb.prepare.check_splits import count_classes, report_categories, report_classes, report_same_pictures
from dino_nb.prepare.findings import Findings, Report

SPLITS = ("train", "val", "test")
FULL_UP_TO = 20_000  # pictures of a set that images=True decodes; it takes some milliseconds each


def check_dataset(cocodir, *, images=True, splits=None, progress=True):
    """Look for all known faults in a COCODIR.

    Args:
        cocodir: folder with ``{train,val[,test]}2017/`` and ``annotations/``.
        images: ``"full"`` decodes every picture (finds any damage); ``"header"`` reads sizes and the ends of files
            (finds those cut short); ``False`` looks at no picture; ``True`` is full for up to 20,000 pictures in
            all, else header.
        splits: names of the splits to check; default: train and val, which must be there, and test if it is.
        progress: show a progress bar while pictures are read.

    Returns:
        ``Report``. It never raises because of what the folder contains; ``report.raise_if_errors()`` does.
    """
    if images not in (True, False, "full", "header"):
        raise UserError(f"images must be 'full', 'header', True or False, not {images!r}.")
    wanted = [str(s).removesuffix("2017") for s in splits] if splits is not None else list(SPLITS[:2])
    for name in wanted:
        if name not in SPLITS:
            raise UserError(f"there is no split {name!r}.{did_you_mean(name, SPLITS)} Known: {', '.join(SPLITS)}.")
    root, findings = Path(cocodir).expanduser(), Findings()
    if splits is None and annotation_file(root, "test").is_file():
        wanted.append("test")
    found = read_splits(root, wanted, findings)
    sizes = {split.name: split.image_sizes for split in found}
    if images:
        _check_pictures(found, sizes, images, progress, findings)
    layouts = guess_layouts(found, sizes)
    for split in found:
        report_boxes(split, sizes[split.name], layouts[split.name], findings)
        report_counts(split, findings)
    if found:
        report_categories(found, findings)
        report_classes(found, findings)
    return Report(cocodir, {split.name: _summary(split) for split in found}, findings.values())


def annotation_file(root, split):
    """The annotation file of one split, whether or not it is there."""
    file = Path(root) / "annotations" / f"instances_{split}2017.json"
    bare = file.with_name(f"image_info_{split}2017.json")  # a test split without boxes
    return bare if bare.is_file() and not file.is_file() else file


def read_splits(root, names, findings):
    """The ``Split`` objects of those splits that can be read; the others are findings."""
    root, found = Path(root), []
    if not root.is_dir():
        findings.add("layout", f"there is no folder {root}")
        return found
    if not (root / "annotations").is_dir():
        inner = [p.parent.name for p in sorted(root.glob("*/annotations")) if p.is_dir()]
        hint = f"; {root / inner[0]} has: check that" if len(inner) == 1 else ""
        findings.add("layout", f"{root} has no folder 'annotations'{hint}")
        return found
    for name in names:
        path, folder = annotation_file(root, name), root / f"{name}2017"
        if not path.is_file():
            near = did_you_mean(path.name, [p.name for p in (root / "annotations").glob("*.json")])
            findings.add("layout", f"there is no annotations/{path.name}.{near}")
            continue
        if not folder.is_dir():
            near = did_you_mean(folder.name, [p.name for p in root.iterdir() if p.is_dir()])
            findings.add("layout", f"there is no folder {folder.name}.{near}")
        json = read_json(path, f"annotations/{path.name}", findings, needs_annotations=name != "test")
        if json.document is not None:
            found.append(read_split(name, folder, json, findings))
    return found


def look(split, full, progress):
    """``(facts, folder)`` of one split's pictures."""
    folder = Folder(split.folder)
    return look_at_images(split, folder, full, progress), folder


def wants_full(images, splits):
    """Whether pictures are to be decoded, for an argument ``images`` of ``check_dataset``."""
    return images == "full" or (images is True and sum(len(split.image_ids) for split in splits) <= FULL_UP_TO)


def _check_pictures(found, sizes, images, progress, findings):
    full = wants_full(images, found)
    all_facts = []
    for split in found:
        facts, folder = look(split, full, progress)
        report_images(split, facts, folder, findings)
        all_facts.append(facts)
        sizes[split.name] = known_sizes(split, facts)
    report_same_pictures(found, same_pictures(found, all_facts), findings)


def _summary(split):
    return {"images": len(split.image_ids), "boxes": len(split.rows), "classes": len(count_classes(split))}
