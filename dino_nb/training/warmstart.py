"""Start where a checkpoint stands: take over the tensors that fit, and the rows of classes that both know."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dino_nb.errors import UserError, did_you_mean
from dino_nb.models.dino import DINO

PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)  # a new class starts at a probability of 1 % everywhere


@dataclass
class WarmStart:
    """What a warm start did: parameter names by fate, and the classes whose rows were carried over."""

    loaded: list[str] = field(default_factory=list)
    by_class: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    misfits: dict[str, tuple] = field(default_factory=dict)  # name -> (shape in the checkpoint, shape in the model)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    kept_classes: list[str] = field(default_factory=list)
    new_classes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The readable table: tensors by their fate."""
        rows = [
            ("loaded", self.loaded),
            ("class rows by name", self.by_class),
            ("re-initialised: --finetune_ignore", self.ignored),
            ("re-initialised: shape differs", [f"{n} {a} -> {b}" for n, (a, b) in self.misfits.items()]),
            ("re-initialised: not in checkpoint", self.missing),
            ("in the checkpoint only", self.unused),
            ("classes kept from the checkpoint", self.kept_classes),
            ("new classes", self.new_classes),
        ]
        lines = [f"  {title:34} {len(names):5}  {_shorten(names)}" for title, names in rows if names]
        return "\n".join(["Tensors of the checkpoint:", *lines])


def warm_start(
    model: DINO, source: Mapping[str, Tensor], rows: dict[int, int] | None = None, ignore: Collection[str] = ()
) -> WarmStart:
    """Load ``source`` (a state dict with this model's names) into ``model`` as far as it fits; returns a ``WarmStart``.

    Class heads and label embedding are carried over row by row: ``rows`` is {output of the model: output of the
    checkpoint} for the classes that both have. The other outputs are new classes: they get a zero row and the prior
    bias in the heads, so that they neither score nor disturb the selection of queries before they are learned, and a
    fresh row of the embedding. With ``rows=None`` those tensors are loaded as they are where their shapes fit.

    ``ignore``: substrings of names that stay as initialised; one that matches nothing raises ``UserError``.
    """
    report, target = WarmStart(), model.state_dict()
    for pattern in ignore:
        if not any(pattern in name for name in [*source, *target]):
            words = {word for name in target for word in (name, *name.split("."))}
            raise UserError(f"--finetune_ignore {pattern!r} matches no tensor.{did_you_mean(pattern, words)}")
    if rows is not None:
        names = model.class_names or []
        report.kept_classes = [str(names[i]) for i in sorted(rows)]
        report.new_classes = [str(n) for i, n in enumerate(names) if n is not None and i not in rows]
    new_state = {}
    for name, tensor in target.items():
        if any(pattern in name for pattern in ignore):
            report.ignored.append(name)
        elif name not in source:
            report.missing.append(name)
        elif rows is not None and ("class_embed" in name or "label_enc" in name):
            new_state[name] = tensor.clone()
            if "class_embed" in name:
                new_state[name].fill_(PRIOR_BIAS if name.endswith("bias") else 0.0)
            for i, row in rows.items():
                new_state[name][i] = source[name][row].to(tensor.dtype)
            report.by_class.append(name)
        elif source[name].shape == tensor.shape:
            new_state[name] = source[name].to(tensor.dtype)
            report.loaded.append(name)
        else:
            report.misfits[name] = (tuple(source[name].shape), tuple(tensor.shape))
    report.unused = [name for name in source if name not in target]
    if not report.loaded:
        raise UserError("nothing in this checkpoint fits the model: is it one of another architecture?")
    model.load_state_dict(new_state, strict=False)
    return report


def _shorten(names: list[str], width: int = 70) -> str:
    """Names joined by commas, cut with a count of what is left out."""
    text, shown = "", 0
    for name in names:
        if shown and len(text) + len(name) > width:
            return f"{text}, ... and {len(names) - shown} more"
        text, shown = f"{text}, {name}" if text else name, shown + 1
    return text
