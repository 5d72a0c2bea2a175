"""Partitioned queues on a broker: known by name and shape together, and folded into the one queue that the file has.

An exchange `clicks.hash` of the type `x-consistent-hash`, and bound to it with equal weights exactly the queues `clicks.0` and so
on, which are alike and not bound to anything else. What looks otherwise stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from amqpq.convert import generated
from amqpq.convert.objects import Objects
from amqpq.topology.partitions import EXCHANGE_TYPE, WEIGHT, exchange_name, queue_of
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

_KEYS = {"hash-header": "header", "hash-property": "property"}
_PROPERTIES = frozenset({"correlation_id", "message_id"})


def fold(found: Objects) -> tuple[Objects, Mapping[str, dict[str, Any]]]:
    """Return the objects with each partitioned queue as one, and what the file says of its partitions, by its name."""
    parts: dict[str, dict[str, Any]] = {}
    for exchange in found.exchanges:
        stem = queue_of(exchange.name)
        queues = _partitions(found, exchange, stem)
        if not queues:
            continue
        parts[stem] = {"partitions": len(queues)}
        by = {_KEYS[name]: value for name, value in exchange.arguments.items()}
        if by:
            parts[stem]["partition_by"] = by
        # The exit of a delay ladder leads to each partition by its name; that comes with `delays`.
        inward = tuple(_whole(binding, exchange.name, stem) for binding in found.bindings)
        found = generated.without(replace(found, bindings=inward), {exchange.name}, {queue.name for queue in queues})
        found = replace(found, queues=(*found.queues, replace(queues[0], name=stem)))
    return found, parts


def _whole(binding: BindingSpec, exchange: str, stem: str) -> BindingSpec:
    if binding.to_exchange and binding.target == exchange:
        return replace(binding, target=stem, to_exchange=False)
    return binding


def _partitions(found: Objects, exchange: ExchangeSpec, stem: str) -> list[QueueSpec]:
    """Return the partitions behind an exchange, in their order; none where it is no such exchange."""
    plain = exchange.durable and not exchange.auto_delete and not exchange.internal
    if exchange.type != EXCHANGE_TYPE or exchange.name != exchange_name(stem) or not plain:
        return []
    by_name = {queue.name: queue for queue in found.queues}
    ring = [binding for binding in found.bindings if binding.source == exchange.name]
    names = [f"{stem}.{number}" for number in range(len(ring))]
    wanted = {(name, WEIGHT, False) for name in names}
    others = [b for b in found.bindings if b.target in names and not b.to_exchange and b.source != exchange.name]
    odd = (
        not ring
        or {(b.target, b.key, b.to_exchange) for b in ring} != wanted
        or stem in by_name
        or any(name not in by_name for name in names)
        or len(exchange.arguments) > 1
        or not exchange.arguments.keys() <= _KEYS.keys()
        or exchange.arguments.get("hash-property", "message_id") not in _PROPERTIES
        or others
    )
    queues = [] if odd else [by_name[name] for name in names]
    return queues if all(replace(queue, name=stem) == replace(queues[0], name=stem) for queue in queues) else []
