"""Checks, and the permissions they are about: whether each says one thing, of objects that exist."""

from __future__ import annotations

from collections.abc import Iterable

from amqpq.errors import LocalError, NoRoute
from amqpq.topology import permissions
from amqpq.topology.document_checks import CheckPart, ExpirePart, FailPart, PermissionCheckPart, PublishPart
from amqpq.topology.expected import WORDS, PermissionCheck
from amqpq.topology.lint.context import Context
from amqpq.topology.model import did_you_mean
from amqpq.topology.problems import Path

_KINDS = ("publish", "fail", "expire", "permission")
_GOES_WITH = {
    "reaches": ("publish",),
    "exactly": ("publish", "permission"),
    "ends_in": ("fail", "expire"),
    "within": ("fail",),
}
_NEEDS = {"publish": "reaches", "fail": "ends_in", "expire": "ends_in"}


def check(context: Context) -> None:
    """Run the rules on checks and permissions."""
    for index, part in enumerate(context.file.checks):
        path: Path = ("checks", index)
        if path in context.findings.unknown:
            continue
        kinds = [kind for kind in _KINDS if getattr(part, kind) is not None]
        if len(kinds) != 1:
            message = "a check is about one thing: publish, fail, expire or permission"
            context.findings.error(path, "TOP001", message, "write one of the four, and a check of its own for another")
            continue
        _keys(context, path, part, kinds[0])
        if part.publish is not None:
            _publish(context, path, part.publish, part.reaches or [])
        if part.fail is not None:
            _message(context, (*path, "fail"), part.fail)
        if part.expire is not None:
            _message(context, (*path, "expire"), part.expire)
        if part.permission is not None:
            _permission(context, (*path, "permission"), part.permission)
        _ends(context, path, part)
    _permissions(context)


def check_tasks(context: Context) -> None:
    """See that the tasks of checks have routes, and all that these need for their keys; where the wiring is whole."""
    indices = [index for index, part in enumerate(context.file.checks) if _is_whole(part)]
    for index, check_ in zip(indices, context.topology.checks, strict=True):
        if isinstance(check_, PermissionCheck) or check_.task is None:
            continue
        kind = next(kind for kind in _KINDS if getattr(context.file.checks[index], kind) is not None)
        try:
            context.topology.route_for(check_.task).routing_key(check_.task, check_.arguments)
        except NoRoute as error:
            context.findings.error(("checks", index, kind, "task"), "TOP013", str(error))
        except LocalError as error:
            context.findings.error(("checks", index, kind), "TOP013", str(error), "add it under `with:`")


def _is_whole(part: CheckPart) -> bool:
    return any(getattr(part, kind) is not None for kind in _KINDS)


def _keys(context: Context, path: Path, part: CheckPart, kind: str) -> None:
    """See that what is expected fits what is checked."""
    for key, kinds in _GOES_WITH.items():
        if kind not in kinds and key in part.model_fields_set:
            message = f"`{key}` goes with {' and '.join(kinds)}, not with {kind}"
            context.findings.error((*path, key), "TOP001", message, "remove it")
    needed = _NEEDS.get(kind)
    if needed is not None and getattr(part, needed) is None:
        message = f"the check does not say what is expected: it lacks the key '{needed}'"
        context.findings.error(path, "TOP001", message, f"add `{needed}: [...]`")


def _missing(context: Context, path: Path, kind: str, name: str, known: Iterable[str]) -> None:
    words = list(known)
    near = did_you_mean(name, words)
    section = {"exchange": "exchanges", "queue": "queues"}[kind]
    remedy = "" if near else f"declare it under `{section}:`"
    context.findings.error(path, "TOP013", f"there is no {kind} '{name}'{near}", remedy)


def _publish(context: Context, path: Path, publish: PublishPart, reaches: list[str]) -> None:
    if (publish.task is None) == (publish.exchange is None):
        message = "a check publishes either a task or to an exchange"
        context.findings.error(
            (*path, "publish"), "TOP001", message, "write `{task: ...}` or `{exchange: ..., key: ...}`"
        )
        return
    if publish.task is not None and (publish.key or publish.headers):
        message = "the key and the headers of a task come from its route"
        context.findings.error((*path, "publish"), "TOP001", message, "remove them, or publish to the exchange")
    if publish.task is None and publish.with_:
        message = "`with` holds the arguments of a task"
        context.findings.error((*path, "publish", "with"), "TOP001", message, "remove it")
    if publish.exchange and publish.exchange not in context.file.exchanges:
        _missing(context, (*path, "publish", "exchange"), "exchange", publish.exchange, context.file.exchanges)
    for place, queue in enumerate(reaches):
        if queue not in context.topology.queues:
            _missing(context, (*path, "reaches", place), "queue", queue, context.topology.queues)


def _message(context: Context, path: Path, part: FailPart | ExpirePart) -> None:
    queues = context.topology.queues
    if part.task is None and part.queue is None:
        message = "the check does not say which message"
        context.findings.error(path, "TOP001", message, "write `{task: ...}` or `{queue: ...}`")
    if part.task is None and part.with_:
        context.findings.error((*path, "with"), "TOP001", "`with` holds the arguments of a task", "remove it")
    if part.queue is not None and part.queue not in queues:
        _missing(context, (*path, "queue"), "queue", part.queue, queues)
    elif part.queue is not None and queues[part.queue].type == "stream":
        message = f"'{part.queue}' is a stream, which keeps what was read, and has neither dead letters nor a ttl"
        context.findings.error((*path, "queue"), "TOP030", message, "name a classic or quorum queue")


def _ends(context: Context, path: Path, part: CheckPart) -> None:
    queues = context.topology.queues
    for name in part.ends_in or []:
        if name in WORDS and name in queues:
            message = f"'{name}' is a word here, and the name of a queue"
            context.findings.error((*path, "ends_in"), "TOP013", message, "give the queue another name")
        elif name not in WORDS and name not in queues:
            near = did_you_mean(name, [*queues, *WORDS])
            message = f"there is no queue '{name}'{near}"
            context.findings.error((*path, "ends_in"), "TOP013", message, "" if near else "declare it under `queues:`")
    if part.ends_in is not None and not part.ends_in:
        remedy = "write `nowhere` for a message that is dropped"
        context.findings.error((*path, "ends_in"), "TOP001", "ends_in is empty", remedy)


def _permission(context: Context, path: Path, part: PermissionCheckPart) -> None:
    users = context.file.security.permissions
    if part.user not in users:
        near = did_you_mean(part.user, users)
        message = f"security.permissions has no user '{part.user}'{near}"
        remedy = "" if near else "add it there: {configure: ..., write: ..., read: ...}"
        context.findings.error((*path, "user"), "TOP013", message, remedy)
    exchange, queue = part.object in context.file.exchanges or not part.object, part.object in context.topology.queues
    if not exchange and not queue:
        near = did_you_mean(part.object, [*context.file.exchanges, *context.topology.queues])
        message = f"there is no exchange and no queue '{part.object}'{near}"
        context.findings.error((*path, "object"), "TOP013", message, "" if near else "declare it")
        return
    if "publish" in part.may and not exchange:
        message = f"'{part.object}' is a queue, and messages are published to exchanges"
        remedy = "name the exchange; straight into queues goes what is published to the default one, `object: ''`"
        context.findings.error((*path, "may"), "TOP013", message, remedy)
    if "consume" in part.may and not queue:
        shown = f"'{part.object}'" if part.object else "the default exchange"
        message = f"{shown} is an exchange, and messages are consumed from queues"
        context.findings.error((*path, "may"), "TOP013", message, "name the queue")


def _permissions(context: Context) -> None:
    """See that patterns can be read here as the broker does, and grant no more than they seem to."""
    for user, part in context.file.security.permissions.items():
        for right in ("configure", "write", "read"):
            pattern: str = getattr(part, right)
            path: Path = ("security", "permissions", user, right)
            problem = permissions.problem(pattern)
            if problem is not None:
                message = f"the pattern '{pattern}': {problem}"
                context.findings.error(path, "TOP069", message, "write it with plainer means")
            elif pattern and pattern != ".*" and not (pattern.startswith("^") and pattern.endswith("$")):
                message = f"the pattern '{pattern}' also grants every name in which it occurs somewhere"
                context.findings.warning(path, "TOP069", message, f"anchor it: '^({pattern})$'")
