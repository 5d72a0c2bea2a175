"""A topology as nodes and edges: what every picture of it shows. Values only; `build` makes them, the renderers read them.

A node is a set of routes that tasks enter by, an exchange, a queue, the delay ladder, or something the file names and does not
have. An edge is a way that messages take, never a connection: it leads from where a message is to where it goes next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

NodeKind: TypeAlias = Literal["tasks", "exchange", "queue", "delays", "unknown"]

EdgeKind: TypeAlias = Literal["publish", "binding", "unrouted", "dead", "delay"]
"""publish: from a route; binding: to a queue or an exchange; unrouted: to the alternate exchange; dead: dead letters; delay: to
and from the delay ladder."""

Light: TypeAlias = Literal["lit", "plain", "dim"]
"""lit: on the way of the message that was asked about; dim: off it; plain: nobody asked, or what comes after the way."""

DELAYS: Final = "delays"
"""The node into which the ladder is folded."""

SHOWN_LABELS: Final = 3
"""Keys of one edge that are written out; the others are counted."""


@dataclass(frozen=True, slots=True)
class Node:
    """One box. `name` is unique in its graph, `title` is what the broker calls it.

    `shape` is the type of an exchange or a queue, else empty. `details` are short phrases, the most telling first; `live` is
    what the broker said of a queue. `dead_letters` marks a queue that takes the dead letters of others, `ladder` a part of the
    delay ladder. `parts` are the names of the queues on the broker where there are several, drawn as one.
    """

    name: str
    kind: NodeKind
    title: str
    shape: str = ""
    details: tuple[str, ...] = ()
    live: tuple[str, ...] = ()
    dead_letters: bool = False
    ladder: bool = False
    manage: str = "full"
    light: Light = "plain"
    parts: tuple[str, ...] = ()

    @property
    def is_queue(self) -> bool:
        """Whether it is a queue, or where one should be."""
        return self.kind == "queue" or (self.kind == "unknown" and self.shape == "queue")


@dataclass(frozen=True, slots=True)
class Edge:
    """One way between two nodes: binding keys, reasons or the like in `labels`. `both` is there and back."""

    source: str
    target: str
    kind: EdgeKind
    labels: tuple[str, ...] = ()
    both: bool = False
    light: Light = "plain"

    @property
    def label(self) -> str:
        """The labels in one line, a long list of them folded."""
        shown = ", ".join(self.labels[:SHOWN_LABELS])
        more = len(self.labels) - SHOWN_LABELS
        return f"{shown} +{more}" if more > 0 else shown


@dataclass(frozen=True, slots=True)
class Graph:
    """A picture to be drawn. `notes` are sentences below it. Equal topologies make equal graphs."""

    title: str
    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    notes: tuple[str, ...] = ()
    by_name: Mapping[str, Node] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})


def exchange_node(name: str) -> str:
    """Return the name of an exchange's node: a queue may be called the same."""
    return f"exchange {name}"


def queue_node(name: str) -> str:
    """Return the name of a queue's node."""
    return f"queue {name}"


def tasks_node(pattern: str) -> str:
    """Return the name of a route's node."""
    return f"tasks {pattern}"
