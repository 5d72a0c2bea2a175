"""What the in-memory broker keeps of a message, and how a message dies. Pure values.

Dead letters follow RabbitMQ (https://www.rabbitmq.com/docs/dlx): one entry of `x-death` per pair of queue and reason,
the newest first, with a count; the per-message expiration is taken off and kept in the entry; a message that would come
back to a queue it died in, without having been rejected on the way, is dropped ("cycle rule"). As from 4.0 on, what a
client publishes under `x-death` is not interpreted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from amqpq.errors import TransportError
from amqpq.topology.routing import is_cut
from amqpq.transport import failures
from amqpq.transport.fields import short_string
from amqpq.transport.properties import decode_header, encode_header
from amqpq.types import Properties, Publication

MAXLEN = "maxlen"

ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED = 403, 404, 405, 406
_WORDS = {
    ACCESS_REFUSED: "ACCESS_REFUSED",
    NOT_FOUND: "NOT_FOUND",
    RESOURCE_LOCKED: "RESOURCE_LOCKED",
    PRECONDITION_FAILED: "PRECONDITION_FAILED",
}


class Refused(Exception):
    """The broker refuses, with AMQP's code and RabbitMQ's words; the channel will be closed."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = f"{_WORDS[code]} - {text}"

    @property
    def error(self) -> TransportError:
        """The error a caller gets."""
        return failures.channel_error(self.code, self.text)


class Death(NamedTuple):
    """One way in which a message died, and how often."""

    queue: str
    reason: str
    times: int
    exchange: str
    keys: tuple[str, ...]
    time_seconds: float
    original_expiration: int | None

    def entry(self) -> dict[str, Any]:
        """The entry as it stands in the `x-death` header."""
        entry: dict[str, Any] = {
            "count": self.times,
            "reason": self.reason,
            "queue": self.queue,
            "time": datetime.fromtimestamp(int(self.time_seconds), UTC),
            "exchange": self.exchange,
            "routing-keys": list(self.keys),
        }
        if self.original_expiration is not None:
            entry["original-expiration"] = str(self.original_expiration)
        return entry


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a queue holds it."""

    body: bytes
    properties: Properties
    exchange: str
    key: str
    cc: tuple[str, ...] = ()
    deaths: tuple[Death, ...] = ()
    first_death: tuple[str, str, str] | None = None
    """Exchange, queue and reason of the first death."""

    @property
    def size(self) -> int:
        """Bytes that count for a length limit."""
        return len(self.body)

    def delivered_properties(self, returns: int = 0) -> Properties:
        """The properties as a consumer sees them, with the marks of death and of deliveries to a quorum queue."""
        marks: dict[str, Any] = {}
        if self.deaths and self.first_death is not None:
            newest = self.deaths[0]
            marks["x-death"] = [death.entry() for death in self.deaths]
            for name, value in zip(("exchange", "queue", "reason"), self.first_death, strict=True):
                marks[f"x-first-death-{name}"] = value
            for name, value in (("exchange", newest.exchange), ("queue", newest.queue), ("reason", newest.reason)):
                marks[f"x-last-death-{name}"] = value
        if returns:
            marks["x-delivery-count"] = returns
        if not marks:
            return self.properties
        return self.properties._replace(headers={**self.properties.headers, **marks})

    def died(self, queue: str, reason: str, now_seconds: float) -> Message:
        """The message with one more death, without its expiration."""
        same = [death for death in self.deaths if (death.queue, death.reason) == (queue, reason)]
        if same:
            death = same[0]._replace(times=same[0].times + 1)
        else:
            keys = (self.key, *self.cc)
            death = Death(queue, reason, 1, self.exchange, keys, now_seconds, self.properties.expiration)
        others = tuple(each for each in self.deaths if (each.queue, each.reason) != (queue, reason))
        return replace(
            self,
            properties=self.properties._replace(expiration=None),
            deaths=(death, *others),
            first_death=self.first_death or (self.exchange, queue, reason),
        )

    def cycles_into(self, queue: str) -> bool:
        """Whether it died in `queue` before and has not been rejected since."""
        return is_cut(tuple((death.queue, death.reason) for death in self.deaths), queue)


def as_sent(publication: Publication) -> Properties:
    """The properties as they come out at the other end of a wire: the same codec, so the same types and refusals.

    Raises:
        NotSerializable: A header has no AMQP type, or a name is too long.
    """
    check_names(publication.exchange, publication.routing_key)
    _, decoded = decode_header(encode_header(publication.properties, len(publication.body)), 0)
    return decoded


def check_names(*names: str) -> None:
    """Check that names and keys fit into a frame.

    Raises:
        NotSerializable: One is longer than 255 bytes.
    """
    for name in names:
        short_string(name, "a name or key")


def further_keys(headers: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The routing keys of the CC and BCC headers.

    Raises:
        Refused: One of them is not a list.
    """
    return _listed(headers, "CC"), _listed(headers, "BCC")


def _listed(headers: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = headers.get(name, ())
    if not isinstance(value, (list, tuple)):
        text = f'invalid message: {{unacceptable_type_in_header,"{name}",longstr}}'
        raise Refused(PRECONDITION_FAILED, text)
    return tuple(str(each) for each in value)


@dataclass(slots=True)
class Waiting:
    """A message in a queue: its place, when it expires, and what happened to it there."""

    message: Message
    place: int
    priority: int
    expires_at: float | None
    redelivered: bool = False
    returns: int = 0
    """How often it came back, where the queue counts that."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue's arguments say, read once."""

    quorum: bool = False
    ttl_seconds: float | None = None
    expires_seconds: float | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: str = "drop-head"
    dead_exchange: str | None = None
    dead_key: str | None = None
    max_priority: int = 0
    dead_at_least_once: bool = False
    delivery_limit: int | None = None
    single_active: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
