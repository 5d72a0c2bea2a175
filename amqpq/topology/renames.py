"""Exchanges and queues that have another name now. Pure.

**Exchanges.** Both exist at once for as long as the file has the line. The old one has the type and properties of the new, and a
binding to it that matches everything; its other bindings go with the next plan, after those of the new one are there. A queue
that is bound to both for that moment gets one copy: the broker routes a message once for each queue, however many ways lead there
(https://www.rabbitmq.com/docs/e2e). When no producer uses the old name any more, the line goes out of the file, and the exchange
with it.

**Queues.** A queue cannot be renamed, and two of them would double what is routed to both. So the name changes in the file alone,
and the queue of the former name stays where it is, with its messages and bindings: the new name *lives* there
(`amqpq.topology.generations`), until somebody migrates it to a queue of its own. An apply notes that in the record.

While the file has the line:

* What is published to the queue by its name goes on under the former one, on the wire and in the signature: so producers and
  workers understand each other, whichever of the two files they have.
* There is an exchange `<former>.in` that leads to the queue. Who publishes by name looks for that (`amqpq.transport.ways`); it
  is there from the apply on, and takes over when the queue of the former name is gone.
* Workers accept both names, and so does the exit of the delay ladder.

The line has to stay until the queue has moved to one of its own, and nothing that was published under the former name is on its
way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from amqpq.errors import ConfigurationError, LocalError
from amqpq.topology.generations import Generations, Home, check_own, ingress_name, ingress_specs, is_generation
from amqpq.topology.model import Binding, Exchange, Topology
from amqpq.types import ExchangeSpec

ONE: Final = "1"
"""The weight of the only binding of a consistent-hash exchange."""


def now_named(topology: Topology) -> dict[str, str]:
    """Return what queues are called now, by their former names."""
    return {former: queue for queue, former in topology.formers.items()}


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
    yield from (Binding(ingress_name(former), queue) for queue, former in topology.formers.items())


def alias_specs(topology: Topology) -> tuple[ExchangeSpec, ...]:
    """Return the exchanges through which queues are reached by their former names.

    They are as the ingress of a queue of that name: where it was migrated before it was renamed, they are there already.
    """
    return tuple(spec for former in topology.formers.values() for spec in ingress_specs(former))


# -------------------------------------------------------------------------------------------------- where renamed queues live


def unsure(topology: Topology, record: Generations) -> tuple[str, ...]:
    """Return the queues of which it has to be known whether the broker has them, for `placed`."""
    names: list[str] = []
    for queue, former in topology.formers.items():
        if queue not in record.homes:
            names += [queue] if former in record.homes else [queue, former]
    return tuple(names)


def placed(topology: Topology, record: Generations, there: Collection[str]) -> Generations:
    """Return where the queues of a file live: by the record, and where nobody has noted a rename yet, by what the broker has.

    Args:
        topology: The file's.
        record: As it was read. What it says of queues that the file does not have is left as it is.
        there: Those of `unsure` that the broker has.

    Raises:
        LocalError: A queue lives in one of a name that the file does not give it, or nobody knows in which of two it lives.
    """
    for queue in topology.queues:
        home = record.homes.get(queue)
        if home is not None:
            _check_kept(topology, queue, home)
    homes = dict(record.homes)
    for queue, former in topology.formers.items():
        if queue in homes:
            continue
        before = homes.get(former)
        if before is None and former in there:
            before = Home(former, (former,))
        if before is not None and queue in there and before.current != queue:
            raise LocalError(
                f"the file says that queue {former!r} is {queue!r} now, and the broker has both, {before.current!r} and "
                f"{queue!r}: what is routed to both comes twice. Delete the one that is not meant, when it is empty"
            )
        if before is not None:
            # Its sources may be bound to the ingress of the former name; instead an apply binds the queue itself. A rename
            # that is taken back leaves `<queue>.in`, which producers have found: that is its ingress from now on.
            back = is_generation(queue, before.current)
            homes[queue] = replace(before, ingress=back, adopted_at=0.0, journal=None, former=former, noted=False)
    return record if homes.keys() == record.homes.keys() else Generations(MappingProxyType(homes), record.serial)


def _check_kept(topology: Topology, queue: str, home: Home) -> None:
    former = topology.formers.get(queue)
    if former is None and home.lead is not None:
        raise LocalError(
            f"queue {queue!r} lives in {home.current!r}, the queue of its former name: keep {_line(queue, home.former)} in the "
            f"file until `amqpq topology migrate {queue}` has given it a queue of its own"
        )
    check_own(queue, home, former)


def check_current(topology: Topology, record: Generations) -> None:
    """See that a file is not of before a rename that others have carried out.

    Raises:
        ConfigurationError: It is: a declaration of it would make the queue of the former name anew, beside the other.
    """
    for queue, home in record.homes.items():
        former = home.former
        if former in topology.queues and queue not in topology.queues and former not in topology.formers:
            raise ConfigurationError(
                f"queue {former!r} was renamed to {queue!r}, and this file has it under its former name: use the file that has "
                f"{_line(queue, former)}"
            )


def _line(queue: str, former: str | None) -> str:
    return f"`moved: [{{from: queue.{former}, to: queue.{queue}}}]`"
