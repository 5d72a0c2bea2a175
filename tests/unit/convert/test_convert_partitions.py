"""Partitioned queues through definitions and back, and what only looks like one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from amqpq.convert import asyncapi, importing, partitions
from amqpq.convert.objects import Objects
from amqpq.topology import Topology, load
from amqpq.topology.declarations import declarations
from amqpq.types import BindingSpec, QueueSpec

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"web": {"type": "topic"}},
    "queues": {
        "clicks": {"partitions": 12},
        "orders": {"type": "quorum", "partitions": 2, "single_active": True, "partition_by": {"header": "customer"}},
        "jobs": {"partitions": 1, "partition_by": {"property": "message_id"}},
    },
    "bindings": ["web[click.*] -> clicks"],
    "routes": {"*": {"queue": "clicks", "key": "{user}"}},
    "delays": {},
}


def objects(topology: Topology) -> Objects:
    """Return what an apply of a topology makes."""
    wanted = declarations(topology)
    return Objects("/", wanted.exchanges, wanted.queues, wanted.bindings)


FOUND = objects(load(SOURCE, environ={}))


def test_an_import_is_what_was_written() -> None:
    """An apply of it would change nothing, ladder included."""
    imported = importing.from_objects(FOUND, source="a test", project="shop")
    assert imported.tree["queues"]["clicks"] == {"partitions": 12}
    assert imported.tree["queues"]["orders"]["partition_by"] == {"header": "customer"}
    assert not [name for name in imported.tree["queues"] if name.startswith("clicks.")]
    again = objects(imported.topology)
    assert set(map(repr, again.bindings)) == set(map(repr, FOUND.bindings))
    assert {queue.name: queue.arguments for queue in again.queues} == {q.name: q.arguments for q in FOUND.queues}
    assert {x.name: (x.type, x.arguments) for x in again.exchanges} == {
        x.name: (x.type, x.arguments) for x in FOUND.exchanges
    }


@pytest.mark.parametrize(
    "change",
    [
        {"bindings": (*FOUND.bindings, BindingSpec("web", "orders.1", "x"))},
        {"bindings": tuple(b for b in FOUND.bindings if b.target != "orders.0")},
        {"queues": (*FOUND.queues, QueueSpec("orders"))},
        {"queues": tuple(replace(q, arguments={}) if q.name == "orders.1" else q for q in FOUND.queues)},
        {"bindings": tuple(replace(b, key="2") if b.target == "orders.1" and b.key else b for b in FOUND.bindings)},
    ],
)
def test_what_is_not_quite_one_stays_as_it_is(change: dict[str, Any]) -> None:
    """Bound past the exchange, not all bound, beside a queue of that name, unlike, or with other weights."""
    without_ladder = replace(FOUND, bindings=tuple(b for b in FOUND.bindings if "delay" not in b.source))
    changed: dict[str, Any] = {
        key: tuple(x for x in value if "delay" not in getattr(x, "source", "")) for key, value in change.items()
    }
    _, parts = partitions.fold(replace(without_ladder, **changed))
    assert "orders" not in parts
    assert "clicks" in parts


def test_asyncapi_names_the_exchange_and_every_partition() -> None:
    """Whoever sends needs the one, whoever receives the others."""
    document, _ = asyncapi.build(load(SOURCE, environ={}))
    channels = document["channels"].values()
    exchanges = [each["bindings"]["amqp"].get("exchange") for each in channels]
    assert any(exchange and exchange["name"] == "clicks.hash" for exchange in exchanges)
    assert {"clicks.0", "clicks.11"} <= {each["address"] for each in channels}
