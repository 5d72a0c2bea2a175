"""Soft time limits: `SoftTimeLimitExceeded`, raised in the task while it runs. Works on a main thread only.

The alarm is the process's real-time timer (`SIGALRM`), because a signal also interrupts a task that waits in a system call.
The handler and the timer are set for the length of one limited task, and put back after it.

An `async def` task needs more. While it computes, raising from the handler is right. While it waits, the handler runs
inside the event loop, and an exception there would end the loop instead of reaching the `await`. So then the task is
cancelled, and what drives its coroutine turns that cancellation into the error (`driven`). That, and asyncio with it, is
loaded with the first such task: a child that has none saves a megabyte.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Coroutine
from types import FrameType
from typing import Any, Final, Protocol

from amqpq.errors import SoftTimeLimitExceeded
from amqpq.worker.limits import Limits

LONGEST_SECONDS: Final = 1e8
"""Three years; the system's timer takes no number of any size."""


class Awaited(Protocol):
    """A coroutine under way, as the alarm sees it."""

    @property
    def computes(self) -> bool:
        """Whether its task is the one that runs at this moment; otherwise it waits."""

    def cancel(self) -> None:
        """Have its task cancelled."""


class Alarm:
    """The timekeeper of soft limits, for one task at a time."""

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._set = False
        self._before: Any = signal.SIG_DFL
        self.awaited: Awaited | None = None
        """The `async def` task under way, if it is one."""
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
        from amqpq.worker.pools import driven  # noqa: PLC0415 - see HIDDEN_IMPORTS in tests/test_architecture.py

        return driven.finish(coroutine, self)

    def drive(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[object]:
        """Return what the running event loop has to await for the `async def` task that runs."""
        from amqpq.worker.pools import driven  # noqa: PLC0415 - see HIDDEN_IMPORTS in tests/test_architecture.py

        return driven.drive(coroutine, self)

    def _ring(self, _signal: int, _frame: FrameType | None) -> None:
        seconds, self._seconds = self._seconds, None
        if seconds is None:
            return
        error = SoftTimeLimitExceeded(f"the task ran longer than its soft time limit of {seconds:g} s")
        awaited = self.awaited
        if awaited is None or awaited.computes:
            raise error
        self.error = error
        awaited.cancel()
