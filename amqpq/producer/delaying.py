"""A call with `countdown` or `eta`: when it is due, and where it will have to go then. Pure; the moment is handed in."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from amqpq.errors import LocalError
from amqpq.lifecycle import MAX_EXPIRES_MS
from amqpq.producer.options import CallOptions, moment_of
from amqpq.topology import delays
from amqpq.topology.renames import now_named
from amqpq.topology.routing import router

if TYPE_CHECKING:
    from amqpq.topology.model import Topology
    from amqpq.topology.routing import Router
    from amqpq.types import Table

_WEEK_DAYS: Final = 7


def due_of(options: CallOptions, now: datetime) -> datetime | None:
    """Return when a call is due; None where that is now or in the past.

    Raises:
        LocalError: It says both, or a time that is none.
    """
    if options.countdown is None and options.eta is None:
        return None
    if options.countdown is not None and options.eta is not None:
        raise LocalError("countdown= and eta= both say when the task is due; give one of them")
    if options.countdown is not None:
        if isinstance(options.countdown, datetime):
            raise LocalError(f"countdown={options.countdown!r} is a moment; that is eta='s to say")
        moment = moment_of("countdown", options.countdown, now)
    else:
        if not isinstance(options.eta, datetime):
            raise LocalError(f"eta={options.eta!r} is not a datetime; seconds from now are countdown='s to say")
        moment = moment_of("eta", options.eta, now)
    return moment if moment > now else None


class Destinations:
    """Finds the queues of delayed messages, as the broker would.

    Args:
        topology: The project's.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._renamed = now_named(topology)
        self._router: Router | None = None

    def entry(
        self, route: tuple[str, str], headers: Table, priority: int | None, *, due: datetime, now: datetime
    ) -> delays.Entry:
        """Return how to publish a message so that it is where its route leads when it is due.

        Args:
            route: Exchange (empty for the default exchange) and key.
            headers: The user's.
            priority: The message's.
            due: When; after `now`.
            now: The present.

        Raises:
            LocalError: There is no ladder, it is too short, or nobody knows the queue.
        """
        if self._topology.delays is None:
            raise LocalError(delays.no_ladder(self._topology))
        targets = self._targets(*route, headers)
        seconds = (due - now).total_seconds()
        return delays.entry(self._topology, seconds, targets, due.timestamp(), priority=priority)

    def _targets(self, exchange: str, key: str, headers: Table) -> list[str]:
        topology = self._topology
        if self._router is None:
            self._router = router(topology)
        where = f"exchange {exchange!r} with key {key!r}" if exchange else f"queue {key!r}"
        try:
            named = key if exchange else self._renamed.get(key, key)
            targets = sorted(self._router.route(exchange, named, headers).queues)
        except LocalError as error:
            raise LocalError(f"a delayed task goes only where the topology knows the way: {error}") from error
        if not targets:
            raise LocalError(
                f"{where} leads to no queue of the topology of project {topology.project!r}, so the task would reach "
                "nobody when it is due; add a binding"
            )
        for name in targets:
            queue = topology.queues.get(name)
            if queue is None or not delays.reachable(queue):
                raise LocalError(
                    f"{where} leads to queue {name!r}, which is `manage: external`: the delay ladder cannot be bound to "
                    "it; say `manage: verify` for it, or send without countdown and eta"
                )
        return targets


def check_reply_queue(reply_ms: int, mode: str) -> None:
    """Refuse a reply queue that would be gone before the task is due.

    Raises:
        LocalError: The broker lets no queue wait that long.
    """
    if mode == "task" and reply_ms > MAX_EXPIRES_MS:
        weeks = timedelta(milliseconds=MAX_EXPIRES_MS).days // _WEEK_DAYS
        raise LocalError(
            f"a reply queue can wait {weeks} weeks for its task at most (x-expires), and this one would have to wait longer; "
            "send with reply='none'"
        )
