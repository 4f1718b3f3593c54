"""Whether a saved state belongs to the run that is about to start: same data set, same settings."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dino_nb.errors import UserError
from dino_nb.files import sha256


def data_fingerprint(cocodir: str | Path) -> dict[str, str]:
    """``{"instances_train2017.json": sha256, ...}``: what tells one data set from another."""
    return {path.name: sha256(path) for path in sorted(Path(cocodir, "annotations").glob("instances_*.json"))}


def describe_difference(saved: dict, current: dict, ignore: Collection[str] = ()) -> str:
    """Each difference of two dicts of plain data in words, joined by "; "; an empty string where there is none.

    Keys that only one of them has do not count: a state of another version may have other settings. Nor do ``ignore``.
    """
    lines = []
    for key in sorted((saved.keys() & current.keys()) - set(ignore)):
        old, new = _plain(saved[key]), _plain(current[key])
        if old != new:
            is_digest = isinstance(new, str) and re.fullmatch("[0-9a-f]{64}", new)
            lines.append(f"{key} has other contents" if is_digest else f"{key} was {old!r} and is {new!r}")
    return "; ".join(lines)


def check_same_run(
    state: dict[str, Any], config: dict, fingerprint: dict, output_dir: Path, ignore: Collection[str] = ()
) -> None:
    """Raise UserError that names the differences where ``state`` belongs to another configuration or data set.

    Args:
        state: as loaded; its ``config`` and ``data_fingerprint`` are compared.
        config, fingerprint: of the run that is about to start, dicts of plain data.
        output_dir: its folder.
        ignore: configuration keys that may change between parts of one run (folders, workers, time budget, ...).
    """
    data = describe_difference(state["data_fingerprint"], fingerprint)
    settings = describe_difference(state["config"], config, ignore)
    if data or settings:
        parts = [f"the data set changed ({data})"] * bool(data)
        parts += [f"the configuration changed ({settings})"] * bool(settings)
        raise UserError(
            f"the run in {output_dir} cannot be resumed: {' and '.join(parts)}. Put it back as it was, or start a new "
            f"run: in another output folder (--output_dir {output_dir}-2), or there with overwrite=True (--overwrite)."
        )


def _plain(value: Any) -> Any:
    """Lists as tuples: a state may have one where a configuration has the other."""
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
