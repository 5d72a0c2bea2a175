"""What RabbitMQ's HTTP API tells, as values, and how they are read from its JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from amqpq.types import Table

ApplyTo: TypeAlias = Literal["all", "exchanges", "queues", "classic_queues", "quorum_queues", "streams"]


@dataclass(frozen=True, slots=True)
class Overview:
    """What the broker says of itself."""

    version: str
    cluster_name: str
    node: str
    exchange_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """As whom we are logged in, and with which tags."""

    name: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExchangeInfo:
    """An exchange that exists. `policy` is the name of the user policy that applies to it."""

    name: str
    type: str
    durable: bool
    auto_delete: bool
    internal: bool
    arguments: Table
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue that exists. Counts are statistics: they lag, and are None where the broker has not gathered them yet."""

    name: str
    type: str
    durable: bool
    auto_delete: bool
    exclusive: bool
    arguments: Table
    policy: str | None = None
    operator_policy: str | None = None
    state: str | None = None
    ready: int | None = None
    unacknowledged: int | None = None
    delayed: int | None = None
    """Messages of a quorum queue that wait for their next attempt (4.3 and later)."""
    consumers: int | None = None
    """Only from `queue`, not from `queues`."""
    effective_policy: Table | None = None
    """What policies and operator policies give it together; only from `queue`."""
    leader: str | None = None
    members: tuple[str, ...] = ()
    raw: Table = field(default_factory=dict, repr=False)
    """The whole answer."""


@dataclass(frozen=True, slots=True)
class BindingInfo:
    """A binding that exists. `properties_key` is what the API calls it in an address."""

    source: str
    target: str
    to_exchange: bool
    key: str
    arguments: Table
    properties_key: str


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """A policy, or an operator policy. The highest `priority` of those that match wins."""

    name: str
    pattern: str
    apply_to: ApplyTo
    priority: int
    definition: Table


# ------------------------------------------------------------------------------------------------------------ reading


def exchange(found: Mapping[str, Any]) -> ExchangeInfo:
    """Read an exchange."""
    return ExchangeInfo(
        name=found["name"],
        type=found["type"],
        durable=bool(found.get("durable")),
        auto_delete=bool(found.get("auto_delete")),
        internal=bool(found.get("internal")),
        arguments=_table(found.get("arguments")),
        policy=found.get("policy") or None,
    )


def queue(found: Mapping[str, Any]) -> QueueInfo:
    """Read a queue."""
    arguments = _table(found.get("arguments"))
    effective = found.get("effective_policy_definition")
    return QueueInfo(
        name=found["name"],
        type=str(found.get("type") or arguments.get("x-queue-type") or "classic")
        .removeprefix("rabbit_")
        .removesuffix("_queue"),
        durable=bool(found.get("durable")),
        auto_delete=bool(found.get("auto_delete")),
        exclusive=bool(found.get("exclusive")),
        arguments=arguments,
        policy=found.get("policy") or None,
        operator_policy=found.get("operator_policy") or None,
        state=found.get("state"),
        ready=_number(found, "messages_ready"),
        unacknowledged=_number(found, "messages_unacknowledged"),
        delayed=_number(found, "messages_delayed"),
        consumers=_number(found, "consumers"),
        effective_policy=None if effective is None else _table(effective),
        leader=found.get("leader") or found.get("node"),
        members=tuple(found.get("members") or ()),
        raw=dict(found),
    )


def binding(found: Mapping[str, Any]) -> BindingInfo:
    """Read a binding."""
    return BindingInfo(
        source=found["source"],
        target=found["destination"],
        to_exchange=found["destination_type"] == "exchange",
        key=found["routing_key"],
        arguments=_table(found.get("arguments")),
        properties_key=found["properties_key"],
    )


def policy(found: Mapping[str, Any]) -> PolicyInfo:
    """Read a policy."""
    return PolicyInfo(
        name=found["name"],
        pattern=found["pattern"],
        apply_to=found["apply-to"],
        priority=int(found["priority"]),
        definition=_table(found.get("definition")),
    )


def _table(found: object) -> Table:
    # Erlang cannot tell an empty list from an empty object: some versions write [] for no arguments.
    return dict(found) if isinstance(found, Mapping) else {}


def _number(found: Mapping[str, Any], key: str) -> int | None:
    value = found.get(key)
    return value if isinstance(value, int) else None
