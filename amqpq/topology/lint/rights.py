"""Rights: what the file sends and nobody may send, what it queues and nobody may read, and what a migration takes away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from amqpq.topology import permissions
from amqpq.topology.generations import ingress_name
from amqpq.topology.lint.context import Context
from amqpq.topology.model import Permission
from amqpq.topology.partitions import physical, queue_behind
from amqpq.topology.problems import Path


def check(context: Context, *, whole: bool) -> None:
    """Run the rules on rights, which begin where a file says what users may do."""
    granted = context.topology.security.permissions
    patterns = [(permission.configure, permission.write, permission.read) for permission in granted.values()]
    if not granted or any(permissions.problem(pattern) is not None for each in patterns for pattern in each):
        return  # told already
    _all(context, granted)
    _generations(context, granted)
    if whole:
        _missing(context, granted)
        _formers(context, granted)


def _all(context: Context, granted: Mapping[str, Permission]) -> None:
    for user, permission in granted.items():
        if permission.configure in {".*", "^.*$"}:
            message = f"'{user}' may declare and delete everything; who only sends or works needs '^$'"
            path: Path = ("security", "permissions", user, "configure")
            context.findings.info(path, "TOP069", message)


def _generations(context: Context, granted: Mapping[str, Permission]) -> None:
    """Find rights that end with a migration: of a queue, but not of the next queue that takes its place."""
    for user, permission in granted.items():
        for name, queue in context.file.queues.items():
            after = f"{name}.g2"
            read = permissions.matches(permission.read, name) and not permissions.matches(permission.read, after)
            if read and queue.manage == "full":
                message = f"'{user}' may read '{name}', but not '{after}', where a migration would move it"
                path: Path = ("security", "permissions", user, "read")
                context.findings.info(path, "TOP069", message, "add `(\\.g[0-9]+)?` to the name")
                break


def _missing(context: Context, granted: Mapping[str, Permission]) -> None:
    for exchange, path, what in _sent(context):
        shown = exchange or permissions.DEFAULT_EXCHANGE_NAME
        if not any(permissions.matches(permission.write, shown) for permission in granted.values()):
            message = f"none of the users may write to '{shown}', to which {what}"
            context.findings.warning(path, "TOP070", message, "extend `write` of the one who sends")
    worked_on = _worked_on(context)
    for name, queue in context.topology.queues.items():
        if name not in worked_on or queue.generated or queue.manage == "external":
            continue
        for each in physical(queue):
            if not any(permissions.matches(permission.read, each.name) for permission in granted.values()):
                message = f"none of the users may read the queue '{each.name}'"
                context.findings.warning(
                    ("queues", name), "TOP070", message, "extend `read` of the one who works on it"
                )
                break


def _formers(context: Context, granted: Mapping[str, Permission]) -> None:
    """Find rights that a queue takes that was renamed: on the one in which it lives, and on the exchange that leads to it."""
    topology = context.topology
    by_name = {route.key for route in topology.routes if not route.exchange}
    for name, former in topology.formers.items():
        if not any(permissions.matches(permission.read, former) for permission in granted.values()):
            message = f"none of the users may read the queue '{former}', in which '{name}' lives until it is migrated"
            context.findings.warning(("queues", name), "TOP070", message, "extend `read` of the one who works on it")
        ingress = ingress_name(former)
        if name in by_name and not any(permissions.matches(each.write, ingress) for each in granted.values()):
            message = f"none of the users may write to '{ingress}', by which producers reach '{name}'"
            context.findings.warning(("queues", name), "TOP070", message, "extend `write` of the one who sends")


def _worked_on(context: Context) -> set[str]:
    """Return the queues that tasks are routed to; dead letters and what matched nothing are for whoever looks after them."""
    topology = context.topology
    sources = {route.exchange for route in topology.routes}
    queues = {binding.target for binding in topology.bindings if binding.source in sources and not binding.to_exchange}
    queues |= {route.key for route in topology.routes if route.exchange == ""}
    queues |= {name for source in sources if (name := queue_behind(topology, source)) is not None}
    return queues - topology.dead_letter_queues()


def _sent(context: Context) -> Iterator[tuple[str, Path, str]]:
    for route in context.topology.routes:
        if route.pattern in context.file.routes:
            yield route.exchange, ("routes", route.pattern), f"tasks of '{route.pattern}' are published"
