"""Carries out a plan: under the lock, with a journal, each step confirmed, what is added before what goes. Blocking.

Everything over AMQP is written on the connection that holds the lock: whoever loses the lock has lost the connection, and cannot
write any more. Before each write over HTTP the lock is taken once more, which fails where it is lost.

A step that fails ends the apply. What was done stays done and is in the journal; every step can be done again, so the next
plan finds the rest, and goes on.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

from amqpq.errors import AmqpqError, ConfigurationError, PreconditionFailed, TransportError
from amqpq.management import Management, PolicyInfo, QueueInfo
from amqpq.provision import journal
from amqpq.provision.compiling import Generated, Need
from amqpq.provision.journal import Manifest, Stage
from amqpq.provision.look import Eyes, look
from amqpq.provision.noting import note
from amqpq.provision.observed import SeenPolicy, address_of_binding
from amqpq.provision.plan import ABSENT, Plan
from amqpq.provision.steps import Operation, Step
from amqpq.provision.wanted import Wanted
from amqpq.topology.declarations import Declarations
from amqpq.topology.effective import argument_name
from amqpq.transport import declare, flow
from amqpq.transport.interface import Channel, Flow
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

STATISTICS_SECONDS: Final = 15.0
"""The broker gathers statistics every five seconds (`collect_statistics_interval`)."""
SAMPLES: Final = 2
PAUSE_SECONDS: Final = 0.5
POLICY_SECONDS: Final = 60.0
"""How long is waited until a policy that was written holds for its objects."""
POLICY_PAUSE_SECONDS: Final = 0.05

OnStep: TypeAlias = Callable[[Step], object]

_STAGES: Final[tuple[tuple[Stage, tuple[Operation, ...]], ...]] = (
    ("declared", ("rename", "exchange", "queue", "policy")),
    ("bound", ("bind",)),
    ("removed", ("unbind", "delete policy", "delete queue", "delete exchange")),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a plan: the steps that are done, and the error that ended it."""

    done: tuple[Step, ...]
    error: AmqpqError | None
    manifest: Manifest


class Applier:
    """Carries out one plan.

    Args:
        eyes: What the broker is looked at with; its connection holds the lock.
        wanted: The target of the plan.
        manifest: What the project owns before.
        on_step: Told of each step that is done.
    """

    def __init__(self, eyes: Eyes, wanted: Wanted, manifest: Manifest, on_step: OnStep) -> None:
        self._eyes = eyes
        self._wanted = wanted
        self._manifest = manifest
        self._on_step = on_step
        self._entry = 0
        self._done: list[Step] = []
        self._channel: Channel = eyes.connection.channel()

    def run(self, plan: Plan) -> Outcome:
        """Carry it out; the lock is held by this connection.

        Raises:
            ConfigurationError: The plan must not be carried out; nothing was done.
        """
        if plan.problems:
            raise ConfigurationError("the plan breaks a check of the file:\n" + "\n".join(plan.problems))
        if self._manifest.problem:
            raise ConfigurationError(
                f"what this project made cannot be read ({self._manifest.problem}); nothing was done, or that would be forgotten"
            )
        made = {step.address for step in plan.steps if step.spec is not None and step.operation != "unbind"}
        self._manifest = replace(
            self._manifest, serial=self._manifest.serial + 1, owned=self._manifest.owned | made, stage="begun"
        )
        try:
            self._flow(journal.create(self._channel, plan.project))
            self._note("begun", {"plan": plan.fingerprint})
            for stage, operations in _STAGES:
                self._stage(stage, [step for step in plan.steps if step.operation in operations], plan)
            self._manifest = replace(self._manifest, owned=self._owned(plan), carried=_carried(plan))
            self._note("done", {})
        except AmqpqError as error:
            self._stopped(error)
            return Outcome(tuple(self._done), error, self._manifest)
        return Outcome(tuple(self._done), None, self._manifest)

    def _stage(self, stage: Stage, steps: Sequence[Step], plan: Plan) -> None:
        if not steps:
            return
        if stage == "removed":
            self._verify(plan)
            for step in steps:
                self._remove(step)
                self._finish(step)
        else:
            self._rename([step for step in steps if step.operation == "rename"])
            declared = [step for step in steps if step.operation not in {"policy", "rename"}]
            self._declare(declared, plan)
            for step in steps:
                if step.operation == "policy":
                    self._put(step)
                    self._finish(step)
            written = {step.name for step in steps if step.operation == "policy"}
            for generated in plan.generated:
                if generated.policy.name in written:
                    self._await(generated)
        self._note(stage, {})

    def _finish(self, step: Step) -> None:
        self._done.append(step)
        self._on_step(step)

    # ------------------------------------------------------------------------------------------------------- adding

    def _rename(self, steps: Sequence[Step]) -> None:
        """Note where queues live that were renamed."""
        if steps:
            eyes, wanted = self._eyes, self._wanted
            note(eyes.connection, wanted.project, wanted.generations, wanted.queues.values(), eyes.timeout_seconds)
        for step in steps:
            self._finish(step)

    def _declare(self, steps: Sequence[Step], plan: Plan) -> None:
        specs = [step.spec for step in steps]
        names = {step.name for step in steps if step.operation == "queue"}
        contents = self._wanted.declarations.contents
        subset = Declarations(
            exchanges=tuple(spec for spec in specs if isinstance(spec, ExchangeSpec)),
            queues=tuple(spec for spec in specs if isinstance(spec, QueueSpec)),
            bindings=tuple(spec for spec in specs if isinstance(spec, BindingSpec)),
            contents={name: contents[name] for name in names if name in contents},
        )
        waiting = {step.address: step for step in steps}
        absent = {address for address, seen in plan.hashes.items() if seen == ABSENT}

        def there(spec: ExchangeSpec | QueueSpec) -> bool:
            kind = "exchange" if isinstance(spec, ExchangeSpec) else "queue"
            return f"{kind} {spec.name}" not in absent

        def settled(answer: declare.Applied) -> None:
            found = waiting.get(f"{answer.kind} {answer.name}") or _binding_named(waiting, answer.name)
            if answer.error is None and found is not None:
                self._finish(found)

        channels = self._eyes.connection.channel
        declare.demand(self._flow(declare.apply(channels, subset, there=there, on_step=settled)))

    def _put(self, step: Step) -> None:
        policy = cast("SeenPolicy", step.spec)
        info = PolicyInfo(policy.name, policy.pattern, cast("Any", policy.apply_to), policy.priority, policy.definition)
        self._api().put_policy(self._eyes.vhost, info)

    def _await(self, generated: Generated) -> None:
        """Wait until a policy holds for all its objects: the broker tells them of it one by one.

        Raises:
            PreconditionFailed: It does not.
        """
        policy, api = generated.policy, self._api()
        deadline = time.monotonic() + POLICY_SECONDS
        for need in generated.needs:
            while (holds := _policy_of(api, self._eyes.vhost, need)) != policy.name:
                if time.monotonic() > deadline:
                    told = f"policy {holds}" if holds else "no policy"
                    raise PreconditionFailed(
                        f"policy '{policy.name}' was written, and {told} holds for {need.address}; plan again"
                    )
                time.sleep(POLICY_PAUSE_SECONDS)

    def _api(self) -> Management:
        """Return the client, once it is certain that the lock is still held."""
        if self._eyes.api is None:
            raise ConfigurationError("policies are written over the HTTP API; set broker.management")
        self._flow(journal.lock(self._channel, self._wanted.project))
        return self._eyes.api

    # ----------------------------------------------------------------------------------------------------- removing

    def _verify(self, plan: Plan) -> None:
        """Look again before anything goes: all that was to be added must be there."""
        if plan.level == "amqp":
            return
        seen = look(self._eyes, self._wanted).observed
        names = {address_of_binding(binding) for binding in seen.bindings or ()}
        names |= {address.removeprefix("binding ") for address in seen.unreadable}
        missing = [
            step.address
            for step in plan.steps
            if (step.operation == "exchange" and step.name not in seen.exchanges)
            or (step.operation == "queue" and step.name not in seen.queues)
            or (step.operation == "bind" and step.name not in names)
        ]
        if missing:
            raise PreconditionFailed(f"declared, and not there any more: {', '.join(missing)}; nothing was removed")

    def _remove(self, step: Step) -> None:
        if step.operation == "unbind":
            self._flow(_unbind(self._channel, cast("BindingSpec", step.spec)))
        elif step.operation == "delete policy":
            self._api().delete_policy(self._eyes.vhost, step.name)
        elif step.operation == "delete exchange":
            self._flow(_delete_exchange(self._eyes.connection.channel(), step.name))
        else:
            self._delete_queue(step.name)

    def _delete_queue(self, name: str) -> None:
        """Delete a queue that is empty and unused.

        The broker itself looks (`if-unused`, `if-empty`) at classic queues only; for others the two are not implemented (540). A
        quorum queue is asked for a message instead, which its leader answers, and no statistics.
        """
        eyes = self._eyes
        classic = eyes.statistics is None or self._unused(eyes.statistics, name).type == "classic"
        lost = self._flow(_delete_queue(eyes.connection.channel(), name, classic=classic))
        if lost:
            raise TransportError(
                f"queue '{name}' was deleted, and {lost} messages with it that came in the last moment"
            )

    def _unused(self, api: Management, name: str) -> QueueInfo:
        """Ask the statistics, which lag, until they say twice in a row that nothing is in the queue and nobody at it.

        Raises:
            PreconditionFailed: They do not.
        """
        deadline = time.monotonic() + STATISTICS_SECONDS
        empty = 0
        while True:
            found = api.queue(self._eyes.vhost, name)
            counts = (found.ready, found.unacknowledged, found.consumers)
            empty = empty + 1 if counts == (0, 0, 0) and not found.delayed else 0
            if empty == SAMPLES:
                return found
            if time.monotonic() > deadline:
                shown = ", ".join("?" if count is None else str(count) for count in counts)
                raise PreconditionFailed(
                    f"queue '{name}' is in use (ready, unacknowledged, consumers: {shown}); it was not deleted, plan again"
                )
            time.sleep(PAUSE_SECONDS)

    # ------------------------------------------------------------------------------------------------------ journal

    def _owned(self, plan: Plan) -> frozenset[str]:
        """Return what is ours from now on: what the file declares, and what was ours and is still there."""
        removed = {step.address for step in plan.steps if step.spec is None or step.operation == "unbind"}
        wanted = self._wanted
        declared = [
            *(f"exchange {name}" for name in wanted.exchanges),
            *(f"queue {name}" for name in wanted.queues),
            *(f"policy {name}" for name in wanted.policies),
            *(f"binding {address_of_binding(binding)}" for binding in wanted.declarations.bindings),
        ]
        return (self._manifest.owned - removed - wanted.spared - plan.given_up) | frozenset(declared)

    def _note(self, stage: Stage, told: dict[str, Any]) -> None:
        self._manifest = replace(self._manifest, stage=stage)
        self._entry += 1
        facts = {"host": platform.node(), "done": len(self._done), **told}
        self._flow(journal.write(self._channel, self._wanted.project, self._manifest, self._entry, facts))

    def _stopped(self, error: AmqpqError) -> None:
        """Note what ended the apply, where that is still possible."""
        try:
            self._channel = self._eyes.connection.channel()
            self._note("stopped", {"error": str(error)[:500]})
        except AmqpqError:
            return  # the connection is gone: the last entry says how far it came

    def _flow(self, steps: Flow[Any]) -> Any:
        return flow.run(steps, self._eyes.timeout_seconds)


def _carried(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return what generated policies make hold, by queue and argument: what a worker cannot ask for."""
    needs = [need for generated in plan.generated for need in generated.needs if need.kind != "exchange"]
    return {need.name: {argument_name(key): value for key, value in need.definition.items()} for need in needs}


def _policy_of(api: Management, vhost: str, need: Need) -> str | None:
    """Return the policy that holds for an object; None where what holds of it is not what it says now."""
    if need.kind == "exchange":
        return next((found.policy for found in api.exchanges(vhost) if found.name == need.name), None)
    found = api.queue(vhost, need.name)
    holds = found.effective_policy or {}
    # Where an operator policy says the same key, its value may be the one that holds.
    says = all(holds.get(key) == value or found.operator_policy for key, value in need.definition.items())
    return found.policy if says else None


def _binding_named(waiting: dict[str, Step], name: str) -> Step | None:
    """Find a binding by the words of `declare`, which do not say that the target is an exchange."""
    return waiting.get(f"binding {name}") or waiting.get(f"binding {name} (exchange)")


def _unbind(channel: Channel, spec: BindingSpec) -> Flow[None]:
    yield channel.unbind(spec)


def _delete_exchange(channel: Channel, name: str) -> Flow[None]:
    yield channel.delete_exchange(name, if_unused=True)
    channel.close()


def _delete_queue(channel: Channel, name: str, *, classic: bool) -> Flow[int]:
    if classic:
        count = yield channel.delete_queue(name, if_unused=True, if_empty=True)
    else:
        message = yield channel.get(name)
        if message is not None:
            channel.release(message.tag)
            channel.close()
            raise PreconditionFailed(f"queue '{name}' holds a message; it was not deleted")
        count = yield channel.delete_queue(name)
    channel.close()
    return int(count)
