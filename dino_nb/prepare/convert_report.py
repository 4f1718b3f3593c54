"""What a conversion did, to be printed or shown in a notebook."""

import html
from dataclasses import dataclass, field

from dino_nb.prepare.findings import printable

_CLASSES_SHOWN = 100


@dataclass(repr=False)
class ConvertReport:
    """The result of `dino_nb.prepare.convert.convert_dataset`.

    Attributes:
        source, cocodir: as given; ``format``: what was read (``voc``, ``coco``, ...).
        splits: ``{"train": {"pictures": n, "boxes": n, "empty": n}, ...}``; empty pictures have no boxes.
        classes: ``{name: {"train": boxes, ...}}`` in the order of their ids, 1 and up.
        dropped: ``{reason: [count, first examples]}`` of boxes left out, each example with its file.
        changed: the same for what was altered; ``notes``: sentences on how the source was understood.
        own_split: whether train and val were divided here.
    """

    source: str
    cocodir: str
    format: str
    splits: dict = field(default_factory=dict)
    classes: dict = field(default_factory=dict)
    dropped: dict = field(default_factory=dict)
    changed: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    own_split: bool = False

    @property
    def num_dropped(self):
        """Boxes that were left out."""
        return sum(count for count, _ in self.dropped.values())

    def to_dict(self):
        """All of it as JSON can hold it."""
        return vars(self) | {"num_dropped": self.num_dropped}

    def __str__(self):
        how = "divided here" if self.own_split else "as given"
        lines = [f"{printable(self.source, 300)} ({self.format}) -> {printable(self.cocodir, 300)}, splits {how}"]
        lines += [f"  {name:5} {self._split(name)}" for name in self.splits]
        lines.append(f"  {len(self.classes)} classes, boxes in {' / '.join(self.splits)}:")
        width = min(max((len(printable(name)) for name in self.classes), default=0), 40)
        for i, (name, counts) in enumerate(list(self.classes.items())[:_CLASSES_SHOWN], 1):
            numbers = " / ".join(f"{counts[split]:,}" for split in self.splits)
            lines.append(f"    {i:3} {printable(name):{width}}  {numbers}")
        if len(self.classes) > _CLASSES_SHOWN:
            lines.append(f"    ... and {len(self.classes) - _CLASSES_SHOWN} more")
        if self.dropped:
            lines.append(f"  {self.num_dropped:,} degenerate boxes left out:")
        for what, tally in self.dropped.items():
            lines += _tally(f"box {what}", tally)
        for what, tally in self.changed.items():
            lines += _tally(what, tally)
        for note in self.notes:
            first, *more = (printable(line, 1000) for line in note.splitlines())
            lines += [f"  note: {first}", *(f"  {line}" for line in more)]
        return "\n".join(lines)

    __repr__ = __str__

    def _split(self, name):
        counts = self.splits[name]
        empty = f", {counts['empty']:,} of them without objects" if counts["empty"] else ""
        return f"{counts['pictures']:6,} pictures{empty}, {counts['boxes']:,} boxes"

    def _repr_html_(self):
        head = "".join(f"<th>{html.escape(split)}</th>" for split in self.splits)
        rows = "".join(
            f"<tr><td>{i}</td><td style='text-align:left'>{html.escape(printable(name))}</td>"
            + "".join(f"<td>{counts[split]:,}</td>" for split in self.splits)
            + "</tr>"
            for i, (name, counts) in enumerate(list(self.classes.items())[:_CLASSES_SHOWN], 1)
        )
        table = f"<table><tr><th>id</th><th>class</th>{head}</tr>{rows}</table>"
        text = str(self).splitlines()
        before = next(i for i, line in enumerate(text) if line.startswith(f"  {len(self.classes)} classes"))
        after = before + 1 + min(len(self.classes), _CLASSES_SHOWN)
        parts = ["\n".join(text[: before + 1]), "\n".join(text[after:])]
        return f"<pre>{html.escape(parts[0])}</pre>{table}<pre>{html.escape(parts[1])}</pre>"


def _tally(what, tally):
    count, examples = tally
    lines = [f"  {count:,} x {what}", *(f"    - {printable(example, 300)}" for example in examples)]
    return [*lines, f"    - ... and {count - len(examples):,} more"] if count > len(examples) else lines
