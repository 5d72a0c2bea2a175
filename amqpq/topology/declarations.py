"""Topology to what `exchange.declare`, `queue.declare` and `queue.bind` take; the names of the arguments live here.

Objects under `manage: verify` are expected to exist and never declared; `manage: external` ones are left out altogether,
and so are bindings of which one end is external: whoever owns the object owns its wiring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from amqpq.topology import partitions
from amqpq.topology.delays import ladder
from amqpq.topology.model import Exchange, Queue, Topology
from amqpq.topology.permits import permit_messages, permit_queues, permit_spec
from amqpq.topology.renames import alias_specs, forwarding, old_exchanges
from amqpq.types import BindingSpec, ExchangeSpec, Publication, QueueSpec

MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Declarations:
    """What an apply declares, in this order, and what it expects to find."""

    exchanges: tuple[ExchangeSpec, ...]
    queues: tuple[QueueSpec, ...]
    bindings: tuple[BindingSpec, ...]
    expected_exchanges: tuple[ExchangeSpec, ...] = ()
    expected_queues: tuple[QueueSpec, ...] = ()
    contents: Mapping[str, Sequence[Publication]] = field(default_factory=dict)
    """What an apply puts into a queue that it creates, by the queue's name."""


def declarations(topology: Topology) -> Declarations:
    """Return everything the topology declares or expects, generated objects included.

    Alternate exchanges come before the exchanges that name them, dead-letter queues before their sources, so that an
    apply that is cut off leaves nothing that points nowhere.
    """
    exchanges = _targets_first(topology.exchanges, lambda exchange: exchange.unrouted)
    queues = _targets_first(topology.queues, lambda queue: queue.dead_letter)
    permits = dict(permit_queues(topology))
    external = {x.name for x in exchanges if x.manage == "external"}
    external_queues = {q.name for q in queues if q.manage == "external"}
    rungs, spread, renamed = ladder(topology), partitions.spread(topology), old_exchanges(topology)
    exchanges += spread.exchanges
    queues = [each for queue in queues for each in partitions.physical(queue)]
    own = {x.name for x in spread.exchanges if x.manage == "full"}
    bindings = [
        binding
        for binding in (*topology.bindings, *forwarding(topology), *rungs.bindings)
        if binding.source not in external
        and binding.target not in (external if binding.to_exchange else external_queues)
    ]
    return Declarations(
        exchanges=(
            *(exchange_spec(x) for x in (*exchanges, *renamed, *rungs.exchanges) if x.manage == "full"),
            *alias_specs(topology),
        ),
        queues=(
            *(queue_spec(q) for q in (*queues, *rungs.queues) if q.manage == "full"),
            *(permit_spec(name, count) for name, count in permits.items()),
        ),
        bindings=(
            *(binding for binding in spread.bindings if binding.source in own),
            *partitions.wired(topology, bindings),
        ),
        expected_exchanges=tuple(exchange_spec(x) for x in exchanges if x.manage == "verify"),
        expected_queues=tuple(queue_spec(q) for q in queues if q.manage == "verify"),
        contents={name: permit_messages(name, count) for name, count in permits.items()},
    )


def exchange_spec(exchange: Exchange) -> ExchangeSpec:
    """Return the exchange as `exchange.declare` takes it."""
    arguments: dict[str, Any] = dict(exchange.extra_arguments)
    if exchange.unrouted is not None:
        arguments["alternate-exchange"] = exchange.unrouted
    return ExchangeSpec(
        name=exchange.name,
        type=exchange.type,
        durable=exchange.durable,
        auto_delete=exchange.auto_delete,
        internal=exchange.internal,
        arguments=arguments,
    )


def queue_spec(queue: Queue) -> QueueSpec:
    """Return the queue as `queue.declare` takes it."""
    # The type is always stated: since 4.0 the broker fills in the virtual host's default type where it is missing
    # (rabbit_amqqueue:augment_declare_args), so the same file would make another queue there. A classic queue that
    # exists without the argument is equivalent to one with it.
    arguments: dict[str, Any] = {"x-queue-type": queue.type}
    optional = {
        "x-max-priority": queue.max_priority,
        "x-delivery-limit": queue.delivery_limit,
        "x-consumer-timeout": _milliseconds(queue.consumer_timeout_seconds),
        "x-single-active-consumer": True if queue.single_active else None,
        "x-message-ttl": _milliseconds(queue.ttl_seconds),
        "x-expires": _milliseconds(queue.expires_seconds),
        "x-max-length": queue.limits.max_length,
        "x-max-length-bytes": queue.limits.max_length_bytes,
        "x-overflow": queue.limits.overflow,
        "x-max-age": queue.retention.max_age,
        "x-stream-max-segment-size-bytes": queue.retention.segment_bytes,
    }
    if queue.retention.max_bytes is not None:
        optional["x-max-length-bytes"] = queue.retention.max_bytes
    arguments.update({name: value for name, value in optional.items() if value is not None})
    if queue.dead_letter is not None and "x-dead-letter-exchange" not in queue.extra_arguments:
        # What the broker itself drops (expiry, length, delivery limit) lands where the worker's dead letters go.
        arguments["x-dead-letter-exchange"] = ""
        arguments["x-dead-letter-routing-key"] = queue.dead_letter
    arguments.update(queue.extra_arguments)
    return QueueSpec(name=queue.name, durable=queue.durable, auto_delete=queue.auto_delete, arguments=arguments)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * MILLISECONDS)


def _targets_first(objects: Mapping[str, Any], target: Any) -> list[Any]:
    """Order so that what an object points to comes before it; a cycle keeps the file's order."""
    done: dict[str, Any] = {}

    def visit(name: str, path: frozenset[str]) -> None:
        if name in done or name in path or name not in objects:
            return
        following = target(objects[name])
        if following is not None:
            visit(following, path | {name})
        done[name] = objects[name]

    for name in objects:
        visit(name, frozenset())
    return list(done.values())
