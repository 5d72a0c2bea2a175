"""What a plan says of queues that have another name now (`amqpq.topology.renames`), or have moved. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from amqpq.provision.changes import Action, Change
from amqpq.provision.observed import Observed, address_of_binding
from amqpq.provision.wanted import Wanted
from amqpq.topology.generations import Home, ingress_name
from amqpq.types import BindingSpec


def renamed(wanted: Wanted) -> Iterator[Change]:
    """Return which queues get another name by an apply, and which live in the queue of their former one."""
    for queue, home in wanted.generations.homes.items():
        if queue not in wanted.formers:
            continue
        if home.noted and home.lead is not None:
            because = f"it lives in the queue {home.current}"
            remedy = f"`amqpq topology migrate {queue}` gives it a queue of its own name"
            yield Change("queue", queue, Action.INFO, because=because, remedy=remedy)
        elif not home.noted:
            yield Change("queue", queue, Action.CHANGE, because=said(queue, home))


def inherited(wanted: Wanted, observed: Observed, owned: frozenset[str]) -> frozenset[str]:
    """Return the addresses of what is ours, with the bindings of ours that a migration has taken over to an ingress.

    It notes nothing in the manifest: there they lead to the queue.
    """
    ingresses: dict[str, set[str]] = {}
    for queue, home in wanted.generations.homes.items():
        names = {queue} if home.former is None else {queue, home.former}
        for name in names:
            ingresses.setdefault(ingress_name(name), set()).update(names)
    taken = [
        address_of_binding(binding)
        for binding in observed.bindings or ()
        if binding.to_exchange and any(_before(binding, name) in owned for name in ingresses.get(binding.target, ()))
    ]
    return owned | {f"binding {address}" for address in taken}


def _before(binding: BindingSpec, queue: str) -> str:
    return f"binding {address_of_binding(replace(binding, target=queue, to_exchange=False))}"


def said(queue: str, home: Home) -> str:
    """Return what an apply does about a queue that was renamed."""
    until = "" if home.lead is None else f" until `amqpq topology migrate {queue}`"
    return f"renamed from {home.former}: it lives in the queue {home.current}{until}"
