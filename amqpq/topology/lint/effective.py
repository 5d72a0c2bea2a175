"""What holds for a queue in the end: its arguments and the one policy that applies, put together as the broker does.

At most one policy applies: of those whose pattern is found in the name, whose `apply_to` is for such an object and that hold no
key the type does not support, the one with the highest priority (https://www.rabbitmq.com/docs/policies). Where argument and
policy both say something, it depends on the key which one counts (read in RabbitMQ 4.3.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from amqpq.topology.declarations import queue_spec
from amqpq.topology.delays import ladder
from amqpq.topology.document import PolicyPart
from amqpq.topology.lint.context import Context
from amqpq.topology.lint.settings import UNSUPPORTED
from amqpq.topology.model import Exchange, Queue

LESSER: Final = frozenset({"message-ttl", "expires", "max-length", "max-length-bytes"})
"""Of argument and policy the lesser value counts (for streams the policy's)."""
ARGUMENT_WINS: Final = frozenset({"dead-letter-exchange", "dead-letter-routing-key", "dead-letter-strategy"})
"""The argument counts; for classic queues that of `overflow`, too."""

_KINDS: Final = {"classic_queues": "classic", "quorum_queues": "quorum", "streams": "stream"}
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


def matches(policy: PolicyPart, thing: Queue | Exchange) -> bool:
    """Whether a policy is meant for an object, by pattern and `apply_to`."""
    if isinstance(thing, Exchange):
        kind = policy.apply_to in {"all", "exchanges"}
    else:
        kind = policy.apply_to in {"all", "queues"} or _KINDS.get(policy.apply_to) == thing.type
    if not kind:
        return False
    try:
        pattern = compiled(policy.pattern)
    except re.error:
        return False
    return pattern is not None and pattern.search(thing.name) is not None


def objects(context: Context) -> Iterator[Queue | Exchange]:
    """Walk all that a policy may match: what the file has, what is generated, and the delay ladder."""
    rungs = ladder(context.topology)
    yield from context.topology.exchanges.values()
    yield from rungs.exchanges
    yield from context.topology.queues.values()
    yield from rungs.queues


def settings(context: Context) -> Iterator[Settings]:
    """Walk the queues of the file with what holds for each."""
    ranked = sorted(context.file.policies.items(), key=lambda item: -item[1].priority)
    for queue in context.topology.queues.values():
        if queue.manage == "external":
            continue
        arguments = {key.removeprefix("x-"): value for key, value in queue_spec(queue).arguments.items()}
        name = next((name for name, policy in ranked if matches(policy, queue) and applies(policy, queue)), None)
        definition = context.file.policies[name].definition if name is not None else {}
        values = {
            key: together(queue.type, key, arguments.get(key), definition.get(key)) for key in {*arguments, *definition}
        }
        yield Settings(queue, name, arguments, values)


def applies(policy: PolicyPart, queue: Queue) -> bool:
    """Whether the broker does not skip a policy for a queue because of a key that the type does not support."""
    return not UNSUPPORTED[queue.type] & policy.definition.keys()


def together(kind: str, key: str, argument: Any, policy: Any) -> Any:
    """Return what counts where an argument and a policy say something; None is silence."""
    if argument is None or policy is None:
        return policy if argument is None else argument
    if key in ARGUMENT_WINS or (key == "overflow" and kind == "classic"):
        return argument
    if key == "delivery-limit" and min(argument, policy) < 0:
        return max(argument, policy)
    if (key in LESSER and kind != "stream") or key == "delivery-limit":
        return min(argument, policy)
    return policy
