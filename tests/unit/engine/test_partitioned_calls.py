"""Calls of tasks whose queue has partitions: the exchange, the key, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.config import codec
from amqpq.errors import LocalError
from amqpq.producer.options import read_options
from amqpq.producer.planning import Call, Planner
from amqpq.topology import load
from amqpq.types import Publication

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {
        "clicks": {"partitions": 4},
        "sites": {"partitions": 4, "partition_by": {"header": "site"}},
        "jobs": {"partitions": 4, "partition_by": {"property": "correlation_id"}},
        "plain": {},
    },
    "routes": {
        "clicks.*": {"queue": "clicks", "key": "{user}"},
        "sites.*": {"queue": "sites"},
        "jobs.*": {"queue": "jobs"},
        "*": {"queue": "plain"},
    },
    "delays": {},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}


@pytest.fixture(scope="module")
def planner() -> Planner:
    """A planner whose clock stands still and whose ids are known."""
    topology = load(SOURCE, environ={})
    made = codec(topology, environ={"SIGN_KEY": "5a" * 32})
    return Planner(topology, made, clock=lambda: 1_800_000_000.0, new_id=lambda: "id-1")


def sent(planner: Planner, task: str, kwargs: dict[str, Any] | None = None, **options: Any) -> Publication:
    """Return what a call publishes."""
    return planner.plan(Call(task, (), kwargs or {}, read_options(options))).publication


def where(publication: Publication) -> tuple[str, str]:
    """Return exchange and key."""
    return publication.exchange, publication.routing_key


def test_the_route_fills_the_key_from_the_call(planner: Planner) -> None:
    """And it goes to the exchange before the partitions, signed for that."""
    publication = sent(planner, "clicks.note", {"user": "ann"})
    assert where(publication) == ("clicks.hash", "ann")
    assert publication.properties.headers["amqpq-route"] == "clicks.hash/ann"


def test_a_call_that_names_the_queue_needs_a_key_or_a_route_to_it(planner: Planner) -> None:
    """Else all would go to one partition; the sentence says both ways out."""
    assert where(sent(planner, "other", queue="clicks", routing_key="bob")) == ("clicks.hash", "bob")
    assert where(sent(planner, "clicks.note", {"user": "ann"}, queue="clicks")) == ("clicks.hash", "ann")
    with pytest.raises(LocalError, match=r"routing_key= too, or name the partition, queue='clicks\.0'"):
        sent(planner, "other", queue="clicks")


def test_a_queue_without_partitions_has_no_use_for_a_key(planner: Planner) -> None:
    """Nor has a partition: its own name is the key."""
    for name in ("plain", "clicks.1"):
        with pytest.raises(LocalError, match="excludes routing_key="):
            sent(planner, "other", queue=name, routing_key="bob")


def test_a_partition_can_be_named_and_one_too_many_cannot(planner: Planner) -> None:
    """It is a queue like any other."""
    assert where(sent(planner, "other", queue="clicks.3")) == ("", "clicks.3")
    with pytest.raises(LocalError, match="no such queue"):
        sent(planner, "other", queue="clicks.4")


def test_the_header_that_chooses_must_be_there(planner: Planner) -> None:
    """By the route, and by name."""
    assert where(sent(planner, "sites.note", headers={"site": "a"})) == ("sites.hash", "")
    assert where(sent(planner, "other", queue="sites", headers={"site": "a"})) == ("sites.hash", "")
    for options in ({}, {"queue": "sites"}, {"headers": {"other": "a"}}):
        with pytest.raises(LocalError, match="the header 'site' chooses the partition"):
            sent(planner, "sites.note", **options)


def test_the_id_chooses_without_a_key(planner: Planner) -> None:
    """Nobody has to say anything."""
    assert where(sent(planner, "jobs.make")) == ("jobs.hash", "")
    assert where(sent(planner, "other", queue="jobs")) == ("jobs.hash", "")


def test_a_delayed_call_keeps_its_key_and_leaves_the_ladder_for_the_exchange(planner: Planner) -> None:
    """Which partition it will be is found out when it is due."""
    publication = sent(planner, "clicks.note", {"user": "ann"}, countdown=5)
    assert publication.exchange.startswith("shop.delay.")
    assert publication.routing_key == "ann"
    assert publication.properties.headers["amqpq-to-clicks"] is True
    assert publication.properties.headers["amqpq-route"] == "clicks.hash/ann"
