"""Dead letters as a worker writes them, and as the broker does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from amqpq.deadletters import desk
from amqpq.deadletters.letter import Letter, read
from amqpq.types import Delivery, Properties


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The in-memory broker gives back at once; nobody has to wait for that."""
    monkeypatch.setattr(desk, "LOOK_SECONDS", 0.0)


NOW = 1_795_000_000.0
PARKED: dict[str, Any] = {
    "task": "shop.charge",
    "id": "a1",
    "amqpq-sig": "c2ln",
    "amqpq-kid": "shop",
    "amqpq-ts": 1,
    "amqpq-route": "/default",
    "amqpq-cause": "failed",
    "amqpq-reason": "ValueError: no card",
    "amqpq-traceback": "Traceback: line 7 in Charge",
    "amqpq-host": "h",
    "amqpq-worker": "w@h",
    "amqpq-queue": "default",
    "amqpq-exchange": "tasks",
    "amqpq-key": "k",
    "amqpq-attempts": 3,
    "amqpq-first-failed": "2026-11-18T11:06:40.000+00:00",
    "amqpq-last-failed": "2026-11-18T11:06:40.000+00:00",
    "mine": "customer-4711",
}

MakeLetter = Callable[..., Letter]


@pytest.fixture
def letter() -> MakeLetter:
    """Make a dead letter: `headers` over those of a parked task, None taking one away; `properties` of the message."""

    def make(
        headers: dict[str, Any] | None = None, *, body: bytes = b'[[1], {"who": "Zoe"}, {}]', **properties: Any
    ) -> Letter:
        merged = {name: value for name, value in {**PARKED, **(headers or {})}.items() if value is not None}
        message = Properties(content_type="application/json", headers=merged, delivery_mode=2, **properties)
        return read(Delivery(body, message, "", "shop.dead", redelivered=False, tag=1), "shop.dead")

    return make
