"""Precision, recall and F1 over the threshold, drawn in a few milliseconds: the strip below a slider."""

from collections.abc import Mapping

from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dino_nb.fonts import draw_text, text_width

COLORS = {"precision": "#0072B2", "recall": "#D55E00", "f1": "#009E73"}
_INK, _FAINT = "#444444", "#C9CED3"


def threshold_curve(
    curves: Mapping[str, NDArray],
    threshold: float | None = None,
    best: tuple[float, float] | None = None,
    size: tuple[int, int] = (460, 120),
) -> Image.Image:
    """A strip with the ``curves`` of ``Judged.curves``, a line at ``threshold`` and a mark at ``best`` (threshold, F1).

    Returns:
        PIL RGB image of ``size`` (width, height) in pixels.
    """
    image = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(image)
    left, top, right, bottom = 34, 22, size[0] - 10, size[1] - 18

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * (right - left), bottom - y * (bottom - top)

    for value in (0, 0.5, 1):
        canvas.line([place(0, value), place(1, value)], fill=_FAINT)
        draw_text(canvas, (left - 8 - text_width(f"{value:g}", 10), place(0, value)[1] - 6), f"{value:g}", 10, _INK)
        draw_text(canvas, (place(value, 0)[0] - 6, bottom + 3), f"{value:g}", 10, _INK)
    x = left
    for name, color in COLORS.items():
        title = "F1" if name == "f1" else name
        points = [place(t, v) for t, v in zip(curves["threshold"], curves[name]) if v >= 0]
        if len(points) > 1:
            canvas.line(points, fill=color, width=3 if name == "f1" else 2)
        canvas.line((x, 11, x + 16, 11), fill=color, width=3 if name == "f1" else 2)
        draw_text(canvas, (x + 20, 4), title, 11, _INK)
        x += 34 + text_width(title, 11)
    if best is not None:
        bx, by = place(*best)
        canvas.polygon([(bx, by - 6), (bx + 6, by), (bx, by + 6), (bx - 6, by)], fill=COLORS["f1"], outline="black")
        draw_text(canvas, (x + 4, 4), f"◆ best F1 {best[1]:.2f} at {best[0]:.2f}", 11, _INK)
    if threshold is not None:
        canvas.line([place(threshold, 0), place(threshold, 1)], fill="black", width=1)
    return image
