"""What a check found: ``Finding`` (one fault, counted, with examples) and ``Report`` (all of them, printable)."""

import html
import json
from dataclasses import dataclass, field

from dino_nb.errors import UserError, did_you_mean
from dino_nb.prepare.faults import FAULTS, LEVELS

MAX_EXAMPLES = 5


def printable(text, limit=120):
    """``text`` on one line, control characters and lone surrogates escaped, cut to ``limit`` characters.

    Names come from other people's files: they must neither move the terminal's cursor nor break ``print``.
    """
    text = str(text)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@dataclass(frozen=True)
class Example:
    """One place where a fault is: ``file`` relative to the data set, ``line`` from 1, ``id`` of the record."""

    text: str
    file: str | None = None
    line: int | None = None
    id: int | str | None = None

    def __str__(self):
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return f"{place}: {self.text}" if place else self.text


@dataclass
class Finding:
    """One kind of fault: ``name`` and ``level`` are those of ``check_faults.FAULTS``."""

    name: str
    count: int = 0
    examples: list = field(default_factory=list)

    level = property(lambda self: FAULTS[self.name].level)
    title = property(lambda self: FAULTS[self.name].title)
    consequence = property(lambda self: FAULTS[self.name].consequence)
    remedy = property(lambda self: FAULTS[self.name].remedy)

    def to_dict(self):
        keys = ("name", "level", "count", "title", "consequence", "remedy")
        return {k: getattr(self, k) for k in keys} | {"examples": [vars(e) for e in self.examples]}

    def __str__(self):
        more = self.count - len(self.examples)
        lines = [f"{self.level.upper():8}{self.name} ({self.count:,}): {self.title}"]
        lines += [f"        - {example}" for example in self.examples]
        lines += [f"        - ... and {more:,} more"] if self.examples and more > 0 else []
        return "\n".join([*lines, f"        so: {self.consequence}", f"        do: {self.remedy}"])


class Findings(dict):
    """Name -> ``Finding``, filled while checking."""

    def add(self, name, text, *, file=None, line=None, id=None):
        """Count one more ``name``; keep it as an example while there are few. ``line``: a number, or a function
        that gives it (called only for what is kept)."""
        if self.count(name):
            line = line() if callable(line) else line
            id = printable(id, 40) if isinstance(id, str) else id
            file = None if file is None else printable(file)
            self[name].examples.append(Example(printable(text, 300), file, line, id))

    def count(self, name, n=1):
        """Count ``n`` more ``name``. True while there is room for another example."""
        finding = self.setdefault(name, Finding(name))
        finding.count += n
        return len(finding.examples) < MAX_EXAMPLES


class Report:
    """The result of ``check_dataset``: prints as text, shows as HTML in a notebook.

    Attributes:
        root: the folder that was checked, as given.
        splits: name -> dict of ``images``, ``boxes``, ``classes`` (counts of what is usable).
        findings: ``Finding`` objects, errors first.
        errors, warnings, notes: those of one level.
    """

    def __init__(self, root, splits, findings):
        self.root, self.splits = str(root), splits
        self.findings = sorted(findings, key=lambda f: (LEVELS.index(f.level), list(FAULTS).index(f.name)))

    errors = property(lambda self: [f for f in self.findings if f.level == "error"])
    warnings = property(lambda self: [f for f in self.findings if f.level == "warning"])
    notes = property(lambda self: [f for f in self.findings if f.level == "note"])
    ok = property(lambda self: not self.errors, doc="True without errors: the set can be trained and scored on.")

    def __contains__(self, name):
        return any(f.name == name for f in self.findings)

    def __getitem__(self, name):
        for finding in self.findings:
            if finding.name == name:
                return finding
        names = [f.name for f in self.findings]
        raise KeyError(f"the check found no {name!r}.{did_you_mean(name, names)} It found: {', '.join(names)}.")

    def raise_if_errors(self):
        """Raise ``UserError`` with the errors of this report, if there are any; else return the report."""
        if self.errors:
            lines = "\n".join(map(str, self.errors))
            raise UserError(
                f"{printable(self.root, 300)} has {_count(len(self.errors), 'error')}; nothing was started.\n{lines}\n"
                "dino-nb check COCODIR shows the whole report, --fix OUT writes a repaired copy, --no-check goes on."
            )
        return self

    def to_dict(self):
        """The report as plain dicts, lists, strings and numbers."""
        return {
            "root": self.root,
            "ok": self.ok,
            "splits": self.splits,
            "findings": [f.to_dict() for f in self.findings],
        }

    def to_json(self):
        """The report as a JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def _verdict(self):
        if not self.findings:
            return "Nothing to complain of."
        levels = zip(("error", "warning", "note"), (self.errors, self.warnings, self.notes))
        return ", ".join(_count(len(found), level) for level, found in levels if found) + "."

    def _split_lines(self):
        return [
            f"{name}: {_count(s['images'], 'picture')}, {_count(s['boxes'], 'box', 'boxes')}, "
            f"{_count(s['classes'], 'class', 'classes')}"
            for name, s in self.splits.items()
        ]

    def __str__(self):
        head = "\n".join([printable(self.root, 300), *(f"  {line}" for line in self._split_lines()), self._verdict()])
        return "\n\n".join([head, *map(str, self.findings)])

    __repr__ = __str__

    def _repr_html_(self):
        colours = {"error": "#c0392b", "warning": "#b9770e", "note": "#2471a3"}
        rows = []
        for f in self.findings:
            examples = "".join(f"<li><code>{html.escape(str(e))}</code></li>" for e in f.examples)
            more = f.count - len(f.examples)
            examples += f"<li>… and {more:,} more</li>" if f.examples and more > 0 else ""
            rows.append(
                f'<tr style="vertical-align:top"><td style="color:{colours[f.level]};font-weight:bold">{f.level}</td>'
                f'<td style="text-align:right">{f.count:,}</td><td style="text-align:left"><details><summary>'
                f"<b>{f.name}</b> {html.escape(f.title)}</summary><ul>{examples}</ul></details></td>"
                f'<td style="text-align:left">{html.escape(f.consequence)}</td>'
                f'<td style="text-align:left">{html.escape(f.remedy)}</td></tr>'
            )
        head = "".join(f"<th style='text-align:left'>{h}</th>" for h in ("", "count", "found", "consequence", "remedy"))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
        lines = "<br>".join(map(html.escape, [*self._split_lines(), self._verdict()]))
        return f"<div><b><code>{html.escape(printable(self.root, 300))}</code></b><br>{lines}{table}</div>"


def _count(n, one, many=None):
    return f"{n:,} {one if n == 1 else many or one + 's'}"
