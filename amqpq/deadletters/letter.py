"""A dead letter, read: from our worker's headers, or from the broker's `x-death` where the broker gave the message up. Pure.

Nothing here is verified. A header of the wrong type is an absent one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from amqpq.errors import RemoteMessageError
from amqpq.message import parsing
from amqpq.message.compression import unpack
from amqpq.message.wire import COMPRESSION, HEADERS, REQUEUES, RETRIES
from amqpq.types import Delivery, Properties, Publication, Table

FIRST_FAILED: Final = "amqpq-first-failed"
EVIDENCE: Final = frozenset(header.name for header in HEADERS if header.on == "dead letter") - {FIRST_FAILED}
"""What a worker writes on a dead letter, but for the time of the first failure, which is part of its history."""

_COUNTS: Final = frozenset({"amqpq-crashes", "amqpq-suspicions", "amqpq-suspect"})
_USER_ID: Final = "amqpq-user-id"
_ACTED_UPON: Final = frozenset({"CC", "BCC"})
"""RabbitMQ would send the copy to these, too (https://www.rabbitmq.com/docs/sender-selected)."""
BROKERS_COUNTS: Final = frozenset({"x-delivery-count", "x-acquired-count"})
"""Headers that change each time a quorum queue hands a message out."""
_BROKERS_NAMES: Final = BROKERS_COUNTS | {"x-death"}
_BROKERS_PREFIXES: Final = ("x-first-death-", "x-last-death-")


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. Times are seconds since the epoch; what is not known is empty or None.

    `origin` is the queue it came from, `by` who gave it up: `worker`, `broker`, or nobody that said so. `deliveries` counts
    how often a quorum queue has handed it out before.
    """

    delivery: Delivery
    queue: str
    id: str
    task: str
    by: str
    cause: str
    reason: str
    traceback: str
    origin: str
    attempts: int
    failed_at: float | None
    first_failed_at: float | None
    expires_at: float | None
    requeues: int
    deliveries: int

    @property
    def headers(self) -> Table:
        """All headers, as they came."""
        return self.delivery.properties.headers


def read(delivery: Delivery, queue: str) -> Letter:
    """Read a message of a dead-letter queue.

    Args:
        delivery: As it came.
        queue: The dead-letter queue.
    """
    properties = delivery.properties
    headers = properties.headers
    facts = parsing.facts(properties)
    cause = _text(headers, "amqpq-cause")
    death = _last_death(headers)
    failed_at = _moment(headers.get("amqpq-last-failed"))
    return Letter(
        delivery=delivery,
        queue=queue,
        id=facts.id,
        task=facts.task,
        by="worker" if cause else "broker" if death else "",
        cause=cause or _text(death, "reason"),
        reason=_text(headers, "amqpq-reason") or ("" if cause else _told_by_broker(death)),
        traceback=_text(headers, "amqpq-traceback"),
        origin=_text(headers, "amqpq-queue") or ("" if cause else _text(death, "queue")),
        attempts=_count(headers.get("amqpq-attempts")),
        failed_at=failed_at if cause else _moment(death.get("time")),
        first_failed_at=_moment(headers.get(FIRST_FAILED)),
        expires_at=_moment(facts.expires),
        requeues=_count(headers.get(REQUEUES)),
        deliveries=_count(headers.get("x-delivery-count")),
    )


def sent_back(letter: Letter, target: str) -> Publication:
    """Return the message for a queue again, as its sender wrote it.

    Body and signed headers are untouched. Left out are the evidence, the counts of crashes and retries (it gets all its attempts
    again), and what RabbitMQ would act upon: CC and BCC, `expiration` (it would run from now; the signed `expires` stays),
    and `user_id`, which must be the publishing user (https://www.rabbitmq.com/docs/validated-user-id). One header is new: how
    often it was sent back, so that a worker tells this copy from the one that it has parked.
    """
    properties = letter.delivery.properties
    headers: dict[str, Any] = {name: value for name, value in properties.headers.items() if not _left_out(name)}
    headers[REQUEUES] = letter.requeues + 1
    if properties.user_id is not None:
        headers[_USER_ID] = properties.user_id
    copied = properties._replace(headers=headers, expiration=None, user_id=None)
    return Publication(exchange="", routing_key=target, body=letter.delivery.body, properties=copied, mandatory=True)


def plain_body(letter: Letter, max_size: int) -> bytes:
    """Return the body unpacked, up to `max_size` bytes; as it is where it cannot be unpacked."""
    packed_with = letter.headers.get(COMPRESSION)
    if not packed_with or not isinstance(packed_with, str):
        return letter.delivery.body
    try:
        return unpack(letter.delivery.body, packed_with, max_size)
    except RemoteMessageError:
        return letter.delivery.body


def signed(properties: Properties) -> bool:
    """Whether a message says that it is signed."""
    return "amqpq-sig" in properties.headers


def _left_out(name: str) -> bool:
    return (
        name in EVIDENCE
        or name in _ACTED_UPON
        or name in _BROKERS_NAMES
        or name in _COUNTS
        or name == RETRIES
        or name.startswith(_BROKERS_PREFIXES)
    )


def _last_death(headers: Table) -> Mapping[str, Any]:
    """Return the newest entry of `x-death`: the broker puts it first (https://www.rabbitmq.com/docs/dlx#effects)."""
    deaths = headers.get("x-death")
    if isinstance(deaths, list | tuple) and deaths and isinstance(deaths[0], Mapping):
        return deaths[0]
    return {}


def _told_by_broker(death: Mapping[str, Any]) -> str:
    words = {
        "expired": "its time to live ran out",
        "rejected": "a consumer rejected it",
        "maxlen": "the queue was full",
        "delivery_limit": "it reached the queue's delivery limit",
    }
    reason = _text(death, "reason")
    return f"given up by the broker: {words.get(reason, reason)}" if reason else ""


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _moment(value: object) -> float | None:
    if isinstance(value, datetime):  # an AMQP timestamp is UTC, whether the driver says so or not
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, str) and value:
        try:
            return parsing.epoch_seconds(value)
        except (ValueError, OverflowError):
            return None
    return None
