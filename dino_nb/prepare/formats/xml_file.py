"""XML with line numbers, entities refused (defusedxml): an annotation file is somebody else's."""

import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from dino_nb.errors import explain
from dino_nb.prepare.formats.source import Source


class _Lined(TreeBuilder):
    """Builds elements and notes in ``lines`` the line on which each begins."""

    def __init__(self):
        super().__init__()
        self.lines, self.parser = {}, None

    def start(self, tag, attributes):
        element = super().start(tag, attributes)
        self.lines[element] = self.parser.CurrentLineNumber
        return element


def parse(source: Source, key: str) -> tuple[Element, dict[Element, int]] | None:
    """``(root, lines)`` with ``lines[element]`` its line from 1; None after counting a fault."""
    try:
        return _parsed(source.paths[key].read_bytes())
    except OSError as error:
        source.fault(key, explain(error))
    except ParseError as error:
        if "invalid token" in str(error) and (text := source.text(key)):  # Windows-1252 that claims to be UTF-8
            try:
                return _parsed(re.sub(r"^\ufeff?\s*<\?xml.*?\?>", lambda m: "\n" * m[0].count("\n"), text).encode())
            except (ParseError, DefusedXmlException, ValueError):
                pass
        line, column = error.position
        reason = str(error).split(":")[0]
        source.fault(f"{key}:{line}", f"column {column + 1}: not correct XML ({reason}).")
    except DefusedXmlException as error:
        kind = type(error).__name__
        source.fault(key, f"refused, since it defines entities as an attack would ({kind}): remove them.")
    except (LookupError, ValueError) as error:
        source.fault(key, f"its XML encoding cannot be read ({error}): save the file as UTF-8.")
    return None


def _parsed(data):
    builder = _Lined()
    parser = DefusedXMLParser(target=builder)
    builder.parser = parser.parser
    parser.feed(data)
    return parser.close(), builder.lines


def root_tag(head: str) -> str:
    """The name of the first element in the beginning of a file, or an empty string."""
    at = head.find("<")
    while at >= 0:
        if head.startswith("<!--", at):
            at = head.find("-->", at)
        elif not head.startswith(("<?", "<!"), at):
            name = re.match(r"<([^\s<>/]+)", head[at : at + 200])
            return name[1] if name else ""
        at = head.find("<", at + 1) if at >= 0 else -1
    return ""


def text(element: Element, path: str) -> str:
    """The stripped text of the sub-element ``path``, empty if it is missing."""
    return (element.findtext(path) or "").strip()
