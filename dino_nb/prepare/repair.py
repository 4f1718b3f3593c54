"""``fix_dataset``: a repaired copy of a COCODIR, with a log of every change. The original is never touched."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dino_nb.data.coco_file import HARMLESS, CocoFile, Problem, annotation_file
from dino_nb.data.coco_values import brief, id_of
from dino_nb.errors import UserError, disk_errors, printable
from dino_nb.files import links_out, write_text
from dino_nb.prepare.check import check_dataset, read_splits, wants_full
from dino_nb.prepare.check_boxes import guess_layouts
from dino_nb.prepare.check_images import Folder, known_sizes, look_at_images, same_images
from dino_nb.prepare.findings import Change, Findings, Log, Report
from dino_nb.prepare.folders import new_folder, place_file
from dino_nb.prepare.repair_categories import repair_categories
from dino_nb.prepare.repair_split import repair_boxes, repair_images
from dino_nb.prepare.table import SPLITS
from dino_nb.printer import Block, Folded, Lines, Printed, counted

LOG = "fix_log.txt"
_SHOWN = 20
_UNREADABLE = ("layout", "json-syntax", "json-not-json", "json-nesting", "json-huge", "json-structure")


@dataclass(repr=False)
class Fixed(Printed):
    """The result of ``fix_dataset``: ``out`` the new folder, ``changes`` what was done, ``report`` the check of it."""

    out: Path
    report: Report
    changes: list[Change] = field(default_factory=list)

    def to_json(self) -> str:
        """Folder, changes and the report of the copy as a JSON text."""
        changes = [vars(c) for c in self.changes]
        return json.dumps({"out": str(self.out), "changes": changes, "report": self.report.to_dict()}, indent=2)

    def blocks(self) -> list[Block]:
        """The result for the printer."""
        after: list[Block] = [Lines(["The copy:"]), *self.report.blocks()]
        if not self.changes:
            return [Lines(["Nothing needed a change."]), *after]
        more = len(self.changes) - _SHOWN
        lines = [*self.changes[:_SHOWN], *([f"... and {more:,} more"] if more > 0 else [])]
        return [Folded(f"{counted(len(self.changes), 'change')}, listed in {self.out / LOG}:", lines), *after]


@disk_errors()
def fix_dataset(cocodir: Path | str, out: Path | str, *, images: bool | str = True, progress: bool = True) -> Fixed:
    """Write a repaired copy of ``cocodir`` to the new folder ``out``, then check the copy.

    What cannot be repaired is left out (an image whose file is missing, a box without area, ...); nothing is
    invented. ``out/fix_log.txt`` lists every change.

    Args:
        cocodir, images, progress: as of ``check_dataset``; all splits that are there are repaired.
        out: a folder that does not exist or is empty. It appears only when it is complete.

    Returns:
        ``Fixed``. Raises ``UserError`` if ``out`` is in the way, or if a person must decide or correct first.
    """
    root, out = Path(cocodir).expanduser(), Path(out).expanduser()
    _refuse_bad_out(root, out)
    log = Log()
    splits = _readable_splits(root, log)
    contents = _repair(splits, images, progress, log)
    with new_folder(out) as temporary:
        _write(root, temporary, splits, contents, log)
    names = {split.name for split in splits} | set(SPLITS[:2])
    report = check_dataset(out, images=images, splits=[s for s in SPLITS if s in names], progress=progress)
    return Fixed(out, report, list(log))


def _refuse_bad_out(root: Path, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; the repaired copy needs a new folder.")
    here, there = root.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UserError(f"the repaired copy must not be in, or around, the data set itself: choose another than {out}.")


def _readable_splits(root: Path, log: Log) -> list[CocoFile]:
    """The splits to repair. Unusable records are logged as left out; what only a person can put right is an error."""
    findings = Findings()
    left_out: dict[tuple[str, str, int | None], Problem] = {}

    def report(problem: Problem) -> None:
        findings.report(problem)
        if problem.section in ("images", "annotations") and problem.kind not in {*HARMLESS, "id-mismatch"}:
            left_out[problem.file.label, problem.section, problem.row] = problem

    names = [name for name in SPLITS if annotation_file(root, name).is_file()]
    splits = read_splits(root, names or SPLITS[:2], findings, report)
    broken = [findings[name] for name in _UNREADABLE if name in findings]
    if broken or not splits:
        text = "\n".join(map(str, broken or findings.values()))
        raise UserError(f"{root} cannot be repaired before this is put right by hand:\n{text}")
    for split in splits:
        spelled: dict[Any, set[str]] = defaultdict(set)
        for _, record in split.records("categories"):
            spelled[id_of(record.get("id"))[0]].add(str(record.get("name")))
        for key, several in spelled.items():
            if key is not None and len(several) > 1:
                both = printable(" and ".join(sorted(several)), 300)
                raise UserError(
                    f"{split.label}: category {brief(key)} is {both}; which of them its boxes show must be decided by "
                    "hand."
                )
    for problem in left_out.values():
        log.note(problem.kind, problem.file, f"{problem.who} is left out: {problem.text}")
    return splits


def _repair(splits: Sequence[CocoFile], images: bool | str, progress: bool, log: Log) -> dict[str, dict[str, Any]]:
    """Split name -> the repaired document; ``log`` is filled."""
    full, seen = wants_full(images, splits), []
    for split in splits:
        folder = Folder(split.folder)
        facts = look_at_images(split, folder, full, progress)
        for i, fact in enumerate(facts):
            if fact.fault and fact.found:
                text = f"image {brief(split.image_ids[i])}: file_name {split.image_names[i]!r} is now {fact.found!r}"
                log.note(fact.fault, split, text)
                split.image_names[i], facts[i] = fact.found, folder.look_at(fact.found, full)
        seen.append(facts)
    leave_out: list[dict[int, str]] = [{} for _ in splits]
    for group in same_images(splits, seen):
        last, i = group[-1]
        for s, j in group:
            if s != last:  # the later split keeps it: better one less to learn from than one less to measure on
                leave_out[s][j] = f"{splits[last].folder.name} has the same image, {splits[last].image_names[i]!r}"
    categories, ids = repair_categories(splits, log)
    layouts = guess_layouts(splits, {split.name: known_sizes(split, facts) for split, facts in zip(splits, seen)})
    contents = {}
    for split, facts, without in zip(splits, seen, leave_out):
        layout = layouts[split.name]
        records, places = repair_images(split, facts, layout, without, log)
        boxes = repair_boxes(split, facts, layout, places, ids[split.name], log)
        contents[split.name] = split.document | {"images": records, "annotations": boxes, "categories": categories}
    return contents


def _write(root: Path, out: Path, splits: Sequence[CocoFile], contents: dict[str, dict[str, Any]], log: Log) -> None:
    for split in splits:
        document = contents[split.name]
        try:
            text = json.dumps(document)
        except (RecursionError, ValueError) as error:
            raise UserError(f"{split.label} cannot be written again: {error}.") from error
        write_text(out / "annotations" / split.path.name, text)
        (out / split.folder.name).mkdir()
        for record in document["images"]:
            image = out / split.folder.name / record["file_name"]
            image.parent.mkdir(parents=True, exist_ok=True)
            place_file(split.folder / record["file_name"], image)
    ours = {split.path.name for split in splits}
    for file in [*root.glob("*"), *root.glob("annotations/*")]:  # class maps, licences, keypoints: they come along
        if not file.is_file() or file.name.startswith(".") or file.name in {*ours, LOG}:
            continue
        name = file.relative_to(root)
        if links_out(file, root):
            log.append(Change("link", str(name), "is left out: it is a link to a file outside of the data set"))
        else:
            place_file(file, out / name)
    write_text(out / LOG, "".join(f"{printable(change, 2000)}\n" for change in log))
