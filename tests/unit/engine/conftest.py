"""An application on the in-memory broker, its queues declared, and a responder that answers its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import ObjectNotFound
from amqpq.testing.memory import MemoryBroker, memory_link
from amqpq.testing.responder import Responder
from amqpq.topology import Topology, load
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import QueueSpec

KEY = {"SIGN_KEY": "5a" * 32}

TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"tasks": {"type": "direct"}, "web": {"type": "topic"}, "news": {"type": "fanout"}},
    "queues": {"default": {"max_priority": 10}, "web.high": {}, "audit": {}},
    "bindings": ["tasks[default] -> default", "web[web.#] -> web.high", "web[file.*] -> web.high", "news -> audit"],
    "routes": {
        "tasks.*": {"exchange": "tasks", "key": "default"},
        "web.*": {"exchange": "web", "key": "web.{task}", "priority": 5, "expires": "10m", "compression": "zlib"},
        "file.*": {"exchange": "web", "key": "file.{kind}"},
        "news.post": {"exchange": "news", "reply": "none"},
    },
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}


@cache
def loaded() -> Topology:
    """The topology, read once for all tests."""
    return load(TOPOLOGY, environ=KEY)


def answer(pending: Pending[Any]) -> Any:
    """Wait for an answer of the broker."""

    def waiting() -> Flow[Any]:
        return (yield pending)

    return flow.run(waiting(), 10.0)


@pytest.fixture
def broker() -> MemoryBroker:
    """An empty in-memory broker."""
    return MemoryBroker()


@pytest.fixture
def connection(broker: MemoryBroker) -> Connection:
    """A connection that is not the application's."""
    return broker.connect()


@pytest.fixture
def channel(connection: Connection) -> Channel:
    """A channel that is not the application's."""
    return connection.channel()


@pytest.fixture
def app(broker: MemoryBroker, connection: Connection) -> Iterator[App]:
    """The application; its topology is on the broker."""
    application = App(loaded(), environ=KEY, link=memory_link(broker))
    flow.run(declare.apply(connection.channel, declarations(application.topology)), 10.0)
    with application:
        yield application


@pytest.fixture
def responder(app: App, connection: Connection) -> Responder:
    """Hands the calls of the queue `default` to the test."""
    return Responder(app, connection)


@pytest.fixture
def runs(app: App, connection: Connection) -> Callable[..., Responder]:
    """`runs(add=function)` has `tasks.add` answered by that function."""

    def start(**functions: Callable[..., Any]) -> Responder:
        return Responder(app, connection, functions={f"tasks.{name}": each for name, each in functions.items()})

    return start


@pytest.fixture
def ready(connection: Connection) -> Callable[[str], int | None]:
    """`ready(name)` is how many ready messages a queue holds, None where it does not exist."""

    def count(name: str) -> int | None:
        channel = connection.channel()
        try:
            state = answer(channel.declare_queue(QueueSpec(name), passive=True))
        except ObjectNotFound:
            return None
        answer(channel.close())
        return int(state.messages)

    return count
