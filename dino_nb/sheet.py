"""Several images on one sheet."""

from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image, ImageDraw

from dino_nb.errors import UserError
from dino_nb.fonts import draw_text, font, text_width

_GAP, _LETTERS = 12, 16


def grid(
    images: Iterable[Any], columns: int = 3, titles: Sequence[str] | None = None, width: int = 1000
) -> Image.Image:
    """A sheet of images in rows, each scaled to its column, for a notebook or a report.

    Args:
        images: ``PIL.Image``s, or results of a detector (drawn with their boxes).
        columns: images per row.
        titles: a line above each image; None for none.
        width: of the sheet in pixels.

    Returns:
        PIL RGB image with a white ground.
    """
    images = list(images)
    if not images:
        raise UserError("there is no image to put on the sheet.")
    if titles is not None and len(titles) != len(images):
        raise UserError(f"{len(images)} images cannot have {len(titles)} titles: give one for each.")
    columns = max(1, min(columns, len(images)))
    cell = (width - _GAP * (columns - 1)) // columns
    if cell < 8:
        raise UserError(f"a sheet {width} pixels wide has no room for {columns} columns: make it wider.")
    line = sum(font(_LETTERS).getmetrics()) + 6 if titles is not None else 0
    cells = [_scaled(image, cell) for image in images]
    heights = [line + max(image.height for image in cells[i : i + columns]) for i in range(0, len(cells), columns)]
    sheet = Image.new("RGB", (cell * columns + _GAP * (columns - 1), sum(heights) + _GAP * (len(heights) - 1)), "white")
    for i, image in enumerate(cells):
        row, column = divmod(i, columns)
        x, y = column * (cell + _GAP), sum(heights[:row]) + _GAP * row
        if titles is not None:
            draw_text(ImageDraw.Draw(sheet), (x, y), _fitting(titles[i], cell), _LETTERS, "#222")
        sheet.paste(image, (x, y + line))
    return sheet


def _scaled(image, cell):
    """The image as wide as its cell, and at most 1.5 times as high."""
    drawn = not isinstance(image, Image.Image)
    plain = image.image if drawn else image
    factor = min(cell / plain.width, 1.5 * cell / plain.height)
    plain = plain.resize([max(1, round(side * factor)) for side in plain.size], Image.Resampling.LANCZOS)
    return image.draw(plain, scale=factor) if drawn else plain


def _fitting(title, width):
    """``title`` on one line, cut to ``width`` pixels."""
    title = " ".join(str(title).split())[:400]
    while title and text_width(title, _LETTERS) > width:
        title = title[:-2].rstrip("…") + "…" if len(title) > 2 else ""
    return title
