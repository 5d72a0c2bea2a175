"""Partitioned queues: one queue of the file over several on the broker, so that more than one process serves it. Pure.

**How it works.** `clicks: {partitions: 8}` is the queues `clicks.0` to `clicks.7` and an exchange `clicks.hash` of the type
`x-consistent-hash` (the plugin rabbitmq_consistent_hash_exchange). What is for `clicks` is published to that exchange, or comes
to it over a binding, and its key decides which one of them gets it: the routing key, or the header or property that
`partition_by` names. The same key always takes the same partition, so that messages of one key stay in their order.

`clicks` is the *logical* name: routes, bindings, checks and pictures know only that. Workers consume the partitions, and what
they put back (another attempt, a copy after a crash, a message taken back from the dead letters) goes to the partition that it
came from, by its name through the default exchange.

**Which partition a key has** nobody but the broker knows: the simulator says `clicks`. It depends on the order in which the
partitions were bound, so they are bound one after the other, by their names (`binding_order`): brokers with the same file
agree. RabbitMQ 4.3 keeps that over a restart. One that keeps its metadata in Mnesia forgets it and binds anew, several
at a time (`rabbit_binding:recover`), so that some keys may have another partition afterwards (measured on 3.10.8 and
4.0.5, one node; not on 4.3.6): messages of one key that waited meanwhile and those that came after are then in two. With another
number of partitions most keys move. So that number is not changed while there are messages (`amqpq.transport.partitions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from amqpq.topology.model import Binding, Exchange, Queue, Topology

EXCHANGE_TYPE: Final = "x-consistent-hash"
PLUGIN: Final = "rabbitmq_consistent_hash_exchange"
DELIVERY_LIMIT: Final = 20
"""Of the partitions of a quorum queue with `single_active`, where the file says nothing: what RabbitMQ has from 4.0 on anyway."""
WEIGHT: Final = "1"
"""The binding key of a partition: how many places it has in the ring. All have one, so that keys spread evenly."""

_SUFFIX: Final = ".hash"
_SEVERAL = re.compile(r"(?P<stem>.+)\.(?P<first>[0-9]{1,4})-(?P<last>[0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Spread:
    """The generated exchanges, and the bindings of the partitions to them."""

    exchanges: tuple[Exchange, ...] = ()
    bindings: tuple[Binding, ...] = ()


def exchange_name(queue: str) -> str:
    """Return the name of the exchange before the partitions of a queue."""
    return f"{queue}{_SUFFIX}"


def queue_of(exchange: str) -> str:
    """Return the logical name of the queue before whose partitions an exchange of this name would stand."""
    return exchange.removesuffix(_SUFFIX)


def partition_names(queue: Queue) -> tuple[str, ...]:
    """Return the names of a queue's partitions; none where it has none."""
    return tuple(queue.partition_name(number) for number in range(queue.partitions or 0))


def physical(queue: Queue) -> tuple[Queue, ...]:
    """Return what the broker has of a queue: its partitions, or itself where it has none."""
    if not queue.partitions:
        return (queue,)
    return tuple(queue.partition(number) for number in range(queue.partitions))


def physical_queues(topology: Topology) -> Iterator[Queue]:
    """Walk the queues of a topology as the broker has them."""
    for queue in topology.queues.values():
        yield from physical(queue)


def logical(topology: Topology, name: str) -> str:
    """Return the name that a queue has in the file, given its name or that of a partition."""
    found = topology.queue(name)
    return name if found is None or found.part_of is None else found.part_of


def selected(topology: Topology, word: str) -> tuple[str, ...]:
    """Return the queues on the broker that a word selects; none where it names nothing.

    Args:
        topology: With the queues.
        word: A queue's name (of one with partitions: all of them), a partition's (`clicks.3`), or the first and the last of
            several (`clicks.0-3`).
    """
    found = topology.queue(word)
    if found is not None:
        return tuple(queue.name for queue in physical(found))
    match = _SEVERAL.fullmatch(word)
    if match is None or match["stem"] not in topology.queues:
        return ()
    names = partition_names(topology.queues[match["stem"]])
    first, last = int(match["first"]), int(match["last"])
    return names[first : last + 1] if first <= last < len(names) else ()


def one_by_one(queue: Queue) -> bool:
    """Whether the messages of a queue are worked off one after the other: those of a partition with `single_active`."""
    return queue.part_of is not None and queue.single_active


def kept_in_place(topology: Topology) -> frozenset[str]:
    """Return the partitions where a message that came back keeps its place: of quorum queues with a delivery limit.

    Only of those whose messages are worked off one by one.

    Such a queue counts its deliveries itself. Elsewhere the count is written into a copy, which goes to the end of the queue
    (`amqpq.worker.suspects`); and what is given back to a quorum queue without a limit goes there as well (measured on 3.10.8).
    """
    return frozenset(queue.name for queue in physical_queues(topology) if one_by_one(queue) and keeps_place(queue))


def keeps_place(queue: Queue) -> bool:
    """Whether what comes back to a queue is counted there, and keeps its place."""
    return queue.type == "quorum" and (queue.delivery_limit or 0) > 0


def partitioned(topology: Topology) -> tuple[Queue, ...]:
    """Return the queues that have partitions."""
    return tuple(queue for queue in topology.queues.values() if queue.partitions)


def queue_behind(topology: Topology, exchange: str) -> str | None:
    """Return the partitioned queue that an exchange stands before, by its logical name; None where it is another exchange."""
    queue = topology.queues.get(queue_of(exchange))
    return queue.name if queue is not None and queue.partitions and exchange == exchange_name(queue.name) else None


def key_words(queue: Queue) -> str:
    """Return what chooses the partition of a message, in words."""
    if queue.hash_header is not None:
        return f"the header {queue.hash_header}"
    return "the routing key" if queue.hash_property is None else f"the property {queue.hash_property}"


def hash_exchange(queue: Queue) -> Exchange:
    """Return the exchange before the partitions of a queue."""
    arguments: dict[str, Any] = {}
    if queue.hash_header is not None:
        arguments["hash-header"] = queue.hash_header
    if queue.hash_property is not None:
        arguments["hash-property"] = queue.hash_property
    return Exchange(
        exchange_name(queue.name), EXCHANGE_TYPE, manage=queue.manage, extra_arguments=arguments, generated=True
    )


def spread(topology: Topology) -> Spread:
    """Return the exchanges before all partitioned queues, and the bindings of their partitions."""
    queues = partitioned(topology)
    return Spread(
        tuple(hash_exchange(queue) for queue in queues),
        tuple(Binding(exchange_name(queue.name), name, WEIGHT) for queue in queues for name in partition_names(queue)),
    )


def folded(topology: Topology) -> Spread:
    """Return the same as a simulator and a picture see it: each exchange leads to the queue by its logical name."""
    queues = partitioned(topology)
    return Spread(
        tuple(hash_exchange(queue) for queue in queues),
        tuple(Binding(exchange_name(queue.name), queue.name, WEIGHT) for queue in queues),
    )


def wired(topology: Topology, bindings: Iterable[Binding]) -> Iterator[Binding]:
    """Walk bindings as they are made: one of a partitioned queue leads to the exchange before it."""
    names = {queue.name for queue in partitioned(topology)}
    for binding in bindings:
        if binding.target in names and not binding.to_exchange:
            yield replace(binding, target=exchange_name(binding.target), to_exchange=True)
        else:
            yield binding


def binds_partition(binding: Binding) -> bool:
    """Whether a binding is that of a partition to the exchange before it."""
    stem, _, number = binding.target.rpartition(".")
    return not binding.to_exchange and number.isdecimal() and binding.source == exchange_name(stem)


def binding_order(binding: Binding) -> tuple[str, bytes]:
    """Return where in the broker's ring a partition stands: names compare as bytes, `clicks.10` before `clicks.2`."""
    return binding.source, binding.target.encode()
