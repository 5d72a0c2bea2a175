"""What differs of policies: those of the file, those that are generated, and those of others that act on what is ours. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from amqpq.provision import properties
from amqpq.provision.carrying import Carried
from amqpq.provision.changes import Action, Change, Detail, Kind
from amqpq.provision.compiling import NO_TAG, TAG, clearing, command
from amqpq.provision.observed import Observed, SeenPolicy
from amqpq.provision.wanted import Wanted
from amqpq.topology.effective import APPLY_TO, TYPED_SINCE, applied, effective
from amqpq.types import Table

_TYPED: Final = frozenset(APPLY_TO.values())


def policies(wanted: Wanted, observed: Observed, carried: Carried) -> Iterator[Change]:
    """Return what has to be done about policies; what is needed no more is told by `removals`."""
    if observed.policies is None:
        because = "policies are read and written over the HTTP API"
        for name in wanted.policies:
            yield Change("policy", name, Action.UNKNOWN, because=because, remedy="set broker.management")
        return
    there = {policy.name: policy for policy in observed.policies}
    for name, policy in wanted.policies.items():
        if policy.apply_to in _TYPED and observed.version < TYPED_SINCE:
            because = f"apply_to: {policy.apply_to} is known from RabbitMQ 3.12 on"
            yield Change("policy", name, Action.FORBIDDEN, because=because, remedy="write `apply_to: queues`")
        elif (change := _change(policy, there.get(name))) is not None:
            yield _with_loss(change, policy, carried, observed)
    for generated in carried.generated:
        change = _change(generated.policy, there.get(generated.policy.name))
        if change is None:
            continue
        if observed.may_write_policies is False:
            remedy = f"`{command(observed.vhost, generated.policy)}`, or {TAG}"
            yield replace(change, action=Action.FORBIDDEN, because=_and(change.because, NO_TAG), remedy=remedy)
        else:
            yield _with_loss(change, generated.policy, carried, observed)
    for policy in carried.left:
        because = "nothing needs it any more, and the manifest does not have it"
        remedy = f"`{clearing(observed.vhost, policy.name)}`"
        yield Change("policy", policy.name, Action.FOREIGN, because=because, remedy=remedy)


def _change(policy: SeenPolicy, seen: SeenPolicy | None) -> Change | None:
    if seen is None:
        details = tuple(Detail(key, None, value, Action.CREATE) for key, value in policy.definition.items())
        return Change("policy", policy.name, Action.CREATE, details, because=f"on {policy.pattern}")
    if seen == policy:
        return None
    details = tuple(
        Detail(key, before, after, Action.CHANGE)
        for key, before, after in _properties(seen, policy)
        if before != after or isinstance(before, bool) != isinstance(after, bool)
    )
    return Change("policy", policy.name, Action.CHANGE, details)


def _properties(seen: SeenPolicy, wanted: SeenPolicy) -> Iterator[tuple[str, object, object]]:
    for key in ("pattern", "apply_to", "priority"):
        yield key, getattr(seen, key), getattr(wanted, key)
    for key in dict.fromkeys([*seen.definition, *wanted.definition]):
        yield key, seen.definition.get(key), wanted.definition.get(key)


def _with_loss(change: Change, policy: SeenPolicy, carried: Carried, observed: Observed) -> Change:
    """Count the messages that a policy drops when it comes to hold."""
    lost, where = 0, []
    for name, seen in observed.queues.items():
        if not seen.ready or applied(carried.to_be or (), seen.type, name).policy != policy:
            continue
        over = _dropped(policy, name, seen.ready, observed)
        if over:
            lost += over
            where.append(f"{name} holds {seen.ready}")
    if not lost:
        return change
    told = f"{', '.join(where)}: up to {lost} of them are dropped"
    return replace(change, because=_and(change.because, told), risk="loss", may_lose=lost)


def _and(because: str, more: str) -> str:
    return f"{because}; {more}" if because else more


def _dropped(policy: SeenPolicy, name: str, ready: int, observed: Observed) -> int:
    """Count what is over a length, and all under a time to live; none where its dead letters go somewhere."""
    seen = observed.queues[name]
    before = applied(observed.policies or (), seen.type, name).policy
    operator = applied(observed.operator_policies or (), seen.type, name).policy
    now, then = (
        {
            key: found.value
            for key, found in effective(
                seen.type, seen.spec.arguments, each, operator, version=observed.version
            ).items()
        }
        for each in (before, policy)
    )
    if "dead-letter-exchange" in then:
        return 0
    lost = 0
    if "message-ttl" in then and then["message-ttl"] < now.get("message-ttl", float("inf")):
        lost = ready
    if _refuses_when_full(seen.type, then.get("overflow")):
        return lost
    if "max-length" in then and then["max-length"] < now.get("max-length", float("inf")):
        lost = max(lost, ready - int(then["max-length"]))
    return lost


def _refuses_when_full(kind: str, overflow: object) -> bool:
    """Whether a queue that is too long takes no more, and keeps what it has.

    `reject-publish-dlx` on a quorum queue drops the oldest (tests/integration/broker_facts/test_fact_refused.py).
    """
    return overflow == "reject-publish" or (overflow == "reject-publish-dlx" and kind == "classic")


def overruled(wanted: Wanted, observed: Observed, carried: Carried) -> Iterator[Change]:
    """Find what a policy that is not ours makes of our queues and exchanges."""
    if observed.policies is None:
        return
    to_be, operators = carried.to_be or (), observed.operator_policies or ()
    own = tuple(wanted.policies.values())
    objects: list[tuple[Kind, str, str, Table]] = [
        *(("queue", properties.kind_of(spec), spec.name, spec.arguments) for spec in wanted.queues.values()),
        *(("exchange", "exchange", spec.name, spec.arguments) for spec in wanted.exchanges.values()),
    ]
    said = {f"policy {each.policy.name}" for each in carried.generated}
    for word, kind, name, arguments in objects:
        if word == "queue" and name in observed.queues and observed.queues[name].type != kind:
            continue  # it has to move first
        for key, says, holds in properties.overruled(
            kind, name, arguments, own, to_be, operators, version=observed.version
        ):
            operator = holds.source.startswith("operator")
            source = holds.source
            if source in said and (hidden := applied(carried.others or (), kind, name).policy) is not None:
                source = f"policy {hidden.name}, taken over by {holds.source.removeprefix('policy ')},"
            detail = Detail(key, holds.value, says, Action.ADMIN if operator else Action.FOREIGN)
            remedy = (
                "the broker's administrator changes it, or write this value into the file"
                if operator
                else "give a policy of yours a higher priority and all its keys, or agree with its owner"
            )
            because = f"{source} makes {key} {_shown(holds.value)} (the file: {_shown(says)})"
            yield Change(word, name, detail.action, (detail,), because, remedy)
        rivals = applied(to_be, kind, name).rivals
        if rivals:
            because = f"policies of equal priority match it, and the broker's choice is open: {', '.join(rivals)}"
            remedy = "give them different priorities"
            yield Change(word, name, Action.FOREIGN, (), because, remedy)


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
