"""Compares what a file wants with what was seen of a broker; each difference is classed, with its remedy. Pure.

What the project made once (`owned`, the addresses of its manifest) and the file does not have any more is to be deleted. What
neither the file nor the manifest has is foreign: it is left alone, and told only where it acts on what is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from amqpq.provision import properties
from amqpq.provision.changes import Action, Change, Detail, worst
from amqpq.provision.effective import applied
from amqpq.provision.observed import Observed, SeenPolicy, SeenQueue, address_of_binding, identity
from amqpq.provision.removals import removals
from amqpq.provision.slices import guarded
from amqpq.provision.wanted import Wanted
from amqpq.types import BindingSpec

OUR_CONSUMERS: Final = "amqpq."
"""How the consumer tags of workers begin."""

TYPED_POLICIES: Final = (3, 12, 0)
_TYPED: Final = frozenset({"classic_queues", "quorum_queues", "streams"})

_WELL: Final = frozenset({None, "running", "idle", "flow"})

_REMEDIES: Final = {
    Action.MIGRATE: "`amqpq topology migrate` moves its messages to a new queue; or write the broker's value into the file",
    Action.REPLACE: "write the broker's value into the file, or make another exchange and move its bindings",
    Action.POLICY: "write the broker's value into the file, and the wanted one as a policy under `policies:`",
    Action.INFO: "write the broker's value into the file: a worker that compares its queues does not start otherwise",
}


def differences(wanted: Wanted, observed: Observed, owned: frozenset[str] = frozenset()) -> tuple[Change, ...]:
    """Return every difference, in the order of a plan: what is made, what changes, what goes, what is only told.

    Args:
        wanted: The target.
        observed: What was seen.
        owned: Addresses of what this project made.
    """
    found = [
        *_exchanges(wanted, observed),
        *_queues(wanted, observed),
        *_policies(wanted, observed),
        *_bindings(wanted, observed, owned),
        *removals(wanted, observed, owned),
        *_overruled(wanted, observed),
        *_consumers(wanted, observed),
        *_unseen(wanted, observed),
    ]
    order = list(Action)
    return tuple(sorted(guarded(wanted, observed, found), key=lambda change: order.index(change.action)))


# ------------------------------------------------------------------------------------------------ exchanges and queues


def _exchanges(wanted: Wanted, observed: Observed) -> Iterator[Change]:
    policies = _policies_to_be(wanted, observed)
    for name, spec in wanted.exchanges.items():
        seen = observed.exchanges.get(name)
        if seen is None:
            yield Change("exchange", name, Action.CREATE, because=spec.type)
        elif (details := properties.of_exchange(spec, seen.spec, policies, whole=observed.level != "amqp")) != ():
            action = worst(details)
            yield Change("exchange", name, action, details, remedy=_REMEDIES[action])
    for name, spec in wanted.expected_exchanges.items():
        seen = observed.exchanges.get(name)
        if seen is None:
            yield _missing("exchange", name)
        elif seen.spec.type != spec.type and observed.level != "amqp":
            detail = Detail("type", seen.spec.type, spec.type, Action.MISSING)
            because, remedy = "under `manage: verify`, and of another type", "ask its owner, or change the file"
            yield Change("exchange", name, Action.MISSING, (detail,), because, remedy)


def _queues(wanted: Wanted, observed: Observed) -> Iterator[Change]:
    policies, operators = _policies_to_be(wanted, observed), observed.operator_policies
    whole, version = observed.level != "amqp", observed.version
    for name, spec in wanted.queues.items():
        seen = observed.queues.get(name)
        if seen is None:
            yield Change("queue", name, Action.CREATE, because=properties.kind_of(spec))
            continue
        details = properties.of_queue(spec, seen.spec, policies, operators, whole=whole, version=version)
        if details:
            action = worst(details)
            yield counted(Change("queue", name, action, details, remedy=_REMEDIES[action]), seen)
        if seen.state not in _WELL:
            remedy = "see `rabbitmqctl list_queues name state`, and start the node that holds it"
            yield Change("queue", name, Action.ADMIN, because=f"it is {seen.state}", remedy=remedy)
    for name, spec in wanted.expected_queues.items():
        seen = observed.queues.get(name)
        if seen is None:
            yield _missing("queue", name)
        elif seen.type != properties.kind_of(spec) and whole:
            detail = Detail("type", seen.type, properties.kind_of(spec), Action.MISSING)
            because, remedy = "under `manage: verify`, and of another type", "ask its owner, or change the file"
            yield Change("queue", name, Action.MISSING, (detail,), because, remedy)


def _missing(kind: str, name: str) -> Change:
    because, remedy = "under `manage: verify`, and not there", "whoever owns it must create it"
    return Change("exchange" if kind == "exchange" else "queue", name, Action.MISSING, because=because, remedy=remedy)


def counted(change: Change, seen: SeenQueue) -> Change:
    """Return the change with what was counted of the queue."""
    return replace(change, ready=seen.ready, unacknowledged=seen.unacknowledged, consumers=seen.consumers)


# ----------------------------------------------------------------------------------------------------------- policies


def _policies_to_be(wanted: Wanted, observed: Observed) -> tuple[SeenPolicy, ...] | None:
    """Return the user policies as they will be: the broker's, with ours laid over them."""
    if observed.policies is None:
        return None
    return (*(policy for policy in observed.policies if policy.name not in wanted.policies), *wanted.policies.values())


def _policies(wanted: Wanted, observed: Observed) -> Iterator[Change]:
    if observed.policies is None:
        because = "policies are read and written over the HTTP API"
        for name in wanted.policies:
            yield Change("policy", name, Action.UNKNOWN, because=because, remedy="set broker.management")
        return
    there = {policy.name: policy for policy in observed.policies}
    for name, policy in wanted.policies.items():
        seen = there.get(name)
        if policy.apply_to in _TYPED and observed.version < TYPED_POLICIES:
            because = f"apply_to: {policy.apply_to} is known from RabbitMQ 3.12 on"
            yield Change("policy", name, Action.FORBIDDEN, because=because, remedy="write `apply_to: queues`")
        elif seen is None:
            yield _with_loss(Change("policy", name, Action.CREATE, because=f"on {policy.pattern}"), wanted, observed)
        elif seen != policy:
            details = tuple(
                Detail(key, before, after, Action.CHANGE)
                for key, before, after in _policy_properties(seen, policy)
                if before != after or isinstance(before, bool) != isinstance(after, bool)
            )
            yield _with_loss(Change("policy", name, Action.CHANGE, details), wanted, observed)


def _policy_properties(seen: SeenPolicy, wanted: SeenPolicy) -> Iterator[tuple[str, object, object]]:
    for key in ("pattern", "apply_to", "priority"):
        yield key, getattr(seen, key), getattr(wanted, key)
    for key in dict.fromkeys([*seen.definition, *wanted.definition]):
        yield key, seen.definition.get(key), wanted.definition.get(key)


def _with_loss(change: Change, wanted: Wanted, observed: Observed) -> Change:
    """Count the messages that a policy drops when it comes to hold: those over a length, and all under a time to live.

    A queue whose dead letters go somewhere loses none by that.
    """
    policies = _policies_to_be(wanted, observed) or ()
    lost, where = 0, []
    for name, seen in observed.queues.items():
        arguments = seen.spec.arguments
        if applied(policies, seen.type, name).policy != wanted.policies[change.name] or not seen.ready:
            continue
        before = applied(observed.policies or (), seen.type, name).policy
        now = before.definition if before is not None else {}
        if "x-dead-letter-exchange" in arguments or "dead-letter-exchange" in wanted.policies[change.name].definition:
            continue
        over = _dropped(wanted.policies[change.name].definition, now, seen.ready)
        if over:
            lost += over
            where.append(f"{name} holds {seen.ready}")
    if not lost:
        return change
    because = f"{change.because + '; ' if change.because else ''}{', '.join(where)}: up to {lost} of them are dropped"
    return replace(change, because=because, risk="loss", may_lose=lost)


def _dropped(definition: object, now: object, ready: int) -> int:
    new, old = (dict(each) if isinstance(each, dict) else {} for each in (definition, now))
    lost = 0
    if "message-ttl" in new and new["message-ttl"] < old.get("message-ttl", float("inf")):
        lost = ready
    if "max-length" in new and new["max-length"] < old.get("max-length", float("inf")):
        lost = max(lost, ready - int(new["max-length"]))
    return max(lost, 0)


def _overruled(wanted: Wanted, observed: Observed) -> Iterator[Change]:
    """Find what a policy that is not ours makes of our queues and exchanges."""
    if observed.policies is None:
        return
    policies, operators = _policies_to_be(wanted, observed) or (), observed.operator_policies or ()
    own = tuple(wanted.policies.values())
    objects = [("queue", properties.kind_of(spec), spec.name, spec.arguments) for spec in wanted.queues.values()]
    objects += [("exchange", "exchange", spec.name, spec.arguments) for spec in wanted.exchanges.values()]
    for word, kind, name, arguments in objects:
        if word == "queue" and name in observed.queues and observed.queues[name].type != kind:
            continue  # it has to move first
        for key, says, holds in properties.overruled(
            kind, name, arguments, own, policies, operators, version=observed.version
        ):
            operator = holds.source.startswith("operator")
            detail = Detail(key, holds.value, says, Action.ADMIN if operator else Action.FOREIGN)
            remedy = (
                "the broker's administrator changes it, or write this value into the file"
                if operator
                else "give a policy of yours a higher priority and all its keys, or agree with its owner"
            )
            because = f"{holds.source} makes {key} {_shown(holds.value)} (the file: {_shown(says)})"
            yield Change("queue" if word == "queue" else "exchange", name, detail.action, (detail,), because, remedy)
        rivals = applied(policies, kind, name).rivals
        if rivals:
            because = f"policies of equal priority match it, and the broker's choice is open: {', '.join(rivals)}"
            remedy = "give them different priorities"
            yield Change("queue" if word == "queue" else "exchange", name, Action.FOREIGN, (), because, remedy)


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)


# ----------------------------------------------------------------------------------------------- bindings and consumers


def _bindings(wanted: Wanted, observed: Observed, owned: frozenset[str]) -> Iterator[Change]:
    ours = {identity(binding): binding for binding in wanted.declarations.bindings}
    if observed.bindings is None:
        for binding in ours.values():
            if _new_end(binding, observed):
                yield Change("binding", address_of_binding(binding), Action.CREATE)
        return
    there = {identity(binding): binding for binding in observed.bindings}
    for key, binding in ours.items():
        if key not in there:
            yield Change("binding", address_of_binding(binding), Action.CREATE)
    for key, binding in there.items():
        address = address_of_binding(binding)
        if key in ours or f"binding {address}" in owned:
            continue
        if _touches(wanted, binding):
            because = "not in the file, and not made by this project"
            remedy = "write it into the file, or have whoever made it remove it"
            yield Change("binding", address, Action.FOREIGN, because=because, remedy=remedy)


def _new_end(binding: BindingSpec, observed: Observed) -> bool:
    """Whether a binding cannot exist, because one of its ends does not."""
    targets = observed.exchanges if binding.to_exchange else observed.queues
    return binding.source not in observed.exchanges or binding.target not in targets


def _touches(wanted: Wanted, binding: BindingSpec) -> bool:
    return binding.source in wanted.exchanges or binding.target in (
        wanted.exchanges if binding.to_exchange else wanted.queues
    )


def _consumers(wanted: Wanted, observed: Observed) -> Iterator[Change]:
    for consumer in observed.consumers or ():
        if consumer.queue in wanted.queues and not consumer.tag.startswith(OUR_CONSUMERS):
            # The API learns of consumers by its statistics, and of their channels later still.
            who = f" of user '{consumer.user}' at {consumer.connection}" if consumer.user else ""
            because = f"'{consumer.tag}'{who} takes messages from it"
            remedy = "no worker of amqpq; stop it where it should not be"
            yield Change("consumer", consumer.queue, Action.FOREIGN, because=because, remedy=remedy)


# -------------------------------------------------------------------------------------------------------------- unseen


def _unseen(wanted: Wanted, observed: Observed) -> Iterator[Change]:
    for address, why in observed.unreadable.items():
        kind, _, name = address.partition(" ")
        if kind == "queue" and name in wanted.queues:
            yield Change("queue", name, Action.UNKNOWN, because=why)
        elif kind == "exchange" and name in wanted.exchanges:
            yield Change("exchange", name, Action.UNKNOWN, because=why)
        elif kind == "operator":
            yield Change("broker", address, Action.UNKNOWN, because=why)
    if observed.level != "amqp":
        return
    remedy = "set broker.management (the tag management is enough)"
    existing: Sequence[BindingSpec] = [b for b in wanted.declarations.bindings if not _new_end(b, observed)]
    if existing:
        because = f"{len(existing)} of the file may be there or not; an apply binds them, which changes nothing where they are"
        yield Change("broker", "bindings", Action.UNKNOWN, because=because, remedy=remedy)
    because = "AMQP tells neither policies, nor bindings, consumers and objects of others"
    yield Change("broker", "everything else", Action.UNKNOWN, because=because, remedy=remedy)
