"""A broker that is exactly as a topology file says, and whose objects that project made: one side of a diff. Pure."""

from __future__ import annotations

from amqpq.provision.journal import Manifest
from amqpq.provision.observed import Observed, SeenExchange, SeenQueue, address_of_binding
from amqpq.provision.wanted import Wanted


def as_if(wanted: Wanted, version: tuple[int, int, int]) -> tuple[Observed, Manifest]:
    """Return what would be seen of such a broker, and what its manifest would say.

    Args:
        wanted: What the file says.
        version: The broker's.
    """
    exchanges = {**wanted.exchanges, **wanted.expected_exchanges}
    queues = {**wanted.queues, **wanted.expected_queues}
    observed = Observed(
        level="file",
        vhost="",
        version=version,
        exchanges={name: SeenExchange(spec) for name, spec in exchanges.items()},
        queues={name: SeenQueue(spec, ready=0, unacknowledged=0) for name, spec in queues.items()},
        bindings=wanted.declarations.bindings,
        policies=tuple(wanted.policies.values()),
        operator_policies=(),
        consumers=(),
    )
    owned = [
        *(f"exchange {name}" for name in wanted.exchanges),
        *(f"queue {name}" for name in wanted.queues),
        *(f"policy {name}" for name in wanted.policies),
        *(f"binding {address_of_binding(binding)}" for binding in wanted.declarations.bindings),
    ]
    return observed, Manifest(owned=frozenset(owned))
