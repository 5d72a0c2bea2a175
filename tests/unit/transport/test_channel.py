"""A channel without a broker: requests are read off a wire of our own, and answers are put in by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from amqpq import errors
from amqpq.transport import frames, outbox
from amqpq.transport.channel import WireChannel
from amqpq.transport.frames import FrameParser, ProtocolViolation
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Fate, Properties, Publication, QueueSpec, QueueState

GOOD = Publication("ex", "q", b"body", Properties())
BAD = Publication("ex", "q", b"body", Properties(headers={"x": object()}))
CLOSE_404 = (404, "NOT_FOUND - no queue 'q' in vhost '/'", 50, 10)


class Wire:
    """Keeps what a channel sends; there is room until somebody says otherwise."""

    frame_max = 4096

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.released: list[int] = []
        self.room = True
        self.blocked: str | None = None
        self.lost: errors.AmqpqError | None = None

    def send(self, data: bytes, *, lazy: bool = False) -> None:
        """Keep it."""
        del lazy
        self.sent.append(data)

    def wait_for_room(self) -> bool:
        """Never wait."""
        return self.room

    def pending(self) -> Future[Any]:
        """A plain future."""
        return Future()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """At once."""
        callback()

    def release(self, number: int) -> None:
        """Note it."""
        self.released.append(number)

    def methods(self) -> list[int]:
        """The methods of all frames sent so far, and forget them."""
        data, self.sent = b"".join(self.sent), []
        found, position = [], 0
        while position < len(data):
            kind, _, size = frames._frame_head(data, position)
            if kind == frames.METHOD:
                found.append(frames._method_number(data, position + 7)[0])
            position += size + 8
        return found


@pytest.fixture
def wire() -> Wire:
    """A wire."""
    return Wire()


@pytest.fixture
def channel(wire: Wire) -> WireChannel:
    """An open channel in confirm mode, with number 5."""
    channel = WireChannel(wire, 5)
    channel.start()
    assert wire.methods() == [frames.CHANNEL_OPEN, frames.CONFIRM_SELECT]
    channel.on_event(frames.CHANNEL_OPEN_OK, ())
    channel.on_event(frames.CONFIRM_SELECT_OK, ())
    return channel


def failure(pending: Future[Any]) -> BaseException:
    """The error of a pending that failed."""
    error = pending.exception(0)
    assert error is not None
    return error


def test_answers_find_their_requests_in_order(channel: WireChannel, wire: Wire) -> None:
    """Pipelined requests are answered first to last, each with its own kind of answer."""
    asked: list[Future[Any]] = [
        channel.declare_exchange(ExchangeSpec("ex")),
        channel.declare_queue(QueueSpec("q")),
        channel.bind(BindingSpec("ex", "q", "key")),
        channel.bind(BindingSpec("ex", "ex2", "key", to_exchange=True)),
        channel.unbind(BindingSpec("ex", "q", "key")),
        channel.unbind(BindingSpec("ex", "ex2", "key", to_exchange=True)),
        channel.purge_queue("q"),
        channel.get("q"),
        channel.delete_queue("q"),
        channel.delete_exchange("ex"),
    ]
    assert wire.methods() == [
        frames.EXCHANGE_DECLARE, frames.QUEUE_DECLARE, frames.QUEUE_BIND, frames.EXCHANGE_BIND, frames.QUEUE_UNBIND,
        frames.EXCHANGE_UNBIND, frames.QUEUE_PURGE, frames.BASIC_GET, frames.QUEUE_DELETE, frames.EXCHANGE_DELETE,
    ]  # fmt: skip
    answers = [
        (frames.EXCHANGE_DECLARE_OK, ()), (frames.QUEUE_DECLARE_OK, ("q", 2, 1)), (frames.QUEUE_BIND_OK, ()),
        (frames.EXCHANGE_BIND_OK, ()), (frames.QUEUE_UNBIND_OK, ()), (frames.EXCHANGE_UNBIND_OK, ()),
        (frames.QUEUE_PURGE_OK, (7,)), (frames.BASIC_GET_EMPTY, ()), (frames.QUEUE_DELETE_OK, (3,)),
        (frames.EXCHANGE_DELETE_OK, ()),
    ]  # fmt: skip
    for number, (method, argument) in enumerate(answers):
        assert not asked[number].done()
        channel.on_event(method, argument)
    assert [pending.result(0) for pending in asked] == [None, QueueState("q", 2, 1), *[None] * 4, 7, None, 3, None]


def test_nothing_follows_the_answer_to_a_close(
    channel: WireChannel, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that publishes just then is refused: RabbitMQ closes the connection for a frame on a closed channel."""
    refused: list[bool] = []
    send = wire.send

    def send_and_look(data: bytes, *, lazy: bool = False) -> None:
        send(data, lazy=lazy)
        refused.append(channel._refusal() is not None and channel._lock.locked())

    monkeypatch.setattr(wire, "send", send_and_look)
    channel.on_event(frames.CHANNEL_CLOSE, CLOSE_404)
    assert refused == [True]


def test_an_answer_that_was_not_due_is_a_violation(channel: WireChannel) -> None:
    """A broker that answers another question than the oldest cannot be trusted with the rest."""
    channel.declare_queue(QueueSpec("q"))
    with pytest.raises(ProtocolViolation, match=r"answered 60\.11 on channel 5"):
        channel.on_event(frames.BASIC_QOS_OK, ())


def test_a_closed_channel_blames_the_request_that_did_it(channel: WireChannel, wire: Wire) -> None:
    """The cause gets the mapped error, everything else that waited ChannelClosed, later verbs too; the number is free."""
    other = channel.bind(BindingSpec("ex", "q"))
    culprit = channel.declare_queue(QueueSpec("q"), passive=True)
    after = channel.declare_queue(QueueSpec("q2"))
    channel.on_event(frames.QUEUE_BIND_OK, ())
    wire.methods()
    channel.on_event(frames.CHANNEL_CLOSE, CLOSE_404)
    assert wire.methods() == [frames.CHANNEL_CLOSE_OK]
    assert other.result(0) is None
    assert isinstance(failure(culprit), errors.ObjectNotFound)
    assert isinstance(failure(after), errors.ChannelClosed)
    assert isinstance(failure(channel.get("q")), errors.ChannelClosed)
    assert isinstance(failure(channel.publish([GOOD])), errors.ChannelClosed)
    assert isinstance(channel.closed.result(0), errors.ObjectNotFound)
    assert wire.released == [5]
    channel.ack(1)
    channel.reject(1, requeue=True)
    channel.release(1)
    assert wire.methods() == []


def test_a_consumer_refused_because_of_its_queue_gets_the_error_although_qos_was_asked_first(
    channel: WireChannel,
) -> None:
    """basic.qos goes before basic.consume; the error of the latter is the consumer's."""
    subscription = channel.consume("q", lambda _: None, prefetch=10)
    channel.on_event(frames.BASIC_QOS_OK, ())
    channel.on_event(frames.CHANNEL_CLOSE, (404, "NOT_FOUND - no queue 'q'", 60, 20))
    assert isinstance(failure(subscription), errors.ObjectNotFound)


def test_closing_is_answered_by_the_broker(channel: WireChannel, wire: Wire) -> None:
    """close resolves with the broker's answer; deliveries in between are dropped, the broker requeues them."""
    got: list[Delivery] = []
    channel.consume("q", got.append)
    (tag,) = channel._consumers
    channel.on_event(frames.BASIC_CONSUME_OK, (tag,))
    closing = channel.close()
    assert channel.close() is closing
    channel.on_event(frames.BASIC_DELIVER, Delivery(b"", Properties(), "", "q", False, 1, tag))
    assert not closing.done()
    channel.on_event(frames.CHANNEL_CLOSE_OK, ())
    assert closing.result(0) is None
    assert channel.closed.result(0) is None
    assert got == []
    assert wire.released == [5]
    assert channel.close().result(0) is None


def test_two_closes_that_cross_end_the_channel_once(channel: WireChannel, wire: Wire) -> None:
    """The broker's close that met ours is answered, and ours is waited for: only then is the number free."""
    closing = channel.close()
    channel.on_event(frames.CHANNEL_CLOSE, CLOSE_404)
    assert wire.released == []
    assert wire.methods() == [frames.CHANNEL_CLOSE, frames.CHANNEL_CLOSE_OK]
    channel.on_event(frames.CHANNEL_CLOSE_OK, ())
    assert closing.result(0) is None
    assert wire.released == [5]


def test_confirms_that_come_before_the_end_of_closing_count(channel: WireChannel) -> None:
    """What the broker confirms after our close was sent is confirmed; the rest is unknown."""
    pending = channel.publish([GOOD, GOOD])
    channel.close()
    channel.on_event(frames.BASIC_ACK, (1, False))
    channel.on_event(frames.CHANNEL_CLOSE_OK, ())
    assert [outcome.fate for outcome in pending.result(0)] == [Fate.CONFIRMED, Fate.UNKNOWN]


def test_a_lost_connection_fails_everything_with_it(channel: WireChannel, wire: Wire) -> None:
    """Requests fail with ConnectionLost, publications are unknown, later verbs fail with ConnectionLost."""
    request, publishing = channel.declare_queue(QueueSpec("q")), channel.publish([GOOD])
    closed_last: list[bool] = []
    channel.closed.add_done_callback(lambda _: closed_last.append(request.done() and publishing.done()))
    wire.lost = errors.ConnectionLost("the cable broke")
    channel.on_connection_end(errors.ConnectionLost("the cable broke"), ours=False)
    assert isinstance(failure(request), errors.ConnectionLost)
    (outcome,) = publishing.result(0)
    assert (outcome.fate, outcome.reason) == (Fate.UNKNOWN, "the cable broke")
    assert isinstance(channel.closed.result(0), errors.ConnectionLost)
    assert closed_last == [True]
    for pending in (channel.publish([GOOD]), channel.get("q"), channel.consume("q", lambda _: None)):
        assert isinstance(failure(pending), errors.ConnectionLost)


def test_a_cancel_by_the_broker_is_told_to_the_consumer_once(channel: WireChannel, wire: Wire) -> None:
    """on_cancel hears of the broker's cancel, and of none that we asked for."""
    heard: list[str] = []
    for _ in range(2):
        channel.consume("q", lambda _: None, on_cancel=heard.append)
    first, second = channel._consumers
    channel.on_event(frames.BASIC_CONSUME_OK, (first,))
    channel.on_event(frames.BASIC_CONSUME_OK, (second,))
    channel.cancel(second)
    wire.methods()
    channel.on_event(frames.BASIC_CANCEL, (first, True))
    channel.on_event(frames.BASIC_CANCEL, (second, True))
    assert heard == [first]
    assert wire.methods() == []
    channel.on_event(frames.BASIC_CANCEL, (first, False))
    assert wire.methods() == [frames.BASIC_CANCEL_OK]
    assert heard == [first]


def test_qos_is_sent_only_where_it_changes(channel: WireChannel, wire: Wire) -> None:
    """Two consumers with the same prefetch cost one basic.qos, and unbounded after bounded costs another."""
    for prefetch in (0, 10, 10, 0):
        channel.consume("q", lambda _: None, prefetch=prefetch)
    assert wire.methods() == [
        frames.BASIC_CONSUME, frames.BASIC_QOS, frames.BASIC_CONSUME, frames.BASIC_CONSUME, frames.BASIC_QOS,
        frames.BASIC_CONSUME,
    ]  # fmt: skip


def test_a_consumer_that_fails_does_not_harm_the_others(channel: WireChannel, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a callback is logged with its traceback, and the connection goes on."""
    channel.consume("q", lambda _: 1 / 0)
    (tag,) = channel._consumers
    with caplog.at_level(logging.ERROR, "amqpq.transport"):
        channel.on_event(frames.BASIC_DELIVER, Delivery(b"", Properties(), "", "q", False, 1, tag))
    assert "ZeroDivisionError" in caplog.text
    assert "stays unacknowledged" in caplog.text


def test_nothing_published_is_answered_at_once(channel: WireChannel, wire: Wire) -> None:
    """An empty list of publications has an empty list of outcomes."""
    assert channel.publish([]).result(0) == []
    assert wire.sent == []


def test_a_large_call_leaves_in_pieces_and_is_answered_once(
    channel: WireChannel, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes come in the order of the publications, over all pieces, when the last one is settled."""
    monkeypatch.setattr(outbox, "PIECE_BYTES", 200)
    pending = channel.publish([Publication("", f"q{number}", b"x" * 60, Properties()) for number in range(10)])
    assert len(wire.sent) > 2
    channel.on_event(frames.BASIC_NACK, (7, False))
    channel.on_event(frames.BASIC_ACK, (9, True))
    assert not pending.done()
    channel.on_event(frames.BASIC_ACK, (10, False))
    assert [outcome.fate for outcome in pending.result(0)] == [
        Fate.NACKED if number == 6 else Fate.CONFIRMED for number in range(10)
    ]


def test_what_cannot_be_encoded_fails_where_nothing_was_sent(channel: WireChannel, wire: Wire) -> None:
    """A bad header anywhere in a call that fits one write keeps all of it from being sent."""
    pending = channel.publish([GOOD, GOOD, BAD])
    assert isinstance(failure(pending), errors.NotSerializable)
    assert wire.sent == []
    assert isinstance(failure(channel.declare_queue(QueueSpec("q" * 300))), errors.NotSerializable)
    assert wire.sent == []


def test_what_cannot_be_encoded_later_leaves_the_rest_unknown(
    channel: WireChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where part of a call was sent already, the outcome says of the others that they were not."""
    monkeypatch.setattr(outbox, "PIECE_BYTES", 1)
    pending = channel.publish([GOOD, BAD, GOOD])
    channel.on_event(frames.BASIC_ACK, (1, False))
    first, second, third = pending.result(0)
    assert first.confirmed
    assert second.fate == third.fate == Fate.UNKNOWN
    assert "not sent: header 'x'" in third.reason


@pytest.mark.parametrize(("blocked", "words"), [("low on memory", "low on memory"), (None, "takes nothing more")])
def test_a_full_buffer_refuses_with_the_reason(
    channel: WireChannel, wire: Wire, blocked: str | None, words: str
) -> None:
    """Where the broker takes nothing, publishing fails with Blocked and nothing is sent."""
    wire.room, wire.blocked = False, blocked
    error = failure(channel.publish([GOOD]))
    assert isinstance(error, errors.Blocked)
    assert words in str(error)
    assert isinstance(failure(channel.get("q")), errors.TransportError)
    assert wire.sent == []


def test_a_return_without_a_publication_is_reported(channel: WireChannel, caplog: pytest.LogCaptureFixture) -> None:
    """A message that came back and belongs to nothing is logged, not lost in silence."""
    channel.on_event(frames.BASIC_RETURN, frames.Returned(312, "NO_ROUTE", "ex", "q", Properties(), b"other"))
    assert "came back that is not under way" in caplog.text


def test_what_is_sent_is_what_a_parser_reads(channel: WireChannel, wire: Wire) -> None:
    """Acks and rejects are whole frames with tag and flag in their places."""
    channel.ack(3, multiple=True)
    data = b"".join(wire.sent)
    assert FrameParser(4096).feed(data) == [(5, frames.BASIC_ACK, (3, True))]
    wire.sent.clear()
    channel.reject(4, requeue=True)
    assert wire.sent == [frames.request(5, frames.BASIC_REJECT, "Qb", 4, (True,))]
