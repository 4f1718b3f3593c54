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
from dino_nb.prepare.formats.source import Options, Source
from dino_nb.prepare.formats.values import class_name, finite, image_size, split_of
from dino_nb.prepare.layout import is_relative, ordered
from dino_nb.prepare.table import Annotations, BoxRow, ImageRow

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_YES = ("1", "1.0", "true", "yes")


def find(source: Source) -> list[str]:
    """Keys of the CSV files that have columns for images and boxes."""
    found = []
    for key in source.ending(".csv", ".tsv"):
        rows: list[tuple[int, list[str]]] = []
        head = source.head(key)
        with contextlib.suppress(csv.Error):  # told when the file is read
            rows = list(_rows(head.rpartition("\n")[0] or head))
        if rows and find_columns([cells for _, cells in rows[:50]]):
            found.append(key)
    return found


def read(source: Source, files: list[str], options: Options) -> Annotations:
    """All ``files``."""
    names, known = list(options.class_names or ()), _open_images_names(source)
    images: dict[str, list[ImageRow]] = {}
    predicted = []
    for key in files:
        rows: list[tuple[int, list[str]]] = []
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
        if columns.label is None and len(names) != 1:
            raise UserError(f"{key} has no column for the class: say --classes NAME if all boxes are of one class.")
        rows = rows[0 if columns.guessed else 1 :]
        if columns.score is not None and any(_is_score(cells, columns.score) for _, cells in rows[:200]):
            predicted.append(key)
        images[key] = _images(source, key, rows, columns, names, known, options.box_format)
        if columns.guessed:
            source.note(f"{key} has no line of column names; read as {columns.describe()}.")
    images = source.without_predictions(images, predicted)
    return Annotations([row for found in images.values() for row in found], dict.fromkeys(names) if names else None)


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """``(line number, cells)`` of each row that is not empty; the delimiter is the commonest of the first line."""
    first = text.lstrip("\ufeff\r\n").split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(text.lstrip("\ufeff").splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, [cell.strip() for cell in cells]


def _is_score(cells: list[str], i: int) -> bool:
    score = finite(cells[i : i + 1], 1)
    return bool(score) and score != [0.0] and score != [1.0]


def _open_images_names(source: Source) -> dict[str, str]:
    """``{"/m/0199g": "Bicycle"}`` of the class descriptions that come with Open Images."""
    files = [key for key in source.ending(".csv") if "class-descriptions" in posixpath.basename(key).lower()]
    rows = (cells for key in files for _, cells in _rows(source.text(key) or ""))
    return {cells[0]: cells[1] for cells in rows if len(cells) == 2 and cells[0].startswith("/")}


def _images(
    source: Source,
    key: str,
    rows: list[tuple[int, list[str]]],
    columns: Columns,
    names: list[str],
    known: dict[str, str],
    box_format: str | None,
) -> list[ImageRow]:
    images: dict[tuple[str, str | None], ImageRow] = {}
    files: dict[tuple[str, str | None], str | None] = {}
    file_split = split_of(key, is_file=True)
    for line, cells in rows:
        where = f"{key}:{line}"
        if len(cells) <= columns.last:
            source.fault(where, f"the row has {len(cells)} columns where {columns.last + 1} are needed.")
            continue
        name = cells[columns.file]
        split = (split_of(f"{cells[columns.split]}/x") if columns.split is not None else None) or file_split
        if (name, split) not in files:
            files[name, split] = source.find_image(name, near=key, where=where, split=split) if name else None
            if not name:
                source.fault(where, "the row names no image.")
        file = files[name, split]
        if not file:
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
        label = names[int(label)] if names and re.fullmatch("[0-9]{1,6}", label) and int(label) < len(names) else label
        if box is None:
            said = printable(", ".join(texts), 60) or "nothing"
            source.fault(where, f"the box needs four finite numbers, not {said!r}.", image)
        elif not label:
            source.fault(where, "the row names no class.", image)
        else:
            crowd = columns.crowd is not None and any(c.lower() in _YES for c in cells[columns.crowd :][:1])
            image.boxes.append(BoxRow(known.get(label, label), box[0], box[1], box[2], box[3], where, int(crowd)))
    layout = box_format or _layout(columns, [box[1:5] for image in images.values() for box in image.boxes])
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
