"""Calls to a queue that was renamed: what is signed, and where it goes, is as the file of before had it."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq import App
from amqpq.delayed import Shelf
from amqpq.producer.options import read_options
from amqpq.producer.planning import Call, Planner
from amqpq.testing.memory import MemoryBroker, declare_topology, memory_link
from amqpq.topology import Topology
from amqpq.types import Publication
from tests.support.renamed import KEY, MOVED, loaded

NOW = 1_800_000_000.0
REPLIES = {"mode": "none"}

OLD, NEW = loaded("mail", replies=REPLIES), loaded("post", replies=REPLIES, moved=MOVED)


def planned(topology: Topology, task: str, **options: Any) -> Publication:
    """Plan a call, at a moment that stands still."""
    planner = Planner(topology, App(topology, environ=KEY).codec, clock=lambda: NOW, new_id=lambda: "id-1")
    return planner.plan(Call(task, (), {}, read_options(options))).publication


@pytest.mark.parametrize(
    ("task", "old", "new"),
    [
        ("mail.note", {}, {}),
        ("mail.note", {"queue": "mail"}, {"queue": "post"}),
        ("mail.note", {"queue": "mail"}, {"queue": "mail"}),
        ("mail.note", {"exchange": "", "routing_key": "mail"}, {"exchange": "", "routing_key": "post"}),
        ("mail.note", {"countdown": 3}, {"countdown": 3}),
        ("mail.note", {"countdown": 3, "queue": "mail"}, {"countdown": 3, "queue": "mail"}),
        ("mail.topic", {}, {}),
        ("mail.topic", {"countdown": 3}, {"countdown": 3}),
    ],
)
def test_both_files_publish_the_same(task: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Exchange, key, the signed route, and the way through the delay ladder."""
    before, after = planned(OLD, task, **old), planned(NEW, task, **new)
    assert (after.exchange, after.routing_key) == (before.exchange, before.routing_key)

    def ways(publication: Publication) -> dict[str, object]:
        headers = publication.properties.headers
        return {
            name: headers[name] for name in headers if name.startswith(("amqpq-route", "amqpq-to-", "amqpq-delay-"))
        }

    assert ways(after) == ways(before)
    assert ways(after)["amqpq-route"] == ("web/mail.topic" if task == "mail.topic" else "/mail")


def test_what_waits_in_the_ladder_is_shown_with_the_name_that_its_queue_has_now() -> None:
    """Whichever of the two its header says."""
    shelf = Shelf(MemoryBroker().connect(), NEW)
    assert [shelf._by_header[header] for header in ("amqpq-to-mail", "amqpq-to-post")] == ["post", "post"]


def test_other_queues_keep_their_name() -> None:
    """Only what was renamed is published under another one; and a key of an exchange is no queue."""
    assert planned(NEW, "mail.note", queue="other").routing_key == "other"
    assert planned(NEW, "mail.note", exchange="web", routing_key="post").routing_key == "post"


@pytest.mark.parametrize("topology", [OLD, NEW], ids=["old", "new"])
def test_a_producer_reaches_the_new_queue_where_there_never_was_another(topology: Topology) -> None:
    """Through the exchange of the former name."""
    broker = MemoryBroker()
    declare_topology(broker, NEW)
    with App(topology, environ=KEY, link=memory_link(broker)) as app:
        app.send_task("mail.note")
        app.send_task("mail.topic")
    assert len(broker.messages("post")) == 2
