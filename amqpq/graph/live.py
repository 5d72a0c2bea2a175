"""What a broker says of queues, put beside them. Pure: somebody else has asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from amqpq.graph.model import Graph


@dataclass(frozen=True, slots=True)
class Depth:
    """How a queue is just now. None is what could not be seen; rates are messages a second."""

    ready: int | None = None
    unacknowledged: int | None = None
    consumers: int | None = None
    published: float | None = None
    delivered: float | None = None


def annotated(graph: Graph, depths: Mapping[str, Depth | None], note: str) -> Graph:
    """Return the graph with depths, consumers and rates at its queues.

    Args:
        graph: The picture of the topology.
        depths: By name of the queue; None for a queue that the broker does not have. Queues left out stay as they were. What
            is drawn as one is added up.
        note: Where this comes from, for the foot of the picture.
    """
    nodes = []
    for node in graph.nodes:
        seen = [depths[name] for name in node.parts or (node.title,) if node.is_queue and name in depths]
        nodes.append(replace(node, live=_lines(_sum(seen))) if seen else node)
    return replace(graph, nodes=tuple(nodes), notes=(*graph.notes, note))


def queues_of(graph: Graph) -> tuple[str, ...]:
    """Return the names of the queues in a graph."""
    return tuple(name for node in graph.nodes if node.is_queue for name in node.parts or (node.title,))


def _sum(depths: Sequence[Depth | None]) -> Depth | None:
    """Add up; what could not be seen of one cannot be seen of all, and of one that is not there the others tell."""
    there = [depth for depth in depths if depth is not None]
    if not there:
        return None
    columns = zip(*(astuple(depth) for depth in there), strict=True)
    return Depth(*(None if None in column else sum(column) for column in columns))


def _lines(depth: Depth | None) -> tuple[str, ...]:
    if depth is None:
        return ("not on the broker",)
    counts = [
        f"{_count(number)} {word}"
        for number, word in ((depth.ready, "ready"), (depth.unacknowledged, "unacked"))
        if number is not None
    ]
    consumers = depth.consumers
    if consumers is not None:
        counts.append(f"{consumers} consumer{'' if consumers == 1 else 's'}")
    rates = [
        f"{word} {_rate(rate)}/s"
        for rate, word in ((depth.published, "in"), (depth.delivered, "out"))
        if rate is not None
    ]
    return tuple(" · ".join(words) for words in (counts, rates) if words) or ("?",)


def _count(number: int) -> str:
    return f"{number:,}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"  # noqa: PLR2004 - two digits tell enough
