"""The flow that publishes one call; `amqpq.producer.bulk` has the one of a batch.

The reply queue is declared first and the task published behind it on the same channel, without waiting in between: the
broker handles a channel's requests in order, and a refused declaration closes the channel, so that the message behind it is
not taken. If the message is then refused, its reply queue is deleted again. Where nobody knows whether it was taken, the
queue stays: its worker may answer, and the id in the error fetches that.

A broker under alarm stops reading from connections that publish (https://www.rabbitmq.com/docs/alarms). Once it has said
so, nothing is written any more: the flow asks for something that leaves no trace and waits for the answer, which comes when
the broker reads again. So `Blocked` means "not sent". The exception is a message that was already written when the broker
said it, mostly the first one under the alarm; it is `BlockedInDoubt`, because the broker takes it when the alarm ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amqpq import log
from amqpq.errors import (
    AmqpqError,
    Blocked,
    BlockedInDoubt,
    ChannelClosed,
    ConnectionLost,
    Nacked,
    OperationTimeout,
    OutcomeUnknown,
    PublishError,
    TransportError,
    Unroutable,
)
from amqpq.producer.planning import Plan
from amqpq.replies.direct import Slot
from amqpq.replies.mailbox import ignore
from amqpq.replies.session import Lane, Session
from amqpq.transport import failures
from amqpq.transport.interface import Channel, Connection, Flow, Pending
from amqpq.types import Fate, Outcome, Publication

logger = log.logger(log.PRODUCER)


@dataclass(slots=True)
class Sending:
    """One call on its way, over all attempts."""

    plan: Plan
    slot: Slot | None = None
    """Where its direct reply will arrive."""
    way: Publication | None = None
    """The message as it has to be published now, where that is not as planned: its queue may have moved."""
    written: bool = False
    """Whether an attempt wrote it and never learnt what became of it."""
    done: bool = False
    """Whether the broker confirmed it."""
    error: AmqpqError | None = None
    """Why it was refused for good."""

    @property
    def publication(self) -> Publication:
        """What is published."""
        return self.way or self.plan.publication


def submit(session: Session, sending: Sending) -> Flow[None]:
    """Publish one call and wait for the confirm.

    Raises:
        Unroutable, Nacked: The broker refused it; its reply queue is gone again.
        Blocked: The broker blocked publishers until the deadline.
        OutcomeUnknown: The channel went away, or the deadline passed, before the confirm.
        ConnectionLost, ChannelClosed: It was not sent.
    """
    yield from until_unblocked(session.connection, sending)
    plan = sending.plan
    sending.way = yield from session.ways.address(plan.publication)
    if sending.slot is not None:
        channel = session.direct.expect(sending.slot)
        yield from _publish_or_follow(session, channel, sending)
        return
    lane = session.take()
    clean = False
    try:
        declared = lane.channel.declare_queue(plan.reply_queue) if plan.reply_queue is not None else None
        yield from _publish_or_follow(session, lane.channel, sending, declared)
        clean = True
    except (Unroutable, Nacked):
        if plan.reply_queue is not None:
            clean = yield from delete_queues(session, [lane], [sending])
        raise
    except BaseException as error:
        if not isinstance(error, Exception):
            withdraw(sending, lane.channel)
        raise
    finally:
        session.give(lane, clean=clean)


def _publish_or_follow(
    session: Session, channel: Channel, sending: Sending, declared: Pending[Any] | None = None
) -> Flow[None]:
    """Publish; once more, another way, where the broker returned it because its queue has moved."""
    try:
        yield from _publish(session.connection, channel, sending, declared)
    except Unroutable:
        other = yield from session.ways.after_return(sending.publication)
        if other is None:
            raise
        sending.way, sending.error = other, None
        yield from _publish(session.connection, channel, sending)


def _publish(
    connection: Connection, channel: Channel, sending: Sending, declared: Pending[Any] | None = None
) -> Flow[None]:
    if declared is not None:
        ignore(declared)
    try:
        # The answer to the declaration comes before this one: the broker works off a channel in order.
        outcomes = yield channel.publish((sending.publication,))
        if declared is not None and outcomes[0].fate is Fate.UNKNOWN:
            yield from _declared(sending, declared)
    except OperationTimeout:
        sending.written = True
        raise unconfirmed(connection, sending) from None
    except PublishError as error:
        error.message_id = sending.plan.task_id
        raise
    verdict(sending, outcomes[0])
    if sending.error is not None:
        raise sending.error
    if not sending.done:
        raise unknown(sending, outcomes[0].reason)


def _declared(sending: Sending, declared: Pending[Any]) -> Flow[None]:
    """Raise where the channel went away because of the declaration."""
    try:
        yield declared
    except (ConnectionLost, ChannelClosed):
        return
    except OperationTimeout:
        raise
    except TransportError as error:
        queue = sending.plan.reply_queue
        error.add_note(f"while declaring the reply queue {queue.name if queue is not None else ''}")
        raise


def withdraw(sending: Sending, channel: Channel) -> None:
    """Delete the reply queue of a call whose caller was cancelled or interrupted: nobody will ever ask for the result.

    Args:
        sending: The call.
        channel: The one that declared the queue, so that this comes after the declaration.
    """
    if sending.plan.reply_queue is not None and not sending.done:
        ignore(channel.delete_queue(sending.plan.reply_queue.name))


def until_unblocked(connection: Connection, sending: Sending) -> Flow[None]:
    """Wait while the broker blocks publishers.

    Raises:
        Blocked: It does until the deadline.
    """
    reason = connection.blocked
    if reason is None:
        return
    try:
        # Opening and closing a channel needs no permission and leaves nothing; a broker that blocks does not answer it.
        yield connection.channel().close()
    except OperationTimeout:
        message = (
            f"task {_named(sending.plan)} was not sent: the broker blocks publishers ({connection.blocked or reason}) and "
            "did not unblock before the deadline; it does when memory or disk is free again"
        )
        raise Blocked(message, message_id=sending.plan.task_id) from None


def unconfirmed(connection: Connection, sending: Sending) -> PublishError:
    """Return the error of a message that was written and not answered before the deadline."""
    plan = sending.plan
    if connection.blocked is None:
        return unknown(sending, "no confirm before the deadline")
    message = (
        f"task {_named(plan)}: the broker blocks publishers ({connection.blocked}), and said so just after the message was "
        "written; it may take the message when the alarm ends"
    )
    return BlockedInDoubt(message, message_id=plan.task_id)


def verdict(sending: Sending, outcome: Outcome) -> None:
    """Note what the broker said about a message; an unknown fate leaves it undecided."""
    if outcome.fate is Fate.CONFIRMED:
        sending.done = True
        return
    if outcome.fate is Fate.UNKNOWN:
        sending.written = True
        return
    plan = sending.plan
    publication = sending.publication
    target = f"exchange {publication.exchange!r} with key {publication.routing_key!r}"
    if outcome.fate is Fate.RETURNED:
        if publication.exchange:
            remedy = "`amqpq topology apply` declares what the file says, `amqpq topology route` shows where it leads"
        else:
            target = f"queue {publication.routing_key!r}"
            remedy = "the queue is missing: `amqpq topology apply` creates what the file declares"
        message = (
            f"task {_named(plan)} went to {target}, which reaches no queue ({outcome.reason or 'returned'}); {remedy}"
        )
        sending.error = Unroutable(message, message_id=plan.task_id)
    elif outcome.fate is Fate.NACKED:
        message = f"the broker refused task {_named(plan)} at {target}{_why_refused(outcome.reason)}"
        sending.error = Nacked(message, message_id=plan.task_id)


def _why_refused(reason: str) -> str:
    said = f": {reason}" if reason else ""
    if "ACCESS_REFUSED" in reason:
        return f"{said}; {failures.permission_remedy(reason)}"
    if reason and "basic.nack" not in reason:
        return said  # too large, say
    return f"{said}; a queue there is full and rejects (x-overflow), or the broker has an internal error: see its log"


def unknown(sending: Sending, reason: str) -> OutcomeUnknown:
    """Return the error of a message of which nobody knows whether the broker took it."""
    plan = sending.plan
    fetch = "; if it was, AsyncResult(id) fetches its result" if plan.mode == "task" else ""
    message = f"nobody knows whether the broker took task {_named(plan)} ({reason or 'the channel went away'}){fetch}"
    return OutcomeUnknown(message, message_id=plan.task_id)


def _named(plan: Plan) -> str:
    return f"{plan.task}[{plan.task_id}]"


def delete_queues(session: Session, lanes: Sequence[Lane], sendings: Sequence[Sending]) -> Flow[bool]:
    """Delete the reply queues of messages that were refused; say whether the lanes are still good."""
    names = [each.plan.reply_queue.name for each in sendings if each.plan.reply_queue is not None]
    try:
        yield from _delete([lane.channel for lane in lanes], names)
    except TransportError:
        # What refused a message (a missing exchange, a missing permission) has closed its channel, too.
        try:
            spare = session.take()
            yield from _delete([spare.channel], names)
            session.give(spare)
        except TransportError as error:
            # The message's own error is what the caller needs; the queue goes with its x-expires.
            logger.warning("the reply queue of a message that was refused could not be deleted: %s", error)
        return False
    return True


def _delete(channels: Sequence[Channel], names: Sequence[str]) -> Flow[None]:
    deleted = [channels[number % len(channels)].delete_queue(name) for number, name in enumerate(names)]
    for pending in deleted:
        ignore(pending)
    for pending in deleted:
        yield pending
