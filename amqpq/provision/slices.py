"""In a plan: the number of a queue's partitions does not change while messages wait in them. Pure.

With another number most keys belong to another partition (`amqpq.topology.partitions`), and messages of one key would
overtake each other. Where all partitions are seen to be empty, what is missing is made, and what is too many goes as any queue
does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from amqpq.provision.changes import Action, Change
from amqpq.provision.observed import Observed
from amqpq.provision.wanted import Wanted
from amqpq.topology.partitions import EXCHANGE_TYPE, is_slice
from amqpq.transport.slices import remedy


def guarded(wanted: Wanted, observed: Observed, changes: Iterable[Change]) -> Iterator[Change]:
    """Walk the changes; those that would change a number of partitions in use are one that is forbidden."""
    held = dict(_held(wanted, observed))
    for change in changes:
        if not any(_is_of(change, queue) for queue in held):
            yield change
    yield from held.values()


def _is_of(change: Change, queue: str) -> bool:
    """Whether a change makes or removes a partition of a queue."""
    if change.action not in {Action.CREATE, Action.DELETE}:
        return False
    stem, _, number = change.name.rpartition(".")
    if change.kind == "binding":
        stem = stem.rpartition(" -> ")[2] if change.name.startswith(f"{queue}.hash[") else ""
    return change.kind in {"queue", "binding"} and stem == queue and number.isdecimal()


def _held(wanted: Wanted, observed: Observed) -> Iterator[tuple[str, Change]]:
    for name, spec in wanted.exchanges.items():
        if spec.type != EXCHANGE_TYPE or name not in observed.exchanges:
            continue
        ours = {binding.target for binding in wanted.declarations.bindings if binding.source == name}
        bound = {each.target for each in observed.bindings or () if each.source == name and is_slice(each)}
        there = (ours & observed.queues.keys()) | bound
        if not there or (ours <= observed.queues.keys() and bound <= ours):
            continue
        seen = [observed.queues[each] for each in sorted(there) if each in observed.queues]
        if all(each.ready == 0 and each.unacknowledged == 0 for each in seen):
            continue
        queue = name.removesuffix(".hash")
        ready = sum(each.ready or 0 for each in seen)
        because = (
            f"the broker has {len(there)} partitions of it, the file {len(ours)}, and they are not seen to be empty"
        )
        yield queue, Change("queue", queue, Action.FORBIDDEN, (), because, remedy(queue, name), ready=ready)
