"""Errors whose text is meant for the person at the keyboard, and the one place that makes texts safe to show."""

import contextlib
import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator

_MAX_LINE, _MAX_LINES = 3000, 400
_KEYWORDS = {"fix": "fix_dataset", "no_check": "check=False"}  # what a flag is called in Python, if not as the flag
_KEYWORDS |= {name: f"{name}=True" for name in ("overwrite", "skip_bad", "resplit", "scale_boxes")}


class UserError(ValueError):
    """Something that the user can put right: the message says what is wrong, where, and what to do.

    The command line prints the message alone (no traceback) and exits with 1; a notebook shows the message alone.
    Control characters in the message are escaped, and its length is bounded.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(clean(_without_worker(str(message), type(self))))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the sentence, in the words of a notebook.

        A flag becomes the form field of that name, if the notebook has one, else the Python keyword.
        """
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        fields = getattr(shell, "user_ns", {})

        def in_notebook(flag: re.Match) -> str:
            name = flag[1].replace("-", "_")
            return name.upper() if name.upper() in fields else _KEYWORDS.get(name, f"{name}=")

        return ["Error: " + re.sub(r"(?<![\w-])--([a-z][\w-]*)", in_notebook, str(self))]


def printable(text: object, limit: int = 120) -> str:
    """``text`` on one line, control characters and lone surrogates escaped, cut to ``limit`` characters.

    Names come from other people's files: they must neither move the terminal's cursor nor break ``print``.
    """
    text = str(text)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def clean(text: str) -> str:
    """A message of several lines, each made :func:`printable`; very long ones are cut."""
    lines = text.split("\n")
    more = len(lines) - _MAX_LINES
    lines = [printable(line.replace("\t", "    "), _MAX_LINE) for line in lines[:_MAX_LINES]]
    return "\n".join([*lines, f"... and {more:,} more lines"] if more > 0 else lines)


def did_you_mean(word: object, choices: Iterable[object], n: int = 1) -> str:
    """``" Did you mean 'x'?"`` for a near-miss of ``word`` among ``choices``, else an empty string.

    Of equally near choices, the one that begins most like ``word`` comes first.
    """
    word = str(word).lower()[:200]
    by_lower = {str(c).lower(): printable(c) for c in choices}
    near = difflib.get_close_matches(word, list(by_lower), n=n + 8, cutoff=0.6)
    score = {m: difflib.SequenceMatcher(None, m, word).ratio() for m in near}
    near.sort(key=lambda m: (-score[m], -next((i for i, (a, b) in enumerate(zip(m, word)) if a != b), len(m))))
    return f" Did you mean {' or '.join(repr(by_lower[m]) for m in near[:n])}?" if near else ""


_REASONS = {
    errno.ENOENT: "there is no file or folder {}",
    errno.EACCES: "{} may not be read or written: its permissions forbid it",
    errno.EPERM: "{} may not be read or written: its permissions forbid it",
    errno.EROFS: "{} cannot be written: its disk is read-only. Name a folder on another disk",
    errno.ENOSPC: "{} cannot be written: its disk is full. Free some space, or name a folder on another disk",
    errno.EDQUOT: "{} cannot be written: your disk quota is used up. Free some space, or name another folder",
    errno.EFBIG: "{} cannot be written: its disk does not take files of this size",
    errno.ENAMETOOLONG: "{} has a longer name than its disk allows: shorten it",
    errno.EEXIST: "{} exists already",
    errno.ENOTDIR: "{} cannot be reached: a part of its path is a file, not a folder",
    errno.EISDIR: "{} is a folder, not a file",
    errno.ENOTEMPTY: "the folder {} is not empty",
    errno.ELOOP: "{} is a link that leads around in a circle",
    errno.EMFILE: "{} cannot be opened: this program has too many files open (ulimit -n raises the limit)",
    errno.EIO: "{} cannot be read or written: its disk reports an error",
    errno.ENOTCONN: "{} cannot be reached: its disk is no longer connected (on Colab: mount Drive again)",
    errno.EBUSY: "{} is in use by another program",
}


def explain(error: OSError) -> str:
    """An ``OSError`` as a sentence that names the file and says what to do."""
    names = [printable(os.fsdecode(n), 300) for n in (error.filename, error.filename2) if isinstance(n, (str, bytes))]
    place, reason = names[-1] if names else "a file", _REASONS.get(error.errno or 0)
    why = printable(error.strerror or error, 300) or type(error).__name__
    return f"{reason.format(place) if reason else f'{place} cannot be read or written: {why}'}."


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Context or decorator: an ``OSError`` inside becomes a ``UserError`` with :func:`explain`'s sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(explain(error)) from error


def _without_worker(text: str, kind: type) -> str:
    """The sentence alone: a ``DataLoader`` raises a worker's exception again, its traceback as the text."""
    mark = f"\n{kind.__module__}.{kind.__qualname__}: "
    return text.rpartition(mark)[2].rstrip() if text.startswith("Caught ") and mark in text else text
