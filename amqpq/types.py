"""Values that several layers hand to one another: AMQP objects, messages on the wire, and nothing that acts.

They name what AMQP 0-9-1 names, with RabbitMQ's units. They import nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

Json: TypeAlias = "None | bool | int | float | str | Sequence[Json] | Mapping[str, Json]"
"""What JSON can hold."""

Table: TypeAlias = Mapping[str, Any]
"""An AMQP field table: headers or arguments. Values keep their type on the wire (1 is not "1")."""

PERSISTENT = 2
"""`delivery_mode` of a message that survives a broker restart (AMQP 0-9-1, basic class)."""


# ---------------------------------------------------------------------------------------------- objects on the broker


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """An exchange as `exchange.declare` takes it."""

    name: str
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Table = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue as `queue.declare` takes it."""

    name: str
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Table = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BindingSpec:
    """A binding; `to_exchange` makes it exchange-to-exchange."""

    source: str
    target: str
    key: str = ""
    to_exchange: bool = False
    arguments: Table = field(default_factory=dict)


def in_order(arguments: Table) -> list[tuple[str, Any]]:
    """Return the arguments of a binding in the order in which they are always shown: `x-match`, then by name."""
    return sorted(arguments.items(), key=lambda item: (item[0] != "x-match", item[0]))


@dataclass(frozen=True, slots=True)
class QueueState:
    """What a queue declaration answers: ready messages and consumers, not counting unacknowledged ones."""

    name: str
    messages: int
    consumers: int


# ------------------------------------------------------------------------------------------------ messages on the wire


# These three are made for every message there is, so they are named tuples: a frozen dataclass of as many fields takes four
# times as long to make (it sets each through `object.__setattr__`).

EMPTY: Final[Table] = {}
"""What there is where nothing was given; one for all, and nobody writes to it."""


class Properties(NamedTuple):
    """The basic properties of a message. Absent is None, never a default of ours.

    `expiration` is in milliseconds (the wire carries it as decimal text); `timestamp` in seconds since the epoch.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Table = EMPTY
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: int | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class Publication(NamedTuple):
    """One message to publish, with its address. `mandatory` makes an unroutable message come back."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties
    mandatory: bool = True


class Delivery(NamedTuple):
    """One message received. `tag` is valid on the channel it came from, and nowhere else.

    `consumer_tag` is empty for a message that was fetched with `get`; `message_count` is set only then.
    """

    body: bytes
    properties: Properties
    exchange: str
    routing_key: str
    redelivered: bool
    tag: int
    consumer_tag: str = ""
    message_count: int | None = None


class Fate(StrEnum):
    """What became of a publication."""

    CONFIRMED = "confirmed"
    """The broker took responsibility for it."""
    RETURNED = "returned"
    """No queue was bound for it (and it was mandatory); the broker kept nothing."""
    NACKED = "nacked"
    """The broker refused it."""
    UNKNOWN = "unknown"
    """The channel or the connection went away before the broker answered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of one publication, with the broker's words where it gave any."""

    fate: Fate
    reason: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether the broker took responsibility for the message."""
        return self.fate is Fate.CONFIRMED


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the broker says of itself when a connection opens."""

    product: str
    version: str
    cluster_name: str = ""
    capabilities: Table = field(default_factory=dict)
    frame_max: int = 131072
    """Negotiated, bytes."""
    heartbeat_seconds: int = 0
    """Negotiated; 0 is off."""

    @property
    def version_tuple(self) -> tuple[int, int, int]:
        """The version as three numbers, `4.3.6-rc.1` as (4, 3, 6)."""
        parts = [int("".join(c for c in part if c.isdigit()) or 0) for part in self.version.split("-", 1)[0].split(".")]
        major, minor, patch = [*parts, 0, 0, 0][:3]
        return major, minor, patch
