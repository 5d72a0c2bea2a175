"""Which way a message for a queue goes: by the queue's name, or through the ingress of a queue that has moved.

A migration (`amqpq.topology.generations`) puts an exchange `<queue>.in` before a queue, and in the end deletes the queue of
that name. So who publishes to a queue by its name, through the default exchange, has to notice, while it runs:

* It asks the broker whether that exchange exists, and believes the answer for `LOOK_SECONDS`. The migration deletes nothing
  before twice that time is over, so nobody who asks publishes to the queue by then.
* A message that is returned because there is no such queue was kept by nobody: it may be published again. So the question
  is asked once more, and the message goes through the ingress where there is one now.

Asking is a passive declaration, which needs no permission, except configure in 4.2.6 and 4.3.0 (release notes); where it is
refused there, messages go by name as before, and the migration sees that they do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from amqpq.errors import AccessRefused, ObjectNotFound
from amqpq.topology.generations import ingress_name
from amqpq.transport.interface import Connection, Flow
from amqpq.types import ExchangeSpec, Publication

LOOK_SECONDS: Final = 30.0
"""For which an answer is believed. `provision.migrating.HEARD_SECONDS` is more than twice this."""
_NAMES: Final = 10_000
"""Answers kept; a program that publishes to more queues by name asks more often."""


class Ways:
    """Remembers the answers, for one connection.

    Args:
        connection: To ask through.
        monotonic: Seconds.
    """

    def __init__(self, connection: Connection, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._known: dict[str, tuple[float, bool]] = {}

    def fresh(self, publication: Publication) -> bool:
        """Whether nothing has to be asked."""
        if publication.exchange:
            return True
        known = self._known.get(publication.routing_key)
        return known is not None and self._monotonic() - known[0] < LOOK_SECONDS

    def address(self, publication: Publication) -> Flow[Publication]:
        """Return a publication as it has to be published; asks where the last answer is too old."""
        if publication.exchange:
            return publication
        if not self.fresh(publication):
            yield from self._look(publication.routing_key)
        return self._addressed(publication)

    def after_return(self, publication: Publication) -> Flow[Publication | None]:
        """Return how to publish again what the broker returned; None where there is no other way."""
        if publication.exchange:
            return None
        yield from self._look(publication.routing_key)
        other = self._addressed(publication)
        return other if other.exchange else None

    def _addressed(self, publication: Publication) -> Publication:
        _, ingress = self._known.get(publication.routing_key, (0.0, False))
        return publication._replace(exchange=ingress_name(publication.routing_key)) if ingress else publication

    def _look(self, queue: str) -> Flow[None]:
        asked_at = self._monotonic()
        channel = self._connection.channel()
        try:
            yield channel.declare_exchange(ExchangeSpec(ingress_name(queue), "fanout"), passive=True)
        except (ObjectNotFound, AccessRefused):
            ingress = False  # and the broker has closed the channel
        else:
            ingress = True
            channel.close()
        if len(self._known) >= _NAMES:
            self._known.clear()
        self._known[queue] = asked_at, ingress
