"""What a topology becomes as a graph: nodes, ways, reasons, notes, and nothing that is secret."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from amqpq.graph.build import graph
from amqpq.graph.model import DELAYS, Edge, Graph
from amqpq.topology import Binding, Topology, library, load
from amqpq.topology.delays import ladder


def edge(drawn: Graph, source: str, target: str, kind: str) -> Edge:
    """Find the only edge between two nodes of this kind."""
    (found,) = [e for e in drawn.edges if (e.source, e.target, e.kind) == (source, target, kind)]
    return found


def topology(**parts: Any) -> Topology:
    """Load a small topology with these sections."""
    return load({"amqpq": 1, "project": "p", "queues": {"q": {}}, **parts}, environ={})


def test_everything_of_the_file_has_a_node(shop: Topology, drawn: Graph) -> None:
    """Exchanges, queues and routes are there by their names, with their types."""
    shapes = {node.name: node.shape for node in drawn.nodes}
    assert {f"exchange {name}": x.type for name, x in shop.exchanges.items()}.items() <= shapes.items()
    assert {f"queue {name}": queue.type for name, queue in shop.queues.items()}.items() <= shapes.items()
    assert {f"tasks {route.pattern}" for route in shop.routes} <= shapes.keys()


def test_bindings_between_the_same_two_are_one_way_with_all_keys(drawn: Graph) -> None:
    """Four keys of one queue are one edge; its label folds, its list does not."""
    found = edge(drawn, "exchange work", "queue mail", "binding")
    assert found.labels == ("mail", "post", "letters", "cards")
    assert found.label == "mail, post, letters +1"


def test_every_binding_is_on_its_way(shop: Topology, drawn: Graph) -> None:
    """For each binding of the file there is an edge, to a queue or to an exchange."""
    ways = {(e.source, e.target) for e in drawn.edges if e.kind == "binding"}
    for binding in shop.bindings:
        kind = "exchange" if binding.to_exchange else "queue"
        assert (f"exchange {binding.source}", f"{kind} {binding.target}") in ways


def test_keys_are_shown_only_where_they_count(drawn: Graph) -> None:
    """A fanout exchange looks at no key, a headers exchange at headers; presence is a name without a value."""
    assert edge(drawn, "exchange news", "queue pages", "binding").labels == ()
    assert edge(drawn, "exchange audit", "queue alarms", "binding").labels == ("any of severity=high, urgent=true",)
    assert edge(drawn, "exchange audit", "queue journal", "binding").labels == ("has x-source",)


def test_the_alternate_exchange_is_a_way_of_its_own_kind(drawn: Graph) -> None:
    """What no binding matched goes to the alternate exchange."""
    assert edge(drawn, "exchange work", "exchange lost", "unrouted").labels == ("unrouted",)


def test_dead_letters_carry_their_reasons(drawn: Graph) -> None:
    """A queue's dead letters go to their queue for the reasons that this queue has."""
    assert edge(drawn, "queue pages", "queue parked", "dead").labels == ("failed", "20 deliveries")
    assert edge(drawn, "queue alarms", "queue shop.dead", "dead").labels == ("failed", "too many")
    assert edge(drawn, "queue mail", "queue shop.dead", "dead").labels == ("failed", "expired")
    assert {node.name for node in drawn.nodes if node.dead_letters} == {"queue parked", "queue shop.dead"}


def test_a_queue_without_dead_letters_says_so(drawn: Graph) -> None:
    """Where failures are dropped no edge leads on, and the box tells it."""
    assert "failures dropped" in drawn.by_name["queue quick"].details
    assert not [e for e in drawn.edges if e.source == "queue quick" and e.kind == "dead"]


def test_dead_letters_by_hand_lead_to_their_exchange() -> None:
    """`extra_arguments` may name a dead-letter exchange; the picture follows the broker."""
    arguments = {"x-dead-letter-exchange": "again", "x-dead-letter-routing-key": "q"}
    loaded = topology(exchanges={"again": {}}, bindings=["again[q] -> q"])
    queue = replace(loaded.queues["q"], dead_letter=None, ttl_seconds=5.0, extra_arguments=arguments)
    drawn = graph(replace(loaded, queues={"q": queue}))
    assert edge(drawn, "queue q", "exchange again", "dead").labels == ("expired", "as q")


def test_the_ladder_is_one_node(shop: Topology, drawn: Graph) -> None:
    """The delay ladder is folded; retried queues have a way there and back, and none of its objects is drawn."""
    assert edge(drawn, "queue pages", DELAYS, "delay").both
    assert edge(drawn, DELAYS, "queue shop.dead", "dead").labels == ("queue is gone",)
    names = {node.title for node in drawn.nodes}
    assert not names & {rung.name for rung in ladder(shop).queues}


def test_more_queues_than_can_be_drawn_are_told_in_words() -> None:
    """With many queues the ladder says that it leads to all, and draws no line to any."""
    many = topology(queues={f"q{index}": {} for index in range(7)}, delays={}, routes={"*": {"queue": "q0"}})
    drawn = graph(many)
    assert "leads to every queue" in drawn.by_name[DELAYS].details
    assert not [e for e in drawn.edges if e.kind == "delay"]


def test_generated_unfolds_everything(shop: Topology) -> None:
    """With `generated` every object that an apply declares is a node, and every binding an edge."""
    drawn = graph(shop, generated=True)
    names = {node.name for node in drawn.nodes}
    rungs = ladder(shop)
    assert {f"queue {queue.name}" for queue in rungs.queues} <= names
    assert {f"exchange {exchange.name}" for exchange in rungs.exchanges} <= names
    assert {e.source for e in drawn.edges if e.kind == "delay"} == {f"queue {queue.name}" for queue in rungs.queues}
    assert [node for node in drawn.nodes if ".permits." in node.name]
    assert DELAYS not in names


def test_what_the_file_does_not_have_is_drawn_as_unknown() -> None:
    """A route or binding that leads nowhere is not left out: its end is a node that says what is missing."""
    loaded = topology(exchanges={"x": {}}, bindings=["x[k] -> q"], routes={"t": {"exchange": "x", "key": "k"}})
    drawn = graph(replace(loaded, bindings=(Binding("x", "gone", "k"),)))
    assert drawn.by_name["queue gone"].kind == "unknown"
    assert drawn.by_name["queue gone"].details == ("not in the file",)


def test_what_is_managed_elsewhere_says_so(drawn: Graph) -> None:
    """A queue under `manage: verify` is marked."""
    assert drawn.by_name["queue legacy"].manage == "verify"
    assert "must exist" in drawn.by_name["queue legacy"].details


def test_replies_and_limits_are_notes(drawn: Graph) -> None:
    """Reply queues come and go, so they are words below the picture, and so are limits."""
    assert drawn.notes == (
        "Results of mail.*, web.*, other tasks: amqpq.reply.<task id>, a queue for each task, kept 1d",
        "Results of ask.*: straight to the caller (direct reply-to)",
        "No results: news.*",
        "Limit on web.*: rate 100/m (1 permit queue)",
    )


@pytest.mark.parametrize("name", library.names())
@pytest.mark.parametrize("generated", [False, True])
def test_every_edge_of_a_ready_made_topology_has_its_ends(name: str, generated: bool) -> None:
    """No edge leads from or to what is not drawn, and nothing in these files is unknown."""
    drawn = graph(load(library.find(name)), generated=generated)
    assert {end for e in drawn.edges for end in (e.source, e.target)} <= drawn.by_name.keys()
    assert not [node for node in drawn.nodes if node.kind == "unknown"]


def test_equal_topologies_make_equal_graphs(shop: Topology) -> None:
    """The graph depends on nothing but the topology."""
    assert graph(shop) == graph(copy.deepcopy(shop))


def test_no_secret_comes_into_a_graph(drawn: Graph) -> None:
    """Neither password nor address of the broker is in any part of it."""
    everything = json.dumps([asdict(node) for node in drawn.nodes] + [asdict(e) for e in drawn.edges]) + str(
        drawn.notes
    )
    assert "hunter2" not in everything
    assert "broker.example" not in everything
