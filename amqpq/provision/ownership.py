"""What a plain apply does beside declaring: it takes the project's lock, and notes what is the project's from then on.

The lock and the manifest are those of `apply PLAN` (`amqpq.provision.journal`). Here both are a courtesy: a user who may not
have them declares all the same, and is told in one line what was not done. The questions are sent before the first answer is
waited for, so that they cost no time of their own.

Ours is what the file manages in full and the broker has: also what was there before, because whoever was killed between
declaring and noting must not leave objects that nobody ever owns.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from amqpq.errors import AccessRefused, AmqpqError, ConnectionLost, ResourceLocked
from amqpq.provision import journal
from amqpq.provision.journal import Manifest, Reading
from amqpq.provision.observed import address_of_binding
from amqpq.topology.declarations import Declarations
from amqpq.transport import flow
from amqpq.transport.declare import Applied, describe_binding
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.types import QueueSpec

if TYPE_CHECKING:
    from amqpq.management import Management

STATISTICS_SECONDS: Final = 8.0
"""The broker gathers them every five seconds."""
PAUSE_SECONDS: Final = 0.5


class Tenure:
    """The project's lock and manifest, for as long as it takes to declare its topology.

    Args:
        connection: The one that declares; the lock is the connection's.
        project: Whose.
        timeout_seconds: For the answers.
    """

    def __init__(self, connection: Connection, project: str, timeout_seconds: float) -> None:
        self.remarks: list[str] = []
        """What was not done because the user may not, a line each."""
        self._connection = connection
        self._project = project
        self._timeout_seconds = timeout_seconds
        self._held = True
        self._channel = connection.channel()
        spec = QueueSpec(journal.lock_name(project), durable=False, exclusive=True, auto_delete=True)
        self._lock = self._channel.declare_queue(spec)
        self._reading = Reading(connection, project)

    def take(self) -> None:
        """Wait for the lock.

        Raises:
            ResourceLocked: Somebody else has it.
            ConnectionLost: The connection is gone.
        """
        try:
            flow.run(_answer(self._lock), self._timeout_seconds)
        except ResourceLocked as error:
            self._reading.leave()
            raise journal.locked(self._project) from error
        except AccessRefused as error:
            self._held = False
            self.remarks.append(f"without the project's lock, as the user may not declare it ({_bare(error)})")

    def note(self, owned: Iterable[str]) -> None:
        """Note that these are ours too; nothing is written where that is known.

        Args:
            owned: Addresses, as a plan has them.

        Raises:
            ConnectionLost: The connection is gone.
        """
        try:
            manifest = journal.read(self._connection, self._project, begun=self._reading)
            if manifest.problem:
                self.remarks.append(f"what this project owns was not noted: {manifest.problem}")
                return
            more = manifest.owned | frozenset(owned)
            if more != manifest.owned or manifest.stage != "done":
                self._write(replace(manifest, serial=manifest.serial + 1, owned=more, stage="done"))
        except ConnectionLost:
            raise
        except AmqpqError as error:
            self.remarks.append(f"what this project owns was not noted: {_bare(error)}")

    def end(self) -> None:
        """Give the lock up; the connection goes on."""
        if self._held:
            flow.run(_ended(self._channel, self._project), self._timeout_seconds)

    def leave(self) -> None:
        """Give the lock up; nothing is noted."""
        self._reading.leave()
        self.end()

    def _write(self, manifest: Manifest) -> None:
        told = {"host": platform.node(), "by": "apply"}
        flow.run(_written(self._connection.channel(), self._project, manifest, told), self._timeout_seconds)


def owned(declared: Declarations, applied: Iterable[Applied], policies: Iterable[str] = ()) -> frozenset[str]:
    """Return the addresses of what is ours: what was declared, without what failed.

    Args:
        declared: What the file declares, where it lives.
        applied: What became of each object.
        policies: The names of the file's policies.
    """
    failed = {(step.kind, step.name) for step in applied if step.result == "failed"}
    there = [("exchange", spec.name) for spec in declared.exchanges]
    there += [("queue", spec.name) for spec in declared.queues]
    there += [("policy", name) for name in policies]
    return frozenset(
        [
            *(f"{kind} {name}" for kind, name in there if (kind, name) not in failed),
            *(
                f"binding {address_of_binding(binding)}"
                for binding in declared.bindings
                if ("binding", describe_binding(binding)) not in failed
            ),
        ]
    )


def holder(api: Management, vhost: str, project: str) -> str:
    """Say who holds the project's lock, as far as the management API tells; empty where it does not.

    It learns that of the statistics, some seconds late. A user with the tag `management` sees connections of its own only.
    """
    deadline = time.monotonic() + STATISTICS_SECONDS
    while True:
        try:
            details = api.queue(vhost, journal.lock_name(project)).raw.get("owner_pid_details") or {}
            name = str(details.get("name") or "")
            if name:
                return f"'{api.connection_label(name)}' ({name})"
        except AmqpqError:
            return ""
        if time.monotonic() > deadline:
            return ""
        time.sleep(PAUSE_SECONDS)


def _answer(pending: Any) -> Flow[Any]:
    return (yield pending)


def _ended(channel: Channel, project: str) -> Flow[None]:
    yield channel.delete_queue(journal.lock_name(project))
    channel.close()


def _written(channel: Channel, project: str, manifest: Manifest, told: Mapping[str, Any]) -> Flow[None]:
    yield from journal.create(channel, project)
    yield from journal.write(channel, project, replace(manifest, stage="done"), 1, told)
    channel.close()


def _bare(error: AmqpqError) -> str:
    return str(error).split("; ", 1)[0]
