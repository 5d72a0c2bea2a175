"""Calls with countdown and eta: what is planned, and, on the in-memory broker, when they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqpq import App
from amqpq.config import codec
from amqpq.errors import LocalError
from amqpq.producer.options import read_options
from amqpq.producer.planning import Call, Plan, Planner
from amqpq.testing.memory import MemoryBroker, declare_topology, memory_link
from amqpq.topology import load

NOW = 1_800_000_000.0
MOMENT = datetime.fromtimestamp(NOW, UTC)
KEY = {"SIGN_KEY": "5a" * 32}

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {
        "tasks": {"type": "direct"},
        "web": {"type": "topic"},
        "news": {"type": "fanout"},
        "match": {"type": "headers"},
    },
    "queues": {
        "default": {},
        "web.high": {"max_priority": 10},
        "audit": {},
        "search": {},
        "theirs": {"manage": "external"},
    },
    "bindings": [
        "tasks[default] -> default",
        "web[web.#] -> web.high",
        "news -> audit",
        "news -> search",
        {"from": "match", "to": "audit", "headers": {"kind": "audit"}},
    ],
    "routes": {
        "tasks.*": {"exchange": "tasks", "key": "default"},
        "web.*": {"exchange": "web", "key": "web.{task}", "priority": 5, "expires": "10m"},
        "news.*": {"exchange": "news"},
        "match.*": {"exchange": "match"},
        "raw.*": {"queue": "default"},
        "theirs.*": {"queue": "theirs"},
    },
    "delays": {"max": "60d"},
    "replies": {"expires": "1h"},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}


@pytest.fixture(scope="module")
def planner() -> Planner:
    """A planner whose clock stands still."""
    topology = load(SOURCE, environ={})
    return Planner(topology, codec(topology, environ=KEY), clock=lambda: NOW, new_id=lambda: "id-1")


def plan(planner: Planner, task: str = "tasks.add", **options: Any) -> Plan:
    """Plan a call."""
    return planner.plan(Call(task, (), {}, read_options(options)))


@pytest.mark.parametrize(
    "options",
    [{"countdown": 5}, {"countdown": timedelta(seconds=5)}, {"eta": MOMENT + timedelta(seconds=5)}],
)
def test_a_delayed_call_enters_the_ladder(planner: Planner, options: dict[str, Any]) -> None:
    """Five seconds are 40 units of 125 ms: the fifth rung of level 1, and then the queue of its route."""
    publication = plan(planner, **options).publication
    assert (publication.exchange, publication.routing_key) == ("shop.delay.1", "default")
    hints = {name for name in publication.properties.headers if name.startswith(("amqpq-delay-", "amqpq-to-"))}
    assert hints == {"amqpq-delay-1", "amqpq-to-default"}
    assert publication.properties.headers["amqpq-due"] == round((NOW + 5) * 1000)


def test_the_signature_is_for_the_true_destination(planner: Planner) -> None:
    """Route and due time are signed, the way through the ladder is not."""
    headers = plan(planner, countdown=5).publication.properties.headers
    assert headers["amqpq-route"] == "tasks/default"
    assert headers["eta"] == (MOMENT + timedelta(seconds=5)).isoformat()


@pytest.mark.parametrize("options", [{"countdown": 0}, {"countdown": -1}, {"eta": MOMENT - timedelta(days=1)}])
def test_what_is_due_goes_straight(planner: Planner, options: dict[str, Any]) -> None:
    """A due time that is not in the future is now."""
    publication = plan(planner, **options).publication
    assert publication.exchange == "tasks"
    assert publication.properties.headers.get("eta") is None


@pytest.mark.parametrize(
    "options,words",
    [
        ({"countdown": 5, "eta": MOMENT}, "give one of them"),
        ({"countdown": MOMENT}, "that is eta='s to say"),
        ({"countdown": "5"}, "neither seconds nor a timedelta"),
        ({"countdown": float("nan")}, "beyond what a date can hold"),
        ({"eta": 5}, "is not a datetime"),
        ({"eta": datetime(2030, 1, 1)}, "has no time zone"),  # noqa: DTZ001 - that is the point
        ({"countdown": 61 * 86400, "reply": "none"}, r"longer than delays\.max .*60d"),
        ({"countdown": 5, "expires": 5}, "over before the task is due"),
        ({"countdown": 55 * 86400}, "7 weeks"),
        ({"countdown": 5, "exchange": "tasks", "routing_key": "nobody"}, "leads to no queue"),
        ({"countdown": 5, "exchange": "amq.direct", "routing_key": "x"}, "only where the topology knows the way"),
        ({"countdown": 5, "queue": "theirs"}, "manage: external"),
    ],
)
def test_what_cannot_be_kept_is_refused(planner: Planner, options: dict[str, Any], words: str) -> None:
    """Each with the reason, before anything is sent."""
    with pytest.raises(LocalError, match=words):
        plan(planner, **options)


def test_without_a_ladder_the_file_is_named() -> None:
    """The remedy is two lines away."""
    topology = load({name: part for name, part in SOURCE.items() if name != "delays"}, environ={})
    with pytest.raises(LocalError, match=r"add `delays: \{\}`"):
        plan(Planner(topology, codec(topology, environ=KEY)), countdown=1)


def test_a_delayed_message_has_no_time_to_live(planner: Planner) -> None:
    """The broker would end it inside the ladder; the signed expiry is the worker's to check, and counts from the due time."""
    properties = plan(planner, "web.resize", countdown=3600).publication.properties
    assert properties.expiration is None
    assert properties.headers["expires"] == (MOMENT + timedelta(seconds=3600 + 600)).isoformat()


def test_the_expiry_of_a_call_counts_from_now(planner: Planner) -> None:
    """As in Celery."""
    properties = plan(planner, countdown=10, expires=60).publication.properties
    assert properties.headers["expires"] == (MOMENT + timedelta(seconds=60)).isoformat()


def test_the_reply_queue_waits_as_long_as_the_task(planner: Planner) -> None:
    """A queue that waits is idle, and `x-expires` counts idle time."""
    spec = plan(planner, countdown=7200).reply_queue
    assert spec is not None
    assert spec.arguments["x-expires"] == (7200 + 3600) * 1000
    spec = plan(planner, "web.resize", countdown=7200).reply_queue
    assert spec is not None
    assert spec.arguments["x-expires"] == (7200 + 600 + 3600) * 1000


@pytest.fixture
def broker() -> MemoryBroker:
    """An empty in-memory broker, whose clock the test moves."""
    return MemoryBroker()


@pytest.fixture
def app(broker: MemoryBroker) -> Iterator[App]:
    """The application; its topology is on the broker."""
    source = {**SOURCE, "queues": {name: part for name, part in SOURCE["queues"].items() if name != "theirs"}}
    source["routes"] = {name: part for name, part in SOURCE["routes"].items() if name != "theirs.*"}
    made = App(source, environ=KEY, link=memory_link(broker))
    declare_topology(broker, made.topology)
    with made:
        yield made


WAYS: dict[str, Callable[[App], Any]] = {
    "direct": lambda app: app.send_task("tasks.add", countdown=10),
    "topic": lambda app: app.send_task("web.resize", countdown=10),
    "fanout": lambda app: app.send_task("news.post", countdown=10),
    "headers": lambda app: app.send_task("match.it", countdown=10, headers={"kind": "audit"}),
    "default": lambda app: app.send_task("raw.it", countdown=10),
}
REACHED = {
    "direct": {"default"},
    "topic": {"web.high"},
    "fanout": {"audit", "search"},
    "headers": {"audit"},
    "default": {"default"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_countdown_works_for_every_exchange_type(app: App, broker: MemoryBroker, way: str) -> None:
    """Not a moment too early, and at most a unit late; PENDING until then."""
    result = WAYS[way](app)
    for seconds in (5.0, 4.9):
        broker.advance(seconds)
        assert not any(broker.queues()[queue].messages for queue in REACHED[way])
    assert result.state == "PENDING"
    broker.advance(0.3)
    ready = {name for name, state in broker.queues().items() if state.messages}
    assert ready == REACHED[way]
