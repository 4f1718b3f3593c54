"""Copying results to a slow second folder (Colab's Drive) in the background, without ever losing the copy before."""

import glob
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from dino_nb.files import atomic_path


class Copier:
    """Copies files into ``folder`` one after the other in a thread; of a file that waits only the newest is copied.

    The thread is no daemon: a script that ends lets the copy finish. A copy that fails is tried again with the next
    one, and by ``wait``. The user is told once, until a copy succeeds again.
    """

    def __init__(self, folder: str | Path, report: Callable[[str], object] = print) -> None:
        self.folder = Path(folder)
        self.report = report
        # name -> (source, name that the present copy is kept under, or None)
        self._waiting: dict[str, tuple[Path, str | None]] = {}
        self._failed: dict[str, tuple[Path, str | None]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._swept: set[str] = set()
        self._told = False

    def put(self, source: str | Path, name: str, keep_as: str | None = None) -> None:
        """Copy ``source`` to ``folder/name`` soon; the file of that name is first renamed to ``keep_as`` if given."""
        with self._lock:
            self._waiting = {**self._failed, **self._waiting, name: (Path(source), keep_as)}
            self._failed = {}
            self._start()

    def wait(self) -> bool:
        """Wait until nothing is left to copy; try once more what failed. Returns whether everything is there."""
        self._join()
        with self._lock:
            if self._failed:
                self._waiting, self._failed = self._failed, {}
                self._start()
        self._join()
        return not self._failed

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="copy-results")
            self._thread.start()

    def _join(self) -> None:
        if thread := self._thread:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                name = next(iter(self._waiting))
                source, keep_as = self._waiting.pop(name)
            try:
                self._copy(source, name, keep_as)
                self._told = False
            except OSError as error:
                with self._lock:
                    self._failed.setdefault(name, (source, keep_as))
                if not self._told:
                    self.report(
                        f"{name} could not be copied to {self.folder}: {error.strerror or error}. Free some space "
                        "there (on Google Drive, empty the trash too). It is tried again with every save."
                    )
                self._told = True

    def _copy(self, source: Path, name: str, keep_as: str | None) -> None:
        target = self.folder / name
        if name not in self._swept and target.parent.is_dir():
            for stale in target.parent.glob(
                f".{glob.escape(target.name)}.*part"
            ):  # of a session that was cut off in the middle
                stale.unlink(missing_ok=True)
        self._swept.add(name)
        with atomic_path(target) as temporary:
            # The source is opened once: it may be replaced by a newer file meanwhile, and the copy stays whole.
            with source.open("rb") as reading, temporary.open("wb") as writing:
                shutil.copyfileobj(reading, writing, 1 << 22)
                size = reading.tell()
            if temporary.stat().st_size != size:
                raise OSError(f"only {temporary.stat().st_size} of {size} bytes arrived")
            if keep_as and target.exists():
                target.replace(self.folder / keep_as)
