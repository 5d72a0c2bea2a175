"""A topology with one of everything, and its graph."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.graph.build import graph
from amqpq.graph.model import Graph
from amqpq.topology import Topology, load

SHOP: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "variables": {"URL": {"type": "secret", "from": "env:SHOP_URL", "default": "amqp://guest:guest@localhost/"}},
    "broker": {"url": "${URL}"},
    "exchanges": {
        "work": {"type": "direct", "unrouted": "lost"},
        "web": {"type": "topic"},
        "news": {"type": "fanout"},
        "audit": {"type": "headers", "internal": True},
        "lost": {"type": "fanout"},
    },
    "queues": {
        "mail": {"max_priority": 9},
        "pages": {"type": "quorum", "delivery_limit": 20, "dead_letter": "parked"},
        "alarms": {"limits": {"max_length": 1000, "overflow": "drop-head"}},
        "journal": {"type": "stream", "retention": {"max_age": "30D"}},
        "quick": {"ttl": "30s", "dead_letter": "none"},
        "legacy": {"manage": "verify"},
        "lost": {},
        "parked": {"ttl": "14d"},
    },
    "dead_letters": {"parked": {"queue": "parked"}},
    "bindings": [
        "work[mail, post, letters, cards] -> mail",
        "work[quick] -> quick",
        "web[web.#] -> pages",
        "web[*.old] -> legacy",
        "news -> audit",
        "news -> pages",
        "lost -> lost",
        {"from": "audit", "to": "alarms", "match": "any", "headers": {"severity": "high", "urgent": True}},
        {"from": "audit", "to": "journal", "match": "any-with-x", "headers": {"x-source": None}},
    ],
    "routes": {
        "mail.*": {"exchange": "work", "key": "mail", "expires": "10m", "priority": 5},
        "ask.*": {"exchange": "work", "key": "quick", "reply": "direct"},
        "web.*": {"exchange": "web", "key": "web.{task}", "retries": {"max": 3}},
        "news.*": {"exchange": "news", "reply": "none"},
        "*": {"queue": "mail"},
    },
    "limits": {"web.*": {"rate": "100/m"}},
    "delays": {"unit": "1s", "max": "1h"},
    "security": {"signing": False},
}


@pytest.fixture
def shop() -> Topology:
    """The topology."""
    return load(SHOP, environ={"SHOP_URL": "amqp://shop:hunter2@broker.example:5672/"})


@pytest.fixture
def drawn(shop: Topology) -> Graph:
    """Its graph."""
    return graph(shop)
