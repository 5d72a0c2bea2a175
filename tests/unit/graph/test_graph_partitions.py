"""Pictures of partitioned queues: drawn as one."""

from __future__ import annotations

from amqpq.graph.build import graph
from amqpq.graph.live import Depth, annotated, queues_of
from amqpq.graph.path import lit, message
from amqpq.topology import load

TOPOLOGY = load(
    {
        "amqpq": 1,
        "project": "shop",
        "exchanges": {"web": {"type": "topic"}},
        "queues": {"clicks": {"partitions": 3, "partition_by": {"header": "user"}}, "mail": {}},
        "bindings": ["web[c.*] -> clicks"],
        "routes": {
            "clicks.*": {"queue": "clicks"},
            "web.*": {"exchange": "web", "key": "c.{task}"},
            "*": {"queue": "mail"},
        },
        "delays": {},
        "retries": {"max": 1},
    },
    environ={},
)


def test_the_partitions_are_one_node_and_their_exchange_is_none() -> None:
    """Routes and bindings lead to it, with or without what is generated; nothing is unknown."""
    for generated in (False, True):
        found = graph(TOPOLOGY, generated=generated)
        assert found.by_name["queue clicks"].details[1:3] == ("3 partitions", "by user")
        assert not [node.name for node in found.nodes if node.kind == "unknown" or ".hash" in node.name]
        assert not [node.name for node in found.nodes if node.name.startswith("queue clicks.")]
        ways = {(edge.source, edge.target) for edge in found.edges}
        assert {("tasks clicks.*", "queue clicks"), ("exchange web", "queue clicks")} <= ways


def test_the_way_of_a_task_ends_in_the_queue() -> None:
    """Past the exchange that is not drawn."""
    found = lit(graph(TOPOLOGY), TOPOLOGY, message(TOPOLOGY, "clicks.note", {}))
    assert [(edge.source, edge.target) for edge in found.edges if edge.light == "lit"] == [
        ("tasks clicks.*", "queue clicks")
    ]


def test_live_counts_are_added_up() -> None:
    """All partitions are asked for; what is not seen of one is not known of all."""
    found = graph(TOPOLOGY)
    assert {"clicks.0", "clicks.1", "clicks.2", "mail"} <= set(queues_of(found))
    assert "clicks" not in queues_of(found)
    depths = {f"clicks.{number}": Depth(number, 1, 2) for number in range(3)}
    assert annotated(found, depths, "").by_name["queue clicks"].live == ("3 ready · 3 unacked · 6 consumers",)
    partly = {**depths, "clicks.1": None, "clicks.2": Depth(5, None, 1)}
    assert annotated(found, partly, "").by_name["queue clicks"].live == ("5 ready · 3 consumers",)
