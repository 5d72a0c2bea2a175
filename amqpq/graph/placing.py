"""Where each cell stands on the page, and the way of each wire. Units are pixels; y grows downwards.

A cell wishes to stand level with what it is connected to. In a column the wishes are met as well as the order and the distances
allow: least squares, solved exactly by pooling neighbours that would overlap (isotonic regression). So two boxes of a column
never overlap, by construction. Between two columns there is nothing but wires, and through a column a wire passes at its own
height: no wire crosses a box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from amqpq.graph.layered import Cell, Grid, grid
from amqpq.graph.model import EdgeKind, Graph
from amqpq.graph.ordering import order

BOX_GAP: Final = 18.0
LABEL_GAP: Final = 9.0
WIRE_GAP: Final = 11.0
NARROWEST: Final = 20.0
WIDEST: Final = 84.0
"""Of the space between two columns; it grows with how steep the wires in it are."""
STEEPNESS: Final = 0.16
PORT_GAP: Final = 9.0
"""Between two wires that end at the same box, where it is high enough."""
PORT_MARGIN: Final = 10.0
ROUNDS: Final = 24
LEVELLING: Final = 3
SOFT: Final = 0.05
STIFF: Final = 2.0
PULLS: Final[Mapping[EdgeKind, float]] = {"publish": 1.0, "binding": 1.0, "dead": 0.3, "delay": 0.2, "unrouted": 0.1}
"""What stands level with what: an exchange with its queues rather than with what takes what it cannot route."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height."""

    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Place:
    """A rectangle: its upper left corner, and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """The height of its centre."""
        return self.y + self.height / 2

    def overlaps(self, other: Place) -> bool:
        """Whether the two have an area in common."""
        apart_x = self.x + self.width <= other.x or other.x + other.width <= self.x
        apart_y = self.y + self.height <= other.y or other.y + other.height <= self.y
        return not (apart_x or apart_y)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of wire between two columns, or through one: from left to right. Level pieces have one height."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Wire:
    """The way of one edge: pieces in order, those that it shares with an edge before it left out.

    `starts` and `ends` say whether its ends at the source's and the target's box are among the pieces, so that an arrow head
    has somewhere to be.
    """

    pieces: tuple[Piece, ...]
    at_left: bool
    at_right: bool
    backward: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """A finished drawing: boxes by node name, labels with their cells, wires by the index of their edge."""

    size: Size
    boxes: Mapping[str, Place]
    labels: tuple[tuple[Cell, Place], ...]
    wires: Mapping[int, Wire]
    columns: tuple[tuple[float, float, tuple[str, ...]], ...]
    """Of boxes: left, width, and the nodes from top to bottom."""


def lay_out(graph: Graph, measure: Callable[[Cell], Size]) -> Layout:
    """Return where everything of a graph goes; `measure` says how large a box or a label is."""
    cells = grid(graph)
    columns = order(cells)
    sizes = [Size(0.0, 0.0) if cell.kind == "wire" else measure(cell) for cell in cells.cells]
    middles = _middles(cells, columns, sizes, _ties(cells, graph))
    ports = _ports(cells, sizes, middles)
    lefts, widths = _columns(cells, columns, sizes, ports)
    top = min((middle - size.height / 2 for middle, size in zip(middles, sizes, strict=True)), default=0.0)
    places = [
        Place(
            round(lefts[cell.column], 1),
            round(middle - top - size.height / 2, 1),
            widths[cell.column] if cell.kind == "box" else size.width,
            size.height,
        )
        for cell, middle, size in zip(cells.cells, middles, sizes, strict=True)
    ]
    found = _Drawing(cells, places, lefts, widths, {key: y - top for key, y in ports.items()})
    bottom = max((place.y + place.height for place in places), default=0.0)
    right = max((left + width for left, width in zip(lefts, widths, strict=True)), default=0.0)
    named = [(cell, place) for cell, place in zip(cells.cells, places, strict=True)]
    return Layout(
        size=Size(right, bottom),
        boxes={cell.text: place for cell, place in named if cell.kind == "box"},
        labels=tuple((cell, found.label(index)) for index, cell in enumerate(cells.cells) if cell.kind == "label"),
        wires=found.wires(graph),
        columns=tuple(
            (lefts[number], widths[number], tuple(cells.cells[i].text for i in column if cells.cells[i].kind == "box"))
            for number, column in enumerate(columns)
            if number % 2 == 0
        ),
    )


# ------------------------------------------------------------------------------------------------------------ heights


@dataclass(frozen=True, slots=True)
class _Ties:
    """What each cell is connected to, on its left and on its right, and how strongly each wire pulls."""

    left: list[list[int]]
    right: list[list[int]]
    pulls: Mapping[tuple[int, int], float]

    def mean(self, cell: int, middles: Sequence[float], *, left: bool, right: bool) -> float | None:
        """Return the mean height of a cell's neighbours on one side, or on both."""
        near = [(other, self.pulls[other, cell]) for other in self.left[cell]] if left else []
        near += [(other, self.pulls[cell, other]) for other in self.right[cell]] if right else []
        weights = sum(pull for _, pull in near)
        return sum(middles[other] * pull for other, pull in near) / weights if near else None

    def anchor(self, cell: int, kinds: Sequence[str]) -> int:
        """Return the end that a label or the passage of a wire should be level with: the one with fewest other wires."""
        ends = [self._end(cell, kinds, leftwards=False), self._end(cell, kinds, leftwards=True)]
        return min(ends)[1]

    def _end(self, cell: int, kinds: Sequence[str], *, leftwards: bool) -> tuple[int, int]:
        """Follow the wire to a box or to where wires meet; return how many meet there, and the cell."""
        ahead, back = (self.left, self.right) if leftwards else (self.right, self.left)
        while len(ahead[cell]) == 1:
            cell = ahead[cell][0]
            if kinds[cell] == "box" or len(back[cell]) > 1:
                break
        return len(back[cell]), cell


def _ties(cells: Grid, graph: Graph) -> _Ties:
    left: list[list[int]] = [[] for _ in cells.cells]
    right: list[list[int]] = [[] for _ in cells.cells]
    for source, target in cells.segments():
        right[source].append(target)
        left[target].append(source)
    pulls = {pair: PULLS[graph.edges[index].kind] for index, chain in cells.chains.items() for pair in pairwise(chain)}
    return _Ties(left, right, pulls)


def _middles(cells: Grid, columns: Sequence[Sequence[int]], sizes: Sequence[Size], ties: _Ties) -> list[float]:
    """Return the height of the centre of each cell."""
    middles = [0.0] * len(cells.cells)
    offsets = [_offsets(cells, column, sizes) for column in columns]
    for column, below in zip(columns, offsets, strict=True):
        for cell, offset in zip(column, below, strict=True):
            middles[cell] = offset - below[-1] / 2
    numbers = range(len(columns))
    for turn in range(ROUNDS):
        rightmost_first = turn % 2 == 0
        for number in reversed(numbers) if rightmost_first else numbers:
            wishes = [
                ties.mean(cell, middles, left=not rightmost_first, right=rightmost_first) for cell in columns[number]
            ]
            _settle(columns[number], offsets[number], middles, wishes)
    for number in reversed(numbers):
        wishes = [ties.mean(cell, middles, left=True, right=True) for cell in columns[number]]
        _settle(columns[number], offsets[number], middles, wishes)
    _close_up(middles, sizes)
    # Labels and wires last: level with one end, for lines without bends, as far as the boxes leave them room.
    kinds = [cell.kind for cell in cells.cells]
    level = {cell: cell if kind == "box" else ties.anchor(cell, kinds) for cell, kind in enumerate(kinds)}
    for _ in range(LEVELLING):
        for number, column in enumerate(columns):
            stiff = [kinds[cell] == "box" for cell in column]
            _settle(column, offsets[number], middles, [middles[level[cell]] for cell in column], stiff)
    return middles


def _close_up(middles: list[float], sizes: Sequence[Size]) -> None:
    """Take out the bands in which nothing stands in any column. Everything below moves up alike, so nothing can overlap."""
    up, bottom = 0.0, None
    for cell in sorted(range(len(middles)), key=lambda cell: middles[cell] - sizes[cell].height / 2):
        half = sizes[cell].height / 2
        top = middles[cell] - half
        if bottom is not None and top - bottom > BOX_GAP:
            up += top - bottom - BOX_GAP
        bottom = max(bottom or top, middles[cell] + half)
        middles[cell] -= up


def _offsets(cells: Grid, column: Sequence[int], sizes: Sequence[Size]) -> list[float]:
    """Return how far below the first cell each cell of a column stands at least."""
    found: list[float] = []
    for index, cell in enumerate(column):
        if index == 0:
            found.append(0.0)
            continue
        above = column[index - 1]
        kinds = {cells.cells[above].kind, cells.cells[cell].kind}
        gap = WIRE_GAP if "wire" in kinds else LABEL_GAP if "label" in kinds else BOX_GAP
        found.append(found[-1] + (sizes[above].height + sizes[cell].height) / 2 + gap)
    return found


def _settle(
    column: Sequence[int],
    offsets: Sequence[float],
    middles: list[float],
    wishes: Sequence[float | None],
    stiff: Sequence[bool] = (),
) -> None:
    """Move the cells of a column as near to their wishes as their order and distances allow; stiff ones make little way."""
    blocks: list[tuple[float, float, int]] = []  # sum of weighted wishes, sum of weights, number of cells
    for index, (cell, offset, wish) in enumerate(zip(column, offsets, wishes, strict=True)):
        # Who wishes nothing stays where it is, but makes way.
        weight = SOFT if wish is None else STIFF if stiff and stiff[index] else 1.0
        value = (middles[cell] if wish is None else wish) - offset
        blocks.append((value * weight, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, weights, count = blocks.pop()
            blocks[-1] = (blocks[-1][0] + total, blocks[-1][1] + weights, blocks[-1][2] + count)
    at = 0
    for total, weights, count in blocks:
        for index in range(at, at + count):
            middles[column[index]] = total / weights + offsets[index]
        at += count


# ------------------------------------------------------------------------------------------------------------- widths


def _ports(cells: Grid, sizes: Sequence[Size], middles: Sequence[float]) -> dict[tuple[int, int], float]:
    """Return the height at which a piece of wire leaves or enters a cell, by (that cell, the other)."""
    found: dict[tuple[int, int], float] = {}
    sides: dict[tuple[int, bool], list[int]] = {}
    for source, target in cells.segments():
        sides.setdefault((source, True), []).append(target)
        sides.setdefault((target, False), []).append(source)
    for (cell, _), others in sides.items():
        others.sort(key=lambda other: middles[other])
        room = max(0.0, sizes[cell].height - 2 * PORT_MARGIN) if cells.cells[cell].kind == "box" else 0.0
        gap = min(PORT_GAP, room / (len(others) - 1)) if len(others) > 1 else 0.0
        for index, other in enumerate(others):
            found[cell, other] = middles[cell] + gap * (index - (len(others) - 1) / 2)
    return found


def _columns(
    cells: Grid, columns: Sequence[Sequence[int]], sizes: Sequence[Size], ports: Mapping[tuple[int, int], float]
) -> tuple[list[float], list[float]]:
    """Return where each column begins, and how wide it is."""
    widths = [max((sizes[cell].width for cell in column), default=0.0) for column in columns]
    steepest = [0.0] * len(columns)
    for source, target in cells.segments():
        column = cells.cells[source].column
        steepest[column] = max(steepest[column], abs(ports[source, target] - ports[target, source]))
    lefts: list[float] = []
    at = 0.0
    for number, width in enumerate(widths):
        lefts.append(round(at, 1))
        at += width + min(WIDEST, NARROWEST + STEEPNESS * steepest[number])
    return lefts, widths


# -------------------------------------------------------------------------------------------------------------- wires


@dataclass(frozen=True, slots=True)
class _Drawing:
    """What wires are made from."""

    cells: Grid
    places: Sequence[Place]
    lefts: Sequence[float]
    widths: Sequence[float]
    ports: Mapping[tuple[int, int], float]

    def label(self, cell: int) -> Place:
        """Return where a label stands: in the middle of its column."""
        place = self.places[cell]
        shift = (self.widths[self.cells.cells[cell].column] - place.width) / 2
        return Place(round(place.x + shift, 1), place.y, place.width, place.height)

    def wires(self, graph: Graph) -> dict[int, Wire]:
        """Return the wire of each edge; a piece that several share goes to the first of them, lit ones before others."""
        drawn: set[tuple[int, int]] = set()
        passed: set[int] = set()
        found: dict[int, Wire] = {}
        brightness = {"lit": 0, "plain": 1, "dim": 2}
        for index in sorted(self.cells.chains, key=lambda i: (brightness[graph.edges[i].light], i)):
            chain = self.cells.chains[index]
            pairs = list(pairwise(chain))
            pieces: list[Piece] = []
            for pair in pairs:
                if pair not in drawn:
                    pieces.append(self._between(*pair))
                if pair[1] not in passed:
                    pieces += self._through(pair[1])
                    passed.add(pair[1])
            found[index] = Wire(
                tuple(pieces),
                at_left=pairs[0] not in drawn,
                at_right=pairs[-1] not in drawn,
                backward=index in self.cells.reversed,
            )
            drawn.update(pairs)
        return found

    def _between(self, source: int, target: int) -> Piece:
        """Return the piece between two columns."""
        left, right = self.cells.cells[source].column, self.cells.cells[target].column
        y1, y2 = round(self.ports[source, target], 1), round(self.ports[target, source], 1)
        return Piece(self.lefts[left] + self.widths[left], y1, self.lefts[right], y2)

    def _through(self, cell: int) -> list[Piece]:
        """Return the level piece through the column of a label, or of a passage."""
        column = self.cells.cells[cell].column
        if self.cells.cells[cell].kind == "box" or not self.widths[column]:
            return []
        begin, y = self.lefts[column], round(self.places[cell].middle, 1)
        end = begin + self.widths[column]
        if self.cells.cells[cell].kind == "wire":
            return [Piece(begin, y, end, y)]
        label = self.label(cell)  # not below it: a dim label would let the wire shine through
        return [Piece(begin, y, label.x, y), Piece(label.x + label.width, y, end, y)]
