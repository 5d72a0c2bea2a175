"""Carries out a migration, step by step: writes the journal, writes to the broker, waits, proves, deletes.

All of it goes through one connection, which holds a lock that the broker lets go of when the connection ends: whoever has lost
the lock cannot write any more either. The journal is written before a step is begun (`amqpq.provision.migration`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from amqpq.errors import (
    LocalError,
    ObjectNotFound,
    PreconditionFailed,
    ResourceLocked,
    TransportError,
)
from amqpq.provision import emptying
from amqpq.provision.migration import Action, Bind, Migration, Step, Unbind, actions, following, home, restored
from amqpq.topology.generations import NOTHING_MOVED, Generations, is_generation, stream_name, stream_spec
from amqpq.transport import flow, register
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, QueueState

T = TypeVar("T")

ANSWER_SECONDS: Final = 30.0
"""For one answer of the broker."""
UNLOADED_LOOKS: Final = 3
"""How often in a row a queue has to look empty before its drain is believed to be over."""
DELETIONS: Final = 3
"""How often a queue is tried to be deleted that was proven empty and is in use again."""
HEARD_SECONDS: Final = 75.0
"""After which every producer has asked again whether there is an ingress: twice `transport.ways.LOOK_SECONDS`, and slack."""


class Undecided(LocalError):
    """What has to be known before the next step cannot be read; nothing was changed by that."""


class NotYet(TransportError):
    """What the next step needs did not come in time; everything goes on working, and `resume` goes on from here."""


class Facts(Protocol):
    """What only the management API knows."""

    def bindings(self, queue: str) -> tuple[BindingSpec, ...]:
        """Return the bindings of a queue, but that of the default exchange."""

    def unsettled(self, queue: str) -> int | None:
        """Return how many messages a queue holds, those included that consumers hold; None where it has no numbers yet."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, seconds.

    `workers`: for workers to follow. `drain`: until a queue is empty. `quiet`: without a message, before a queue is deleted.
    `heard`: after an adoption, until no producer publishes by the queue's name any more. `look`: between two looks at what is
    waited for. `sample`: between two of the management API's numbers, which it renews every five seconds.
    """

    workers: float = 120.0
    drain: float = 3600.0
    quiet: float = 10.0
    heard: float = HEARD_SECONDS
    look: float = 1.0
    sample: float = 6.0


class Migrator:
    """Works on the migrations of one project.

    Args:
        connection: The only one that is used.
        project: Its name.
        facts: The management API; None where there is none.
        patience: How long to wait for what.
        report: Told each step before it is begun.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        connection: Connection,
        project: str,
        facts: Facts | None,
        patience: Patience = Patience(),
        report: Callable[[Migration], object] = lambda _: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._project = project
        self._facts = facts
        self._patience = patience
        self._report = report
        self._now = now
        self._channel: Channel | None = None
        self.generations = NOTHING_MOVED
        self.followed = True
        """Whether to wait until workers consume what they are told to."""
        self.unproven = False
        """Whether a queue may be deleted of which only this protocol has said that it is empty."""
        self.moved = 0
        """Messages that were moved from a queue that is given up."""

    # ------------------------------------------------------------------------------------------------------------ life

    def lock(self) -> None:
        """Take the project's lock and read its record.

        Raises:
            ResourceLocked: Somebody else changes this project's topology right now.
        """
        name = lock_name(self._project)
        try:
            self._ask(self._connection.channel().declare_queue(QueueSpec(name, durable=False, exclusive=True)))
        except ResourceLocked as error:
            raise ResourceLocked(
                f"somebody else is changing the topology of project {self._project!r} (queue {name!r} is theirs until their "
                "connection ends); wait for them"
            ) from error
        self.generations = self.read()

    def read(self) -> Generations:
        """Read the record."""
        return register.look_now(self._connection, self._project)

    def find(self, queue: str | None = None) -> Migration | None:
        """Return the migration that is under way, of that queue or of any."""
        for name, place in self.generations.homes.items():
            if place.journal is not None and queue in {None, name}:
                return restored(place.journal)
        return None

    def begin(self, migration: Migration) -> None:
        """Write the first entry of the journal."""
        self._ask(self._writing.declare_queue(stream_spec(self._project)))
        self._record(migration)

    # ----------------------------------------------------------------------------------------------------------- steps

    def go(self, migration: Migration, until: Step | None = None) -> Migration:
        """Do the steps from this one on; return the last that was done.

        Args:
            migration: At the step that is to be done, or done once more.
            until: The last step to do; None for all.

        Raises:
            NotYet: Workers, or the drain, take longer than the patience.
            Undecided: Nobody can say whether a queue may be deleted.
        """
        current = migration
        if current.step is Step.DELETE:  # whoever proved it was cut off, maybe long ago
            self._prove_again(current)
        while True:
            self._report(current)
            self._record(current)
            self.perform(current)
            if current.step is Step.CUT and not current.adopted_at:
                current = replace(current, adopted_at=self._now())
            next_one = following(current)
            if next_one is None or (current.step is until and not current.aborting):
                return current
            current = next_one

    def perform(self, migration: Migration) -> None:
        """Do what the step is."""
        try:
            for action in actions(migration):
                self.write(action)
        except PreconditionFailed as error:
            self._channel = None
            if migration.step is not Step.CREATE:
                raise
            raise PreconditionFailed(_not_made(migration, error)) from error
        match migration.step:
            case Step.FOLLOW:
                self._until_followed(migration)
            case Step.DRAIN:
                self._until_drained(migration)
            case Step.LEAVE:
                self._until_left(migration)
            case Step.PROVE:
                self._prove(migration)
            case Step.DELETE:
                self._delete(migration)

    def write(self, action: Action) -> None:
        """Write one thing to the broker."""
        if isinstance(action, Bind):
            self._ask(self._writing.bind(action.binding))
        elif isinstance(action, Unbind):
            self._ask(self._writing.unbind(action.binding))
        elif isinstance(action.spec, ExchangeSpec):
            self._ask(self._writing.declare_exchange(action.spec))
        else:
            self._ask(self._writing.declare_queue(action.spec))

    def _record(self, migration: Migration) -> None:
        former = migration.former
        if migration.step is Step.DONE and former is not None and not is_generation(former, migration.new):
            self.generations = self.generations.without(former)  # no queue of that name is left
        self.generations = self.generations.with_home(migration.queue, home(migration))
        self._run(register.put(self._writing, self._project, self.generations), ANSWER_SECONDS)

    # ----------------------------------------------------------------------------------------------------------- waits

    def _until_followed(self, migration: Migration) -> None:
        if not self.followed or migration.strategy == "move":
            return

        def behind() -> str | None:
            wanted, there = self._consumers(migration.old), self._consumers(migration.new)
            return None if there >= wanted else f"{wanted} consumers on {migration.old}, {there} on {migration.new}"

        self._until(
            behind,
            self._patience.workers,
            f"workers of {migration.queue!r} do not consume {migration.new!r}",
            f"{_why_not(migration)}they are of an older version, or may not read that queue or the stream "
            f"{stream_name(self._project)!r}; `resume` waits again, `resume --without-workers` does not, `abort` goes back",
        )

    def _until_left(self, migration: Migration) -> None:
        if migration.strategy == "move" and not self._consumers(migration.old):
            return

        def staying() -> str | None:
            there = self._consumers(migration.old)
            return f"{there} consumers" if there else None

        self._until(
            staying,
            self._patience.workers,
            f"somebody still consumes {migration.old!r}",
            f"{_why_not(migration)}a worker whose task takes this long keeps nothing but what it has begun; a foreign consumer "
            "has to be stopped; then `resume`",
        )

    def _until_drained(self, migration: Migration) -> None:
        if migration.strategy == "move":
            self._move(migration, proof=False)
            return
        looks = 0

        def filled() -> str | None:
            nonlocal looks
            # To a queue that is swapped messages go on coming by its name; what is left in the end is moved.
            count = self._ready(migration.old) if migration.returns else self._count(migration.old)
            looks = looks + 1 if count <= (emptying.WINDOW if migration.returns else 0) else 0
            return None if looks >= UNLOADED_LOOKS else f"{count} messages"

        self._until(
            filled,
            self._patience.drain,
            f"queue {migration.old!r} is not empty",
            "its workers go on emptying it; `resume` waits again",
        )

    def _until(self, waiting_for: Callable[[], str | None], seconds: float, what: str, remedy: str) -> None:
        deadline = time.monotonic() + seconds
        while True:
            found = waiting_for()
            if found is None:
                return
            if time.monotonic() > deadline:
                raise NotYet(f"{what} after {seconds:g} s ({found}): {remedy}")
            time.sleep(self._patience.look)

    # ----------------------------------------------------------------------------------------------------------- proof

    def _prove(self, migration: Migration) -> None:
        """See that the old queue is empty and stays so; see the module `emptying`."""
        if self.state(migration.old) is None:
            return
        self._move(migration, proof=True)
        if self._facts is None:
            if not self.unproven:
                raise Undecided(
                    f"whether a worker still holds messages of {migration.old!r}, or somebody has bound it, cannot be read "
                    "without the management API: the queue stays. Name the API (`broker.management`, $AMQPQ_MANAGEMENT_URL), or "
                    "delete it all the same with `migrate finish --unproven`"
                )
            return
        left = self._facts.bindings(migration.old)
        if left:
            raise Undecided(
                f"queue {migration.old!r} is still bound to {', '.join(sorted({each.source for each in left}))}, by somebody "
                "else: unbind it there, then `migrate resume`"
            )
        facts, patience = self._facts, self._patience

        def unsettled(queue: str) -> int | None:
            if self._ready(queue):  # somebody has published to it since
                self._move(migration, proof=True)
            return facts.unsettled(queue)

        emptying.until_unheld(unsettled, migration.old, patience.workers, patience.sample)

    def _prove_again(self, migration: Migration) -> None:
        """Prove it where somebody may have used the queue since."""
        self._until_left(migration)
        self._prove(migration)

    def _move(self, migration: Migration, *, proof: bool) -> None:
        patience = self._patience
        quiet = patience.quiet if proof else 0.0
        if proof and migration.old in migration.names:  # which producers may still publish to
            quiet = max(quiet, migration.adopted_at + patience.heard - self._now())
        mover = emptying.Mover(self._connection, migration.into, migration.old)
        try:
            mover.empty(quiet, patience.drain)
        finally:
            self.moved += mover.moved

    def _delete(self, migration: Migration) -> None:
        if not any(is_generation(name, migration.old) for name in migration.names):
            raise LocalError(f"{migration.old!r} is no generation of {migration.queue!r}; it is not deleted")
        if self.state(migration.old) is None:
            return
        lost = self._deleted(migration)
        if lost:
            raise LocalError(
                f"queue {migration.old!r} was proven empty and held {lost} messages when it was deleted: somebody published to "
                "it by its physical name in that moment; those messages are gone"
            )

    def _deleted(self, migration: Migration) -> int:
        """Delete the old queue; return how many messages it held."""
        classic = migration.old_type == "classic"  # other types answer 540 to the conditions
        refused: PreconditionFailed | None = None
        for _ in range(DELETIONS):
            try:
                lost: int = self._ask(self._writing.delete_queue(migration.old, if_unused=classic, if_empty=classic))
            except PreconditionFailed as error:
                self._channel = None
                refused = error
                self._prove_again(migration)
            else:
                return lost
        raise NotYet(
            f"queue {migration.old!r} was empty and is in use again ({refused}): `resume` proves it once more, and goes on"
        ) from refused

    # ------------------------------------------------------------------------------------------------------------- asking

    @property
    def _writing(self) -> Channel:
        if self._channel is None or self._channel.closed.done():
            self._channel = self._connection.channel()
        return self._channel

    def _consumers(self, queue: str) -> int:
        state = self.state(queue)
        return 0 if state is None else state.consumers

    def _count(self, queue: str) -> int:
        ready = self._ready(queue)
        return ready if self._facts is None else max(ready, self._facts.unsettled(queue) or 0)

    def _ready(self, queue: str) -> int:
        state = self.state(queue)
        return 0 if state is None else state.messages

    def state(self, queue: str) -> QueueState | None:
        """Return what a queue says of itself; None where there is none."""
        channel = self._connection.channel()
        try:
            state: QueueState = self._ask(channel.declare_queue(QueueSpec(queue), passive=True))
        except ObjectNotFound:
            return None
        channel.close()
        return state

    def exists(self, queue: str) -> bool:
        """Whether the broker has a queue of that physical name."""
        return self.state(queue) is not None

    def _ask(self, pending: Any) -> Any:
        return self._run(_one(pending), ANSWER_SECONDS)

    def _run(self, work: Flow[T], seconds: float) -> T:
        return flow.run(work, seconds)


def _why_not(migration: Migration) -> str:
    """Return what else keeps workers from a queue that is the first of its name."""
    if not migration.renames:
        return ""
    return f"they have the file in which it is {migration.former!r}, and have to be started anew with the new one; or "


def _not_made(migration: Migration, error: PreconditionFailed) -> str:
    """Return why the new queue is not there, and what to do."""
    remedy = "abort, correct the file, and migrate anew"
    if migration.returning:
        remedy = (
            "while the name was free, somebody else has declared a queue of that name. `abort` takes along what that one holds, "
            f"and the queue stays in {migration.old!r}; when nobody declares it any more, migrate anew, and it goes on from there"
        )
    return f"queue {migration.new!r} cannot be made like this: {error}; {remedy}"


def lock_name(project: str) -> str:
    """Return the name of the exclusive queue that is a project's lock."""
    return f"amqpq.lock.{project}"


def _one(pending: Any) -> Flow[Any]:
    return (yield pending)
