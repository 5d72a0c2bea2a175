"""Where dead letters go: at-least-once that is none, letters that lead nowhere, and circles.

Dead letters of the file go to a queue by the default exchange. Policies can send them to any exchange; both are followed here.
"""

from __future__ import annotations

from typing import Final

from amqpq.errors import LocalError
from amqpq.topology.lint import effective
from amqpq.topology.lint.context import Context
from amqpq.topology.lint.effective import Settings
from amqpq.topology.lint.routing import circle
from amqpq.topology.routing import Router, router

_DLX: Final = "dead-letter-exchange"
_KEY: Final = "dead-letter-routing-key"
_STRATEGY: Final = "dead-letter-strategy"


def check(context: Context, *, whole: bool) -> None:
    """Run the rules on dead letters; where the wiring is not whole, only those that look at one queue."""
    found = list(effective.settings(context))
    for each in found:
        _strategy(context, each)
        _desk(context, each)
        _delayed_retry(context, each)
    if whole:
        simulator = router(context.topology)
        following = {each.queue.name: _targets(context, each, simulator) for each in found}
        round_ = circle(following)
        if round_:
            by_name = {each.queue.name: each for each in found}
            _tell(context, round_, [by_name[name] for name in round_[:-1]])


def _strategy(context: Context, found: Settings) -> None:
    findings, values, name = context.findings, found.values, found.queue.name
    if values.get(_STRATEGY) == "at-least-once" and found.queue.type == "quorum":
        path = found.origin(_STRATEGY)
        falls = "the broker falls back to at most once, with no more than a line in its log"
        if _DLX not in values:
            message = f"at-least-once for '{name}', which has no dead letter: {falls}"
            findings.error(path, "TOP034", message, "give it a dead_letter")
        elif values.get("overflow") != "reject-publish":
            message = f"at-least-once for '{name}', which does not reject when it is full: {falls}"
            findings.error(path, "TOP034", message, "add `limits: {max_length: ..., overflow: reject-publish}`")
        elif "max-length" not in values and "max-length-bytes" not in values:
            message = f"'{name}' keeps its dead letters until they are confirmed, and has no limit"
            findings.warning(path, "TOP034", message, "add a max_length: it fills up while the target is away")
    elif _DLX not in values:
        for key in (_KEY, _STRATEGY):
            if key in values:
                message = f"{key} does nothing for '{name}', which has no dead letter"
                findings.error(found.origin(key), "TOP035", message, "give it a dead_letter, or remove this")


def _desk(context: Context, found: Settings) -> None:
    queue = found.queue
    if queue.single_active and queue.type == "quorum" and context.topology.is_dead_letter(queue.name):
        message = (
            f"'{queue.name}' takes dead letters, and `amqpq dlq` reads them one by one (basic.get): the broker refuses"
        )
        message += " that for a quorum queue with single_active"
        path = ("queues", queue.name, "single_active")
        context.findings.error(path, "TOP045", message, "remove single_active, or make it a classic queue")


def _delayed_retry(context: Context, found: Settings) -> None:
    kind = found.values.get("delayed-retry-type")
    if kind in {None, "disabled"}:
        return
    path = found.origin("delayed-retry-type")
    if kind in {"all", "returned"}:
        message = f"what a worker gives back unbegun to '{found.queue.name}' waits, too, with delayed-retry-type {kind}"
        context.findings.warning(path, "TOP055", message, "write failed, or leave waiting to `retries`")
    elif context.topology.delays is not None:
        message = (
            f"tasks of '{found.queue.name}' that failed wait in the delay ladder, and the broker never sees them fail"
        )
        context.findings.warning(path, "TOP055", message, "use one of the two")


def _targets(context: Context, found: Settings, simulator: Router) -> frozenset[str]:
    """Return the queues that the dead letters of a queue reach; note it where there are none."""
    values, name = found.values, found.queue.name
    exchange, key = values.get(_DLX), values.get(_KEY)
    if not isinstance(exchange, str):
        return frozenset()
    # Without a key of its own a dead letter keeps the routing keys it came with: any that reach the queue. Only what goes
    # nowhere whatever the key is can be told then.
    path = found.origin(_DLX)
    if exchange and exchange not in context.topology.exchanges:
        message = f"the dead letters of '{name}' go to the exchange '{exchange}', which the file does not have"
        context.findings.error(path, "TOP049", message, "the broker drops them without a word: declare it")
        return frozenset()
    if exchange and context.foreign(exchange):
        return frozenset()
    if key is None and (not exchange or context.topology.exchanges[exchange].type != "fanout"):
        return frozenset()
    try:
        reached = simulator.route(exchange, str(key or "")).queues
    except LocalError:
        return frozenset()
    if not reached:
        message = f"the dead letters of '{name}' reach no queue ('{exchange}', key '{key}') and are dropped"
        context.findings.error(path, "TOP049", message, "bind a queue, or correct the key")
    return reached


def _tell(context: Context, names: list[str], members: list[Settings]) -> None:
    way = " -> ".join(names)
    path = members[0].origin(_DLX)
    if all(_by_itself(member) for member in members):
        message = f"dead letters go in a circle: {way}; what comes round without having been rejected is dropped"
        context.findings.error(path, "TOP050", message, "let one of them lead elsewhere")
    else:
        message = f"dead letters go in a circle: {way}; what is rejected goes round for ever"
        context.findings.warning(path, "TOP051", message, "let one of them lead elsewhere, or count the rounds")


def _by_itself(member: Settings) -> bool:
    """Whether the broker itself makes dead letters there: by time, length or number of deliveries."""
    keys = {"message-ttl", "max-length", "max-length-bytes", "delivery-limit"}
    return bool(keys & member.values.keys()) or member.queue.type == "quorum"
