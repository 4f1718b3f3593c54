"""An evaluation to look at in a notebook: the worst images, and crops of confused classes."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dino_nb.errors import UserError, did_you_mean
from dino_nb.evaluation.analysis import Analysis
from dino_nb.evaluation.drawing import crop, draw_found
from dino_nb.evaluation.evaluate import EvalResult
from dino_nb.sheet import grid

if TYPE_CHECKING:
    from ipywidgets import interactive


def worst_images(
    result: EvalResult, errors: Analysis | None = None, n: int = 4, width: int = 1100
) -> Image.Image | None:
    """A sheet of the images with the most errors: ground truth dashed on the left, detections on the right.

    Args:
        result: what ``dino_nb.evaluate`` returned.
        errors: its threshold decides which detections are drawn. Default: the result's own ``analysis``.
        n: images at most; those without an error never come in.

    Returns:
        PIL image, or None if no image has an error.
    """
    errors = errors or result.analysis
    sides: list[Image.Image] = []
    titles: list[str] = []
    for image_id in errors.worst(n):
        sides += [draw_found(result, image_id), draw_found(result, image_id, errors.threshold)]
        count = errors.images[image_id]
        titles += [f"{result.path(image_id).name}: ground truth", f"{count['missed']} missed, {count['wrong']} wrong"]
    return grid(sides, columns=2, titles=titles, width=width) if sides else None


def confused(
    result: EvalResult, object: str, found: str = "background", n: int = 12, width: int = 1000
) -> Image.Image | None:
    """Crops of objects of one class that were found as another (dashed: the object, solid: the detection).

    ``object`` and ``found`` are class names; ``background`` for an object that was missed, or a detection of nothing.
    Returns None where that never happened.
    """
    names = _names(result)
    for name in (object, found):
        if name not in names:
            raise UserError(f"there is no class {name!r}.{did_you_mean(name, names)}")
    pairs = result.analysis.cell(names.index(object), names.index(found))[:n].tolist()
    if not pairs:
        return None
    columns = min(len(pairs), 6)
    return grid([crop(result, a, b, 240) for a, b in pairs], columns, width=width * columns // 6)


def pick_confused(result: EvalResult) -> "interactive":
    """Two lists of classes, and below them the crops that :func:`confused` gives: for a notebook."""
    from IPython.display import display
    from ipywidgets import interactive

    names = _names(result)
    wrong = result.analysis.confusion * (1 - np.eye(len(names), dtype=int))
    first = [names[i] for i in divmod(int(wrong.argmax()), len(names))]  # the most frequent mistake
    lists = [[name, *(n for n in names if n != name)] for name in first]

    def show(object: str, found: str) -> None:
        display(confused(result, object, found) or "this never happened")

    return interactive(show, object=lists[0], found=lists[1])


def _names(result: EvalResult) -> list[str]:
    return [row["name"] for row in result.per_class] + ["background"]
