"""What the published commands say about a checkpoint: ``-c CONFIG`` and ``--options key=value ...``."""

import dataclasses
from collections.abc import Iterable

from dino_nb.config import apply_overrides
from dino_nb.errors import UserError
from dino_nb.models.dino import DINO
from dino_nb.options import ARCHITECTURE, parse_options
from dino_nb.presets import preset


def check_architecture(model: DINO, config_file: str) -> None:
    """``UserError`` if the named published configuration is not that of ``model``, naming what differs."""
    expected = preset(config_file)
    for key in ARCHITECTURE:
        asked, have = getattr(expected, key), getattr(model.config, key)
        if asked != have:
            raise UserError(
                f"{config_file} has {key}={asked}, the checkpoint {have}. The architecture is read off the checkpoint: "
                "leave out -c, or name the other checkpoint."
            )


def apply_options(model: DINO, options: Iterable[str]) -> list[str]:
    """Apply ``key=value`` strings to a loaded model; returns the keys that have no effect on an evaluation.

    ``num_select`` can be changed. Options of the architecture must be the checkpoint's. Those of training have no
    effect. An unknown key is a ``UserError`` with the nearest name.
    """
    options = list(options)
    if any(option.startswith("dn_labebook_size") for option in options):  # the published README's; train ignores it
        raise UserError("there is no option 'dn_labebook_size'. Did you mean 'dn_labelbook_size'?")
    changed = apply_overrides(model.config, parse_options(options).model)
    for key in ARCHITECTURE:
        asked, have = getattr(changed, key), getattr(model.config, key)
        if asked != have:
            raise UserError(f"--options {key}={asked}, but the checkpoint has {have}: leave it out.")
    model.config = dataclasses.replace(model.config, num_select=changed.num_select)
    used = {"num_select", *ARCHITECTURE}
    return [option.partition("=")[0].strip() for option in options if not used & parse_options([option]).model.keys()]
