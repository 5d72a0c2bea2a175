"""The asyncio channel, fed with the events of a broker that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from amqpq.errors import ChannelClosed, ConnectionLost, NotSerializable, ObjectNotFound, PreconditionFailed
from amqpq.transport import frames
from amqpq.transport.aiochannel import Channel
from amqpq.types import Delivery, Fate, Properties, Publication, QueueSpec


class FakeWire:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended: ConnectionLost | None = None
        self.sent: list[bytes] = []
        self.released: list[int] = []
        self.room = True
        self.waiting: list[Callable[[], None]] = []

    def send(self, data: bytes) -> None:
        """Keep it."""
        self.sent.append(data)

    send_soon = send

    def when_room(self, action: Callable[[], None]) -> None:
        """Run it now or later, as the test says."""
        if self.room:
            action()
        else:
            self.waiting.append(action)

    def release(self, number: int) -> None:
        """Note it."""
        self.released.append(number)

    def methods(self) -> list[int]:
        """The methods sent so far."""
        found = []
        for data in self.sent:
            position = 0
            while position < len(data):
                size = int.from_bytes(data[position + 3 : position + 7])
                if data[position] == frames.METHOD:
                    found.append(int.from_bytes(data[position + 7 : position + 11]))
                position += size + 8
        return found


def scenario(body: Callable[[FakeWire, Channel], Awaitable[None]]) -> None:
    """Run a scenario on an open channel; the loop must have nothing to complain of."""
    complaints: list[str] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
        wire = FakeWire()
        channel = Channel(wire, 1, 131072)
        channel.handle(frames.CHANNEL_OPEN_OK, ())
        channel.handle(frames.CONFIRM_SELECT_OK, ())
        await body(wire, channel)

    asyncio.run(run())
    assert complaints == []


def message(text: str = "x", exchange: str = "", key: str = "q") -> Publication:
    """A publication."""
    return Publication(exchange, key, text.encode(), Properties())


def test_a_channel_opens_in_confirm_mode_in_one_write() -> None:
    """Opening and confirm.select leave together."""

    async def body(wire: FakeWire, _: Channel) -> None:
        assert len(wire.sent) == 1
        assert wire.methods() == [frames.CHANNEL_OPEN, frames.CONFIRM_SELECT]

    scenario(body)


def test_answers_go_to_requests_in_order() -> None:
    """Two requests under way get their answers one after the other."""

    async def body(_: FakeWire, channel: Channel) -> None:
        first, second = channel.purge_queue("a"), channel.purge_queue("b")
        channel.handle(frames.QUEUE_PURGE_OK, (1,))
        assert (first.result(), second.done()) == (1, False)
        channel.handle(frames.QUEUE_PURGE_OK, (2,))
        assert second.result() == 2

    scenario(body)


def test_an_answer_nobody_asked_for_is_a_violation() -> None:
    """What cannot be matched ends the connection instead of being given to the wrong one."""

    async def body(_: FakeWire, channel: Channel) -> None:
        channel.declare_queue(QueueSpec("a"))
        with pytest.raises(frames.ProtocolViolation):
            channel.handle(frames.QUEUE_PURGE_OK, (1,))

    scenario(body)


def test_a_late_answer_to_a_cancelled_waiter_is_ignored() -> None:
    """Who gave up gets nothing, and the next request still gets its own answer."""

    async def body(_: FakeWire, channel: Channel) -> None:
        first, second = channel.purge_queue("a"), channel.purge_queue("b")
        first.cancel()
        channel.handle(frames.QUEUE_PURGE_OK, (1,))
        channel.handle(frames.QUEUE_PURGE_OK, (2,))
        assert second.result() == 2

    scenario(body)


def test_an_error_that_nobody_waits_for_is_not_complained_about() -> None:
    """Abandoned futures fail in silence."""

    async def body(_: FakeWire, channel: Channel) -> None:
        channel.get("missing")
        channel.handle(frames.CHANNEL_CLOSE, (404, "NOT_FOUND - no queue 'missing' in vhost '/'", 60, 70))

    scenario(body)


def test_the_refused_request_gets_the_error_and_those_behind_it_channel_closed() -> None:
    """The broker names the method at fault."""

    async def body(wire: FakeWire, channel: Channel) -> None:
        answered, refused, behind = (channel.declare_queue(QueueSpec(name), passive=True) for name in "abc")
        channel.handle(frames.QUEUE_DECLARE_OK, ("a", 0, 0))
        channel.handle(frames.CHANNEL_CLOSE, (404, "NOT_FOUND - no queue 'b' in vhost '/'", 50, 10))
        assert answered.result().name == "a"
        assert isinstance(refused.exception(), ObjectNotFound)
        assert isinstance(behind.exception(), ChannelClosed)
        assert isinstance(channel.closed.result(), ObjectNotFound)
        assert frames.CHANNEL_CLOSE_OK in wire.methods()
        assert wire.released == [1]

    scenario(body)


def test_a_refused_acknowledgement_is_no_requests_error() -> None:
    """A request behind a bad acknowledgement of ours fails with ChannelClosed."""

    async def body(_: FakeWire, channel: Channel) -> None:
        channel.ack(7)
        pending = channel.purge_queue("a")
        channel.handle(frames.CHANNEL_CLOSE, (406, "PRECONDITION_FAILED - unknown delivery tag 7", 60, 80))
        assert isinstance(pending.exception(), ChannelClosed)
        assert isinstance(channel.closed.result(), PreconditionFailed)

    scenario(body)


def test_confirms_by_range_answer_every_call() -> None:
    """One ack with `multiple` confirms several calls; a nack marks its own."""

    async def body(_: FakeWire, channel: Channel) -> None:
        first, second, third = (channel.publish([message(), message()]) for _ in range(3))
        channel.handle(frames.BASIC_ACK, (3, True))
        assert [outcome.fate for outcome in first.result()] == [Fate.CONFIRMED] * 2
        assert not second.done()
        channel.handle(frames.BASIC_NACK, (4, False))
        assert [outcome.fate for outcome in second.result()] == [Fate.CONFIRMED, Fate.NACKED]
        channel.end(ConnectionLost("gone"))
        assert [outcome.fate for outcome in third.result()] == [Fate.UNKNOWN] * 2

    scenario(body)


def test_a_missing_exchange_returns_only_what_was_meant_for_it() -> None:
    """The broker's words name the exchange; the rest is UNKNOWN."""

    async def body(_: FakeWire, channel: Channel) -> None:
        mixed = channel.publish([message(), message(exchange="gone"), message()])
        channel.handle(frames.CHANNEL_CLOSE, (404, "NOT_FOUND - no exchange 'gone' in vhost '/'", 60, 40))
        assert [outcome.fate for outcome in mixed.result()] == [Fate.UNKNOWN, Fate.RETURNED, Fate.UNKNOWN]

    scenario(body)


def test_what_cannot_be_encoded_is_not_sent() -> None:
    """A header without an AMQP type fails the publication, and nothing leaves."""

    async def body(wire: FakeWire, channel: Channel) -> None:
        before = len(wire.sent)
        pending = channel.publish([message(), Publication("", "q", b"", Properties(headers={"bad": object()}))])
        assert isinstance(pending.exception(), NotSerializable)
        assert isinstance(channel.declare_queue(QueueSpec("x" * 256)).exception(), NotSerializable)
        assert len(wire.sent) == before

    scenario(body)


def test_a_publication_that_waits_for_room_is_not_numbered_yet() -> None:
    """What waits is sent later under its own number, or fails when the connection ends first."""

    async def body(wire: FakeWire, channel: Channel) -> None:
        wire.room = False
        held, lost = channel.publish([message("held")]), channel.publish([message("lost")])
        wire.waiting.pop(0)()
        channel.handle(frames.BASIC_ACK, (1, False))
        assert held.result()[0].confirmed
        wire.ended = ConnectionLost("gone")
        channel.end(wire.ended)
        wire.waiting.pop(0)()
        assert isinstance(lost.exception(), ConnectionLost)

    scenario(body)


def test_a_consumer_failing_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """An exception from a callback is logged, and the next delivery comes."""

    async def body(_: FakeWire, channel: Channel) -> None:
        got: list[bytes] = []

        def fussy(delivery: Delivery) -> None:
            got.append(delivery.body)
            if delivery.body == b"bad":
                raise ValueError("I do not like this one")

        subscribed = channel.consume("q", fussy)
        channel.handle(frames.BASIC_CONSUME_OK, (next(iter(channel._consumers)),))
        for tag, text in enumerate((b"bad", b"good"), start=1):
            delivery = Delivery(
                text, Properties(), "", "q", redelivered=False, tag=tag, consumer_tag=subscribed.result()
            )
            channel.handle(frames.BASIC_DELIVER, delivery)
        assert got == [b"bad", b"good"]

    scenario(body)
    assert "I do not like this one" in caplog.text


def test_the_prefetch_is_sent_when_it_changes() -> None:
    """Each consumer gets its own bound, and equal ones cost one qos."""

    async def body(wire: FakeWire, channel: Channel) -> None:
        for prefetch in (0, 5, 5, 0):
            channel.consume("q", lambda _: None, prefetch=prefetch)
        wanted = [frames.BASIC_CONSUME, frames.BASIC_QOS, frames.BASIC_CONSUME, frames.BASIC_CONSUME]
        assert wire.methods()[2:] == [*wanted, frames.BASIC_QOS, frames.BASIC_CONSUME]

    scenario(body)


def test_a_close_that_crosses_the_brokers_keeps_the_number_until_it_is_answered() -> None:
    """Both sides close at once: the number is not given away before the broker answered our goodbye."""

    async def body(wire: FakeWire, channel: Channel) -> None:
        pending = channel.purge_queue("a")
        goodbye = channel.close()
        channel.handle(frames.CHANNEL_CLOSE, (404, "NOT_FOUND - no queue 'a' in vhost '/'", 50, 30))
        assert isinstance(pending.exception(), ObjectNotFound)
        assert goodbye.done()
        assert wire.released == []
        channel.handle(frames.CHANNEL_CLOSE_OK, ())
        assert wire.released == [1]

    scenario(body)


def test_closed_can_be_asked_for_again_after_a_waiter_was_cancelled() -> None:
    """One cancelled waiter does not take `closed` from the others."""

    async def body(_: FakeWire, channel: Channel) -> None:
        channel.closed.cancel()
        channel.end(ConnectionLost("gone"))
        assert isinstance(channel.closed.result(), ConnectionLost)
        channel.closed.cancel()
        assert isinstance(channel.closed.result(), ConnectionLost)

    scenario(body)


def test_a_cancellation_of_ours_that_crosses_the_brokers_is_ours() -> None:
    """`on_cancel` is not for a consumer that is leaving anyway, even where the broker was faster."""

    async def body(_: FakeWire, channel: Channel) -> None:
        told: list[str] = []
        channel.consume("q", lambda _: None, on_cancel=told.append)
        channel.consume("q", lambda _: None, on_cancel=told.append)
        first, second = channel._consumers
        for tag in (first, second):
            channel.handle(frames.BASIC_CONSUME_OK, (tag,))
        goodbye = channel.cancel(first)
        for tag in (first, second):
            channel.handle(frames.BASIC_CANCEL, (tag, True))
        channel.handle(frames.BASIC_CANCEL_OK, (first,))
        assert goodbye.done()
        assert told == [second]

    scenario(body)
