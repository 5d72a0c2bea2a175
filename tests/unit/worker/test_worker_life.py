"""Hooks and signals, where tasks run and in the worker's own process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqpq import App, Task, signals
from amqpq.clock import ManualClock
from amqpq.errors import TimeLimitExceeded, WorkerLost
from amqpq.log import MessageKeys, context
from amqpq.message import TaskEnvelope
from amqpq.signals import SIGNALS
from amqpq.task import Request
from amqpq.worker import life
from amqpq.worker.execute import Executor
from amqpq.worker.herald import Herald
from amqpq.worker.limits import NO_TIMING, Limits, Timing
from amqpq.worker.loop import ExitCode
from amqpq.worker.pools.interface import Crash
from amqpq.worker.work import RUNNING, Finished, Work

TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {}},
    "routes": {"*": {"queue": "default"}},
    "security": {"signing": False},
}


class Watched(Task[..., Any]):
    """Writes down its life; fails in the hooks that it is told to fail in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[Any] = []
        self.fails_in: set[str] = set()

    def _note(self, hook: str, *facts: Any) -> None:
        self.told.append((hook, *facts))
        if hook in self.fails_in:
            raise SystemExit(hook)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Note."""
        self._note("before_start", task_id, tuple(args), dict(kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Note."""
        self._note("on_success", retval, task_id, tuple(args), dict(kwargs))

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002
        """Note."""
        self._note("on_failure", repr(exc), task_id, einfo.type, "in divide" in str(einfo))

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002
        """Note."""
        self._note("on_retry", repr(exc), task_id, str(einfo))

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002
        """Note."""
        self._note("after_return", status, repr(retval), None if einfo is None else einfo.type)


@pytest.fixture(autouse=True)
def _nobody_listens_afterwards() -> Iterator[None]:
    before = {name: signal.receivers for name, signal in SIGNALS.items()}
    yield
    for name, receivers in before.items():
        SIGNALS[name].receivers = receivers


@pytest.fixture
def task() -> Any:
    """A task whose life is written down."""
    app = App(TOPOLOGY)

    @app.task(name="shop.divide", base=Watched)
    def divide(x: int, *, by: int) -> float:
        return x / by

    return divide


@pytest.fixture
def run(task: Any) -> Callable[..., Finished]:
    """`run(x, by=y)` runs it as a worker does."""

    def execute(*args: Any, timing: Timing | None = None, **kwargs: Any) -> Finished:
        app = task.app
        envelope = TaskEnvelope("1f0c", "shop.divide", args, kwargs, reply_to="amqpq.reply.1f0c", retries=2)
        body, properties = app.codec.encode_task(envelope, exchange="", key="default")
        executor = Executor(app, "w1@h", clock=ManualClock(), timing=timing or NO_TIMING)
        return executor.run(Work(7, "default", body, properties, "", "default", False, False), lambda _: None)

    return execute


# --------------------------------------------------------------------------------------------------------------- hooks


def test_a_task_that_returns_tells_three_hooks(task: Any, run: Callable[..., Finished]) -> None:
    """In Celery's order, with Celery's arguments."""
    assert run(6, by=2).happened == "succeeded"
    assert task.told == [
        ("before_start", "1f0c", (6,), {"by": 2}),
        ("on_success", 3.0, "1f0c", (6,), {"by": 2}),
        ("after_return", "SUCCESS", "3.0", None),
    ]


def test_a_task_that_raises_tells_its_error_and_traceback(task: Any, run: Callable[..., Finished]) -> None:
    """`einfo` has the class, and reads as the traceback."""
    assert run(6, by=0).happened == "failed"
    error = "ZeroDivisionError('division by zero')"
    assert task.told[1:] == [
        ("on_failure", error, "1f0c", ZeroDivisionError, True),
        ("after_return", "FAILURE", error, ZeroDivisionError),
    ]


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_an_error_in_a_hook_changes_nothing(
    task: Any, run: Callable[..., Finished], hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even SystemExit: the task has succeeded, its reply goes out, and the log has the error."""
    task.fails_in.add(hook)
    finished = run(6, by=2)
    assert finished.happened == "succeeded"
    assert finished.reply is not None
    assert f"{hook} of shop.divide[1f0c] failed; the outcome stands" in caplog.text
    assert [each[0] for each in task.told] == ["before_start", "on_success", "after_return"]


def test_an_error_in_on_failure_hides_nothing(
    task: Any, run: Callable[..., Finished], caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets the task's own error."""
    task.fails_in.add("on_failure")
    finished = run(6, by=0)
    assert finished.reason == "ZeroDivisionError: division by zero"
    assert "on_failure of shop.divide[1f0c] failed" in caplog.text


def test_an_error_in_before_start_is_how_the_task_failed(task: Any, run: Callable[..., Finished]) -> None:
    """The function does not run, and the hooks of failures do."""
    task.fails_in.add("before_start")
    finished = run(6, by=2)
    assert (finished.happened, finished.reason) == ("failed", "SystemExit: before_start")
    assert [each[0] for each in task.told] == ["before_start", "on_failure", "after_return"]


def test_a_retry_tells_its_hook_and_its_signals(task: Any) -> None:
    """What makes an attempt a retry calls `life.retried`; the task has not returned."""
    heard: list[Any] = []
    signals.task_retry.connect(lambda sender, request, reason, **_: heard.append((sender.name, request.id, reason)))
    signals.task_postrun.connect(lambda state, **_: heard.append(state))
    error = LookupError("later")
    life.retried(task, Request(id="1f0c", task="shop.divide"), error, "Traceback ...")
    assert task.told == [("on_retry", repr(error), "1f0c", "Traceback ...")]
    assert heard == [("shop.divide", "1f0c", error), "RETRY"]


@pytest.mark.parametrize(("attempts_before", "hooks"), [(0, ["on_retry"]), (3, ["on_failure", "after_return"])])
def test_an_attempt_that_is_to_be_repeated_is_told_as_such(attempts_before: int, hooks: list[str]) -> None:
    """`on_retry` while there is another attempt, `on_failure` when it was the last."""
    app = App({**TOPOLOGY, "delays": {"max": "1h"}})

    @app.task(name="shop.try", base=Watched, autoretry_for=(LookupError,), max_retries=3)
    def attempt() -> None:
        raise LookupError

    envelope = TaskEnvelope("1f0c", "shop.try", (), {}, retries=attempts_before)
    body, properties = app.codec.encode_task(envelope, exchange="", key="default")
    Executor(app, "w1@h").run(Work(7, "default", body, properties, "", "default", False, False), lambda _: None)
    watched: Any = attempt
    assert [each[0] for each in watched.told] == ["before_start", *hooks]


class Keeper:
    """Writes down which limits count when."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def begin(self, limits: Limits) -> None:
        """Note."""
        self.task.told.append(limits)

    def end(self) -> None:
        """Note."""
        self.task.told.append("end")

    def finish(self, coroutine: Any) -> object:
        """Never called here."""
        raise AssertionError(coroutine)

    def drive(self, coroutine: Any) -> Any:
        """Never called here."""
        raise AssertionError(coroutine)


def test_hooks_have_the_hard_limit_anew_and_no_soft_one(task: Any, run: Callable[..., Finished]) -> None:
    """A hook that hangs is ended like a task that hangs; the function's alarm does not ring in it."""
    run(6, by=2, timing=Timing("prefork", Limits(9.0, 5.0), Keeper(task)))
    words = [each if isinstance(each, Limits | str) else each[0] for each in task.told]
    assert words == [Limits(9.0, 5.0), "before_start", "end", Limits(9.0), "on_success", "after_return", "end"]


# ------------------------------------------------------------------------------------------------- signals of a task


def test_a_task_sends_its_signals(run: Callable[..., Finished]) -> None:
    """Before it, after it, and how it ended; `sender` is the task."""
    heard: list[Any] = []
    for signal in (signals.task_prerun, signals.task_postrun, signals.task_success, signals.task_failure):
        signal.connect(lambda sender, _name=signal.name, **more: heard.append((_name, sender.name, sorted(more))))
    run(6, by=2)
    run(6, by=0)
    call = ["args", "kwargs", "task_id"]
    postrun = ("task_postrun", "shop.divide", sorted([*call, "retval", "state", "task"]))
    prerun = ("task_prerun", "shop.divide", sorted([*call, "task"]))
    failure = ("task_failure", "shop.divide", sorted([*call, "einfo", "exception", "traceback"]))
    assert heard == [prerun, ("task_success", "shop.divide", ["result"]), postrun, prerun, failure, postrun]


def test_log_lines_of_a_task_know_it(run: Callable[..., Finished]) -> None:
    """Name, id, queue, attempt and worker are there while it runs, its hooks included, and gone afterwards."""
    seen: list[MessageKeys | None] = []
    signals.task_prerun.connect(lambda **_: seen.append(context.get()))
    signals.task_postrun.connect(lambda **_: seen.append(context.get()))
    run(6, by=2)
    expected = {
        "amqpq_task": "shop.divide",
        "amqpq_task_id": "1f0c",
        "amqpq_queue": "default",
        "amqpq_attempts": 3,
        "amqpq_worker": "w1@h",
    }
    assert seen == [expected, expected]
    assert context.get() is None


# ------------------------------------------------------------------------------------------------ the worker's process


def test_a_slow_receiver_loses_events_and_holds_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """What waits has a bound; the log says what was missed; whoever tells never waits."""
    entered, leave = threading.Event(), threading.Event()
    heard: list[str] = []

    @signals.task_received.connect
    def slow(request: str, **_: Any) -> None:
        heard.append(request)
        entered.set()
        assert leave.wait(20)

    herald = Herald("w1@h", room=2)
    herald.tell(signals.task_received, request="first")
    assert entered.wait(20)
    for number in range(5):
        herald.tell(signals.task_received, request=str(number))
    assert herald.dropped == 3
    leave.set()
    herald.close()
    assert heard == ["first", "0", "1"]
    assert "task_received is the first event that they miss" in caplog.text
    assert "missed 3 events" in caplog.text


def test_without_receivers_there_is_no_thread() -> None:
    """Nobody listens: nothing is kept and nothing is started."""
    before = threading.active_count()
    herald = Herald("w1@h")
    herald.tell(signals.worker_ready)
    assert threading.active_count() == before
    herald.close()


def test_a_receiver_that_hangs_does_not_keep_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    """The end waits for receivers only so long."""
    leave = threading.Event()
    signals.worker_ready.connect(lambda **_: leave.wait(20))
    herald = Herald("w1@h")
    herald.tell(signals.worker_ready)
    herald.close(0.01)
    assert "did not end within" in caplog.text
    leave.set()


def test_a_worker_tells_its_life_on_a_thread_of_its_own(
    app: App, start: Any, until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Ready, received, refused, unknown, expired, stopping; never on the loop's thread; an error costs nothing."""
    caplog.set_level(logging.CRITICAL, "amqpq")
    heard: list[Any] = []
    threads: set[str] = set()

    def listen(signal: signals.Signal, *facts: str) -> None:
        def hear(sender: Any, **more: Any) -> None:
            threads.add(threading.current_thread().name)
            heard.append((signal.name, sender, *(str(more[fact]) for fact in facts)))
            raise SystemExit(signal.name)

        signal.connect(hear)

    listen(signals.worker_ready)
    listen(signals.task_received)
    listen(signals.task_unknown, "name", "id")
    listen(signals.task_rejected, "exc")
    listen(signals.task_revoked, "expired")
    listen(signals.worker_shutting_down, "how", "exitcode")
    worker = start(concurrency=1)
    assert app.send_task("shop.add", (1, 2)).get(timeout=20) == 3
    with pytest.raises(Exception, match="no task"):
        app.send_task("shop.subtract", (1, 2), task_id="unknown").get(timeout=20)
    late = app.send_task("shop.add", (1, 2), expires=0.000001)
    with pytest.raises(Exception, match="expired"):
        late.get(timeout=20)
    app.send_task("shop.add", (1, 2), headers={"x": "y"}, reply="none", task_id="replay")
    until(lambda: len([each for each in heard if each[0] == "task_received"]) == 4)
    assert worker.stop() is ExitCode.FINISHED
    until(lambda: heard[-1][0] == "worker_shutting_down")
    told = [each for each in heard if each[0] != "task_received"]
    assert told == [
        ("worker_ready", ""),
        ("task_unknown", "", "shop.subtract", "unknown"),
        ("task_revoked", "", "True"),
        ("worker_shutting_down", "", "warm", "0"),
    ]
    assert threads == {"amqpq-signals"}


@pytest.mark.parametrize(("overran", "kind"), [(3.0, TimeLimitExceeded), (None, WorkerLost)])
def test_the_worker_tells_the_failure_of_a_task_whose_process_is_gone(
    app: App, start: Any, gate: Any, until: Callable[..., None], overran: float | None, kind: type[Exception]
) -> None:
    """Nobody else could; where it is tried again, it has not failed."""
    heard: list[Any] = []
    signals.task_failure.connect(lambda sender, task_id, exception, **_: heard.append((sender, task_id, exception)))
    worker = start(concurrency=1)
    app.send_task("shop.hold", ("x",), task_id="gone", reply="none")
    until(lambda: gate.begun)
    job = worker.loop._jobs.all()[0]
    job.crashes = 0 if overran else 2
    worker.reactor.post(worker.loop.crashed, Crash(job.number, RUNNING, "child 1 was killed", (), overran))
    until(lambda: heard)
    assert [(sender, task_id, type(error)) for sender, task_id, error in heard] == [("shop.hold", "gone", kind)]
