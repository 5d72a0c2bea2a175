"""Events in Celery's form: what a worker and its tasks are doing, for Flower, `celery events` and exporters.

Off unless asked for (`-E`, or `enable_events` while it runs). When off, nothing of this exists, and the loop looks at one
attribute per task. When on:

* a task's events leave together with those of its turn of the loop, as one message (`task.multi`, as Celery does), without
  waiting and without promise (`sideline`);
* at most `TASKS_PER_SECOND` tasks are told of. A task is told of whole or not at all; those left out are counted;
* what runs is looked up every `LOOK_SECONDS`, not reported by children, so a task that ends sooner costs them nothing. The
  time at which it began is exact either way.

Arguments and results are not in events: they would be copies without a signature. What a Celery producer wrote into the
headers `argsrepr` and `kwargsrepr` is in clear already and passed on.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from amqpq.types import Properties, Publication
from amqpq.version import installed
from amqpq.worker.again import retries_of
from amqpq.worker.control.lamport import LamportClock
from amqpq.worker.control.sideline import EVENTS
from amqpq.worker.jobs import Job
from amqpq.worker.reactor import Reactor, Timer
from amqpq.worker.settle import Happened
from amqpq.worker.work import Finished

HEARTBEAT_SECONDS: Final = 2.0
"""Celery's `worker_heartbeat` of events; Flower calls a worker offline after a few without one."""
LOOK_SECONDS: Final = 0.25
TASKS_PER_SECOND: Final = 500.0
BATCH_EVENTS: Final = 100
"""Events per message."""
TRACEBACK_CHARACTERS: Final = 8192
NOT_TOLD: Final = "(not in events)"
"""In place of arguments and results; nothing at all would read as None."""
_TRANSIENT: Final = 1

_RAN: Final = frozenset({Happened.SUCCEEDED, Happened.FAILED, Happened.OVERRAN, Happened.CRASHED, Happened.RETRIED})
"""What happens only to a task that has begun."""


_ENDS: Final = frozenset(_RAN | {Happened.REVOKED, Happened.EXPIRED, Happened.REFUSED})


class Running(NamedTuple):
    """Where a work runs: the process, and since when, seconds since the epoch; None where only that process knows."""

    pid: int
    since: float | None


class Seen(Protocol):
    """What events tell of, as the loop has it."""

    def running(self) -> dict[int, Running]:
        """The works that run now, by number."""

    def job(self, number: int) -> Job | None:
        """The job of this number, if it is not ended."""

    def totals(self) -> tuple[int, int]:
        """How many tasks run, and how many have ended."""


class Events:
    """Tells of one worker and its tasks.

    Args:
        worker: Its name.
        seen: What to tell of.
        clock: Celery's logical clock.
        send: Publishes without promise.
        reactor: The loop's.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        worker: str,
        seen: Seen,
        clock: LamportClock,
        send: Callable[[Sequence[Publication]], object],
        reactor: Reactor,
        now: Callable[[], float],
    ) -> None:
        self.left_out = 0
        """Tasks that were not told of, for there were too many."""
        self._worker = worker
        self._seen = seen
        self._clock = clock
        self._send = send
        self._reactor = reactor
        self._now = now
        self._pid = os.getpid()
        self._told: dict[int, bool] = {}
        """Number of each task that is told of, and whether its start was."""
        self._buffer: list[dict[str, Any]] = []
        self._room = TASKS_PER_SECOND
        self._refilled = reactor.monotonic()
        self._timers: list[Timer] = []
        self.tasks_on = True

    # --------------------------------------------------------------------------------------------------------- a worker

    def start(self) -> None:
        """Say that the worker is there, and go on saying it."""
        self.beat("worker-online")
        self._timers = [
            self._reactor.call_later(HEARTBEAT_SECONDS, self._heartbeat),
            self._reactor.call_later(LOOK_SECONDS, self._look),
        ]

    def stop(self) -> None:
        """Say that it goes."""
        for timer in self._timers:
            timer.cancel()
        self.flush()
        self.beat("worker-offline")

    def beat(self, kind: str = "worker-heartbeat") -> None:
        """Send an event about the worker."""
        active, processed = self._seen.totals()
        event = self._event(
            kind,
            freq=HEARTBEAT_SECONDS,
            active=active,
            processed=processed,
            loadavg=[round(value, 2) for value in os.getloadavg()],
            sw_ident="amqpq",
            sw_ver=version(),
            sw_sys=platform.system(),
        )
        self._publish(kind.replace("-", "."), event)

    def _heartbeat(self) -> None:
        self.beat()
        self._timers[0] = self._reactor.call_later(HEARTBEAT_SECONDS, self._heartbeat)

    # ------------------------------------------------------------------------------------------------------------ tasks

    def received(self, job: Job) -> None:
        """A task has come."""
        if not self.tasks_on:
            return
        now = self._reactor.monotonic()
        self._room = min(TASKS_PER_SECOND, self._room + (now - self._refilled) * TASKS_PER_SECOND)
        self._refilled = now
        if self._room < 1:
            self.left_out += 1
            return
        self._room -= 1
        self._told[job.number] = False
        get = job.delivery.properties.headers.get
        self._buffer.append(
            self._event(
                "task-received",
                uuid=job.id,
                name=job.task,
                args=_text(get("argsrepr")) or NOT_TOLD,
                kwargs=_text(get("kwargsrepr")) or NOT_TOLD,
                root_id=_text(get("root_id")) or job.id,
                parent_id=_text(get("parent_id")),
                retries=_count(get("retries")) + retries_of(job.delivery.properties),
                eta=_text(get("eta")),
                expires=_text(get("expires")),
            )
        )

    def concluded(self, job: Job, finished: Finished, *, again: bool) -> None:
        """A task has ended here; `again`: it is tried again."""
        started = self._told.pop(job.number, None)
        if started is None:
            return
        happened = finished.happened
        if not started and happened in _RAN:
            self._started(job.id, self._now() - finished.seconds)
        told = ending(finished, again=again)
        if told is not None:
            kind, fields = told
            self._buffer.append(self._event(kind, uuid=job.id, **fields))

    def flush(self) -> None:
        """Send the events of this turn."""
        if not self._buffer:
            return
        events, self._buffer = self._buffer, []
        for at in range(0, len(events), BATCH_EVENTS):
            self._publish("task.multi", events[at : at + BATCH_EVENTS])

    def _look(self) -> None:
        """Tell of the tasks that have begun since the last look."""
        for number, running in self._seen.running().items():
            job = self._seen.job(number)
            if job is not None and self._told.get(number) is False:
                self._told[number] = True
                self._started(job.id, self._now() if running.since is None else running.since)
        for number in [number for number in self._told if self._seen.job(number) is None]:
            del self._told[number]  # given back
        self.flush()
        self._timers[1] = self._reactor.call_later(LOOK_SECONDS, self._look)

    def _started(self, task_id: str, when: float) -> None:
        self._buffer.append({**self._event("task-started", uuid=task_id), "timestamp": when})

    # ---------------------------------------------------------------------------------------------------------- sending

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {
            "hostname": self._worker,
            "utcoffset": _utcoffset(),
            "pid": self._pid,
            "clock": self._clock.forward(),
            **fields,
            "timestamp": self._now(),
            "type": kind,
        }

    def _publish(self, key: str, event: object) -> None:
        properties = Properties(
            "application/json", "utf-8", {"hostname": self._worker}, _TRANSIENT, timestamp=int(self._now())
        )
        body = json.dumps(event, separators=(",", ":")).encode()
        self._send((Publication(EVENTS.name, key, body, properties, mandatory=False),))


def ending(finished: Finished, *, again: bool) -> tuple[str, dict[str, Any]] | None:
    """Return the event that says how a task ended, with its fields; None where it has only been put off. Pure."""
    happened = finished.happened
    if happened not in _ENDS:
        return None
    if happened == Happened.SUCCEEDED:
        return "task-succeeded", {"result": NOT_TOLD, "runtime": finished.seconds}
    if happened in {Happened.REVOKED, Happened.EXPIRED}:
        expired = happened == Happened.EXPIRED
        terminated = finished.cause == "terminated"
        return "task-revoked", {"terminated": terminated, "signum": None, "expired": expired}
    if happened == Happened.REFUSED:
        return "task-rejected", {"requeue": False}
    told = {"exception": finished.reason, "traceback": finished.traceback[-TRACEBACK_CHARACTERS:] or None}
    return "task-retried" if again else "task-failed", told


def _count(value: object) -> int:
    return value if type(value) is int else 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _utcoffset() -> float:
    """Hours west of UTC, as Celery counts them."""
    zone = time.altzone if time.daylight and time.localtime().tm_isdst else time.timezone
    return zone / 3600


def version() -> str:
    """Return the version of amqpq; `source` where it is not installed."""
    return installed() or "source"
