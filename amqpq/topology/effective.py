"""What holds for a queue or an exchange when its arguments, a policy and an operator policy all say something. Pure.

The rules were read in RabbitMQ 4.3.5 (`rabbit_policy`, `rabbit_classic_queue`, `rabbit_quorum_queue`, `rabbit_stream_queue`):

* At most one user policy applies to an object: of those whose pattern is found in its name (not anchored), whose `apply-to`
  fits and which hold no key that its type does not know, the one with the highest priority. One operator policy likewise.
* Time to live, expiry and lengths: the lesser of argument and policy. So an argument can be tightened and never loosened. But
  on RabbitMQ 3.x the `expires` of a quorum queue is the policy's, even where it is longer (measured on 3.10.8).
* Dead-letter exchange, key and strategy: the argument. `overflow`: the argument on classic queues, the policy on quorum queues.
* `delivery-limit`: the lesser; the greater where one is negative (which is: none).
* Streams: the policy. `alternate-exchange`: the argument.
* Operator policy against user policy: the lesser; for `overflow` the operator's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from amqpq.topology.versions import Version
from amqpq.types import Table

Rule: TypeAlias = Literal["least", "argument", "policy", "limit"]


class AnyPolicy(Protocol):
    """A policy of the file, or one that was seen."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def pattern(self) -> str:
        """Is found in the names of the objects it is for."""

    @property
    def apply_to(self) -> str:
        """Which kinds of objects it is for."""

    @property
    def priority(self) -> int:
        """The highest one that fits applies."""

    @property
    def definition(self) -> Table:
        """Its keys and values."""


P = TypeVar("P", bound=AnyPolicy)

ALTERNATE: Final = "alternate-exchange"

_BOTH: Final = ("classic", "quorum")
_LEAST: Final = ("message-ttl", "expires", "max-length", "max-length-bytes")

RULES: Final[Mapping[tuple[str, str], Rule]] = {
    **{(kind, key): "least" for kind in _BOTH for key in _LEAST},
    **{(kind, key): "argument" for kind in _BOTH for key in ("dead-letter-exchange", "dead-letter-routing-key")},
    ("classic", "overflow"): "argument",
    ("quorum", "overflow"): "policy",
    ("quorum", "dead-letter-strategy"): "argument",
    ("quorum", "delivery-limit"): "limit",
    ("quorum", "delayed-retry-type"): "policy",
    ("quorum", "delayed-retry-min"): "least",
    ("quorum", "delayed-retry-max"): "least",
    ("quorum", "consumer-disconnected-timeout"): "least",
    ("stream", "max-length-bytes"): "policy",
    ("stream", "max-age"): "policy",
    ("exchange", ALTERNATE): "argument",
}
"""By type and policy key: who wins."""
FOR_LIFE: Final = frozenset(
    {
        "x-queue-type",
        "x-max-priority",
        "x-single-active-consumer",
        "x-stream-max-segment-size-bytes",
        "x-stream-filter-size-bytes",
        "x-consumer-timeout",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
    }
)
"""Arguments that no policy changes on a queue that exists (the consumer timeout: not by any rule that was measured)."""
NEWEST: Final[Version] = (4, 3, 0)
TYPED_SINCE: Final[Version] = (3, 12, 0)
"""The first version whose policies tell types of queues apart (release notes of 3.12.0)."""
LIMITS_LIVE_SINCE: Final[Version] = (4, 3, 0)
"""Before, a queue reads its delivery limit when it is declared, and from no policy later (rabbitmq-server #16035)."""
_LEASES_LEAST: Final[Version] = (4, 0, 0)

_HA: Final = frozenset({"ha-mode", "ha-params", "ha-sync-mode", "ha-promote-on-shutdown", "ha-promote-on-failure"})
_STREAM_KEYS: Final = frozenset({"max-age", "stream-max-segment-size-bytes", "initial-cluster-size"})
_QUORUM_KEYS: Final = frozenset(
    {"delivery-limit", "dead-letter-strategy", "max-in-memory-length", "max-in-memory-bytes", "target-group-size"}
)

UNSUPPORTED: Final[Mapping[str, frozenset[str]]] = {
    "classic": _STREAM_KEYS | _QUORUM_KEYS,
    "quorum": _STREAM_KEYS | _HA | {"queue-mode", "queue-master-locator"},
    "stream": _QUORUM_KEYS
    | _HA
    | {"expires", "message-ttl", "dead-letter-exchange", "dead-letter-routing-key", "max-length", "overflow"}
    | {"queue-mode", "queue-master-locator"},
}
"""Keys of which one makes the broker ignore the whole policy for a queue of that type (rabbitmq-server #7350)."""
APPLY_TO: Final = {"classic": "classic_queues", "quorum": "quorum_queues", "stream": "streams"}
"""By type of queue the `apply_to` of a policy for it alone."""


@dataclass(frozen=True, slots=True)
class Applied(Generic[P]):
    """The policy that applies to an object, and the others of its priority, among which the broker's choice is open."""

    policy: P | None
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Effective:
    """A value that holds, and who said it: `argument`, or the name of a policy."""

    value: Any
    source: str


def argument_name(key: str) -> str:
    """Return the argument that says what a policy key says: `max-length` is `x-max-length`."""
    return key if key == ALTERNATE else f"x-{key}"


def policy_key(argument: str) -> str:
    """Return the policy key of an argument."""
    return argument.removeprefix("x-")


def generated_prefix(project: str) -> str:
    """Return how the names of a project's generated policies begin; a number follows."""
    return f"amqpq.{project}."


def is_generated(project: str, name: str) -> bool:
    """Whether a policy of that name is one that was generated for the project."""
    prefix = generated_prefix(project)
    return name.startswith(prefix) and name.removeprefix(prefix).isdecimal()


def applied(policies: Iterable[P], kind: str, name: str) -> Applied[P]:
    """Return which policy applies.

    Args:
        policies: All of the virtual host; user policies or operator policies.
        kind: `exchange`, or the type of a queue.
        name: Of the object.
    """
    fitting = [policy for policy in policies if takes(policy, kind) and meant_for(policy, kind, name)]
    if not fitting:
        return Applied(None)
    highest = max(policy.priority for policy in fitting)
    first, *rivals = sorted((p for p in fitting if p.priority == highest), key=lambda policy: policy.name)
    return Applied(first, tuple(rival.name for rival in rivals))


def takes(policy: AnyPolicy, kind: str) -> bool:
    """Whether the broker does not skip a policy for objects of a kind because of a key that they do not know."""
    return UNSUPPORTED.get(kind, frozenset()).isdisjoint(policy.definition)


def meant_for(policy: AnyPolicy, kind: str, name: str) -> bool:
    """Whether a policy is meant for an object, by pattern and `apply_to`."""
    fitting = {"all", "exchanges"} if kind == "exchange" else {"all", "queues", APPLY_TO.get(kind)}
    if policy.apply_to not in fitting:
        return False
    pattern = _compiled(policy.pattern)
    return pattern is not None and pattern.search(name) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Compile a pattern; None for what only Erlang's expressions know: the broker refuses what is no expression at all."""
    try:
        return re.compile(pattern)
    except re.error:
        return None


def effective(
    kind: str,
    arguments: Table,
    policy: AnyPolicy | None,
    operator: AnyPolicy | None,
    *,
    version: Version = NEWEST,
) -> dict[str, Effective]:
    """Return what holds, by policy key, for all keys that a policy can say and that somebody says."""
    found: dict[str, Effective] = {}
    for of, key in RULES:
        if of != kind:
            continue
        value = combine(kind, key, arguments.get(argument_name(key)), _merged(key, policy, operator), version=version)
        if value is not None:
            found[key] = value
    return found


def rule_of(kind: str, key: str, version: Version = NEWEST) -> Rule:
    """Return who wins on a broker of that version."""
    if (kind, key) == ("quorum", "expires") and version < _LEASES_LEAST:
        return "policy"
    return RULES.get((kind, key), "policy")


def combine(
    kind: str, key: str, argument: Any, by_policy: Effective | None, *, version: Version = NEWEST
) -> Effective | None:
    """Return what holds where an argument and the policies say something; either may be None."""
    if argument is None:
        return by_policy
    own = Effective(argument, "argument")
    if by_policy is None:
        return own
    rule = rule_of(kind, key, version)
    if rule == "policy":
        return by_policy
    if rule == "argument":
        return own
    both = (own, by_policy)
    if rule == "limit" and any(each.value < 0 for each in both):
        return max(both, key=lambda each: each.value)
    return min(both, key=lambda each: each.value)


def _merged(key: str, policy: AnyPolicy | None, operator: AnyPolicy | None) -> Effective | None:
    both = [
        Effective(each.definition[key], f"{word} {each.name}")
        for each, word in ((policy, "policy"), (operator, "operator policy"))
        if each is not None and key in each.definition
    ]
    if len(both) < 2:  # noqa: PLR2004 - user and operator
        return both[0] if both else None
    user, operators = both
    return operators if key == "overflow" or operators.value < user.value else user


def policy_can(kind: str, key: str, argument: Any, wanted: Any, *, version: Version = NEWEST) -> bool:
    """Whether some policy makes `wanted` hold on an object that has `argument` for good (None: has none).

    `wanted` None is: nothing holds. The broker's own default then; only an object without the argument has that.
    """
    if (kind, key) not in RULES or (key == "delivery-limit" and version < LIMITS_LIVE_SINCE):
        return False
    if wanted is None:
        return argument is None
    found = combine(kind, key, argument, Effective(wanted, "policy"), version=version)
    return found is not None and found.value == wanted
