"""Batches that are published while their block runs, on the in-memory broker."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from amqpq import App, errors, signals
from amqpq.producer import bulk
from amqpq.producer.publishing import Sending
from amqpq.testing.memory import MemoryBroker
from amqpq.testing.memory.channel import MemoryChannel
from amqpq.testing.responder import Responder
from amqpq.transport import flow
from amqpq.transport.interface import Connection, Pending
from amqpq.types import Fate, Outcome, Publication

CHUNK = 10
CHUNK_QUEUES = 4
UNDER_WAY = CHUNK * (bulk.CHUNKS_UNDER_WAY + 1)
"""Messages without reply queues that a stream may hold: two chunks written, and the next one."""

Ready = Callable[[str], "int | None"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few messages."""
    monkeypatch.setattr(bulk, "CHUNK", CHUNK)
    monkeypatch.setattr(bulk, "CHUNK_QUEUES", CHUNK_QUEUES)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The ids of which `after_task_publish` was told."""
    heard: list[str] = []

    def receiver(task_id: str, **_: Any) -> None:
        heard.append(task_id)

    signals.after_task_publish.connect(receiver)
    yield heard
    signals.after_task_publish.disconnect(receiver)


class Silence:
    """A broker that takes what is published and does not say so, until the test does.

    `unanswered` are the calls of `publish`: how many messages, and their answer.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.unanswered: list[tuple[int, Pending[list[Outcome]]]] = []

    def begin(self) -> None:
        """From now on the broker is silent."""
        publish = MemoryChannel.publish

        def publish_and_say_nothing(channel: MemoryChannel, publications: Sequence[Publication]) -> Any:
            publish(channel, publications)
            answer = channel.connection.pending()
            self.unanswered.append((len(publications), answer))
            return answer

        self._patch.setattr(MemoryChannel, "publish", publish_and_say_nothing)

    def end(self, confirmed: int) -> None:
        """Confirm the first messages, and have the others, which are as good as published, be of unknown fate."""
        self._patch.undo()
        for count, answer in self.unanswered:
            some, confirmed = min(count, confirmed), max(confirmed - count, 0)
            answer.set_result([Outcome(Fate.CONFIRMED)] * some + [Outcome(Fate.UNKNOWN, "gone")] * (count - some))


@pytest.fixture
def silence() -> Iterator[Silence]:
    """Keeps the broker from answering."""
    with pytest.MonkeyPatch.context() as patch:
        yield Silence(patch)


def call(app: App, number: int, **options: Any) -> Any:
    """Send a task that nobody answers."""
    return app.send_task("tasks.add", [number], reply="none", **options)


def numbers(app: App, connection: Connection, count: int) -> list[int]:
    """Return the arguments of the calls in the queue, in order."""
    responder = Responder(app, connection)
    return [responder.next().envelope.args[0] for _ in range(count)]


def kept() -> int:
    """Count the messages that are held anywhere."""
    gc.collect()
    return sum(isinstance(each, Sending) for each in gc.get_objects())


def test_a_stream_leaves_in_chunks_while_its_block_runs(app: App, connection: Connection, ready: Ready) -> None:
    """A full chunk is at the broker when the call that filled it returns; the end brings the rest, all in order."""
    with app.batch(stream=True) as batch:
        for number in range(2 * CHUNK + 3):
            call(app, number)
            assert ready("default") == (number + 1) // CHUNK * CHUNK
    assert ready("default") == len(batch) == len(set(batch.ids)) == 2 * CHUNK + 3
    assert numbers(app, connection, 2 * CHUNK + 3) == list(range(2 * CHUNK + 3))


def test_it_leaves_sooner_where_bodies_are_large(app: App, ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way is bounded in bytes, too: here three bodies are as much as a chunk may have."""
    monkeypatch.setattr(bulk, "CHUNK_BYTES", 3000)
    with app.batch(stream=True):
        for number in range(7):
            app.send_task("tasks.double", ["x" * 1000], reply="none")
            assert ready("default") == (number + 1) // 3 * 3
    assert ready("default") == 7


def test_a_stream_with_reply_queues_writes_a_chunk_while_the_next_is_declared(app: App, ready: Ready) -> None:
    """The reply queues of the second chunk are declared when the messages of the first one leave."""
    with app.batch(stream=True) as batch:
        for number in range(2 * CHUNK_QUEUES):
            app.send_task("tasks.add", [number])
        assert ready("default") == CHUNK_QUEUES
        assert all(ready(f"amqpq.reply.{task_id}") == 0 for task_id in batch.ids)
    assert ready("default") == 2 * CHUNK_QUEUES
    assert [result.id for result in batch.results] == list(batch.ids)


def test_a_stream_of_any_length_holds_a_few_chunks(app: App) -> None:
    """What is confirmed is let go of, and a handle that says nothing later is not kept."""
    before = kept()
    with app.batch(stream=True) as batch:
        for number in range(100 * CHUNK):
            call(app, number)
            assert batch.undecided <= UNDER_WAY
        assert kept() - before <= UNDER_WAY
        assert batch.results == []
    assert kept() == before
    assert len(batch.ids) == 100 * CHUNK


def test_a_result_may_be_asked_for_once_its_chunk_is_confirmed(app: App, runs: Callable[..., Responder]) -> None:
    """Inside the block: of what is sent; what waits for its chunk is refused, with the remedy."""
    runs(double=lambda x: 2 * x)
    with app.batch(stream=True):
        results = [app.send_task("tasks.double", [number]) for number in range(5 * CHUNK_QUEUES + 1)]
        assert results[0].get(timeout=10) == 0
        with pytest.raises(errors.LocalError, match=r"not published yet; leave `with app.batch\(\)` first"):
            results[-1].get(timeout=1)
    assert app.collect(results, timeout=10) == [2 * number for number in range(5 * CHUNK_QUEUES + 1)]


def test_a_refused_message_is_listed_at_the_end(app: App, ready: Ready, told: list[str]) -> None:
    """The block goes on, all others are published, and `after_task_publish` is told of each of them once, in order."""
    with pytest.raises(errors.BatchFailed) as caught, app.batch(stream=True) as batch:  # noqa: PT012 - at its end
        for number in range(3 * CHUNK):
            call(app, number, routing_key="nowhere" if number == 12 else None)
    lost = batch.ids[12]
    assert list(caught.value.failures) == list(batch.failures) == [lost]
    assert isinstance(batch.failures[lost], errors.Unroutable)
    assert ready("default") == 3 * CHUNK - 1
    assert told == [task_id for task_id in batch.ids if task_id != lost]


# ------------------------------------------------------------------------------------------------------------- trouble


def test_a_connection_that_goes_away_between_two_chunks_is_replaced(
    app: App, broker: MemoryBroker, connection: Connection, told: list[str]
) -> None:
    """Nothing is lost, and what was confirmed is not published again."""
    del connection
    with app.batch(stream=True) as batch:
        for number in range(4 * CHUNK):
            call(app, number)
            if number % CHUNK == 5:
                broker.kill_connections()
    assert numbers(app, broker.connect(), 4 * CHUNK) == list(range(4 * CHUNK))
    assert broker.queues()["default"].messages == 0
    assert told == list(batch.ids)


def test_a_connection_that_goes_away_before_the_confirm_has_the_rest_published_again(
    app: App, broker: MemoryBroker, silence: Silence, told: list[str]
) -> None:
    """What was written and not answered leaves again, before what was called later; what was confirmed does not."""
    silence.begin()
    with app.batch(stream=True) as batch:
        for number in range(CHUNK):
            call(app, number)
        silence.end(confirmed=4)
        broker.kill_connections()
        for number in range(CHUNK, 2 * CHUNK):
            call(app, number)
    assert numbers(app, broker.connect(), 2 * CHUNK + 6) == [*range(CHUNK), *range(4, 2 * CHUNK)]
    assert told == list(batch.ids)


def test_what_was_confirmed_before_the_broker_went_away_is_not_listed(
    app: App, broker: MemoryBroker, silence: Silence
) -> None:
    """It is heard on the connection that is gone, although no other one can be had."""
    silence.begin()
    with pytest.raises(errors.BatchFailed) as caught, app.batch(stream=True, timeout=0.05) as batch:  # noqa: PT012
        for number in range(CHUNK):
            call(app, number)
        silence.end(confirmed=CHUNK)
        broker.stop()
        for number in range(CHUNK):
            call(app, number)
    assert caught.value.failures.keys() == set(batch.ids[CHUNK:])
    assert {type(failure) for failure in caught.value.failures.values()} == {errors.PublishError}


@pytest.mark.parametrize("stream", [False, True])
def test_what_leaves_again_keeps_its_place(
    app: App, broker: MemoryBroker, connection: Connection, stream: bool
) -> None:
    """A refusal that closes the channel leaves its chunk and the next undecided; what has not begun waits for them."""
    del connection
    with pytest.raises(errors.BatchFailed), app.batch(stream=stream) as batch:  # noqa: PT012 - it fails at its end
        for number in range(5 * CHUNK):
            call(app, number, **({"exchange": "amq.missing", "routing_key": "x"} if number == 3 else {}))
    assert list(batch.failures) == [batch.ids[3]]
    expected = [number for number in range(5 * CHUNK) if number != 3]
    assert numbers(app, broker.connect(), 5 * CHUNK - 1) == expected


def test_without_retry_a_stream_ends_where_its_connection_does(
    app: App, broker: MemoryBroker, silence: Silence
) -> None:
    """The call that hears of it raises, and every later one; what is in doubt is told from what was not sent."""
    silence.begin()
    with pytest.raises(errors.BatchFailed) as caught, app.batch(stream=True, retry=False) as batch:  # noqa: PT012
        for number in range(CHUNK):
            call(app, number)
        silence.end(confirmed=4)
        broker.kill_connections()
        with suppress(errors.BatchFailed):
            for number in range(UNDER_WAY + CHUNK):
                call(app, number)
        assert len(batch) < UNDER_WAY + 2 * CHUNK
        with pytest.raises(errors.BatchFailed):
            call(app, 0)
    assert not caught.value.failures.keys() & set(batch.ids[:4])
    kinds = [type(caught.value.failures[task_id]) for task_id in batch.ids[4:]]
    assert kinds == [errors.OutcomeUnknown] * (CHUNK - 4) + [errors.PublishError] * (len(batch) - CHUNK)


def test_a_third_chunk_waits_until_the_first_is_answered(app: App, silence: Silence, ready: Ready) -> None:
    """That is what keeps a fast program from filling its memory; a broker that says nothing for too long ends the stream."""
    call(app, 0)
    silence.begin()
    with pytest.raises(errors.BatchFailed) as caught, app.batch(stream=True, timeout=0.05) as batch:  # noqa: PT012
        for number in range(10 * CHUNK):
            call(app, number)
    assert len(batch) == len(caught.value.failures) == 3 * CHUNK
    kinds = [type(caught.value.failures[task_id]) for task_id in batch.ids]
    assert kinds == [errors.OutcomeUnknown] * 2 * CHUNK + [errors.PublishError] * CHUNK
    assert ready("default") == 1 + 2 * CHUNK


@pytest.mark.parametrize("stream", [False, True])
def test_a_broker_that_blocks_ends_a_batch_at_its_deadline(app: App, broker: MemoryBroker, stream: bool) -> None:
    """What had been written when the broker said so is in doubt, the rest was not sent; nothing is waited for after that."""
    call(app, 0)
    with pytest.raises(errors.BatchFailed) as caught, app.batch(stream=stream, timeout=0.05) as batch:  # noqa: PT012
        broker.block()
        for number in range(2 * CHUNK):
            call(app, number)
    kinds = [type(caught.value.failures[task_id]) for task_id in batch.ids]
    assert kinds == [errors.BlockedInDoubt] * CHUNK + [errors.Blocked] * CHUNK
    broker.unblock()
    call(app, 0)


# ---------------------------------------------------------------------------------------------------- leaving the block


def test_an_exception_drops_what_was_not_begun(app: App, ready: Ready, told: list[str]) -> None:
    """What has left is finished; the handles know which is which, and the exception goes on."""
    handles = []
    with pytest.raises(ZeroDivisionError), app.batch(stream=True) as batch:  # noqa: PT012 - the block is what ends
        handles += [app.send_task("tasks.add", [number]) for number in range(2 * CHUNK_QUEUES + 1)]
        _ = 1 / 0
    assert ready("default") == 2 * CHUNK_QUEUES
    assert list(batch.failures) == [handles[-1].id]
    assert handles[0].state == "PENDING"
    with pytest.raises(errors.PublishError, match="was not sent: its batch ended with ZeroDivisionError"):
        handles[-1].get(timeout=1)
    assert told == list(batch.ids[:-1])


def test_an_interruption_waits_for_nothing(app: App, broker: MemoryBroker) -> None:
    """Ctrl-C while the broker is silent: of what was written nobody knows, the rest was not sent."""
    with pytest.raises(KeyboardInterrupt), app.batch(stream=True, timeout=60) as batch:  # noqa: PT012
        broker.block()
        for number in range(CHUNK + 2):
            call(app, number)
        raise KeyboardInterrupt
    kinds = [type(batch.failures[task_id]) for task_id in batch.ids]
    assert kinds == [errors.OutcomeUnknown] * CHUNK + [errors.PublishError] * 2
    broker.unblock()


def test_an_interruption_while_a_chunk_is_waited_for_ends_the_stream(
    app: App, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C inside a call: nothing is under way any more, and every handle has its verdict."""

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), app.batch(stream=True, timeout=60) as batch:  # noqa: PT012
        broker.block()
        for number in range(CHUNK):
            call(app, number)
        with monkeypatch.context() as patched:
            patched.setattr(flow, "_wait", interrupt)
            for number in range(CHUNK):
                call(app, number)
    kinds = [type(batch.failures[task_id]) for task_id in batch.ids]
    assert kinds == [errors.OutcomeUnknown] * CHUNK + [errors.PublishError] * CHUNK
    assert batch.bulk.session is None


def test_an_error_of_our_own_leaves_in_doubt_what_was_written(app: App, silence: Silence) -> None:
    """Whatever goes wrong inside a call, nothing is said to be unsent that may have been taken."""
    silence.begin()
    with (  # noqa: PT012 - the block is what ends
        pytest.raises(ZeroDivisionError),
        app.batch(stream=True) as batch,
        pytest.MonkeyPatch.context() as patched,
    ):
        for number in range(CHUNK):
            call(app, number)
        patched.setattr(bulk, "until_unblocked", lambda *_: 1 / 0)
        for number in range(CHUNK):
            call(app, number)
    kinds = [type(batch.failures[task_id]) for task_id in batch.ids]
    assert kinds == [errors.OutcomeUnknown] * CHUNK + [errors.PublishError] * CHUNK


def test_an_interruption_deletes_the_reply_queues_of_what_is_not_confirmed(app: App, ready: Ready) -> None:
    """Nobody will ask for those results."""
    with pytest.raises(KeyboardInterrupt), app.batch(stream=True) as batch:  # noqa: PT012
        for number in range(CHUNK_QUEUES):
            app.send_task("tasks.add", [number])
        assert ready(f"amqpq.reply.{batch.ids[0]}") == 0
        raise KeyboardInterrupt
    assert [ready(f"amqpq.reply.{task_id}") for task_id in batch.ids] == [None] * CHUNK_QUEUES
    assert ready("default") == 0


def test_streams_do_not_nest(app: App) -> None:
    """Neither in one another nor in a batch."""
    with (
        app.batch(stream=True),
        pytest.raises(errors.LocalError, match="a batch inside a batch"),
        app.batch(stream=True),
    ):
        pass
