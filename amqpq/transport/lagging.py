"""What a node of a cluster may not know yet: a queue that was declared on another node a moment ago.

Where Khepri keeps the metadata, a declaration is answered when most nodes have it
(https://www.rabbitmq.com/docs/metadata-store), so the last one may say for some milliseconds that there is no such queue. A node
answers a *change* only when it has made it itself, in the order of all changes. So a change that changes nothing, asked of that
node, is answered when it knows everything that was declared before: deleting an exchange that does not exist is one. (Measured
with a node of 4.3.6 that was stopped while another one declared: tests/integration/broker_facts/test_fact_clusters.py.)
"""

from __future__ import annotations

from typing import Final

from amqpq.transport.interface import Channel, Connection, Pending

KHEPRI: Final = (4, 0, 0)
"""The first version whose nodes may keep their metadata in Khepri."""


def may_lag(connection: Connection) -> bool:
    """Whether the node at the other end may not know yet what another one has declared."""
    return connection.server.version_tuple >= KHEPRI


def catch_up(channel: Channel, queue: str) -> Pending[None]:
    """Answer when the node knows all that was declared anywhere before.

    Args:
        channel: One without a request under way.
        queue: The name that is missing: who may configure it may also delete an exchange of that name, and there is none.
    """
    return channel.delete_exchange(queue)
