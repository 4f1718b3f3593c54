"""What a conversion did, to be printed or shown in a notebook."""

from dataclasses import dataclass, field
from typing import Any

from dino_nb.errors import printable
from dino_nb.printer import Block, Lines, Printed, Table, counted, examples


@dataclass(repr=False)
class ConvertReport(Printed):
    """The result of `dino_nb.prepare.convert.convert_dataset`.

    Attributes:
        source, cocodir: as given; ``format``: what was read (``voc``, ``coco``, ...).
        splits: ``{"train": {"images": n, "boxes": n, "empty": n}, ...}``; empty images have no boxes.
        classes: ``{name: {"train": boxes, ...}}`` in the order of their ids, 1 and up.
        dropped: ``{reason: [count, first examples]}`` of boxes left out, each example with its file.
        changed: the same for what was altered; ``notes``: sentences on how the source was understood.
        own_split: whether train and val were divided here.
    """

    source: str
    cocodir: str
    format: str
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, list] = field(default_factory=dict)
    changed: dict[str, list] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    own_split: bool = False

    @property
    def num_dropped(self) -> int:
        """Boxes that were left out."""
        return sum(count for count, _ in self.dropped.values())

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return vars(self) | {"num_dropped": self.num_dropped}

    def blocks(self) -> list[Block]:
        """The report's blocks."""
        how = "divided here" if self.own_split else "as given"
        head = f"{printable(self.source, 300)} ({self.format}) -> {printable(self.cocodir, 300)}, splits {how}"
        rows = [[i, name, *counts.values()] for i, (name, counts) in enumerate(self.classes.items(), 1)]
        splits = [[name, counts["images"], counts["boxes"], counts["empty"]] for name, counts in self.splits.items()]
        more: list[str] = [f"{counted(self.num_dropped, 'degenerate box', 'degenerate boxes')} left out:"]
        more = more if self.dropped else []
        for word, tally in (("box ", self.dropped), ("", self.changed)):
            for what, (count, shown) in tally.items():
                more += [f"{count:,} x {word}{what}", *(f"  {line}" for line in examples(shown, count))]
        for note in self.notes:
            first, *others = note.splitlines() or [""]
            more += [f"note: {first}", *others]
        return [
            Lines([head]),
            Table(["split", "images", "boxes", "without objects"], splits),
            Table(["id", "class", *self.splits], rows),
            Lines(more),
        ]
