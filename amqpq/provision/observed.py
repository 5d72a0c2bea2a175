"""What was seen of a broker: each object with what is known of it, and the reason where something is not. Pure values.

Three levels can see. `http` is the management API: everything in the virtual host, all arguments, bindings, policies. `amqp1.0`
is the management node of RabbitMQ 4, which needs no plugin: all arguments of the queues that we can name, and the bindings
whose source, target and key we can name. `amqp` is AMQP 0-9-1 alone: whether an object exists that we can name, and the
arguments that the broker compares. What a level cannot see is None here, or not listed (`Observed.complete`), and `?` where
it is printed: never "no change".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, Table, in_order

Level: TypeAlias = Literal["http", "amqp1.0", "amqp", "file"]
"""`file`: not seen at all, but what another topology file says (for `diff`)."""


@dataclass(frozen=True, slots=True)
class SeenExchange:
    """An exchange that exists. `policy` is the user policy that applies to it."""

    spec: ExchangeSpec
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class SeenQueue:
    """A queue that exists. Counts are None where nobody told them; they are no proof of emptiness."""

    spec: QueueSpec
    policy: str | None = None
    operator_policy: str | None = None
    state: str | None = None
    ready: int | None = None
    unacknowledged: int | None = None
    consumers: int | None = None

    @property
    def type(self) -> str:
        """The kind of the queue; without the argument it is classic."""
        return str(self.spec.arguments.get("x-queue-type", "classic"))


@dataclass(frozen=True, slots=True)
class SeenPolicy:
    """A policy, or an operator policy."""

    name: str
    pattern: str
    apply_to: str = "all"
    priority: int = 0
    definition: Table = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeenConsumer:
    """Somebody who consumes from a queue."""

    queue: str
    tag: str
    user: str
    connection: str


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at a broker's virtual host.

    `asked` are the addresses (`queue orders`) that were looked for; None where all there is was listed. Then `bindings` are all
    there are, too; else those that were asked for.
    `unreadable` maps the address of what exists, and could not be compared, to the reason.
    """

    level: Level
    vhost: str
    version: tuple[int, int, int]
    cluster: str = ""
    exchanges: Mapping[str, SeenExchange] = field(default_factory=dict)
    queues: Mapping[str, SeenQueue] = field(default_factory=dict)
    bindings: tuple[BindingSpec, ...] | None = None
    policies: tuple[SeenPolicy, ...] | None = None
    operator_policies: tuple[SeenPolicy, ...] | None = None
    consumers: tuple[SeenConsumer, ...] | None = None
    may_write_policies: bool | None = None
    """Whether our user may; None where nobody told."""
    asked: frozenset[str] | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all there is was listed, what others made and nobody named as well."""
        return self.level in {"http", "file"}

    @property
    def tells_arguments(self) -> bool:
        """Whether all arguments of a queue that was seen are known, those that the broker never compares as well."""
        return self.level != "amqp"


def address_of_binding(binding: BindingSpec) -> str:
    """Return what a binding is called in plans: `events[order.*] -> orders`, with `(exchange)` behind an exchange.

    The same whoever tells of it: the management API gives arguments in an order of its own.
    """
    inside = [binding.key] if binding.key else []
    inside += [f"{name}={value!r}" for name, value in in_order(binding.arguments)]
    keys = f"[{', '.join(inside)}]" if inside else ""
    return f"{binding.source}{keys} -> {binding.target}{' (exchange)' if binding.to_exchange else ''}"


def identity(binding: BindingSpec) -> tuple[Any, ...]:
    """Return what makes a binding this one: source, target, kind of target, key and arguments, in any order."""
    return (
        binding.source,
        binding.target,
        binding.to_exchange,
        binding.key,
        tuple(sorted((name, type(value).__name__, repr(value)) for name, value in binding.arguments.items())),
    )


def fingerprint(value: object) -> str:
    """Return a hash of what was seen of an object, the same for the same, whatever the order of its arguments."""
    text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    # 1 and "1" and true are three things to the broker.
    return value if value is None or isinstance(value, str) else f"{type(value).__name__}:{value!r}"
