"""What a task may rely on in every pool, through the command line and a real broker: one suite over all six."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import LocalError, RemoteError, SoftTimeLimitExceeded
from amqpq.lifecycle import State
from tests.acceptance.conftest import WorkerProcess, shop_at, starting, until
from tests.conftest import BrokerServer

pytestmark = pytest.mark.acceptance

WAIT_SECONDS = 20.0
POOLS = ("prefork", "threads", "solo", "asyncio", "gevent", "eventlet")
SIZE = 4
"""Tasks at a time, in all pools but solo."""


@dataclass(frozen=True)
class Station:
    """A worker of one pool, for all tests of that pool, and who calls it."""

    pool: str
    app: App
    worker: WorkerProcess

    @property
    def size(self) -> int:
        """How many tasks run at a time."""
        return 1 if self.pool == "solo" else SIZE

    def call(self, task: str, *args: Any, **options: Any) -> Any:
        """Run a task and return its result."""
        return self.app.send_task(f"crowd.{task}", args, **options).get(timeout=WAIT_SECONDS)


def options(pool: str, *more: str) -> tuple[str, ...]:
    """Return what a worker of that pool is started with."""
    return ("-A", "crowd", "-P", pool, "-Q", "default", *(() if pool == "solo" else ("-c", str(SIZE))), *more)


@pytest.fixture(scope="module", params=POOLS)
def station(request: pytest.FixtureRequest, broker_server: BrokerServer) -> Iterator[Station]:
    """A worker of the pool; it must end well when all tests have had it."""
    pool: str = request.param
    with broker_server.vhost() as url, shop_at(url) as app:
        starter = starting(url)
        worker = next(starter)(*options(pool))
        yield Station(pool, app, worker)
        assert worker.stop() == 0, worker.text
        next(starter, None)


def test_plain_and_async_tasks_return_their_results(station: Station) -> None:
    """Whatever the pool runs best, it runs both; and one whose decorator hides that it is async."""
    assert station.call("add", 1, 2) == 3
    assert station.call("add_later", 3, 4) == 7
    assert station.call("decorated", 5) == 5


@pytest.mark.parametrize("task", ["boom", "boom_later"])
def test_a_failure_arrives_as_itself_with_the_traceback(station: Station, task: str) -> None:
    """The class, the text, and the line of the task's own code."""
    result = station.app.send_task(f"crowd.{task}", ("no such thing",))
    with pytest.raises(LookupError, match="no such thing"):
        result.get(timeout=WAIT_SECONDS)
    text = result.traceback
    assert text is not None
    assert "raise LookupError(text)" in text
    assert "crowd.py" in text.splitlines()[1] or station.pool != "prefork" or task == "boom_later"


def test_a_bound_task_sees_its_request(station: Station) -> None:
    """Id, arguments, queue and worker."""
    result = station.app.send_task("crowd.who")
    said = result.get(timeout=WAIT_SECONDS)
    assert said["id"] == said["root"] == result.id
    assert (said["task"], said["queue"]) == ("crowd.who", "default")
    assert "@" in said["hostname"]


@pytest.mark.parametrize("task", ["meet", "meet_later"])
def test_tasks_run_at_the_same_time_and_each_sees_itself(station: Station, tmp_path: Path, task: str) -> None:
    """As many as the worker promises meet, so they run at once; and none sees the request of another."""
    results = {
        name: station.app.send_task(f"crowd.{task}", (str(tmp_path), name, station.size))
        for name in map(str, range(station.size))
    }
    for name, result in results.items():
        assert result.get(timeout=WAIT_SECONDS) == [name, result.id, result.id, result.id]


def test_async_and_plain_tasks_run_side_by_side(station: Station, tmp_path: Path) -> None:
    """The two kinds share the size of the pool and meet."""
    if station.size == 1:
        pytest.skip("solo runs one task at a time")
    plain = station.app.send_task("crowd.meet", (str(tmp_path), "a", 2))
    later = station.app.send_task("crowd.meet_later", (str(tmp_path), "b", 2))
    assert plain.get(timeout=WAIT_SECONDS)[1] == plain.id
    assert later.get(timeout=WAIT_SECONDS)[1] == later.id


def test_no_more_run_at_a_time_than_the_size(station: Station, tmp_path: Path) -> None:
    """One that is too many waits until another has ended."""
    names = [str(number) for number in range(station.size + 1)]
    results = [station.app.send_task("crowd.hold", (str(tmp_path), name)) for name in names]
    until(lambda: len(list(tmp_path.glob("*.begun"))) == station.size)
    # A message of another queue's channel cannot pass it: what comes back says that the loop has been around meanwhile.
    station.app.send_task("crowd.nothing", reply="none")
    assert len(list(tmp_path.glob("*.begun"))) == station.size
    (tmp_path / "open").touch()
    assert sorted(result.get(timeout=WAIT_SECONDS) for result in results) == names


def test_tasks_with_a_rate_limit_begin_in_every_pool(station: Station) -> None:
    """The pool tells how many it would begin now, and more of them come through than that."""
    results = [station.app.send_task("crowd.rated", (number,)) for number in range(5 * station.size)]
    assert [result.get(timeout=WAIT_SECONDS) for result in results] == list(range(5 * station.size))


def test_states_arrive_on_the_way(station: Station, tmp_path: Path) -> None:
    """From the task, and from a thread that it has started."""
    result = station.app.send_task("crowd.progress", (str(tmp_path),))
    until(lambda: (result.state, result.result) == (State.PROGRESS, {"done": 1}))
    (tmp_path / "one").touch()
    until(lambda: (result.state, result.result) == ("HALFWAY", {"done": 2}))
    (tmp_path / "two").touch()
    assert result.get(timeout=WAIT_SECONDS) == "end"


def test_a_large_result_arrives(station: Station) -> None:
    """Five mebibytes, and the worker is there for the next."""
    assert len(station.call("big", 5 * 2**20)) == 5 * 2**20
    assert station.call("add", 1, 1) == 2


def test_a_result_that_cannot_be_sent_fails_the_task(station: Station) -> None:
    """Its caller hears why, and does not wait for ever."""
    with pytest.raises((LocalError, RemoteError), match="object"):
        station.call("odd")
    assert station.call("add", 1, 1) == 2


@pytest.mark.parametrize("task", ["leave", "leave_later"])
@pytest.mark.parametrize("how", ["SystemExit", "KeyboardInterrupt", "CancelledError", "GreenletExit"])
def test_what_ends_a_program_ends_only_the_task(station: Station, task: str, how: str) -> None:
    """It has failed with that, and neither the process nor its neighbours notice."""
    before = station.call("whoami")
    with pytest.raises(RemoteError, match=how):
        station.call(task, how)
    after = station.call("whoami")
    assert after == before or station.pool == "prefork"
    assert " was killed " not in station.worker.text
    assert " ended with " not in station.worker.text


def test_what_ends_the_event_loop_ends_only_the_task(station: Station) -> None:
    """`sys.exit` in a background task, and a task that cancels itself: the worker goes on."""
    result = station.app.send_task("crowd.leave_behind")
    if station.pool in {"asyncio", "gevent", "eventlet"}:
        assert result.get(timeout=WAIT_SECONDS) == "still here"
    else:
        with pytest.raises(RemoteError, match="SystemExit"):
            result.get(timeout=WAIT_SECONDS)
    result = station.app.send_task("crowd.cancel_self")
    until(result.ready)
    assert station.call("add_later", 1, 1) == 2


def test_a_task_may_start_threads(station: Station) -> None:
    """They run, and it can wait for them."""
    assert station.call("threads", 10) == 45


def test_a_task_can_log(station: Station) -> None:
    """Its lines are in the worker's log."""
    station.call("log", f"hello from {station.pool}")
    station.worker.says(f"said: hello from {station.pool}")


@pytest.mark.parametrize("task", ["relay", "relay_later"])
def test_a_task_can_call_tasks(station: Station, task: str) -> None:
    """Several at once, over connections of the process that runs them; each result can be fetched by its id."""
    callers = [station.app.send_task(f"crowd.{task}", (number,)) for number in range(8)]
    called = [station.app.AsyncResult(caller.get(timeout=WAIT_SECONDS)) for caller in callers]
    assert [result.get(timeout=WAIT_SECONDS) for result in called] == list(range(1, 9))


def test_tasks_of_both_kinds_can_log_at_the_same_time(station: Station) -> None:
    """The lock of a log handler does not stop threads, loops and greenlets."""
    results = [station.app.send_task(f"crowd.{task}", (50,)) for _ in range(10) for task in ("chat", "chat_later")]
    assert [result.get(timeout=WAIT_SECONDS) for result in results] == [result.id for result in results]


def test_an_expired_message_and_an_unknown_task_are_answered(station: Station) -> None:
    """Neither is run, and nobody waits for ever."""
    result = station.app.send_task("crowd.add", (1, 2), expires=0.001)
    until(lambda: result.state in {State.EXPIRED, State.PENDING})
    unknown = station.app.send_task("crowd.ad", (1, 2))
    with pytest.raises(Exception, match=r"crowd\.ad.*crowd\.add"):
        unknown.get(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("task", ["tidy", "tidy_later"])
def test_a_soft_limit_is_kept_or_refused(station: Station, task: str) -> None:
    """The task is told where the pool can tell it; else it is not run without its limit."""
    result = station.app.send_task(f"crowd.{task}", soft_time_limit=0.2)
    if station.pool == "threads" or (station.pool, task) == ("asyncio", "tidy"):
        with pytest.raises(Exception, match=f"the {station.pool} pool cannot keep soft_time_limit: "):
            result.get(timeout=WAIT_SECONDS)
    else:
        assert result.get(timeout=WAIT_SECONDS) == "tidy"


@pytest.mark.parametrize("task", ["hold", "hold_later"])
def test_a_task_that_lets_its_soft_limit_go_has_failed(station: Station, tmp_path: Path, task: str) -> None:
    """Its caller gets the error; the task that follows is not touched by it."""
    if station.pool == "threads" or (station.pool, task) == ("asyncio", "hold"):
        pytest.skip("refused there")
    result = station.app.send_task(f"crowd.{task}", (str(tmp_path), "a"), soft_time_limit=0.1)
    with pytest.raises(SoftTimeLimitExceeded, match=r"soft time limit of 0\.1 s"):
        result.get(timeout=WAIT_SECONDS)
    assert station.call("add", 1, 2, soft_time_limit=30) == 3 if station.pool != "asyncio" else True


def test_a_hard_limit_is_kept_or_refused(station: Station) -> None:
    """Only a process of its own can be ended."""
    if station.pool == "prefork":
        assert station.call("add", 1, 2, time_limit=60) == 3
        return
    with pytest.raises(Exception, match=f"the {station.pool} pool cannot keep time_limit: "):
        station.call("add_later", 1, 2, time_limit=60)
