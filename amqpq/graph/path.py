"""The way of one message through a graph, as the simulator behind `amqpq topology route` sees it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from amqpq.graph.build import binding_ends, published_to
from amqpq.graph.model import DELAYS, Graph, Light, exchange_node, queue_node, tasks_node
from amqpq.topology.declarations import exchange_spec, queue_spec
from amqpq.topology.model import Binding, Topology
from amqpq.topology.routing import Reach, Router, router
from amqpq.types import Table


@dataclass(frozen=True, slots=True)
class Message:
    """What decides where a message goes, and the task it is for."""

    task: str
    exchange: str
    key: str
    headers: Table


def message(topology: Topology, task: str, kwargs: dict[str, Any]) -> Message:
    """Return what the route of a task publishes.

    Raises:
        NoRoute: No route is for this task.
        LocalError: Its key needs an argument that is not among `kwargs`.
    """
    route = topology.route_for(task)
    return Message(task, route.exchange, route.routing_key(task, kwargs), {})


def lit(graph: Graph, topology: Topology, sent: Message) -> Graph:
    """Return the graph with the way of a message lit, and dim what it has nothing to do with.

    What comes after the queues it reaches (dead letters, delays) stays as it was.
    """
    reached = router(topology).route(sent.exchange, sent.key, sent.headers)
    begin = tasks_node(topology.route_for(sent.task).pattern)
    ways = _ways(topology, sent, reached)
    first = published_to(topology, sent.exchange, sent.key)
    ways.add((begin, first))
    on = {begin, *(end for way in ways for end in way)}
    after = _after(graph, {queue_node(name) for name in reached.queues})

    def of_node(name: str) -> Light:
        return "lit" if name in on else "plain" if name in after else "dim"

    edges = []
    for edge in graph.edges:
        light: Light = "dim"
        if (edge.source, edge.target) in ways and edge.kind in {"publish", "binding", "unrouted"}:
            light = "lit"
        elif edge.kind in {"dead", "delay"} and {edge.source, edge.target} <= on | after:
            light = "plain"
        edges.append(replace(edge, light=light))
    nodes = tuple(replace(node, light=of_node(node.name)) for node in graph.nodes)
    return replace(graph, nodes=nodes, edges=tuple(edges), notes=(_told(sent, reached), *graph.notes))


def _ways(topology: Topology, sent: Message, reached: Reach) -> set[tuple[str, str]]:
    """Return the ends of all bindings and alternate exchanges that the message takes."""
    ways: set[tuple[str, str]] = set()
    for name in reached.exchanges:
        exchange = topology.exchanges.get(name)
        if exchange is None:
            continue
        taken = [b for b in topology.bindings if b.source == name and _takes(topology, b, sent)]
        ways.update(binding_ends(binding) for binding in taken)
        alternate = exchange_spec(exchange).arguments.get("alternate-exchange")
        if not taken and alternate is not None:
            ways.add((exchange_node(name), exchange_node(str(alternate))))
    return ways


def _takes(topology: Topology, binding: Binding, sent: Message) -> bool:
    """Whether a message at the source of a binding follows it: the simulator is asked with this binding alone."""
    source = replace(exchange_spec(topology.exchanges[binding.source]), arguments={})
    exchanges = [source, *(exchange_spec(x) for x in topology.exchanges.values() if x.name == binding.target)]
    queues = [queue_spec(queue) for queue in topology.queues.values() if queue.name == binding.target]
    alone = Router(exchanges, queues, [binding], version=topology.requires.lowest)
    found = alone.route(binding.source, sent.key, sent.headers)
    return bool(found.queues) or len(found.exchanges) > 1


def _after(graph: Graph, queues: set[str]) -> set[str]:
    """Return where messages of these queues may come to: their dead letters, and the delay ladder."""
    after: set[str] = set()
    frontier = set(queues)
    while frontier:
        found = {edge.target for edge in graph.edges if edge.kind == "dead" and edge.source in frontier - {DELAYS}}
        found |= {
            other
            for edge in graph.edges
            if edge.kind == "delay"
            for here, other in ((edge.source, edge.target), (edge.target, edge.source))
            if here in queues and here in frontier
        }
        frontier = found - after - queues
        after |= found
    return after


def _told(sent: Message, reached: Reach) -> str:
    where = f"exchange {sent.exchange}, key {sent.key}" if sent.exchange else f"queue {sent.key}"
    queues = ", ".join(sorted(reached.queues))
    return f"{sent.task} is published to {where}: " + (f"reaches {queues}" if queues else "reaches no queue")
