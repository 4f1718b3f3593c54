"""``check_dataset``: everything that is wrong with a COCODIR, before it costs hours of training.

    report = dino_nb.check_dataset("cocodir")
    print(report)                    # in a notebook, `report` alone shows it
    report.raise_if_errors()         # what training and scoring do before they start
    fix_dataset("cocodir", "fixed")  # dino_nb.prepare.repair: a repaired copy

The faults are listed in ``faults.py``. Nothing that a data set contains makes the check itself fail.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from dino_nb.data.coco_file import CocoFile, Problem, annotation_file, parse_coco
from dino_nb.errors import UserError, did_you_mean, disk_errors
from dino_nb.prepare.check_boxes import guess_layouts, report_boxes
from dino_nb.prepare.check_classes import count_classes, report_categories, report_classes, report_names
from dino_nb.prepare.check_images import (
    Folder,
    known_sizes,
    look_at_images,
    report_images,
    report_repeated_names,
    report_same_images,
    same_images,
)
from dino_nb.prepare.findings import Findings, Report
from dino_nb.prepare.table import SPLITS

FULL_UP_TO = 20_000  # images of a set that images=True decodes; it takes some milliseconds each


@disk_errors()
def check_dataset(
    cocodir: Path | str, *, images: bool | str = True, splits: Sequence[str] | None = None, progress: bool = True
) -> Report:
    """Look for all known faults in a COCODIR.

    Args:
        cocodir: folder with ``{train,val[,test]}2017/`` and ``annotations/``.
        images: ``"full"`` decodes every image (finds any damage); ``"header"`` reads sizes and the ends of files
            (finds those cut short); ``False`` looks at no image; ``True`` is full for up to 20,000 images in all, else
            header.
        splits: names of the splits to check; default: train and val, which must be there, and test if it is.
        progress: show a progress bar while images are read.

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
        full, seen = wants_full(images, found), []
        for split in found:
            folder = Folder(split.folder)
            facts = look_at_images(split, folder, full, progress)
            report_images(split, facts, folder, findings)
            sizes[split.name] = known_sizes(split, facts)
            seen.append(facts)
        report_same_images(found, same_images(found, seen), findings)
    layouts = guess_layouts(found, sizes)
    for split in found:
        report_names(split, findings)
        report_repeated_names(split, findings)
        report_boxes(split, sizes[split.name], layouts[split.name], findings)
    if found:
        report_categories(found, findings)
        report_classes(found, findings)
    counts = {
        split.name: {"images": len(split.image_ids), "boxes": len(split.rows), "classes": len(count_classes(split))}
        for split in found
    }
    return Report(cocodir, counts, findings.values())


def read_splits(
    root: Path | str, names: Sequence[str], findings: Findings, report: Callable[[Problem], None] | None = None
) -> list[CocoFile]:
    """Those splits that can be read; what is wrong with the others, and with their records, is added to ``findings``.

    ``report`` is called instead with what the reader of the files complains of, if it is given.
    """
    root = Path(root)
    found: list[CocoFile] = []
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
        label = f"annotations/{path.name}"
        split = parse_coco(path, report or findings.report, label=label, split=name, needs_annotations=name != "test")
        if split.usable:
            found.append(split)
            usable = {"categories": split.categories, "images": split.image_ids, "annotations": split.rows}
            for section, records in usable.items():
                if not len(records) and (section, name) != ("annotations", "test"):
                    what = f"{name} has {len(split.document[section]):,} records of {section}, none usable"
                    findings.add(f"no-{section}", what, label)
    return found


def wants_full(images: bool | str, splits: Sequence[CocoFile]) -> bool:
    """Whether images are to be decoded, for an argument ``images`` of ``check_dataset``."""
    return images == "full" or (images is True and sum(len(split.image_ids) for split in splits) <= FULL_UP_TO)
