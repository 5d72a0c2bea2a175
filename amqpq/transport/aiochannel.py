"""The asyncio transport's channel: requests out, answers to futures, confirms through the ledger. It knows no driver.

Requests are sent at once and answered in order, so a channel keeps them in a queue and each answer belongs to its head
(AMQP 0-9-1 has no request numbers; `matching` knows the two exceptions). RabbitMQ handles the frames of a channel one
after the other, so whatever follows `channel.open` may be sent before its answer is there.

A refusal closes the channel, and names the method that was at fault. Only where that is the method at the head of the
queue does the request get the mapped error; a refused publication, or an acknowledgement with an unknown tag, is
nobody's answer, and the requests behind it fail with `ChannelClosed`.

Everything here runs on the event loop. A future that its waiter has cancelled is left alone, and an error set on one
that nobody looks at is not complained about: who gave up waiting does not want to hear of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from amqpq.errors import AmqpqError, ChannelClosed, ConnectionLost, NotSerializable
from amqpq.log import TRANSPORT
from amqpq.transport import failures, matching
from amqpq.transport.confirms import Batch, Ledger
from amqpq.transport.frames import (
    BASIC_ACK,
    BASIC_CANCEL,
    BASIC_CANCEL_OK,
    BASIC_CONSUME,
    BASIC_CONSUME_OK,
    BASIC_DELIVER,
    BASIC_GET,
    BASIC_GET_EMPTY,
    BASIC_GET_OK,
    BASIC_NACK,
    BASIC_PUBLISH,
    BASIC_QOS,
    BASIC_QOS_OK,
    BASIC_REJECT,
    BASIC_RETURN,
    CHANNEL_CLOSE,
    CHANNEL_CLOSE_OK,
    CHANNEL_OPEN,
    CHANNEL_OPEN_OK,
    CONFIRM_SELECT,
    CONFIRM_SELECT_OK,
    EXCHANGE_BIND,
    EXCHANGE_BIND_OK,
    EXCHANGE_DECLARE,
    EXCHANGE_DECLARE_OK,
    EXCHANGE_DELETE,
    EXCHANGE_DELETE_OK,
    EXCHANGE_UNBIND,
    EXCHANGE_UNBIND_OK,
    QUEUE_BIND,
    QUEUE_BIND_OK,
    QUEUE_DECLARE,
    QUEUE_DECLARE_OK,
    QUEUE_DELETE,
    QUEUE_DELETE_OK,
    QUEUE_PURGE,
    QUEUE_PURGE_OK,
    QUEUE_UNBIND,
    QUEUE_UNBIND_OK,
    ProtocolViolation,
    PublicationEncoder,
    Returned,
    release,
    request,
    settle,
)
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Outcome, Publication, QueueSpec, QueueState, Table

T = TypeVar("T")

logger = logging.getLogger(TRANSPORT)

_REPLY_SUCCESS = 200
_CLOSED_BY_US = "the channel was closed by this side"


class Wire(Protocol):
    """What a channel needs of its connection."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop everything runs on."""

    @property
    def ended(self) -> ConnectionLost | None:
        """Why nothing can be sent any more, or None."""

    def send(self, data: bytes) -> None:
        """Send whole frames, behind what waits for room."""

    def send_soon(self, data: bytes) -> None:
        """Send whole frames, before what waits for room."""

    def when_room(self, action: Callable[[], None]) -> None:
        """Run `action` now, or when the buffer has room again; also when the connection ends first."""

    def release(self, number: int) -> None:
        """The channel's number may be used again."""


@dataclass(slots=True)
class _Request:
    """A request under way: the method we sent, the answers that fit, who waits, and how the answer is read."""

    method: int
    answers: tuple[int, ...]
    future: asyncio.Future[Any] | None
    read: Callable[[Any], Any]
    consumer_tag: str | None = None


@dataclass(slots=True)
class _Consumer:
    on_delivery: Callable[[Delivery], object]
    on_cancel: Callable[[str], object] | None
    leaving: bool = False
    """We asked to cancel it, so `on_cancel` is not for this one."""


def answer(future: asyncio.Future[T], value: T) -> None:
    """Answer a future, unless its waiter gave up."""
    if not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Fail a future, unless its waiter gave up; an error that nobody looks at is not complained about."""
    if not future.done():
        future.set_exception(error)
        future.exception()


def guarded(callback: Callable[..., object], *arguments: object) -> None:
    """Run foreign code: an error in it must not end the connection of everyone else."""
    try:
        callback(*arguments)
    except Exception:
        logger.exception("a callback of the connection failed")


def _nothing(_: object) -> None:
    return None


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0]


def _delivery(argument: Any) -> Delivery | None:
    return argument if isinstance(argument, Delivery) else None


class Channel:
    """One AMQP channel in confirm mode; see `amqpq.transport.interface.Channel`."""

    def __init__(self, wire: Wire, number: int, frame_max: int) -> None:
        self._wire = wire
        self._number = number
        self._encoder = PublicationEncoder(number, frame_max)
        self._ledger = Ledger()
        self._published: dict[Batch, asyncio.Future[list[Outcome]]] = {}
        self._waiting: deque[_Request] = deque()
        self._consumers: dict[str, _Consumer] = {}
        self._prefetch = 0
        self._reason: AmqpqError | None = None
        self._ended = False
        self._closing: list[asyncio.Future[None]] = []
        self._awaits_close_ok = False
        self._closed: asyncio.Future[AmqpqError | None] = wire.loop.create_future()
        self._expect(CHANNEL_OPEN, (CHANNEL_OPEN_OK,), None, _nothing)
        self._expect(CONFIRM_SELECT, (CONFIRM_SELECT_OK,), None, _nothing)
        wire.send(request(number, CHANNEL_OPEN, "s", "") + request(number, CONFIRM_SELECT, "b", (False,)))

    def __repr__(self) -> str:
        state = "closed" if self._ended else "closing" if self._closing else "open"
        return f"<aio.Channel {self._number} {state} waiting={len(self._waiting)} {self._ledger!r}>"

    @property
    def closed(self) -> asyncio.Future[AmqpqError | None]:
        """Resolves when the channel ends. It is shared: shield it where the task that awaits it may be cancelled."""
        if self._closed.cancelled():
            self._closed = self._wire.loop.create_future()
            if self._ended:
                self._closed.set_result(self._reason)
        return self._closed

    # ----------------------------------------------------------------------------------------------------- requests

    def _refusal(self) -> AmqpqError | None:
        """Why nothing can be asked any more, or None."""
        if self._wire.ended is not None:
            return self._wire.ended
        if self._ended or self._closing:
            return ChannelClosed(f"the channel is closed: {self._reason or _CLOSED_BY_US}")
        return None

    def _expect(
        self,
        method: int,
        answers: tuple[int, ...],
        future: asyncio.Future[Any] | None,
        read: Callable[[Any], Any],
        consumer_tag: str | None = None,
    ) -> None:
        self._waiting.append(_Request(method, answers, future, read, consumer_tag))

    def _ask(
        self,
        method: int,
        answers: tuple[int, ...],
        read: Callable[[Any], T],
        form: str,
        *values: object,
        consumer_tag: str | None = None,
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._wire.loop.create_future()
        error = self._refusal()
        if error is not None:
            fail(future, error)
            return future
        try:
            frame = request(self._number, method, form, *values)
        except NotSerializable as unsendable:
            fail(future, unsendable)
            return future
        self._expect(method, answers, future, read, consumer_tag)
        self._wire.send(frame)
        return future

    def publish(self, publications: Sequence[Publication]) -> asyncio.Future[list[Outcome]]:
        """Publish in order, in one write; answer when the broker has spoken about all of them."""
        future: asyncio.Future[list[Outcome]] = self._wire.loop.create_future()
        if not publications:
            error = self._refusal()
            answer(future, []) if error is None else fail(future, error)
            return future

        def go() -> None:
            error = self._refusal()
            if error is not None:
                fail(future, error)
                return
            try:
                data = b"".join([self._encoder.encode(publication) for publication in publications])
            except NotSerializable as unsendable:
                fail(future, unsendable)
                return
            self._published[self._ledger.add(publications)] = future
            self._wire.send_soon(data)

        self._wire.when_room(go)
        return future

    def declare_exchange(self, spec: ExchangeSpec, *, passive: bool = False) -> asyncio.Future[None]:
        """Create the exchange, or check that it exists."""
        bits = (passive, spec.durable, spec.auto_delete, spec.internal, False)
        values = (0, spec.name, spec.type, bits, spec.arguments)
        return self._ask(EXCHANGE_DECLARE, (EXCHANGE_DECLARE_OK,), _nothing, "Hssbt", *values)

    def declare_queue(self, spec: QueueSpec, *, passive: bool = False) -> asyncio.Future[QueueState]:
        """Create the queue, or check that it exists."""
        bits = (passive, spec.durable, spec.exclusive, spec.auto_delete, False)
        values = (0, spec.name, bits, spec.arguments)
        return self._ask(QUEUE_DECLARE, (QUEUE_DECLARE_OK,), lambda got: QueueState(*got), "Hsbt", *values)

    def bind(self, spec: BindingSpec) -> asyncio.Future[None]:
        """Bind; idempotent."""
        values = (0, spec.target, spec.source, spec.key, (False,), spec.arguments)
        if spec.to_exchange:
            return self._ask(EXCHANGE_BIND, (EXCHANGE_BIND_OK,), _nothing, "Hsssbt", *values)
        return self._ask(QUEUE_BIND, (QUEUE_BIND_OK,), _nothing, "Hsssbt", *values)

    def unbind(self, spec: BindingSpec) -> asyncio.Future[None]:
        """Remove a binding; idempotent."""
        if spec.to_exchange:
            values = (0, spec.target, spec.source, spec.key, (False,), spec.arguments)
            return self._ask(EXCHANGE_UNBIND, (EXCHANGE_UNBIND_OK,), _nothing, "Hsssbt", *values)
        plain = (0, spec.target, spec.source, spec.key, spec.arguments)
        return self._ask(QUEUE_UNBIND, (QUEUE_UNBIND_OK,), _nothing, "Hssst", *plain)

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> asyncio.Future[None]:
        """Delete an exchange."""
        return self._ask(EXCHANGE_DELETE, (EXCHANGE_DELETE_OK,), _nothing, "Hsb", 0, name, (if_unused, False))

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> asyncio.Future[int]:
        """Delete a queue; answer how many messages went with it."""
        return self._ask(QUEUE_DELETE, (QUEUE_DELETE_OK,), _first, "Hsb", 0, name, (if_unused, if_empty, False))

    def purge_queue(self, name: str) -> asyncio.Future[int]:
        """Drop the ready messages of a queue; answer how many."""
        return self._ask(QUEUE_PURGE, (QUEUE_PURGE_OK,), _first, "Hsb", 0, name, (False,))

    def get(self, queue: str, *, no_ack: bool = False) -> asyncio.Future[Delivery | None]:
        """Fetch one message, or None from an empty queue."""
        return self._ask(BASIC_GET, (BASIC_GET_OK, BASIC_GET_EMPTY), _delivery, "Hsb", 0, queue, (no_ack,))

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], object],
        *,
        prefetch: int = 0,
        no_ack: bool = False,
        on_cancel: Callable[[str], object] | None = None,
        arguments: Table | None = None,
    ) -> asyncio.Future[str]:
        """Subscribe; answers with the consumer tag."""
        if prefetch != self._prefetch and self._refusal() is None:
            # Without the global bit, basic.qos counts for the consumers that come after it on this channel
            # (https://www.rabbitmq.com/docs/consumer-prefetch).
            self._prefetch = prefetch
            self._expect(BASIC_QOS, (BASIC_QOS_OK,), None, _nothing)
            self._wire.send(request(self._number, BASIC_QOS, "IHb", 0, prefetch, (False,)))
        tag = matching.new_consumer_tag()
        self._consumers[tag] = _Consumer(on_delivery, on_cancel)
        bits = (False, no_ack, False, False)
        values: tuple[object, ...] = (0, queue, tag, bits, arguments or {})
        subscribed = self._ask(BASIC_CONSUME, (BASIC_CONSUME_OK,), _first, "Hssbt", *values, consumer_tag=tag)
        if subscribed.done():  # refused before it was sent
            del self._consumers[tag]
        return subscribed

    def cancel(self, consumer_tag: str) -> asyncio.Future[None]:
        """Unsubscribe. Deliveries that are unacknowledged stay so."""
        consumer = self._consumers.get(consumer_tag)
        if consumer is not None:
            consumer.leaving = True
        values = (consumer_tag, (False,))
        return self._ask(BASIC_CANCEL, (BASIC_CANCEL_OK,), self._unsubscribed, "sb", *values, consumer_tag=consumer_tag)

    def _unsubscribed(self, arguments: tuple[Any, ...]) -> None:
        self._consumers.pop(arguments[0], None)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery."""
        if not self._ended and not self._closing:
            self._wire.send_soon(settle(self._number, BASIC_ACK, tag, flag=multiple))

    def acknowledge(self, acks: Sequence[tuple[int, bool]]) -> None:
        """Acknowledge several; the loop sends them together."""
        for tag, multiple in acks:
            self.ack(tag, multiple=multiple)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Give a delivery back, or let the queue dead-letter it."""
        if not self._ended and not self._closing:
            self._wire.send_soon(settle(self._number, BASIC_REJECT, tag, flag=requeue))

    def release(self, tag: int) -> None:
        """Give a delivery back that nothing was done with."""
        if not self._ended and not self._closing:
            self._wire.send_soon(release(self._number, tag))

    def close(self) -> asyncio.Future[None]:
        """End the channel; unacknowledged deliveries go back to their queues."""
        future: asyncio.Future[None] = self._wire.loop.create_future()
        if self._ended:
            future.set_result(None)
            return future
        self._closing.append(future)
        if len(self._closing) == 1:
            self._awaits_close_ok = True
            self._wire.when_room(self._say_goodbye)
        return future

    def _say_goodbye(self) -> None:
        if not self._ended:
            self._wire.send_soon(request(self._number, CHANNEL_CLOSE, "HsHH", _REPLY_SUCCESS, "", 0, 0))

    # ------------------------------------------------------------------------------------------------------- events

    def handle(self, method: int, argument: Any) -> None:
        """Take an event of this channel.

        Raises:
            ProtocolViolation: It answers a request that was not made.
        """
        if method == BASIC_DELIVER:
            consumer = self._consumers.get(argument.consumer_tag)
            if consumer is not None:
                guarded(consumer.on_delivery, argument)
        elif method == BASIC_ACK:
            self._settled(self._ledger.ack(argument[0], multiple=argument[1]))
        elif method == BASIC_NACK:
            self._settled(self._ledger.nack(argument[0], multiple=argument[1]))
        elif method == BASIC_RETURN:
            self._returned(argument)
        elif method == CHANNEL_CLOSE:
            self._closed_by_broker(*argument)
        elif method == CHANNEL_CLOSE_OK:
            self._awaits_close_ok = False
            self.end(None)
            self._wire.release(self._number)
        elif method == BASIC_CANCEL:
            self._cancelled_by_broker(argument[0])
        else:
            self._answered(method, argument)

    def _answered(self, method: int, argument: Any) -> None:
        asked = matching.take(self._waiting, method, argument)
        if asked is None:
            if self._ended:  # crossed with the end of the channel
                return
            message = f"method {method >> 16}.{method & 0xFFFF} answers nothing that was asked"
            raise ProtocolViolation(message)
        value = asked.read(argument)
        if asked.future is not None:
            answer(asked.future, value)

    def _returned(self, returned: Returned) -> None:
        message_id, reason = returned.properties.message_id, f"{returned.code} {returned.reason}"
        if not self._ledger.returned(returned.exchange, returned.routing_key, message_id, returned.body, reason):
            logger.warning("a message came back that is not under way: %s, key %s", reason, returned.routing_key)

    def _settled(self, batches: list[Batch]) -> None:
        for batch in batches:
            answer(self._published.pop(batch), batch.outcomes)

    def _cancelled_by_broker(self, tag: str) -> None:
        consumer = self._consumers.pop(tag, None)
        if consumer is not None and consumer.on_cancel is not None and not consumer.leaving:
            guarded(consumer.on_cancel, tag)

    def _closed_by_broker(self, code: int, text: str, class_number: int, method_number: int) -> None:
        self._wire.send_soon(request(self._number, CHANNEL_CLOSE_OK))
        at_fault = class_number << 16 | method_number
        error = failures.channel_error(code, text)
        refused = next((asked for asked in self._waiting if asked.method == at_fault), None)
        if refused is not None:
            self._waiting.remove(refused)
            if refused.future is not None:
                fail(refused.future, error)
        self.end(error, refused_publish=at_fault == BASIC_PUBLISH, words=text)
        if not self._awaits_close_ok:  # else the broker still answers our own goodbye, which must not reach a successor
            self._wire.release(self._number)

    def end(self, reason: AmqpqError | None, *, refused_publish: bool = False, words: str = "") -> None:
        """Answer everything under way, then `closed`.

        Args:
            reason: Why; None where we closed the channel.
            refused_publish: The broker closed it because of a publication.
            words: The broker's own.
        """
        if self._ended:
            return
        self._ended = True
        self._reason = reason
        if isinstance(reason, ConnectionLost):
            error: AmqpqError = reason
        else:
            error = self._wire.ended or ChannelClosed(f"the channel is closed: {reason or _CLOSED_BY_US}")
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            if asked.future is not None:
                fail(asked.future, error)
        self._settled(self._ledger.abandon(words or str(error), refused_publish=refused_publish))
        self._consumers.clear()
        answer(self._closed, reason)
        for future in self._closing:
            answer(future, None)
        self._closing.clear()
