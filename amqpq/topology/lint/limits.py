"""Limits on tasks: those that say nothing or two things, that cannot be kept, or that no task meets."""

from __future__ import annotations

from functools import lru_cache

from amqpq.topology.build import is_whole
from amqpq.topology.document import TaskLimitPart
from amqpq.topology.lint.context import Context
from amqpq.topology.lint.names import NAME_LIMIT_BYTES
from amqpq.topology.model import TaskLimit
from amqpq.topology.permits import LONGEST_HOLD_SECONDS, hold_of, queues_of
from amqpq.topology.problems import Path


def check(context: Context) -> None:
    """Run the rules on limits."""
    for pattern, part in context.file.limits.items():
        path: Path = ("limits", pattern)
        if path not in context.findings.unknown and not any(p[:2] == path for p in context.findings.unknown):
            _shape(context, path, part)
    for limit in context.topology.limits:
        _kept(context, ("limits", limit.pattern), limit)
    _met(context)
    _twice(context)


def _shape(context: Context, path: Path, part: TaskLimitPart) -> None:
    error = context.findings.error
    if not is_whole(part):
        what = "neither a rate nor a concurrency" if part.rate is None else "both a rate and a concurrency"
        error(path, "TOP076", f"the limit '{path[1]}' says {what}", "write one: `{rate: 100/m}` or `{concurrency: 3}`")
    if part.key is not None and part.rate is not None:
        message = "a rate for each value of an argument is not to be had"
        error((*path, "key"), "TOP076", message, "use `concurrency` with `key`, or a rate without")
    if part.slots is not None and part.key is None:
        error((*path, "slots"), "TOP076", "slots are for the values of a key, and there is none", "add `key: ARGUMENT`")
    if part.key is not None and "pickle" in context.file.messages.accept:
        message = "to find the key, the worker's own process reads the arguments, and it never loads a pickle"
        error((*path, "key"), "TOP076", message, "take pickle out of messages.accept, or remove the key")


def _kept(context: Context, path: Path, limit: TaskLimit) -> None:
    if limit.rate is not None and hold_of(limit.rate)[1] > LONGEST_HOLD_SECONDS:
        message = f"{limit.rate} is too slow: a permit would be held longer than the broker lets one"
        context.findings.error((*path, "rate"), "TOP076", message, "from 3/h on; for slower ones use a schedule")
    longest = max(queues_of(context.topology.project, limit), key=len)
    if len(longest.encode()) > NAME_LIMIT_BYTES:
        message = f"the name of its permit queue, '{longest[:40]}...', has more than {NAME_LIMIT_BYTES} bytes"
        context.findings.error(path, "TOP006", message, "use a shorter pattern, with a *")


def _met(context: Context) -> None:
    patterns = [route.pattern for route in context.topology.routes]
    for limit in context.topology.limits:
        if not any(overlap(limit.pattern, pattern) for pattern in patterns):
            message = f"no route is for a task that '{limit.pattern}' matches"
            context.findings.warning(("limits", limit.pattern), "TOP077", message, "see `routes:`; is it a typo?")


def _twice(context: Context) -> None:
    """Find patterns that share tasks: the first one counts, and the tasks do not count in the other."""
    seen: list[TaskLimit] = []
    for limit in context.topology.limits:
        if "*" not in limit.pattern:
            continue  # an exact name counts before every pattern, which is how one task is taken out of one
        other = next((other for other in seen if overlap(other.pattern, limit.pattern)), None)
        if other is not None:
            message = f"'{limit.pattern}' and '{other.pattern}' match the same tasks; for those, the first one counts"
            context.findings.warning(("limits", limit.pattern), "TOP078", message, "make them exclude each other")
        seen.append(limit)


@lru_cache(maxsize=4096)
def overlap(left: str, right: str) -> bool:
    """Whether some task name matches both patterns."""
    if not left or not right:
        return not (left or right).replace("*", "")
    if left[0] == "*":
        return overlap(left[1:], right) or overlap(left, right[1:])
    if right[0] == "*":
        return overlap(left, right[1:]) or overlap(left[1:], right)
    return left[0] == right[0] and overlap(left[1:], right[1:])
