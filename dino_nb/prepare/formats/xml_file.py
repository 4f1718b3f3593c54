"""XML with line numbers, entities refused (defusedxml): an annotation file is somebody else's."""

import contextlib
import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from dino_nb.errors import explain
from dino_nb.prepare.formats.source import Source


class _Lined(TreeBuilder):
    """Builds elements and notes in ``lines`` the line, from 1, on which each begins."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.lines: dict[Element, int] = {}
        parser = DefusedXMLParser(target=self)
        self.expat = parser.parser
        parser.feed(data)
        self.root = parser.close()

    def start(self, tag, attributes):
        element = super().start(tag, attributes)
        self.lines[element] = self.expat.CurrentLineNumber
        return element


def parse(source: Source, key: str) -> tuple[Element, dict[Element, int]] | None:
    """``(root, lines)`` with ``lines[element]`` its line from 1; None after counting a fault."""
    try:
        built = _Lined(source.paths[key].read_bytes())
        return built.root, built.lines
    except OSError as error:
        source.fault(key, explain(error))
    except ParseError as error:
        if "invalid token" in str(error) and (text := source.text(key)):  # Windows-1252 that claims to be UTF-8
            plain = re.sub(r"^\ufeff?\s*<\?xml.*?\?>", lambda m: "\n" * m[0].count("\n"), text)
            with contextlib.suppress(ParseError, DefusedXmlException, ValueError):
                built = _Lined(plain.encode())
                return built.root, built.lines
        line, column = error.position
        reason = str(error).split(":")[0]
        source.fault(f"{key}:{line}", f"column {column + 1}: not correct XML ({reason}).")
    except DefusedXmlException as error:
        kind = type(error).__name__
        source.fault(key, f"refused, since it defines entities as an attack would ({kind}): remove them.")
    except (LookupError, ValueError) as error:
        source.fault(key, f"its XML encoding cannot be read ({error}): save the file as UTF-8.")
    return None


def with_root(source: Source, tag: str) -> list[str]:
    """Keys of the XML files whose first element is ``tag``, comments and declarations aside."""

    def first(key: str) -> str:
        head = re.sub(r"<!--.*?(-->|$)", "", source.head(key)[:4096], flags=re.S)
        found = re.search(r"<([^\s<>/?!]+)", head)
        return found[1] if found else ""

    return [key for key in source.ending(".xml") if first(key) == tag]


def text(element: Element, path: str) -> str:
    """The stripped text of the sub-element ``path``, empty if it is missing."""
    return (element.findtext(path) or "").strip()
