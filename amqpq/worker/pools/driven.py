"""`async def` tasks under soft time limits: a cancellation that stands for the limit becomes its error."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Protocol

from amqpq.errors import SoftTimeLimitExceeded
from amqpq.worker.pools.alarm import Awaited


class Bell(Protocol):
    """What a cancellation may stand for."""

    error: SoftTimeLimitExceeded | None


class AlarmBell(Bell, Protocol):
    """A bell that has to know what it rings for."""

    awaited: Awaited | None


class _Awaited:
    """The task of an event loop on this thread."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    @property
    def computes(self) -> bool:
        return asyncio.current_task(self._task.get_loop()) is self._task

    def cancel(self) -> None:
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)


def finish(coroutine: Coroutine[Any, Any, Any], alarm: AlarmBell) -> object:
    """Run an `async def` task to its end on this thread, with the alarm's error raised where it waits or computes."""
    try:
        return asyncio.run(drive(coroutine, alarm))
    finally:
        alarm.awaited = alarm.error = None


async def drive(coroutine: Coroutine[Any, Any, Any], alarm: AlarmBell) -> object:
    """Await an `async def` task, the one that runs, with the alarm's error raised in it."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is one
    alarm.awaited = _Awaited(task)
    return await Driven(coroutine, alarm)


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
