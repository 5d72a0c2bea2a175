"""Compares what a file wants with what was seen of a broker; each difference is classed, with its remedy. Pure.

What the project made once (`owned`, the addresses of its manifest) and the file does not have any more is to be deleted. What
neither the file nor the manifest has is foreign: it is left alone, and told only where it acts on what is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from amqpq.provision import properties
from amqpq.provision.carrying import Carried, carried
from amqpq.provision.changes import Action, Change, Detail, worst
from amqpq.provision.compiling import TAG, command
from amqpq.provision.journal import Manifest
from amqpq.provision.neighbours import kept, owners, shared, unread
from amqpq.provision.observed import Observed, SeenQueue, address_of_binding, identity
from amqpq.provision.partitions import guarded
from amqpq.provision.policies import overruled, policies
from amqpq.provision.removals import concerns, removals
from amqpq.provision.renaming import inherited, renamed
from amqpq.provision.retiring import retired
from amqpq.provision.wanted import Wanted
from amqpq.topology.effective import is_generated
from amqpq.types import BindingSpec

NOBODY: Final[Mapping[str, Manifest]] = MappingProxyType({})
OUR_CONSUMERS: Final = "amqpq."
"""How the consumer tags of workers begin."""

_WELL: Final = frozenset({None, "running", "idle", "flow"})

_REMEDIES: Final = {
    Action.MIGRATE: "`amqpq topology migrate` moves its messages to a new queue; or write the broker's value into the file",
    Action.REPLACE: "write the broker's value into the file, or make another exchange and move its bindings",
    Action.INFO: "write the broker's value into the file: a worker that compares its queues does not start otherwise",
}


def differences(
    wanted: Wanted,
    observed: Observed,
    owned: frozenset[str] = frozenset(),
    by_policy: Carried | None = None,
    others: Mapping[str, Manifest] = NOBODY,
) -> tuple[Change, ...]:
    """Return every difference, in the order of a plan: what is made, what changes, what goes, what is only told.

    Args:
        wanted: The target.
        observed: What was seen.
        owned: Addresses of what this project made.
        by_policy: What generated policies make hold; default: found out here.
        others: The manifests of other projects, by project.
    """
    by_policy = carried(wanted, observed, owned) if by_policy is None else by_policy
    owned = inherited(wanted, observed, owned)
    look = _Look(wanted, observed, owned, by_policy)
    theirs = owners(others)
    found = [
        *_exchanges(look),
        *_queues(look),
        *renamed(wanted),
        *policies(wanted, observed, by_policy),
        *_bindings(wanted, observed, owned),
        *removals(wanted, observed, owned - theirs.keys(), frozenset(each.policy.name for each in by_policy.generated)),
        *(kept(change, theirs) for change in retired(wanted, observed, owned)),
        *shared(wanted, observed, owned, theirs),
        *unread(others),
        *overruled(wanted, observed, by_policy),
        *_consumers(wanted, observed),
        *_unseen(wanted, observed),
    ]
    order = list(Action)
    return tuple(sorted(guarded(wanted, observed, found), key=lambda change: order.index(change.action)))


@dataclass(frozen=True, slots=True)
class _Look:
    """What is compared."""

    wanted: Wanted
    observed: Observed
    owned: frozenset[str]
    by_policy: Carried


# ------------------------------------------------------------------------------------------------ exchanges and queues


def _exchanges(look: _Look) -> Iterator[Change]:
    wanted, observed = look.wanted, look.observed
    for name, spec in wanted.exchanges.items():
        seen = observed.exchanges.get(name)
        if seen is None:
            yield Change("exchange", name, Action.CREATE, because=spec.type)
            continue
        details = properties.of_exchange(spec, seen.spec, look.by_policy.others, whole=observed.complete)
        if details:
            yield _differs("exchange", name, details, look)
    for name, spec in wanted.expected_exchanges.items():
        seen = observed.exchanges.get(name)
        if seen is None:
            yield _missing("exchange", name)
        elif seen.spec.type != spec.type and observed.complete:
            detail = Detail("type", seen.spec.type, spec.type, Action.MISSING)
            because, remedy = "under `manage: verify`, and of another type", "ask its owner, or change the file"
            yield Change("exchange", name, Action.MISSING, (detail,), because, remedy)


def _queues(look: _Look) -> Iterator[Change]:
    wanted, observed = look.wanted, look.observed
    others, operators = look.by_policy.others, observed.operator_policies
    whole, version = observed.tells_arguments, observed.version
    for name, spec in wanted.queues.items():
        seen = observed.queues.get(name)
        if seen is None:
            yield Change("queue", name, Action.CREATE, because=properties.kind_of(spec))
            continue
        details = properties.of_queue(spec, seen.spec, others, operators, whole=whole, version=version)
        if details:
            yield counted(_differs("queue", name, details, look), seen)
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


def _differs(kind: Literal["queue", "exchange"], name: str, details: tuple[Detail, ...], look: _Look) -> Change:
    """Return the change of an object that exists; what a policy can make hold is a generated one's, if it may be."""
    address = f"{kind} {name}"
    because, remedy = "", ""
    generated, refusal = look.by_policy.of(address), look.by_policy.refused.get(address)
    if all(detail.action is not Action.POLICY for detail in details):
        pass
    elif refusal is not None:
        details = _with(details, Action.FORBIDDEN)
        because, remedy = refusal.because, refusal.remedy
    elif generated is not None and generated.policy in (look.observed.policies or ()):
        details = _with(details, Action.INFO, f"holds, by policy {generated.policy.name}")
    elif generated is not None and look.observed.policies is None and _has_made_some(look):
        details = _with(details, Action.UNKNOWN, "a policy of this project may make it hold")
        remedy = "set broker.management (the tag management is enough)"
    elif generated is not None and look.observed.policies is None:
        by_hand = command(look.observed.vhost, generated.policy)
        remedy = f"set broker.management: an apply of a plan sets a policy then; or by hand: `{by_hand}`"
    elif generated is not None and look.observed.may_write_policies is False:
        remedy = f"`{command(look.observed.vhost, generated.policy)}`, or {TAG}"
    elif generated is not None:
        details = _with(details, Action.CHANGE, f"by policy {generated.policy.name}")
    action = worst(details)
    remedy = remedy if action in {Action.FORBIDDEN, Action.POLICY, Action.UNKNOWN} else _REMEDIES.get(action, "")
    return Change(kind, name, action, details, because if action is Action.FORBIDDEN else "", remedy)


def _with(details: tuple[Detail, ...], action: Action, note: str | None = None) -> tuple[Detail, ...]:
    """Return the details; those that a policy can make hold with another action."""
    return tuple(
        replace(detail, action=action, note=detail.note if note is None else note)
        if detail.action is Action.POLICY
        else detail
        for detail in details
    )


def _has_made_some(look: _Look) -> bool:
    """Whether this project has made policies. A new one might overwrite or rival one that cannot be seen from here."""
    return any(is_generated(look.wanted.project, address.removeprefix("policy ")) for address in look.owned)


def _missing(kind: str, name: str) -> Change:
    because, remedy = "under `manage: verify`, and not there", "whoever owns it must create it"
    return Change("exchange" if kind == "exchange" else "queue", name, Action.MISSING, because=because, remedy=remedy)


def counted(change: Change, seen: SeenQueue) -> Change:
    """Return the change with what was counted of the queue."""
    return replace(change, ready=seen.ready, unacknowledged=seen.unacknowledged, consumers=seen.consumers)


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
        if key not in there and f"binding {address_of_binding(binding)}" not in observed.unreadable:
            yield Change("binding", address_of_binding(binding), Action.CREATE)
    for key, binding in there.items():
        address = address_of_binding(binding)
        if key in ours or f"binding {address}" in owned:
            continue
        if _touches(wanted, binding) and not any(concerns(each, binding) for each in wanted.decommissioned):
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
        if kind == "queue" and (name in wanted.queues or observed.tells_arguments):
            yield Change("queue", name, Action.UNKNOWN, because=why)
        elif kind == "binding":
            yield Change("binding", name, Action.UNKNOWN, because=f"{why}; an apply binds it")
        elif kind == "exchange" and name in wanted.exchanges:
            yield Change("exchange", name, Action.UNKNOWN, because=why)
        elif kind == "operator":
            yield Change("broker", address, Action.UNKNOWN, because=why)
    if observed.complete:
        return
    remedy = "set broker.management (the tag management is enough)"
    existing: Sequence[BindingSpec] = [b for b in wanted.declarations.bindings if not _new_end(b, observed)]
    if existing and observed.bindings is None:
        because = f"{len(existing)} of the file may be there or not; an apply binds them, which changes nothing where they are"
        yield Change("broker", "bindings", Action.UNKNOWN, because=because, remedy=remedy)
    because = "AMQP tells neither policies, nor bindings, consumers and objects of others"
    yield Change("broker", "everything else", Action.UNKNOWN, because=because, remedy=remedy)
