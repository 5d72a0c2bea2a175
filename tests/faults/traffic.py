"""What goes through a cell: producers that publish with confirms whatever happens, and collectors that fetch the results.

Everything is counted here: which tasks the broker confirmed, and which answer came for each.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from amqpq import App
from amqpq.errors import AmqpqError, BatchFailed, ResultNotFound, ResultTimeout
from amqpq.replies.result import AsyncResult
from tests.faults import tally

PRODUCERS: Final = 2
BATCH: Final = 20
COLLECTORS: Final = 2
CHUNK: Final = 200
PUBLISH_SECONDS: Final = 30.0
COLLECT_SECONDS: Final = 3.0
"""For one go; what did not come is asked for again."""
PAUSE_SECONDS: Final = 0.1


class Traffic:
    """Publishes `count` tasks and fetches their results.

    Args:
        topology: The topology file, with the broker's address as producers see it.
        environ: Where that file finds the signing key and the password.
        task: Its name, and its arguments.
        count: How many at least; it goes on until it is told that the fault is over.
    """

    def __init__(self, topology: Path, environ: Mapping[str, str], task: tuple[str, Sequence[Any]], count: int) -> None:
        self.producing = App(topology, name="faults producing", environ=environ)
        self.collecting = App(topology, name="faults collecting", environ=environ)
        self._task = task
        self._count = count
        self._changed = threading.Condition()
        self._numbers = 0
        self._todo: deque[AsyncResult[Any]] = deque()
        self._paused = False
        self._closing = False
        self._abandoned = False
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self.confirmed: dict[str, None] = {}
        self.answers: dict[str, object] = {}
        self.forgiven: set[str] = set()
        """Confirmed, and deleted with their queue by the operator."""
        self.republished = 0
        """Tasks published once more by us, after an unknown outcome that outlasted the publish's own retries."""
        self.refusals = 0

    def start(self) -> None:
        """Begin."""
        for number, target in enumerate((self._produce,) * PRODUCERS + (self._collect,) * COLLECTORS):
            thread = threading.Thread(target=target, name=f"traffic-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def in_flight(self) -> int:
        """What may be published and unconfirmed at a time."""
        return PRODUCERS * BATCH

    def send(self, name: str, task_id: str, *arguments: object) -> None:
        """Publish one more task, with this id; it is counted like the others."""
        result = self.producing.send_task(name, arguments, task_id=task_id, timeout=PUBLISH_SECONDS)
        with self._changed:
            self.confirmed[task_id] = None
            self._todo.append(result)
            self._changed.notify_all()

    def until(self, share: float, timeout_seconds: float) -> None:
        """Wait until this share of the planned results is there.

        Raises:
            TimeoutError: It does not go on.
        """
        wanted = int(self._count * share)
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.answers) >= wanted, timeout_seconds):
                raise TimeoutError(f"{len(self.answers)} of {wanted} results came within {timeout_seconds:g} s")

    def more(self, count: int, timeout_seconds: float) -> None:
        """Wait until so many results more are there; raises what `until` raises."""
        with self._changed:
            wanted = min(len(self.answers) + count, max(self._numbers, self._count))
            if not self._changed.wait_for(lambda: len(self.answers) >= wanted, timeout_seconds):
                raise TimeoutError(f"{len(self.answers)} of {wanted} results came within {timeout_seconds:g} s")

    def until_answered(self, task_id: str, timeout_seconds: float) -> None:
        """Wait for the answer to one task; raises what `until` raises."""
        with self._changed:
            if not self._changed.wait_for(lambda: task_id in self.answers, timeout_seconds):
                raise TimeoutError(f"task {task_id} was not answered within {timeout_seconds:g} s")

    def pause(self, timeout_seconds: float) -> None:
        """Stop publishing, and wait until every confirmed task is answered."""
        with self._changed:
            self._paused = True
            if not self._changed.wait_for(
                lambda: (self._idle == PRODUCERS and not self.open) or self._abandoned, timeout_seconds
            ):
                raise TimeoutError(f"{len(self.open)} tasks were not answered within {timeout_seconds:g} s")

    def resume(self) -> None:
        """Publish again."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def forgive(self) -> None:
        """Leave out of the count what is confirmed and not answered now: its queue was deleted."""
        with self._changed:
            self.forgiven.update(self.open)

    @property
    def open(self) -> list[str]:
        """Confirmed, to be answered, and not answered yet."""
        return [task_id for task_id in self.confirmed if task_id not in self.answers and task_id not in self.forgiven]

    def extend(self, count: int) -> None:
        """Publish so many more at the least."""
        with self._changed:
            self._count = max(self._count, self._numbers + count)
            self._changed.notify_all()

    def finish(self, timeout_seconds: float) -> None:
        """Publish the rest, and wait for the answers to everything confirmed; what is missing then is missing."""
        self.resume()
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._numbers >= self._count and self._idle == PRODUCERS and not self.open, timeout_seconds
            )
            self._abandoned = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), PUBLISH_SECONDS))

    def close(self) -> None:
        """Let go of the broker."""
        self._abandoned = self._closing = True
        self.producing.close()
        self.collecting.close()

    # ------------------------------------------------------------------------------------------------------ producing

    def _take(self) -> list[str]:
        """Return the ids of the next batch; none at the end."""
        with self._changed:
            self._idle += 1
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._abandoned or (not self._paused and (self._closing or self._numbers < self._count))
            )
            if self._abandoned or self._numbers >= self._count:
                return []
            self._idle -= 1
            first = self._numbers
            self._numbers = min(first + BATCH, self._count)
            return [f"t{number}" for number in range(first, self._numbers)]

    def _produce(self) -> None:
        while ids := self._take():
            while ids and not self._abandoned:
                ids = self._publish(ids)

    def _publish(self, ids: list[str]) -> list[str]:
        """Publish a batch; return those that are not confirmed."""
        name, arguments = self._task
        sent: list[AsyncResult[Any]] = []
        failed: dict[str, AmqpqError] = {}
        try:
            with self.producing.batch(timeout=PUBLISH_SECONDS):
                sent = [self.producing.send_task(name, arguments, task_id=task_id) for task_id in ids]
        except BatchFailed as error:
            failed = dict(error.failures)
        except AmqpqError as error:
            failed = dict.fromkeys(ids, error)
        with self._changed:
            for result in sent:
                if result.id not in failed:
                    self.confirmed[result.id] = None
                    self._todo.append(result)
            if failed:
                self.republished += len(failed)
            self._changed.notify_all()
        if failed:
            threading.Event().wait(PAUSE_SECONDS)
        return [task_id for task_id in ids if task_id in failed]

    # ----------------------------------------------------------------------------------------------------- collecting

    def _collect(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._todo or self._abandoned)
                if self._abandoned:
                    return
                chunk = [self._todo.popleft() for _ in range(min(CHUNK, len(self._todo)))]
            chunk = [result for result in chunk if result.id not in self.forgiven]
            try:
                answers = self.collecting.collect(
                    chunk, timeout=COLLECT_SECONDS, propagate=False, on_result=self._answered
                )
            except ResultTimeout:
                self._again(chunk)
            except AmqpqError:
                self.refusals += 1
                self._again(chunk)
                threading.Event().wait(PAUSE_SECONDS)
            else:
                with self._changed:
                    for result, answer in zip(chunk, answers, strict=True):
                        if isinstance(answer, ResultNotFound):
                            self.answers[result.id] = answer
                    self._changed.notify_all()

    def _answered(self, result: AsyncResult[Any]) -> None:
        final = result.known.final
        if final is not None:
            with self._changed:
                self.answers[result.id] = result.known.value(final, propagate=False)
                self._changed.notify_all()

    def _again(self, chunk: Sequence[AsyncResult[Any]]) -> None:
        with self._changed:
            self._todo.extend(result for result in chunk if result.id not in self.answers)

    # --------------------------------------------------------------------------------------------------------- the end

    def lost(self, expected_failures: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the tasks that were confirmed and have no answer, or a wrong one."""
        counted = [task_id for task_id in self.confirmed if task_id not in {*self.forgiven, *expected_failures}]
        return tuple(tally.missing(counted, self.answers))
