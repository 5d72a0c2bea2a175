"""Which column each node of a graph stands in, and the chain of cells by which each edge gets there.

A layered drawing after Sugiyama, Tagawa and Toda (1981), from left to right: tasks, exchanges, queues, dead letters. Even columns
hold the boxes, odd ones between them the labels, so that a label takes part in the drawing as a box does and nothing can be
written over it. An edge is a chain of cells, one in each column from its source to its target: in the odd column next to its
source (or its target) its label, elsewhere a place where the wire passes.

Edges between the same exchange and several queues with the same label share that label's cell, and so do the dead letters of
several queues with the same reasons: one wire leads on from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

from amqpq.graph.model import Edge, Graph

CellKind: TypeAlias = Literal["box", "label", "wire"]


@dataclass(frozen=True, slots=True)
class Cell:
    """What has a place of its own in a column: a node's box, the label of edges, or the passage of a wire."""

    kind: CellKind
    column: int
    text: str = ""
    """A box: the name of its node. A label: what it says."""
    full: str = ""
    """A label: all of it."""
    edge: Edge | None = None
    """A label: the (first) edge it belongs to."""


@dataclass(slots=True)
class Grid:
    """All cells, the chain of each edge, and what follows from them. Filled by `grid`, then only read."""

    cells: list[Cell] = field(default_factory=list)
    chains: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By the index of an edge in its graph: its cells from left to right. Loops have none."""
    reversed: frozenset[int] = frozenset()
    """The indices of the edges that lead from right to left."""
    columns: list[list[int]] = field(default_factory=list)

    def segments(self) -> list[tuple[int, int]]:
        """Return the pieces between neighbouring columns, each once."""
        return list(dict.fromkeys(pair for chain in self.chains.values() for pair in pairwise(chain)))


def grid(graph: Graph) -> Grid:
    """Return the cells of a graph, by columns, in the order of the graph."""
    backward = _backward(graph)
    ranks = _ranks(graph, backward)
    found = Grid(reversed=backward)
    boxes = {}
    for node in graph.nodes:
        boxes[node.name] = len(found.cells)
        found.cells.append(Cell("box", 2 * ranks[node.name], node.name))
    labels: dict[object, int] = {}
    shared = _shared(graph, backward)
    for index, edge in enumerate(graph.edges):
        if edge.source == edge.target:
            continue
        left, right = _ends(edge, reverse=index in backward)
        group = shared[index]
        # Where several edges lead to one label, it stands right of all of their sources.
        members = [graph.edges[other] for other in group.members]
        before = max(ranks[_ends(other, reverse=index in backward)[0]] for other in members)
        chain = [boxes[left]]
        for column in range(2 * ranks[left] + 1, 2 * ranks[right]):
            if edge.labels and column == 2 * before + 1:
                chain.append(_label_cell(found, labels, group, edge, column))
            elif edge.labels and group.joins and column > 2 * before + 1:
                chain.append(_once(found, labels, (group, column), Cell("wire", column, edge=edge)))
            else:
                chain.append(len(found.cells))
                found.cells.append(Cell("wire", column, edge=edge))
        found.chains[index] = (*chain, boxes[right])
    count = 1 + max((cell.column for cell in found.cells), default=-1)
    found.columns = [[i for i, cell in enumerate(found.cells) if cell.column == column] for column in range(count)]
    return found


def _label_cell(found: Grid, labels: dict[object, int], group: _Group, edge: Edge, column: int) -> int:
    return _once(found, labels, group, Cell("label", column, edge.label, ", ".join(edge.labels), edge))


def _once(found: Grid, known: dict[object, int], key: object, cell: Cell) -> int:
    if key not in known:
        known[key] = len(found.cells)
        found.cells.append(cell)
    return known[key]


# ------------------------------------------------------------------------------------------------------------- labels


@dataclass(frozen=True, slots=True)
class _Group:
    """Edges that share a label: by where they lead to (`joins`), or by where they come from."""

    joins: bool
    members: tuple[int, ...]


def _shared(graph: Graph, backward: frozenset[int]) -> dict[int, _Group]:
    """Return the group of each edge."""
    by_target: dict[object, list[int]] = {}
    by_source: dict[object, list[int]] = {}
    for index, edge in enumerate(graph.edges):
        left, right = _ends(edge, reverse=index in backward)
        same = (edge.kind, edge.labels, edge.light, edge.both, index in backward)
        by_target.setdefault((right, same), []).append(index)
        by_source.setdefault((left, same), []).append(index)
    found: dict[int, _Group] = {}
    for members in by_target.values():
        if len(members) > 1:
            found.update((index, _Group(joins=True, members=tuple(members))) for index in members)
    for members in by_source.values():
        free = tuple(index for index in members if index not in found)
        found.update((index, _Group(joins=False, members=free)) for index in free)
    return found


# -------------------------------------------------------------------------------------------------------------- ranks


def _ends(edge: Edge, *, reverse: bool) -> tuple[str, str]:
    return (edge.target, edge.source) if reverse else (edge.source, edge.target)


def _backward(graph: Graph) -> frozenset[int]:
    """Return the edges to be drawn from right to left: what comes from the delay ladder, and what closes a cycle."""
    nodes = graph.by_name
    ladder = {
        index
        for index, edge in enumerate(graph.edges)
        if nodes[edge.source].ladder and edge.kind != "dead" and edge.source != edge.target
    }
    ways: dict[str, list[tuple[int, str]]] = {node.name: [] for node in graph.nodes}
    for index, edge in enumerate(graph.edges):
        left, right = _ends(edge, reverse=index in ladder)
        if left != right:
            ways[left].append((index, right))
    entered = {right for found in ways.values() for _, right in found}
    closing: set[int] = set()
    done: set[str] = set()
    starts = sorted(ways, key=lambda name: (nodes[name].kind != "tasks", name in entered))
    for start in starts:
        if start not in done:
            _search(start, ways, done, closing)
    return frozenset(ladder ^ closing)


def _search(start: str, ways: Mapping[str, list[tuple[int, str]]], done: set[str], closing: set[int]) -> None:
    """Walk depth first from `start`; what leads back to the path it is on closes a cycle."""
    path = {start}
    stack = [(start, iter(ways[start]))]
    while stack:
        name, following = stack[-1]
        for index, target in following:
            if target in path:
                closing.add(index)
            elif target not in done:
                path.add(target)
                stack.append((target, iter(ways[target])))
                break
        else:
            stack.pop()
            path.discard(name)
            done.add(name)


def _ranks(graph: Graph, backward: frozenset[int]) -> dict[str, int]:
    """Return the column of each node, counted without those of labels."""
    pairs = [
        _ends(edge, reverse=index in backward) for index, edge in enumerate(graph.edges) if edge.source != edge.target
    ]
    has_tasks = any(node.kind == "tasks" for node in graph.nodes)
    lowest = {node.name: int(has_tasks and node.kind != "tasks") for node in graph.nodes}
    ranks = _longest(lowest, pairs)
    first = _first_queues(graph, ranks, pairs)
    # All queues that messages come to first stand in one column, however long the way to each of them is.
    level = max((ranks[name] for name in first), default=0)
    beyond = {node.name: level + 1 for node in graph.nodes if node.ladder}
    lowest = lowest | dict.fromkeys(first, level) | beyond
    ranks = _longest(lowest, pairs)
    # So do dead letters that go no further.
    onward = {left for left, _ in pairs}
    last = [node.name for node in graph.nodes if node.dead_letters and node.name not in onward]
    ranks = _longest(lowest | dict.fromkeys(last, max((ranks[name] for name in last), default=0)), pairs)
    used = {rank: place for place, rank in enumerate(sorted(set(ranks.values())))}
    return {name: used[rank] for name, rank in ranks.items()}


def _longest(lowest: Mapping[str, int], pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return for each node the length of the longest way to it, `lowest` at least."""
    ranks = dict(lowest)
    following: dict[str, list[str]] = {name: [] for name in ranks}
    waiting = dict.fromkeys(ranks, 0)
    for left, right in pairs:
        following[left].append(right)
        waiting[right] += 1
    ready = [name for name, count in waiting.items() if not count]
    for name in ready:  # grows while it is walked
        for right in following[name]:
            ranks[right] = max(ranks[right], ranks[name] + 1)
            waiting[right] -= 1
            if not waiting[right]:
                ready.append(right)
    return ranks


def _first_queues(graph: Graph, ranks: Mapping[str, int], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the queues that no other queue leads to."""
    queues = {node.name for node in graph.nodes if node.is_queue and not node.ladder}
    behind: set[str] = set()
    for left, right in sorted(pairs, key=lambda pair: ranks[pair[0]]):
        if left in queues or left in behind:
            behind.add(right)
    return [node.name for node in graph.nodes if node.name in queues and node.name not in behind]
