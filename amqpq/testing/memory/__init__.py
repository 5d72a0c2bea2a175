"""An in-memory RabbitMQ for unit tests: `MemoryBroker`, and `memory_link`, which an `App` takes as its link.

    broker = MemoryBroker()
    app = App(topology, link=memory_link(broker))

It passes the same conformance suite as the transports that talk to a real broker. Production code never imports it.
"""

from __future__ import annotations

from amqpq.testing.memory.broker import MemoryBroker
from amqpq.transport.link import Link
from amqpq.transport.url import Address

__all__ = ["MemoryBroker", "memory_link"]


def memory_link(broker: MemoryBroker, *, name: str = "") -> Link:
    """Return a link to an in-memory broker, for what takes a link to a real one; it reconnects like any other."""
    return Link([Address(vhost=broker.host.name)], broker.open, name=name)
