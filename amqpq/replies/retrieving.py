"""Flows on one reply queue: wait for its final state, look at its state, forget it.

Retrieval consumes, and holds the newest state unacknowledged until a newer one or the final one is there: a caller that
gives up, or dies, puts it back by closing its channel, and nothing is lost. With the final state in hand the message is
acknowledged and the queue deleted, for which nobody waits. The consumer is not cancelled first: the broker cancels it with the
queue (and says so, which nobody minds any more).

A lost connection is not an error here: the same `Retrieval` is run again on the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from amqpq import lifecycle, log
from amqpq.errors import (
    AccessRefused,
    ChannelClosed,
    ObjectNotFound,
    ResultNotFound,
)
from amqpq.message.envelope import ResultEnvelope
from amqpq.replies import reading
from amqpq.replies.direct import Slot
from amqpq.replies.mailbox import Mailbox, ignore
from amqpq.replies.session import Lane, Session
from amqpq.transport import lagging
from amqpq.transport.interface import Channel, Flow, Pending
from amqpq.types import Delivery

logger = log.logger(log.REPLIES)

T = TypeVar("T")

PREFETCH = 2
"""The newest state, held unacknowledged, and the one after it."""


class _Event(Enum):
    CANCELLED = "cancelled"
    CLOSED = "closed"


class Retrieval:
    """Fetches the final state of one task and deletes its queue; may be run again after a lost connection.

    Args:
        task_id: The task.
        read: Makes a state of a delivery, or None of one that is not to be believed.
        on_state: Called with each intermediate state.
        final: The final state where it was seen already, and only its queue is left to delete.
    """

    def __init__(
        self,
        task_id: str,
        read: Callable[[Delivery], ResultEnvelope | None],
        on_state: reading.OnState | None = None,
        final: ResultEnvelope | None = None,
    ) -> None:
        self.task_id = task_id
        self.queue = lifecycle.reply_queue_name(task_id)
        self.final = final
        self.state: str = lifecycle.State.PENDING
        self._read = read
        self._on_state = on_state

    def flow(self, session: Session) -> Flow[ResultEnvelope]:
        """Wait for the final state on this session.

        Raises:
            ResultNotFound: There is no such queue (any more).
        """
        return (yield from known_here(session, self.task_id, lambda: self._fetch(session)))

    def _fetch(self, session: Session) -> Flow[ResultEnvelope]:
        lane = session.take()
        clean = False
        try:
            if self.final is None:
                self.final = yield from self._wait(session, lane)
            session.delete_soon(self.queue)
            clean = True
            return self.final
        finally:
            session.give(lane, clean=clean)

    def _wait(self, session: Session, lane: Lane) -> Flow[ResultEnvelope]:
        channel = lane.channel
        mailbox: Mailbox[Delivery | _Event] = Mailbox(session.connection.pending)
        lane.watch(lambda: mailbox.put(_Event.CLOSED))
        asked = yield from self._ask(channel, mailbox)
        held: Delivery | None = None
        while True:
            event = yield from mailbox.next()
            if event is _Event.CLOSED:
                yield asked  # raises what was refused
                # Also after 30 minutes with an unacknowledged state, by the broker's consumer timeout: then resume.
                raise ChannelClosed(
                    f"the channel that waited for task {self.task_id} was closed: {channel.closed.result()}"
                )
            if not isinstance(event, Delivery):
                # The queue was deleted, or moved to another node of the cluster: to ask again tells which.
                held = None
                asked = yield from self._ask(channel, mailbox)
                continue
            envelope = self._read(event)
            if envelope is None:
                channel.reject(event.tag, requeue=False)
                continue
            if reading.is_final(envelope):
                channel.ack(event.tag, multiple=True)
                return envelope
            if held is not None:
                channel.ack(held.tag)
            held = event
            self.state = envelope.status
            if self._on_state is not None:
                self._on_state(envelope.status, envelope.result)

    def _ask(self, channel: Channel, mailbox: Mailbox[Delivery | _Event]) -> Flow[Pending[str]]:
        """Consume the queue. Nobody waits for the answer: the first delivery says the same, and a refusal closes the channel."""
        asked = channel.consume(
            self.queue, mailbox.put, prefetch=PREFETCH, on_cancel=lambda _: mailbox.put(_Event.CANCELLED)
        )
        ignore(asked)
        if asked.done():
            yield asked  # raises where the channel was closed before anybody watched it
        return asked


def peek(
    session: Session, task_id: str, read: Callable[[Delivery], ResultEnvelope | None]
) -> Flow[ResultEnvelope | None]:
    """Look at the latest state and leave it where it is; None where no worker has said anything yet.

    Where another caller is just retrieving the result, the queue looks empty.

    Raises:
        ResultNotFound: There is no such queue.
    """
    return (yield from known_here(session, task_id, lambda: _peek(session, task_id, read)))


def _peek(
    session: Session, task_id: str, read: Callable[[Delivery], ResultEnvelope | None]
) -> Flow[ResultEnvelope | None]:
    lane = session.take()
    channel = lane.channel
    clean = False
    try:
        while True:
            delivery = yield channel.get(lifecycle.reply_queue_name(task_id))
            if delivery is None:
                clean = True
                return None
            envelope = read(delivery)
            channel.reject(delivery.tag, requeue=envelope is not None)
            if envelope is not None:
                clean = True
                return envelope
    finally:
        session.give(lane, clean=clean)


def known_here(session: Session, task_id: str, ask: Callable[[], Flow[T]]) -> Flow[T]:
    """Ask, and where this node says that there is no such queue, ask again when it knows all that others have declared.

    Raises:
        ResultNotFound: There is no such queue.
    """
    try:
        return (yield from ask())
    except ObjectNotFound as error:
        if not lagging.may_lag(session.connection):
            raise ResultNotFound(missing(task_id)) from error
    try:
        yield from catch_up(session, task_id)
        return (yield from ask())
    except ObjectNotFound as error:
        raise ResultNotFound(missing(task_id)) from error


def catch_up(session: Session, task_id: str) -> Flow[None]:
    """Wait until this node knows all that others have declared, if we may ask it for that."""
    lane = session.take()
    clean = False
    try:
        yield lagging.catch_up(lane.channel, lifecycle.reply_queue_name(task_id))
        clean = True
    except AccessRefused as error:
        logger.debug("this node may not know of the latest reply queues: %s", error)
    finally:
        session.give(lane, clean=clean)


def forget(session: Session, task_id: str) -> Flow[None]:
    """Delete the reply queue, whatever is in it; one that does not exist is fine."""
    lane = session.take()
    channel = lane.channel
    clean = False
    try:
        yield channel.delete_queue(lifecycle.reply_queue_name(task_id))
        clean = True
    finally:
        session.give(lane, clean=clean)


def await_direct(
    slot: Slot,
    read: Callable[[Delivery], ResultEnvelope | None],
    on_state: reading.OnState | None,
    on_lost: Callable[[str], Exception],
) -> Flow[ResultEnvelope]:
    """Wait for the final state of a direct call; `on_lost` makes the error of one that can no longer come."""
    while True:
        envelope = _newest(slot, read, on_state)
        if envelope is not None and reading.is_final(envelope):
            return envelope
        if slot.lost:
            raise on_lost(slot.lost)
        pending = slot.wait()
        if pending is not None:
            yield pending


def look_direct(
    slot: Slot, read: Callable[[Delivery], ResultEnvelope | None], on_lost: Callable[[str], Exception]
) -> ResultEnvelope | None:
    """Return the latest state of a direct call that has arrived; waits for nothing."""
    envelope = _newest(slot, read, None)
    if slot.lost and (envelope is None or not reading.is_final(envelope)):
        raise on_lost(slot.lost)
    return envelope


def _newest(
    slot: Slot, read: Callable[[Delivery], ResultEnvelope | None], on_state: reading.OnState | None
) -> ResultEnvelope | None:
    while (delivery := slot.take()) is not None:
        envelope = read(delivery)
        if envelope is None:
            continue
        slot.see(envelope)
        if on_state is not None and not reading.is_final(envelope):
            on_state(envelope.status, envelope.result)
    return slot.seen


def missing(task_id: str) -> str:
    """Return the sentence for an id without a reply queue."""
    return (
        f"task {task_id} has no reply queue: the id never existed, its result was already fetched or has expired, "
        "or it was sent with another reply mode than 'task'"
    )
