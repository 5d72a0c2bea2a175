"""What holds for a queue in the end: its arguments and the one policy that applies, put together as the broker does.

The rules are in `amqpq.topology.effective`. Here they are put to the file, before there is a broker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from amqpq.topology.declarations import queue_spec
from amqpq.topology.delays import ladder
from amqpq.topology.effective import Effective, combine, meant_for, takes
from amqpq.topology.lint.context import Context
from amqpq.topology.model import Exchange, Policy, Queue

_NOT_PYTHON = re.compile(r"\(\?(?![:=!<])|\\[KRhHvVXNpP]|\[\[:|[+*?}]\+")
"""What the broker's regular expressions (PCRE) know and Python's do not, or not in the same way."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a queue: by policy key, and which policy (if any) has a part in it."""

    queue: Queue
    policy: str | None
    arguments: Mapping[str, Any]
    values: Mapping[str, Any]

    def origin(self, key: str) -> tuple[str, ...]:
        """Return the path of the part of the file that says a key."""
        if self.policy is not None and key not in self.arguments:
            return ("policies", self.policy, "definition", key)
        if f"x-{key}" in self.queue.extra_arguments:
            return ("queues", self.queue.name, "extra_arguments", f"x-{key}")
        return ("queues", self.queue.name)


@lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str] | None:
    """Compile a policy's pattern; None where Python cannot judge it.

    Raises:
        re.error: It is no regular expression.
    """
    return None if _NOT_PYTHON.search(pattern) else re.compile(pattern)


def matches(policy: Policy, thing: Queue | Exchange) -> bool:
    """Whether a policy is meant for an object; False where Python cannot judge its pattern."""
    try:
        known = compiled(policy.pattern) is not None
    except re.error:
        return False
    return known and meant_for(policy, "exchange" if isinstance(thing, Exchange) else thing.type, thing.name)


def objects(context: Context) -> Iterator[Queue | Exchange]:
    """Walk all that a policy may match: what the file has, what is generated, and the delay ladder."""
    rungs = ladder(context.topology)
    yield from context.topology.exchanges.values()
    yield from rungs.exchanges
    yield from context.topology.queues.values()
    yield from rungs.queues


def settings(context: Context) -> Iterator[Settings]:
    """Walk the queues of the file with what holds for each."""
    ranked = sorted(context.topology.policies.values(), key=lambda policy: -policy.priority)
    for queue in context.topology.queues.values():
        if queue.manage == "external":
            continue
        arguments = {key.removeprefix("x-"): value for key, value in queue_spec(queue).arguments.items()}
        policy = next((each for each in ranked if matches(each, queue) and takes(each, queue.type)), None)
        definition = policy.definition if policy is not None else {}
        values = {}
        for key in {*arguments, *definition}:
            says = Effective(definition[key], "policy") if key in definition else None
            holds = combine(queue.type, key, arguments.get(key), says, version=context.lowest)
            values[key] = None if holds is None else holds.value
        yield Settings(queue, policy.name if policy is not None else None, arguments, values)
