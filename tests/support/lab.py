"""A vhost of a real broker to ask questions in: what does RabbitMQ do with this declaration, this policy, this message?

    lab.declare("work", {"x-message-ttl": 1000})
    lab.send("work", b"hello")
    assert lab.take("work").body == b"hello"

What the broker refuses comes back as its words. Each request that it may refuse has a channel of its own, because the broker
closes the channel with its refusal.
"""

from __future__ import annotations

import itertools
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

import pytest

from amqpq import management
from amqpq.errors import AmqpqError, ConnectionLost, ObjectNotFound
from amqpq.transport import blocking, flow, url
from amqpq.transport.channel import WireChannel
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Outcome, Properties, Publication, QueueSpec, QueueState

T = TypeVar("T")
Arguments: TypeAlias = Mapping[str, Any]

DEADLINE_SECONDS: Final = 20.0
ANSWER_SECONDS: Final = 60.0
HEARTBEAT_SECONDS: Final = 30
PAUSE_SECONDS: Final = 0.02
"""Between two looks at what nothing signals: a queue's depth, a policy that takes effect."""
STATISTICS_SECONDS: Final = 60.0
"""For what the broker gathers for its statistics every five seconds."""

QUORUM: Final = {"x-queue-type": "quorum"}
STREAM: Final = {"x-queue-type": "stream"}


class Server(Protocol):
    """A broker under test, and what is needed of its management API."""

    @property
    def url(self) -> str:
        """Of its AMQP port, with the user to act as."""

    @property
    def management_url(self) -> str:
        """Of its management API."""

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Call it; `path` without `/api/`."""


def answer(pending: Pending[T], timeout_seconds: float = ANSWER_SECONDS) -> T:
    """Wait for an answer of the broker, or raise its refusal."""

    def waiting() -> Flow[T]:
        found: T = yield pending
        return found

    return flow.run(waiting(), timeout_seconds)


def until(look: Callable[[], T | None], what: str, timeout_seconds: float = DEADLINE_SECONDS) -> T:
    """Look again and again until there is something; for what no event tells."""
    deadline = time.monotonic() + timeout_seconds
    pause = threading.Event()
    while (found := look()) is None or found is False:
        assert time.monotonic() < deadline, f"after {timeout_seconds:g} s still not: {what}"
        pause.wait(PAUSE_SECONDS)
    return found


def do(connection: Connection, *calls: Callable[[Channel], Pending[Any]]) -> list[Any]:
    """Make calls over AMQP, one after the other and each on a channel of its own; return the answers."""
    answers = []
    for call in calls:
        channel = connection.channel()
        answers.append(answer(call(channel)))
        channel.close()
    return answers


def taken_from(channel: Channel, queue: str) -> list[Delivery]:
    """Take everything out of a queue, in its order."""
    found: list[Delivery] = []
    while (delivery := answer(channel.get(queue, no_ack=True))) is not None:
        found.append(delivery)
    return found


def administrator(server: Server) -> management.Management:
    """Return a client of the management API that is logged in as the user of the broker's URL."""
    user = urlsplit(server.url)
    login = (unquote(user.username or "guest"), unquote(user.password or "guest"))
    return management.Management(management.endpoint(server.management_url, login=login))


def allow(server: Server, place: str, **rights: str) -> None:
    """Set what the user of an AMQP URL may do in its vhost: `configure`, `write`, `read`, each everything unless it is said."""
    parts = urlsplit(place)
    where = f"permissions/{quote(unquote(parts.path[1:]), safe='')}/{parts.username}"
    server.request("PUT", where, {"configure": ".*", "write": ".*", "read": ".*", **rights})


@contextmanager
def stranger(server: Server, place: str, *tags: str, **rights: str) -> Iterator[str]:
    """A user for a while, with these tags; yields the URL that leads this user into the vhost of `place`, for `allow` as well."""
    name, parts = f"amqpq-test-{uuid4().hex[:12]}", urlsplit(place)
    server.request("PUT", f"users/{name}", {"password": "p", "tags": ",".join(tags)})
    try:
        theirs = parts._replace(netloc=f"{name}:p@{parts.hostname}:{parts.port}").geturl()
        allow(server, theirs, **rights)
        yield theirs
    finally:
        server.request("DELETE", f"users/{name}")


def ready(connection: Connection, queue: str) -> int | None:
    """Return how many messages of a queue are ready, None where there is no such queue."""
    channel = connection.channel()
    try:
        state = answer(channel.declare_queue(QueueSpec(queue), passive=True))
    except ObjectNotFound:
        return None
    channel.close()
    return state.messages


def lose_connection_at(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever declares this queue find that the connection is lost."""
    declare_queue = WireChannel.declare_queue

    def cut(channel: WireChannel, spec: QueueSpec, *, passive: bool = False) -> Pending[QueueState]:
        if spec.name == queue and not passive:
            raise ConnectionLost("cut")
        return declare_queue(channel, spec, passive=passive)

    monkeypatch.setattr(WireChannel, "declare_queue", cut)


def until_counted(api: management.Management, vhost: str, queue: str, ready: int) -> None:
    """Wait until the API's statistics know how many messages a queue holds."""

    def counted() -> bool:
        return any(found.name == queue and found.ready == ready for found in api.queues(vhost))

    until(counted, f"{ready} messages counted in {queue}", STATISTICS_SECONDS)


class Lab:
    """A connection into a vhost of its own, and the management API beside it."""

    def __init__(self, place: str, server: Server) -> None:
        self.url = place
        self.server = server
        self.vhost = unquote(urlsplit(place).path.removeprefix("/"))
        self._opened: list[Connection] = []
        self.connection = self.connect()
        self._channel = self.connection.channel()

    @property
    def version(self) -> tuple[int, int, int]:
        """The broker's version, as it says itself."""
        return self.connection.server.version_tuple

    @property
    def channel(self) -> Channel:
        """A channel that is open: a new one after a refusal."""
        if self._channel.closed.done():
            self._channel = self.connection.channel()
        return self._channel

    def connect(self, place: str | None = None, heartbeat_seconds: int = HEARTBEAT_SECONDS) -> Connection:
        """Open one more connection, here or at another URL."""
        opened = blocking.connect(
            url.parse(place or self.url), heartbeat_seconds=heartbeat_seconds, timeout_seconds=DEADLINE_SECONDS
        )
        self._opened.append(opened)
        return opened

    def close(self) -> None:
        """Hang up."""
        for opened in self._opened:
            with suppress(AmqpqError):
                answer(opened.close())

    # -------------------------------------------------------------------------------------------------------- declaring

    def declare(self, name: str, arguments: Arguments | None = None, **flags: bool) -> None:
        """Create a queue (durable unless `flags` say otherwise)."""
        answer(self.connection.channel().declare_queue(QueueSpec(name, arguments=arguments or {}, **flags)))

    def exchange(self, name: str, kind: str = "fanout", arguments: Arguments | None = None) -> None:
        """Create an exchange."""
        answer(self.channel.declare_exchange(ExchangeSpec(name, kind, arguments=arguments or {})))

    def bind(
        self, source: str, target: str, key: str = "", arguments: Arguments | None = None, *, to_exchange: bool = False
    ) -> None:
        """Bind a queue, or an exchange."""
        answer(self.channel.bind(BindingSpec(source, target, key, to_exchange, arguments or {})))

    def refusal(self, name: str, arguments: Arguments | None = None, **flags: bool) -> str:
        """The words with which the broker refuses to declare this queue; empty where it does not."""
        try:
            self.declare(name, arguments, **flags)
        except AmqpqError as error:
            return str(error)
        return ""

    def exists(self, name: str) -> bool:
        """Whether there is such a queue."""
        return self.state(name) is not None

    def state(self, name: str) -> tuple[int, int] | None:
        """What a passive declaration says, (ready, consumers), or None where there is no such queue."""
        try:
            found = answer(self.connection.channel().declare_queue(QueueSpec(name), passive=True))
        except ObjectNotFound:
            return None
        return found.messages, found.consumers

    def delete(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue; answer how many messages went with it."""
        return answer(self.connection.channel().delete_queue(name, if_unused=if_unused, if_empty=if_empty))

    # -------------------------------------------------------------------------------------------------------- messages

    def publish(self, exchange: str, key: str, body: bytes, **properties: Any) -> Outcome:
        """Publish one persistent message with `mandatory` and wait for its fate."""
        given = Properties(**({"delivery_mode": 2} | properties))
        (outcome,) = answer(self.channel.publish([Publication(exchange, key, body, given)]))
        return outcome

    def send(self, queue: str, *bodies: bytes, **properties: Any) -> None:
        """Publish to a queue by name, and see it confirmed."""
        for body in bodies:
            outcome = self.publish("", queue, body, **properties)
            assert outcome.confirmed, outcome

    def take(self, queue: str) -> Delivery | None:
        """Fetch and acknowledge the next message, if there is one."""
        return answer(self.channel.get(queue, no_ack=True))

    def bodies(self, queue: str) -> list[bytes]:
        """Fetch and acknowledge all there is."""
        return [delivery.body for delivery in iter(lambda: self.take(queue), None)]

    def arrival(self, queue: str) -> Delivery:
        """Wait for the next message."""
        return until(lambda: self.take(queue), f"a message in {queue}")

    # ------------------------------------------------------------------------------------------------- management API

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API; `{v}` in the path is the vhost."""
        return self.server.request(method, path.replace("{v}", quote(self.vhost, safe="")), body)

    def api_refusal(self, method: str, path: str, body: object = None) -> str:
        """The words with which the management API refuses; empty where it does not."""
        try:
            self.api(method, path, body)
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode()}"
        return ""

    def policy(self, definition: Arguments, pattern: str = ".*", kind: str = "queues", *, priority: int = 0) -> None:
        """Set a policy. Queues that are declared after it have it from their first moment."""
        name = f"p{next(_numbers)}"
        body = {"pattern": pattern, "definition": dict(definition), "apply-to": kind, "priority": priority}
        self.api("PUT", f"policies/{{v}}/{name}", body)

    def operator_policy(self, definition: Arguments, pattern: str = ".*") -> None:
        """Set an operator policy."""
        body = {"pattern": pattern, "definition": dict(definition), "apply-to": "queues", "priority": 0}
        self.api("PUT", f"operator-policies/{{v}}/p{next(_numbers)}", body)

    def seen(self, queue: str) -> dict[str, Any]:
        """A queue as the management API shows it."""
        found: dict[str, Any] = self.api("GET", f"queues/{{v}}/{quote(queue, safe='')}")
        return found

    def lacks(self, queue: str) -> bool:
        """Whether there is no such queue; asked without using it, because a passive declaration renews its lease."""
        return self.api_refusal("GET", f"queues/{{v}}/{quote(queue, safe='')}").startswith("404")


_numbers: Iterator[int] = itertools.count(1)
