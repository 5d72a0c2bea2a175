"""The flow that publishes a batch: in chunks, of which the next are on their way while the broker answers the ones before.

A chunk's reply queues are declared first, pipelined over several channels. When they are there its messages are written, while
those of the next chunk are being declared; and it is finished when the broker has spoken of every message. So neither waits for
the other: not the broker for us, nor we, nor the workers, for it. A batch of any length takes bounded memory beside its own.
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
from amqpq.types import Outcome, QueueState

LANES: Final = 16
"""Channels that declare the reply queues of a batch: 3 to 5 times what one does (measured)."""

CHUNK: Final = 1000
"""Messages of a chunk; with half as many the broker waits for us now and then (measured: a few per cent slower)."""

CHUNK_WITH_QUEUES: Final = 160
"""The same where there are reply queues: ten for each lane, so that workers begin long before the last one is declared."""

CHUNKS_UNDER_WAY: Final = 2
"""Written, and not answered. One more gains nothing (measured)."""


class _Written(NamedTuple):
    """Messages that were written to a channel, and the answer to all of them."""

    sendings: Sequence[Sending]
    channel: Channel
    pending: Pending[list[Outcome]]


@dataclass(slots=True)
class _Chunk:
    """Messages on their way."""

    sendings: Sequence[Sending]
    answers: list[Pending[QueueState]] = field(default_factory=list)
    """To the declarations of the reply queues."""
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
    queues = sum(each.plan.reply_queue is not None for each in wanted)
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
        self._declared: deque[_Chunk] = deque()
        self._written: deque[_Chunk] = deque()
        self.clean = True
        """Whether nothing is outstanding on the lanes."""

    def publish(self, sendings: Sequence[Sending]) -> Flow[None]:
        """Take chunk after chunk through its stages; after an error begin no other one, and finish what is written."""
        failure: TransportError | None = None
        size = CHUNK_WITH_QUEUES if len(self._lanes) > 1 else CHUNK
        for start in range(0, len(sendings), size):
            failure = yield from _failure(self._begin(sendings[start : start + size]))
            if failure is not None:
                break
        while failure is None and self._declared:
            failure = yield from _failure(self._write())
        while self._written:
            failure = (yield from _failure(self._finish())) or failure
        if failure is not None:
            raise failure

    def time_is_up(self) -> None:
        """Note that of what was written, and not answered, nobody knows."""
        chunks = (*self._written, *self._declared)
        for each in (each for chunk in chunks for written in chunk.written for each in written.sendings):
            if not each.done and each.error is None:
                each.written = True
                each.error = unconfirmed(self._session.connection, each)

    def withdraw(self) -> None:
        """Delete the reply queues of calls whose caller was cancelled or interrupted: nobody will ask for the results."""
        for each, channel in (pair for chunk in (*self._written, *self._declared) for pair in chunk.declared):
            withdraw(each, channel)

    # ------------------------------------------------------------------------------------------------------ beginning

    def _begin(self, sendings: Sequence[Sending]) -> Flow[None]:
        """Have the reply queues of another chunk declared; write the one before, and finish the one before that."""
        yield from until_unblocked(self._session.connection, sendings[0])
        with_queue = [each for each in sendings if each.plan.reply_queue is not None]
        chunk = _Chunk(sendings)
        self._declared.append(chunk)
        for number, each in enumerate(with_queue):
            channel = self._lanes[number % len(self._lanes)].channel
            chunk.declared.append((each, channel))
            if each.plan.reply_queue is not None:
                pending = channel.declare_queue(each.plan.reply_queue)
                ignore(pending)
                chunk.answers.append(pending)
        if len(self._declared) > 1:
            yield from self._write()
        if len(self._written) == CHUNKS_UNDER_WAY:
            yield from self._finish()

    def _write(self) -> Flow[None]:
        """Write the messages of the oldest chunk that waits for its reply queues, once they are there."""
        session, chunk = self._session, self._declared[0]
        for answer in chunk.answers:  # noqa: UP028 - a list cannot be sent the answers
            yield answer
        yield from self._address(chunk.sendings)
        by_queue = [each for each in chunk.sendings if each.slot is None]
        direct = [each for each in chunk.sendings if each.slot is not None]
        channels = [session.direct.expect(each.slot) for each in direct if each.slot is not None]
        for some, channel in ((by_queue, self._lanes[0].channel), (direct, channels[-1] if channels else None)):
            if some and channel is not None:
                chunk.written.append(_written(channel, some))
        self._written.append(self._declared.popleft())

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

    def _finish(self) -> Flow[None]:
        """Hear what became of the oldest chunk that was written.

        Raises:
            TransportError: Why some of it is undecided.
        """
        chunk = self._written[0]
        failure: TransportError | None = None
        for written in chunk.written:
            failure = (yield from _failure(_heard(written))) or failure
            failure = (yield from _failure(self._follow(written))) or failure
        refused = [each for each, _ in chunk.declared if each.error is not None]
        if refused:
            self.clean = (yield from delete_queues(self._session, self._lanes, refused)) and self.clean
        self._written.popleft()
        if failure is not None:
            raise failure

    def _follow(self, written: _Written) -> Flow[None]:
        """Publish once more, another way, what came back because its queue has moved."""
        followed: list[Sending] = []
        for each in written.sendings:
            if isinstance(each.error, Unroutable):
                other = yield from self._session.ways.after_return(each.publication)
                if other is not None:
                    each.way, each.error = other, None
                    followed.append(each)
        if followed:
            yield from _heard(_written(written.channel, followed))


def _written(channel: Channel, sendings: Sequence[Sending]) -> _Written:
    pending = channel.publish([each.publication for each in sendings])
    ignore(pending)
    return _Written(sendings, channel, pending)


def _heard(written: _Written) -> Flow[None]:
    """Wait for the answers and note them.

    Raises:
        TransportError: Why some did not come.
    """
    outcomes = yield written.pending
    for each, outcome in zip(written.sendings, outcomes, strict=True):
        verdict(each, outcome)
    undecided = next((each for each in written.sendings if not each.done and each.error is None), None)
    if undecided is not None:
        raise unknown(undecided, "the channel went away during a batch")


def _failure(stage: Flow[None]) -> Flow[TransportError | None]:
    """Run a stage; return the error that ended it. That the time is up is no error of a stage."""
    try:
        yield from stage
    except OperationTimeout:
        raise
    except TransportError as error:
        return error
    return None
