"""Never losing work: the states of a training run, saved every few minutes, on local disk and then on Drive.

The output folder holds ``state_last.pt``, ``state_previous.pt`` and ``state_best.pt``; so does the Drive folder, to
which a background thread copies them. See ``state_file`` for what is in a file.
"""

import os
import shutil
import time
from pathlib import Path

from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import atomic_path, sha256
from dino_nb.training.copier import Copier
from dino_nb.training.state_file import BadStateError, read_head, read_state, write_state

LAST, PREVIOUS, BEST = "state_last.pt", "state_previous.pt", "state_best.pt"
_NEXT = "state_next.pt"
VERSION = 1  # of the layout of a state; one that is newer than this code is refused


class StateKeeper:
    """Saves states of a run and finds the one to go on from.

    Args:
        output_dir: folder of the run, on local disk.
        every_minutes: ``due()`` says so when that many minutes passed since the last save (0: always).
        drive_dir: a second folder, for example on Colab's Drive, that gets a copy in the background.
        report: called with a sentence for the user (a damaged file, a copy that failed).
    """

    def __init__(self, output_dir, every_minutes=10.0, drive_dir=None, report=print):
        self.output_dir = Path(output_dir)
        self.every_seconds = 60.0 * every_minutes
        self.drive_dir = Path(drive_dir) if drive_dir else None
        self.report = report
        self._saved_at = time.monotonic()
        self._copier = Copier(self.drive_dir, report) if self.drive_dir else None

    def due(self):
        """Whether it is time to save again."""
        return time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, state, is_best=False):
        """Write the dict ``state`` as the last one; the last one becomes the previous one.

        Returns whether it is on disk: a full disk is reported and training may go on, with the states before intact.
        Copies to Drive happen later, in the background.
        """
        last, previous, best = (self.output_dir / name for name in (LAST, PREVIOUS, BEST))
        try:
            # Killed at any point of this, the folder holds a whole state under its name.
            write_state(self.output_dir / _NEXT, {**state, "version": VERSION})
            if last.exists():
                _link(last, previous)
            (self.output_dir / _NEXT).replace(last)
            if is_best:
                _link(last, best)
            for replaced in self._files("replaced_"):
                replaced.unlink()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            (self.output_dir / _NEXT).unlink(missing_ok=True)
            self.report(f"The training state could not be saved in {self.output_dir}: {error}. Free some space there.")
            return False
        finally:
            self._saved_at = time.monotonic()
        if self._copier:
            self._copier.put(last, LAST, keep_as=PREVIOUS)
            if is_best:
                self._copier.put(best, BEST)
        return True

    def copy_also(self, *paths):
        """Copy other files of the output folder (logs, curves, checkpoints) to Drive too, in the background."""
        if self._copier:
            for path in map(Path, paths):
                self._copier.put(path, path.name)

    def wait(self):
        """Wait until every copy is on Drive. Returns whether all of them are; failures have been reported."""
        return self._copier.wait() if self._copier else True

    def load(self, resume, overwrite=False):
        """The state to go on from, on the CPU, or None to start anew.

        Args:
            resume: ``"auto"`` takes the newest whole state of the output folder or its Drive copy (None where there
                is none), a path takes that file, or the newest in that folder; None starts anew.
            overwrite: start anew although the folder holds a state. What was there is renamed to ``replaced_...``,
                and removed by the first save.

        A damaged file is reported and the one before it is taken. Raises UserError where the folder holds a state
        that was not asked for, and where a path leads to no usable state.
        """
        for half_written in self.output_dir.glob(".*.part"):  # by a process that was killed
            half_written.unlink()
        there = self._found()
        elsewhere = resume is not None and str(resume) != "auto" and not self._is_mine(Path(resume))
        if there and (resume is None or elsewhere) and not overwrite:
            raise UserError(
                f"{there[0].parent} holds a training state already ({there[0].name}). Go on with it by "
                'resume="auto" (--resume auto), choose another output folder, or start over with '
                "overwrite=True (--overwrite)."
            )
        wanted = there if str(resume) == "auto" else [] if resume is None else _files_of(Path(resume))
        state = self._first_whole(wanted) if wanted else None
        if state is None or elsewhere:
            for old in self._files():
                old.replace(old.with_name(f"replaced_{old.name}"))
        else:
            self._bring_back_results()
        return state

    def _bring_back_results(self):
        """Copy from Drive what a new machine's output folder lacks: log, curves, checkpoints."""
        results = self.drive_dir.glob("[!.]*") if self.drive_dir and self.drive_dir.is_dir() else ()
        for path in results:
            target = self.output_dir / path.name
            if path.is_file() and path.suffix != ".pt" and not target.exists():
                with atomic_path(target) as temporary:
                    shutil.copyfile(path, temporary)

    def _is_mine(self, path):
        """Whether ``path`` is the output folder, its Drive copy, or in one of them."""
        folders = [folder.resolve() for folder in (self.output_dir, self.drive_dir) if folder]
        return path.resolve() in folders or path.resolve().parent in folders

    def _found(self):
        """State files of the output folder and of Drive to go on from."""
        return [p for folder in (self.output_dir, self.drive_dir) if folder for p in _states_in(folder)]

    def _files(self, prefix=""):
        """All state files of both folders, whose names begin with ``prefix``."""
        folders = filter(None, (self.output_dir, self.drive_dir))
        paths = [folder / f"{prefix}{name}" for folder in folders for name in (LAST, PREVIOUS, BEST)]
        return [path for path in paths if path.is_file()]

    def _first_whole(self, paths):
        """The newest state among ``paths`` that is whole; of equally new ones the first."""
        heads, problems = [], []
        for path in paths:
            try:
                head = read_head(path)
                heads.append((head["epoch"], head["step"], path))
            except (BadStateError, OSError) as error:
                problems.append(f"{path} cannot be resumed: {error}.")
        for _, _, path in sorted(heads, key=lambda item: item[:2], reverse=True):
            try:
                state = read_state(path)
            except (BadStateError, OSError) as error:
                problems.append(f"{path} cannot be resumed: {error}.")
                continue
            if state["version"] > VERSION:
                raise UserError(f"{path} was written by a newer dino-nb: update with `pip install -U dino-nb`.")
            if problems:
                self.report(" ".join(problems) + f" Going on from {path}, step {state['step']}.")
            return state
        raise UserError(
            " ".join(problems) + " Start a new run, from a checkpoint if you have one: checkpoint=... "
            "(--pretrain_model_path), in another output folder or with overwrite=True (--overwrite)."
        )


def data_fingerprint(cocodir):
    """``{"instances_train2017.json": sha256, ...}``: what tells one data set from another."""
    return {path.name: sha256(path) for path in sorted(Path(cocodir, "annotations").glob("instances_*.json"))}


def describe_difference(saved, current, ignore=()):
    """Sentences that name each difference of two nested dicts of plain data; an empty string where there is none.

    ``ignore`` holds keys of the first level that may differ.
    """
    saved, current = _flat(saved), _flat(current)
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        if key.split(".")[0] in ignore or (key in saved and key in current and saved[key] == current[key]):
            continue
        if key not in current:
            lines.append(f"{key} was {saved[key]!r} and is gone")
        elif key not in saved:
            lines.append(f"{key} is {current[key]!r} and was not there")
        elif _is_digest(saved[key]) and _is_digest(current[key]):
            lines.append(f"{key} has other contents")
        else:
            lines.append(f"{key} was {saved[key]!r} and is {current[key]!r}")
    return "; ".join(lines)


def check_same_run(state, config, fingerprint, ignore=()):
    """Raise UserError that names the differences where ``state`` belongs to another configuration or data set.

    Args:
        state: as loaded; its ``config`` and ``data_fingerprint`` are compared.
        config, fingerprint: of the run that is about to start, dicts of plain data.
        ignore: configuration keys that may change between parts of one run (folders, workers, time budget, ...).
    """
    data = describe_difference(state["data_fingerprint"], fingerprint)
    settings = describe_difference(state["config"], config, ignore)
    if data or settings:
        parts = [f"the data set changed ({data})"] * bool(data) + [f"the configuration changed ({settings})"] * bool(
            settings
        )
        raise UserError(
            f"This state cannot be gone on with: {' and '.join(parts)}. Put it back as it was, or start a new run: "
            "another output folder, or overwrite=True (--overwrite), from the last checkpoint if you like."
        )


def _flat(value, prefix=""):
    """A nested dict as ``{"a.b": value}``, lists as tuples (JSON and literals make one of the other)."""
    if isinstance(value, dict) and (value or not prefix):
        flat = {}
        for key, inner in value.items():
            flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: _tuples(value)}


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _is_digest(value):
    return isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)


def _states_in(folder):
    return [path for name in (LAST, PREVIOUS) if (path := Path(folder, name)).is_file()]


def _files_of(path):
    """The state files that ``resume=path`` may mean: a folder's, or the file and the one before it."""
    if path.is_dir():
        found = _states_in(path)
        if not found:
            raise UserError(f"{path} holds no training state ({LAST}).")
        return found
    if not path.is_file():
        names = [p.name for p in path.parent.glob("*.pt")] if path.parent.is_dir() else []
        raise UserError(f"there is no training state {path}.{did_you_mean(path.name, names)}")
    return _states_in(path.parent) if path.name == LAST else [path]


def _link(source, target):
    """Make ``target`` the same file as ``source``, atomically; a copy where the file system has no links."""
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
