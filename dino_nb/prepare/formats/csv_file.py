"""CSV: a box a row, columns told by their names, in pixels or relative."""

import contextlib
import csv
import re

from dino_nb.errors import UserError
from dino_nb.prepare.formats.boxes import as_corners
from dino_nb.prepare.formats.columns import Columns, find_columns
from dino_nb.prepare.formats.source import Box, Labels, Picture, class_name, finite, split_of

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def find(source):
    """Keys of the CSV files that have columns for pictures and boxes."""
    found = []
    for key in source.ending(".csv", ".tsv"):
        rows = []
        head = source.head(key)
        with contextlib.suppress(csv.Error):  # told when the file is read
            rows = list(_rows(head.rpartition("\n")[0] or head))
        if rows and find_columns([cells for _, cells in rows[:50]]):
            found.append(key)
    return found


def read(source, files, options):
    """`Labels` of all ``files``."""
    pictures, names = [], list(options.class_names or ())
    for key in files:
        rows = []
        try:
            rows.extend(_rows(source.text(key) or ""))
        except csv.Error as error:
            line = rows[-1][0] + 1 if rows else 1
            source.fault(f"{key}:{line}", f"cannot be read as CSV from here on ({error}): a quote is not closed?")
        columns = find_columns([cells for _, cells in rows[:50]])
        if columns is None:
            first = ",".join(rows[0][1])[:120] if rows else "missing"
            raise UserError(
                f"{key}: its columns are not understood (the first line is {first!r}). Name them filename, xmin, ymin, "
                "xmax, ymax, class, in any order."
            )
        if columns.label is None and len(names) != 1:
            raise UserError(f"{key} has no column for the class: say --classes NAME if all boxes are of one class.")
        if columns.guessed:
            source.note(f"{key} has no line of column names; read as {columns.describe()}.")
        pictures += _pictures(source, key, rows[0 if columns.guessed else 1 :], columns, names, options.box_format)
    return Labels(pictures, dict.fromkeys(names) if names else None)


def _rows(text):
    """``(line number, cells)`` of each row that is not empty; the delimiter is the commonest of the first line."""
    first = text.lstrip("\ufeff\r\n").split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, [cell.strip() for cell in cells]


def _pictures(source, key, rows, columns: Columns, names, box_format):
    pictures, files, values = {}, {}, []
    file_split = split_of(key, is_file=True)
    for line, cells in rows:
        where = f"{key}:{line}"
        if len(cells) <= columns.last:
            source.fault(where, f"the row has {len(cells)} columns where {columns.last + 1} are needed.")
            continue
        name = cells[columns.file]
        split = (split_of(f"{cells[columns.split]}/x") if columns.split is not None else None) or file_split
        if (name, split) not in files:
            files[name, split] = name and source.find_image(name, near=key, where=where, split=split)
            if not name:
                source.fault(where, "the row names no picture.")
        file = files[name, split]
        if not file:
            continue
        split = split or split_of(file)
        size = finite([cells[i] for i in columns.size], 2) if columns.size else None
        size = tuple(map(int, size)) if size and min(size) > 0 else None
        picture = pictures.setdefault((file, split), Picture(file, where, split=split, size=size))
        texts = [cells[i] for i in columns.box]
        texts = _NUMBER.findall(texts[0]) if columns.form == "cell" else texts
        if not any(texts):
            continue  # a picture without objects
        box = finite(texts, 4)
        label = class_name(cells[columns.label]) if columns.label is not None else names[0]
        label = names[int(label)] if names and label.isdigit() and int(label) < len(names) else label
        if box is None:
            source.fault(where, f"the box needs four finite numbers, not {', '.join(texts)[:60] or 'nothing'!r}.")
        elif not label:
            source.fault(where, "the row names no class.")
        else:
            picture.boxes.append(Box(label, *box, where))
            values += box
    relative = bool(values) and min(values) >= -0.01 and max(values) <= 1.01 and any(v != int(v) for v in values)
    form = "xywh" if columns.form == "cell" else columns.form
    if box_format is None and columns.form == "cell" and not relative:
        return as_corners(key, list(pictures.values()))  # nothing says what the four are: the numbers may object
    return as_corners(key, list(pictures.values()), box_format or form + ("-relative" if relative else ""))
