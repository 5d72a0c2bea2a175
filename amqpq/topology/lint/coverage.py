"""Checks: routes that no check follows."""

from __future__ import annotations

from contextlib import suppress

from amqpq.errors import LocalError
from amqpq.topology.expected import PermissionCheck, PublishCheck
from amqpq.topology.lint.context import Context
from amqpq.topology.model import Route


def check(context: Context) -> None:
    """Run the rule on coverage: a warning in a file that has checks, else worth knowing only."""
    topology = context.topology
    covered: set[str] = set()
    for each in topology.checks:
        if isinstance(each, PermissionCheck):
            continue
        if each.task is not None:
            with suppress(LocalError):  # told as a reference to nowhere
                covered.add(topology.route_for(each.task).pattern)
        elif isinstance(each, PublishCheck):
            covered |= {route.pattern for route in topology.routes if _same_address(route, each.exchange, each.key)}
    add = context.findings.warning if topology.checks else context.findings.info
    for pattern in context.file.routes:
        if pattern not in covered:
            message = f"no check says where tasks of '{pattern}' go"
            remedy = f"add one: `{{publish: {{task: {pattern.replace('*', 'x')}}}, reaches: [...]}}`"
            add(("routes", pattern), "TOP075", message, remedy)


def _same_address(route: Route, exchange: str, key: str) -> bool:
    return route.exchange == exchange and route.key == key and not route.fields()
