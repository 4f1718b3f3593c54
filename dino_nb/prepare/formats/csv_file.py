"""CSV: a box a row, columns told by their names, in pixels or relative."""

import contextlib
import csv
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from dino_nb.errors import UserError, printable
from dino_nb.prepare.formats.columns import Columns, find_columns
from dino_nb.prepare.formats.source import Source
from dino_nb.prepare.formats.values import class_name, finite, image_size, split_of
from dino_nb.prepare.layout import is_relative, ordered
from dino_nb.prepare.table import Annotations, BoxRow, ImageRow

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_YES = ("1", "1.0", "true", "yes")

Row = tuple[int, list[str]]  # line number, cells


def find(source: Source) -> list[str]:
    """Keys of the CSV files that have columns for images and boxes."""

    def columns(key: str) -> Columns | None:
        head = source.head(key)
        with contextlib.suppress(csv.Error):  # told when the file is read
            return find_columns([cells for _, cells in list(_rows(head.rpartition("\n")[0] or head))[:50]])
        return None

    return [key for key in source.ending(".csv", ".tsv") if columns(key)]


def read(source: Source, files: list[str]) -> Annotations:
    """All ``files``."""
    # {"/m/0199g": "Bicycle"} of the class descriptions that come with Open Images
    described = [key for key in source.ending(".csv") if "class-descriptions" in posixpath.basename(key).lower()]
    cells_of = [cells for key in described for _, cells in _rows(source.text(key) or "")]
    known = {cells[0]: cells[1] for cells in cells_of if len(cells) == 2 and cells[0].startswith("/")}
    images: dict[str, list[ImageRow]] = {}
    predicted = []
    for key in files:
        rows: list[Row] = []
        try:
            rows.extend(_rows(source.text(key) or ""))
        except csv.Error as error:
            line = rows[-1][0] + 1 if rows else 1
            source.fault(f"{key}:{line}", f"cannot be read as CSV from here on ({error}): a quote is not closed?")
        columns = find_columns([cells for _, cells in rows[:50]])
        if columns is None:
            first = printable(",".join(rows[0][1])) if rows else "missing"
            raise UserError(
                f"{key}: its columns are not understood (the first line is {first!r}). Name them filename, xmin, ymin, "
                "xmax, ymax, class, in any order."
            )
        if columns.label is None and len(source.class_names) != 1:
            raise UserError(f"{key} has no column for the class: say --classes NAME if all boxes are of one class.")
        rows = rows[0 if columns.guessed else 1 :]
        scores = [
            finite(cells[columns.score : columns.score + 1], 1) for _, cells in rows[:200] if columns.score is not None
        ]
        if any(score and score[0] not in (0, 1) for score in scores):
            predicted.append(key)
        images[key] = _images(source, key, rows, columns, known)
        if columns.guessed:
            source.note(f"{key} has no line of column names; read as {columns.describe()}.")
    images = source.without_predictions(images, predicted)
    return Annotations([row for found in images.values() for row in found], dict.fromkeys(source.class_names) or None)


def _rows(text: str) -> Iterator[Row]:
    """The rows that are not empty; the delimiter is the commonest of the first line."""
    first = text.lstrip("\ufeff\r\n").split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(text.lstrip("\ufeff").splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, [cell.strip() for cell in cells]


def _images(source: Source, key: str, rows: list[Row], columns: Columns, known: dict[str, str]) -> list[ImageRow]:
    images: dict[tuple[str, str | None], ImageRow] = {}
    files: dict[tuple[str, str | None], str | None] = {}
    names, file_split = source.class_names, split_of(key, is_file=True)
    for line, cells in rows:
        where = f"{key}:{line}"
        if len(cells) <= columns.last:
            source.fault(where, f"the row has {len(cells)} columns where {columns.last + 1} are needed.")
            continue
        name = cells[columns.file]
        split = (split_of(f"{cells[columns.split]}/x") if columns.split is not None else None) or file_split
        if not name:
            source.fault(where, "the row names no image.")
            continue
        if (name, split) not in files:
            files[name, split] = source.find_image(name, near=key, where=where, split=split)
        if (file := files[name, split]) is None:
            continue
        split = split or split_of(file)
        size = image_size(*(cells[i] for i in columns.size)) if columns.size else None
        image = images.setdefault((file, split), ImageRow(file, where, split=split, size=size, source=key))
        texts = [cells[i] for i in columns.box]
        # a comma within a cell of one number is the decimal comma of a spreadsheet
        texts = _NUMBER.findall(texts[0]) if columns.form == "cell" else [t.replace(",", ".") for t in texts]
        if not any(texts):
            continue  # an image without objects
        box: Any = finite(texts, 4)
        label = class_name(cells[columns.label]) if columns.label is not None else names[0]
        label = names[int(label)] if re.fullmatch("[0-9]{1,6}", label) and int(label) < len(names) else label
        if box is None:
            said = printable(", ".join(texts), 60) or "nothing"
            source.fault(where, f"the box needs four finite numbers, not {said!r}.", image)
        elif not label:
            source.fault(where, "the row names no class.", image)
        else:
            crowd = columns.crowd is not None and any(c.lower() in _YES for c in cells[columns.crowd :][:1])
            x1, y1, x2, y2 = box
            image.boxes.append(BoxRow(known.get(label, label), x1, y1, x2, y2, where, int(crowd)))
    layout = source.box_format or _layout(columns, [box[1:5] for image in images.values() for box in image.boxes])
    for image in images.values():
        image.layout = layout
    return list(images.values())


def _layout(columns: Columns, boxes: list) -> str | None:
    table = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    if columns.guessed and len(table) and not ordered(table):  # nothing says what the four are: no corners
        columns.form = "xywh"
    relative = "-relative" if is_relative(table) else ""
    if columns.form == "cell":
        return "xywh-relative" if relative else None  # the numbers may object
    return columns.form + relative
