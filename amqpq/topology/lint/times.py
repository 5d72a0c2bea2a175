"""Times that do not fit together: expiry and retries, delays and queues, direct replies and the wait for them."""

from __future__ import annotations

from typing import Final

from amqpq.errors import LocalError
from amqpq.topology.lint.context import Context
from amqpq.topology.model import Queue, Retries, Route
from amqpq.topology.problems import Path
from amqpq.topology.routing import Router, router
from amqpq.topology.units import duration_text

DIRECT_SECONDS: Final = 60.0
"""A direct reply is lost with the caller's connection, so nothing that takes longer should rely on one."""


def check(context: Context) -> None:
    """Run the rules on times."""
    simulator = router(context.topology)
    for route in context.topology.routes:
        path: Path = ("routes", route.pattern)
        if route.pattern in context.file.routes and path not in context.findings.unknown:
            _expiry(context, path, route, simulator)
            _direct(context, path, route)
    _lease(context)


def waits(retries: Retries) -> float:
    """Return how long the waits between all attempts are together, at most; in seconds."""
    backoff, total, wait = retries.backoff, 0.0, retries.backoff.min_seconds
    for _ in range(min(retries.max, 10_000)):
        total += min(wait, backoff.max_seconds)
        wait = min(wait * backoff.factor, backoff.max_seconds)
    return total


def _expiry(context: Context, path: Path, route: Route, simulator: Router) -> None:
    if route.expires_seconds is None:
        return
    retries = route.retries or context.topology.retries
    if retries.max and retries.backoff.min_seconds >= route.expires_seconds:
        message = (
            f"tasks of '{route.pattern}' have expired ({duration_text(route.expires_seconds)}) before their first retry "
            f"({duration_text(retries.backoff.min_seconds)})"
        )
        context.findings.warning((*path, "expires"), "TOP040", message, "let them live longer, or wait less")
    for queue in _reached(context, route, simulator):
        if queue.ttl_seconds is not None and queue.ttl_seconds < route.expires_seconds:
            message = (
                f"tasks of '{route.pattern}' live for {duration_text(route.expires_seconds)}, and the queue '{queue.name}' "
                f"lets none wait longer than {duration_text(queue.ttl_seconds)}"
            )
            context.findings.warning((*path, "expires"), "TOP040", message, "the lesser counts: make them equal")


def _reached(context: Context, route: Route, simulator: Router) -> list[Queue]:
    if route.fields():
        return []
    try:
        names = simulator.route(route.exchange, route.key).queues
    except LocalError:
        return []
    return [context.topology.queues[name] for name in sorted(names) if name in context.topology.queues]


def _direct(context: Context, path: Path, route: Route) -> None:
    mode = route.reply or context.topology.replies.mode
    total = waits(route.retries or context.topology.retries)
    if mode == "direct" and total > DIRECT_SECONDS:
        message = (
            f"the caller of '{route.pattern}' may have to wait {duration_text(total)} for the last retry, and a direct "
            "reply is lost when its connection breaks"
        )
        context.findings.warning(path, "TOP072", message, "use `reply: task`, or shorter retries")


def _lease(context: Context) -> None:
    """Find queues that may be gone before what is delayed for them is due."""
    delays = context.topology.delays
    for queue in context.topology.queues.values():
        if delays is None or queue.expires_seconds is None or queue.expires_seconds >= delays.max_seconds:
            continue
        message = (
            f"'{queue.name}' is deleted after {duration_text(queue.expires_seconds)} without use, and a task may be delayed "
            f"for {duration_text(delays.max_seconds)}: it would end in '{delays.lost}'"
        )
        context.findings.warning(("queues", queue.name, "expires"), "TOP054", message, "lower delays.max")
