"""The rules that look at a topology as a whole: references, routing, what RabbitMQ accepts and what it makes of it.

Each rule has a stable id (TOPnnn), a severity (error, warning, info) and a remedy. Errors are things the broker would refuse,
silently ignore or silently drop, or that would leak a secret; `amqpq.topology.load` refuses a file that has one. Warnings and
infos are for `amqpq topology lint`. Rules that depend on the broker's version use the lowest one in `requires`.
"""

from __future__ import annotations

from amqpq.topology.lint import (
    checks,
    coverage,
    deadpaths,
    delays,
    keys,
    limits,
    locked,
    names,
    partitions,
    policies,
    queues,
    references,
    rights,
    routing,
    schedule,
    secrets,
    times,
)
from amqpq.topology.lint.context import Context
from amqpq.topology.lint.secrets import secrets_in_clear
from amqpq.topology.lint.suppressions import Suppressed
from amqpq.topology.lint.suppressions import apply as suppress

__all__ = ["Context", "Suppressed", "run", "secrets_in_clear", "suppress"]


def run(context: Context) -> None:
    """Run every rule; the findings collect what they find."""
    secrets.check(context)
    if any(len(path) == 1 for path in context.findings.unknown):
        return  # a whole section is missing or unreadable: whatever refers to it would look wrong, too
    names.check(context)
    whole = references.check(context)
    checks.check(context)
    queues.check(context)
    partitions.check(context)
    keys.check(context)
    delays.check(context)
    limits.check(context)
    policies.check(context)
    schedule.check(context, whole=whole)
    deadpaths.check(context, whole=whole)
    rights.check(context, whole=whole)
    if whole:  # else many a route would seem to reach nobody
        routing.check(context)
        checks.check_tasks(context)
        times.check(context)
        coverage.check(context)
    locked.check(context)
