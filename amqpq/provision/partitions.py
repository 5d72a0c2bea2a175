"""In a plan: the number of a queue's partitions does not change while messages wait in them. Pure.

With another number most keys belong to another partition (`amqpq.topology.partitions`), and messages of one key would
overtake each other. Whether any wait, the statistics of the management API tell too late; so it takes an exchange without
bindings, or none, to change the number. Over AMQP, which does not tell all bindings, it takes partitions that are empty and
that nobody consumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from amqpq.provision.changes import Action, Change
from amqpq.provision.observed import Observed
from amqpq.provision.wanted import Wanted
from amqpq.topology.partitions import EXCHANGE_TYPE, binds_partition, queue_of
from amqpq.transport.partitions import remedy


def guarded(wanted: Wanted, observed: Observed, changes: Iterable[Change]) -> Iterator[Change]:
    """Walk the changes; those that would change a number of partitions in use are one that is forbidden."""
    held = dict(_held(wanted, observed))
    for change in changes:
        if not any(_is_of(change, queue) for queue in held):
            yield change
    yield from held.values()


def _is_of(change: Change, queue: str) -> bool:
    """Whether a change is of a partition of a queue, or of a binding to one: delays lead to each past the exchange."""
    if change.action not in {Action.CREATE, Action.DELETE, Action.FOREIGN} or change.kind not in {"queue", "binding"}:
        return False
    name = change.name.rpartition(" -> ")[2] if change.kind == "binding" else change.name
    stem, _, number = name.rpartition(".")
    return stem == queue and number.isdecimal()


def _held(wanted: Wanted, observed: Observed) -> Iterator[tuple[str, Change]]:
    for name, spec in wanted.exchanges.items():
        if spec.type != EXCHANGE_TYPE or name not in observed.exchanges:
            continue
        ours = {binding.target for binding in wanted.declarations.bindings if binding.source == name}
        bound = {each.target for each in observed.bindings or () if each.source == name and binds_partition(each)}
        there = (ours & observed.queues.keys()) | bound
        if not there or (ours <= observed.queues.keys() and bound <= ours):
            continue
        seen = [observed.queues[each] for each in sorted(there) if each in observed.queues]
        unused = not observed.complete and all(each.ready == 0 and each.consumers == 0 for each in seen)
        if unused or (observed.complete and not bound):
            continue
        queue = queue_of(name)
        because = f"the broker has {len(bound or there)} partitions of it, and the file {len(ours)}"
        yield queue, Change("queue", queue, Action.FORBIDDEN, (), because, remedy(queue, name))
