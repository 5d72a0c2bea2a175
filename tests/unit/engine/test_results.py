"""Results, on the in-memory broker."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from amqpq import App, errors
from amqpq.message import ResultEnvelope, failure
from amqpq.replies.session import DELETING_CHANNELS, Session
from amqpq.testing.memory import MemoryBroker
from amqpq.testing.responder import Responder
from amqpq.transport import lagging
from amqpq.transport.interface import Channel, Connection
from amqpq.types import ExchangeSpec, Properties, Publication, QueueSpec
from tests.support.lab import answer, until

Ready = Callable[[str], "int | None"]


def put(app: App, channel: Channel, task_id: str, envelope: ResultEnvelope, **changes: Any) -> None:
    """Publish a result into the reply queue of `task_id`, with a changed body or other headers where asked."""
    name = f"amqpq.reply.{task_id}"
    body, properties = app.codec.encode_result(envelope, reply_to=name)
    publication = Publication("", name, changes.get("body", body), changes.get("properties", properties))
    pending: Any = channel.publish([publication])
    pending.result(10)


def test_get_returns_the_value_and_deletes_the_queue(app: App, runs: Callable[..., Responder], ready: Ready) -> None:
    """The result comes back and its queue is gone with it."""
    runs(add=lambda x, y: x + y)
    result = app.send_task("tasks.add", [2, 3])
    assert result.get(timeout=10) == 5
    assert ready(f"amqpq.reply.{result.id}") is None


def test_a_fetched_result_is_kept(app: App, runs: Callable[..., Responder]) -> None:
    """Asking again costs nothing, and every view agrees."""
    runs(add=lambda x, y: x + y)
    result = app.send_task("tasks.add", [2, 3])
    assert [result.get(timeout=10), result.get(timeout=10), result.wait(timeout=10), result.result] == [5] * 4
    assert (result.state, result.status, result.ready()) == ("SUCCESS", "SUCCESS", True)
    assert (result.successful(), result.failed(), result.traceback) == (True, False, None)
    assert repr(result) == f"<AsyncResult {result.id} SUCCESS>"


def test_a_result_is_fetched_by_its_id(app: App, runs: Callable[..., Responder]) -> None:
    """Whoever has the id has the result."""
    runs(add=lambda x, y: x + y)
    task_id = app.send_task("tasks.add", [2, 3]).id
    assert app.AsyncResult(task_id).get(timeout=10) == 5


def test_a_result_fetched_elsewhere_is_not_found(app: App, runs: Callable[..., Responder]) -> None:
    """The second who asks is told that there is nothing any more, and does not wait."""
    runs(add=lambda x, y: x + y)
    result = app.send_task("tasks.add", [2, 3])
    assert app.AsyncResult(result.id).get(timeout=10) == 5
    with pytest.raises(errors.ResultNotFound, match=f"task {result.id} has no reply queue.*already fetched"):
        result.get(timeout=10)


def test_an_id_that_never_existed_is_not_found(app: App) -> None:
    """An unknown id is told apart from a task that has not finished."""
    result = app.AsyncResult("never")
    for ask in (lambda: result.get(timeout=10), lambda: result.state, result.ready, lambda: result.result):
        with pytest.raises(errors.ResultNotFound, match="task never has no reply queue: the id never existed"):
            ask()


def test_pending_is_an_empty_reply_queue(app: App) -> None:
    """Before any worker has spoken the state is PENDING and there is no result."""
    result = app.send_task("tasks.add")
    assert (result.state, result.ready(), result.result, result.traceback) == ("PENDING", False, None, None)
    assert (result.successful(), result.failed()) == (False, False)


def test_looking_leaves_the_result(app: App, responder: Responder, ready: Ready) -> None:
    """State, result and ready look, again and again; only get takes."""
    result = app.send_task("tasks.add")
    call = responder.next()
    responder.say(call, "PROGRESS", {"done": 3})
    assert [(result.state, result.result) for _ in range(3)] == [("PROGRESS", {"done": 3})] * 3
    assert result.peek() == ("PROGRESS", {"done": 3})
    responder.say(call, "SUCCESS", 5)
    other = app.AsyncResult(result.id)
    assert (other.state, other.result) == ("SUCCESS", 5)
    assert ready(f"amqpq.reply.{result.id}") == 1
    assert other.get(timeout=10) == 5
    assert ready(f"amqpq.reply.{result.id}") is None


def test_get_shows_progress_on_the_way(app: App, responder: Responder) -> None:
    """`on_state` sees the intermediate states in order, and never the final one."""
    result = app.send_task("tasks.add")
    call = responder.next()
    seen: list[tuple[str, Any]] = []

    def on_state(state: str, meta: Any) -> None:
        seen.append((state, meta))
        responder.say(call, *following.pop(0))

    following: list[tuple[Any, ...]] = [("PROGRESS", 50), ("UPLOADING",), ("SUCCESS", 5)]
    responder.say(call, "STARTED", {"pid": 1})
    assert result.get(timeout=10, on_state=on_state) == 5
    assert seen == [("STARTED", {"pid": 1}), ("PROGRESS", 50), ("UPLOADING", None)]


def test_get_that_runs_out_of_time_loses_nothing(app: App, responder: Responder) -> None:
    """The person sees id, time and last state; the state stays, and the result can be fetched later."""
    result = app.send_task("tasks.add")
    call = responder.next()
    responder.say(call, "PROGRESS", 50)
    with pytest.raises(
        errors.ResultTimeout, match=r"did not finish within 0\.05 s \(last state seen: PROGRESS\); its result"
    ):
        result.get(timeout=0.05)
    responder.say(call, "SUCCESS", 5)
    assert result.get(timeout=10) == 5


def test_a_timeout_puts_the_state_back(app: App, responder: Responder) -> None:
    """After a get that gave up, the state it had seen can be seen by others."""
    result = app.send_task("tasks.add")
    responder.say(responder.next(), "PROGRESS", 50)
    with pytest.raises(errors.ResultTimeout):
        result.get(timeout=0.05)
    assert result.peek() == ("PROGRESS", 50)


def test_a_failure_is_raised_as_its_class_with_the_remote_traceback(app: App, runs: Callable[..., Responder]) -> None:
    """An exception of the task comes back as the same class, with the worker's traceback as its cause."""

    def fail() -> None:
        raise KeyError("colour")

    runs(fail=fail)
    result = app.send_task("tasks.fail")
    with pytest.raises(KeyError, match="colour") as caught:
        result.get(timeout=10)
    assert "in fail" in str(caught.value.__cause__)
    assert (result.state, result.failed(), result.successful()) == ("FAILURE", True, False)
    assert 'raise KeyError("colour")' in str(result.traceback)
    assert isinstance(result.get(propagate=False), KeyError)
    assert isinstance(result.result, KeyError)


def test_an_exception_that_is_not_here_is_shown(app: App, responder: Responder) -> None:
    """A class that cannot be found here becomes a RemoteError with the original name and the traceback."""
    result = app.send_task("tasks.add")
    described = {"exc_type": "Odd", "exc_module": "their.code", "exc_message": ["no"]}
    responder.say(responder.next(), "FAILURE", described, "Traceback: line 7")
    with pytest.raises(errors.RemoteError, match=r"their\.code\.Odd: no") as caught:
        result.get(timeout=10)
    assert caught.value.traceback == "Traceback: line 7"
    assert "line 7" in caught.value.__notes__[0]


def test_an_expired_task_says_so(app: App, responder: Responder) -> None:
    """EXPIRED is an answer: the caller does not wait for ever."""
    result = app.send_task("tasks.add")
    responder.say(responder.next(), "EXPIRED")
    with pytest.raises(errors.TaskExpired, match=f"task {result.id} expired before a worker could run it"):
        result.get(timeout=10)


def test_a_celery_worker_that_finds_a_task_expired_is_understood(app: App, responder: Responder) -> None:
    """Celery revokes what came too late; that is the same answer."""
    result = app.send_task("tasks.add")
    described = {"exc_type": "TaskRevokedError", "exc_module": "celery.exceptions", "exc_message": ["expired"]}
    responder.say(responder.next(), "REVOKED", described)
    with pytest.raises(errors.TaskExpired):
        result.get(timeout=10)


def test_forget_deletes_the_queue(app: App, ready: Ready) -> None:
    """A result that is not wanted any more leaves nothing, and cannot be asked for here."""
    result = app.send_task("tasks.add")
    result.forget()
    assert ready(f"amqpq.reply.{result.id}") is None
    with pytest.raises(errors.ResultNotFound, match="was forgotten here"):
        result.get(timeout=1)


def test_no_reply_means_no_waiting(app: App) -> None:
    """A task sent without a reply is told apart from one that has not finished."""
    result = app.send_task("tasks.add", reply="none")
    with pytest.raises(errors.NoReplyExpected, match="was sent with reply: none"):
        result.get(timeout=10)


def test_a_forged_result_is_discarded_and_waiting_goes_on(
    app: App, channel: Channel, responder: Responder, caplog: pytest.LogCaptureFixture
) -> None:
    """A message nobody signed does not become a result, in get and in looking; the log says what was found."""
    result = app.send_task("tasks.add")
    forged = Properties(content_type="application/x-msgpack", correlation_id=result.id)
    with caplog.at_level(logging.WARNING, logger="amqpq.security"):
        put(app, channel, result.id, ResultEnvelope(result.id, "SUCCESS", "evil"), properties=forged)
        assert result.state == "PENDING"
        put(app, channel, result.id, ResultEnvelope(result.id, "SUCCESS", "evil"), properties=forged)
        responder_says = threading.Timer(0, lambda: responder.say(responder.next(), "SUCCESS", "true"))
        responder_says.start()
        assert result.get(timeout=10) == "true"
        responder_says.join(10)
    lines = [
        record.getMessage() for record in caplog.records if "discarded what lay in the reply queue" in record.message
    ]
    assert lines
    assert all("unsigned" in line for line in lines)


def test_a_result_of_another_task_is_discarded(app: App, channel: Channel, caplog: pytest.LogCaptureFixture) -> None:
    """A genuine result that was moved into this queue is somebody else's."""
    result = app.send_task("tasks.add")
    with caplog.at_level(logging.WARNING, logger="amqpq.security"):
        put(app, channel, result.id, ResultEnvelope("another", "SUCCESS", 1))
        assert result.state == "PENDING"
    assert "lies in the reply queue of" in caplog.text


def test_get_goes_on_after_a_lost_connection(app: App, responder: Responder, broker: MemoryBroker) -> None:
    """A connection that is lost while a result is waited for is replaced, and the waiting goes on."""
    result = app.send_task("tasks.add", task_id="steady")
    call = responder.next()

    def on_state(_: str, __: Any) -> None:
        broker.kill_connections()
        connection = broker.connect()
        put(app, connection.channel(), call.envelope.id, ResultEnvelope("steady", "SUCCESS", 5))

    responder.say(call, "STARTED")
    assert result.get(timeout=10, on_state=on_state) == 5


def test_results_on_a_node_that_is_down_are_waited_for(
    app: App, responder: Responder, broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """They are neither missing nor lost: `get` and `collect` go on when the node is back, and fetch the others meanwhile."""
    results = [app.send_task("tasks.add", task_id=f"r{number}") for number in range(4)]
    calls = [responder.next() for _ in results]
    for call in calls:
        responder.say(call, "SUCCESS", 1)
    broker.lose_node("amqpq.reply.r0", "amqpq.reply.r1")
    fetched: list[str] = []

    def on_result(result: Any) -> None:
        fetched.append(result.id)
        if set(fetched) == {"r2", "r3"}:
            broker.find_node()

    with caplog.at_level(logging.INFO, logger="amqpq.replies"):
        assert app.collect(results[1:], timeout=20, on_result=on_result) == [1, 1, 1]
        assert "down or inaccessible" in caplog.text
        broker.lose_node("amqpq.reply.r0")
        caplog.clear()
        got: list[Any] = []
        getting = threading.Thread(target=lambda: got.append(results[0].get(timeout=20)))
        getting.start()
        pause = threading.Event()
        while "down or inaccessible" not in caplog.text and getting.is_alive():
            pause.wait(0.01)
        broker.find_node()
        getting.join(20)
    assert got == [1]


def test_a_get_whose_queue_is_deleted_ends(app: App, channel: Channel, responder: Responder) -> None:
    """Who waits while another one fetches the result is told, and does not wait for ever."""
    result = app.send_task("tasks.add")
    responder.say(responder.next(), "STARTED")
    with pytest.raises(errors.ResultNotFound):
        result.get(timeout=10, on_state=lambda *_: channel.delete_queue(f"amqpq.reply.{result.id}"))


def test_an_error_in_on_state_ends_the_get_and_leaves_the_result(app: App, responder: Responder) -> None:
    """The callback's exception reaches the caller; the state stays in its queue."""
    result = app.send_task("tasks.add")
    call = responder.next()
    responder.say(call, "STARTED")

    def on_state(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        result.get(timeout=10, on_state=on_state)
    responder.say(call, "SUCCESS", 5)
    assert result.get(timeout=10) == 5


# -------------------------------------------------------------------------------------------------------------- direct


def test_direct_replies_come_back_without_a_queue(app: App, runs: Callable[..., Responder], ready: Ready) -> None:
    """Mode `direct` declares nothing and fetches the value and its states."""
    runs(add=lambda x, y: x + y)
    result = app.send_task("tasks.add", [2, 3], reply="direct")
    assert result.get(timeout=10) == 5
    assert (result.state, result.result, result.ready()) == ("SUCCESS", 5, True)
    assert ready(f"amqpq.reply.{result.id}") is None


def test_direct_replies_are_matched_by_task(app: App, responder: Responder) -> None:
    """Answers out of order find their callers."""
    first = app.send_task("tasks.add", reply="direct")
    second = app.send_task("tasks.add", reply="direct")
    calls = [responder.next(), responder.next()]
    responder.say(calls[1], "SUCCESS", "two")
    responder.say(calls[0], "PROGRESS", 1)
    responder.say(calls[0], "SUCCESS", "one")
    seen: list[Any] = []
    assert first.get(timeout=10, on_state=lambda *state: seen.append(state)) == "one"
    assert second.get(timeout=10) == "two"
    assert seen == [("PROGRESS", 1)]


def test_several_threads_may_wait_for_one_direct_reply(app: App, responder: Responder) -> None:
    """Whoever reads the reply, everybody who waits gets it."""
    result = app.send_task("tasks.add", reply="direct")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(result.get(timeout=10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    responder.say(responder.next(), "SUCCESS", 5)
    for thread in threads:
        thread.join(20)
    assert found == [5] * 4


def test_a_direct_reply_dies_with_its_connection(app: App, broker: MemoryBroker) -> None:
    """A direct reply whose connection is gone cannot come any more, and the caller is told."""
    result = app.send_task("tasks.add", reply="direct")
    broker.kill_connections()
    with pytest.raises(errors.ReplyLost, match="Direct replies are at most once; use reply='task'"):
        result.get(timeout=10)


def test_a_direct_reply_that_is_late_can_be_asked_for_again(app: App, responder: Responder) -> None:
    """A timeout loses nothing as long as the handle is held."""
    result = app.send_task("tasks.add", reply="direct")
    with pytest.raises(errors.ResultTimeout, match=r"call get\(\) again"):
        result.get(timeout=0.01)
    responder.say(responder.next(), "SUCCESS", 5)
    assert result.get(timeout=10) == 5


def test_a_direct_reply_is_of_the_process_that_asked(app: App) -> None:
    """By id alone a direct reply cannot be fetched, and the person is told why."""
    result = app.send_task("tasks.add", reply="direct")
    with pytest.raises(errors.ResultNotFound, match="or it was sent with another reply mode than 'task'"):
        app.AsyncResult(result.id).get(timeout=10)


def test_nobody_waits_for_a_direct_reply_whose_handle_is_gone(app: App, responder: Responder) -> None:
    """What waits for direct replies belongs to the handles: no handle, no memory."""
    held = app.send_task("tasks.add", reply="direct")
    dropped = app.send_task("tasks.add", reply="direct")
    calls = [responder.next(), responder.next()]
    gone = dropped.id
    del dropped
    gc.collect()
    for call in calls:
        responder.say(call, "SUCCESS", call.envelope.id)
    assert held.get(timeout=10) == held.id != gone


# ---------------------------------------------------------------------------------------------------------- collecting


def test_collecting_fetches_many_and_deletes_their_queues(
    app: App, runs: Callable[..., Responder], ready: Ready
) -> None:
    """Values come in the order asked, each reported once, and no queue is left."""
    runs(double=lambda x: 2 * x)
    with app.batch() as batch:
        for number in range(100):
            app.send_task("tasks.double", [number])
    reported: list[str] = []
    assert app.collect(batch.results, timeout=20, on_result=lambda result: reported.append(result.id)) == [
        2 * number for number in range(100)
    ]
    assert sorted(reported) == sorted(batch.ids)
    assert all(ready(f"amqpq.reply.{task_id}") is None for task_id in batch.ids)


def test_missing_results_do_not_disturb_the_others(app: App, runs: Callable[..., Responder]) -> None:
    """Ids without a queue, however many, are reported, and all others are fetched."""
    runs(double=lambda x: 2 * x)
    with app.batch() as batch:
        for number in range(60):
            app.send_task("tasks.double", [number])
    handles: list[Any] = []
    for number, result in enumerate(batch.results):
        handles += [result, app.AsyncResult(f"missing-{number}")]
    values = app.collect(handles, timeout=20, propagate=False)
    assert values[::2] == [2 * number for number in range(60)]
    assert all(isinstance(value, errors.ResultNotFound) for value in values[1::2])


def test_collecting_raises_the_first_failure_after_fetching_all(
    app: App, runs: Callable[..., Responder], ready: Ready
) -> None:
    """A failure does not leave the other results behind."""
    runs(divide=lambda x, y: x // y)
    results = [app.send_task("tasks.divide", [6, divisor]) for divisor in (3, 0, 2)]
    with pytest.raises(ZeroDivisionError):
        app.collect(results, timeout=20)
    assert all(ready(f"amqpq.reply.{result.id}") is None for result in results)
    assert (results[0].get(), results[2].get()) == (2, 3)


def test_collecting_mixes_modes_and_what_is_known_already(app: App, runs: Callable[..., Responder]) -> None:
    """Fetched, direct, reply-less and repeated handles may stand in one collection."""
    runs(double=lambda x: 2 * x)
    fetched = app.send_task("tasks.double", [1])
    fetched.get(timeout=10)
    direct = app.send_task("tasks.double", [2], reply="direct")
    none = app.send_task("tasks.double", [3], reply="none")
    kept = app.send_task("tasks.double", [4])
    values = app.collect([fetched, direct, none, kept, kept], timeout=20, propagate=False)
    assert (values[0], values[1], values[3], values[4]) == (2, 4, 8, 8)
    assert isinstance(values[2], errors.NoReplyExpected)


def test_collecting_that_runs_out_of_time_keeps_what_it_got(app: App, responder: Responder) -> None:
    """The person sees how many are missing; the rest is fetched and can be collected later."""
    results = [app.send_task("tasks.add") for _ in range(3)]
    calls = [responder.next() for _ in results]
    responder.say(calls[0], "SUCCESS", "a")
    responder.say(calls[1], "PROGRESS", 1)
    got: list[str] = []
    with pytest.raises(errors.ResultTimeout, match=r"2 of 3 tasks did not finish within 0\.3 s"):
        app.collect(results, timeout=0.3, on_result=lambda result: got.append(result.get()))
    assert got == ["a"]
    responder.say(calls[1], "SUCCESS", "b")
    responder.say(calls[2], "FAILURE", failure.describe(ValueError("c")))
    values = app.collect(results, timeout=20, propagate=False)
    assert values[:2] == ["a", "b"]
    assert isinstance(values[2], ValueError)


def test_collecting_goes_on_after_a_lost_connection(app: App, responder: Responder, broker: MemoryBroker) -> None:
    """What was fetched before the connection was lost stays, the rest is fetched on the next one."""
    results = [app.send_task("tasks.add") for _ in range(6)]
    calls = [responder.next() for _ in results]
    for call in calls[:3]:
        responder.say(call, "SUCCESS", 1)

    done: list[str] = []

    def on_result(result: Any) -> None:
        done.append(result.id)
        if len(done) == 3:
            broker.kill_connections()
            channel = broker.connect().channel()
            for call in calls[3:]:
                put(app, channel, call.envelope.id, ResultEnvelope(call.envelope.id, "SUCCESS", 2))

    assert app.collect(results, timeout=20, on_result=on_result) == [1, 1, 1, 2, 2, 2]


def test_collecting_discards_forgeries(
    app: App, channel: Channel, responder: Responder, connection: Connection
) -> None:
    """A forged message in one of the queues is dropped, and its task is waited for."""
    del connection
    result = app.send_task("tasks.add")
    put(app, channel, result.id, ResultEnvelope(result.id, "SUCCESS", "evil"), properties=Properties())
    call = responder.next()
    with pytest.raises(errors.ResultTimeout):
        app.collect([result], timeout=0.2)
    responder.say(call, "SUCCESS", "true")
    assert app.collect([result], timeout=20) == ["true"]


class Behind:
    """A node of a cluster that learns of a reply queue when it is made to catch up, if it may be asked for that."""

    def __init__(self, connection: Connection, task_id: str, *, knows: bool = True, may: bool = True) -> None:
        self.asked = 0
        self._then: Callable[[], object] = lambda: None
        self._connection = connection
        self._task_id = task_id
        self._knows = knows
        self._may = may

    def after(self, then: Callable[[], object]) -> None:
        """Do something when the node knows."""
        self._then = then

    def catch_up(self, channel: Channel, queue: str) -> Any:
        """Stand in for `lagging.catch_up`."""
        self.asked += 1
        if self._knows:
            answer(self._connection.channel().declare_queue(QueueSpec(f"amqpq.reply.{self._task_id}")))
            self._then()
        if self._may:
            return channel.delete_exchange(queue)
        return channel.declare_exchange(ExchangeSpec("amq.not-ours", "direct"))  # refused


@pytest.fixture
def behind(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Behind]:
    """`behind(task_id)`: the broker learns of that reply queue late."""

    def make(task_id: str, **how: bool) -> Behind:
        node = Behind(connection, task_id, **how)
        monkeypatch.setattr(lagging, "may_lag", lambda _: True)
        monkeypatch.setattr(lagging, "catch_up", node.catch_up)
        return node

    return make


def test_a_node_that_may_be_behind_is_asked_again(app: App, behind: Callable[..., Behind]) -> None:
    """A reply queue that it learns of late is pending, not unknown."""
    node = behind("late")
    assert app.AsyncResult("late").state == "PENDING"
    assert node.asked == 1


def test_a_result_that_a_node_learns_of_late_is_fetched(
    app: App, channel: Channel, behind: Callable[..., Behind]
) -> None:
    """Alone or with others."""
    for task_id, fetch in (
        ("late", lambda: app.AsyncResult("late").get(timeout=10)),
        ("later", lambda: app.collect([app.AsyncResult("later")], timeout=10)[0]),
    ):
        node = behind(task_id)
        node.after(partial(put, app, channel, task_id, ResultEnvelope(task_id, "SUCCESS", 5)))
        assert fetch() == 5
        assert node.asked == 1


@pytest.mark.parametrize("may", [True, False])
def test_an_id_that_is_still_unknown_then_does_not_exist(app: App, behind: Callable[..., Behind], *, may: bool) -> None:
    """Also where the node cannot be made to catch up."""
    node = behind("never", knows=False, may=may)
    for ask in (
        lambda: app.AsyncResult("never").state,
        lambda: app.AsyncResult("never").get(timeout=10),
        lambda: app.collect([app.AsyncResult("never")], timeout=10),
    ):
        with pytest.raises(errors.ResultNotFound, match="task never has no reply queue"):
            ask()
    assert node.asked == 3


def test_a_refused_deletion_is_nobody_elses_trouble(
    broker: MemoryBroker, connection: Connection, ready: Ready, caplog: pytest.LogCaptureFixture
) -> None:
    """It closes its channel, and those that follow go through others; the log has it."""
    session = Session(broker.connect())
    answer(connection.channel().declare_queue(QueueSpec("taken", exclusive=True)))
    names = [f"amqpq.reply.{number}" for number in range(3 * DELETING_CHANNELS)]
    for name in names:
        answer(connection.channel().declare_queue(QueueSpec(name)))
    with caplog.at_level(logging.INFO):
        for name in names:
            session.delete_soon("taken")
            session.delete_soon(name)
        until(lambda: all(ready(name) is None for name in names), "all others deleted")
        until(lambda: "the reply queue taken was not seen deleted" in caplog.text, "a line in the log")


def test_a_result_is_not_lost_for_want_of_a_channel(app: App, runs: Callable[..., Responder], monkeypatch: Any) -> None:
    """What deletes its queue needs one; without it the queue expires."""
    runs(add=lambda x, y: x + y)
    result = app.send_task("tasks.add", [2, 3])

    def full(_: Session) -> Channel:
        raise errors.TransportError("all 4 channels of this connection are in use; close some")

    monkeypatch.setattr(Session, "_deleter", full)
    assert result.get(timeout=10) == 5
