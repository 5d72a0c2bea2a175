"""Carries out a destruction: under the lock, with a journal, each queue looked at once more before it goes. Blocking.

Whoever is cut off has a manifest that lists at least what is still there, and begins anew: what is gone is not seen, and the
rest goes.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

from amqpq.errors import AmqpqError, ConfigurationError, PreconditionFailed, TransportError
from amqpq.provision import journal
from amqpq.provision.destruction import Destruction
from amqpq.provision.journal import Manifest
from amqpq.provision.look import Eyes
from amqpq.provision.steps import Operation, Step
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Flow
from amqpq.types import BindingSpec, QueueSpec

SAMPLE_SECONDS: Final = 6.0
"""Between two looks at the statistics, which the broker renews every five seconds: so they are of two times."""
QUIET_SECONDS: Final = 30.0
"""How long to wait until nobody holds a message any more."""

OnStep: TypeAlias = Callable[[Step], object]

_STAGES: Final[tuple[tuple[Operation, ...], ...]] = (
    ("unbind",),
    ("delete queue",),
    ("delete exchange",),
    ("delete policy",),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it: the steps that are done, and the error that ended it."""

    done: tuple[Step, ...]
    error: AmqpqError | None


class Destroyer:
    """Carries out one destruction.

    Args:
        eyes: What the broker is looked at with; its connection holds the lock.
        project: Whose.
        manifest: What the project owns before.
        on_step: Told of each step that is done.
    """

    def __init__(self, eyes: Eyes, project: str, manifest: Manifest, on_step: OnStep) -> None:
        self._eyes = eyes
        self._project = project
        self._manifest = replace(manifest, serial=manifest.serial + 1, stage="destroying")
        self._on_step = on_step
        self._entry = 0
        self._done: list[Step] = []
        self._channel: Channel = eyes.connection.channel()

    def run(self, plan: Destruction) -> Outcome:
        """Do every step; an error ends it, and what is done stays done.

        Raises:
            ConfigurationError: Something stands against it; nothing was done.
        """
        if plan.refusals:
            raise ConfigurationError("something stands against it; nothing was done")
        last = [step for step in plan.steps if step.operation == "delete queue" and step.name in plan.last]
        rest = [step for step in plan.steps if step not in last]
        try:
            self._flow(journal.create(self._channel, self._project))
            self._note()
            for operations in _STAGES:
                self._stage([step for step in rest if step.operation in operations], plan)
            if not plan.whole:
                self._manifest = replace(self._manifest, stage="done")
                self._note()
            for step in last:
                self._flow(_deleted(self._eyes.connection.channel(), step.name))
                self._finish(step)
        except AmqpqError as error:
            self._stopped(error)
            return Outcome(tuple(self._done), error)
        return Outcome(tuple(self._done), None)

    def _stage(self, steps: Sequence[Step], plan: Destruction) -> None:
        if not steps:
            return
        if steps[0].operation == "delete queue":
            self._until_unheld([step.name for step in steps if step.name not in plan.dropped])
        for step in steps:
            self._do(step, plan)
            self._finish(step)
        gone = {step.address for step in steps}
        self._manifest = replace(self._manifest, owned=self._manifest.owned - gone)
        self._note()

    def _finish(self, step: Step) -> None:
        self._done.append(step)
        self._on_step(step)

    def _do(self, step: Step, plan: Destruction) -> None:
        connection = self._eyes.connection
        if step.operation == "unbind":
            self._flow(_unbound(connection.channel(), cast("BindingSpec", step.spec)))
        elif step.operation == "delete exchange":
            self._flow(_without_exchange(connection.channel(), step.name))
        elif step.operation == "delete policy":
            self._delete_policy(step.name)
        else:
            self._delete_queue(step.name, plan)

    def _delete_policy(self, name: str) -> None:
        if self._eyes.api is None:
            raise ConfigurationError("policies are deleted over the HTTP API; set broker.management")
        self._flow(journal.lock(self._channel, self._project))  # over HTTP nothing else tells that it is lost
        self._eyes.api.delete_policy(self._eyes.vhost, name)

    # ----------------------------------------------------------------------------------------------------------- queues

    def _until_unheld(self, names: Iterable[str]) -> None:
        """Ask the statistics, which lag, until they say twice that nobody holds a message of these queues.

        Only they know of deliveries that are held without a consumer. All queues are asked for at once.

        Raises:
            PreconditionFailed: Somebody does.
        """
        api, waiting = self._eyes.statistics, set(names)
        if api is None or not waiting:
            return
        deadline = time.monotonic() + QUIET_SECONDS
        quiet = 0
        while True:
            found = [each for each in api.queues(self._eyes.vhost) if each.name in waiting]
            held = {each.name: (each.unacknowledged or 0) + (each.delayed or 0) for each in found}
            quiet = 0 if any(held.values()) else quiet + 1
            if quiet == 2:  # noqa: PLR2004 - one may be of before
                return
            if time.monotonic() > deadline:
                shown = ", ".join(f"{count} of '{name}'" for name, count in sorted(held.items()) if count)
                raise PreconditionFailed(f"somebody holds messages: {shown}; when they are done, destroy again")
            time.sleep(SAMPLE_SECONDS)

    def _delete_queue(self, name: str, plan: Destruction) -> None:
        """Delete a queue of which the broker says in this moment that it is empty and unused.

        Classic queues are deleted on that condition. Others know no conditions (540): they are asked, and then deleted. A
        stream is only here when its messages are to go, too.
        """
        kind, dropped = plan.kinds[name], name in plan.dropped
        channel = self._eyes.connection.channel()
        state = self._flow(_state(channel, name))
        if state.consumers or (state.messages and not dropped and name not in plan.own):
            raise PreconditionFailed(
                f"queue '{name}' is in use again ({state.messages} messages, {state.consumers} consumers); it was not deleted, "
                "destroy again"
            )
        if kind == "classic":
            deletion = _deleted(channel, name, if_unused=True, if_empty=not dropped and name not in plan.own)
        else:
            deletion = _deleted(channel, name, look=name in plan.asked and not dropped)
        lost = self._flow(deletion)
        if lost and not dropped and name not in plan.own:
            raise TransportError(
                f"queue '{name}' was deleted, and {lost} messages with it that came in the last moment"
            )

    # ---------------------------------------------------------------------------------------------------------- journal

    def _note(self, **told: Any) -> None:
        self._entry += 1
        facts = {"host": platform.node(), "by": "destroy", "done": len(self._done), **told}
        self._flow(journal.write(self._channel, self._project, self._manifest, self._entry, facts))

    def _stopped(self, error: AmqpqError) -> None:
        """Note what ended it, where that is still possible."""
        try:
            self._channel = self._eyes.connection.channel()
            self._note(error=str(error)[:500])
        except AmqpqError:
            return  # the connection is gone, or the journal is: nothing else is left then

    def _flow(self, steps: Flow[Any]) -> Any:
        return flow.run(steps, self._eyes.timeout_seconds)


def _unbound(channel: Channel, spec: BindingSpec) -> Flow[None]:
    yield channel.unbind(spec)
    channel.close()


def _without_exchange(channel: Channel, name: str) -> Flow[None]:
    yield channel.delete_exchange(name, if_unused=True)
    channel.close()


def _state(channel: Channel, name: str) -> Flow[Any]:
    return (yield channel.declare_queue(QueueSpec(name), passive=True))


def _deleted(
    channel: Channel, name: str, *, if_unused: bool = False, if_empty: bool = False, look: bool = False
) -> Flow[int]:
    """Delete a queue; with `look` its leader is asked for a message first, which is no statistic."""
    if look:
        message = yield channel.get(name)
        if message is not None:
            channel.release(message.tag)
            channel.close()
            raise PreconditionFailed(f"queue '{name}' holds a message; it was not deleted")
    count = yield channel.delete_queue(name, if_unused=if_unused, if_empty=if_empty)
    channel.close()
    return int(count)
