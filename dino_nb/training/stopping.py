"""Ending a run with everything saved: by a signal, or because its time is over."""

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopNow(Exception):
    """A stop was asked for where nothing needs to be finished first."""


class StopRequest:
    """A context in which SIGINT and SIGTERM set ``reason`` instead of killing, and in which a time budget runs.

    The old handlers are back when the context ends, so a notebook's kernel stays usable. A second signal raises
    KeyboardInterrupt at once. Outside the main thread, where signals cannot be handled, only the budget counts.

    Args:
        max_hours: budget in hours from now; None for none.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._signal: str | None = None
        self._at_once = False
        self._old: dict = {}

    @property
    def reason(self) -> str | None:
        """``"SIGINT"``, ``"SIGTERM"`` or ``"max_hours"``; None while there is no reason to stop."""
        if self._signal is None and self.deadline is not None and time.monotonic() >= self.deadline:
            return "max_hours"
        return self._signal

    @property
    def seconds_left(self) -> float | None:
        """Of the time budget; None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block a signal raises ``StopNow``: for work that can be repeated, such as an evaluation."""
        self._at_once = True
        try:
            if self._signal:
                raise StopNow
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> "StopRequest":
        with contextlib.suppress(ValueError):  # not the main thread
            for number in _SIGNALS:
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _handle(self, number: int, frame: Any) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
        if self._at_once:
            raise StopNow


def ignore_in_worker(_worker: int | None = None) -> None:
    """For loader workers, which inherit the handlers above: Ctrl-C is for the main process, SIGTERM ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
