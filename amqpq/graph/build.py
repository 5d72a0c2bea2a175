"""From a topology to its graph. Pure; nothing of the broker's address, of keys or of secrets comes into it.

The delay ladder is folded into one node, what the file does not write out and nothing leads to is left out, and both come with
`generated`. Which queues a route can reach is asked of the simulator where the route's key is fixed; where its key is filled
from the call, every binding behind its exchange counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from amqpq.errors import LocalError
from amqpq.graph.model import DELAYS, Edge, Graph, Node, exchange_node, queue_node, tasks_node
from amqpq.topology.declarations import queue_spec
from amqpq.topology.delays import Ladder, ladder, reachable
from amqpq.topology.model import Binding, Exchange, Queue, Route, Topology
from amqpq.topology.partitions import logical, partition_names, queue_behind
from amqpq.topology.permits import permit_queues, permits_of, queues_of
from amqpq.topology.routing import Router, router
from amqpq.topology.units import duration_text

DRAWN_DELAYS: Final = 6
"""With more queues than this the ladder says in words that it leads to all of them: its lines would hide the others."""


def graph(topology: Topology, *, generated: bool = False) -> Graph:
    """Return the graph of a topology; `generated` adds what the file does not write out."""
    rungs = ladder(topology) if generated else Ladder()
    builder = _Builder(topology, rungs, topology.dead_letter_queues(), generated=generated)
    edges = tuple(builder.edges())
    nodes = [*builder.nodes()]
    known = {node.name for node in nodes}
    named = dict.fromkeys(name for edge in edges for name in (edge.source, edge.target))
    nodes += [_unknown(name) for name in named if name not in known]
    if not generated:
        quiet = {queue_node(queue.name) for queue in topology.queues.values() if queue.generated} - named.keys()
        nodes = [node for node in nodes if node.name not in quiet]
    environment = f" ({topology.environment})" if topology.environment else ""
    return Graph(f"{topology.project}{environment}", tuple(nodes), edges, tuple(_notes(topology, generated=generated)))


@dataclass(frozen=True, slots=True)
class _Builder:
    """The parts of one graph."""

    topology: Topology
    rungs: Ladder
    dead: frozenset[str]
    generated: bool

    def nodes(self) -> Iterator[Node]:
        topology = self.topology
        yield from (_tasks(route, only=len(topology.routes) == 1) for route in topology.routes)
        yield from (_exchange(exchange) for exchange in topology.exchanges.values())
        yield from (_queue(queue, dead_letters=queue.name in self.dead) for queue in topology.queues.values())
        yield from (replace(_exchange(exchange), ladder=True) for exchange in self.rungs.exchanges)
        yield from (replace(_queue(queue, dead_letters=False), ladder=True) for queue in self.rungs.queues)
        if self.generated:
            yield from (
                Node(queue_node(name), "queue", name, "classic", (f"{count} permits",))
                for name, count in permit_queues(topology)
            )
        elif topology.delays is not None:
            yield _delays(topology)

    def edges(self) -> Iterator[Edge]:
        topology = self.topology
        reached = self._reached()
        for route in topology.routes:
            target = published_to(topology, route.exchange, route.key)
            # To the default exchange the key is the queue's name, which stands there anyway.
            labels = (route.key,) if route.exchange and route.key else ()
            yield Edge(tasks_node(route.pattern), target, "publish", labels)
        yield from _bindings((*topology.bindings, *self._rung_bindings()), self._types())
        for exchange in (*topology.exchanges.values(), *self.rungs.exchanges):
            alternate = exchange.unrouted or exchange.extra_arguments.get("alternate-exchange")
            if alternate is not None:
                labels = () if exchange.generated else ("unrouted",)
                yield Edge(exchange_node(exchange.name), exchange_node(str(alternate)), "unrouted", labels)
        for queue in topology.queues.values():
            yield from self._dead_letters(queue, [route for route in topology.routes if queue.name in reached[route]])
        for queue in self.rungs.queues:
            waits = (f"after {duration_text(queue.ttl_seconds)}",) if queue.ttl_seconds else ()
            below = str(queue.extra_arguments["x-dead-letter-exchange"])
            yield Edge(queue_node(queue.name), exchange_node(below), "delay", waits)
        if not self.generated:
            yield from self._delays(reached)

    def _rung_bindings(self) -> Iterator[Binding]:
        """Walk the bindings of the ladder; the exchange before the partitions of a queue, and they, are that queue."""
        for binding in self.rungs.bindings:
            yield (
                replace(binding, target=logical(self.topology, binding.target)) if not binding.to_exchange else binding
            )

    def _types(self) -> Mapping[str, str]:
        return {x.name: x.type for x in (*self.topology.exchanges.values(), *self.rungs.exchanges)}

    def _dead_letters(self, queue: Queue, routes: list[Route]) -> Iterator[Edge]:
        """Return the way of a queue's dead letters, with the reasons the broker and the worker may have."""
        arguments = queue_spec(queue).arguments
        exchange = arguments.get("x-dead-letter-exchange")
        if exchange is None or queue.type == "stream":
            return
        key = arguments.get("x-dead-letter-routing-key")
        reasons = []
        if queue.dead_letter is not None and queue.name not in self.dead:
            reasons.append("failed")
        if queue.ttl_seconds is not None or any(route.expires_seconds is not None for route in routes):
            reasons.append("expired")
        limited = queue.limits.max_length is not None or queue.limits.max_length_bytes is not None
        if limited and queue.limits.overflow != "reject-publish":
            reasons.append("too many")
        if queue.delivery_limit is not None:
            reasons.append(f"{queue.delivery_limit} deliveries")
        if exchange:
            reasons += [] if key is None else [f"as {key}"]
            yield Edge(queue_node(queue.name), exchange_node(str(exchange)), "dead", tuple(reasons))
        elif key is not None:
            yield Edge(queue_node(queue.name), queue_node(str(key)), "dead", tuple(reasons))

    def _delays(self, reached: Mapping[Route, frozenset[str]]) -> Iterator[Edge]:
        """Return the ways to and from the folded ladder."""
        topology = self.topology
        if topology.delays is None:
            return
        queues = _delayed(topology)
        retried = {
            name for route in topology.routes if (route.retries or topology.retries).max for name in reached[route]
        }
        if len(queues) <= DRAWN_DELAYS:
            for queue in queues:
                if queue.name in retried:
                    yield Edge(queue_node(queue.name), DELAYS, "delay", ("retries",), both=True)
                else:
                    yield Edge(DELAYS, queue_node(queue.name), "delay", ("when due",))
        yield Edge(DELAYS, queue_node(topology.delays.lost), "dead", ("queue is gone",))

    def _reached(self) -> dict[Route, frozenset[str]]:
        """Return for each route the queues its tasks can reach."""
        routes = router(self.topology)
        return {route: frozenset(_reached_by(self.topology, routes, route)) for route in self.topology.routes}


def _reached_by(topology: Topology, routes: Router, route: Route) -> Iterable[str]:
    if not route.exchange:
        return {route.key}
    partitioned = queue_behind(topology, route.exchange)
    if partitioned is not None:
        return {partitioned}
    try:
        if "{" not in route.key:
            return routes.route(route.exchange, route.key).queues
    except LocalError:
        return ()  # an exchange that the file does not have; it is drawn as unknown
    found: set[str] = set()
    exchanges = [route.exchange]
    for name in exchanges:  # grows while it is walked
        ways = [(b.target, b.to_exchange) for b in topology.bindings if b.source == name]
        exchange = topology.exchanges.get(name)
        if exchange is not None and exchange.unrouted is not None:
            ways.append((exchange.unrouted, True))
        found.update(target for target, to_exchange in ways if not to_exchange)
        exchanges += [target for target, to_exchange in ways if to_exchange and target not in exchanges]
    return found


# -------------------------------------------------------------------------------------------------------------- nodes


def _tasks(route: Route, *, only: bool) -> Node:
    words = []
    if route.priority is not None:
        words.append(f"priority {route.priority}")
    if route.expires_seconds is not None:
        words.append(f"expires after {duration_text(route.expires_seconds)}")
    if route.compression not in {"default", None}:
        words.append(str(route.compression))
    if route.retries is not None:
        words.append(f"{route.retries.max} retries" if route.retries.max else "no retries")
        if route.retries.then == "drop":
            words.append("failures dropped")
    if route.reply is not None:
        named = {"none": "no reply", "direct": "direct reply", "task": "reply queue"}
        words.append(named.get(route.reply, f"{route.reply} reply"))
    title = ("every task" if only else "other tasks") if route.pattern == "*" else route.pattern
    return Node(tasks_node(route.pattern), "tasks", title, "", tuple(words))


def _exchange(exchange: Exchange) -> Node:
    words = [exchange.type, *_flags(exchange)]
    if exchange.internal:
        words.append("internal")
    return Node(
        exchange_node(exchange.name), "exchange", exchange.name, exchange.type, tuple(words), manage=exchange.manage
    )


def _queue(queue: Queue, *, dead_letters: bool) -> Node:
    words = [queue.type, *_flags(queue)]
    limits, retention = queue.limits, queue.retention
    if queue.partitions:
        words += [f"{queue.partitions} partitions", f"by {queue.hash_header or queue.hash_property or 'routing key'}"]
    if queue.max_priority is not None:
        words.append(f"priorities to {queue.max_priority}")
    if queue.single_active:
        words.append("one consumer at a time")
    if queue.ttl_seconds is not None:
        words.append(f"ttl {duration_text(queue.ttl_seconds)}")
    if queue.expires_seconds is not None:
        words.append(f"deleted unused after {duration_text(queue.expires_seconds)}")
    full = {None: "", "drop-head": ", drops the oldest", "reject-publish": ", then refuses"}.get(
        limits.overflow, ", then dead letters"
    )
    if limits.max_length is not None:
        words.append(f"max {limits.max_length:,}{full}")
    if limits.max_length_bytes is not None:
        words.append(f"max {_size(limits.max_length_bytes)}{full}")
    if retention.max_age is not None:
        words.append(f"keeps {retention.max_age}")
    if retention.max_bytes is not None:
        words.append(f"keeps {_size(retention.max_bytes)}")
    if queue.dead_letter is None and not dead_letters and queue.type != "stream" and not queue.generated:
        words.append("failures dropped")
    name = queue_node(queue.name)
    node = Node(name, "queue", queue.name, queue.type, tuple(words), dead_letters=dead_letters, manage=queue.manage)
    return replace(node, parts=partition_names(queue))


def _delays(topology: Topology) -> Node:
    delays = topology.delays
    assert delays is not None  # noqa: S101 - asked by the caller
    count = len(ladder(topology).queues)
    span = f"{duration_text(delays.unit_seconds)} to {duration_text(delays.max_seconds)}, {count} queues"
    words = [span, "countdown, eta, retries"]
    if len(_delayed(topology)) > DRAWN_DELAYS:
        words.append("leads to every queue")
    return Node(DELAYS, "delays", "delay ladder", "", tuple(words), ladder=True)


def _delayed(topology: Topology) -> list[Queue]:
    """Return the queues that tasks wait for: not dead letters, streams or what nobody wrote."""
    dead = topology.dead_letter_queues()
    return [
        queue
        for queue in topology.queues.values()
        if reachable(queue) and queue.type != "stream" and not queue.generated and queue.name not in dead
    ]


def _unknown(name: str) -> Node:
    kind, _, title = name.partition(" ")
    return Node(name, "unknown", title, kind, ("not in the file",))


def _flags(thing: Exchange | Queue) -> list[str]:
    words = {"verify": ["must exist"], "external": ["somebody else's"]}.get(thing.manage, [])
    if not thing.durable:
        words = [*words, "transient"]
    if thing.auto_delete:
        words = [*words, "auto-delete"]
    return words


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:g} {name}" if count % unit == 0 else f"{count / unit:.1f} {name}"
    return f"{count} bytes"


# -------------------------------------------------------------------------------------------------------------- edges


def _bindings(bindings: Iterable[Binding], types: Mapping[str, str]) -> Iterator[Edge]:
    """Return one edge for all bindings between the same two."""
    found: dict[tuple[str, str], Edge] = {}
    for binding in bindings:
        ends = binding_ends(binding)
        label = binding_label(binding, types.get(binding.source, ""))
        edge = found.setdefault(ends, Edge(*ends, "binding"))
        if label is not None and label not in edge.labels:
            found[ends] = replace(edge, labels=(*edge.labels, label))
    return iter(found.values())


def published_to(topology: Topology, exchange: str, key: str) -> str:
    """Return the name of the node that a message is published to; the exchange before partitions is drawn as their queue."""
    partitioned = queue_behind(topology, exchange)
    if partitioned is not None or not exchange:
        return queue_node(key if partitioned is None else partitioned)
    return exchange_node(exchange)


def binding_ends(binding: Binding) -> tuple[str, str]:
    """Return the names of the nodes that a binding connects."""
    target = exchange_node(binding.target) if binding.to_exchange else queue_node(binding.target)
    return exchange_node(binding.source), target


def binding_label(binding: Binding, kind: str) -> str | None:
    """Return what a binding of an exchange of this type asks for, in a few words; None where it asks for nothing."""
    if kind == "fanout":
        return None
    if kind != "headers":
        return binding.key or "(empty key)"
    wanted = {name: value for name, value in binding.arguments.items() if name != "x-match"}
    match = str(binding.arguments.get("x-match", "all"))
    words = ", ".join(name if value is None else f"{name}={_plain(value)}" for name, value in wanted.items())
    if not wanted:
        return "nothing" if match.startswith("any") else "everything"
    if len(wanted) == 1:
        return f"has {words}" if None in wanted.values() else words
    return f"{match.removesuffix('-with-x')} of {words}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


# -------------------------------------------------------------------------------------------------------------- notes


def _notes(topology: Topology, *, generated: bool) -> Iterator[str]:
    modes: dict[str, list[str]] = {}
    for route in topology.routes:
        modes.setdefault(route.reply or topology.replies.mode, []).append(route.pattern)
    if "task" in modes:
        kept = duration_text(topology.replies.expires_seconds)
        yield f"Results of {_listed(modes['task'])}: amqpq.reply.<task id>, a queue for each task, kept {kept}"
    if "direct" in modes:
        yield f"Results of {_listed(modes['direct'])}: straight to the caller (direct reply-to)"
    if "none" in modes:
        yield f"No results: {_listed(modes['none'])}"
    if not generated:
        for limit in topology.limits:
            what = f"rate {limit.rate}" if limit.rate is not None else f"{permits_of(limit)} at a time"
            each = f" for each {limit.key}" if limit.key is not None else ""
            count = len(queues_of(topology.project, limit))
            yield f"Limit on {limit.pattern}: {what}{each} ({count} permit queue{'' if count == 1 else 's'})"
    if topology.revocations is not None and not generated:
        yield f"Revoked tasks are remembered in the stream {topology.revocations}"


def _listed(patterns: list[str]) -> str:
    if "*" in patterns and len(patterns) == 1:
        return "every task"
    shown = ["other tasks" if pattern == "*" else pattern for pattern in patterns]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")  # noqa: PLR2004
