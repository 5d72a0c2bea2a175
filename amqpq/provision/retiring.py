"""What the file says is to go (`decommission:`): unbound by the next plan, deleted by a later one. Pure.

The two steps are apart so that nothing has to be decided in a moment: a queue that gets nothing any more can be emptied by its
workers for as long as that takes. To be named in the file is enough, the manifest need not have it. Bindings of others stay
theirs, and as long as there is one the object stays, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from amqpq.provision.changes import Action, Change, Kind
from amqpq.provision.observed import Observed, address_of_binding
from amqpq.provision.removals import allowed, concerns, exchange_removal, queue_removal
from amqpq.provision.wanted import Wanted
from amqpq.topology.partitions import exchange_name
from amqpq.types import BindingSpec

WHY = "in `decommission`"
LATER = "unbound by this plan, and kept; a later one deletes it when it is empty and unused"


def retired(wanted: Wanted, observed: Observed, owned: frozenset[str]) -> Iterator[Change]:
    """Return what becomes of each object that is to go, and of its bindings."""
    told: set[str] = set()
    for address in sorted(wanted.decommissioned):
        word, _, name = address.partition(" ")
        kind: Kind = "queue" if word == "queue" else "exchange"
        if not observed.complete:
            because = f"{WHY}; whether it is still there, and bound, needs the HTTP API"
            yield Change(kind, name, Action.UNKNOWN, because=because, remedy="set broker.management")
            continue
        if kind == "queue" and name not in observed.queues and exchange_name(name) in observed.exchanges:
            because = f"{WHY}, and the broker has it in partitions"
            remedy = f"name those: queues {name}.0 and so on, exchange {exchange_name(name)}"
            yield Change(kind, name, Action.FORBIDDEN, because=because, remedy=remedy)
            continue
        if name not in (observed.queues if kind == "queue" else observed.exchanges):
            yield Change(kind, name, Action.INFO, because=f"{WHY}, and gone; take it out of the file")
            continue
        bindings = [each for each in observed.bindings or () if concerns(address, each)]
        ours = [each for each in bindings if _is_ours(each, address, wanted, owned)]
        for binding in ours:
            if address_of_binding(binding) not in told:
                told.add(address_of_binding(binding))
                yield Change("binding", address_of_binding(binding), Action.DELETE, because=f"{name} is {WHY}")
        foreign = [address_of_binding(each) for each in bindings if each not in ours]
        yield _change(kind, name, wanted, observed, (len(ours), foreign))


def _is_ours(binding: BindingSpec, address: str, wanted: Wanted, owned: frozenset[str]) -> bool:
    """Whether we made a binding, or its other end is ours (or is to go as well)."""
    if f"binding {address_of_binding(binding)}" in owned:
        return True
    source = f"exchange {binding.source}"
    target = f"{'exchange' if binding.to_exchange else 'queue'} {binding.target}"
    other = target if source == address else source
    declared = {f"exchange {name}" for name in wanted.exchanges} | {f"queue {name}" for name in wanted.queues}
    return other in owned | declared | wanted.decommissioned


def _change(kind: Kind, name: str, wanted: Wanted, observed: Observed, bindings: tuple[int, list[str]]) -> Change:
    ours, foreign = bindings
    if foreign:
        because = f"{WHY}, still bound by others: {', '.join(foreign)}"
        remedy = "have whoever made these bindings remove them"
        return Change(kind, name, Action.FORBIDDEN, because=because, remedy=remedy)
    if ours:
        return Change(kind, name, Action.INFO, because=f"{WHY}: {LATER}")
    if kind == "exchange":
        return allowed(exchange_removal(name, wanted, WHY), wanted)
    seen = observed.queues[name]
    change = queue_removal(name, seen, observed, WHY)
    if change.action is Action.FORBIDDEN and seen.type != "stream":
        waiting = f"{change.because}: kept until it is empty and unused"
        change = replace(change, action=Action.INFO, because=waiting, remedy="")
    return allowed(change, wanted)
