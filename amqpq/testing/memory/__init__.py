"""An in-memory RabbitMQ for unit tests: `MemoryBroker`, and `memory_link`, which an `App` takes as its link.

    broker = MemoryBroker()
    app = App(topology, link=memory_link(broker))
    declare_topology(broker, app.topology)

It passes the same conformance suite as the transports that talk to a real broker. Production code never imports it.
"""

from __future__ import annotations

from typing import Final

from amqpq.testing.memory.broker import MemoryBroker
from amqpq.topology.declarations import declarations
from amqpq.topology.model import Topology
from amqpq.transport import declare, flow
from amqpq.transport.interface import Connection, Flow
from amqpq.transport.link import Link
from amqpq.transport.url import Address

__all__ = ["MemoryBroker", "declare_topology", "memory_link"]

DECLARE_SECONDS: Final = 30.0
"""More than any topology takes; a test that hangs must end."""


def memory_link(broker: MemoryBroker, *, name: str = "") -> Link:
    """Return a link to an in-memory broker, for what takes a link to a real one; it reconnects like any other."""
    return Link([Address(vhost=broker.host.name)], broker.open, name=name)


def declare_topology(broker: MemoryBroker, topology: Topology) -> None:
    """Declare on an in-memory broker what a topology says, as `amqpq topology apply` does on a real one.

    Raises:
        TransportError: Something is declared there already with other properties, or must exist and does not.
        NotBuiltYet: The in-memory broker does not model it.
    """
    flow.run(_declare(broker.connect("declare_topology"), topology), DECLARE_SECONDS)


def _declare(connection: Connection, topology: Topology) -> Flow[None]:
    try:
        declare.demand((yield from declare.apply(connection.channel, declarations(topology))))
    finally:
        yield connection.close()
