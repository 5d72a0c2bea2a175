"""What a virtual host holds, as values, and what is said about the parts that a conversion cannot take along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

Kind: TypeAlias = Literal["left out", "changed", "note"]

PREDECLARED: Final = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.topic": "topic",
    "amq.rabbitmq.trace": "topic",
    "amq.rabbitmq.log": "topic",
    "amq.rabbitmq.event": "topic",
}
"""Exchanges that every virtual host has, and their types (AMQP 0-9-1, section 3.1.3; https://www.rabbitmq.com/docs/exchanges)."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that a conversion could not take along as it was, or that its reader has to know."""

    kind: Kind
    what: str
    """queue, exchange, binding, policy, setting, ..."""
    name: str
    why: str

    def __str__(self) -> str:
        """Write it on one line."""
        name = f" '{self.name}'" if self.name else ""
        return f"{self.kind}: {self.what}{name}: {self.why}"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as the broker holds it."""

    name: str
    pattern: str
    apply_to: str
    priority: int
    definition: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Objects:
    """The exchanges, queues, bindings and policies of one virtual host. Predeclared exchanges may be among them."""

    vhost: str = "/"
    exchanges: tuple[ExchangeSpec, ...] = ()
    queues: tuple[QueueSpec, ...] = ()
    bindings: tuple[BindingSpec, ...] = ()
    policies: tuple[Policy, ...] = ()
    version: tuple[int, int, int] | None = None
    """The broker's, where it is known."""
    remarks: tuple[Remark, ...] = ()
    """What the source itself holds and this value does not."""


def left_out(what: str, name: str, why: str) -> Remark:
    """Say that something is not in the result."""
    return Remark("left out", what, name, why)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write `1 queue`, `2 queues`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def binding_name(binding: BindingSpec) -> str:
    """Write a binding as the topology file would."""
    key = f"[{binding.key}]" if binding.key else ""
    return f"{binding.source}{key} -> {binding.target}"


def by_kind(remarks: Iterable[Remark]) -> list[Remark]:
    """Order remarks: what is missing first, then what is different, then the rest; each once."""
    order: dict[str, int] = {"left out": 0, "changed": 1, "note": 2}
    return sorted(dict.fromkeys(remarks), key=lambda remark: order[remark.kind])


VOID: Final = "undefined"
"""What definitions and the management API have where an argument is no value at all (measured on 3.10.8)."""


def with_voids(bindings: Iterable[BindingSpec]) -> tuple[tuple[BindingSpec, ...], list[Remark]]:
    """Read the text `undefined` among the arguments of bindings as no value: a header that must be there, whatever it is.

    The text itself would look the same, so each is said.
    """
    found: list[BindingSpec] = []
    remarks: list[Remark] = []
    for binding in bindings:
        voids = [name for name, value in binding.arguments.items() if value == VOID]
        if voids:
            why = (
                f"{', '.join(voids)}: the broker writes '{VOID}' for no value, and so it is read; it might be that text"
            )
            remarks.append(Remark("note", "binding", binding_name(binding), why))
            arguments = {name: None if name in voids else value for name, value in binding.arguments.items()}
            found.append(replace(binding, arguments=arguments))
        else:
            found.append(binding)
    return tuple(found), remarks
