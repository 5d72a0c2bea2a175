"""The worker's loop on the in-memory broker: what becomes of deliveries, connections and signals."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import TaskExpired, TimeLimitExceeded
from amqpq.message import TaskEnvelope
from amqpq.message.canonical import task_bytes
from amqpq.security.signing import signature_text
from amqpq.testing.memory import MemoryBroker
from amqpq.topology.declarations import queue_spec
from amqpq.types import Outcome, Properties, Publication, QueueSpec, QueueState
from amqpq.worker import intake, settler
from amqpq.worker.lane import Outlet
from amqpq.worker.loop import ExitCode
from amqpq.worker.pools.interface import Crash
from amqpq.worker.work import RUNNING
from tests.support.lab import answer

Until = Callable[[Callable[[], object]], None]


def publish(broker: MemoryBroker, body: bytes, properties: Properties, queue: str = "default") -> None:
    """Publish something that no application would."""
    outcomes: list[Outcome] = answer(broker.connect().channel().publish([Publication("", queue, body, properties)]))
    assert outcomes[0].confirmed


def taken_from(broker: MemoryBroker, queue: str) -> tuple[bytes, Properties]:
    """Take a message out of a queue as it is."""
    delivery = answer(broker.connect().channel().get(queue, no_ack=True))
    assert delivery is not None
    return delivery.body, delivery.properties


@pytest.fixture
def dead(broker: MemoryBroker, until: Until) -> Callable[[], dict[str, Any]]:
    """Wait for the one dead letter; return its headers."""

    def wait() -> dict[str, Any]:
        until(lambda: broker.queues()["shop.dead"].messages)
        (letter,) = broker.messages("shop.dead")
        return dict(letter.properties.headers)

    return wait


# ------------------------------------------------------------------------------------------------------- good outcomes


def test_a_task_runs_and_its_result_comes_back(app: App, start: Any) -> None:
    """From delay to get, over the worker."""
    worker = start()
    assert app.send_task("shop.add", (2, 3)).get(timeout=10) == 5
    assert worker.stop() is ExitCode.FINISHED


def test_a_done_task_leaves_nothing_behind(app: App, start: Any, broker: MemoryBroker) -> None:
    """After the end neither the task nor its reply queue is on the broker."""
    worker = start()
    for number in range(20):
        assert app.send_task("shop.add", (number, 1)).get(timeout=10) == number + 1
    worker.stop()
    assert {name: state.messages for name, state in broker.queues().items()} == {
        "default": 0,
        "forgetful": 0,
        "shop.dead": 0,
    }


def test_a_delivery_is_unacknowledged_while_its_task_runs(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """Late acknowledgement: a broken connection brings the message back as long as the task runs."""
    start(prefetch=1, concurrency=1)
    app.send_task("shop.hold", ("a",))
    app.send_task("shop.hold", ("b",))
    until(lambda: gate.begun)
    assert gate.begun == ["a"]
    assert broker.queues()["default"].messages == 1, "prefetch 1 holds one delivery; the other waits at the broker"


def test_states_on_the_way_reach_the_caller(app: App, start: Any, gate: Any, until: Until) -> None:
    """STARTED is there while the task runs, and the result replaces what it reported."""
    start()
    result = app.send_task("shop.progress")
    until(lambda: result.state == "STARTED")
    gate.opened.set()
    assert result.get(timeout=10) == "end"


# -------------------------------------------------------------------------------------------------------- bad outcomes


def test_a_failing_task_answers_and_is_parked(app: App, start: Any, dead: Any) -> None:
    """The caller gets the exception, the operator a dead letter with the traceback."""
    start()
    with pytest.raises(ValueError, match="no such thing"):
        app.send_task("shop.fail", ("no such thing",)).get(timeout=10)
    headers = dead()
    assert headers["amqpq-cause"] == "failed"
    assert headers["amqpq-reason"] == "ValueError: no such thing"
    assert headers["amqpq-traceback"].rstrip().endswith("ValueError: no such thing")
    assert "amqpq/worker" not in headers["amqpq-traceback"], "the traceback begins with the user's frame"
    assert (headers["amqpq-queue"], headers["amqpq-worker"], headers["amqpq-attempts"]) == ("default", "w1@test", 1)


def test_an_unknown_task_answers_and_is_parked(app: App, start: Any, dead: Any) -> None:
    """Nobody waits for ever for a task that no worker knows."""
    start()
    with pytest.raises(Exception, match="did you mean 'shop.add'"):
        app.send_task("shop.ad").get(timeout=10)
    assert dead()["amqpq-cause"] == "unknown-task"


def test_an_expired_task_answers_and_is_parked(app: App, start: Any, gate: Any, dead: Any, until: Until) -> None:
    """A caller learns that its task expired, and does not wait for ever."""
    start(concurrency=1)
    app.send_task("shop.hold", ("first",))
    until(lambda: gate.begun)
    result = app.send_task("shop.add", (1, 2), expires=0.05)
    late = time.time() + 0.06
    until(lambda: time.time() > late)
    gate.opened.set()
    with pytest.raises(TaskExpired):
        result.get(timeout=10)
    assert dead()["amqpq-cause"] == "expired"


@pytest.mark.parametrize(
    "change, cause",
    [
        pytest.param(lambda body, _: body + b"\0", "forged", id="flipped"),
        pytest.param(
            lambda _body, headers: headers.pop("amqpq-sig") and b"\x93\x90\x80\x80", "unsigned", id="unsigned"
        ),
        pytest.param(
            lambda body, headers: headers.update({"amqpq-kid": "mallory"}) or body, "untrusted", id="untrusted"
        ),
        pytest.param(lambda body, headers: headers.update({"task": "shop.add"}) or body, "forged", id="renamed"),
    ],
)
def test_what_is_not_genuine_is_parked_and_not_answered(
    app: App, start: Any, broker: MemoryBroker, dead: Any, change: Any, cause: str
) -> None:
    """A message that was altered on the way never runs, and its reply address is not believed."""
    result = app.send_task("shop.hold", ("never",))
    body, properties = taken_from(broker, "default")
    changed = change(body, properties.headers)
    publish(broker, changed, properties)
    start()
    assert dead()["amqpq-cause"] == cause
    assert result.state == "PENDING"


def test_a_message_published_again_is_parked_as_replayed(
    app: App, start: Any, broker: MemoryBroker, gate: Any, dead: Any
) -> None:
    """The same signed message runs once, unless the broker says that it is a redelivery."""
    gate.opened.set()
    result = app.send_task("shop.hold", ("once",))
    message = taken_from(broker, "default")
    publish(broker, *message)
    publish(broker, *message)
    start()
    assert dead()["amqpq-cause"] == "replayed"
    assert result.get(timeout=10) == "once"
    assert gate.begun == ["once"]


def test_a_dead_letter_may_be_requeued(app: App, start: Any, broker: MemoryBroker, dead: Any, until: Until) -> None:
    """Putting a dead letter back into its queue is not a replay: it runs, and fails, again."""
    start()
    app.send_task("shop.fail", ("again",), reply="none")
    dead()
    publish(broker, *taken_from(broker, "shop.dead"))
    until(lambda: broker.queues()["shop.dead"].messages)
    headers = dead()
    assert headers["amqpq-cause"] == "failed"
    assert headers["amqpq-first-failed"] < headers["amqpq-last-failed"]


def test_an_unsupported_wish_is_parked_instead_of_ignored(
    app: App, start: Any, broker: MemoryBroker, dead: Any
) -> None:
    """A message with a time limit is not run without one."""
    envelope = TaskEnvelope("1f0c", "shop.add", (1, 2), timelimit=(5.0, None))
    publish(broker, *app.codec.encode_task(envelope, exchange="", key="default"))
    start()
    headers = dead()
    assert headers["amqpq-cause"] == "unsupported"
    assert "timelimit" in headers["amqpq-reason"]


def test_a_task_over_its_hard_limit_is_answered_and_parked(
    app: App, start: Any, gate: Any, until: Any, dead: Any
) -> None:
    """It is not tried again, and does not count as a crash; what the pool says of it later changes nothing."""
    worker = start()
    result = app.send_task("shop.hold", ("long",))
    until(lambda: gate.begun)
    crash = Crash(1, RUNNING, "child 7 was killed by SIGKILL", (), overran=2.5)
    worker.reactor.post(lambda _: worker.loop.crashed(crash))
    with pytest.raises(TimeLimitExceeded, match=r"longer than its time limit of 2\.5 s"):
        result.get(timeout=20)
    headers = dead()
    assert (headers["amqpq-cause"], headers["amqpq-attempts"]) == ("time-limit", 1)
    assert "amqpq-crashes" not in headers
    gate.opened.set()
    assert worker.stop() == 0
    assert worker.loop.counts["overran"] == 1
    assert not worker.loop.counts["crashed"]


def test_a_child_that_died_at_nothing_is_told_once(start: Any, until: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The pool says so; what the child held, and had not begun, is only handed back."""
    worker = start()
    done: list[bool] = []
    worker.reactor.post(lambda _: worker.loop.crashed(Crash(None, 0, "child 7 was killed by SIGKILL", (99,))))
    worker.reactor.post(lambda _: done.append(True))
    until(lambda: done)
    assert "SIGKILL" not in caplog.text
    assert worker.stop() == 0


def test_undecodable_bytes_are_parked(start: Any, app: App, broker: MemoryBroker, dead: Any) -> None:
    """A genuine message whose body is no message is kept with its cause."""
    _, properties = app.codec.encode_task(TaskEnvelope("1f0c", "shop.add"), exchange="", key="default")
    signer = app.codec.signer
    assert signer is not None
    headers = {**properties.headers, "amqpq-sig": signature_text(signer.sign(task_bytes(properties, {}, b"\xc1")))}
    publish(broker, b"\xc1", properties._replace(headers=headers))
    start()
    assert dead()["amqpq-cause"] == "undecodable"


def test_without_a_dead_letter_a_failure_is_dropped_and_counted(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """`dead_letter: none` is obeyed: a log line and a counter, and the message is gone."""
    worker = start()
    app.send_task("forget.fail", ("forget me",), reply="none")
    until(lambda: worker.loop.counts["dropped"] == 1)
    worker.stop()
    assert broker.queues()["forgetful"].messages == broker.queues()["shop.dead"].messages == 0


def test_a_vanished_reply_queue_is_counted_and_no_error_loop(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """A result nobody waits for any more is acknowledged; the task runs once."""
    worker = start()
    result = app.send_task("shop.hold", ("unheard",))
    until(lambda: gate.begun)
    result.forget()
    gate.opened.set()
    until(lambda: worker.loop.counts["unheard"] == 1)
    assert worker.stop() is ExitCode.FINISHED
    assert gate.begun == ["unheard"]
    assert broker.queues()["default"].messages == 0


def test_a_missing_dead_letter_queue_keeps_the_message(
    app: App, start: Any, broker: MemoryBroker, dead: Any, until: Until
) -> None:
    """What cannot be parked is not acknowledged; it is parked when the queue is there."""
    start()
    channel = broker.connect().channel()
    answer(channel.delete_queue("shop.dead"))
    app.send_task("shop.fail", ("keep me",), reply="none")
    connection = broker.connect()
    until(lambda: "shop.dead" not in broker.queues())
    answer(connection.channel().declare_queue(QueueSpec("shop.dead")))
    assert dead()["amqpq-reason"] == "ValueError: keep me"


def test_a_result_for_a_queue_whose_node_is_down_waits_for_it(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker returns it as if nobody waited. Its queue is there, and gets it when the node is back."""
    start()
    result = app.send_task("shop.hold", ("patient",))
    until(lambda: gate.begun)
    broker.lose_node(f"amqpq.reply.{result.id}")
    gate.opened.set()
    until(lambda: "is down or inaccessible" in caplog.text)
    broker.find_node()
    assert result.get(timeout=10) == "patient"


def test_a_result_that_nobody_waits_for_ends_its_task(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """Its reply queue was deleted: the worker asks, is told, and acknowledges."""
    worker = start()
    result = app.send_task("shop.hold", ("forgotten",))
    until(lambda: gate.begun)
    result.forget()
    gate.opened.set()
    until(lambda: worker.loop.counts["unheard"] == 1)
    until(lambda: broker.queues()["default"].messages == 0)
    assert worker.stop() is ExitCode.FINISHED


@pytest.mark.parametrize(
    ("version", "fresh_seconds", "asked"), [("4.3.6", 60.0, 5), ("4.3.6", -1.0, 1), ("3.13.7", 60.0, 1)]
)
def test_a_reply_queue_that_may_only_be_on_its_way_is_asked_for_again(
    app: App, start: Any, broker: MemoryBroker, until: Until, monkeypatch: pytest.MonkeyPatch,
    version: str, fresh_seconds: float, asked: int,
) -> None:  # fmt: skip
    """Nodes with Khepri may learn of a declaration late; older ones never, and a task that waited long is known everywhere."""
    looked = _count_looks(monkeypatch)
    monkeypatch.setattr(settler, "REPLY_PAUSES", (0.001,) * 4)
    monkeypatch.setattr(settler, "FRESH_SECONDS", fresh_seconds)
    broker._server = replace(broker._server, version=version)
    app.send_task("shop.add", (2, 3)).forget()
    worker = start()
    until(lambda: worker.loop.counts["unheard"] == 1)
    assert len(looked) == asked
    assert worker.stop() is ExitCode.FINISHED


def test_a_result_waits_for_a_reply_queue_that_comes_late(
    app: App, start: Any, broker: MemoryBroker, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node of the worker learns of the queue after the result was returned: the result is in it."""
    looked = _count_looks(monkeypatch)
    monkeypatch.setattr(settler, "REPLY_PAUSES", (0.01,) * 500)
    broker._server = replace(broker._server, version="4.3.6")
    result = app.send_task("shop.add", (2, 3))
    result.forget()
    start()
    until(lambda: len(looked) > 1)
    channel = broker.connect().channel()
    channel.declare_queue(QueueSpec(f"amqpq.reply.{result.id}", arguments={"x-max-length": 1}))
    assert app.AsyncResult(result.id).get(timeout=10) == 5


def _count_looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    looked: list[str] = []
    look = Outlet.look
    monkeypatch.setattr(Outlet, "look", lambda self, queue, then: (looked.append(queue), look(self, queue, then))[1])
    return looked


# --------------------------------------------------------------------------------------------------------- connections


def test_a_task_that_runs_through_a_lost_connection_runs_once(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """Its redelivery is given to the running task; its result arrives; it is acknowledged."""
    worker = start()
    result = app.send_task("shop.hold", ("through",))
    until(lambda: gate.begun)
    broker.kill_connections()
    until(lambda: worker.loop.counts["handed over"] == 1)
    gate.opened.set()
    assert result.get(timeout=10) == "through"
    assert worker.stop() is ExitCode.FINISHED
    assert gate.begun == ["through"]
    assert broker.queues()["default"].messages == 0


def test_a_delivery_that_the_broker_took_back_may_be_published_again(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """Another worker may park it, and somebody send it back: that is no replay here. Once it is here again, it would be."""
    worker = start()
    app.send_task("shop.hold", ("away",), reply="none")
    until(lambda: gate.begun)
    assert len(worker.loop._seen) == 1
    broker.stop()
    until(lambda: not len(worker.loop._seen))
    broker.start()
    until(lambda: worker.loop.counts["handed over"] == 1)
    assert len(worker.loop._seen) == 1


def test_a_task_that_ends_while_the_broker_is_away_is_not_run_again(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """Its result is published after the reconnect, and the redelivery is only acknowledged."""
    worker = start()
    result = app.send_task("shop.hold", ("away",))
    until(lambda: gate.begun)
    broker.stop()
    gate.opened.set()
    until(lambda: worker.loop.counts["succeeded"] == 1)
    broker.start()
    assert result.get(timeout=10) == "away"
    until(lambda: worker.loop.counts["handed over"] == 1)
    assert worker.stop() is ExitCode.FINISHED
    assert gate.begun == ["away"]
    assert broker.queues()["default"].messages == 0


def test_what_was_not_begun_at_a_lost_connection_runs_afterwards(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """Deliveries that only waited here are dropped and come again; every result arrives, every task runs once."""
    start(concurrency=1)
    results = [app.send_task("shop.hold", (number,)) for number in range(8)]
    until(lambda: gate.begun)
    broker.kill_connections()
    gate.opened.set()
    assert [result.get(timeout=10) for result in results] == list(range(8))
    assert sorted(gate.begun) == list(range(8))


def test_a_consumer_that_the_broker_cancels_is_opened_again(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """A deleted and recreated queue is consumed again, without a restart."""
    start()
    connection = broker.connect()
    answer(connection.channel().delete_queue("default"))
    answer(connection.channel().declare_queue(queue_spec(app.topology.queues["default"])))
    until(lambda: broker.queues()["default"].consumers)
    assert app.send_task("shop.add", (2, 2)).get(timeout=10) == 4


def test_a_queue_that_stays_missing_ends_the_worker(
    start: Any, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot consume does not pretend to work: it ends with an error."""
    monkeypatch.setattr(intake, "MISSING_SECONDS", 0.0)
    worker = start()
    answer(broker.connect().channel().delete_queue("default"))
    assert worker.wait() is ExitCode.ERROR


# ------------------------------------------------------------------------------------------------------------ stopping


def test_a_warm_stop_gives_back_at_once_and_finishes_what_runs(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """What was not begun is back in its queue while the running task still runs."""
    worker = start(concurrency=1)
    results = [app.send_task("shop.hold", (number,)) for number in range(5)]
    until(lambda: gate.begun and broker.queues()["default"].messages == 0)
    worker.signal()
    until(lambda: broker.queues()["default"].messages == 4)
    assert worker.running
    gate.opened.set()
    assert worker.wait() is ExitCode.FINISHED
    assert gate.begun == [0]
    assert results[0].get(timeout=10) == 0
    assert broker.queues()["default"].messages == 4


def test_a_second_signal_gives_back_what_runs(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """A cold stop does not wait; the exit code says that work was given back."""
    worker = start()
    app.send_task("shop.hold", ("cut off",))
    until(lambda: gate.begun)
    worker.signal()
    worker.signal()
    assert worker.wait() is ExitCode.GAVE_BACK
    assert broker.queues()["default"].messages == 1


def test_the_shutdown_timeout_gives_back_what_still_runs(
    app: App, start: Any, gate: Any, broker: MemoryBroker, until: Until
) -> None:
    """A task that does not end in time is the broker's again."""
    worker = start(shutdown_timeout=0.05)
    app.send_task("shop.hold", ("too long",))
    until(lambda: gate.begun)
    assert worker.stop() is ExitCode.GAVE_BACK
    assert broker.queues()["default"].messages == 1


def test_an_idle_worker_stops_at_once(start: Any) -> None:
    """Nothing to finish, nothing to give back."""
    assert start().stop() is ExitCode.FINISHED


def test_the_watchdog_finds_a_consumer_that_the_broker_does_not_have(
    app: App, start: Any, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """The connection stands, nobody said a word, and no message comes: the worker asks the broker, and subscribes again."""
    monkeypatch.setattr(intake, "WATCH_SECONDS", 0.05)
    worker = start()
    with broker.lock:
        for queue in ("default", "forgetful"):
            broker.host.queues[queue].consumers.clear()
    result = app.send_task("shop.add", (2, 3))
    assert result.get(timeout=10) == 5
    until(lambda: all(broker.queues()[queue].consumers == 1 for queue in ("default", "forgetful")))
    assert worker.loop.counts["succeeded"] == 1
    assert worker.stop() is ExitCode.FINISHED


def test_the_watchdog_finds_a_consumer_that_gets_nothing(
    app: App, start: Any, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has a consumer in its books, holds messages, and delivers none: the worker subscribes again."""
    monkeypatch.setattr(intake, "WATCH_SECONDS", 0.05)
    worker = start()
    told = intake.Intake._told

    def ghost(self: intake.Intake, what: tuple[Any, ...]) -> None:
        line, tap, channel, answer = what
        pending: Future[QueueState] = Future()
        pending.set_result(replace(answer.result(), consumers=1))
        told(self, (line, tap, channel, pending))

    monkeypatch.setattr(intake.Intake, "_told", ghost)
    with broker.lock:
        broker.host.queues["default"].consumers.clear()
    assert app.send_task("shop.add", (2, 3)).get(timeout=10) == 5
    assert worker.stop() is ExitCode.FINISHED


def test_the_watchdog_leaves_a_healthy_consumer_alone(
    start: Any, monkeypatch: pytest.MonkeyPatch, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked again and again, the broker confirms: nothing is subscribed anew."""
    monkeypatch.setattr(intake, "WATCH_SECONDS", 0.001)
    asked: list[object] = []
    told = intake.Intake._told
    monkeypatch.setattr(intake.Intake, "_told", lambda self, what: (asked.append(what), told(self, what))[1])
    worker = start()
    until(lambda: len(asked) > 20)
    assert "subscribing again" not in caplog.text
    assert worker.stop() is ExitCode.FINISHED


def test_a_connection_that_ends_before_it_is_used_is_replaced(
    app: App, start: Any, broker: MemoryBroker, until: Until
) -> None:
    """Found by one thread and lost before the loop hears of it: the worker looks for the next one, and goes on."""
    worker = start()
    lost: list[object] = []

    class Unlucky:
        """Hands out connections of which the first two are lost already."""

        def __init__(self, link: Any) -> None:
            self._link = link
            self._left = 2

        def connection(self, timeout_seconds: float | None) -> Any:
            connection = self._link.connection(timeout_seconds)
            if self._left:
                self._left -= 1
                lost.append(connection)
                with broker.lock:
                    connection.lose("too late")
            return connection

        def close(self, timeout_seconds: float | None = 5.0) -> None:
            self._link.close(timeout_seconds)

    parts = worker.loop._parts
    for lane in (parts.consuming, parts.publishing):
        lane._link = Unlucky(lane._link)
    broker.kill_connections()
    until(lambda: len(lost) == 4)
    assert app.send_task("shop.add", (2, 3)).get(timeout=10) == 5
    assert worker.stop() is ExitCode.FINISHED
