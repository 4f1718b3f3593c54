"""What a check found: ``Finding`` (one fault, counted, with examples), ``Report`` (all of them, printable); and what a
repair changed."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dino_nb.data.coco_file import CocoFile, Problem
from dino_nb.errors import UserError, did_you_mean, printable
from dino_nb.prepare.faults import FAULTS, LEVELS
from dino_nb.printer import Block, Folded, Lines, Printed, counted, examples, to_text

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Example:
    """One place where a fault is: ``file`` relative to the data set, ``line`` from 1, ``id`` of the record."""

    text: str
    file: str | None = None
    line: int | None = None
    id: int | str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return f"{place}: {self.text}" if place else self.text


@dataclass(repr=False)
class Finding(Printed):
    """One kind of fault: ``name`` is its key in ``faults.FAULTS``, whose texts come next; ``count`` places have it."""

    name: str
    level: str
    title: str
    consequence: str
    remedy: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def blocks(self) -> list[Block]:
        """The finding for the printer."""
        lines = [*examples(self.examples, self.count), f"so: {self.consequence}", f"do: {self.remedy}"]
        return [Folded(f"{self.level.upper():8}{self.name} ({self.count:,}): {self.title}", lines, self.level)]


class Findings(dict[str, Finding]):
    """Name -> ``Finding``, filled while checking."""

    def add(
        self,
        name: str,
        text: object,
        file: str | None = None,
        id: int | str | None = None,
        line: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Count one more ``name``; keep it as an example while there are few (only then is ``line`` called)."""
        finding = self.setdefault(name, Finding(name, *FAULTS[name]))
        finding.count += 1
        if len(finding.examples) < MAX_EXAMPLES:
            id = printable(id, 40) if isinstance(id, str) else id
            file = None if file is None else printable(file)
            finding.examples.append(Example(printable(text, 300), file, line(), id))

    def report(self, problem: Problem) -> None:
        """Add what the reader of COCO files, or a check of one record, complains of."""
        name = "box-malformed" if problem.kind == "box-derived" else problem.kind
        self.add(name, problem, problem.file.label, problem.id, problem.line)

    def image(self, coco: CocoFile, fault: str, i: int, text: str) -> None:
        """Add something about image ``i`` of a split."""
        self.report(Problem(fault, text, coco, "images", coco.image_rows[i]))

    def boxes(self, coco: CocoFile, fault: str, mask: np.ndarray, describe: Callable[[int], str]) -> None:
        """Add something about the boxes of ``mask (boxes,)``; ``describe(i)`` says what is wrong with box ``i``."""
        shown = MAX_EXAMPLES - (len(self[fault].examples) if fault in self else 0)
        at, names = np.flatnonzero(mask).tolist(), list(coco.categories.values())
        for i in at[:shown]:
            place = f"{coco.image_names[coco.image[i]]}, class {names[coco.category[i]]!r}, "
            self.report(Problem(fault, place + describe(i), coco, "annotations", int(coco.rows[i])))
        if at[shown:]:
            self[fault].count += len(at) - shown


@dataclass(frozen=True)
class Change:
    """One repair: the ``fault`` it answers, the annotation ``file``, and what was done to which record."""

    fault: str
    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text} [{self.fault}]"


class Log(list[Change]):
    """What a repair changed, in order."""

    def note(self, fault: str, split: CocoFile, text: str) -> None:
        """One more change, of a record of ``split``."""
        self.append(Change(fault, split.label, text))


class Report(Printed):
    """The result of ``check_dataset``: prints as text, shows as HTML in a notebook.

    Attributes:
        root: the folder that was checked, as given.
        splits: name -> dict of ``images``, ``boxes``, ``classes`` (counts of what is usable).
        findings: ``Finding`` objects, errors first; ``errors``, ``warnings``, ``notes``: those of one level.
        ok: True without errors: the set can be trained and scored on.
    """

    def __init__(self, root: object, splits: dict[str, dict[str, int]], findings: Iterable[Finding]) -> None:
        self.root, self.splits = str(root), splits
        order = list(FAULTS)
        self.findings = sorted(findings, key=lambda f: order.index(f.name))

    errors = property(lambda self: self._of("error"))
    warnings = property(lambda self: self._of("warning"))
    notes = property(lambda self: self._of("note"))
    ok = property(lambda self: not self.errors)

    def __contains__(self, name: str) -> bool:
        return any(f.name == name for f in self.findings)

    def __getitem__(self, name: str) -> Finding:
        found = {f.name: f for f in self.findings}
        if name not in found:
            raise KeyError(f"the check found no {name!r}.{did_you_mean(name, found)} It found: {', '.join(found)}.")
        return found[name]

    def raise_if_errors(self) -> "Report":
        """Raise ``UserError`` with the errors of this report, if there are any; else return the report."""
        if self.errors:
            raise UserError(
                f"{printable(self.root, 300)} has {counted(len(self.errors), 'error')}; nothing was started.\n"
                f"{to_text([block for finding in self.errors for block in finding.blocks()])}\n"
                "dino-nb check COCODIR shows the whole report, --fix OUT writes a repaired copy, --no-check goes on."
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        findings = [asdict(finding) for finding in self.findings]
        return {"root": self.root, "ok": self.ok, "splits": self.splits, "findings": findings}

    def to_json(self) -> str:
        """The report as a JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def blocks(self) -> list[Block]:
        """The report for the printer."""
        levels = [counted(len(found), level) for level in LEVELS if (found := self._of(level))]
        head = [self.root, ", ".join(levels) + "." if levels else "Nothing to complain about."]
        for name, s in self.splits.items():
            boxes, classes = counted(s["boxes"], "box", "boxes"), counted(s["classes"], "class", "classes")
            head.insert(-1, f"  {name}: {counted(s['images'], 'image')}, {boxes}, {classes}")
        return [Lines(head), *(block for finding in self.findings for block in finding.blocks())]

    def _of(self, level: str) -> list[Finding]:
        return [f for f in self.findings if f.level == level]
