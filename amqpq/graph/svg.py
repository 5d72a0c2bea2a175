"""A graph as one SVG file: no font, script or picture is loaded, and it reads on light and dark pages alike.

Everything the topology names is escaped, long names and long lists of keys are folded, and the whole text is in the `<title>`
that a browser shows when the mouse rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from amqpq.graph import style
from amqpq.graph.layered import Cell
from amqpq.graph.model import Edge, EdgeKind, Graph, Node
from amqpq.graph.placing import Layout, Piece, Place, Size, Wire, lay_out
from amqpq.graph.shapes import ICON, behind, colour_of, icon_of, inset, number, outline, rounded
from amqpq.graph.text import cleaned, folded, mono_width, printable, sans_width, wrapped

NAME_SIZE: Final = 13.0
KEY_SIZE: Final = 11.0
WORD_SIZE: Final = 11.0
NAME_COLUMNS: Final = 32
KEY_COLUMNS: Final = 36
WORD_COLUMNS: Final = 32
WORD_LINES: Final = 3
LINE: Final = 15.0
"""From one line of words to the next, pixels."""
MARGIN: Final = 24.0
HEADING: Final = 70.0
"""Room for the heading and the captions of the columns."""
ICON_ROOM: Final = 34.0
ARROW: Final = 7.0

MEANINGS: Final[Mapping[EdgeKind, str]] = {
    "publish": "published to",
    "binding": "binding",
    "unrouted": "no binding matched",
    "dead": "dead letters",
    "delay": "delays",
}


def svg(graph: Graph) -> str:
    """Return the picture of a graph as an SVG document."""
    return _Picture(cleaned(graph)).text()


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture in the making."""

    graph: Graph

    def text(self) -> str:
        layout = lay_out(self.graph, self._measure)
        width = max(layout.size.width, 420.0) + 2 * MARGIN
        footer = list(self._footer(width - 2 * MARGIN))
        height = HEADING + layout.size.height + 2 * MARGIN + len(footer) * (LINE + 2)
        title = escape(self.graph.title)
        size = f'width="{number(width)}" height="{number(height)}"'
        box = f'viewBox="0 0 {number(width)} {number(height)}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="amqpq-graph" role="img" {size} {box}>',
            f"<title>{title}</title>",
            f"<desc>{escape(_described(self.graph))}</desc>",
            f"<style>\n{style.sheet()}</style>",
            f'<rect class="paper" {size} rx="10"/>',
            f'<text class="heading" x="{number(MARGIN)}" y="36">{title}</text>',
            f'<g transform="translate({number(MARGIN)} {number(HEADING)})">',
            *self._captions(layout),
            *self._wires(layout),
            *(line for cell, place in layout.labels for line in _label(cell, place)),
            *(line for node in self.graph.nodes for line in self._box(node, layout.boxes[node.name])),
            "</g>",
            f'<g transform="translate({number(MARGIN)} {number(HEADING + layout.size.height + MARGIN)})">',
            *(line.replace("@y", number(index * (LINE + 2) + 12)) for index, line in enumerate(footer)),
            "</g>",
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    # ------------------------------------------------------------------------------------------------------- boxes

    def _measure(self, cell: Cell) -> Size:
        if cell.kind == "label":
            return Size(mono_width(folded(cell.text, KEY_COLUMNS), KEY_SIZE) + 14, 19.0)
        node = self.graph.by_name[cell.text]
        words, live = self._words(node), node.live
        widths = [mono_width(_name(node), NAME_SIZE), *(sans_width(line, WORD_SIZE) for line in words)]
        widest = max(64.0, *widths, *(sans_width(line, WORD_SIZE, bold=True) for line in live))
        return Size(ICON_ROOM + widest + 16, 34.0 + LINE * len((*words, *live)))

    def _words(self, node: Node) -> tuple[str, ...]:
        loops = [edge for edge in self.graph.edges if edge.source == edge.target == node.name]
        phrases = (*node.details, *(f"to itself: {edge.label or edge.kind}" for edge in loops))
        return wrapped(phrases, WORD_COLUMNS, WORD_LINES)

    def _box(self, node: Node, place: Place) -> Iterator[str]:
        classes = ["node", colour_of(node), node.light]
        if node.manage != "full" or node.kind == "unknown":
            classes.append("guest")
        yield f'<g class="{" ".join(classes)}" data-node={quoteattr(printable(node.name))}>'
        yield f"<title>{escape(_told(node))}</title>"
        plate = behind(node, place)
        if plate is not None:
            yield f'<path class="box" d="{plate}"/>'
        yield f'<path class="box" d="{outline(node, place)}"/>'
        words = self._words(node)
        top = place.middle - (34.0 + LINE * len((*words, *node.live))) / 2
        icon_y = place.middle - ICON / 2
        yield f'<path class="icon" transform="translate({number(place.x + 11)} {number(icon_y)})" d="{icon_of(node)}"/>'
        x = number(place.x + ICON_ROOM)
        yield f'<text class="name" x="{x}" y="{number(top + 21.5)}">{escape(_name(node))}</text>'
        for index, line in enumerate((*words, *node.live), start=1):
            kind = "faint" if index <= len(words) else "live"
            yield f'<text class="{kind}" x="{x}" y="{number(top + 21.5 + LINE * index)}">{escape(line)}</text>'
        yield "</g>"

    # ------------------------------------------------------------------------------------------------------- wires

    def _wires(self, layout: Layout) -> Iterator[str]:
        rank = {"dim": 0, "plain": 1, "lit": 2}
        for index, edge in sorted(enumerate(self.graph.edges), key=lambda pair: (rank[pair[1].light], pair[0])):
            yield f'<g class="edge {edge.kind} {edge.light}" {_between(edge)}>'
            yield f"<title>{escape(_said(edge, self.graph))}</title>"
            if index in layout.wires:
                yield from self._wire(edge, layout.wires[index], layout)
            else:
                yield from _loop(layout.boxes[edge.source])
            yield "</g>"

    def _wire(self, edge: Edge, wire: Wire, layout: Layout) -> Iterator[str]:
        if not wire.pieces:
            return
        left, right = (edge.target, edge.source) if wire.backward else (edge.source, edge.target)
        pieces = list(wire.pieces)
        first, last = pieces[0], pieces[-1]
        heads: list[str] = []
        if wire.at_left:
            back = inset(self.graph.by_name[left], layout.boxes[left], first.y1, right=True)
            pointed = wire.backward or edge.both
            pieces[0] = Piece(first.x1 - back + (ARROW - 1 if pointed else 0), first.y1, first.x2, first.y2)
            if pointed:
                heads.append(_head(first.x1 - back, first.y1, ARROW))
        if wire.at_right:
            last = pieces[-1]
            ahead = inset(self.graph.by_name[right], layout.boxes[right], last.y2, right=False)
            pointed = not wire.backward or edge.both
            pieces[-1] = Piece(last.x1, last.y1, last.x2 + ahead - (ARROW - 1 if pointed else 0), last.y2)
            if pointed:
                heads.append(_head(last.x2 + ahead, last.y2, -ARROW))
        yield f'<path class="wire" d="{_path(pieces)}"/>'
        yield from heads

    def _captions(self, layout: Layout) -> Iterator[str]:
        words = {"tasks": "TASKS", "exchange": "EXCHANGES", "queue": "QUEUES", "dead": "DEAD LETTERS"}
        spans: list[tuple[str | None, float, float]] = []
        for left, width, names in layout.columns:
            kinds = {colour_of(self.graph.by_name[name]) for name in names}
            caption = words.get(kinds.pop()) if len(kinds) == 1 else None
            if spans and spans[-1][0] == caption:
                spans[-1] = (caption, spans[-1][1], left + width)
            else:
                spans.append((caption, left, left + width))
        for caption, left, right in spans:
            if caption is not None:
                x = number((left + right) / 2)
                yield f'<text class="caption faint" x="{x}" y="-14" text-anchor="middle">{caption}</text>'

    # ------------------------------------------------------------------------------------------------------ footer

    def _footer(self, width: float) -> Iterator[str]:
        """Return the lines below the picture; `@y` is where their height goes."""
        kinds = dict.fromkeys(edge.kind for edge in self.graph.edges)
        x = 0.0
        parts = []
        for kind, meaning in MEANINGS.items():
            if kind in kinds:
                parts.append(
                    f'<g class="edge {kind}" transform="translate({number(x)} 0)"><path class="wire" d="M0 -4 H26"/>'
                    f'<path class="head" d="M32 -4 L25 -7.5 V-0.5 Z"/>'
                    f'<text class="faint" x="39" y="0">{escape(meaning)}</text></g>'
                )
                x += 39 + sans_width(meaning, WORD_SIZE) + 22
        if parts:
            yield f'<g class="legend" transform="translate(0 @y)">{"".join(parts)}</g>'
        limit = int(width / sans_width("x", WORD_SIZE))
        for note in self.graph.notes:
            for line in _broken(note, limit):
                yield f'<text class="faint" x="0" y="@y">{escape(line)}</text>'


# -------------------------------------------------------------------------------------------------------------- parts


def _label(cell: Cell, place: Place) -> Iterator[str]:
    edge = cell.edge
    if edge is None:
        return
    text = folded(cell.text, KEY_COLUMNS)
    yield f'<g class="label {edge.kind} {edge.light}">'
    yield f"<title>{escape(cell.full)}</title>"
    yield f'<path class="pill" d="{rounded(place, place.height / 2)}"/>'
    x, y = number(place.x + place.width / 2), number(place.middle + 4)
    yield f'<text class="key" x="{x}" y="{y}" text-anchor="middle">{escape(text)}</text>'
    yield "</g>"


def _path(pieces: Sequence[Piece]) -> str:
    words: list[str] = []
    at: tuple[float, float] | None = None
    for piece in pieces:
        if at != (piece.x1, piece.y1):
            words.append(f"M{number(piece.x1)} {number(piece.y1)}")
        if abs(piece.y2 - piece.y1) < 0.5:  # noqa: PLR2004 - half a pixel is no bend
            words.append(f"L{number(piece.x2)} {number(piece.y2)}")
        else:
            middle = number((piece.x1 + piece.x2) / 2)
            words.append(
                f"C{middle} {number(piece.y1)} {middle} {number(piece.y2)} {number(piece.x2)} {number(piece.y2)}"
            )
        at = (piece.x2, piece.y2)
    return " ".join(words)


def _head(x: float, y: float, length: float) -> str:
    """Return an arrow head with its tip at a point; it comes from the left where `length` is negative."""
    return (
        f'<path class="head" d="M{number(x)} {number(y)} L{number(x + length)} {number(y - 3.6)} '
        f'V{number(y + 3.6)} Z"/>'
    )


def _loop(place: Place) -> Iterator[str]:
    """Return the way from a box to itself, round its lower right corner."""
    x, y = place.x + place.width, place.y + place.height
    yield (
        f'<path class="wire" d="M{number(x - 28)} {number(y)} '
        f'C{number(x - 28)} {number(y + 13)} {number(x - 12)} {number(y + 13)} {number(x - 12)} {number(y + 5)}"/>'
    )
    yield f'<path class="head" d="M{number(x - 12)} {number(y)} l-3.4 7 h6.8 Z"/>'


def _between(edge: Edge) -> str:
    return f"data-from={quoteattr(printable(edge.source))} data-to={quoteattr(printable(edge.target))}"


def _name(node: Node) -> str:
    return folded(node.title, NAME_COLUMNS)


def _told(node: Node) -> str:
    return "\n".join((node.title, *node.details, *node.live))


def _said(edge: Edge, graph: Graph) -> str:
    source, target = graph.by_name[edge.source].title, graph.by_name[edge.target].title
    arrow = "↔" if edge.both else "→"
    return f"{source} {arrow} {target}" + (f": {', '.join(edge.labels)}" if edge.labels else "")


def _described(graph: Graph) -> str:
    counts = {kind: sum(node.kind == kind for node in graph.nodes) for kind in ("tasks", "exchange", "queue")}
    return (
        f"{counts['tasks']} routes of tasks, {counts['exchange']} exchanges, {counts['queue']} queues, "
        f"{len(graph.edges)} ways between them"
    )


def _broken(text: str, limit: int) -> Iterator[str]:
    """Break a note into lines between its words."""
    line = ""
    for word in (folded(word, limit) for word in text.split(" ")):
        if line and len(line) + 1 + len(word) > limit:
            yield line
            line = "   " + word
        else:
            line = f"{line} {word}" if line else word
    yield line
