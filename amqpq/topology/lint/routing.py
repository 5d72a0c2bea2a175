"""Routing: tasks that reach nobody, queues that nobody reaches, exchanges that lead nowhere or in circles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from amqpq.topology.lint.context import Context
from amqpq.topology.model import ROUTING_KEY_LIMIT_BYTES, Exchange, Queue, Route
from amqpq.topology.partitions import key_words, queue_behind
from amqpq.topology.problems import Path
from amqpq.topology.routing import Router, router, topic_words

_FIELD = re.compile(r"\{([^{}]*)\}")

QUORUM_PRIORITY: Final = 31
"""The highest there is in a quorum queue, from RabbitMQ 4.3 on (https://www.rabbitmq.com/docs/quorum-queues#priorities)."""
MANY_QUORUM_QUEUES: Final = 5000
"""https://www.rabbitmq.com/docs/quorum-queues#performance"""
WIDE_FANOUT: Final = 20
"""Copies of a message in quorum queues from which on a stream is worth a thought; a choice, not a limit of the broker."""


def check(context: Context) -> None:
    """Run the rules on routing."""
    simulator = router(context.topology)
    for route in context.topology.routes:
        if route.pattern in context.file.routes and ("routes", route.pattern) not in context.findings.unknown:
            _route(context, route, simulator)
    _hidden_routes(context)
    _unreached_queues(context)
    _idle_exchanges(context)
    _dead_ends(context)
    _wide(context)
    _cycles(context)


# ------------------------------------------------------------------------------------------------------------- routes


def _route(context: Context, route: Route, simulator: Router) -> None:
    path: Path = ("routes", route.pattern)
    exchange = context.topology.exchanges.get(route.exchange)
    part = context.file.routes[route.pattern]
    if part.queue is None and exchange is None:
        return  # told as a reference to nowhere
    if part.queue is not None:
        if part.queue in context.topology.queues:
            _partitioned(context, path, route, context.topology.queues[part.queue], said=part.key is not None)
            _queues_of_route(context, path, route, [context.topology.queues[part.queue]])
        return
    if exchange is None or not _template(context, path, route, exchange, said=part.key is not None):
        return
    if context.foreign(route.exchange):
        return
    if route.fields() or exchange.type == "headers":
        if exchange.type in {"direct", "topic"} and not _may_match(context, route, exchange):
            _no_match(context, path, route, exchange)
        return
    reached = simulator.route(route.exchange, route.key)
    if any(context.foreign(name) for name in reached.exchanges):
        return
    if not reached.queues:
        _no_match(context, path, route, exchange)
    _queues_of_route(context, path, route, [context.topology.queues[name] for name in sorted(reached.queues)])


def _partitioned(context: Context, path: Path, route: Route, queue: Queue, *, said: bool) -> None:
    """Check the key of a route to a queue with partitions: it chooses one of them, unless something else does."""
    findings = context.findings
    if not queue.partitions:
        return
    by_key = queue.hash_header is None and queue.hash_property is None
    if by_key and not said:
        message = (
            f"the route '{route.pattern}' has no key, and '{queue.name}' has partitions, of which the key chooses one"
        )
        remedy = 'add `key: "{argument}"`, or give the queue `partition_by: {property: correlation_id}`'
        findings.error(path, "TOP015", message, remedy)
    elif said and not by_key:
        message = f"the key of the route '{route.pattern}' has no effect: {key_words(queue)} chooses the partition"
        findings.warning((*path, "key"), "TOP023", message, "remove the key, or `partition_by`")
    elif said and _well_formed(context, (*path, "key"), route) and not route.fields():
        message = f"all tasks of '{route.pattern}' have the key '{route.key}', and so go to the same partition of '{queue.name}'"
        findings.warning((*path, "key"), "TOP023", message, 'write an argument into it: `key: "{customer}"`')


def _template(context: Context, path: Path, route: Route, exchange: Exchange, *, said: bool) -> bool:
    """Check the key's template; False where nothing more can be said about it."""
    findings = context.findings
    key_path = (*path, "key") if said else path
    if exchange.type in {"direct", "topic"} and not said:
        message = f"the route '{route.pattern}' has no key, and '{exchange.name}' is a {exchange.type} exchange"
        findings.error(path, "TOP015", message, "add `key: ...`")
        return False
    if exchange.type in {"fanout", "headers"} and route.key:
        message = (
            f"the route '{route.pattern}' has a key, and the {exchange.type} exchange '{exchange.name}' ignores it"
        )
        findings.warning(key_path, "TOP023", message, "remove the key")
    if not _well_formed(context, key_path, route):
        return False
    if any(word in {"*", "#"} for word in route.key.split(".")):
        message = f"the routing key '{route.key}' has a wildcard in it, which stands for itself in a message"
        findings.warning(key_path, "TOP023", message, "patterns belong into bindings")
    return True


def _well_formed(context: Context, key_path: Path, route: Route) -> bool:
    """Check a key's template for itself; False where it is none."""
    findings = context.findings
    rest = _FIELD.sub("", route.key)
    wrong = [name for name in route.fields() if not name.isidentifier()]
    if wrong or "{" in rest or "}" in rest:
        message = f"the key '{route.key}' is no template: braces hold the name of an argument, {{task}} or {{kind}}"
        findings.error(key_path, "TOP015", message, "write `web.{task}`")
        return False
    if "task" in route.fields() and route.pattern.count("*") > 1:
        message = f"'{route.pattern}' has more than one '*', so {{task}} could be either"
        findings.error(key_path, "TOP015", message, "use one '*'")
    if len(rest.encode()) > ROUTING_KEY_LIMIT_BYTES:
        findings.error(key_path, "TOP027", f"the key has more than {ROUTING_KEY_LIMIT_BYTES} bytes", "shorten it")
    return True


def _no_match(context: Context, path: Path, route: Route, exchange: Exchange) -> None:
    keys = [binding.key for binding in context.topology.bindings if binding.source == exchange.name]
    known = ", ".join(f"'{key}'" for key in dict.fromkeys(keys)) or "none at all"
    what = f"the key '{route.key}' of " if exchange.type in {"direct", "topic"} else ""
    message = f"{what}the route '{route.pattern}' reaches no queue; bindings of '{exchange.name}': {known}"
    place = (*path, "key") if what else path
    context.findings.error(place, "TOP015", message, f"add a binding: `{exchange.name}[...] -> queue`")


def _may_match(context: Context, route: Route, exchange: Exchange) -> bool:
    """Whether some filling of the template may match a binding; an alternate exchange takes whatever does not."""
    if exchange.unrouted is not None:
        return True
    keys = [binding.key for binding in context.topology.bindings if binding.source == exchange.name]
    if exchange.type == "direct":
        pattern = re.compile(".*".join(re.escape(text) for text in _FIELD.split(route.key)[::2]), re.DOTALL)
        return any(pattern.fullmatch(key) for key in keys)
    # A field may hold dots, so a word with a field in it may be any number of words.
    template = ["#" if "{" in word else word for word in topic_words(route.key)]
    return any(overlap(template, topic_words(key)) for key in keys)


def overlap(left: list[str], right: list[str]) -> bool:
    """Whether some key matches both topic patterns."""
    if not left or not right:
        return all(word == "#" for word in (*left, *right))
    if left[0] == "#":
        return overlap(left[1:], right) or overlap(left, right[1:])
    if right[0] == "#":
        return overlap(left, right[1:]) or overlap(left[1:], right)
    return (left[0] == right[0] or "*" in {left[0], right[0]}) and overlap(left[1:], right[1:])


def _queues_of_route(context: Context, path: Path, route: Route, queues: list[Queue]) -> None:
    findings = context.findings
    for queue in queues:
        if queue.manage != "full":
            continue
        if queue.type == "stream":
            message = f"tasks of '{route.pattern}' reach the stream '{queue.name}', from which no worker can take them"
            findings.warning(
                path, "TOP030", message, "streams are for readers; route tasks to a classic or quorum queue"
            )
        if route.priority is None:
            continue
        if queue.type == "classic" and queue.max_priority is None:
            message = f"the queue '{queue.name}' has no max_priority: the priority of '{route.pattern}' has no effect"
            findings.warning((*path, "priority"), "TOP042", message, "give the queue a max_priority")
        elif queue.max_priority is not None and route.priority > queue.max_priority:
            message = (
                f"priority {route.priority} is above max_priority of '{queue.name}' and counts as {queue.max_priority}"
            )
            findings.warning((*path, "priority"), "TOP042", message)
        elif queue.type == "quorum" and context.lowest < (4, 0, 0):
            message = f"quorum queues ('{queue.name}') have no priorities before RabbitMQ 4.0"
            findings.warning((*path, "priority"), "TOP042", message, "require >=4.0, or use a classic queue")
        elif queue.type == "quorum" and route.priority > QUORUM_PRIORITY:
            message = f"quorum queues ('{queue.name}') have the priorities 0 to 31: {route.priority} counts as 31"
            findings.warning((*path, "priority"), "TOP042", message)
        elif queue.type == "quorum":
            message = (
                f"in a quorum queue ('{queue.name}') a message without a priority has 4; before RabbitMQ 4.3 there are two "
                "steps (0 to 4, and above), from then on the higher always goes first and can starve the lower"
            )
            findings.info((*path, "priority"), "TOP042", message)


def _hidden_routes(context: Context) -> None:
    seen: list[Route] = []
    for route in context.topology.routes:
        if "*" in route.pattern:
            probe = route.pattern.replace("*", "\0")
            wider = next((other for other in seen if other.matches(probe)), None)
            if wider is not None:
                message = (
                    f"the route '{route.pattern}' is never chosen: '{wider.pattern}' above it matches all its tasks"
                )
                context.findings.warning(("routes", route.pattern), "TOP074", message, "move it up")
            seen.append(route)


# --------------------------------------------------------------------------------------------------- queues, exchanges


def _unreached_queues(context: Context) -> None:
    topology = context.topology
    reached = {binding.target for binding in topology.bindings if not binding.to_exchange}
    reached |= {route.key for route in topology.routes if route.exchange == ""}
    reached |= {name for route in topology.routes if (name := queue_behind(topology, route.exchange)) is not None}
    for name, queue in topology.queues.items():
        if queue.generated or queue.manage != "full" or name in reached or topology.is_dead_letter(name):
            continue
        message = f"no binding and no route leads to the queue '{name}'"
        context.findings.warning(("queues", name), "TOP016", message, "bind it, or remove it")


def _idle_exchanges(context: Context) -> None:
    topology = context.topology
    keys: dict[str, list[str]] = {name: [] for name in topology.exchanges}
    for binding in topology.bindings:
        keys.setdefault(binding.source, []).append(binding.key)
    for name, exchange in topology.exchanges.items():
        if exchange.manage != "full":
            continue
        bound = keys[name]
        if not bound and exchange.unrouted is None:
            message = f"nothing is bound to the exchange '{name}': it drops whatever it gets"
            context.findings.warning(("exchanges", name), "TOP017", message, "bind a queue, or remove it")
        everything = exchange.type == "fanout" or (exchange.type == "topic" and "#" in bound)
        if bound and everything and exchange.unrouted is not None:
            message = f"the exchange '{name}' matches every message, so its `unrouted` gets none"
            context.findings.warning(("exchanges", name, "unrouted"), "TOP020", message, "remove it")


def _dead_ends(context: Context) -> None:
    """Find bindings to an exchange that leads nowhere: what matches them is dropped, and `unrouted` does not get it."""
    topology = context.topology
    feeding = {binding.source for binding in topology.bindings}
    for path, _, binding in context.bindings():
        source, target = topology.exchanges.get(binding.source), topology.exchanges.get(binding.target)
        if not binding.to_exchange or source is None or target is None or source.unrouted is None:
            continue
        if target.name not in feeding and target.unrouted is None and not context.foreign(target.name):
            message = (
                f"what matches this binding is dropped in '{target.name}', to which nothing is bound; "
                f"`unrouted` of '{source.name}' takes only what matches no binding"
            )
            context.findings.warning(path, "TOP020", message, "bind a queue to it, or remove this binding")


def _wide(context: Context) -> None:
    """Find what a stream would do better: one message copied into many replicated queues."""
    topology = context.topology
    quorum = {name for name, queue in topology.queues.items() if queue.type == "quorum"}
    if len(quorum) > MANY_QUORUM_QUEUES:
        message = f"{len(quorum)} quorum queues: above {MANY_QUORUM_QUEUES} a cluster needs a look at its memory"
        context.findings.warning(("queues",), "TOP047", message, "see https://www.rabbitmq.com/docs/quorum-queues")
    copies: dict[str, set[str]] = {}
    for binding in topology.bindings:
        if binding.target in quorum and not binding.to_exchange:
            copies.setdefault(binding.source, set()).add(binding.target)
    for name, targets in copies.items():
        if name in topology.exchanges and topology.exchanges[name].type == "fanout" and len(targets) > WIDE_FANOUT:
            message = f"'{name}' copies every message into {len(targets)} quorum queues, each with its own log"
            context.findings.warning(("exchanges", name), "TOP047", message, "let the readers share a stream")


def _cycles(context: Context) -> None:
    """Find circles of exchanges: harmless to the broker, which visits each once, and never meant."""
    topology = context.topology
    following: dict[str, set[str]] = {name: set() for name in topology.exchanges}
    for binding in topology.bindings:
        if binding.to_exchange and binding.source in following:
            following[binding.source].add(binding.target)
    for found, path, what in (
        (circle(following), ("bindings",), "bindings"),
        (
            circle({name: {x.unrouted} for name, x in topology.exchanges.items() if x.unrouted is not None}),
            ("exchanges",),
            "alternate exchanges",
        ),
    ):
        if found:
            message = f"{what} lead in a circle: {' -> '.join(found)}"
            where = _where(context, found, path)
            context.findings.error(where, "TOP019", message, "remove one of them")


def _where(context: Context, names: list[str], path: Path) -> Path:
    if path == ("bindings",):
        for place, _, binding in context.bindings():
            if binding.to_exchange and binding.source == names[-2] and binding.target == names[-1]:
                return place
        return path
    return ("exchanges", names[0], "unrouted")


def circle(following: Mapping[str, Iterable[str]]) -> list[str]:
    """Return one circle as a list that ends where it begins, or nothing."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(following.get(name, ())):
            found = visit(target, [*trail, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in following if (found := visit(name, []))), [])
