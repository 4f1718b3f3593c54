"""XML with line numbers, entities refused (defusedxml): an annotation file is somebody else's."""

from xml.etree.ElementTree import ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser


class _Lined(TreeBuilder):
    """Builds elements and notes in ``lines`` the line on which each begins."""

    def __init__(self):
        super().__init__()
        self.lines, self.parser = {}, None

    def start(self, tag, attributes):
        element = super().start(tag, attributes)
        self.lines[element] = self.parser.CurrentLineNumber
        return element


def parse(source, key):
    """``(root, lines)`` with ``lines[element]`` its line from 1; None after counting a fault."""
    builder = _Lined()
    parser = DefusedXMLParser(target=builder)
    builder.parser = parser.parser
    try:
        parser.feed(source.paths[key].read_bytes())
        return parser.close(), builder.lines
    except ParseError as error:
        line, column = error.position
        reason = str(error).split(":")[0]
        source.fault(f"{key}:{line}", f"column {column + 1}: not correct XML ({reason}).")
    except DefusedXmlException as error:
        source.fault(
            key, f"refused, since it defines entities as an attack would ({type(error).__name__}): remove them."
        )
    except (LookupError, ValueError) as error:
        source.fault(key, f"its XML encoding cannot be read ({error}): save the file as UTF-8.")
    return None


def root_tag(head):
    """The name of the first element in the beginning of a file, or an empty string."""
    at = 0
    while 0 <= (at := head.find("<", at)) < len(head) - 1:
        if head.startswith("<!--", at):
            at = head.find("-->", at)
            if at < 0:
                return ""
        elif head[at + 1] not in "?!":
            return head[at + 1 :].split(">")[0].split("/")[0].split()[0] if head[at + 1 :].strip() else ""
        at += 1
    return ""


def text(element, path):
    """The stripped text of the sub-element ``path``, empty if it is missing."""
    return (element.findtext(path) or "").strip()
