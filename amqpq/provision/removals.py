"""What this project made once and its file does not have any more: whether it may go, and why not. Pure.

Nothing is deleted that the project did not make, and no queue that holds anything or that somebody uses. Bindings hold nothing;
they go without `allow: {delete: true}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from amqpq.provision.changes import Action, Change
from amqpq.provision.compiling import NO_TAG, TAG, clearing
from amqpq.provision.observed import Observed, SeenQueue, address_of_binding
from amqpq.provision.wanted import Wanted
from amqpq.topology.effective import ALTERNATE, is_generated
from amqpq.types import BindingSpec

GONE = "not in the file any more"
NOT_ALLOWED = "the file does not allow it"


def removals(
    wanted: Wanted, observed: Observed, owned: frozenset[str], generated: frozenset[str] = frozenset()
) -> Iterator[Change]:
    """Return what is to be deleted, or why it stays.

    Args:
        wanted: What the file says.
        observed: What was seen.
        owned: Addresses of what this project made.
        generated: Names of the generated policies that there have to be.
    """
    orphans = sorted(
        owned - addresses(wanted) - wanted.spared - wanted.decommissioned - {f"policy {name}" for name in generated}
    )
    if not orphans:
        return
    bindings = {f"binding {address_of_binding(binding)}" for binding in observed.bindings or ()}
    policies = {f"policy {policy.name}" for policy in observed.policies or ()}
    retiring = {
        address_of_binding(binding)
        for binding in observed.bindings or ()
        if any(concerns(address, binding) for address in wanted.decommissioned)
    }
    for address in orphans:
        kind, _, name = address.partition(" ")
        if kind == "binding" and name in retiring:
            continue  # that is `amqpq.provision.retiring`'s
        if kind == "binding" and address in bindings:
            yield Change("binding", name, Action.DELETE, because=GONE)
        elif kind == "policy" and address in policies and is_generated(wanted.project, name):
            yield _no_more(name, observed)
        elif kind == "policy" and address in policies:
            yield allowed(Change("policy", name, Action.DELETE, because=GONE), wanted)
        elif kind == "exchange" and name in observed.exchanges:
            yield allowed(_exchange(name, wanted, observed, owned), wanted)
        elif kind == "queue" and name in observed.queues:
            yield allowed(queue_removal(name, observed.queues[name], observed), wanted)
        elif not observed.complete:
            kinds = {"exchange": "exchange", "queue": "queue", "policy": "policy"}
            because = "not in the file any more, made by this project; whether it is still there needs the HTTP API"
            yield Change(kinds.get(kind, "binding"), name, Action.UNKNOWN, because=because)  # type: ignore[arg-type]


def _no_more(name: str, observed: Observed) -> Change:
    """A generated policy goes as it came: nothing is in it, and no file names it."""
    change = Change("policy", name, Action.DELETE, because="nothing needs it any more")
    if observed.may_write_policies is not False:
        return change
    remedy = f"`{clearing(observed.vhost, name)}`, or {TAG}"
    return replace(change, action=Action.FORBIDDEN, because=f"{change.because}, and {NO_TAG}", remedy=remedy)


def concerns(address: str, binding: BindingSpec) -> bool:
    """Whether a binding leads from or to the object of an address."""
    kind, _, name = address.partition(" ")
    if kind == "queue":
        return binding.target == name and not binding.to_exchange
    return binding.source == name or (binding.target == name and binding.to_exchange)


def addresses(wanted: Wanted) -> frozenset[str]:
    """Return the addresses of all that the file has, what others manage included."""
    return frozenset(
        [
            *(f"exchange {name}" for name in (*wanted.exchanges, *wanted.expected_exchanges)),
            *(f"queue {name}" for name in (*wanted.queues, *wanted.expected_queues)),
            *(f"policy {name}" for name in wanted.policies),
            *(f"binding {address_of_binding(binding)}" for binding in wanted.declarations.bindings),
        ]
    )


def allowed(change: Change, wanted: Wanted) -> Change:
    """Return a deletion, or that the file forbids it."""
    if change.action is not Action.DELETE or wanted.may_delete:
        return change
    remedy = "write `allow: {delete: true}` (in the environment that may), or delete it by hand"
    return replace(change, action=Action.FORBIDDEN, because=f"{change.because}; {NOT_ALLOWED}", remedy=remedy)


def _exchange(name: str, wanted: Wanted, observed: Observed, owned: frozenset[str]) -> Change:
    """An exchange goes when nothing foreign is bound to it; its own bindings go before it."""
    foreign = [
        address_of_binding(binding)
        for binding in observed.bindings or ()
        if concerns(f"exchange {name}", binding) and f"binding {address_of_binding(binding)}" not in owned
    ]
    if foreign:
        remedy = "have whoever made them remove them"
        text = f"{GONE}, and still bound: {', '.join(foreign)}"
        return Change("exchange", name, Action.FORBIDDEN, because=text, remedy=remedy)
    return exchange_removal(name, wanted)


def exchange_removal(name: str, wanted: Wanted, why: str = GONE) -> Change:
    """An exchange that nothing is bound to goes, unless another one sends it what it cannot route."""
    users = [spec.name for spec in wanted.exchanges.values() if spec.arguments.get(ALTERNATE) == name]
    if users:
        text = f"{why}, and the alternate exchange of {', '.join(users)}"
        return Change("exchange", name, Action.FORBIDDEN, because=text, remedy="change `unrouted` there first")
    return Change("exchange", name, Action.DELETE, because=why)


def queue_removal(name: str, seen: SeenQueue, observed: Observed, why: str = GONE) -> Change:
    """A queue goes when it is empty and unused, as far as can be seen; the apply looks again, and the broker too."""
    change = Change(
        "queue",
        name,
        Action.DELETE,
        because=why,
        ready=seen.ready,
        unacknowledged=seen.unacknowledged,
        consumers=seen.consumers,
    )
    consumers = [consumer for consumer in observed.consumers or () if consumer.queue == name]
    held = (seen.ready or 0) + (seen.unacknowledged or 0)
    if held or consumers:
        what = [f"holds {held} messages"] if held else []
        what += [f"has {len(consumers)} consumers"] if consumers else []
        because = f"{why}, and it {' and '.join(what)}"
        remedy = "let workers empty it, or `amqpq dlq drop` what may go; then apply again"
        return replace(change, action=Action.FORBIDDEN, because=because, remedy=remedy)
    if seen.type == "stream":
        because = f"{why}, and the broker deletes a stream without looking what is in it and who reads it"
        return replace(change, action=Action.FORBIDDEN, because=because, remedy="delete it by hand")
    if seen.type != "classic" and (not observed.complete or seen.ready is None):
        because = f"{why}, and nothing here proves that it is empty"
        return replace(change, action=Action.FORBIDDEN, because=because, remedy="set broker.management")
    return change
