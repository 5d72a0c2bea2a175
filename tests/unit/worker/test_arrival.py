"""How a message came, held against the route it was signed for."""

from __future__ import annotations

import pytest

from amqpq.message.wire import ROUTE
from amqpq.topology import Topology, load
from amqpq.types import Properties, Table
from amqpq.worker import arrival
from amqpq.worker.arrival import Arrivals
from amqpq.worker.work import Work


@pytest.fixture
def topology() -> Topology:
    """A queue behind an exchange that looks at headers."""
    return load(
        {
            "amqpq": 1,
            "project": "shop",
            "exchanges": {"web": {"type": "topic"}, "by-size": {"type": "headers"}},
            "queues": {"default": {}, "large": {}},
            "bindings": [
                "web[web.#] -> default",
                {"from": "by-size", "to": "large", "match": "all", "headers": {"size": "large"}},
            ],
            "routes": {"*": {"queue": "default"}},
            "security": {"signing": False},
        }
    )


def came(queue: str, exchange: str, key: str, headers: Table) -> Work:
    """Return a message that came like this."""
    return Work(1, queue, b"", Properties(headers=headers), exchange, key, redelivered=False, alone=False)


def test_what_came_straight_is_held_against_its_way(topology: Topology) -> None:
    """Also where the header is missing, or is no text."""
    arrivals = Arrivals(topology)
    for signed_for in ("web/web.add", "other/x", None, ["web"], 7):
        for _ in range(2):
            assert arrivals.way(came("default", "web", "web.add", {ROUTE: signed_for})) == ("web", "web.add")


def test_what_was_put_back_is_held_against_where_its_route_leads(topology: Topology) -> None:
    """To this queue: nothing to compare; elsewhere, or to an exchange that is not there: as it came."""
    arrivals = Arrivals(topology)
    for _ in range(2):
        assert arrivals.way(came("default", "", "default", {ROUTE: "web/web.add"})) is None
        assert arrivals.way(came("large", "", "large", {ROUTE: "web/web.add"})) == ("", "large")
        assert arrivals.way(came("default", "", "default", {ROUTE: "gone/x"})) == ("", "default")
        assert arrivals.way(came("default", "", "default", {ROUTE: "/default"})) == ("", "default")


def test_an_answer_that_hangs_on_headers_is_not_kept(topology: Topology) -> None:
    """The next message of the same way has headers of its own."""
    arrivals = Arrivals(topology)
    for size, way in (("large", None), ("small", ("", "large")), ("large", None)):
        assert arrivals.way(came("large", "", "large", {ROUTE: "by-size/", "size": size})) == way


def test_who_makes_up_routes_does_not_fill_the_memory(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header is looked at before the signature is checked."""
    monkeypatch.setattr(arrival, "WAYS_KEPT", 3)
    arrivals = Arrivals(topology)
    for number in range(10):
        assert arrivals.way(came("default", "web", "a", {ROUTE: f"web/{number}"})) == ("web", "a")
    assert len(arrivals._known) == 3
