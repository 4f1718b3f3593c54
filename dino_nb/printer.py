"""Reports as text and as HTML: the one printer of checks, conversions and evaluations.

A report is a list of blocks. Whatever is in them may come from a stranger's file: it is made printable and escaped.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dino_nb.errors import printable

_COLOURS = {"error": "#c0392b", "warning": "#b9770e", "note": "#2471a3"}
_CSS = """.dnb{font:15px/1.45 system-ui,sans-serif;max-width:62rem}.dnb h1{font-size:1.35rem;overflow-wrap:anywhere}
.dnb h2{font-size:1.15rem;display:inline}.dnb summary{cursor:pointer;padding:.3rem 0}.dnb p{overflow-wrap:anywhere}
.dnb details.part{border-top:1px solid #8886;margin:.6rem 0;padding-top:.2rem}.dnb .wide{overflow-x:auto}
.dnb table{border-collapse:collapse;margin:.4rem 0;font-size:.93em}.dnb th{text-align:left}
.dnb td,.dnb th{padding:.15rem .55rem;border-bottom:1px solid #8883;white-space:nowrap}
.dnb .matrix td{text-align:center}.dnb a{color:inherit}.dnb svg,.dnb img{max-width:100%;height:auto}
.dnb .bars{width:12rem;min-width:5rem}.dnb .bars div{background:#4c8bb8;height:.8em;min-width:1px}
.dnb figure{display:inline-block;margin:.3rem;vertical-align:top;max-width:100%}
.dnb figcaption{font-size:.8em;overflow-wrap:anywhere}
@media(max-width:40rem){.dnb table{font-size:.8em}.dnb td,.dnb th{white-space:normal;padding:.15rem .25rem}
.dnb .bars{width:auto;min-width:4rem}}"""
_PAGE = """:root{color-scheme:light dark}
body{background:Canvas;color:CanvasText;margin:0 auto;padding:.8rem;max-width:62rem}
@media print{details::details-content{content-visibility:visible;block-size:auto}figure,tr{break-inside:avoid}}"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a page runs nothing and asks for nothing


class Block(Protocol):
    """What a report is made of; more kinds are in `dino_nb.charts`."""

    def text(self) -> list[str]:
        """The block for a terminal."""

    def html(self) -> str:
        """The block as an HTML fragment."""


@dataclass
class Lines(Block):
    """Plain lines of text."""

    lines: Sequence[object]

    def text(self) -> list[str]:
        return [printable(line, 1000) for line in self.lines]

    def html(self) -> str:
        return f"<p>{'<br>'.join(map(html.escape, self.text()))}</p>" if self.lines else ""


@dataclass
class Folded(Block):
    """A title with lines below it, folded in a notebook. ``level`` (error, warning, note) gives the title a colour."""

    title: str
    lines: Sequence[object]
    level: str = ""
    open: bool = False

    def text(self) -> list[str]:
        return [printable(self.title, 300), *(" " * 8 + printable(line, 1000) for line in self.lines)]

    def html(self) -> str:
        title, *lines = (html.escape(line.strip()) for line in self.text())
        style = f' style="color:{_COLOURS[self.level]}"' if self.level else ""
        state = " open" if self.open else ""
        items = "".join(f"<div style='margin-left:2em'>{line}</div>" for line in lines)
        return f"<details{state}><summary><b{style}>{title}</b></summary>{items}</details>"


@dataclass
class Table(Block):
    """A table. Numbers are right-aligned, fractions get three places, and negative ones (undefined) a dash."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    limit: int = 100

    def text(self) -> list[str]:
        cells, right, more = self._shown()
        widths = [max(map(len, column)) for column in zip(*cells)]
        rows = ([c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)] for row in cells)
        return [*(f"  {'  '.join(row).rstrip()}" for row in rows), *more]

    def html(self) -> str:
        cells, right, more = self._shown()
        aligned = [f"style='text-align:{'right' if r else 'left'}'" for r in right]
        (head, *rows) = (
            "".join(f"<{tag} {a}>{html.escape(cell)}</{tag}>" for cell, a in zip(row, aligned))
            for row, tag in zip(cells, ["th"] + ["td"] * len(cells))
        )
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="wide">{table}</div>{"".join(more)}'

    def _shown(self) -> tuple[list[list[str]], list[bool], list[str]]:
        """Cells, the header's first; which columns are numbers; how many rows are left out."""
        rows = [[_cell(value) for value in row] for row in self.rows[: self.limit]]
        first, more = self.rows[0] if self.rows else self.header, len(self.rows) - self.limit
        numbers = [isinstance(value, (int, float)) for value in first]
        return [[printable(h, 40) for h in self.header], *rows], numbers, [f"  ... and {more:,} more"] * (more > 0)


class Printed:
    """Base of reports: ``blocks()`` says what is in them; they print as text and show as HTML in a notebook."""

    def blocks(self) -> list[Block]:
        """The report's blocks."""
        raise NotImplementedError

    def __str__(self) -> str:
        return to_text(self.blocks())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return to_html(self.blocks())


def to_text(blocks: Sequence[Block]) -> str:
    """Blocks for a terminal, an empty line between them."""
    return "\n\n".join(filter(None, ("\n".join(block.text()) for block in blocks)))


def to_html(blocks: Sequence[Block]) -> str:
    """Blocks as an HTML fragment."""
    return f'<div class="dnb"><style>{_CSS}</style>{"".join(block.html() for block in blocks)}</div>'


def to_page(blocks: Sequence[Block], title: str) -> str:
    """Blocks as a whole HTML page: one file that can be sent, read on a phone and in the dark, and printed."""
    name = html.escape(printable(title))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{name}</title><style>{_PAGE}</style>'
        f'<body><div class="dnb"><h1>{name}</h1></div>{to_html(blocks)}</body></html>\n'
    )


def counted(n: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``1,234 images``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def examples(lines: Sequence[object], count: int) -> list[str]:
    """Examples of ``count`` things as list entries, the last of which says how many more there are."""
    more = [f"- ... and {count - len(lines):,} more"] if lines and count > len(lines) else []
    return [*(f"- {line}" for line in lines), *more]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value < 0 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else printable(value, 60)
