"""Soft time limits: `SoftTimeLimitExceeded`, raised in the task while it runs. Works on a main thread only.

The alarm is the process's real-time timer (`SIGALRM`), because a signal also interrupts a task that waits in a system call.
The handler and the timer are set for the length of one limited task, and put back after it.

An `async def` task needs more. While it computes, raising from the handler is right. While it waits, the handler runs
inside the event loop, and an exception there would end the loop instead of reaching the `await`. So then the task is
cancelled, and what drives its coroutine turns that cancellation into the error (`Driven`).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Generator
from types import FrameType
from typing import Any, Final, Protocol

from amqpq.errors import SoftTimeLimitExceeded
from amqpq.worker.limits import Limits

LONGEST_SECONDS: Final = 1e8
"""Three years; the system's timer takes no number of any size."""


class Alarm:
    """The timekeeper of soft limits, for one task at a time."""

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._set = False
        self._before: Any = signal.SIG_DFL
        self._task: asyncio.Task[Any] | None = None
        self.error: SoftTimeLimitExceeded | None = None
        """What the cancellation under way stands for."""

    def begin(self, limits: Limits) -> None:
        """Have the error raised on this thread, the main one, at the soft limit."""
        if limits.soft is not None:
            before = signal.signal(signal.SIGALRM, self._ring)
            if not self._set:  # else the error came out of `end` before it could put back what was there
                self._before = before
            self._set = True
            self._seconds = limits.soft
            signal.setitimer(signal.ITIMER_REAL, min(limits.soft, LONGEST_SECONDS))

    def end(self) -> None:
        """Have nothing raised any more; the error may still come out of this call, and not after it."""
        self._seconds = None
        if self._set:
            self._set = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            # This call runs handlers that are due before it changes them, and ours does nothing now.
            signal.signal(signal.SIGALRM, self._before)

    def finish(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Run an `async def` task to its end, with the error raised where it waits or computes."""
        try:
            return asyncio.run(self.drive(coroutine))
        finally:
            self._task = self.error = None

    async def drive(self, coroutine: Coroutine[Any, Any, Any]) -> object:
        """Await an `async def` task, the one that runs, with the error raised in it."""
        self._task = asyncio.current_task()
        return await Driven(coroutine, self)

    def _ring(self, _signal: int, _frame: FrameType | None) -> None:
        seconds, self._seconds = self._seconds, None
        if seconds is None:
            return
        error = SoftTimeLimitExceeded(f"the task ran longer than its soft time limit of {seconds:g} s")
        task = self._task
        if task is None or asyncio.current_task(task.get_loop()) is task:
            raise error
        self.error = error
        task.get_loop().call_soon_threadsafe(task.cancel)


class Bell(Protocol):
    """What a cancellation may stand for."""

    error: SoftTimeLimitExceeded | None


class Driven:
    """Runs a coroutine as `await` would, but for the cancellation that stands for the alarm.

    Args:
        coroutine: The task's.
        bell: Its `error` is raised instead of the next cancellation, and taken off.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], bell: Bell) -> None:
        self._coroutine = coroutine
        self._bell = bell

    def __await__(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration as end:
                return end.value
            try:
                yield awaited
            except asyncio.CancelledError as cancelled:
                error = self._meant() or cancelled
            except BaseException as raised:  # noqa: BLE001 - whatever is thrown in is the coroutine's to see
                error = raised
            else:
                error = None

    def _meant(self) -> SoftTimeLimitExceeded | None:
        """Take the alarm's error, if there is one, and the cancellation off the task."""
        error, self._bell.error = self._bell.error, None
        task = asyncio.current_task()
        if error is not None and task is not None:
            task.uncancel()
        return error
