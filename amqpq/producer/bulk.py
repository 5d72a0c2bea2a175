"""The flow that publishes a batch: in chunks, of which the next leaves while the broker confirms the one before.

A chunk is begun by declaring its reply queues, pipelined over several channels, and writing its messages behind the answers; it
is finished when the broker has spoken of every message. Two are under way at a time, so that the broker does not wait for us,
nor we for it, and a batch of any length takes bounded memory beside its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from amqpq.errors import OperationTimeout, TransportError, Unroutable
from amqpq.producer.publishing import Sending, delete_queues, unconfirmed, unknown, until_unblocked, verdict, withdraw
from amqpq.replies.mailbox import ignore
from amqpq.replies.session import Lane, Session
from amqpq.transport.interface import Channel, Flow, Pending
from amqpq.types import Outcome

LANES: Final = 16
"""Channels that declare the reply queues of a batch: 3 to 5 times what one does (measured)."""

CHUNK: Final = 1000
"""Messages of a chunk; with half as many the broker waits for us now and then (measured: a tenth slower)."""

CHUNKS_UNDER_WAY: Final = 2
"""One more gains nothing (measured)."""


class _Written(NamedTuple):
    """Messages that were written to a channel, and the answer to all of them."""

    sendings: Sequence[Sending]
    channel: Channel
    pending: Pending[list[Outcome]]


@dataclass(slots=True)
class _Chunk:
    """Messages on their way."""

    declared: list[tuple[Sending, Channel]] = field(default_factory=list)
    """Those with a reply queue, and the channel that declares it."""
    written: list[_Written] = field(default_factory=list)


def submit_batch(session: Session, sendings: Sequence[Sending]) -> Flow[None]:
    """Publish many calls, in order; what becomes of each is noted in it. May be run again for those undecided.

    Raises:
        Blocked: The broker blocked publishers until the deadline; what was not begun was not sent.
        ConnectionLost, ChannelClosed, OutcomeUnknown: Some are undecided.
    """
    wanted = [each for each in sendings if not each.done and each.error is None]
    queues = sum(each.plan.reply_queue is not None for each in wanted[:CHUNK])
    lanes = [session.take() for _ in range(min(LANES, queues) or 1)]
    bulk = _Bulk(session, lanes)
    clean = False
    try:
        yield from bulk.publish(wanted)
        clean = bulk.clean
    except OperationTimeout:
        bulk.time_is_up()
        raise
    except BaseException as error:
        if not isinstance(error, Exception):
            bulk.withdraw()
        raise
    finally:
        for lane in lanes:
            session.give(lane, clean=clean)


class _Bulk:
    """One run of a batch.

    Args:
        session: The connection.
        lanes: Channels for the reply queues. All messages leave on the first one, so that they reach each queue in order; those
            with direct replies on the channel of these.
    """

    def __init__(self, session: Session, lanes: Sequence[Lane]) -> None:
        self._session = session
        self._lanes = lanes
        self._chunks: deque[_Chunk] = deque()
        self.clean = True
        """Whether nothing is outstanding on the lanes."""

    def publish(self, sendings: Sequence[Sending]) -> Flow[None]:
        """Begin and finish chunk after chunk; after an error begin no other one, and finish what is under way."""
        failure: TransportError | None = None
        for start in range(0, len(sendings), CHUNK):
            try:
                yield from self._begin(sendings[start : start + CHUNK])
            except OperationTimeout:
                raise
            except TransportError as error:
                failure = error
            if failure is None and len(self._chunks) == CHUNKS_UNDER_WAY:
                failure = yield from self._settle()
            if failure is not None:
                break
        while self._chunks:
            failure = (yield from self._settle()) or failure
        if failure is not None:
            raise failure

    def time_is_up(self) -> None:
        """Note that of what was written, and not answered, nobody knows."""
        for each in (each for chunk in self._chunks for written in chunk.written for each in written.sendings):
            if not each.done and each.error is None:
                each.written = True
                each.error = unconfirmed(self._session.connection, each)

    def withdraw(self) -> None:
        """Delete the reply queues of calls whose caller was cancelled or interrupted: nobody will ask for the results."""
        for each, channel in (declared for chunk in self._chunks for declared in chunk.declared):
            withdraw(each, channel)

    # ------------------------------------------------------------------------------------------------------ beginning

    def _begin(self, sendings: Sequence[Sending]) -> Flow[None]:
        """Declare the reply queues and, once they are there, write the messages."""
        session, lanes, chunk = self._session, self._lanes, _Chunk()
        yield from until_unblocked(session.connection, sendings[0])
        self._chunks.append(chunk)
        with_queue = [each for each in sendings if each.plan.reply_queue is not None]
        chunk.declared = [(each, lanes[number % len(lanes)].channel) for number, each in enumerate(with_queue)]
        declared = [
            channel.declare_queue(each.plan.reply_queue)
            for each, channel in chunk.declared
            if each.plan.reply_queue is not None
        ]
        for pending in declared:
            ignore(pending)
        for pending in declared:
            yield pending
        yield from self._address(sendings)
        by_queue = [each for each in sendings if each.slot is None]
        direct = [each for each in sendings if each.slot is not None]
        channels = [session.direct.expect(each.slot) for each in direct if each.slot is not None]
        for some, channel in ((by_queue, lanes[0].channel), (direct, channels[-1] if channels else None)):
            if some and channel is not None:
                chunk.written.append(_written(channel, some))

    def _address(self, sendings: Sequence[Sending]) -> Flow[None]:
        """Find the way to each queue that is published to by name, once for all messages to it."""
        ways: dict[str, str] = {}
        for each in sendings:
            planned = each.plan.publication
            if planned.exchange:
                continue
            exchange = ways.get(planned.routing_key)
            if exchange is None:
                exchange = ways[planned.routing_key] = (yield from self._session.ways.address(planned)).exchange
            each.way = planned._replace(exchange=exchange) if exchange else None

    # ------------------------------------------------------------------------------------------------------ finishing

    def _settle(self) -> Flow[TransportError | None]:
        """Finish the oldest chunk; return why some of it is undecided."""
        try:
            failure = yield from self._finish(self._chunks[0])
        except OperationTimeout:
            raise
        except TransportError as error:
            failure = error
        self._chunks.popleft()
        return failure

    def _finish(self, chunk: _Chunk) -> Flow[TransportError | None]:
        """Hear what became of each; publish once more, another way, what came back because its queue has moved."""
        failure: TransportError | None = None
        for written in chunk.written:
            failure = (yield from _heard(written)) or failure
            followed: list[Sending] = []
            for each in written.sendings:
                if isinstance(each.error, Unroutable):
                    other = yield from self._session.ways.after_return(each.publication)
                    if other is not None:
                        each.way, each.error = other, None
                        followed.append(each)
            if followed:
                failure = (yield from _heard(_written(written.channel, followed))) or failure
        refused = [each for each, _ in chunk.declared if each.error is not None]
        if refused:
            self.clean = (yield from delete_queues(self._session, self._lanes, refused)) and self.clean
        return failure


def _written(channel: Channel, sendings: Sequence[Sending]) -> _Written:
    pending = channel.publish([each.publication for each in sendings])
    ignore(pending)
    return _Written(sendings, channel, pending)


def _heard(written: _Written) -> Flow[TransportError | None]:
    """Wait for the answers and note them; return why some did not come."""
    try:
        outcomes = yield written.pending
    except OperationTimeout:
        raise
    except TransportError as error:
        return error
    for each, outcome in zip(written.sendings, outcomes, strict=True):
        verdict(each, outcome)
    undecided = next((each for each in written.sendings if not each.done and each.error is None), None)
    return None if undecided is None else unknown(undecided, "the channel went away during a batch")
