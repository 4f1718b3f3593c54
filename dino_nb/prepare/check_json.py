"""Reading an annotation file that may be anything: every way to fail is a finding with its place, not a traceback."""

import codecs
import json
from pathlib import Path

from dino_nb.prepare.findings import printable

MAX_JSON_BYTES = 2 << 30  # COCO's train2017 has 0.45 GB; parsed, JSON takes several times its size
MAX_LINED_CHARS = 128 << 20  # above this the text is not kept for finding lines

_BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
)
_LOOKS_LIKE = (
    (b"PK\x03\x04", "a zip archive (or spreadsheet)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x80\x04", "a Python pickle"),
    (b"%PDF", "a PDF"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
    (b"<!doctype html", "a web page: the download gave a page instead of the file"),
    (b"<html", "a web page: the download gave a page instead of the file"),
    (b"<", "XML: dino-nb convert reads Pascal VOC and CVAT"),
)
_SECTIONS = ("images", "annotations", "categories")


class JsonFile:
    """One annotation file: ``label`` is its name in messages, ``document`` its content, or None if unusable."""

    def __init__(self, path, label, document=None, text=""):
        self.path, self.label, self.document = Path(path), label, document
        self._text = text if "\n" in text.strip() and len(text) <= MAX_LINED_CHARS else ""
        self._offsets = {}

    def line(self, section, row):
        """The line, from 1, on which record ``row`` of list ``section`` begins; None for a file of one line."""
        if not self._text:
            return None
        if not self._offsets:
            self._offsets = _record_offsets(self._text)
        offsets = self._offsets.get(section, ())
        return self._text.count("\n", 0, offsets[row]) + 1 if row < len(offsets) else None


def read_json(path, label, findings, needs_annotations=True):
    """A ``JsonFile``; its document is a dict with three lists, or None where ``findings`` says why not.

    Without ``needs_annotations`` that list may be missing, as in a test split.
    """
    empty = JsonFile(path, label)
    try:
        size = Path(path).stat().st_size
        if size > MAX_JSON_BYTES:
            findings.add("json-huge", f"{size / 2**30:.1f} GiB; the limit is {MAX_JSON_BYTES / 2**30:.1f}", file=label)
            return empty
        data = Path(path).read_bytes()
    except OSError as error:
        findings.add("json-not-json", f"cannot be opened: {error.strerror}", file=label)
        return empty
    text = _decode(data, label, findings)
    if text is None:
        return empty
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1] if error.lineno <= text.count("\n") + 1 and text else ""
        near = printable(line[max(0, error.colno - 31) : error.colno + 30].strip() or "the end of the file", 70)
        what = f"line {error.lineno}, column {error.colno}: {error.msg}, at: {near}"
        findings.add("json-syntax", what, file=label, line=error.lineno)
        return empty
    except RecursionError:
        findings.add("json-nesting", "brackets within brackets without end", file=label)
        return empty
    except MemoryError:
        findings.add("json-huge", "the memory did not suffice to read it", file=label)
        return empty
    except ValueError:  # an integer of more digits than Python converts
        findings.add("json-syntax", "a number has thousands of digits", file=label)
        return empty
    if not needs_annotations and isinstance(document, dict):
        document.setdefault("annotations", [])
    return JsonFile(path, label, document if _has_structure(document, label, findings) else None, text)


def _decode(data, label, findings):
    """The text of a JSON file, or None; any encoding but UTF-8 is a finding."""
    for mark, encoding, name in _BOMS:
        if data.startswith(mark):
            fault = "json-bom" if encoding == "utf-8-sig" else "json-encoding"
            findings.add(fault, f"it is {name} with a byte order mark", file=label)
            data = data.decode(encoding, errors="replace").encode()  # what follows may still be no JSON at all
            break
    if not data.strip(b"\0 \t\r\n"):
        findings.add("json-not-json", "it is empty", file=label)
        return None
    head = data[:64].lstrip().lower()
    for magic, name in _LOOKS_LIKE:
        if head.startswith(magic.lower()):
            findings.add("json-not-json", f"it is {name}", file=label)
            return None
    encoding = json.detect_encoding(data)  # tells UTF-16 and -32 without a mark by their zero bytes
    if encoding not in ("utf-8", "utf-8-sig"):
        findings.add("json-encoding", f"it is {encoding.upper()}", file=label)
        return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        what = f"line {line}, byte {column}: 0x{data[error.start]:02x} is no UTF-8 (perhaps Windows-1252 or Latin-1)"
        findings.add("json-encoding", what, file=label, line=line)
        return data.decode("cp1252", errors="replace")


def _has_structure(document, label, findings):
    if not isinstance(document, dict):
        kind = {list: "a list", str: "a text", bool: "true or false"}.get(type(document), "a number or null")
        detections = (
            isinstance(document, list) and document and isinstance(document[0], dict) and "score" in document[0]
        )
        hint = ", as of detections (results, not annotations)" if detections else ""
        findings.add("json-structure", f"it is {kind}{hint}, not an object", file=label)
        return False
    wrong = [s for s in _SECTIONS if not isinstance(document.get(s), list)]
    for section in wrong:
        what = f"{section!r} is not a list" if section in document else f"{section!r} is missing"
        keys = ", ".join(repr(printable(k, 30)) for k in list(document)[:8]) or "none"
        findings.add("json-structure", f"{what}; the keys are {keys}", file=label)
    return not wrong


def _record_offsets(text):
    """Section -> character offset of each record of that list, for a text that has parsed as an object."""
    decoder, offsets, at = json.JSONDecoder(), {}, text.index("{") + 1
    while True:
        at = _skip(text, at)
        if text[at] == "}":
            return offsets
        key, at = decoder.raw_decode(text, at)
        at = _skip(text, at)  # also over the colon
        if key in _SECTIONS and text[at] == "[":
            starts = offsets[key] = []
            at = _skip(text, at + 1)
            while text[at] != "]":
                starts.append(at)
                at = _skip(text, decoder.raw_decode(text, at)[1])
            at += 1
        else:
            at = decoder.raw_decode(text, at)[1]


def _skip(text, at):
    while text[at] in " \t\r\n,:":
        at += 1
    return at
