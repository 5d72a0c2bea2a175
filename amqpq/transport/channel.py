"""One AMQP channel on a wire of ours: requests out, events in, who waits for what.

The broker answers the requests of a channel in order (rule 1 of the interface), so a queue of what is awaited is nearly
all the matching there is (`matching` has the rest). Publications are the business of `outbox`. Callers come from any
thread; events come on the I/O thread; the channel's lock guards the state, and it is never held while foreign code runs.
What is written under it goes to the wire in the order in which it was noted, which is what makes the matching right.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from amqpq.errors import AmqpqError, ChannelClosed, ConnectionLost
from amqpq.log import TRANSPORT
from amqpq.transport import failures, frames, matching
from amqpq.transport.acks import Acks
from amqpq.transport.outbox import Outbox, Wire
from amqpq.types import (
    BindingSpec,
    Delivery,
    ExchangeSpec,
    Outcome,
    Publication,
    QueueSpec,
    QueueState,
    Table,
)

logger = logging.getLogger(TRANSPORT)

_NO_BITS = (False,)


class _Awaited(NamedTuple):
    """A request that has no answer yet."""

    method: int
    answers: tuple[int, ...]
    pending: Future[Any]
    convert: Callable[[Any], Any] | None
    consumer_tag: str | None = None


@dataclass(slots=True)
class _Consumer:
    on_delivery: Callable[[Delivery], object]
    on_cancel: Callable[[str], object] | None
    no_ack: bool
    leaving: bool = False


class WireChannel:
    """A channel in confirm mode. Made by the connection; see `amqpq.transport.interface.Channel`."""

    def __init__(self, wire: Wire, number: int) -> None:
        self._wire = wire
        self.number = number
        self._lock = threading.Lock()
        self._open = True
        self._ended = False
        self._leaving: Future[None] | None = None
        self._reason: AmqpqError | None = None
        self._awaited: deque[_Awaited] = deque()
        self._outbox = Outbox(wire, number, self._lock, self._refusal)
        self._acks = Acks()
        self._consumers: dict[str, _Consumer] = {}
        self._prefetch = 0
        self._closed: Future[AmqpqError | None] = wire.pending()
        self._handlers: Mapping[int, Callable[[Any], None]] = {
            frames.BASIC_RETURN: self._on_return,
            frames.BASIC_CANCEL: self._on_server_cancel,
            frames.CHANNEL_CLOSE: self._on_server_close,
            frames.CHANNEL_CLOSE_OK: self._on_close_ok,
        }

    def start(self) -> None:
        """Open it on the broker, in confirm mode; the connection must know it by now, or the answer finds nobody."""
        with self._lock:
            if not self._open:  # the connection went away meanwhile
                return
            self._ask(frames.CHANNEL_OPEN, (frames.CHANNEL_OPEN_OK,), "s", "")
            self._ask(frames.CONFIRM_SELECT, (frames.CONFIRM_SELECT_OK,), "b", _NO_BITS)

    def __repr__(self) -> str:
        state = "open" if self._open else f"closed: {self._reason}" if self._closed.done() else "closing"
        return f"<channel {self.number} {state}>"

    @property
    def closed(self) -> Future[AmqpqError | None]:
        """Resolves when the channel ends: with the reason, or None where we closed it."""
        return self._closed

    def publish(self, publications: Sequence[Publication]) -> Future[list[Outcome]]:
        """Publish in order; one outcome each. Blocks only while the connection's output buffer is full."""
        return self._outbox.publish(publications)

    # --------------------------------------------------------------------------------------------------- requests

    def declare_exchange(self, spec: ExchangeSpec, *, passive: bool = False) -> Future[None]:
        """Create the exchange, or check that it exists."""
        bits = (passive, spec.durable, spec.auto_delete, spec.internal, False)
        return self._request(
            frames.EXCHANGE_DECLARE,
            (frames.EXCHANGE_DECLARE_OK,),
            "Hssbt",
            0,
            spec.name,
            spec.type,
            bits,
            spec.arguments,
        )

    def declare_queue(self, spec: QueueSpec, *, passive: bool = False) -> Future[QueueState]:
        """Create the queue, or check that it exists."""
        bits = (passive, spec.durable, spec.exclusive, spec.auto_delete, False)
        return self._request(
            frames.QUEUE_DECLARE,
            (frames.QUEUE_DECLARE_OK,),
            "Hsbt",
            0,
            spec.name,
            bits,
            spec.arguments,
            convert=_queue_state,
        )

    def bind(self, spec: BindingSpec) -> Future[None]:
        """Bind; idempotent."""
        method, answer = (
            (frames.EXCHANGE_BIND, frames.EXCHANGE_BIND_OK)
            if spec.to_exchange
            else (frames.QUEUE_BIND, frames.QUEUE_BIND_OK)
        )
        return self._request(
            method, (answer,), "Hsssbt", 0, spec.target, spec.source, spec.key, _NO_BITS, spec.arguments
        )

    def unbind(self, spec: BindingSpec) -> Future[None]:
        """Remove a binding; idempotent."""
        if spec.to_exchange:
            return self._request(
                frames.EXCHANGE_UNBIND, (frames.EXCHANGE_UNBIND_OK,),
                "Hsssbt", 0, spec.target, spec.source, spec.key, _NO_BITS, spec.arguments,
            )  # fmt: skip
        return self._request(
            frames.QUEUE_UNBIND, (frames.QUEUE_UNBIND_OK,),
            "Hssst", 0, spec.target, spec.source, spec.key, spec.arguments,
        )  # fmt: skip

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> Future[None]:
        """Delete an exchange."""
        return self._request(frames.EXCHANGE_DELETE, (frames.EXCHANGE_DELETE_OK,), "Hsb", 0, name, (if_unused, False))

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> Future[int]:
        """Delete a queue; answer how many messages went with it."""
        bits = (if_unused, if_empty, False)
        return self._request(frames.QUEUE_DELETE, (frames.QUEUE_DELETE_OK,), "Hsb", 0, name, bits, convert=_first)

    def purge_queue(self, name: str) -> Future[int]:
        """Drop the ready messages of a queue; answer how many."""
        return self._request(frames.QUEUE_PURGE, (frames.QUEUE_PURGE_OK,), "Hsb", 0, name, _NO_BITS, convert=_first)

    def get(self, queue: str, *, no_ack: bool = False) -> Future[Delivery | None]:
        """Fetch one message, or None from an empty queue."""
        answers = (frames.BASIC_GET_OK, frames.BASIC_GET_EMPTY)
        convert = _delivery_or_none if no_ack else self._got
        return self._request(frames.BASIC_GET, answers, "Hsb", 0, queue, (no_ack,), convert=convert)

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], object],
        *,
        prefetch: int = 0,
        no_ack: bool = False,
        on_cancel: Callable[[str], object] | None = None,
        arguments: Table | None = None,
    ) -> Future[str]:
        """Subscribe; answers with the consumer tag."""
        with self._lock:
            refusal = self._refusal()
            if refusal is not None:
                return self._failed(refusal)
            if prefetch != self._prefetch:
                # Without the global bit RabbitMQ applies it to each consumer started afterwards on the channel
                # (https://www.rabbitmq.com/docs/consumer-prefetch).
                self._ask(frames.BASIC_QOS, (frames.BASIC_QOS_OK,), "IHb", 0, prefetch, _NO_BITS)
                self._prefetch = prefetch
            tag = matching.new_consumer_tag()
            pending = self._ask(
                frames.BASIC_CONSUME, (frames.BASIC_CONSUME_OK,),
                "Hssbt", 0, queue, tag, (False, no_ack, False, False), arguments or {}, convert=_first, consumer_tag=tag,
            )  # fmt: skip
            if not pending.done():
                self._consumers[tag] = _Consumer(on_delivery, on_cancel, no_ack)
            return pending

    def cancel(self, consumer_tag: str) -> Future[None]:
        """Unsubscribe; what was delivered before the broker knew still comes."""
        with self._lock:
            consumer = self._consumers.get(consumer_tag)
            if consumer is not None:
                consumer.leaving = True
            refusal = self._refusal()
            if refusal is not None:
                return self._failed(refusal)
            return self._ask(
                frames.BASIC_CANCEL,
                (frames.BASIC_CANCEL_OK,),
                "sb",
                consumer_tag,
                _NO_BITS,
                convert=self._forget_consumer,
                consumer_tag=consumer_tag,
            )

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery (and, with `multiple`, every earlier one); leaves with others, before the next request."""
        with self._lock:
            if not self._open:
                return
            if multiple:
                self._send_acks()
                self._acks.settled(tag, multiple=True)
                self._wire.send(frames.settle(self.number, frames.BASIC_ACK, tag, flag=True), lazy=True)
                return
            first = self._acks.ack(tag)
        if first:
            self._wire.call_soon(self.flush_acks)

    def acknowledge(self, acks: Sequence[tuple[int, bool]]) -> None:
        """Acknowledge several, in one write by this thread: to wake the I/O thread for it costs more."""
        with self._lock:
            if not self._open:
                return
            self._send_acks()
            for tag, multiple in acks:
                self._acks.settled(tag, multiple=multiple)
            number, settle = self.number, frames.settle
            self._wire.send(b"".join([settle(number, frames.BASIC_ACK, tag, flag=multiple) for tag, multiple in acks]))

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Give a delivery back, or let the queue dead-letter it.

        By `basic.reject`, not `basic.nack`: on RabbitMQ 4.3 only the former counts towards a quorum queue's delivery
        limit (release notes 4.3.0).
        """
        with self._lock:
            if self._open:
                self._acks.rejected(tag)
                self._wire.send(frames.settle(self.number, frames.BASIC_REJECT, tag, flag=requeue), lazy=True)

    def release(self, tag: int) -> None:
        """Give a delivery back that nothing was done with: by `basic.nack`, which quorum queues of 4.3 do not count."""
        with self._lock:
            if self._open:
                self._acks.rejected(tag)
                self._wire.send(frames.release(self.number, tag), lazy=True)

    def flush_acks(self) -> None:
        """Send the acks that were collected."""
        with self._lock:
            if self._open:
                self._send_acks()

    def _send_acks(self) -> None:
        """Send the acks that were collected; the lock is held."""
        if self._acks.waiting:
            number, settle = self.number, frames.settle
            collected = self._acks.collect()
            data = b"".join([settle(number, frames.BASIC_ACK, tag, flag=multiple) for tag, multiple in collected])
            self._wire.send(data, lazy=True)

    def close(self) -> Future[None]:
        """End the channel; unacknowledged deliveries go back to their queues."""
        with self._lock:
            if self._leaving is not None:
                return self._leaving
            self._leaving = self._wire.pending()
            if self._open:
                self._send_acks()
                self._open = False
                self._wire.send(frames.request(self.number, frames.CHANNEL_CLOSE, "HsHH", 200, "", 0, 0))
            if not self._ended:
                return self._leaving  # answered at the end, which is on its way
        self._leaving.set_result(None)
        return self._leaving

    def abandon(self) -> None:
        """Forget the channel in a forked child, where its lock may be held for ever."""
        self._lock = self._outbox.lock = threading.Lock()
        self._open = False

    def _request(
        self,
        method: int,
        answers: tuple[int, ...],
        form: str,
        *values: Any,
        convert: Callable[[Any], Any] | None = None,
    ) -> Future[Any]:
        if not self._wire.wait_for_room():
            return self._failed(ConnectionLost("the broker takes nothing more at the moment; nothing was sent"))
        with self._lock:
            refusal = self._refusal()
            if refusal is not None:
                return self._failed(refusal)
            return self._ask(method, answers, form, *values, convert=convert)

    def _ask(
        self,
        method: int,
        answers: tuple[int, ...],
        form: str,
        *values: Any,
        convert: Callable[[Any], Any] | None = None,
        consumer_tag: str | None = None,
    ) -> Future[Any]:
        """Send a request and await its answer; the lock is held."""
        pending = self._wire.pending()
        try:
            data = frames.request(self.number, method, form, *values)
        except AmqpqError as error:
            pending.set_exception(error)
        else:
            self._send_acks()
            self._awaited.append(_Awaited(method, answers, pending, convert, consumer_tag))
            self._wire.send(data)
        return pending

    def _failed(self, error: AmqpqError) -> Future[Any]:
        pending = self._wire.pending()
        pending.set_exception(error)
        return pending

    def _refusal(self) -> AmqpqError | None:
        """Why nothing can be sent here any more, or None."""
        if self._open:
            return None
        lost = self._wire.lost
        if lost is not None:
            return ConnectionLost(str(lost))
        if self._reason is None:
            return ChannelClosed("this channel was closed here; open another one")
        return ChannelClosed(f"the broker closed this channel: {self._reason}")

    # ---------------------------------------------------------------------------------- events, on the I/O thread

    def on_event(self, method: int, argument: Any) -> None:
        """Take what the broker sent on this channel.

        Raises:
            ProtocolViolation: It is not what was due.
        """
        if method == frames.BASIC_DELIVER:
            self._on_delivery(argument)
        elif method == frames.BASIC_ACK:
            tag, multiple = argument
            self._outbox.acked(tag, multiple=multiple)
        elif method == frames.BASIC_NACK:
            tag, multiple = argument
            self._outbox.nacked(tag, multiple=multiple)
        elif method in self._handlers:
            self._handlers[method](argument)
        else:
            self._on_answer(method, argument)

    def _on_delivery(self, delivery: Delivery) -> None:
        with self._lock:
            consumer = self._consumers.get(delivery.consumer_tag)
            if not self._open:
                return
            if consumer is None or not consumer.no_ack:
                self._acks.delivered(delivery.tag)
        if consumer is None:
            logger.warning("a delivery came for the consumer %s, which does not exist", delivery.consumer_tag)
            return
        try:
            consumer.on_delivery(delivery)
        except Exception:
            logger.exception("the consumer %s failed on a delivery; it stays unacknowledged", delivery.consumer_tag)

    def _on_answer(self, method: int, argument: Any) -> None:
        with self._lock:
            awaited = matching.take(self._awaited, method, argument)
            if awaited is None:
                message = (
                    f"the broker answered {method >> 16}.{method & 0xFFFF} on channel {self.number}, which was not due"
                )
                raise frames.ProtocolViolation(message)
            value = awaited.convert(argument) if awaited.convert is not None else None
        awaited.pending.set_result(value)

    def _got(self, argument: Delivery | tuple[()]) -> Delivery | None:
        """Note a fetched delivery as outstanding; the lock is held."""
        if isinstance(argument, Delivery):
            self._acks.delivered(argument.tag)
        return _delivery_or_none(argument)

    def _forget_consumer(self, argument: tuple[str]) -> None:
        self._consumers.pop(argument[0], None)

    def _on_return(self, returned: frames.Returned) -> None:
        if not self._outbox.returned(returned):
            logger.warning("a message came back that is not under way: %s %s", returned.code, returned.reason)

    def _on_server_cancel(self, argument: tuple[str, bool]) -> None:
        consumer_tag, no_wait = argument
        with self._lock:
            consumer = self._consumers.pop(consumer_tag, None)
            if not no_wait and self._open:
                self._wire.send(frames.request(self.number, frames.BASIC_CANCEL_OK, "s", consumer_tag))
        if consumer is None or consumer.leaving or consumer.on_cancel is None:
            return
        try:
            consumer.on_cancel(consumer_tag)
        except Exception:
            logger.exception("the cancel callback of consumer %s failed", consumer_tag)

    def _on_server_close(self, argument: tuple[int, str, int, int]) -> None:
        code, text, class_number, method_number = argument
        cause = class_number << 16 | method_number
        error = failures.channel_error(code, text)
        with self._lock:
            # Nothing of another thread may follow the answer: RabbitMQ closes the connection for a frame on a channel that
            # is closed (504, expected 'channel.open').
            crossed = self._leaving is not None and not self._leaving.done()
            if not crossed:
                self._open = False
                self._reason = error
            self._wire.send(frames.request(self.number, frames.CHANNEL_CLOSE_OK))
        if crossed:
            return  # it crossed our own close, which the broker answers too: that answer ends the channel
        self._end(error, text, cause)

    def _on_close_ok(self, _: tuple[()]) -> None:
        self._end(None, "the channel was closed here", 0)

    def on_connection_end(self, lost: ConnectionLost, *, ours: bool) -> None:
        """The connection is gone; `ours`: because we closed it."""
        self._end(lost, str(lost), 0, ours=ours)

    def _end(self, error: AmqpqError | None, words: str, cause: int, *, ours: bool = False) -> None:
        """Answer everything that waits: publications first, then requests, then `closed`."""
        with self._lock:
            self._open = False
            self._ended = True
            self._reason = error
            awaited, self._awaited = list(self._awaited), deque()
            answer_publications = self._outbox.abandon(words, refused_publish=cause == frames.BASIC_PUBLISH)
            self._consumers.clear()
            leaving = self._leaving
        answer_publications()
        culprit_found = False
        for request in awaited:
            if not culprit_found and request.method == cause and error is not None:
                culprit_found = True
                request.pending.set_exception(error)
            elif isinstance(error, ConnectionLost):
                request.pending.set_exception(ConnectionLost(words))
            else:
                request.pending.set_exception(ChannelClosed(f"the channel was closed before the answer came: {words}"))
        if not isinstance(error, ConnectionLost):
            self._wire.release(self.number)
        self._closed.set_result(None if ours else error)
        if leaving is not None:
            leaving.set_result(None)


def _first(argument: tuple[Any, ...]) -> Any:
    return argument[0]


def _queue_state(argument: tuple[str, int, int]) -> QueueState:
    return QueueState(*argument)


def _delivery_or_none(argument: Delivery | tuple[()]) -> Delivery | None:
    return argument if isinstance(argument, Delivery) else None
