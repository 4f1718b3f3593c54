"""Which output of a model is which category of a data set."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dino_nb.coco_classes import COCO_CLASSES, COCO_OUTPUTS
from dino_nb.errors import UserError, did_you_mean
from dino_nb.printer import counted


@dataclass(frozen=True)
class ClassMatch:
    """The result of :func:`match_classes`.

    Attributes:
        label_of: ``{category id: model output}`` of the matched categories; ``category_of`` is its inverse.
        names: ``{category id: name}`` of all categories of the data set, in its order.
        how: one sentence: by name, by COCO id, by COCO name or by category id, and why.
        missing: names of categories that the model has no output for, each with a "did you mean" where near.
        unused: names of model classes that the data set does not have.
    """

    label_of: dict[Any, int]
    names: dict[Any, str]
    how: str
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def category_of(self) -> dict[int, Any]:
        return {label: category for category, label in self.label_of.items()}

    def __str__(self) -> str:
        text = f"{len(self.label_of)} of {counted(len(self.names), 'class', 'classes')} matched {self.how}"
        if self.missing:
            text += f"\nnot known to the model, so never found: {'; '.join(self.missing)}"
        if self.unused:
            text += f"\nknown to the model only, not scored: {_some(self.unused)}"
        return text


def match_classes(
    categories: Iterable[Mapping[str, Any]],
    num_classes: int,
    class_names: Sequence[str | None] | None = None,
    category_ids: Sequence[Any] | None = None,
    by: str = "auto",
) -> ClassMatch:
    """Pair the categories of a data set with the outputs of a model.

    Args:
        categories: records with ``id`` and ``name``, as in a COCO file.
        num_classes: outputs of the model's class head.
        class_names: the model's names, one an output, None for an output without a meaning; or None altogether,
            as in a published checkpoint.
        category_ids: the model's own category ids, one an output, if it knows them.
        by: ``auto``; ``name`` (COCO's names for a head of 91 without names); ``id``: by ``category_ids``, or without
            them output ``i`` is category id ``i``, as in what the original code trains.

    A model with names is matched by name: letter case, spaces, ``_`` and ``-`` do not matter, and an exact spelling
    wins over a loose one. A head of 91 outputs without names is taken for COCO's: by id where ids and names of the
    data set are COCO's, else by COCO name. Any other head without names is matched by id. Raises ``UserError`` if
    nothing matches.
    """
    names = {c["id"]: str(c["name"]) for c in categories}
    if by not in ("auto", "name", "id"):
        raise UserError(f"classes are matched by auto, name or id, not {by!r}.{did_you_mean(by, ('name', 'id'))}")
    published = num_classes == len(COCO_OUTPUTS) and (class_names is None or list(class_names) == COCO_OUTPUTS)
    if published:
        class_names = COCO_OUTPUTS
        agrees = all(c in COCO_CLASSES and normalise(COCO_CLASSES[c]) == normalise(n) for c, n in names.items())
        if by == "auto" and agrees:
            how = "by COCO id: ids and names of the data set are COCO's."
            return _by_id(names, range(num_classes), class_names, how)
    if by == "id" or (by == "auto" and class_names is None):
        if category_ids is not None and not published:
            return _by_id(names, category_ids, class_names, "by category id, as the checkpoint carries them.")
        why = "" if by == "id" else ", since the checkpoint carries no class names"
        how = f"by category id: output i of the model is taken as category id i{why}."
        return _by_id(names, range(num_classes), None, how)
    if class_names is None:
        raise UserError("the checkpoint carries no class names, so its classes can only be matched by id.")
    how = "by COCO name: the data set's ids are not COCO's." if published else "by name."
    return _by_name(names, list(class_names), how, published)


def normalise(name: object) -> str:
    """A class name without the differences that do not count: case, runs of spaces, ``_`` and ``-``."""
    return re.sub(r"[\s_\-]+", " ", str(name)).strip().casefold()


def _by_id(names: dict[Any, str], ids: Iterable[Any], class_names: Sequence[str | None] | None, how: str) -> ClassMatch:
    outputs = {i: label for label, i in enumerate(ids) if i is not None}
    label_of = {c: outputs[c] for c in names if c in outputs}
    missing = [f"{name} (id {c})" for c, name in names.items() if c not in outputs]
    if not label_of:
        raise UserError(
            f"no category of the data set has an id that the model knows. Data set: {_some(missing)}. "
            f"Ids of the model's {len(outputs)} outputs: {_some(outputs)}."
        )
    used = set(label_of.values())
    unused = [n for i, n in enumerate(class_names or ()) if n is not None and i not in used]
    return ClassMatch(label_of, names, how, missing, unused)


def _by_name(names: dict[Any, str], class_names: list[str | None], how: str, published: bool) -> ClassMatch:
    label_of = {}
    free = {label: name for label, name in enumerate(class_names) if name is not None}
    for same in (str, normalise):  # exact spelling first: a data set may have both "Cat" and "cat"
        labels = defaultdict(list)
        for label, name in free.items():
            labels[same(name)].append(label)
        for category, name in names.items():
            if category not in label_of and labels[same(name)]:
                label_of[category] = labels[same(name)].pop(0)
                del free[label_of[category]]
    missing = []
    for name in (name for category, name in names.items() if category not in label_of):
        hint = did_you_mean(name, free.values()).strip()
        missing.append(f"{name} ({hint[0].lower()}{hint[1:]})" if hint else name)
    if not label_of:
        known = _some(name for name in class_names if name is not None)
        text = f"no class of the data set is known to the model. Data set: {_some(missing)}. Model: {known}."
        text += " Fine-tune it on this data first (notebook fine-tune, or dino-nb train), or choose another checkpoint."
        if published:
            text += (
                " If the original code trained this checkpoint on this data set, its outputs are category ids: match "
                "classes by id (--classes id)."
            )
        raise UserError(text)
    repeated = [n for n, count in Counter(map(normalise, names.values())).items() if count > 1]
    if repeated and missing:
        how += f" The data set has {_some(repeated)} more than once."
    return ClassMatch(label_of, names, how, missing, list(free.values()))


def _some(items: Iterable[object], limit: int = 12) -> str:
    words = [str(item) for item in items]
    return ", ".join(words[:limit]) + (f" and {len(words) - limit} more" if len(words) > limit else "")
