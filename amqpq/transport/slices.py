"""Before an apply: whether the number of a queue's partitions would change while it is in use (`amqpq.topology.partitions`).

With another number most keys belong to another partition. While messages wait, those of one key would then be in two of them, and
run in any order. AMQP 0-9-1 tells no bindings, so the number is taken from the queues that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, TypeVar

from amqpq.errors import ObjectNotFound, PreconditionFailed, TransportError
from amqpq.topology.declarations import Declarations
from amqpq.topology.partitions import EXCHANGE_TYPE, binding_order, is_slice, queue_of
from amqpq.transport.interface import Channel, Flow
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, QueueState

Opener: TypeAlias = Callable[[], Channel]


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
        if is_slice(binding):
            rings.setdefault(binding.source, []).append(binding.target)
    held: dict[str, str] = {}
    for exchange, names in rings.items():
        stem = queue_of(exchange)
        if (yield from _exchange(opener, exchange)):
            why = yield from _why(opener, stem, names)
            if why:
                held[stem] = f"queue '{stem}': {why}; {remedy(stem, exchange)}"
    return (_without(declarations, held.keys()) if held else declarations), held


def parted(bindings: Iterable[BindingSpec]) -> tuple[list[list[BindingSpec]], list[BindingSpec]]:
    """Return what is bound one after the other, before anything else: the partitions, in the order of the ring. And the rest."""
    found = list(bindings)
    ring = sorted(filter(is_slice, found), key=binding_order)
    return [[binding] for binding in ring], [binding for binding in found if not is_slice(binding)]


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
    ring = filter(is_slice, declarations.bindings)
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


def _why(opener: Opener, stem: str, names: list[str]) -> Flow[str]:
    numbers = [int(name.rpartition(".")[2]) for name in names]
    beyond = yield from _queue(opener, f"{stem}.{max(numbers) + 1}")
    if beyond is not None:
        return f"the file says {max(numbers) + 1} partitions, and the broker has more of them"
    states: list[QueueState | None] = []
    for name in names:
        states.append((yield from _queue(opener, name)))  # noqa: PERF401 - no comprehension may yield
    there = [state for state in states if state is not None]
    busy = [state for state in there if state.messages or state.consumers]
    if busy and len(there) < len(states):
        return f"the broker has {len(there)} of {len(states)} partitions, and they are in use"
    return ""


def _exchange(opener: Opener, name: str) -> Flow[bool]:
    channel = opener()
    try:
        yield channel.declare_exchange(ExchangeSpec(name), passive=True)
    except ObjectNotFound:
        return False  # and the broker has closed the channel
    channel.close()
    return True


def _queue(opener: Opener, name: str) -> Flow[QueueState | None]:
    channel = opener()
    try:
        state: Any = yield channel.declare_queue(QueueSpec(name), passive=True)
    except ObjectNotFound:
        return None
    channel.close()
    return state if isinstance(state, QueueState) else None
