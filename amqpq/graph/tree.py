"""A graph as a tree of text, for terminals: what enters where, and what it comes to from there.

Roots are the exchanges and queues that nothing of the file leads to but tasks. What was told above is not told again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from amqpq.graph.model import DELAYS, Edge, EdgeKind, Graph, Light, Node
from amqpq.graph.text import cleaned

Tone: TypeAlias = Literal["plain", "faint", "name", "tasks", "exchange", "queue", "dead", "delays", "unknown", "live"]
"""What a piece of a line is, for whoever colours it."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line."""

    text: str
    tone: Tone = "plain"
    light: Light = "plain"


Line: TypeAlias = tuple[Span, ...]

_ASCII: Final = str.maketrans(
    {"─": "-", "│": "|", "├": "|", "└": "`", "▶": ">", "◀": "<", "┄": ".", "·": "-", "…": "~"}
)
_LINES: Final[dict[EdgeKind, str]] = {"publish": "─", "binding": "─", "unrouted": "┄", "dead": "─", "delay": "┄"}


def tree(graph: Graph) -> list[Line]:
    """Return the lines of the tree, in pieces that can be coloured."""
    return list(_Walk(cleaned(graph)).lines())


def text(graph: Graph) -> str:
    """Return the tree as plain text. Where the way of a message was asked for, its lines are marked."""
    asked = any(node.light == "lit" for node in graph.nodes)
    lines = ((mark(line) if asked else "") + "".join(span.text for span in line) for line in tree(graph))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def mark(line: Line) -> str:
    """Return what stands before a line: a star where it belongs to the way of the message."""
    return "* " if any(span.light == "lit" for span in line) else "  "


def as_ascii(plain: str) -> str:
    """Return a text in which the lines of the tree are drawn with ASCII; letters of names that it has not become `?`."""
    return plain.translate(_ASCII).encode("ascii", "replace").decode()


@dataclass(slots=True)
class _Walk:
    """One walk through a graph; `told` are the nodes whose branches stand above."""

    graph: Graph
    told: set[str] = field(default_factory=set)

    def lines(self) -> Iterator[Line]:
        graph = self.graph
        yield (Span(graph.title, "name"),)
        within = {edge.target for edge in graph.edges if edge.kind != "publish" and edge.source != edge.target}
        within |= {edge.source for edge in graph.edges if edge.both}
        order = [node for node in graph.nodes if node.kind != "tasks"]
        roots = [node for node in order if node.name not in within and node.name != DELAYS]
        # Queues that dead-letter into each other have no root: the first of them in the file is one.
        for node in (*roots, *order):
            if node.name not in self.told:
                yield ()
                yield (*self._head(node),)
                yield from self._branches(node, "")
        if graph.notes:
            yield ()
            yield from ((Span(note, "faint"),) for note in graph.notes)

    def _branches(self, start: Node, before: str) -> Iterator[Line]:
        """Walk depth first, with a stack of our own: a chain of exchanges may be longer than Python's."""
        stack = [(before, self._ways(start))]
        self.told.add(start.name)
        while stack:
            before, ways = stack[-1]
            if not ways:
                stack.pop()
                continue
            edge, leaving = ways.pop(0)
            last = not ways
            node = self.graph.by_name[edge.target if leaving else edge.source]
            seen = node.name in self.told and bool(self._ways(node))
            yield (Span(before + ("└" if last else "├"), "faint"), *self._way(edge, node, leaving=leaving, seen=seen))
            if leaving and node.name not in self.told:
                self.told.add(node.name)
                stack.append((before + ("   " if last else "│  "), self._ways(node)))

    def _ways(self, node: Node) -> list[tuple[Edge, bool]]:
        """Return what enters a node from tasks, then all that leads on from it."""
        entering = [(edge, False) for edge in self.graph.edges if edge.target == node.name and edge.kind == "publish"]
        return [*entering, *((edge, True) for edge in self.graph.edges if edge.source == node.name)]

    def _way(self, edge: Edge, node: Node, *, leaving: bool, seen: bool) -> Iterator[Span]:
        tone: Tone = "dead" if edge.kind == "dead" else "delays" if edge.kind == "delay" else "faint"
        line = _LINES[edge.kind]
        label = f" {edge.label} " if edge.labels else ""
        if leaving:
            yield Span(f"{'◀' if edge.both else ''}{line}{label}{line}▶ ", tone, edge.light)
        else:
            yield Span(f"◀{line}{label}{line} ", "tasks", edge.light)
        if seen:
            yield Span(node.title, "plain", node.light)
            yield Span("  " + ", ".join(filter(None, (_kind(node), "above"))), "faint", node.light)
        else:
            yield from self._head(node)

    def _head(self, node: Node) -> Iterator[Span]:
        tone: Tone = "dead" if node.dead_letters else node.kind
        yield Span(node.title, tone, node.light)
        details = node.details[1:] if node.kind in {"exchange", "queue"} else node.details
        yield Span("  " + " · ".join(filter(None, (_kind(node), *details))), "faint", node.light)
        if node.live:
            yield Span("  " + " · ".join(node.live), "live", node.light)


def _kind(node: Node) -> str:
    if node.kind == "queue":
        return "dead letters" if node.dead_letters else f"{node.shape} queue" if node.shape != "stream" else "stream"
    if node.kind == "exchange":
        return f"{node.shape} exchange"
    return "tasks" if node.kind == "tasks" else ""
