"""References: everything that is named must exist, and be what it is taken for."""

from __future__ import annotations

from collections.abc import Iterable

from amqpq.topology.lint.context import Context
from amqpq.topology.model import did_you_mean
from amqpq.topology.problems import Path


def check(context: Context) -> bool:
    """Run the rules on references.

    Returns:
        Whether the wiring is whole: every exchange, queue and binding could be read, and none leads nowhere.
    """
    before = sum(problem.severity == "error" for problem in context.findings.problems)
    _exchanges(context)
    _bindings(context)
    errors = sum(problem.severity == "error" for problem in context.findings.problems) - before
    _dead_letters(context)
    _routes(context)
    unread = {path[0] for path in context.findings.unknown if path}
    return not errors and not unread & {"exchanges", "queues", "bindings"}


def _missing(context: Context, path: Path, kind: str, name: str, known: Iterable[str]) -> None:
    words = list(known)
    near = did_you_mean(name, words)
    section = {"exchange": "exchanges", "queue": "queues", "dead letter": "dead_letters"}[kind]
    remedy = "" if near else f"declare it under `{section}:`"
    context.findings.error(path, "TOP013", f"there is no {kind} '{name}'{near}", remedy)


def _exchanges(context: Context) -> None:
    for name, part in context.file.exchanges.items():
        if part.unrouted is not None and part.unrouted not in context.file.exchanges:
            _missing(context, ("exchanges", name, "unrouted"), "exchange", part.unrouted, context.file.exchanges)


def _bindings(context: Context) -> None:
    exchanges, queues = context.file.exchanges, context.topology.queues
    seen: dict[str, int] = {}
    for path, part, binding in context.bindings():
        findings = context.findings
        if part.from_ == "":
            message = "the default exchange cannot be bound from"
            findings.error(path, "TOP014", message, "every queue is bound to it by its name already")
        elif part.from_ not in exchanges:
            _missing(context, path, "exchange", part.from_, exchanges)
        if part.to == "":
            findings.error(
                path, "TOP014", "the default exchange cannot be bound to", "name a queue or another exchange"
            )
        elif part.as_ == "exchange" and part.to not in exchanges:
            _missing(context, path, "exchange", part.to, exchanges)
        elif part.as_ == "queue" and part.to not in queues:
            _missing(context, path, "queue", part.to, queues)
        elif part.to not in exchanges and part.to not in queues:
            near = did_you_mean(part.to, [*queues, *exchanges])
            message = f"the binding leads nowhere: there is no queue and no exchange '{part.to}'{near}"
            findings.error(path, "TOP013", message, "" if near else "declare it under `queues:` or `exchanges:`")
        identity = repr((binding.source, binding.target, binding.to_exchange, binding.key, dict(binding.arguments)))
        if identity in seen:
            where = findings.place(("bindings", seen[identity]))
            findings.error(
                path, "TOP012", f"this binding is written twice; the first is at line {where.line}", "remove one"
            )
        seen.setdefault(identity, int(path[1]))


def _dead_letters(context: Context) -> None:
    file = context.file
    node = context.findings.root.at(("dead_letters",))
    declared = list(node.value) if node is not None and isinstance(node.value, dict) else []
    targets = {part.queue for part in file.dead_letters.values()}
    for name in file.dead_letters:
        if name == "none":
            message = "'none' means that dead letters are dropped; it cannot be a name"
            context.findings.error(("dead_letters", name), "TOP013", message, "choose another name")
    for name, part in file.queues.items():
        path = ("queues", name, "dead_letter")
        if part.dead_letter is None or part.dead_letter == "none":
            continue
        if part.dead_letter not in declared:
            near = did_you_mean(part.dead_letter, [*declared, "none"])
            message = f"there is no dead letter '{part.dead_letter}'{near}"
            remedy = f"add `dead_letters: {{{part.dead_letter}: {{queue: {part.dead_letter}}}}}`"
            context.findings.error(path, "TOP013", message, "" if near else remedy)
        if name in targets:
            message = f"'{name}' takes dead letters itself, and so can have none of its own"
            context.findings.error(path, "TOP050", message, "remove `dead_letter`")
    for name, letter in file.dead_letters.items():
        queue = context.topology.queues.get(letter.queue)
        if queue is not None and queue.type == "stream":
            message = (
                f"'{letter.queue}' is a stream; dead letters belong into a queue, from which they can be taken back"
            )
            context.findings.error(("dead_letters", name, "queue"), "TOP049", message, "use a classic or quorum queue")


def _routes(context: Context) -> None:
    for pattern, part in context.file.routes.items():
        path: Path = ("routes", pattern)
        spread = (
            part.queue is not None and part.queue in context.file.queues and context.file.queues[part.queue].partitions
        )
        if part.queue is not None and (part.exchange is not None or (part.key is not None and not spread)):
            message = f"the route '{pattern}' names a queue and an exchange or key as well"
            context.findings.error(
                path, "TOP001", message, "`queue` goes alone: it is the default exchange with that key"
            )
        elif part.queue is None and not part.exchange:
            message = f"the route '{pattern}' says not where to publish"
            context.findings.error(path, "TOP001", message, "give it `exchange` and `key`, or `queue`")
        if part.queue is not None and part.queue not in context.topology.queues:
            _missing(context, (*path, "queue"), "queue", part.queue, context.topology.queues)
        if part.exchange and part.exchange not in context.file.exchanges:
            _missing(context, (*path, "exchange"), "exchange", part.exchange, context.file.exchanges)
        elif part.exchange and context.file.exchanges[part.exchange].internal:
            message = f"the exchange '{part.exchange}' is internal: the broker refuses what is published to it"
            context.findings.error((*path, "exchange"), "TOP014", message, "publish to an exchange that is bound to it")
