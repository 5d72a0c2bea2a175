"""One message's way through the picture: what it takes is lit, what it never sees is dim."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.errors import LocalError, NoRoute
from amqpq.graph.build import graph
from amqpq.graph.model import Graph
from amqpq.graph.path import lit, message
from amqpq.topology import Topology, load, reach


def lights(drawn: Graph, light: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the nodes and the ways of one brightness."""
    nodes = {node.name for node in drawn.nodes if node.light == light}
    return nodes, {(edge.source, edge.target) for edge in drawn.edges if edge.light == light}


def path(shop: Topology, task: str, **kwargs: Any) -> Graph:
    """Return the picture with the way of a task."""
    return lit(graph(shop), shop, message(shop, task, kwargs))


def test_the_way_of_a_task_is_lit(shop: Topology) -> None:
    """Its route, exchange, binding and queue; bindings whose key does not match are not."""
    nodes, ways = lights(path(shop, "web.resize"), "lit")
    assert nodes == {"tasks web.*", "exchange web", "queue pages"}
    assert ways == {("tasks web.*", "exchange web"), ("exchange web", "queue pages")}


def test_what_may_come_after_stays_plain(shop: Topology) -> None:
    """Dead letters and delays of the queues it reaches are neither lit nor dim; everything else is dim."""
    drawn = path(shop, "web.resize")
    nodes, ways = lights(drawn, "plain")
    assert nodes == {"queue parked", "delays"}
    assert ways == {("queue pages", "queue parked"), ("queue pages", "delays")}
    assert "queue mail" in lights(drawn, "dim")[0]


def test_one_message_may_take_several_ways(shop: Topology) -> None:
    """A fanout lights all its queues and, through the exchange behind it, only what its headers match."""
    nodes, ways = lights(path(shop, "news.post"), "lit")
    assert {"queue pages", "exchange audit"} <= nodes
    assert ("news", "pages") in {(a.split()[1], b.split()[1]) for a, b in ways}
    assert "queue alarms" not in nodes


def test_the_alternate_exchange_is_lit_when_nothing_matched() -> None:
    """A key without a binding takes the dotted way."""
    loaded = load(
        {
            "amqpq": 1,
            "project": "p",
            "exchanges": {"x": {"unrouted": "lost"}, "lost": {"type": "fanout"}},
            "queues": {"q": {}, "lost": {}},
            "bindings": ["x[known] -> q", "lost -> lost"],
            "routes": {"t.*": {"exchange": "x", "key": "{kind}"}},
        },
        environ={},
    )
    _, ways = lights(path(loaded, "t.a", kind="other"), "lit")
    assert ("exchange x", "exchange lost") in ways
    assert ("exchange lost", "queue lost") in ways
    _, ways = lights(path(loaded, "t.a", kind="known"), "lit")
    assert ("exchange x", "exchange lost") not in ways


def test_the_lit_queues_are_those_of_the_simulator(shop: Topology) -> None:
    """The picture and `topology route` say the same for every task."""
    for task in ("mail.send", "ask.price", "web.a.b", "web.old", "news.post", "anything"):
        sent = message(shop, task, {})
        drawn = lit(graph(shop), shop, sent)
        queues = {node.title for node in drawn.nodes if node.light == "lit" and node.kind == "queue"}
        assert queues == reach(shop, sent.exchange, sent.key).queues


def test_the_picture_says_what_was_asked(shop: Topology) -> None:
    """The first note is the way in words."""
    assert path(shop, "web.resize").notes[0] == "web.resize is published to exchange web, key web.resize: reaches pages"


def test_a_task_without_a_route_is_refused() -> None:
    """A name that no route is for is the simulator's error, with its remedy."""
    loaded = load({"amqpq": 1, "project": "p", "queues": {"q": {}}, "routes": {"a.*": {"queue": "q"}}}, environ={})
    with pytest.raises(NoRoute, match="no route matches the task 'b'"):
        message(loaded, "b", {})


def test_a_key_that_needs_an_argument_says_which() -> None:
    """A route whose key is filled from the call needs the arguments, as `route` does."""
    routes = {"scan": {"exchange": "x", "key": "{kind}"}}
    loaded = load(
        {
            "amqpq": 1,
            "project": "p",
            "exchanges": {"x": {}},
            "queues": {"q": {}},
            "bindings": ["x[a] -> q"],
            "routes": routes,
        },
        environ={},
    )
    with pytest.raises(LocalError, match="needs a keyword argument 'kind'"):
        message(loaded, "scan", {})
