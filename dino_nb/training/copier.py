"""Copying results to a slow second folder (Colab's Drive) in the background, without ever losing the copy before."""

import shutil
import threading
from pathlib import Path

from dino_nb.files import atomic_path


class Copier:
    """Copies files into ``folder`` one after the other in a thread; of a file that waits only the newest is copied.

    The thread is no daemon: a script that ends lets the copy finish. A copy that fails is reported and tried again
    with the next one, and by ``wait``.
    """

    def __init__(self, folder, report=print):
        self.folder = Path(folder)
        self.report = report
        self._waiting, self._failed = {}, {}  # name -> (source, name that the present copy is kept under, or None)
        self._lock = threading.Lock()
        self._thread = None
        self._swept = False

    def put(self, source, name, keep_as=None):
        """Copy ``source`` to ``folder/name`` soon; the file of that name is first renamed to ``keep_as`` if given."""
        with self._lock:
            self._waiting = {**self._failed, **self._waiting, name: (Path(source), keep_as)}
            self._failed = {}
            self._start()

    def wait(self):
        """Wait until nothing is left to copy; try once more what failed. Returns whether everything is there."""
        self._join()
        with self._lock:
            if self._failed:
                self._waiting, self._failed = self._failed, {}
                self._start()
        self._join()
        return not self._failed

    def _start(self):
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="copy-results")
            self._thread.start()

    def _join(self):
        thread = self._thread
        if thread:
            thread.join()

    def _work(self):
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                name = next(iter(self._waiting))
                source, keep_as = self._waiting.pop(name)
            try:
                self._copy(source, name, keep_as)
            except OSError as error:
                self.report(
                    f"{name} could not be copied to {self.folder}: {error}. It is tried again with the next one."
                )
                with self._lock:
                    self._failed.setdefault(name, (source, keep_as))

    def _copy(self, source, name, keep_as):
        if not self._swept and self.folder.is_dir():
            for stale in self.folder.glob(".*.part"):  # of a session that was cut off in the middle of a copy
                stale.unlink(missing_ok=True)
        self._swept = True
        target = self.folder / name
        with atomic_path(target) as temporary:
            # the source is opened once: it may be replaced by a newer file meanwhile, and the copy stays whole
            with source.open("rb") as reading, temporary.open("wb") as writing:
                shutil.copyfileobj(reading, writing, 1 << 22)
                size = reading.tell()
            if temporary.stat().st_size != size:
                raise OSError(f"only {temporary.stat().st_size} of {size} bytes arrived")
            if keep_as and target.exists():
                target.replace(self.folder / keep_as)
