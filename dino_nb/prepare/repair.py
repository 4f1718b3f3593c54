"""``fix_dataset``: a repaired copy of a COCODIR, with a log of every change. The original is never touched."""

import html
import json
from dataclasses import dataclass, field
from pathlib import Path

from dino_nb.errors import UserError
from dino_nb.files import write_text
from dino_nb.prepare.check import SPLITS, annotation_file, check_dataset, look, read_splits, wants_full
from dino_nb.prepare.check_boxes import guess_layouts
from dino_nb.prepare.check_images import known_sizes, same_pictures
from dino_nb.prepare.findings import Findings, Report, printable
from dino_nb.prepare.folders import new_folder, place_file
from dino_nb.prepare.repair_boxes import repair_annotations
from dino_nb.prepare.repair_categories import repair_categories
from dino_nb.prepare.repair_images import repair_images
from dino_nb.prepare.repair_log import Log

LOG = "fix_log.txt"
_UNREADABLE = ("layout", "json-syntax", "json-not-json", "json-nesting", "json-huge", "json-structure")


@dataclass
class Fixed:
    """The result of ``fix_dataset``: ``out`` the new folder, ``changes`` what was done, ``report`` the check of it."""

    out: Path
    report: Report
    changes: list = field(default_factory=list)

    def __str__(self):
        shown = [f"  {printable(c, 300)}" for c in self.changes[:20]]
        more = len(self.changes) - len(shown)
        shown += [f"  ... and {more:,} more in {self.out / LOG}"] if more else []
        head = f"{len(self.changes):,} changes, listed in {self.out / LOG}:" if shown else "Nothing had to be changed."
        return "\n".join([head, *shown, "", "The copy:", str(self.report)])

    __repr__ = __str__

    def to_json(self):
        """Folder, changes and the report of the copy as a JSON text."""
        changes = [vars(c) for c in self.changes]
        return json.dumps({"out": str(self.out), "changes": changes, "report": self.report.to_dict()}, indent=2)

    def _repr_html_(self):
        rows = "".join(f"<li><code>{html.escape(printable(c, 300))}</code></li>" for c in self.changes[:100])
        more = f"<li>… all of them in {html.escape(str(self.out / LOG))}</li>" if len(self.changes) > 100 else ""
        title = f"<summary>{len(self.changes):,} changes</summary>"
        return f"<details>{title}<ul>{rows}{more}</ul></details>{self.report._repr_html_()}"


def fix_dataset(cocodir, out, *, images=True, progress=True):
    """Write a repaired copy of ``cocodir`` to the new folder ``out``, then check the copy.

    Pictures are hard-linked where the file system can, else copied. What cannot be repaired is left out (a picture
    whose file is missing, a box without area, ...); nothing is invented. ``out/fix_log.txt`` lists every change.

    Args:
        cocodir, images, progress: as of ``check_dataset``; all splits that are there are repaired.
        out: a folder that does not exist or is empty. It appears only when it is complete.

    Returns:
        ``Fixed``. Raises ``UserError`` if ``out`` is in the way, or if a person must decide or correct first.
    """
    root, out = Path(cocodir).expanduser(), Path(out).expanduser()
    _refuse_bad_out(root, out)
    splits = _readable_splits(root)
    log = Log()
    contents = _repair(splits, images, progress, log)
    with new_folder(out) as temporary:
        _write(root, temporary, splits, contents, log)
    names = {split.name for split in splits} | set(SPLITS[:2])
    report = check_dataset(out, images=images, splits=[s for s in SPLITS if s in names], progress=progress)
    return Fixed(out, report, list(log))


def _refuse_bad_out(root, out):
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; the repaired copy needs a new folder.")
    here, there = root.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UserError(f"the repaired copy must not be in, or around, the data set itself: choose another than {out}.")


def _readable_splits(root):
    """The splits to repair. What only a person can put right is an error."""
    findings = Findings()
    names = [name for name in SPLITS if annotation_file(root, name).is_file()]
    splits = read_splits(root, names or SPLITS[:2], findings)
    broken = [findings[name] for name in _UNREADABLE if name in findings]
    if broken or not splits:
        text = "\n".join(map(str, broken or findings.values()))
        raise UserError(f"{root} cannot be repaired before this is put right by hand:\n{text}")
    for split in splits:
        names = {}
        for record in split.json.document["categories"]:
            if isinstance(record, dict) and isinstance(record.get("id"), (int, str)):
                names.setdefault(record["id"], set()).add(str(record.get("name")))
        for key, several in names.items():
            if len(several) > 1:
                raise UserError(
                    f"{split.json.label}: category {printable(key)} is {printable(' and '.join(sorted(several)))}; "
                    "which of them its boxes show must be decided by hand."
                )
    return splits


def _repair(splits, images, progress, log):
    """Split name -> the repaired document; ``log`` is filled."""
    full = wants_full(images, splits)
    seen = [look(split, full, progress) for split in splits]
    leave_out = [{} for _ in splits]
    for group in same_pictures(splits, [facts for facts, _ in seen]):
        last, i = group[-1]
        for s, j in group:
            if (
                s != last
            ):  # the later split keeps the picture: better one less to learn from than one less to measure on
                leave_out[s][j] = f"{splits[last].folder.name} has the same picture, {splits[last].image_names[i]!r}"
    categories, maps = repair_categories(splits, log)
    layouts = guess_layouts(splits, {split.name: known_sizes(split, facts) for split, (facts, _) in zip(splits, seen)})
    contents = {}
    for split, (facts, folder), without in zip(splits, seen, leave_out):
        records, places = repair_images(split, facts, layouts[split.name], folder, full, without, log)
        boxes = repair_annotations(split, facts, layouts[split.name], places, maps[split.name], log)
        other = {k: v for k, v in split.json.document.items() if k not in ("images", "annotations", "categories")}
        contents[split.name] = other | {"images": records, "annotations": boxes, "categories": categories}
    return contents


def _write(root, out, splits, contents, log):
    for split in splits:
        document = contents[split.name]
        try:
            text = json.dumps(document)
        except (RecursionError, ValueError) as error:
            raise UserError(f"{split.json.label} cannot be written again: {error}.") from error
        write_text(out / "annotations" / split.json.path.name, text)
        (out / split.folder.name).mkdir()
        for record in document["images"]:
            name = record["file_name"].replace("\\", "/")
            picture = out / split.folder.name / name
            picture.parent.mkdir(parents=True, exist_ok=True)
            place_file(split.folder / name, picture)
    ours = {split.json.path.name for split in splits}
    for file in [*root.glob("*"), *root.glob("annotations/*")]:  # class maps, licences, keypoints: they come along
        if file.is_file() and not file.name.startswith(".") and file.name not in {*ours, LOG}:
            place_file(file, out / file.relative_to(root))
    write_text(out / LOG, "".join(f"{printable(change, 2000)}\n" for change in log))
