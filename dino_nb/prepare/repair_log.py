"""What a repair did: ``Change``, ``Log``; and ids for what has none."""

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One repair: the ``fault`` it answers, the annotation ``file``, and what was done to which record."""

    fault: str
    file: str
    text: str

    def __str__(self):
        return f"{self.file}: {self.text} [{self.fault}]"


class Log(list):
    """``Change`` objects, in order."""

    def note(self, fault, split, text):
        """One more change, of a record of ``split``."""
        self.append(Change(fault, split.json.label, text))


def free_ids(taken):
    """Endless integers from 1 that are not in ``taken``."""
    taken = set(taken)
    return (number for number in itertools.count(1) if number not in taken)
