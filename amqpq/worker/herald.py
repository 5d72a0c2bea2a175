"""Tells the receivers of signals what happens in the worker's own process, on a thread that only they have.

The loop's thread owns the connections and never runs user code; so it leaves what there is to tell here and goes on. The
thread begins with the first event that somebody listens to. What waits for it has a bound: a receiver that cannot keep up
loses events, and the log says how many. A worker that slowed down for its listeners would be worse.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from amqpq import signals
from amqpq.errors import RemoteMessageError, TimeLimitExceeded, UnregisteredTask, WorkerLost
from amqpq.hooks import info_of
from amqpq.log import SIGNALS
from amqpq.signals import Signal
from amqpq.worker.jobs import Job
from amqpq.worker.settle import Happened, Settlement, Step
from amqpq.worker.work import Finished

logger = logging.getLogger(SIGNALS)

ROOM: Final = 10_000
"""Events that wait for receivers; a slow receiver of `task_received` fills it in seconds, and memory has to have a bound."""
LAST_SECONDS: Final = 5.0
"""How long a stopping worker waits for its receivers."""


class Arrival(NamedTuple):
    """A message, as far as it is known without having been checked."""

    task: str
    id: str
    queue: str
    redelivered: bool
    headers: Mapping[str, Any]


_Event: TypeAlias = tuple[Signal, str, dict[str, Any]]


class Herald:
    """Calls receivers of one worker, in order.

    Args:
        worker: Its name, the sender of its signals.
        room: How many events may wait.
    """

    def __init__(self, worker: str = "", room: int = ROOM) -> None:
        self._worker = worker
        self._events: queue.Queue[_Event | None] = queue.Queue(room)
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def tell(self, signal: Signal, sender: str | None = None, **arguments: Any) -> None:
        """Have the receivers of a signal called soon; never waits. On the loop's thread only."""
        if not signal.receivers:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="amqpq-signals", daemon=True)
            self._thread.start()
        try:
            self._events.put_nowait((signal, self._worker if sender is None else sender, arguments))
        except queue.Full:
            self.dropped += 1
            if self.dropped == 1:
                logger.warning("receivers of signals are too slow: %s is the first event that they miss", signal.name)

    def arrived(self, job: Job) -> None:
        """Tell that a message came."""
        if signals.task_received.receivers:
            self.tell(signals.task_received, request=_arrival(job))

    def concluded(self, job: Job, finished: Finished, settlement: Settlement) -> None:
        """Tell what the process of a task could not: it was refused, it expired, or its process is gone."""
        happened = finished.happened
        if happened == Happened.REFUSED:
            self._refused(job, finished)
        elif happened in {Happened.EXPIRED, Happened.REVOKED}:
            if signals.task_revoked.receivers:
                ended, expired = finished.cause == "terminated", happened == Happened.EXPIRED
                self.tell(
                    signals.task_revoked, request=_arrival(job), terminated=ended, signum=None, expired=expired
                )  # fmt: skip
        elif signals.task_failure.receivers and Step.REPUBLISH not in settlement.steps:
            kind = {Happened.OVERRAN: TimeLimitExceeded, Happened.CRASHED: WorkerLost}.get(Happened(happened))
            if kind is not None:
                error = kind(finished.reason)
                self.tell(
                    signals.task_failure, job.task,
                    task_id=job.id, exception=error, args=(), kwargs={}, traceback=None, einfo=info_of(error),
                )  # fmt: skip

    def close(self, timeout_seconds: float = LAST_SECONDS) -> None:
        """Tell what still waits, for so long; then end."""
        if self._thread is not None:
            try:
                self._events.put(None, timeout=timeout_seconds)
            except queue.Full:
                pass
            else:
                self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                logger.warning(
                    "receivers of signals did not end within %g s; what they had to hear is lost", timeout_seconds
                )
        if self.dropped:
            logger.warning("receivers of signals were too slow, and missed %d events", self.dropped)

    def _refused(self, job: Job, finished: Finished) -> None:
        unknown = finished.cause == UnregisteredTask.cause
        if unknown and signals.task_unknown.receivers:
            error = UnregisteredTask(finished.reason)
            self.tell(signals.task_unknown, message=_arrival(job), exc=error, name=job.task, id=job.id)
        elif not unknown and signals.task_rejected.receivers:
            refused = RemoteMessageError(finished.reason)
            refused.cause = finished.cause  # type: ignore[misc] # the words of the settle table are more than the classes
            self.tell(signals.task_rejected, message=_arrival(job), exc=refused)

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            signal, sender, arguments = event
            try:
                signal.send(sender, **arguments)
            except BaseException:  # a receiver that raises SystemExit ends nothing here
                logger.exception("a receiver of the signal %s failed", signal.name)


def _arrival(job: Job) -> Arrival:
    delivery = job.delivery
    return Arrival(job.task, job.id, job.queue, delivery.redelivered, delivery.properties.headers)
