"""The alarm of soft limits, on this thread: every test waits for the signal itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from amqpq.errors import SoftTimeLimitExceeded
from amqpq.worker.limits import Limits
from amqpq.worker.pools.alarm import Alarm

SOON = Limits(soft=0.01)

pytestmark = pytest.mark.timeout(method="thread")  # the signal is what is tested


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    """An alarm that leaves nothing behind."""
    made = Alarm()
    before = signal.getsignal(signal.SIGALRM)
    yield made
    made.end()
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_error_comes_out_of_what_waits(alarm: Alarm) -> None:
    """A system call that would last for ever ends."""
    alarm.begin(SOON)
    with pytest.raises(SoftTimeLimitExceeded, match=r"soft time limit of 0\.01 s"):
        signal.pause()


def _spin() -> None:
    while True:
        pass


def test_a_coroutine_gets_the_error_where_it_waits(alarm: Alarm) -> None:
    """It may catch it and go on: nothing of the cancellation behind it is left."""

    async def stubborn() -> tuple[str, int]:
        try:
            alarm.begin(SOON)  # not before the loop runs: that may take longer
            await asyncio.Event().wait()
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            return "tidy", task.cancelling()
        return "not told", 0

    assert alarm.finish(stubborn()) == ("tidy", 0)


def test_a_coroutine_that_waits_for_others_cancels_them(alarm: Alarm) -> None:
    """What it gathered is cancelled, and the error is its own."""
    cancelled: list[int] = []

    async def wait(number: int) -> None:
        try:
            if number == 2:
                alarm.begin(SOON)  # both wait
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def gather() -> None:
        await asyncio.gather(wait(1), wait(2))

    with pytest.raises(SoftTimeLimitExceeded):
        alarm.finish(gather())
    assert sorted(cancelled) == [1, 2]


def test_a_coroutine_that_computes_gets_the_error_too(alarm: Alarm) -> None:
    """It never gives the loop a turn."""

    async def compute() -> None:
        alarm.begin(SOON)
        _spin()

    with pytest.raises(SoftTimeLimitExceeded):
        alarm.finish(compute())


def test_a_cancellation_of_the_task_s_own_stays_one(alarm: Alarm) -> None:
    """Only the alarm's is turned into the error."""

    async def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    alarm.begin(Limits(soft=1000.0))
    with pytest.raises(asyncio.CancelledError):
        alarm.finish(cancel_myself())


def test_after_the_end_nothing_comes(alarm: Alarm) -> None:
    """A task that was in time is not disturbed, and neither is the next one."""
    alarm.begin(SOON)
    alarm.end()
    alarm._ring(signal.SIGALRM, None)


def test_no_soft_limit_sets_nothing(alarm: Alarm) -> None:
    """A hard limit alone is not the alarm's."""
    before = signal.getsignal(signal.SIGALRM)
    alarm.begin(Limits(hard=0.001))
    assert signal.getsignal(signal.SIGALRM) == before
