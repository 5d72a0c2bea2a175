"""What the properties of one queue or exchange need in order to become as the file says. Pure.

Type, durability, priorities and the single active consumer never change on an object that exists. What a policy can say
(`amqpq.topology.effective`) can be made to hold by a policy, unless an argument stands against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from amqpq.provision.changes import Action, Detail
from amqpq.provision.observed import SeenPolicy
from amqpq.topology.effective import (
    ALTERNATE,
    FOR_LIFE,
    LIMITS_LIVE_SINCE,
    NEWEST,
    RULES,
    Effective,
    applied,
    combine,
    effective,
    policy_can,
    policy_key,
    rule_of,
)
from amqpq.topology.units import age_seconds
from amqpq.topology.versions import Version
from amqpq.types import ExchangeSpec, QueueSpec

QUEUE_TYPE: Final = "x-queue-type"

_PLACEMENT: Final = frozenset(
    {"x-queue-leader-locator", "x-queue-master-locator", "x-quorum-initial-group-size", "x-initial-cluster-size"}
)
_OBSOLETE: Final = frozenset({"x-queue-mode", "x-queue-version"})
_AGE: Final = "x-max-age"
_AGES_READ_SINCE: Final[Version] = (4, 3, 0)
"""Since then `1D` and `24h` are the same age (`transport.inequivalent`)."""


def of_queue(
    wanted: QueueSpec,
    seen: QueueSpec,
    policies: Sequence[SeenPolicy] | None,
    operators: Sequence[SeenPolicy] | None,
    *,
    whole: bool = True,
    version: Version = NEWEST,
) -> tuple[Detail, ...]:
    """Return each property that differs, with what it forces.

    Args:
        wanted: As the file says.
        seen: As the broker has it.
        policies: User policies as they will be; None where they cannot be seen.
        operators: Operator policies.
        whole: Whether all arguments were seen, or only those that the broker compares.
        version: The broker's.
    """
    return tuple(_queue_details(wanted, seen, policies, operators, whole=whole, version=version))


def _queue_details(
    wanted: QueueSpec,
    seen: QueueSpec,
    policies: Sequence[SeenPolicy] | None,
    operators: Sequence[SeenPolicy] | None,
    *,
    whole: bool,
    version: Version,
) -> Iterator[Detail]:
    kind = kind_of(seen)
    for key in ("durable", "auto_delete", "exclusive"):
        has, wants = getattr(seen, key), getattr(wanted, key)
        if has != wants:
            yield Detail(key, has, wants, Action.MIGRATE, "holds for the life of a queue")
    names = [*wanted.arguments, *(name for name in seen.arguments if name not in wanted.arguments)]
    moves = kind_of(wanted) != kind
    for name in names:
        before, after = seen.arguments.get(name), wanted.arguments.get(name)
        if _alike(name, before, after, version) or (name == QUEUE_TYPE and not moves):
            continue
        if name in FOR_LIFE:
            yield Detail(name, before, after, Action.MIGRATE, "holds for the life of a queue")
        elif moves:
            continue  # the new queue gets it
        elif name in _PLACEMENT:
            yield Detail(name, before, after, Action.INFO, "says only where a new queue is placed")
        elif name in _OBSOLETE:
            yield Detail(name, before, after, Action.INFO, "has no effect any more")
        elif (kind, policy_key(name)) in RULES:
            by_policy = _says(kind, seen.name, policy_key(name), policies, operators)
            yield _tunable(kind, name, before, after, by_policy, version=version)
        elif whole:
            yield Detail(name, before, after, Action.INFO, "the broker keeps it and never looks at it")


def _alike(name: str, before: Any, after: Any, version: Version) -> bool:
    if name == _AGE and before and after and version >= _AGES_READ_SINCE:
        return age_seconds(before) == age_seconds(after)
    return _same(before, after)


def kind_of(queue: QueueSpec) -> str:
    """Return the type of a queue; without the argument it is classic."""
    return str(queue.arguments.get(QUEUE_TYPE, "classic"))


def _tunable(kind: str, name: str, before: Any, after: Any, by_policy: Effective | None, *, version: Version) -> Detail:
    key = policy_key(name)
    holds, would = (combine(kind, key, value, by_policy, version=version) for value in (before, after))
    if by_policy is not None and _value(holds) == _value(would):
        note = f"what holds is the same, by {by_policy.source}"
        return Detail(name, before, after, Action.INFO, note)
    if policy_can(kind, key, before, after, version=version):
        return Detail(name, before, after, Action.POLICY, f"a policy with {key}: {after!r} makes it hold")
    if key == "delivery-limit" and version < LIMITS_LIVE_SINCE:
        note = "before RabbitMQ 4.3 a policy does not change it on a queue that exists"
        return Detail(name, before, after, Action.MIGRATE, note)
    why = (
        "an argument can be tightened by a policy, never loosened"
        if rule_of(kind, key, version) == "least"
        else "the argument wins"
    )
    return Detail(name, before, after, Action.MIGRATE, why)


def _says(
    kind: str, name: str, key: str, policies: Sequence[SeenPolicy] | None, operators: Sequence[SeenPolicy] | None
) -> Effective | None:
    """Return what the policies say of a key, whatever the argument."""
    user, operator = applied(policies or (), kind, name).policy, applied(operators or (), kind, name).policy
    return effective(kind, {}, user, operator).get(key)


_HASHED_BY: Final = frozenset({"hash-header", "hash-property"})
"""What a consistent-hash exchange looks at; the broker does not compare it (`assert_args_equivalence`)."""


def of_exchange(
    wanted: ExchangeSpec, seen: ExchangeSpec, policies: Sequence[SeenPolicy] | None, *, whole: bool = True
) -> tuple[Detail, ...]:
    """Return each property of an exchange that differs, with what it forces."""
    details = [
        Detail(key, before, after, Action.REPLACE, "holds for the life of an exchange")
        for key, before, after in (
            ("type", seen.type, wanted.type),
            ("durable", seen.durable, wanted.durable),
            ("auto_delete", seen.auto_delete, wanted.auto_delete),
            ("internal", seen.internal, wanted.internal),
        )
        if before != after
    ]
    names = [*wanted.arguments, *(name for name in seen.arguments if name not in wanted.arguments)]
    for name in names:
        before, after = seen.arguments.get(name), wanted.arguments.get(name)
        if _same(before, after):
            continue
        if name == ALTERNATE:
            by_policy = _says("exchange", seen.name, ALTERNATE, policies, None)
            if before is None and by_policy is not None and by_policy.value == after:
                details.append(
                    Detail(name, before, after, Action.INFO, f"what holds is the same, by {by_policy.source}")
                )
            elif before is None:
                note = f"a policy with {ALTERNATE}: {after} makes it hold"
                details.append(Detail(name, before, after, Action.POLICY, note))
            else:
                details.append(Detail(name, before, after, Action.REPLACE, "the argument wins over any policy"))
        elif name in _HASHED_BY:
            details.append(Detail(name, before, after, Action.REPLACE, "with another one keys change their partitions"))
        elif whole:
            details.append(Detail(name, before, after, Action.INFO, "the broker keeps it and never compares it"))
    return tuple(details)


def overruled(
    kind: str,
    name: str,
    arguments: Any,
    own: Sequence[SeenPolicy],
    policies: Sequence[SeenPolicy],
    operators: Sequence[SeenPolicy],
    *,
    version: Version = NEWEST,
) -> Iterator[tuple[str, Any, Effective]]:
    """Find what holds otherwise than the file alone says: key, the file's value, what holds and by whom.

    Args:
        kind: `exchange`, or the type of the queue.
        name: Of the object.
        arguments: As the file says.
        own: The policies of the file.
        policies: All user policies, as they will be.
        operators: All operator policies.
        version: The broker's.
    """
    says = effective(kind, arguments, applied(own, kind, name).policy, None, version=version)
    user, operator = applied(policies, kind, name).policy, applied(operators, kind, name).policy
    holds = effective(kind, arguments, user, operator, version=version)
    for key in dict.fromkeys([*says, *holds]):
        value, real = says.get(key), holds.get(key)
        if real is None:
            # Said by a policy of ours that another one keeps from applying.
            shadow = applied(policies, kind, name).policy
            yield key, _value(value), Effective(None, f"policy {shadow.name}" if shadow else "nobody")
        elif not _same(_value(value), real.value):
            yield key, _value(value), real


def _value(found: Effective | None) -> Any:
    return None if found is None else found.value


def _same(left: object, right: object) -> bool:
    """Compare as the broker does: 1 is neither "1" nor true."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)
