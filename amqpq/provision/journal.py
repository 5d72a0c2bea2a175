"""What a project made on the broker, and how far its last apply came: the last entry of a stream in the broker itself.

A stream needs no tag of the management plugin, only permissions on its name, and its last entry can be read alone
(https://www.rabbitmq.com/docs/streams#consuming). Each entry holds the whole manifest: whoever reads one has all of it. A message
that waits unacknowledged, or is fetched and put back, would be no store: that raises its delivery count, and the delivery limit
ends it. Old entries go after 90 days; the segment that is written to never does.

Only the holder of the lock writes. The lock is a queue that is exclusive to one connection: the broker gives it up with that
connection, however it ends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from amqpq.errors import (
    AccessRefused,
    LocalError,
    ObjectNotFound,
    OperationTimeout,
    OutcomeUnknown,
    QueueUnavailable,
    ResourceLocked,
)
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Connection, Flow, Pending, caught_up
from amqpq.types import PERSISTENT, Delivery, Properties, Publication, QueueSpec

FORMAT: Final = 1
OFFSET: Final = "x-stream-offset"
PREFETCH: Final = 100
WAIT_SECONDS: Final = 5.0
"""For the first entry of a stream that exists; one that is created and was never written to has none."""
BACK_SECONDS: Final = 20.0
"""For a stream whose node, or whose leader, is not back yet."""
PAUSE_SECONDS: Final = 0.25

_AGE: Final = "90D"
_BYTES: Final = 50_000_000
_SEGMENT_BYTES: Final = 1_000_000

Stage: TypeAlias = Literal["begun", "declared", "bound", "removed", "destroying", "done", "stopped"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the project made. `problem` says why it could not be read; then nobody knows, and nothing may be written."""

    serial: int = 0
    owned: frozenset[str] = field(default_factory=frozenset)
    stage: Stage = "done"
    """How far the last apply came."""
    problem: str = ""
    carried: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What its generated policies make hold, by queue and argument. A worker reads it: AMQP does not tell of policies."""


def stream_name(project: str) -> str:
    """Return the name of a project's journal."""
    return f"amqpq.journal.{project}"


def lock_name(project: str) -> str:
    """Return the name of a project's lock."""
    return f"amqpq.lock.{project}"


def stream_spec(project: str) -> QueueSpec:
    """Return the journal as `queue.declare` takes it."""
    arguments = {
        "x-queue-type": "stream",
        "x-max-age": _AGE,
        "x-max-length-bytes": _BYTES,
        "x-stream-max-segment-size-bytes": _SEGMENT_BYTES,
    }
    return QueueSpec(stream_name(project), arguments=arguments)


def lock(channel: Channel, project: str) -> Flow[None]:
    """Take the lock; it is held as long as the connection lives.

    Raises:
        ResourceLocked: Somebody else holds it.
        AccessRefused: The user may not declare it.
    """
    spec = QueueSpec(lock_name(project), durable=False, exclusive=True, auto_delete=True)
    try:
        yield channel.declare_queue(spec)
    except ResourceLocked as error:
        raise locked(project) from error


def locked(project: str) -> ResourceLocked:
    """Return the error of whoever finds the lock taken."""
    return ResourceLocked(
        f"another apply of project '{project}' runs: it holds the queue '{lock_name(project)}'; wait until it is done "
        "(should it have died, the broker gives the lock up with its connection)"
    )


def read(
    connection: Connection, project: str, *, timeout_seconds: float = WAIT_SECONDS, begun: Reading | None = None
) -> Manifest:
    """Read the manifest; empty where there is no journal. Blocking.

    After a restart of the broker a stream is not there at once: it is asked for again for a while.

    Args:
        connection: To ask through.
        project: Whose.
        timeout_seconds: For one answer.
        begun: A look that was sent before.
    """
    deadline = time.monotonic() + BACK_SECONDS
    while True:
        try:
            return _read_now(connection, project, timeout_seconds, begun)
        except QueueUnavailable as error:
            if time.monotonic() > deadline:
                return Manifest(problem=str(error))
            time.sleep(PAUSE_SECONDS)
            begun = None


def others(connection: Connection, queues: Iterable[str], project: str) -> dict[str, Manifest]:
    """Read the manifests of other projects, by project. Blocking.

    Args:
        connection: To ask through.
        queues: The names of all queues of the virtual host: which of them are journals tells which projects there are.
        project: The one that is left out.
    """
    stem, own = stream_name(""), stream_name(project)
    names = sorted(name for name in queues if name.startswith(stem) and name != own)
    return {name.removeprefix(stem): read(connection, name.removeprefix(stem)) for name in names}


def _read_now(connection: Connection, project: str, timeout_seconds: float, begun: Reading | None) -> Manifest:
    try:
        return flow.run((begun or Reading(connection, project)).answer(), timeout_seconds)
    except ObjectNotFound:
        return Manifest()
    except AccessRefused as error:
        return Manifest(problem=str(error).split("; ", 1)[0])
    except LocalError as error:
        return Manifest(problem=str(error))
    except OperationTimeout:
        entries = flow.run(_count(connection, project), timeout_seconds)
        if entries == 0:  # whoever made the stream was cut off before its first entry
            return Manifest()
        return Manifest(problem=f"the stream '{stream_name(project)}' did not answer within {timeout_seconds:g} s")


def _count(connection: Connection, project: str) -> Flow[int]:
    channel = connection.channel()
    state = yield channel.declare_queue(QueueSpec(stream_name(project)), passive=True)
    channel.close()
    return int(state.messages)


class Reading:
    """A look at the journal that is sent, and waited for later: what comes between costs no round trip more.

    Args:
        connection: To ask through.
        project: Whose.
    """

    def __init__(self, connection: Connection, project: str) -> None:
        name = stream_name(project)
        self._channel = connection.channel()
        self._found: list[Delivery] = []
        self._first: Pending[Any] = connection.pending()
        self._there = self._channel.declare_queue(QueueSpec(name), passive=True)
        # Begins with the last chunk: mostly one entry; where it has several, the last of them counts.
        self._tag = self._channel.consume(name, self._arrived, prefetch=PREFETCH, arguments={OFFSET: "last"})

    def answer(self) -> Flow[Manifest]:
        """Wait for it.

        Raises:
            ObjectNotFound: There is no journal.
            LocalError: Its last entry cannot be read.
        """
        channel = self._channel
        try:
            yield self._there
            tag = yield self._tag
            yield self._first
            caught, gone = caught_up(channel), channel.cancel(tag)
            yield caught
            yield gone
        finally:
            channel.close()
        return max((parse(delivery.body) for delivery in self._found), key=lambda each: each[0])[1]

    def leave(self) -> None:
        """Do not wait for it."""
        self._channel.close()

    def _arrived(self, delivery: Delivery) -> None:
        self._found.append(delivery)
        if not self._first.done():
            self._first.set_result(None)


def create(channel: Channel, project: str) -> Flow[None]:
    """Declare the stream; nothing changes where it exists."""
    yield channel.declare_queue(stream_spec(project))


def write(channel: Channel, project: str, manifest: Manifest, number: int, told: Mapping[str, Any]) -> Flow[None]:
    """Write an entry; return when the broker has confirmed it.

    Args:
        channel: Of the connection that holds the lock.
        project: Whose.
        manifest: What the project owns now.
        number: Of the entry within its apply.
        told: What else to remember, for people: host, plan, the error.

    Raises:
        OutcomeUnknown: The broker has not taken it.
    """
    body = render(manifest, number, told)
    properties = Properties(content_type="application/json", delivery_mode=PERSISTENT)
    (outcome,) = yield channel.publish((Publication("", stream_name(project), body, properties),))
    if not outcome.confirmed:
        raise OutcomeUnknown(f"the journal did not take the entry: {outcome.fate} {outcome.reason}")


def render(manifest: Manifest, number: int, told: Mapping[str, Any]) -> bytes:
    """Write an entry as JSON."""
    return json.dumps(
        {
            "amqpq": FORMAT,
            "serial": manifest.serial,
            "entry": number,
            "stage": manifest.stage,
            "owned": sorted(manifest.owned),
            "carried": {name: dict(arguments) for name, arguments in manifest.carried.items()},
            **told,
        }
    ).encode()


def parse(body: bytes) -> tuple[tuple[int, int], Manifest]:
    """Read an entry: its place among others, and the manifest.

    Raises:
        LocalError: It is not one, or of a newer amqpq.
    """
    try:
        found = json.loads(body)
        if found["amqpq"] != FORMAT:
            raise LocalError(
                f"the journal is of format {found['amqpq']}, and this amqpq reads {FORMAT}; use a newer one"
            )
        place = (int(found["serial"]), int(found["entry"]))
        return place, Manifest(place[0], frozenset(found["owned"]), found["stage"], carried=found.get("carried", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise LocalError(f"the last entry of the journal cannot be read: {error!r}") from error
