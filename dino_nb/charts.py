"""Blocks of a report beside text and tables (`dino_nb.printer`): sections, bars, curves, a matrix, images.

They need no network and no scripts, follow the reader's light or dark mode, and fit a phone.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from dino_nb.errors import UserError, printable
from dino_nb.printer import Block, Table

COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8F4370", "#A39A00")


def _safe(text, limit=300):
    return html.escape(printable(text, limit))


@dataclass
class Section(Block):
    """Blocks under a title, which fold away in HTML."""

    title: str
    blocks: Sequence[Block]
    open: bool = True

    def text(self) -> list[str]:
        lines = [line for block in self.blocks for line in ["", *block.text()]]
        return [printable(self.title, 300), "-" * len(self.title), *lines[1:]]

    def html(self) -> str:
        body = "".join(block.html() for block in self.blocks)
        state = " open" if self.open else ""
        return f'<details class="part"{state}><summary><h2>{_safe(self.title)}</h2></summary>{body}</details>'


@dataclass
class Bars(Block):
    """Rows ``(name, length, text)`` with a bar each; the longest bar stands for the largest length."""

    rows: Sequence[tuple[str, float, str]]

    def text(self) -> list[str]:
        return Table(("", ""), [(name, text) for name, _, text in self.rows]).text()[1:]

    def html(self) -> str:
        most = max([length for _, length, _ in self.rows] + [1e-9])
        rows = "".join(
            f'<tr><td>{_safe(name, 80)}</td><td class="bars"><div style="width:{100 * max(0.0, length) / most:.1f}%">'
            f"</div></td><td>{_safe(text)}</td></tr>"
            for name, length, text in self.rows
        )
        return f'<div class="wide"><table>{rows}</table></div>'


@dataclass
class Curves(Block):
    """Curves ``(name, x, y, colour)`` over 0..1; a y below 0 is left out, a curve without a name is thin.

    ``mark``: where a vertical line stands; ``point``: ``(name, x, y)`` of a diamond; ``height``: of the plot, 400 wide.
    A terminal shows no curves.
    """

    title: str
    series: Sequence[tuple[str, Sequence[float], Sequence[float], str]]
    xlabel: str
    mark: float | None = None
    point: tuple[str, float, float] | None = None
    height: int = 230

    def text(self) -> list[str]:
        return []

    def html(self) -> str:
        low, parts, legend = 20 + self.height, [], []
        for tick in (0, 0.25, 0.5, 0.75, 1):
            x, y = self._place(tick, tick)
            parts.append(f'<path d="M40 {y}H440M{x} 20V{low}" stroke="#8884"/>')
            parts.append(f'<text x="34" y="{y + 4}" text-anchor="end">{tick:g}</text>')
            parts.append(f'<text x="{x}" y="{low + 16}" text-anchor="middle">{tick:g}</text>')
        for name, xs, ys, color in self.series:
            points = " ".join("{:.1f},{:.1f}".format(*self._place(x, y)) for x, y in zip(xs, ys) if y >= 0)
            width = 2.5 if name else 1
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{width}"/>')
            if name:
                legend.append(f'<span style="color:{color}">&#9632;</span>&nbsp;{_safe(name, 40)}')
        if self.mark is not None:
            x, _ = self._place(self.mark, 0)
            parts.append(f'<path d="M{x:.1f} 20V{low}" stroke="currentColor" stroke-dasharray="4 3"/>')
        if self.point is not None:
            x, y = self._place(*self.point[1:])
            parts.append(f'<path d="M{x - 6:.1f} {y:.1f}l6 -6 6 6 -6 6z" stroke="Canvas"/>')
            legend.append(f"&#9670;&nbsp;{_safe(self.point[0], 40)}")
        parts.append(f'<text x="240" y="{low + 34}" text-anchor="middle">{_safe(self.xlabel)}</text>')
        body = f'viewBox="0 0 450 {low + 40}" width="450" font-size="11" fill="currentColor">{"".join(parts)}'
        title = f"<b>{_safe(self.title)}</b><br>" if self.title else ""
        return f"<figure>{title}<svg {body}</svg><figcaption>{' &ensp; '.join(legend)}</figcaption></figure>"

    def _place(self, x, y):
        return 40 + 400 * x, 20 + self.height * (1 - y)


@dataclass
class Matrix(Block):
    """Counts with names of rows and columns, shaded by their share of the row; cells may be links.

    ``links``: ``{(row, column): id}`` of an ``Images`` block.
    """

    corner: str
    rows: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]
    links: dict[tuple[int, int], str] = field(default_factory=dict)

    def text(self) -> list[str]:
        return Table((self.corner, *self.columns), [(n, *map(int, r)) for n, r in zip(self.rows, self.counts)]).text()

    def html(self) -> str:
        head = "".join(f"<th>{_safe(name, 24)}</th>" for name in (self.corner, *self.columns))
        rows = [f"<tr>{head}</tr>"]
        for i, (name, row) in enumerate(zip(self.rows, self.counts)):
            cells = "".join(self._cell(i, j, int(value), sum(row)) for j, value in enumerate(row))
            rows.append(f"<tr><th>{_safe(name, 24)}</th>{cells}</tr>")
        return f'<div class="wide"><table class="matrix">{"".join(rows)}</table></div>'

    def _cell(self, i, j, value, total):
        share = value / total if total else 0
        text = f"{value:,}<br><small>{share:.0%}</small>" if value else ""
        text = f'<a href="#{self.links[i, j]}">{text}</a>' if (i, j) in self.links else text
        hue = "0,158,115" if self.rows[i] == self.columns[j] else "213,94,0"
        return f'<td style="background:rgba({hue},{0.75 * share:.2f})">{text}</td>'


@dataclass
class Images(Block):
    """Images ``(caption, function that makes it)`` in a row, under a title that folds, embedded as small JPEGs.

    An image that cannot be read is named with the reason. ``side``: their pixels at most; ``anchor``: for links.
    """

    title: str
    images: Sequence[tuple[str, Callable[[], Image.Image]]]
    side: int = 480
    open: bool = False
    anchor: str = ""

    def text(self) -> list[str]:
        return [f"{printable(self.title)}: " + "; ".join(printable(caption) for caption, _ in self.images)]

    def html(self) -> str:
        figures = "".join(self._figure(caption, make) for caption, make in self.images)
        state = " open" if self.open else ""
        inside = f'<div id="{html.escape(self.anchor)}">{figures}</div>'
        return f"<details{state}><summary>{_safe(self.title)}</summary>{inside}</details>"

    def _figure(self, caption, make):
        try:
            image = make().convert("RGB")
        except UserError as error:
            return f"<figure>{_safe(error)}</figure>"
        image.thumbnail((self.side, self.side))
        data = io.BytesIO()
        image.save(data, "JPEG")
        source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        size = f'width="{image.width}" height="{image.height}"'
        return (
            f'<figure style="width:{image.width}px"><img {size} alt="{_safe(caption)}" src="{source}">'
            f"<figcaption>{_safe(caption)}</figcaption></figure>"
        )
