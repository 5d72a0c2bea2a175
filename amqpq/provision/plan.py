"""A plan: what an apply will do, step by step, and what stays different. Pure.

The steps are ordered so that messages find their way at every moment: exchanges, queues, policies, bindings between exchanges,
bindings of queues; only then bindings that go, and last what is deleted. `amqpq.provision.rehearsal` walks them through
the `checks:` of the file.

A plan has a hash of what was seen of each object it touches. An apply looks again, plans again, and refuses where the two differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Literal, TypeAlias

from amqpq.provision.carrying import carried
from amqpq.provision.changes import APPLIED, BLOCKED, Action, Change
from amqpq.provision.compiling import Generated
from amqpq.provision.differences import NOBODY, differences
from amqpq.provision.journal import Manifest
from amqpq.provision.neighbours import given_up, owners
from amqpq.provision.observed import Level, Observed, SeenPolicy, address_of_binding, fingerprint, identity
from amqpq.provision.rehearsal import rehearse
from amqpq.provision.steps import Operation, Step
from amqpq.provision.wanted import Wanted
from amqpq.topology import partitions
from amqpq.topology.model import Topology
from amqpq.types import BindingSpec

FORMAT: Final = "1.0"
"""Of the JSON; readers ignore fields they do not know, and a new major number means what they know has changed."""

ABSENT: Final = "absent"
"""Stands for the hash of what was not there."""

_NOTHING: Final = Manifest()

Outcome: TypeAlias = Literal["clean", "changes", "forbidden", "unknown"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done. `hashes` are of what was seen of each object a step touches; `target` of what the file wants."""

    project: str
    environment: str | None
    vhost: str
    cluster: str
    version: tuple[int, int, int]
    level: Level
    serial: int
    target: str
    changes: tuple[Change, ...]
    steps: tuple[Step, ...]
    hashes: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Why it must not be carried out: a step on whose way, or at whose end, a check of the file fails."""
    warnings: tuple[str, ...] = ()
    generated: tuple[Generated, ...] = ()
    """The generated policies as they will be."""
    given_up: frozenset[str] = frozenset()
    """Addresses of what another project owns as well, and the file does not have any more."""

    @property
    def may_lose(self) -> int:
        """How many messages may be lost by it, as far as the counts tell."""
        return sum(change.may_lose for change in self.changes)

    @property
    def outcome(self) -> Outcome:
        """What there is to say in one word."""
        actions = {change.action for change in self.changes}
        if self.problems or Action.FORBIDDEN in actions:
            return "forbidden"
        if actions & (APPLIED | BLOCKED):
            return "changes"
        return "unknown" if Action.UNKNOWN in actions else "clean"

    def of(self, *actions: Action) -> tuple[Change, ...]:
        """Return the changes of some kinds."""
        return tuple(change for change in self.changes if change.action in actions)

    @property
    def fingerprint(self) -> str:
        """A hash of all that an apply must find as it was."""
        steps = [[step.operation, step.name] for step in self.steps]
        written = [asdict(step.spec) for step in self.steps if isinstance(step.spec, SeenPolicy)]
        return fingerprint([self.target, self.hashes, steps, written])


def plan(
    topology: Topology,
    wanted: Wanted,
    observed: Observed,
    manifest: Manifest = _NOTHING,
    others: Mapping[str, Manifest] = NOBODY,
) -> Plan:
    """Plan the way from what was seen to what is wanted.

    Args:
        topology: For its checks and routes.
        wanted: What the topology wants.
        observed: What was seen.
        manifest: What the project made.
        others: What other projects made, by project.
    """
    by_policy = carried(wanted, observed, manifest.owned)
    changes = differences(wanted, observed, manifest.owned, by_policy, others)
    if manifest.problem:
        because = f"what this project made is not known, so nothing is removed: {manifest.problem}"
        changes = (*changes, Change("broker", "manifest", Action.UNKNOWN, because=because))
    elif manifest.stage != "done":
        because = f"the last apply (serial {manifest.serial}) was cut off: {manifest.stage}"
        changes = (
            *changes,
            Change("broker", "journal", Action.INFO, because=because, remedy="an apply of this plan goes on"),
        )
    steps = tuple(_steps(wanted, observed, changes, by_policy.generated))
    rehearsal = rehearse(topology, observed, steps, wanted.generations)
    return Plan(
        project=wanted.project,
        environment=wanted.environment,
        vhost=observed.vhost,
        cluster=observed.cluster,
        version=observed.version,
        level=observed.level,
        serial=manifest.serial,
        target=wanted.fingerprint(),
        changes=changes,
        steps=steps,
        hashes={step.address: seen_of(observed, step.address) for step in steps},
        problems=rehearsal.problems,
        warnings=rehearsal.warnings,
        generated=by_policy.generated,
        given_up=given_up(wanted, manifest.owned, owners(others)),
    )


def _steps(
    wanted: Wanted, observed: Observed, changes: tuple[Change, ...], generated: tuple[Generated, ...]
) -> Iterator[Step]:
    new = {change.address for change in changes if change.action is Action.CREATE}
    made = {change.address for change in changes if change.action in {Action.CREATE, Action.CHANGE}}
    gone = {change.address for change in changes if change.action is Action.DELETE}
    yield from (Step("rename", queue, None) for queue in wanted.generations.to_note)
    yield from (Step("exchange", x.name, x) for x in wanted.declarations.exchanges if f"exchange {x.name}" in new)
    yield from (Step("queue", q.name, q) for q in wanted.declarations.queues if f"queue {q.name}" in new)
    # What a policy of the file says is part of the generated one that hides it: so that one comes first.
    yield from (Step("policy", g.policy.name, g.policy) for g in generated if f"policy {g.policy.name}" in made)
    yield from (Step("policy", p.name, p) for p in wanted.policies.values() if f"policy {p.name}" in made)
    held = _held(wanted, changes)
    bindings = [(address_of_binding(binding), binding) for binding in wanted.declarations.bindings]
    for name, binding in sorted(bindings, key=lambda pair: _binding_place(pair[1])):
        # Where bindings cannot be seen all are made: that changes nothing where one is.
        unseen = observed.bindings is None or f"binding {name}" in observed.unreadable
        if f"binding {name}" in made or (unseen and binding.target not in held):
            yield Step("bind", name, binding)
    for binding in observed.bindings or ():
        if f"binding {address_of_binding(binding)}" in gone:
            yield Step("unbind", address_of_binding(binding), binding)
    yield from _deletions(gone, "policy", "delete policy")
    yield from _deletions(gone, "queue", "delete queue")
    yield from _deletions(gone, "exchange", "delete exchange")


def _held(wanted: Wanted, changes: tuple[Change, ...]) -> frozenset[str]:
    """Return the partitions of queues whose number must not change."""
    queues = {change.name for change in changes if change.action is Action.FORBIDDEN and change.kind == "queue"}
    ring = filter(partitions.binds_partition, wanted.declarations.bindings)
    return frozenset(binding.target for binding in ring if partitions.queue_of(binding.source) in queues)


def _binding_place(binding: BindingSpec) -> tuple[int, object]:
    """Return when a binding is made: partitions before anything leads to them, in the order of the ring; then exchanges."""
    if partitions.binds_partition(binding):
        return 0, partitions.binding_order(binding)
    return (1 if binding.to_exchange else 2), ()


def _deletions(gone: set[str], kind: str, operation: Operation) -> Iterator[Step]:
    for address in sorted(gone):
        if address.startswith(f"{kind} "):
            yield Step(operation, address.removeprefix(f"{kind} "), None)


def seen_of(observed: Observed, address: str) -> str:
    """Return a hash of what was seen of one object, without its counts; the same whether it is seen twice or once."""
    kind, _, name = address.partition(" ")
    if kind == "exchange":
        exchange = observed.exchanges.get(name)
        return ABSENT if exchange is None else fingerprint([asdict(exchange.spec), exchange.policy])
    if kind == "rename":
        return ABSENT
    if kind == "queue":
        queue = observed.queues.get(name)
        return ABSENT if queue is None else fingerprint([asdict(queue.spec), queue.policy])
    if kind == "policy":
        policy: SeenPolicy | None = next((each for each in observed.policies or () if each.name == name), None)
        return ABSENT if policy is None else fingerprint(asdict(policy))
    if observed.bindings is None or address in observed.unreadable:
        return "unseen"
    found = [identity(binding) for binding in observed.bindings if address_of_binding(binding) == name]
    return fingerprint(repr(found)) if found else ABSENT
