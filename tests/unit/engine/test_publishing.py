"""Publishing, on the in-memory broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from amqpq import App, errors
from amqpq.producer.attempts import Attempts, last_word, verdicts
from amqpq.producer.bulk import CHUNK
from amqpq.producer.options import NEVER, RetryPolicy
from amqpq.producer.planning import Plan
from amqpq.producer.publishing import Sending
from amqpq.testing.memory import MemoryBroker
from amqpq.testing.responder import Responder
from amqpq.transport.interface import Channel, Connection
from amqpq.types import Properties, Publication, QueueSpec
from tests.support.lab import answer

Ready = Callable[[str], "int | None"]


def test_delay_returns_when_the_message_is_in_its_queue(app: App, ready: Ready) -> None:
    """After `delay` the broker has the message, and the reply queue exists and is empty."""

    @app.task(name="tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(2, 3)
    assert ready("default") == 1
    assert ready(f"amqpq.reply.{result.id}") == 0


def test_send_task_needs_no_code(app: App, responder: Responder) -> None:
    """A name and arguments are enough."""
    app.send_task("tasks.nowhere", [1], {"k": "v"})
    envelope = responder.next().envelope
    assert (envelope.task, tuple(envelope.args), dict(envelope.kwargs)) == ("tasks.nowhere", (1,), {"k": "v"})


def test_send_task_uses_the_options_of_a_registered_task(app: App, responder: Responder) -> None:
    """Where the code is here after all, its options count."""

    @app.task(name="tasks.quiet", ignore_result=True, priority=3)
    def quiet() -> None: ...

    app.send_task("tasks.quiet")
    assert responder.next().delivery.properties.priority == 3


def test_wrong_arguments_send_nothing(app: App, ready: Ready) -> None:
    """A call that the function would not take fails here, and nothing is published."""

    @app.task(name="tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(TypeError, match=r"tasks\.add\(x: .*\).*: missing a required argument: 'y'"):
        add.apply_async([2])
    assert ready("default") == 0


def test_an_unroutable_message_leaves_nothing_behind(app: App, channel: Channel, ready: Ready) -> None:
    """Where no queue is bound, the person sees exchange, key and remedy, and the reply queue is gone again."""
    with pytest.raises(
        errors.Unroutable, match=r"'tasks' with key 'nowhere', which reaches no queue.*topology apply"
    ) as caught:
        app.send_task("tasks.add", routing_key="nowhere", task_id="lost")
    assert caught.value.message_id == "lost"
    assert ready("amqpq.reply.lost") is None
    answer(channel.delete_queue("audit"))
    with pytest.raises(errors.Unroutable, match=r"went to queue 'audit'.*the queue is missing"):
        app.send_task("tasks.add", queue="audit")


def test_a_full_queue_that_rejects_is_a_nack(app: App, channel: Channel, ready: Ready) -> None:
    """A queue with reject-publish refuses, and that is told apart from unroutable; no reply queue is left."""
    full = QueueSpec("web.high.full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    answer(channel.declare_queue(full))
    answer(channel.publish([Publication("", full.name, b"x", Properties())]))
    answer(channel.delete_queue("audit"))
    answer(channel.declare_queue(QueueSpec("audit", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})))
    app.send_task("tasks.add", queue="audit", reply="none")
    with pytest.raises(errors.Nacked, match="refused task tasks.add.*is full and rejects"):
        app.send_task("tasks.add", queue="audit", task_id="second")
    assert ready("amqpq.reply.second") is None


def test_many_threads_publish_at_once(app: App, runs: Callable[..., Responder]) -> None:
    """One application serves many threads, and each gets its own answer."""
    runs(double=lambda x: 2 * x)
    found: dict[int, int] = {}

    def work(number: int) -> None:
        for turn in range(5):
            value = number * 100 + turn
            found[value] = app.send_task("tasks.double", [value]).get(timeout=20)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {value: 2 * value for value in found}
    assert len(found) == 60


def test_a_lost_connection_before_the_publish_is_healed(app: App, broker: MemoryBroker) -> None:
    """The next call opens the next connection."""
    app.send_task("tasks.add", reply="none")
    broker.kill_connections()
    app.send_task("tasks.add", reply="none")


def test_a_link_that_was_given_is_closed_for_good(app: App) -> None:
    """An application that was given its link does not fall back to the topology's broker."""
    app.close()
    with pytest.raises(errors.ConfigurationError, match="this link was closed"):
        app.send_task("tasks.add", reply="none")


# ------------------------------------------------------------------------------------------------------------- batches


def test_a_batch_is_published_at_its_end_and_in_order(app: App, ready: Ready, responder: Responder) -> None:
    """Inside the block nothing is sent; at its end everything is, in the order of the calls."""
    with app.batch() as batch:
        sent = [app.send_task("tasks.add", [number]) for number in range(20)]
        assert ready("default") == 0
    assert len(batch) == 20
    assert batch.results == sent
    assert batch.ids == tuple(result.id for result in sent)
    assert [responder.next().envelope.args[0] for _ in range(20)] == list(range(20))
    assert all(ready(f"amqpq.reply.{result.id}") == 0 for result in sent)


@pytest.mark.parametrize("stream", [False, True])
def test_a_batch_mixes_reply_modes(app: App, stream: bool, runs: Callable[..., Responder]) -> None:
    """Task, direct and none may stand in one batch."""
    runs(double=lambda x: 2 * x)
    with app.batch(stream=stream):
        kept = app.send_task("tasks.double", [1])
        direct = app.send_task("tasks.double", [2], reply="direct")
        app.send_task("tasks.double", [3], reply="none")
    assert (kept.get(timeout=10), direct.get(timeout=10)) == (2, 4)


def test_a_result_cannot_be_asked_before_its_batch_is_sent(app: App) -> None:
    """Waiting inside the block would wait for ever, so it is refused."""
    with app.batch():
        result = app.send_task("tasks.add")
        with pytest.raises(errors.LocalError, match="is in a batch and not published yet"):
            result.get(timeout=1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_batch_lists_what_failed(app: App, stream: bool, ready: Ready) -> None:
    """Each message that was not published is named with its reason; the others were published."""
    with pytest.raises(errors.BatchFailed) as caught, app.batch(stream=stream):  # noqa: PT012 - the batch fails at its end
        good = app.send_task("tasks.add", [1])
        bad = app.send_task("tasks.add", [2], routing_key="nowhere")
    assert list(caught.value.failures) == [bad.id]
    assert isinstance(caught.value.failures[bad.id], errors.Unroutable)
    assert str(caught.value).startswith(f"1 of the batch's messages were not published:\n{bad.id}: ")
    assert ready("default") == 1
    assert ready(f"amqpq.reply.{good.id}") == 0
    assert ready(f"amqpq.reply.{bad.id}") is None
    with pytest.raises(errors.Unroutable):
        bad.get(timeout=1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_missing_exchange_is_the_trouble_of_its_own_messages(
    app: App, stream: bool, connection: Connection, ready: Ready
) -> None:
    """It closes the channel that the batch leaves on, once and again; all that comes behind is published."""
    del connection
    with pytest.raises(errors.BatchFailed) as caught, app.batch(stream=stream):  # noqa: PT012 - the batch fails at its end
        lost = [
            app.send_task("tasks.add", exchange="amq.missing", routing_key="x", reply="none") for _ in range(3 * CHUNK)
        ]
        for _ in range(CHUNK):
            app.send_task("tasks.add", reply="none")
    assert {type(failure) for failure in caught.value.failures.values()} == {errors.Unroutable}
    assert caught.value.failures.keys() == {each.id for each in lost}
    assert ready("default") == CHUNK


def test_an_exception_drops_the_batch(app: App, ready: Ready) -> None:
    """A block that ends with an exception sends nothing, and its results say so."""
    with pytest.raises(ZeroDivisionError), app.batch():  # noqa: PT012 - the block is what ends
        result = app.send_task("tasks.add")
        _ = 1 / 0
    assert ready("default") == 0
    with pytest.raises(errors.PublishError, match="was not sent: its batch ended with ZeroDivisionError"):
        result.get(timeout=1)


def test_a_batch_is_of_its_thread(app: App, ready: Ready) -> None:
    """What another thread sends meanwhile is sent at once."""
    with app.batch() as batch:
        thread = threading.Thread(target=app.send_task, args=("tasks.add",))
        thread.start()
        thread.join(10)
        assert ready("default") == 1
    assert len(batch) == 0


def test_batches_do_not_nest(app: App) -> None:
    """A batch inside a batch is refused: it could not say when its messages are confirmed."""
    with app.batch(), pytest.raises(errors.LocalError, match="a batch inside a batch"), app.batch():
        pass


def test_an_empty_batch_is_nothing(app: App) -> None:
    """A block without calls publishes nothing and fails at nothing."""
    with app.batch() as batch:
        pass
    assert batch.results == []


# ------------------------------------------------------------------------------------------------------------ attempts


def sending(**facts: Any) -> Sending:
    """Make a sending with the id `t1`."""
    return Sending(Plan("tasks.add", "t1", Publication("", "q", b"", Properties()), "task"), **facts)


def test_a_lost_connection_is_tried_again_until_the_deadline() -> None:
    """Without a limit the deadline ends the attempts."""
    course = Attempts(RetryPolicy(), deadline=10.0)
    assert course.pause(errors.ConnectionLost(), now=0.0) == 0.0
    assert course.pause(errors.OutcomeUnknown(), now=5.0) == pytest.approx(0.2)
    assert course.pause(errors.ChannelClosed(), now=9.9) is None


def test_a_refusal_is_not_tried_again() -> None:
    """What the broker refuses it would refuse again."""
    course = Attempts(RetryPolicy(), deadline=10.0)
    for error in (errors.Unroutable(), errors.Nacked(), errors.Blocked(), errors.AccessRefused()):
        assert course.pause(error, now=0.0) is None


def test_retry_off_is_one_attempt() -> None:
    """`retry=False` leaves the decision to the caller."""
    assert Attempts(NEVER, deadline=10.0).pause(errors.ConnectionLost(), now=0.0) is None


def test_doubt_is_never_forgotten() -> None:
    """Once an attempt may have reached the broker, a later refusal to connect does not make it unsent."""
    word = last_word(sending(written=True), errors.BrokerUnreachable("nobody there"))
    assert isinstance(word, errors.OutcomeUnknown)
    assert word.message_id == "t1"
    assert "nobody knows whether the broker took task tasks.add[t1] (nobody there)" in str(word)
    plain = errors.BrokerUnreachable("nobody there")
    assert last_word(sending(), plain) is plain


def test_a_batch_tells_the_unsent_from_the_unknown() -> None:
    """What was never written is unsent, what was written and not answered is unknown."""
    failures = verdicts([sending(written=True)], errors.ConnectionLost("gone"))
    assert isinstance(failures["t1"], errors.OutcomeUnknown)
    failures = verdicts([sending()], errors.BrokerUnreachable("gone"))
    assert type(failures["t1"]) is errors.PublishError
    assert str(failures["t1"]) == "not sent: gone"
    assert isinstance(verdicts([sending()], errors.Blocked("memory"))["t1"], errors.Blocked)
    assert verdicts([sending(done=True)], errors.ConnectionLost()) == {}
