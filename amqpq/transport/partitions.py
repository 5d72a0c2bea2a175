"""Before an apply: whether the number of a queue's partitions would change while it is in use (`amqpq.topology.partitions`).

With another number most keys belong to another partition. While messages wait, those of one key would then be in two of them, and
run in any order. AMQP 0-9-1 tells no bindings, so the number is taken from the queues that there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from amqpq.errors import ObjectNotFound, PreconditionFailed, TransportError
from amqpq.topology.declarations import Declarations
from amqpq.topology.partitions import EXCHANGE_TYPE, binding_order, binds_partition, queue_of
from amqpq.transport.interface import Flow
from amqpq.transport.questions import Opener, passive, spread
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, QueueState


class Settled(Protocol):
    """What became of one object."""

    @property
    def error(self) -> TransportError | None:
        """Why it failed."""


S = TypeVar("S", bound=Settled)


def held_back(opener: Opener, declarations: Declarations) -> Flow[tuple[Declarations, Mapping[str, str]]]:
    """Take out the partitioned queues that must stay as they are, with all that leads to their partitions.

    Args:
        opener: Opens a channel.
        declarations: What is to be declared; nothing is asked where no partition is among it.

    Returns:
        The declarations without their partitions and bindings, and the logical names, each with the reason and the remedy.
    """
    rings: dict[str, list[str]] = {}
    for binding in declarations.bindings:
        if binds_partition(binding):
            rings.setdefault(binding.source, []).append(binding.target)
    answers = yield from _asked_for(opener, [ExchangeSpec(exchange) for exchange in rings])
    held: dict[str, str] = {}
    for (exchange, names), answer in zip(rings.items(), answers, strict=True):
        stem = queue_of(exchange)
        why = "" if isinstance(answer, ObjectNotFound) else (yield from _why(opener, stem, names))
        if why:
            held[stem] = f"queue '{stem}': {why}; {remedy(stem, exchange)}"
    return (_without(declarations, held.keys()) if held else declarations), held


def parted(bindings: Iterable[BindingSpec]) -> tuple[list[list[BindingSpec]], list[BindingSpec]]:
    """Return what is bound one after the other, before anything else: the partitions, in the order of the ring. And the rest."""
    found = list(bindings)
    ring = sorted(filter(binds_partition, found), key=binding_order)
    return [[binding] for binding in ring], [binding for binding in found if not binds_partition(binding)]


def compared(declarations: Declarations) -> list[ExchangeSpec | QueueSpec]:
    """Return what a worker compares: queues, and the exchanges before partitions.

    Only to a declaration the broker says that it lacks the plugin; an exchange that is there stays there without it.
    """
    return [*declarations.queues, *(spec for spec in declarations.exchanges if spec.type == EXCHANGE_TYPE)]


def passed(step: S) -> S:
    """Return what became of one object, unless it shows that the broker lacks the plugin: then nothing else is of use.

    Raises:
        PreconditionFailed: It does.
    """
    if isinstance(step.error, PreconditionFailed) and "rabbitmq-plugins" in str(step.error):
        raise step.error
    return step


def _without(declarations: Declarations, queues: Collection[str]) -> Declarations:
    """Return the declarations without the partitions of these queues, and without what is bound to them."""
    ring = filter(binds_partition, declarations.bindings)
    gone = {binding.target for binding in ring if queue_of(binding.source) in queues}
    return replace(
        declarations,
        queues=tuple(spec for spec in declarations.queues if spec.name not in gone),
        bindings=tuple(spec for spec in declarations.bindings if spec.to_exchange or spec.target not in gone),
    )


def remedy(queue: str, exchange: str) -> str:
    """Return how to come to another number of partitions."""
    return (
        f"with another number the same key goes to another partition, and messages of one key overtake each other: stop what "
        f"publishes to '{queue}', let its workers empty it and stop them, delete the exchange '{exchange}' "
        f"(`rabbitmqadmin delete exchange name={exchange}`), and apply again"
    )


def _why(opener: Opener, stem: str, names: Sequence[str]) -> Flow[str]:
    count = 1 + max(int(name.rpartition(".")[2]) for name in names)
    beyond, *answers = yield from _asked_for(opener, [QueueSpec(name) for name in (f"{stem}.{count}", *names)])
    if not isinstance(beyond, ObjectNotFound):
        return f"the file says {count} partitions, and the broker has more of them"
    there = [state for state in answers if isinstance(state, QueueState)]
    in_use = any(state.messages or state.consumers for state in there)
    if in_use and len(there) < len(names):
        return f"the broker has {len(there)} of {len(names)} partitions, and they are in use"
    return ""


def _asked_for(opener: Opener, specs: Sequence[ExchangeSpec | QueueSpec]) -> Flow[list[object]]:
    """Return what the broker answers of each object, `ObjectNotFound` where there is none.

    Raises:
        TransportError: It does not tell of one.
    """
    answers = yield from spread(opener, [passive(spec) for spec in specs])
    for answer in answers:
        if isinstance(answer, TransportError) and not isinstance(answer, ObjectNotFound):
            raise answer
    return answers
