"""What a migration has to ask the management API: the bindings of a queue, and how many messages it holds."""

from __future__ import annotations

from amqpq.errors import ObjectNotFound
from amqpq.management import Management
from amqpq.types import BindingSpec


class ManagementFacts:
    """Asks the management API about one virtual host; the tag `management` is enough.

    Args:
        management: The client.
        vhost: The virtual host.
    """

    def __init__(self, management: Management, vhost: str) -> None:
        self._management = management
        self._vhost = vhost

    def bindings(self, queue: str) -> tuple[BindingSpec, ...]:
        """Return the bindings of a queue, but that of the default exchange."""
        return tuple(
            BindingSpec(found.source, queue, found.key, arguments=found.arguments)
            for found in self._management.bindings(self._vhost)
            if found.target == queue and not found.to_exchange
        )

    def unsettled(self, queue: str) -> int | None:
        """Return how many messages a queue holds: ready, held by consumers, or waiting for their next attempt.

        None where the broker has no numbers yet.
        """
        try:
            found = self._management.queue(self._vhost, queue)
        except ObjectNotFound:
            return 0
        if found.ready is None or found.unacknowledged is None:
            return None
        return found.ready + found.unacknowledged + (found.delayed or 0)
