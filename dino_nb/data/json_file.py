"""A JSON file that may be anything: parsed, or refused with its place. Lines are found only when asked for."""

import json
from pathlib import Path
from typing import Any

from dino_nb.errors import UserError, explain, printable
from dino_nb.files import what_is

MAX_BYTES = 2 << 30  # COCO's train2017 has 0.45 GB; parsed, JSON takes several times its size
_MAX_LINED = 128 << 20  # characters above which the text is not kept for finding lines


class BadJson(UserError):
    """A file that is not usable JSON. ``kind``: the name of the fault; ``line`` and ``column``: from 1, or None."""

    def __init__(self, text: str = "", kind: str = "json-syntax", line: int | None = None, column: int | None = None):
        super().__init__(text)
        self.kind, self.line, self.column = kind, line, column


class JsonFile:
    """A file that parsed.

    Attributes:
        path: the file.
        document: its content.
        oddity: None, or a ``BadJson`` (not raised) that says how the text differs from plain UTF-8.
    """

    def __init__(self, path: Path | str, document: Any, text: str, oddity: BadJson | None = None) -> None:
        self.path, self.document, self.oddity = Path(path), document, oddity
        self._text = text if "\n" in text.strip() and len(text) <= _MAX_LINED else ""
        self._offsets: dict[str, list[int]] = {}

    def line(self, section: str, row: int) -> int | None:
        """The line, from 1, on which entry ``row`` of the list ``section`` begins; None for a file of one line."""
        if self._text and not self._offsets and isinstance(self.document, dict):
            self._offsets = _entry_offsets(self._text)
        offsets = self._offsets.get(section, [])
        return self._text.count("\n", 0, offsets[row]) + 1 if row < len(offsets) else None


def read_json(path: Path | str) -> JsonFile:
    """Parse ``path``. Raises ``BadJson``, whose text does not name the file, if that is not possible."""
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise BadJson(f"it has {size / 2**30:.1f} GiB; the limit is {MAX_BYTES / 2**30:.1f}", "json-huge")
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadJson(explain(error), "json-not-json") from None
    text, oddity = _decode(data)
    try:
        return JsonFile(path, json.loads(text), text, oddity)
    except json.JSONDecodeError as error:
        start = text.rfind("\n", 0, error.pos) + 1
        end = text.find("\n", error.pos) if "\n" in text[error.pos :] else len(text)
        near = text[max(start, error.pos - 30) : min(end, error.pos + 30)].strip()
        near = printable(near or "the end of the file" if error.pos >= len(text.rstrip()) else near, 70)
        what = f"line {error.lineno}, column {error.colno}: not correct JSON ({error.msg}), at: {near}"
        raise BadJson(what, "json-syntax", error.lineno, error.colno) from None
    except RecursionError:
        raise BadJson("brackets are nested too deeply", "json-nesting") from None
    except MemoryError:
        raise BadJson("there is not enough memory to read it", "json-huge") from None
    except ValueError:  # an integer of more digits than Python converts
        raise BadJson("a number has thousands of digits", "json-syntax") from None


def _decode(data: bytes) -> tuple[str, BadJson | None]:
    """The text of a JSON file, and what is odd about its encoding."""
    oddity, encoding = None, json.detect_encoding(data)
    if encoding in ("utf-8-sig", "utf-16", "utf-32"):  # with a mark
        kind = "json-bom" if encoding == "utf-8-sig" else "json-encoding"
        oddity = BadJson(f"it is {encoding.removesuffix('-sig').upper()} with a byte order mark", kind)
        data = data.decode(encoding, errors="replace").encode()  # what follows may still be no JSON at all
    xml = "XML: dino-nb convert reads Pascal VOC and CVAT" if data.lstrip()[:1] == b"<" else None
    if what := what_is(data if len(data) < 1000 else data[:256]) or xml:
        raise BadJson(f"it is {what}", "json-not-json")
    if oddity is None and encoding != "utf-8":  # told by its zero bytes
        return data.decode(encoding, errors="replace"), BadJson(f"it is {encoding.upper()}", "json-encoding")
    try:
        return data.decode("utf-8"), oddity
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        byte = f"byte 0x{data[error.start]:02x} is not UTF-8"
        what = f"line {line}, byte {column}: {byte} (perhaps Windows-1252 or Latin-1)"
        return data.decode("cp1252", errors="replace"), BadJson(what, "json-encoding", line, column)


def _entry_offsets(text: str) -> dict[str, list[int]]:
    """Key -> character offset of each entry of that list, for a text that has parsed as an object."""
    decoder, at = json.JSONDecoder(), text.index("{") + 1
    offsets: dict[str, list[int]] = {}
    while True:
        at = _skip(text, at)
        if text[at] == "}":
            return offsets
        key, at = decoder.raw_decode(text, at)
        at = _skip(text, at)  # also over the colon
        if text[at] == "[":
            starts = offsets[key] = []
            at = _skip(text, at + 1)
            while text[at] != "]":
                starts.append(at)
                at = _skip(text, decoder.raw_decode(text, at)[1])
            at += 1
        else:
            at = decoder.raw_decode(text, at)[1]


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n,:":
        at += 1
    return at
