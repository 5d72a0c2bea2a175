"""One delivery to one outcome, without a broker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from amqpq import App
from amqpq.clock import ManualClock
from amqpq.message import TaskEnvelope
from amqpq.task import current_request
from amqpq.topology import Topology
from amqpq.topology.routing import Router, router
from amqpq.types import Properties
from amqpq.worker.execute import Executor
from amqpq.worker.work import DECODING, RUNNING, Finished, Reply, Work

Run = Callable[..., Finished]

TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"web": {"type": "topic"}},
    "queues": {"default": {}, "other": {}},
    "bindings": ["web[web.#] -> default"],
    "routes": {"web.*": {"exchange": "web", "key": "web.{task}"}, "*": {"queue": "default"}},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}


@pytest.fixture
def app() -> App:
    """An application with tasks that go every way."""
    made = App(TOPOLOGY, environ={"SIGN_KEY": "5a" * 32})

    @made.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    @made.task(name="later")
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    @made.task(name="boom")
    def boom() -> None:
        raise KeyError("gone")

    @made.task(name="leave")
    def leave() -> None:
        sys.exit(3)

    @made.task(name="odd")
    def odd() -> object:
        return object()

    @made.task(name="me", bind=True, track_started=True)
    def me(self: Any) -> list[Any]:
        self.update_state(meta={"at": 1})
        return [self.request.id, self.request.delivery_info["queue"], self.request.hostname]

    return made


@pytest.fixture
def run(app: App) -> Run:
    """`run(task, *args, ...)` encodes a call and executes it; `reports` takes what is reported."""

    def execute(task: str, *args: Any, reports: list[Reply] | None = None, **more: Any) -> Finished:
        clock = more.pop("clock", ManualClock())
        marks = more.pop("marks", None)
        came = more.pop("came", ("", "default", "default"))
        route = more.pop("route", ("", "default"))
        envelope = TaskEnvelope("1f0c", task, args, **{"reply_to": "amqpq.reply.1f0c", **more})
        body, properties = app.codec.encode_task(envelope, exchange=route[0], key=route[1])
        exchange, key, queue = came
        executor = Executor(app, "w1@h", clock=clock, mark=None if marks is None else lambda *mark: marks.append(mark))
        return executor.run(
            Work(7, queue, body, properties, exchange, key, False, False),
            (reports if reports is not None else []).append,
        )

    return execute


def result_of(app: App, finished: Finished) -> Any:
    """What the caller would read."""
    assert finished.reply is not None
    return app.codec.decode_result(finished.reply.body, finished.reply.properties)


def test_a_result_is_encoded_and_addressed(app: App, run: Run) -> None:
    """The reply goes to the address of the request, matched by its id."""
    finished = run("add", 2, 3)
    assert finished.happened == "succeeded"
    assert finished.reply is not None
    assert (finished.reply.routing_key, finished.reply.properties.correlation_id) == ("amqpq.reply.1f0c", "1f0c")
    result = result_of(app, finished)
    assert (result.task_id, result.status, result.result) == ("1f0c", "SUCCESS", 5)


def test_without_an_address_there_is_no_reply(run: Run) -> None:
    """Nobody asked for a result, or it is ignored."""
    assert run("add", 2, reply_to=None).reply is None
    assert run("add", 2, ignore_result=True).reply is None


def test_a_coroutine_is_run_to_its_end(app: App, run: Run) -> None:
    """An async task returns its value, never an unrun coroutine."""
    assert result_of(app, run("later", 4)).result == 4


@pytest.mark.parametrize("task, reason", [("boom", "KeyError: 'gone'"), ("leave", "SystemExit: 3")])
def test_whatever_a_task_raises_is_a_failure(app: App, run: Run, task: str, reason: str) -> None:
    """Even SystemExit ends the task and not the process that runs it."""
    finished = run(task)
    assert (finished.happened, finished.cause, finished.reason) == ("failed", "failed", reason)
    result = result_of(app, finished)
    assert result.status == "FAILURE"
    assert result.traceback is not None
    assert result.traceback.splitlines()[1].strip().startswith(f'File "{__file__}"'), "our own frames are left out"


def test_wrong_arguments_are_a_failure(run: Run) -> None:
    """The task's own TypeError reaches its caller."""
    assert run("add", 1, 2, 3).reason.startswith("TypeError")


def test_a_result_that_cannot_be_written_is_a_failure(app: App, run: Run) -> None:
    """The caller learns that the result exists and cannot travel."""
    finished = run("odd")
    assert finished.happened == "failed"
    assert result_of(app, finished).result["exc_type"] == "NotSerializable"


def test_the_task_sees_its_request_and_reports(app: App, run: Run) -> None:
    """Id, queue and worker are there while it runs; STARTED and PROGRESS go out; nothing is left afterwards."""
    reports: list[Reply] = []
    finished = run("me", reports=reports)
    assert result_of(app, finished).result == ["1f0c", "default", "w1@h"]
    states = [app.codec.decode_result(report.body, report.properties) for report in reports]
    assert [state.status for state in states] == ["STARTED", "PROGRESS"]
    assert states[1].result == {"at": 1}
    assert current_request.get() is None


def test_an_unknown_task_is_refused_and_answered(app: App, run: Run) -> None:
    """The signature was good, so the address is, too."""
    finished = run("ad", 1)
    assert (finished.happened, finished.cause) == ("refused", "unknown-task")
    assert result_of(app, finished).result["exc_type"] == "UnregisteredTask"


def test_an_expired_task_is_not_run(app: App, run: Run) -> None:
    """It answers EXPIRED."""
    finished = run("boom", expires="2020-01-01T00:00:00+00:00")
    assert (finished.happened, finished.cause) == ("expired", "expired")
    assert result_of(app, finished).status == "EXPIRED"


def test_a_time_without_an_offset_is_utc(run: Run) -> None:
    """As Celery writes it."""
    clock = ManualClock(1_600_000_000.0)  # 2020-09-13T12:26:40Z
    assert run("add", 1, expires="2020-09-13T12:26:41", clock=clock).happened == "succeeded"
    assert run("add", 1, expires="2020-09-13T12:26:39", clock=clock).happened == "expired"


@pytest.mark.parametrize(
    "wish",
    [{"timelimit": (5.0, None)}, {"embed": {"chain": [{"task": "add"}]}}, {"eta": "2099-01-01T00:00:00+00:00"}],
)
def test_what_cannot_be_honoured_is_refused(run: Run, wish: dict[str, Any]) -> None:
    """Running such a task as if nothing had been asked would look like success."""
    finished = run("boom", **wish)
    assert (finished.happened, finished.cause) == ("refused", "unsupported")


def test_an_eta_that_has_passed_is_no_obstacle(run: Run) -> None:
    """It is due."""
    assert run("add", 1, eta="2020-01-01T00:00:00+00:00").happened == "succeeded"


def test_an_answer_is_in_the_format_of_the_question(app: App) -> None:
    """Who sends JSON may read nothing else."""
    json = App({**TOPOLOGY, "messages": {"serializer": "json"}}, environ={"SIGN_KEY": "5a" * 32})
    body, properties = json.codec.encode_task(
        TaskEnvelope("1", "add", (1,), reply_to="amqpq.reply.1"), exchange="", key="default"
    )
    finished = Executor(app, "w1@h").run(
        Work(1, "default", body, properties, "", "default", False, False), lambda _reply: None
    )
    assert finished.reply is not None
    assert finished.reply.properties.content_type == "application/json"


def test_a_refused_message_is_not_answered(app: App) -> None:
    """A forged reply address gets nothing."""
    body, properties = app.codec.encode_task(
        TaskEnvelope("1", "add", (1,), reply_to="amqpq.reply.1"), exchange="", key="default"
    )
    forged = properties._replace(reply_to="amqpq.reply.of-somebody-else")
    finished = Executor(app, "w1@h").run(
        Work(1, "default", body, forged, "", "default", False, False), lambda _reply: None
    )
    assert (finished.happened, finished.cause, finished.reply) == ("refused", "forged", None)


def test_nonsense_is_refused_and_nothing_is_raised(app: App) -> None:
    """Any bytes with any properties become an outcome."""
    executor = Executor(app, "w1@h")
    for properties in (Properties(), Properties(headers={"task": 3, "id": [], "amqpq-sig": b"x"})):
        finished = executor.run(
            Work(1, "default", b"\xff", properties, "", "default", False, False), lambda _reply: None
        )
        assert finished.happened == "refused"


def test_a_message_that_was_moved_is_refused(run: Run) -> None:
    """Signed for one queue, found in another one that its route does not lead to."""
    assert run("add", 1, came=("", "other", "other")).cause == "replayed"


def test_a_message_that_came_back_to_its_own_queue_runs(run: Run) -> None:
    """After a crash or from the dead letters it comes through the default exchange, which its signed route allows."""
    finished = run("add", 1, route=("web", "web.add"), came=("", "default", "default"))
    assert finished.happened == "succeeded"


def test_where_routes_lead_is_worked_out_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many messages came back, and not at all before the first of them."""
    built: list[Topology] = []

    def counting(topology: Topology) -> Router:
        built.append(topology)
        return router(topology)

    monkeypatch.setattr("amqpq.worker.arrival.router", counting)
    executor = Executor(app, "w1@h", clock=ManualClock())
    body, properties = app.codec.encode_task(TaskEnvelope("1f0c", "add", (1,)), exchange="web", key="web.add")
    for came, times in ((("web", "web.add"), 0), (("", "default"), 1), (("", "default"), 1)):
        finished = executor.run(Work(7, "default", body, properties, *came, False, False), lambda _: None)
        assert (finished.happened, len(built)) == ("succeeded", times)


def test_how_far_it_was_is_marked(run: Run) -> None:
    """What is known of a task when its process dies: which one, and whether its signature had been checked."""
    marks: list[tuple[int, int]] = []
    run("add", 1, marks=marks)
    assert marks == [(7, DECODING), (7, RUNNING)]
