"""What a repair did: ``Change``, ``Log``; and ids for what has none."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dino_nb.data.coco_file import HARMLESS, CocoFile, Problem


@dataclass(frozen=True)
class Change:
    """One repair: the ``fault`` it answers, the annotation ``file``, and what was done to which record."""

    fault: str
    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text} [{self.fault}]"


class Log(list[Change]):
    """``Change`` objects, in order; and ``problems``, what the reader of the files said of the records it left out:
    ``(file, list, row)`` -> `Problem`."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: dict[tuple[str, str, int | None], Problem] = {}

    def note(self, fault: str, split: CocoFile, text: str) -> None:
        """One more change, of a record of ``split``."""
        self.append(Change(fault, split.label, text))

    def hear(self, problem: Problem) -> None:
        """Keep what the reader says of records that it does not use."""
        if problem.kind not in HARMLESS and problem.kind != "id-mismatch":
            self.problems[problem.file.label, problem.section, problem.row] = problem

    def leave_out(self, split: CocoFile, section: str, row: int, otherwise: str) -> None:
        """Note that a record is left out, for the reason that the reader gave."""
        problem = self.problems.get((split.label, section, row))
        if problem is None:
            problem = Problem(otherwise, "its image or class is left out", split, section, row)
        self.note(problem.kind, split, f"{problem.who} is left out: {problem.text}")


def free_ids(taken: Iterable[object]) -> Iterator[int]:
    """Endless integers from 1 that are not in ``taken``."""
    used = set(taken)
    return (number for number in itertools.count(1) if number not in used)
