"""Copies of a message that a worker publishes instead of it: a dead letter with its evidence, another try, now or later.

Pure. The body and the sender's headers stay as they are, so the signature of the original still proves who wrote it.
Some properties must not be copied, because RabbitMQ acts on them:

* `expiration`: the copy would expire in the dead-letter queue, and the evidence with it. The signed `expires` stays.
* `user_id`: the broker closes the channel (406) unless it is the user of the publishing connection
  (https://www.rabbitmq.com/docs/validated-user-id). It is kept as a header.
* the headers `CC` and `BCC`: the copy would go there too (https://www.rabbitmq.com/docs/sender-selected).
* `x-death`, in a copy for the ladder: see `amqpq.topology.delays.is_passing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from amqpq.message.wire import ATTEMPT_LOG, RETRIES
from amqpq.topology.delays import Entry, is_passing
from amqpq.types import PERSISTENT, Delivery, Properties, Publication, Table
from amqpq.worker.work import Remains

CRASHES: Final = "amqpq-crashes"
CAUSE: Final = "amqpq-cause"
FIRST_FAILED: Final = "amqpq-first-failed"
USER_ID: Final = "amqpq-user-id"

HEADERS_BYTES: Final = 100_000
"""Headers travel in one frame, and a frame is 128 KiB at most by default; this leaves room for the properties."""
TRACEBACK_BYTES: Final = 16_384
REASON_CHARACTERS: Final = 1_000

ATTEMPTS_KEPT: Final = 10
ATTEMPT_CHARACTERS: Final = 200
ATTEMPT_LOG_BYTES: Final = 16_384
SUSPICIONS: Final = "amqpq-suspicions"
SUSPECT: Final = "amqpq-suspect"
LOGS_BYTES: Final = 8_192
DELIVERY_COUNT: Final = "x-delivery-count"

_LEFT_BEHIND: Final = frozenset({"CC", "BCC", SUSPICIONS, SUSPECT, DELIVERY_COUNT, "x-acquired-count"})
"""What RabbitMQ would act upon, and what is true of one stay in one queue only."""
_OF_ONE_DEATH: Final = frozenset(
    {
        "amqpq-traceback",
        "amqpq-exit-code",
        "amqpq-signal",
        "amqpq-peak-memory",
        "amqpq-last-logs",
        "amqpq-delivery-count",
    }
)
"""Headers that not every dead letter has, so that those of an earlier death would stay."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where it happened: the machine and the worker's name."""

    host: str
    worker: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a message is a dead letter. `attempts` counts this one; `failed_at` is seconds since the epoch."""

    cause: str
    reason: str
    traceback: str
    attempts: int
    failed_at: float
    remains: Remains | None = None
    """Of the child that died of it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that failed and is followed by another, which is number `number`. `failed_at`: seconds since the epoch."""

    number: int
    place: Place
    reason: str
    failed_at: float


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What a message carries of workers that died while they had it. `count`: marked copies of it, this one included."""

    count: int = 0
    marked: bool = False

    @property
    def headers(self) -> Table:
        """As headers."""
        return {SUSPICIONS: self.count, SUSPECT: self.marked} if self.count else {}


NO_SUSPICION: Final = Suspicion()


def suspicion_of(properties: Properties) -> Suspicion:
    """Read whether this message is a suspect; anything odd in those headers is none."""
    count = properties.headers.get(SUSPICIONS)
    if count is None or not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return NO_SUSPICION
    return Suspicion(count, properties.headers.get(SUSPECT) is True)


def crashes_of(properties: Properties) -> int:
    """Read how many children this message has killed; anything odd in that header is none."""
    count = properties.headers.get(CRASHES)
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


def dead_letter(delivery: Delivery, *, queue: str, target: str, place: Place, evidence: Evidence) -> Publication:
    """Return the dead letter of a delivery.

    Args:
        delivery: As it came.
        queue: The queue it came from.
        target: The dead-letter queue.
        place: Where it failed.
        evidence: Why.
    """
    when = datetime.fromtimestamp(evidence.failed_at, UTC).isoformat(timespec="milliseconds")
    kept = {name: value for name, value in _kept(delivery.properties).items() if name not in _OF_ONE_DEATH}
    first = kept.get(FIRST_FAILED)
    headers = {
        **kept,
        CAUSE: evidence.cause,
        "amqpq-reason": evidence.reason[:REASON_CHARACTERS],
        "amqpq-host": place.host,
        "amqpq-worker": place.worker,
        "amqpq-queue": queue,
        "amqpq-exchange": delivery.exchange,
        "amqpq-key": delivery.routing_key,
        "amqpq-attempts": evidence.attempts,
        FIRST_FAILED: first if isinstance(first, str) else when,
        "amqpq-last-failed": when,
    }
    headers.update(_counts(delivery.properties))
    headers.update(_remains(evidence.remains))
    for name, text, most in (
        ("amqpq-traceback", evidence.traceback, TRACEBACK_BYTES),
        ("amqpq-last-logs", evidence.remains.last_lines if evidence.remains is not None else "", LOGS_BYTES),
    ):
        room = min(most, HEADERS_BYTES - _size(headers))
        if text and room > 0:
            headers[name] = _last_bytes(text, room)
    return _copy(delivery, target, headers)


def _counts(properties: Properties) -> dict[str, Any]:
    """Return how often a quorum queue has handed it out before. The dead-letter queue may count anew under that name."""
    count = properties.headers.get(DELIVERY_COUNT)
    return {"amqpq-delivery-count": count} if isinstance(count, int) and not isinstance(count, bool) else {}


def _remains(remains: Remains | None) -> dict[str, Any]:
    if remains is None:
        return {}
    found = {
        "amqpq-exit-code": remains.exit_code,
        "amqpq-signal": remains.signal or None,
        "amqpq-peak-memory": remains.peak_bytes,
    }
    return {name: value for name, value in found.items() if value is not None}


def another_try(delivery: Delivery, *, queue: str, crashes: int, suspicion: Suspicion = NO_SUSPICION) -> Publication:
    """Return the message for its own queue again, with what is now known of the processes that died of it.

    The expiry of its queue starts anew with the copy; the signed `expires` does not.
    """
    headers = {**_kept(delivery.properties), **suspicion.headers}
    if crashes:
        headers[CRASHES] = crashes
    publication = _copy(delivery, queue, headers)
    expiration = delivery.properties.expiration
    return publication._replace(properties=publication.properties._replace(expiration=expiration))


def for_later(delivery: Delivery, *, queue: str, entry: Entry) -> Publication:
    """Return the message for the delay ladder, and through it for its own queue.

    No `expiration`: the copy would expire in the ladder. The signed `expires` stays.
    """
    headers = {name: value for name, value in _kept(delivery.properties).items() if not is_passing(name)}
    publication = _copy(delivery, queue, {**headers, **entry.headers})
    return publication._replace(exchange=entry.exchange)


def next_attempt(delivery: Delivery, *, queue: str, entry: Entry | None, attempt: Attempt) -> Publication:
    """Return the message for another attempt: in the delay ladder, or, without an entry, in its own queue at once.

    The first failure, and what became of the latest attempts, go with it; so a dead letter has the whole history.
    """
    when = datetime.fromtimestamp(attempt.failed_at, UTC).isoformat(timespec="milliseconds")
    headers = delivery.properties.headers
    first, before = headers.get(FIRST_FAILED), headers.get(ATTEMPT_LOG)
    entry_of_log = {
        "at": when,
        "host": attempt.place.host,
        "worker": attempt.place.worker,
        "error": attempt.reason[:ATTEMPT_CHARACTERS],
    }
    log = [*(before if isinstance(before, list) else []), entry_of_log][-ATTEMPTS_KEPT:]
    counted = {
        RETRIES: attempt.number,
        FIRST_FAILED: first if isinstance(first, str) else when,
        ATTEMPT_LOG: log if _size(log) <= ATTEMPT_LOG_BYTES else [entry_of_log],
    }
    base = for_later(delivery, queue=queue, entry=entry or Entry("", {}))
    return base._replace(properties=base.properties._replace(headers={**base.properties.headers, **counted}))


def _kept(properties: Properties) -> dict[str, Any]:
    headers = {name: value for name, value in properties.headers.items() if name not in _LEFT_BEHIND}
    if properties.user_id is not None:
        headers[USER_ID] = properties.user_id
    return headers


def _copy(delivery: Delivery, queue: str, headers: Table) -> Publication:
    properties = delivery.properties._replace(headers=headers, expiration=None, user_id=None, delivery_mode=PERSISTENT)
    return Publication(exchange="", routing_key=queue, body=delivery.body, properties=properties, mandatory=True)


def _last_bytes(text: str, limit: int) -> str:
    """Keep the end of a traceback: that is where the error is."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= limit else encoded[-limit:].decode(errors="ignore")


def _size(value: object) -> int:
    """Estimate, from above, what a header value takes on the wire, bytes."""
    if isinstance(value, Mapping):
        return 8 + sum(_size(name) + _size(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return 8 + sum(_size(item) for item in value)
    if isinstance(value, str):
        return 8 + len(value.encode(errors="replace"))
    return 8 + len(value) if isinstance(value, bytes) else 16
