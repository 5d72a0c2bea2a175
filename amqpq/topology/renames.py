"""Exchanges that have another name now: what reaches the old one goes on to the new. Pure.

Both exist at once for as long as the file has the line. The old one has the type and properties of the new, and a binding to it
that matches everything; its other bindings go with the next plan, after those of the new one are there. A queue that is bound
to both for that moment gets one copy: the broker routes a message once for each queue, however many ways lead there
(https://www.rabbitmq.com/docs/e2e). When no producer uses the old name any more, the line goes out of the file, and the exchange
with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from amqpq.topology.model import Binding, Exchange, Topology

ONE: Final = "1"
"""The weight of the only binding of a consistent-hash exchange."""


def old_exchanges(topology: Topology) -> tuple[Exchange, ...]:
    """Return the exchanges under their old names."""
    known = topology.exchanges
    return tuple(
        replace(known[new], name=old, generated=True)
        for old, new in topology.renamed.items()
        if new in known and known[new].manage == "full"
    )


def forwarding(topology: Topology) -> Iterator[Binding]:
    """Return the bindings that lead from the old names to the new."""
    for exchange in old_exchanges(topology):
        new = topology.renamed[exchange.name]
        if exchange.type == "headers":
            yield Binding(exchange.name, new, to_exchange=True, arguments={"x-match": "all"})
        elif exchange.type == "direct":
            # Nothing matches every key; others than these reach nobody at the new one either.
            keys = dict.fromkeys(binding.key for binding in topology.bindings if binding.source == new)
            yield from (Binding(exchange.name, new, key, to_exchange=True) for key in keys)
        else:
            key = {"topic": "#", "fanout": ""}.get(exchange.type, ONE)
            yield Binding(exchange.name, new, key, to_exchange=True)
