"""Several pictures on one sheet."""

from PIL import Image, ImageDraw

from dino_nb.errors import UserError
from dino_nb.fonts import font

_GAP = 12


def grid(pictures, columns=3, titles=None, width=1000):
    """A sheet of pictures in rows, each scaled to its column, for a notebook or a report.

    Args:
        pictures: ``PIL.Image``s, or results of a detector (drawn with their boxes).
        columns: pictures in a row.
        titles: a line above each picture; None for none.
        width: of the sheet in pixels.

    Returns:
        PIL RGB picture with a white ground.
    """
    pictures = list(pictures)
    if not pictures:
        raise UserError("there is no picture to put on the sheet.")
    if titles is not None and len(titles) != len(pictures):
        raise UserError(f"{len(pictures)} pictures cannot have {len(titles)} titles: give one for each.")
    columns = max(1, min(columns, len(pictures)))
    cell = (width - _GAP * (columns - 1)) // columns
    cells = [_scaled(picture, cell) for picture in pictures]
    letters = font(16)
    line = sum(letters.getmetrics()) + 6 if titles is not None else 0
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [line + max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (cell * columns + _GAP * (columns - 1), sum(heights) + _GAP * (len(rows) - 1)), "white")
    canvas = ImageDraw.Draw(sheet)
    y = 0
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            x = c * (cell + _GAP)
            if titles is not None:
                canvas.text((x, y), _fitting(canvas, titles[r * columns + c], letters, cell), font=letters, fill="#222")
            sheet.paste(picture, (x, y + line))
        y += heights[r] + _GAP
    return sheet


def _scaled(picture, cell):
    """The picture as wide as its cell, and at most 1.5 times as high."""
    drawn = not isinstance(picture, Image.Image)
    image = picture.image if drawn else picture
    factor = min(cell / image.width, 1.5 * cell / image.height)
    size = [max(1, round(side * factor)) for side in image.size]
    image = image.resize(size, Image.Resampling.LANCZOS)
    return picture.draw(image, scale=factor) if drawn else image


def _fitting(canvas, title, letters, width):
    """``title`` on one line, cut to ``width`` pixels."""
    title = " ".join(str(title).split())
    while title and canvas.textlength(title, font=letters) > width:
        title = title[:-2].rstrip("…") + "…" if len(title) > 2 else ""
    return title
