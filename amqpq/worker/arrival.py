"""How a message came to its queue, to be held against the route it was signed for: a signature is good for one way only."""

from __future__ import annotations

from typing import Final, TypeAlias

from amqpq.errors import LocalError
from amqpq.message.wire import ROUTE
from amqpq.topology import Topology
from amqpq.topology.delays import came_down
from amqpq.topology.generations import came_by_name
from amqpq.topology.partitions import logical
from amqpq.topology.routing import Router, router
from amqpq.types import Table
from amqpq.worker.work import Work

WAYS_KEPT: Final = 512
"""Of which the answer is remembered; most messages come by few."""

Way: TypeAlias = tuple[str, str]
"""Exchange and routing key."""


class Arrivals:
    """Judges how messages came.

    Args:
        topology: Where they go.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._dead_letters = topology.dead_letter_queues()
        self._router: Router | None = None
        self._known: dict[tuple[str, str, str, str], Way | None] = {}

    def way(self, work: Work) -> Way | None:
        """Return how the message came, as its signature has to say it; None where that would mislead.

        The broker rewrites both when it dead-letters. And what was put back into its own queue (after a crash, or from
        the dead letters) came through the default exchange or the queue's ingress, what was delayed through an exchange of
        the ladder: that is fine if its signed route leads to this queue anyway. A queue that was renamed has two names.
        """
        headers = work.properties.headers
        signed_for = headers.get(ROUTE)
        if not isinstance(signed_for, str):
            signed_for = ""
        asked = (work.queue, work.exchange, work.routing_key, signed_for)
        try:
            return self._known[asked]
        except KeyError:
            answer, by_headers = self._judge(*asked, headers)
        if not by_headers and len(self._known) < WAYS_KEPT:
            self._known[asked] = answer
        return answer

    def _judge(
        self, queue: str, by_exchange: str, by_key: str, signed_for: str, headers: Table
    ) -> tuple[Way | None, bool]:
        """Return the answer, and whether other headers might change it."""
        if queue in self._dead_letters:
            return None, False
        former = self._topology.formers.get(queue)
        moved = (
            came_by_name(queue, by_exchange, by_key)
            or (former is not None and came_by_name(former, by_exchange, by_key))
            or came_down(self._topology, by_exchange)
        )
        if not moved or not signed_for:
            return (by_exchange, by_key), False
        exchange, _, key = signed_for.partition("/")
        exchange = exchange.replace("%2F", "/").replace("%25", "%")
        if not exchange and key in {queue, former}:
            return (exchange, key), False
        try:
            reached = self._reached(exchange, key, headers)
        except LocalError:  # an exchange that this topology does not have
            return (by_exchange, by_key), False
        return (None if logical(self._topology, queue) in reached else (by_exchange, by_key)), True

    def _reached(self, exchange: str, key: str, headers: Table) -> frozenset[str]:
        """Return the queues that a message reaches; the simulator is made when the first one asks, and kept."""
        if self._router is None:
            self._router = router(self._topology)
        return self._router.route(exchange, key, headers).queues
