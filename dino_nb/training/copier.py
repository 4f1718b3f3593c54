"""Copying results to a slow second folder (Colab's Drive) in the background, without ever losing the copy before."""

import glob
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dino_nb.files import atomic_path


class Copier:
    """Copies files into ``folder`` one after the other in a thread; of a file that waits only the newest is copied.

    A script that ends lets the copy finish. A copy that fails is tried again with the next one, and by ``wait``. The
    user is told once, until a copy succeeds again.
    """

    def __init__(self, folder: str | Path, report: Callable[[str], object] = print) -> None:
        self.folder, self.report = Path(folder), report
        # name -> (source, name that the present copy is kept under, or None)
        self._waiting: dict[str, tuple[Path, str | None]] = {}
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(1, "copy-results")
        self._busy = self._told = False
        self._swept: set[str] = set()

    def put(self, source: str | Path, name: str, keep_as: str | None = None) -> None:
        """Copy ``source`` to ``folder/name`` soon; the file of that name is first renamed to ``keep_as`` if given."""
        with self._lock:
            self._waiting[name] = Path(source), keep_as
            if not self._busy:
                self._busy = True
                self._pool.submit(self._copy_waiting)

    def wait(self) -> bool:
        """Wait until nothing is left to copy; try once more what failed. Returns whether everything is there."""
        return self._pool.submit(self._copy_waiting).result()

    def _copy_waiting(self) -> bool:
        failed: dict[str, tuple[Path, str | None]] = {}
        while True:
            with self._lock:
                if not self._waiting:
                    self._waiting, self._busy = failed, False
                    return not failed
                name = next(iter(self._waiting))
                source, keep_as = self._waiting.pop(name)
            try:
                self._copy(source, name, keep_as)
                self._told = False
            except OSError as error:
                failed[name] = source, keep_as
                if not self._told:
                    self.report(
                        f"{name} could not be copied to {self.folder}: {error.strerror or error}. Free some space "
                        "there (on Google Drive, empty the trash too). It is tried again with every save."
                    )
                self._told = True

    def _copy(self, source: Path, name: str, keep_as: str | None) -> None:
        target = self.folder / name
        if name not in self._swept and target.parent.is_dir():  # what a session left that was cut off in the middle
            for stale in target.parent.glob(f".{glob.escape(target.name)}.*part"):
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
