"""What `destroy` deletes, in which order, and why not. Pure.

Only what the manifest says is this project's goes, and of that nothing that another project's manifest has as well. Bindings go
first, so that nothing comes any more; then queues, those before whose dead letters go to others; then exchanges, an alternate
exchange after those that name it; then policies; last what amqpq itself keeps in the broker: the journal is the very last,
because whoever is cut off reads there what is still to go.

One refusal and nothing is done at all: half a topology loses messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from amqpq.errors import LocalError
from amqpq.provision import journal
from amqpq.provision.observed import Observed, address_of_binding
from amqpq.provision.removals import concerns
from amqpq.provision.renaming import inherited
from amqpq.provision.steps import Step
from amqpq.provision.wanted import Wanted
from amqpq.topology import generations
from amqpq.topology.effective import ALTERNATE
from amqpq.topology.model import did_you_mean
from amqpq.topology.partitions import binds_partition, exchange_name, queue_of
from amqpq.topology.permits import prefix
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

IN_USE = "stop what uses it, let workers empty it, or drop it by name: `--only {name} --with-messages`"


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to go: everything, or what `only` names. `with_messages`: also what is in those queues."""

    only: tuple[str, ...] = ()
    with_messages: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an object of ours cannot go. `undecided`: because something about it cannot be read."""

    address: str
    because: str
    remedy: str
    undecided: bool = False


@dataclass(frozen=True, slots=True)
class Destruction:
    """What goes, step by step, and what stands against it.

    `kinds` has the type of each queue that goes; `asked` are those that can be asked for a message. `dropped` are those whose
    messages go too, `own` those that only amqpq writes to, `last` those of them that go when all else is gone. `kept` says of
    objects that stay why they do.
    """

    steps: tuple[Step, ...]
    refusals: tuple[Refusal, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    last: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    whole: bool = True
    """Whether nothing of the project is left."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What is known. `owned` are the addresses of the manifest, `others` those of other projects' by project."""

    wanted: Wanted
    observed: Observed
    owned: frozenset[str]
    others: Mapping[str, frozenset[str]] = field(default_factory=dict)


def looked_for(wanted: Wanted, owned: Iterable[str]) -> Wanted:
    """Return the target with what is owned and not in the file, for a look over AMQP, which sees only what it asks for."""
    exchanges = dict(wanted.expected_exchanges)
    queues = dict(wanted.expected_queues)
    for address in (*owned, *_kept_by_amqpq(wanted.project)):
        kind, _, name = address.partition(" ")
        if kind == "queue" and name not in wanted.queues:
            queues.setdefault(name, QueueSpec(name))
        elif kind == "exchange" and name not in wanted.exchanges:
            exchanges.setdefault(name, ExchangeSpec(name))
    return replace(wanted, expected_exchanges=exchanges, expected_queues=queues)


def destruction(ground: Ground, choice: Choice) -> Destruction:
    """Decide what goes.

    Raises:
        LocalError: `only` names what is not this project's.
    """
    owned = _owned(ground)
    chosen = _chosen(ground, owned, choice.only) if choice.only else owned
    shared = {address: project for project, theirs in ground.others.items() for address in theirs & owned}
    going = frozenset(address for address in chosen - shared.keys() if _exists(ground.observed, address))
    bindings = [
        binding
        for binding in _bindings(ground)
        if _goes(binding, going, whole=not choice.only, owned=owned - shared.keys())
    ]
    refusals = [
        *_refused_queues(ground, going, bindings, choice),
        *_refused_exchanges(ground, going, bindings),
        *_needed(ground, going),
    ]
    queues = ground.observed.queues
    names = {address.partition(" ")[2] for address in going if address.startswith("queue ")}
    system = frozenset(name for name in names if _is_system(ground.wanted.project, name))
    return Destruction(
        steps=tuple(_steps(ground, going, bindings)),
        refusals=tuple(refusals),
        kinds={name: queues[name].type for name in names},
        # basic.get is refused (405) where one consumer at a time is active.
        asked=frozenset(
            name
            for name in names
            if queues[name].type == "quorum" and not queues[name].spec.arguments.get("x-single-active-consumer")
        ),
        dropped=frozenset(names - system) if choice.with_messages else frozenset(),
        own=frozenset(name for name in names if name in system or name.startswith(prefix(ground.wanted.project))),
        last=tuple(system),
        kept=tuple(
            f"{address}: also the project {project}'s"
            for address, project in sorted(shared.items())
            if address in chosen
        ),
        whole=not choice.only,
    )


# ------------------------------------------------------------------------------------------------------- what is ours


def _kept_by_amqpq(project: str) -> tuple[str, ...]:
    """Return what amqpq makes in the broker beside the file: way back for dead letters, record of generations, journal."""
    return (
        f"queue {project}.returning",
        f"exchange {project}.returning",
        f"queue {project}.revocations",
        f"queue {generations.stream_name(project)}",
        f"queue {journal.stream_name(project)}",
    )


def _is_system(project: str, name: str) -> bool:
    return name in {f"{project}.revocations", generations.stream_name(project), journal.stream_name(project)}


def _owned(ground: Ground) -> frozenset[str]:
    """Return what is ours: the manifest, where queues of it have moved to, and what amqpq keeps beside it."""
    wanted = ground.wanted
    found = set(inherited(wanted, ground.observed, ground.owned))
    for name, home in wanted.generations.homes.items():
        if not any(f"queue {each}" in ground.owned for each in (name, home.current, home.former)):
            continue
        found |= {f"queue {each}" for each in (home.current, *home.consumed)}
        if home.ingress:
            ingress, alternate = generations.ingress_name(name), generations.alternate_name(name)
            found |= {f"exchange {ingress}", f"exchange {alternate}"}
            found |= {
                f"binding {address_of_binding(each)}"
                for each in _bindings(ground)
                if each.source == ingress or (each.target == ingress and _was_ours(each, name, ground.owned))
            }
    return (frozenset(found) - wanted.spared) | frozenset(_kept_by_amqpq(wanted.project))


def _was_ours(binding: BindingSpec, queue: str, owned: frozenset[str]) -> bool:
    """Whether a binding of an ingress was ours when it led to the queue itself."""
    before = replace(binding, target=queue, to_exchange=False)
    return f"binding {address_of_binding(before)}" in owned


def _chosen(ground: Ground, owned: frozenset[str], only: Sequence[str]) -> frozenset[str]:
    """Return the addresses of the names that were given: `orders`, or `queue.orders` where there are two of the name."""
    found: set[str] = set()
    known = {address.partition(" ")[2] for address in ground.owned if not address.startswith("binding ")}
    for word in only:
        kind, _, name = word.partition(".")
        if kind in {"queue", "exchange", "policy"} and name:
            kinds: tuple[str, ...] = (kind,)
        else:
            kinds, name = ("queue", "exchange", "policy"), word
        home = ground.wanted.generations.homes.get(name) if "queue" in kinds else None
        named = [f"{kind} {name}" for kind in kinds if f"{kind} {name}" in owned]
        parts = [address for address in _partitioned(ground, name) if address in owned] if "queue" in kinds else []
        meant = [address.replace(" ", ".") for address in named] + ([f"queue.{name}"] if parts else [])
        there = named + parts
        if home is not None and f"queue {home.current}" in owned:
            there = [f"queue {each}" for each in home.consumed]
            there += [f"exchange {each}" for each in (generations.ingress_name(name), generations.alternate_name(name))]
        elif len(meant) > 1:
            raise LocalError(f"--only {word}: there are {' and '.join(f'`{each}`' for each in meant)}; say which")
        if not there:
            raise LocalError(
                f"--only {word}: project {ground.wanted.project!r} owns nothing of this name{did_you_mean(name, known)}"
            )
        found |= set(there)
    return frozenset(found)


def _partitioned(ground: Ground, name: str) -> list[str]:
    """Return what the broker has of a queue of the file that has partitions; nothing for another one."""
    ring = [
        each for each in ground.wanted.declarations.bindings if binds_partition(each) and queue_of(each.source) == name
    ]
    return [f"exchange {exchange_name(name)}", *(f"queue {each.target}" for each in ring)] if ring else []


def _exists(observed: Observed, address: str) -> bool:
    kind, _, name = address.partition(" ")
    if kind == "queue":
        return name in observed.queues
    if kind == "exchange":
        return name in observed.exchanges
    return kind == "policy" and any(policy.name == name for policy in observed.policies or ())


def _bindings(ground: Ground) -> tuple[BindingSpec, ...]:
    """Return all bindings that are there; where not all can be seen, those of the file."""
    if ground.observed.complete and ground.observed.bindings is not None:
        return ground.observed.bindings
    return ground.wanted.declarations.bindings


def _goes(binding: BindingSpec, going: frozenset[str], *, whole: bool, owned: frozenset[str]) -> bool:
    source, target = f"exchange {binding.source}", f"{'exchange' if binding.to_exchange else 'queue'} {binding.target}"
    if source in going and target in going:
        return True  # whoever made it: it cannot outlive both
    ours = f"binding {address_of_binding(binding)}" in owned
    return ours and (whole or source in going or target in going)


# --------------------------------------------------------------------------------------------------------- what refuses


def _refused_queues(
    ground: Ground, going: frozenset[str], bindings: Sequence[BindingSpec], choice: Choice
) -> Iterator[Refusal]:
    project, observed = ground.wanted.project, ground.observed
    for address in sorted(going):
        kind, _, name = address.partition(" ")
        if kind != "queue" or _is_system(project, name):
            continue
        seen = observed.queues[name]
        consumers = max(seen.consumers or 0, sum(each.queue == name for each in observed.consumers or ()))
        permits = name.startswith(prefix(project))
        held = (seen.unacknowledged or 0) + (0 if permits else seen.ready or 0)
        foreign = _foreign(ground, bindings, address)
        if consumers:
            yield Refusal(address, f"it has {consumers} consumers", "stop the workers that consume it")
        if foreign:
            yield Refusal(address, f"others have bound it: {foreign}", "have whoever made these bindings remove them")
        if choice.with_messages and not permits:
            continue
        if held and permits:
            yield Refusal(address, f"{held} tasks run under its limit", "wait until they are done")
        elif held:
            yield Refusal(address, f"it holds {held} messages", IN_USE.format(name=name))
        elif seen.type == "stream":
            because = "it is a stream, which keeps what was read"
            yield Refusal(address, because, f"drop it by name: `--only {name} --with-messages`")
        elif address in observed.unreadable or (seen.type != "classic" and not observed.complete):
            because = "whether it is empty cannot be proven without the HTTP API"
            yield Refusal(address, because, "set broker.management", undecided=True)


def _refused_exchanges(ground: Ground, going: frozenset[str], bindings: Sequence[BindingSpec]) -> Iterator[Refusal]:
    for address in sorted(going):
        if not address.startswith("exchange "):
            continue
        foreign = _foreign(ground, bindings, address)
        if foreign:
            yield Refusal(address, f"it is still bound: {foreign}", "have whoever made these bindings remove them")


def _foreign(ground: Ground, going: Sequence[BindingSpec], address: str) -> str:
    """Name the bindings of an object that do not go before it."""
    staying = [each for each in ground.observed.bindings or () if concerns(address, each) and each not in going]
    return ", ".join(address_of_binding(each) for each in staying)


def _needed(ground: Ground, going: frozenset[str]) -> Iterator[Refusal]:
    """Find what an object of the file that stays sends its messages to."""
    for spec in ground.wanted.exchanges.values():
        target = f"exchange {spec.arguments.get(ALTERNATE)}"
        if target in going and f"exchange {spec.name}" not in going and spec.name in ground.observed.exchanges:
            remedy = f"name {spec.name} too, or take `unrouted` out of the file first"
            yield Refusal(target, f"it is the alternate exchange of {spec.name}", remedy)
    for queue in ground.wanted.queues.values():
        letters = queue.arguments.get("x-dead-letter-routing-key")
        target = f"queue {letters}"
        default = queue.arguments.get("x-dead-letter-exchange") == ""
        if default and target in going and f"queue {queue.name}" not in going and queue.name in ground.observed.queues:
            yield Refusal(target, f"it takes the dead letters of {queue.name}", f"name {queue.name} too")


# ------------------------------------------------------------------------------------------------------------ the order


def _steps(ground: Ground, going: frozenset[str], bindings: Sequence[BindingSpec]) -> Iterator[Step]:
    yield from (Step("unbind", address_of_binding(binding), binding) for binding in bindings)
    # Declared are targets first: what others point to. So the other way round.
    declared = ground.wanted.declarations
    queues = _ordered(going, "queue", [spec.name for spec in declared.queues])
    project = ground.wanted.project
    yield from (Step("delete queue", name, None) for name in queues if not _is_system(project, name))
    for name in _ordered(going, "exchange", [spec.name for spec in declared.exchanges]):
        yield Step("delete exchange", name, None)
    yield from (Step("delete policy", name, None) for name in _ordered(going, "policy", ()))
    last = [address.partition(" ")[2] for address in _kept_by_amqpq(project)]
    yield from (Step("delete queue", name, None) for name in last if name in queues and _is_system(project, name))


def _ordered(going: frozenset[str], kind: str, declared: Sequence[str]) -> list[str]:
    names = {address.partition(" ")[2] for address in going if address.startswith(f"{kind} ")}
    behind = [name for name in reversed(declared) if name in names]
    return [*sorted(names - set(behind)), *behind]
