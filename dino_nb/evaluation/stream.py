"""Results on disk as they come: an evaluation that was interrupted after hours goes on where it was."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dino_nb import distributed
from dino_nb.errors import UserError, disk_errors
from dino_nb.evaluation.coco import Detections
from dino_nb.files import atomic_path

_CHUNK = 20_000  # results that are written at a time


class Stream:
    """``results.part*.jsonl`` in ``folder``: how it is evaluated, then a line per image; a file per process.

    Args:
        settings: what results depend on, as plain values. Resuming with others is a ``UserError`` that names them.
        resume: continue with the files that exist; else they are removed.

    Attributes:
        done: ``{position of the image: (n, 6) rows}`` of the files that were found.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any], resume: bool = False) -> None:
        self.folder = Path(folder)
        self.done: dict[int, np.ndarray] = {}
        with disk_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                distributed.run_on_main(self._remove)
            for path in self.folder.glob("results.part*.jsonl"):
                self._read(path, json.loads(json.dumps(settings)))
            distributed.barrier()  # all have read before one writes
            self._file = (self.folder / f"results.part{distributed.rank()}.jsonl").open("a", encoding="utf-8")
            self._write(settings)

    def add(self, position: int, rows: np.ndarray) -> None:
        """Keep the rows (x, y, width, height, score, position of the category) of one image."""
        with disk_errors():
            self._write([position, rows.tolist()])

    def finish(self) -> None:
        """Remove the files of all processes: ``results.json`` holds everything."""
        self._file.close()
        distributed.barrier()
        distributed.run_on_main(self._remove)

    def _remove(self):
        for path in self.folder.glob("results.part*.jsonl"):
            path.unlink()

    def _write(self, record):
        self._file.write("\n" + json.dumps(record))  # the line before may have been cut off
        self._file.flush()

    def _read(self, path, settings):
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                record = json.loads(line)
                if isinstance(record, list):
                    self.done[int(record[0])] = np.array(record[1], np.float64).reshape(-1, 6)
            except (ValueError, IndexError, TypeError):  # cut off where the evaluation was
                continue
            if isinstance(record, dict) and record != settings:
                other = [key for key in settings if record.get(key) != settings[key]]
                raise UserError(
                    f"the evaluation in {self.folder} cannot be resumed: it was begun with other "
                    f"{', '.join(other) or 'settings'}. Leave out resume to start again, or name another folder."
                )


def fingerprint(model: torch.nn.Module) -> int:
    """A checksum of a network's weights."""
    total = 0
    for tensor in model.state_dict().values():
        total = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), total)
    return total


def write_results(path: Path, found: Detections) -> None:
    """Write COCO results as ``json.dump`` would, in little memory."""
    with disk_errors(), atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(found), _CHUNK):
            file.write((", " if start else "") + json.dumps([*found[start : start + _CHUNK]])[1:-1])
        file.write("]")
