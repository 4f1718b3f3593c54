"""Never losing work: the states of a training run, saved every few minutes, on local disk and then on Drive.

The output folder holds ``state_last.pt``, ``state_previous.pt`` and ``state_best.pt``. A background thread copies them
to the Drive folder. A state is what ``torch.save`` writes, a zip file with a checksum for every tensor: these tell a
damaged state from a whole one, and state and checksums cannot get apart, as two files could when a run is killed.
"""

import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch

from dino_nb.checkpoints.zoo import BEST_CHECKPOINT, LAST_CHECKPOINT
from dino_nb.errors import UserError, did_you_mean
from dino_nb.files import atomic_path, sha256
from dino_nb.training.copier import Copier
from dino_nb.training.progress import CURVES, LOG

LAST, PREVIOUS, BEST = "state_last.pt", "state_previous.pt", "state_best.pt"
VERSION = 1  # of the layout of a state; one that is newer than this code is refused
_NEXT = "state_next.pt"
_OF_A_RUN = (LAST, PREVIOUS, BEST, LOG)  # what belongs to one run, and not to the next one in the same folder
_WRITTEN = (*_OF_A_RUN, _NEXT, CURVES, BEST_CHECKPOINT, LAST_CHECKPOINT, "checkpoint_best.safetensors", "batches.jpg")


class CheckpointManager:
    """Saves states of a run and finds the one to resume from.

    Args:
        output_dir: folder of the run, on local disk.
        every_minutes: ``due()`` says so when that many minutes passed since the last save (0: always).
        drive_dir: a second folder, for example on Colab's Drive, that gets a copy in the background.
        report: called with a sentence for the user (a damaged file, a copy that failed).
    """

    def __init__(
        self,
        output_dir: str | Path,
        every_minutes: float = 10.0,
        drive_dir: str | Path | None = None,
        report: Callable[[str], object] = print,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.drive_dir = Path(drive_dir) if drive_dir else None
        self.every_seconds, self.report = 60.0 * every_minutes, report
        self._folders = [folder for folder in (self.output_dir, self.drive_dir) if folder]
        self._saved_at = time.monotonic()
        self._copier = Copier(self.drive_dir, report) if self.drive_dir else None

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, state: dict[str, Any], is_best: bool = False) -> bool:
        """Write the dict ``state`` as the last one; the last one becomes the previous one.

        Returns whether it is on disk: a full disk is reported, and training may continue with the states before intact.
        Copies to Drive happen later, in the background.
        """
        last, previous, best, following = (self.output_dir / name for name in (LAST, PREVIOUS, BEST, _NEXT))
        try:
            # Killed at any point of this, the folder holds a whole state under its name.
            write_state(following, state)
            if last.exists():
                _link(last, previous)
            following.replace(last)
            if is_best:
                _link(last, best)
            for replaced in self._files(f"replaced_{name}" for name in _OF_A_RUN):
                replaced.unlink()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            following.unlink(missing_ok=True)
            self.report(f"The training state could not be saved in {self.output_dir}: {error}. Free some space there.")
            return False
        finally:
            self._saved_at = time.monotonic()
        if self._copier:
            self._copier.put(last, LAST, keep_as=PREVIOUS)
            if is_best:
                self._copier.put(best, BEST)
        return True

    def copy_also(self, *paths: str | Path) -> None:
        """Copy other files of the output folder (logs, curves, checkpoints) to Drive too, in the background."""
        if self._copier:
            for path in map(Path, paths):
                self._copier.put(path, path.name)

    def wait(self) -> bool:
        """Wait until every copy is on Drive. Returns whether all of them are; failures have been reported."""
        return self._copier.wait() if self._copier else True

    def find(self, resume: str | Path | None, overwrite: bool = False) -> Path | None:
        """The state to resume from, for ``read_state``; None to start again.

        Args:
            resume: ``"auto"`` takes the newest whole state of the output folder or its Drive copy (None where there
                is none), a path takes that file, or the newest in that folder; None starts again.
            overwrite: start again although the folder holds a state. What was there is renamed to ``replaced_...``,
                and removed by the first save.

        A damaged file is reported and the one before it is taken. Raises UserError where the folder holds a state
        that was not asked for, and where a path leads to no usable state.
        """
        for name in _WRITTEN:
            for half_written in self.output_dir.glob(f".{name}.*part"):  # by a process of this run that was killed
                half_written.unlink(missing_ok=True)
        there, wanted = self._files((LAST, PREVIOUS)), list[Path]()
        elsewhere = False
        if str(resume) == "auto":
            wanted = there
        elif resume is not None:
            path, own = Path(resume), [folder.resolve() for folder in self._folders]
            elsewhere = path.resolve() not in own and path.resolve().parent not in own
            wanted = _files_of(path)
        if there and (resume is None or elsewhere) and not overwrite:
            raise UserError(
                f"{there[0].parent} holds a training state already ({there[0].name}). Resume it with "
                'resume="auto" (--resume auto), choose another output folder, or start over with '
                "overwrite=True (--overwrite)."
            )
        state = self._newest_whole(wanted) if wanted else None
        if state is None or elsewhere:
            for old in self._files(_OF_A_RUN):
                old.replace(old.with_name(f"replaced_{old.name}"))
        elif self.drive_dir and self.drive_dir.is_dir():  # a new machine gets its log, curves and checkpoints back
            for path in self.drive_dir.glob("[!.]*"):
                target = self.output_dir / path.name
                if path.is_file() and path.suffix != ".pt" and not target.exists():
                    with atomic_path(target) as temporary:
                        shutil.copyfile(path, temporary)
        return state

    def _files(self, names: Iterable[str]) -> list[Path]:
        """Those of ``names`` that the output folder and the Drive folder hold."""
        names = list(names)
        return [folder / name for folder in self._folders for name in names if (folder / name).is_file()]

    def _newest_whole(self, paths: list[Path]) -> Path:
        """The newest state among ``paths`` that is whole; of equally new ones the first."""
        steps, problems = [], []
        for path in paths:
            try:
                steps.append((_head(path)["step"], path))
            except BadStateError as error:
                problems.append(f"{path} cannot be resumed: {error}.")
        for step, path in sorted(steps, key=lambda item: item[0], reverse=True):
            if damage := _damage(path):
                problems.append(f"{path} cannot be resumed: {damage}.")
                continue
            if problems:
                self.report(" ".join(problems) + f" Resuming from {path}, step {step}.")
            return path
        raise UserError(
            " ".join(problems) + " Start a new run, from a checkpoint if you have one: checkpoint=... "
            "(--pretrain_model_path), in another output folder or with overwrite=True (--overwrite)."
        )


class BadStateError(Exception):
    """A file that is no whole training state; the text says in what way (it names no file)."""


def write_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write the dict ``state``, of tensors and plain data, atomically to ``path``."""
    with atomic_path(path) as temporary:
        torch.save({**state, "version": VERSION}, temporary)


def read_state(path: str | Path) -> dict[str, Any]:
    """The dict that ``write_state`` wrote, on the CPU. Raises BadStateError when it is damaged."""
    if damage := _damage(Path(path)):
        raise BadStateError(damage)
    return _load(Path(path))


def _load(path: Path, mmap: bool = False) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise BadStateError("it is cut off, damaged or no training state") from error


def _head(path: Path) -> dict[str, Any]:
    """A state whose tensors are not read yet."""
    state = _load(path, mmap=True)
    if not isinstance(state, dict) or not {"step", "sampler", "optimizer"} <= state.keys():
        raise BadStateError("it holds no training state")
    if state.get("version", VERSION) > VERSION:
        raise UserError(f"{path} was written by a newer dino-nb: update with `pip install -U dino-nb`.")
    return state


def _damage(path: Path) -> str:
    """What is wrong with the bytes of a ``torch.save`` file, or an empty string."""
    try:
        with zipfile.ZipFile(path) as file:
            record = file.testzip()
            if any(entry.external_attr & 0x10 for entry in file.infolist()):
                return "it is damaged: a tensor is marked as a folder"  # torch reads it as other numbers, silently
    except Exception as error:  # a damaged file can raise anything
        return f"it is damaged ({str(error) or type(error).__name__})"
    return f"it is damaged: the checksum of {record} does not match" if record else ""


def _files_of(path: Path) -> list[Path]:
    """The state files that ``resume=path`` may mean: a folder's, or the file and the one before it."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UserError(
            f"there is no training state {path}.{did_you_mean(path.name, (p.name for p in folder.glob('*.pt')))}"
        )
    if path.is_file() and path.name != LAST:
        return [path]
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    if not found:
        raise UserError(f"{path} holds no training state ({LAST}).")
    return found


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, atomically; a copy where the file system has no links."""
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def data_fingerprint(cocodir: str | Path) -> dict[str, str]:
    """``{"instances_train2017.json": sha256, ...}``: what tells one data set from another."""
    return {path.name: sha256(path) for path in sorted(Path(cocodir, "annotations").glob("instances_*.json"))}


def check_same_run(
    state: dict[str, Any], config: dict, fingerprint: dict, output_dir: Path, ignore: Collection[str] = ()
) -> None:
    """Raise UserError that names the differences where ``state`` belongs to another configuration or data set.

    Args:
        state: as loaded; its ``config`` and ``data_fingerprint`` are compared.
        config, fingerprint: of the run that is about to start, dicts of plain data. Keys that only one side has do not
            count: a state of another version may have other settings.
        output_dir: its folder.
        ignore: configuration keys that may change between parts of one run (folders, workers, time budget, ...).
    """
    data, settings = _differences(state["data_fingerprint"], fingerprint), _differences(state["config"], config, ignore)
    if data or settings:
        parts = [f"the data set changed ({data})"] * bool(data)
        parts += [f"the configuration changed ({settings})"] * bool(settings)
        raise UserError(
            f"the run in {output_dir} cannot be resumed: {' and '.join(parts)}. Put it back as it was, or start a new "
            f"run: in another output folder (--output_dir {output_dir}-2), or there with overwrite=True (--overwrite)."
        )


def _differences(saved: dict, current: dict, ignore: Collection[str] = ()) -> str:
    lines = []
    for key in sorted((saved.keys() & current.keys()) - set(ignore)):
        old, new = _plain(saved[key]), _plain(current[key])
        if old != new:
            is_digest = isinstance(new, str) and re.fullmatch("[0-9a-f]{64}", new)
            lines.append(f"{key} has other contents" if is_digest else f"{key} was {old!r} and is {new!r}")
    return "; ".join(lines)


def _plain(value: Any) -> Any:
    """Lists as tuples: a state may have one where a configuration has the other."""
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
