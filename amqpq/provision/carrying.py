"""What the file wants of existing queues and exchanges that a policy of ours can make hold. Pure.

An argument cannot be changed on what exists. Where a policy can make the file's value hold all the same
(`amqpq.topology.effective`), a generated one does (`amqpq.provision.compiling`).

Only one user policy applies to an object. So a generated one takes over what a policy of the file says there, which it hides. A
policy of others is hidden, and what it says taken over, only where the file allows that (`policy_band: {inherit: true}`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from amqpq.provision import properties
from amqpq.provision.changes import Action
from amqpq.provision.compiling import Generated, Need, compiled
from amqpq.provision.observed import Observed, SeenPolicy, SeenQueue
from amqpq.provision.wanted import Wanted
from amqpq.topology.effective import applied, effective, is_generated, policy_key
from amqpq.types import ExchangeSpec, QueueSpec, Table


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an object gets no policy, and what to do."""

    because: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Carried:
    """The generated policies, and what they are among."""

    generated: tuple[Generated, ...] = ()
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    """By the address of the object."""
    others: tuple[SeenPolicy, ...] | None = None
    """All other user policies as they will be, those of the file included; None where none can be seen."""
    left: tuple[SeenPolicy, ...] = ()
    """Generated policies that are needed no more, and are not known to be this project's."""

    @property
    def to_be(self) -> tuple[SeenPolicy, ...] | None:
        """All user policies as they will be."""
        if self.others is None:
            return None
        return (*self.others, *self.left, *(each.policy for each in self.generated))

    def of(self, address: str) -> Generated | None:
        """Return the generated policy for an object."""
        return next((each for each in self.generated if any(need.address == address for need in each.needs)), None)


def carried(wanted: Wanted, observed: Observed, owned: frozenset[str] = frozenset()) -> Carried:
    """Find out which generated policies there have to be.

    Args:
        wanted: What the file says.
        observed: What was seen.
        owned: Addresses of what this project made.
    """
    seen = observed.policies or ()
    ours = tuple(policy for policy in seen if is_generated(wanted.project, policy.name))
    others = (
        *(policy for policy in seen if policy not in ours and policy.name not in wanted.policies),
        *wanted.policies.values(),
    )
    needs: list[Need] = []
    refused: dict[str, Refusal] = {}
    for kind, name, definition in _differing(wanted, observed, others, ours):
        need = Need(kind, name, wanted.band.first, definition)
        found = _letters_at_risk(need, others, observed) or _need(wanted, others, ours, need)
        if isinstance(found, Need):
            needs.append(found)
            continue
        refused[need.address] = found
        kept = applied(ours, kind, name).policy
        if kept is not None:  # what holds now goes on holding
            needs.append(Need(kind, name, kept.priority, kept.definition))
    # Where policies cannot be seen, the manifest knows at least the names of those that were made.
    taken = frozenset(a.removeprefix("policy ") for a in owned) if observed.policies is None else frozenset[str]()
    generated = compiled(wanted.project, needs, ours, observed.version, taken=taken)
    names = {each.policy.name for each in generated}
    left = tuple(each for each in ours if each.name not in names and f"policy {each.name}" not in owned)
    return Carried(generated, refused, None if observed.policies is None else others, left)


def _differing(
    wanted: Wanted, observed: Observed, others: tuple[SeenPolicy, ...], ours: tuple[SeenPolicy, ...]
) -> Iterator[tuple[str, str, Table]]:
    """Find the objects of which something differs that a policy can make hold: kind, name, and that."""
    policies = None if observed.policies is None else others
    for name, spec in wanted.queues.items():
        seen = observed.queues.get(name)
        if seen is None or f"queue {name}" in observed.unreadable:
            continue
        now = applied(ours, seen.type, name).policy
        if properties.kind_of(spec) != seen.type and now is None:
            continue  # it has to move; what a policy of ours gives it until then would not go before
        as_it_is = replace(spec, arguments={**spec.arguments, properties.QUEUE_TYPE: seen.type})
        found = {**_kept(seen, now), **_carried_by_policy(as_it_is, seen.spec, policies, observed)}
        if found:
            yield seen.type, name, found
    for name, exchange in wanted.exchanges.items():
        there = observed.exchanges.get(name)
        if there is not None and (missing := _carried_by_policy(exchange, there.spec, policies, observed)):
            yield "exchange", name, missing


def _kept(seen: SeenQueue, now: SeenPolicy | None) -> Table:
    """Return what a policy of ours goes on saying until the queue has moved: without it dead letters would be dropped."""
    kept = seen.type == "quorum" and seen.spec.arguments.get("x-dead-letter-strategy") == "at-least-once"
    if not kept or now is None or now.definition.get("overflow") != "reject-publish":
        return {}
    return {"overflow": "reject-publish"}


def _carried_by_policy(
    spec: QueueSpec | ExchangeSpec,
    seen: QueueSpec | ExchangeSpec,
    policies: tuple[SeenPolicy, ...] | None,
    observed: Observed,
) -> Table:
    if isinstance(spec, QueueSpec) and isinstance(seen, QueueSpec):
        operators, version = observed.operator_policies, observed.version
        details = properties.of_queue(spec, seen, policies, operators, version=version)
    elif isinstance(spec, ExchangeSpec) and isinstance(seen, ExchangeSpec):
        details = properties.of_exchange(spec, seen, policies)
    else:
        return {}
    return {policy_key(detail.key): detail.after for detail in details if detail.action is Action.POLICY}


def _letters_at_risk(need: Need, others: tuple[SeenPolicy, ...], observed: Observed) -> Refusal | None:
    """A quorum queue that leaves at-least-once drops the dead letters that are not confirmed yet (docs/quorum-queues)."""
    if need.kind != "quorum" or need.definition.get("overflow", "reject-publish") == "reject-publish":
        return None
    policy = applied(observed.policies or others, need.kind, need.name).policy
    holds = effective(need.kind, observed.queues[need.name].spec.arguments, policy, None, version=observed.version)
    strategy, overflow = (holds[key].value if key in holds else None for key in ("dead-letter-strategy", "overflow"))
    if (strategy, overflow) != ("at-least-once", "reject-publish"):
        return None
    return Refusal(
        "its dead letters are kept until they are confirmed; with another overflow the broker drops those that are not",
        "`amqpq topology migrate` moves its messages to a new queue; or write the broker's value into the file",
    )


def _need(wanted: Wanted, others: tuple[SeenPolicy, ...], ours: tuple[SeenPolicy, ...], need: Need) -> Need | Refusal:
    """Put a need above the policy that applies to the object without it, and take over what that says."""
    band = wanted.band
    now = applied(ours, need.kind, need.name).policy
    # A priority is never lowered: for a moment another policy would apply.
    need = (
        need if now is None or not need.priority < now.priority <= band.last else replace(need, priority=now.priority)
    )
    hidden = applied(others, need.kind, need.name).policy
    if hidden is None:
        return need
    foreign = hidden.name not in wanted.policies
    if foreign and not band.inherit:
        return Refusal(
            f"a policy with {_listed(need.definition)} would hide policy {hidden.name} (priority {hidden.priority}) with "
            f"{_listed(hidden.definition)}",
            "`policy_band: {inherit: true}` takes over what it says; or agree with its owner on one policy",
        )
    if hidden.priority >= band.last:
        return Refusal(
            f"policy {hidden.name} has priority {hidden.priority}, and generated ones end at {band.last}",
            f"write `policy_band: {{from: {hidden.priority + 1}, to: {hidden.priority + 100}}}`, with `inherit` as it is",
        )
    definition = {**hidden.definition, **need.definition}
    return replace(need, priority=max(need.priority, hidden.priority + 1), definition=definition)


def _listed(definition: Table) -> str:
    return ", ".join(f"{key}: {value!r}" for key, value in definition.items()) or "nothing"
