"""Channels of the in-memory broker: the transport interface on a lock; see `amqpq.testing.memory.connection`."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from amqpq.errors import AmqpqError, ChannelClosed, ConnectionLost, NotBuiltYet, NotSerializable
from amqpq.testing.memory.arguments import MAX_EXPIRY_MS
from amqpq.testing.memory.queues import MemoryQueue
from amqpq.testing.memory.values import (
    NOT_FOUND,
    PRECONDITION_FAILED,
    Message,
    Refused,
    Waiting,
    as_sent,
    further_keys,
)
from amqpq.testing.memory.vhost import DIRECT_REPLY
from amqpq.types import (
    BindingSpec,
    Delivery,
    ExchangeSpec,
    Fate,
    Outcome,
    Properties,
    Publication,
    QueueSpec,
    QueueState,
    Table,
)

if TYPE_CHECKING:
    from amqpq.testing.memory.connection import MemoryConnection

T = TypeVar("T")

WINDOW_DELIVERIES = 1000
"""Deliveries to one consumer that wait for its callback; the rest stays in the queue, as behind a full socket."""
_CONFIRMED = Outcome(Fate.CONFIRMED)
_USER = "guest"


class _Subscription:
    """A consumer on a channel."""

    def __init__(
        self,
        channel: MemoryChannel,
        queue: MemoryQueue | None,
        tag: str,
        *,
        on_delivery: Callable[[Delivery], object],
        on_cancel: Callable[[str], object] | None,
        prefetch: int,
        no_ack: bool,
    ) -> None:
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.on_delivery = on_delivery
        self.on_cancel = on_cancel
        self.no_ack = no_ack
        self._prefetch = 0 if no_ack else prefetch
        self._unacknowledged = 0
        self._travelling = 0

    @property
    def has_room(self) -> bool:
        """Whether one more delivery is within its prefetch."""
        within = self._prefetch == 0 or self._unacknowledged < self._prefetch
        return within and self._travelling < WINDOW_DELIVERIES

    def deliver(self, queue: MemoryQueue, waiting: Waiting) -> None:
        """Send a message to the callback."""
        self._travelling += 1
        if not self.no_ack:
            self._unacknowledged += 1
        delivery = self.channel.delivered(queue, waiting, self)
        self.channel.connection.emit(partial(self._arrive, delivery))

    def deliver_reply(self, message: Message) -> None:
        """Send a direct reply to the callback."""
        tag = self.channel.next_tag()
        delivery = Delivery(message.body, message.properties, "", message.key, False, tag, self.tag)
        self.channel.connection.emit(partial(self.on_delivery, delivery))

    def settled(self) -> None:
        """A delivery of this consumer was acknowledged or given back."""
        self._unacknowledged -= 1

    def cancelled(self) -> None:
        """The broker cancels the subscription."""
        self.channel.forget(self)
        if self.on_cancel is not None:
            self.channel.connection.emit(partial(self.on_cancel, self.tag))

    def _arrive(self, delivery: Delivery) -> None:
        """On the dispatcher thread: hand the message over, then make room for the next one."""
        if not self.channel.ended:
            self.on_delivery(delivery)
        with self.channel.broker.lock:
            self._travelling -= 1
            if self._travelling == WINDOW_DELIVERIES - 1 and self.queue is not None and not self.queue.deleted:
                self.channel.broker.host.settle(self.queue)


class MemoryChannel:
    """A channel in confirm mode; see `amqpq.transport.interface.Channel`."""

    def __init__(self, connection: MemoryConnection) -> None:
        self.connection = connection
        self.broker = connection.broker
        self._host = connection.broker.host
        self._reason: AmqpqError | None = None
        self._ended = False
        self._closed = connection.pending()
        self._tags = itertools.count(1)
        self._consumer_numbers = itertools.count(1)
        self._unacknowledged: dict[int, tuple[MemoryQueue, Waiting, _Subscription | None]] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._reply_address: str | None = None

    def __repr__(self) -> str:
        return f"<channel in memory {'closed' if self._ended else 'open'} unacknowledged={len(self._unacknowledged)}>"

    @property
    def closed(self) -> Future[AmqpqError | None]:
        """Resolves when the channel ends: with the reason, or None where we closed it."""
        return self._closed

    # ------------------------------------------------------------------------------------------------------ machinery

    def _ask(
        self, operation: Callable[[], T], *, publishes: bool = False, then: Callable[[], None] | None = None
    ) -> Future[T]:
        """Carry out a verb now, or once the broker reads again; its answer goes over the dispatcher thread.

        Args:
            operation: The work; the broker's lock is held.
            publishes: It publishes, so an alarm holds it back.
            then: What may cause deliveries, which must not overtake the answer.
        """
        pending = self.connection.pending()

        def carry_out() -> None:
            refusal = self._refusal()
            if refusal is not None:
                self._tell(pending.set_exception, refusal)
                return
            try:
                value = operation()
            except Refused as refused:
                self._tell(pending.set_exception, refused.error)
                self.end(refused.error)
            except AmqpqError as error:
                self._tell(pending.set_exception, error)
            else:
                self._tell(pending.set_result, value)
                if then is not None:
                    then()

        with self.broker.lock:
            if not self.connection.hold(carry_out, publishes=publishes):
                carry_out()
        return pending

    def _tell(self, answer: Callable[[Any], None], value: object) -> None:
        self.connection.call_soon(partial(answer, value))

    def _refusal(self) -> AmqpqError | None:
        if self.connection.lost is not None:
            return ConnectionLost(str(self.connection.lost))
        if not self._ended:
            return None
        if self._reason is None:
            return ChannelClosed("this channel was closed here; open another one")
        return ChannelClosed(f"the broker closed this channel: {self._reason}")

    def end(self, reason: AmqpqError | None, *, ours: bool = False) -> None:
        """End the channel: deliveries go back, consumers go; the broker's lock is held."""
        if self._ended:
            return
        self._ended = True
        self._reason = reason
        touched: list[MemoryQueue] = []
        subscriptions, self._subscriptions = list(self._subscriptions.values()), {}
        for subscription in subscriptions:
            if subscription.queue is not None:
                self._host.unsubscribe(subscription.queue, subscription)
                touched.append(subscription.queue)
        if self._reply_address is not None:
            self._host.repliers.pop(self._reply_address, None)
        back, self._unacknowledged = list(self._unacknowledged.values()), {}
        for queue, waiting, _ in back:
            self._host.requeue(queue, waiting)
            touched.append(queue)
        self.connection.release(self)
        self.connection.emit(partial(self._closed.set_result, None if ours else reason))
        self._settle_queues(touched)

    def _settle_queues(self, touched: Sequence[MemoryQueue]) -> None:
        for queue in {id(queue): queue for queue in touched}.values():
            if not queue.deleted:
                self._host.settle(queue)

    # ----------------------------------------------------------------------------------------------------- publishing

    def publish(self, publications: Sequence[Publication]) -> Future[list[Outcome]]:
        """Publish in order; one outcome each."""
        everything = tuple(publications)
        sent: list[tuple[Publication, Properties]] = []

        def publish_all() -> list[Outcome]:
            for publication in everything:
                try:
                    sent.append((publication, as_sent(publication)))
                except NotSerializable:
                    if not sent:
                        raise
                    break
            outcomes: list[Outcome] = []
            for publication, properties in sent:
                try:
                    outcomes.append(self._publish_one(publication, properties))
                except Refused as refused:
                    self._refused_publication(refused, everything[len(outcomes) :], outcomes)
                    break
            unsent = Outcome(Fate.UNKNOWN, "not sent: a publication before it cannot be written")
            return outcomes + [unsent] * (len(everything) - len(outcomes))

        return self._ask(publish_all, publishes=bool(everything))

    def _publish_one(self, publication: Publication, properties: Properties) -> Outcome:
        if len(publication.body) > self.broker.max_message_bytes:
            size, limit = len(publication.body), self.broker.max_message_bytes
            raise Refused(PRECONDITION_FAILED, f"message size {size} is larger than configured max size {limit}")
        if properties.user_id not in {None, _USER}:
            text = f"user_id property set to '{properties.user_id}' but authenticated user was '{_USER}'"
            raise Refused(PRECONDITION_FAILED, text)
        if properties.reply_to == DIRECT_REPLY:
            if self._reply_address is None:
                raise Refused(PRECONDITION_FAILED, "fast reply consumer does not exist")
            properties = properties._replace(reply_to=self._reply_address)
        if publication.properties.expiration is not None:
            _check_expiration(publication.properties.expiration)
        cc, bcc = further_keys(properties.headers)
        if bcc:
            kept = {name: value for name, value in properties.headers.items() if name != "BCC"}
            properties = properties._replace(headers=kept)
        message = Message(publication.body, properties, publication.exchange, publication.routing_key, (*cc, *bcc))
        routed = self._host.publish(message)
        if not routed.found and publication.mandatory:
            return Outcome(Fate.RETURNED, "312 NO_ROUTE")
        if routed.refused:
            return Outcome(Fate.NACKED, "the broker refused the message (basic.nack)")
        return _CONFIRMED

    def _refused_publication(self, refused: Refused, rest: Sequence[Publication], outcomes: list[Outcome]) -> None:
        """A publication closed the channel: what it says of it and of those behind it, as the ledger of a real one."""
        culprit = rest[0]
        for publication in rest:
            if refused.code == NOT_FOUND and publication.exchange == culprit.exchange:
                fate = Fate.RETURNED
            elif len(rest) == 1:
                fate = Fate.NACKED
            else:
                fate = Fate.UNKNOWN
            outcomes.append(Outcome(fate, refused.text))
        self.end(refused.error)

    # ------------------------------------------------------------------------------------------------------- requests

    def declare_exchange(self, spec: ExchangeSpec, *, passive: bool = False) -> Future[None]:
        """Create the exchange, or check that it exists."""
        return self._ask(lambda: self._host.declare_exchange(spec, passive=passive))

    def declare_queue(self, spec: QueueSpec, *, passive: bool = False) -> Future[QueueState]:
        """Create the queue, or check that it exists."""
        return self._ask(lambda: self._host.declare_queue(spec, self.connection, passive=passive))

    def bind(self, spec: BindingSpec) -> Future[None]:
        """Bind; idempotent."""
        return self._ask(lambda: self._host.bind(spec, self.connection))

    def unbind(self, spec: BindingSpec) -> Future[None]:
        """Remove a binding; idempotent."""
        return self._ask(lambda: self._host.unbind(spec, self.connection))

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> Future[None]:
        """Delete an exchange."""
        return self._ask(lambda: self._host.delete_exchange(name, if_unused=if_unused))

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> Future[int]:
        """Delete a queue; answer how many messages went with it."""
        return self._ask(lambda: self._host.delete_queue(name, self.connection, if_unused=if_unused, if_empty=if_empty))

    def purge_queue(self, name: str) -> Future[int]:
        """Drop the ready messages of a queue; answer how many."""
        return self._ask(lambda: self._host.purge_queue(name, self.connection))

    def get(self, queue: str, *, no_ack: bool = False) -> Future[Delivery | None]:
        """Fetch one message, or None from an empty queue."""

        def fetch() -> Delivery | None:
            found = self._host.queue(queue, self.connection)
            waiting = self._host.get(found)
            if waiting is None:
                return None
            delivery = self.delivered(found, waiting, None, no_ack=no_ack)
            return delivery._replace(message_count=len(found))

        return self._ask(fetch)

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
        if arguments:
            raise NotBuiltYet(
                f"not built yet: the in-memory broker knows no consumer arguments ({', '.join(arguments)})"
            )

        def subscribe() -> str:
            direct = queue == DIRECT_REPLY
            if direct and not no_ack:
                raise Refused(PRECONDITION_FAILED, "reply consumer cannot acknowledge")
            if direct and self._reply_address is not None:
                raise Refused(PRECONDITION_FAILED, "reply consumer already set")
            found = None if direct else self._host.queue(queue, self.connection)
            tag = f"amqpq.memory.{next(self._consumer_numbers)}"
            subscription = _Subscription(
                self, found, tag, on_delivery=on_delivery, on_cancel=on_cancel, prefetch=prefetch, no_ack=no_ack
            )
            self._subscriptions[tag] = subscription
            if found is None:
                self._reply_address = f"{DIRECT_REPLY}.{uuid.uuid4().hex}"
                self._host.repliers[self._reply_address] = subscription
            else:
                self._host.subscribe(found, subscription)
            return tag

        def begin() -> None:
            if queue != DIRECT_REPLY:
                self._host.settle(self._host.queue(queue, self.connection))

        return self._ask(subscribe, then=begin)

    def cancel(self, consumer_tag: str) -> Future[None]:
        """Unsubscribe. Deliveries that are unacknowledged stay so."""

        def unsubscribe() -> None:
            subscription = self._subscriptions.pop(consumer_tag, None)
            if subscription is None:
                return
            if subscription.queue is not None:
                self._host.unsubscribe(subscription.queue, subscription)
                self._settle_queues([subscription.queue])  # the next one of a single active consumer takes over
            elif self._reply_address is not None:
                self._host.repliers.pop(self._reply_address, None)
                self._reply_address = None

        return self._ask(unsubscribe)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge a delivery (and, with `multiple`, every earlier one of this channel)."""
        self._settle(tag, multiple=multiple, then=lambda _, waiting: self._host.done(waiting))

    def acknowledge(self, acks: Sequence[tuple[int, bool]]) -> None:
        """Acknowledge several."""
        for tag, multiple in acks:
            self.ack(tag, multiple=multiple)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Give a delivery back, or let the queue dead-letter it."""
        self._settle(tag, multiple=False, then=self._host.requeue if requeue else self._host.reject)

    def release(self, tag: int) -> None:
        """Give a delivery back that nothing was done with; this broker counts it all the same, as those before 4.3 do."""
        self._settle(tag, multiple=False, then=self._host.requeue)

    def _settle(self, tag: int, *, multiple: bool, then: Callable[[MemoryQueue, Waiting], None]) -> None:
        def carry_out() -> None:
            if self._ended or self.connection.lost is not None:
                return
            tags = [each for each in self._unacknowledged if each <= tag or tag == 0] if multiple else [tag]
            if any(each not in self._unacknowledged for each in tags):
                self.end(Refused(PRECONDITION_FAILED, f"unknown delivery tag {tag}").error)
                return
            touched: list[MemoryQueue] = []
            for each in tags:
                queue, waiting, subscription = self._unacknowledged.pop(each)
                if subscription is not None:
                    subscription.settled()
                then(queue, waiting)
                touched.append(queue)
            self._settle_queues(touched)

        with self.broker.lock:
            if not self.connection.hold(carry_out, publishes=False):
                carry_out()

    def close(self) -> Future[None]:
        """End the channel; unacknowledged deliveries go back to their queues."""
        pending = self.connection.pending()

        def carry_out() -> None:
            self.end(None)
            self._tell(pending.set_result, None)

        with self.broker.lock:
            if not self.connection.hold(carry_out, publishes=False):
                carry_out()
        return pending

    # ------------------------------------------------------------------------------------------- what consumers need

    def next_tag(self) -> int:
        """The next delivery tag."""
        return next(self._tags)

    def delivered(
        self, queue: MemoryQueue, waiting: Waiting, subscription: _Subscription | None, *, no_ack: bool | None = None
    ) -> Delivery:
        """Turn a message into a delivery on this channel, and remember it until it is settled."""
        tag = self.next_tag()
        unsettled = not no_ack if subscription is None else not subscription.no_ack
        if unsettled:
            self._unacknowledged[tag] = (queue, waiting, subscription)
        else:
            self._host.done(waiting)
        message = waiting.message
        properties = message.delivered_properties(waiting.returns)
        consumer_tag = "" if subscription is None else subscription.tag
        return Delivery(message.body, properties, message.exchange, message.key, waiting.redelivered, tag, consumer_tag)

    @property
    def ended(self) -> bool:
        """Whether the channel has ended; what was on its way to its consumers went back."""
        return self._ended

    def forget(self, subscription: _Subscription) -> None:
        """The broker cancelled a consumer."""
        self._subscriptions.pop(subscription.tag, None)


def _check_expiration(milliseconds: int) -> None:
    """Refuse what RabbitMQ's timers do not take; the wire's decimal text can say anything."""
    problem = "negative" if milliseconds < 0 else "too_large" if milliseconds > MAX_EXPIRY_MS else ""
    if problem:
        text = f"invalid expiration '{milliseconds}': {{value_{problem},{milliseconds}}}"
        raise Refused(PRECONDITION_FAILED, text)
