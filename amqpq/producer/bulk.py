"""The flow that publishes a batch: in chunks, of which the next are on their way while the broker answers the ones before.

A chunk's reply queues are declared first, pipelined over several channels. When they are there its messages are written, while
those of the next chunk are being declared; and it is finished when the broker has spoken of every message. So neither waits for
the other: not the broker for us, nor we, nor the workers, for it. A batch of any length takes bounded memory beside its own.

A batch may be handed over all at once, at its end, or piece by piece while its calls are still being made: `Bulk.submit` begins
what it was given and waits only where too much is under way; with `last` it waits for all of it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from amqpq.errors import Blocked, OperationTimeout, TransportError, Unroutable
from amqpq.producer.publishing import Sending, delete_queues, unconfirmed, unknown, until_unblocked, verdict, withdraw
from amqpq.replies.mailbox import ignore
from amqpq.replies.session import Lane, Session
from amqpq.transport.interface import Channel, Flow, Pending
from amqpq.types import Outcome, QueueState

LANES: Final = 16
"""Channels that declare the reply queues of a batch: 3 to 5 times what one does (measured)."""

CHUNK: Final = 1000
"""Messages of a chunk; with half as many the broker waits for us now and then (measured: a few per cent slower)."""

CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Of the bodies of a chunk: a thousand large ones, three times over, would be hundreds of megabytes on their way."""

CHUNK_QUEUES: Final = 160
"""Reply queues of a chunk: ten for each lane, so that workers begin long before the last one is declared."""

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

    @property
    def answered(self) -> bool:
        """Whether the broker has spoken of all that was written."""
        return all(written.pending.done() for written in self.written)


class Bulk:
    """A batch on its way to the broker, over as many connections as that takes. Messages leave in the order in which they came.

    What was not decided when a run ended, because its connection or channel went away, waits for the next one before all that
    was added later.
    """

    def __init__(self) -> None:
        self._waiting: deque[Sending] = deque()
        self._queues = 0
        self._bytes = 0
        self._run: _Run | None = None
        self._pid = os.getpid()

    @property
    def full(self) -> bool:
        """Whether what was added makes a chunk."""
        return len(self._waiting) >= CHUNK or self._queues >= CHUNK_QUEUES or self._bytes >= CHUNK_BYTES

    @property
    def session(self) -> Session | None:
        """The session that something is under way on: what became of it can be heard there and nowhere else."""
        return self._run.session if self._run is not None else None

    def add(self, sending: Sending) -> None:
        """Take another call, to be begun by the next `submit`."""
        self._waiting.append(sending)
        self._queues += sending.plan.reply_queue is not None
        self._bytes += len(sending.plan.publication.body)

    def forget(self) -> None:
        """Drop what is not begun."""
        self._waiting.clear()
        self._queues = self._bytes = 0

    def submit(self, session: Session, *, last: bool) -> Flow[None]:
        """Begin what was added; with `last`, wait until the broker has spoken of all of it.

        What becomes of each is noted in it. After an error nothing is under way any more, and it may be run again.

        Args:
            session: The `session` of this batch, where there is one.
            last: Nothing else comes.

        Raises:
            Blocked: The broker blocked publishers until the deadline; what was not begun was not sent.
            ConnectionLost, ChannelClosed, OutcomeUnknown: Some are undecided.
        """
        run = self._run = self._run or _Run(session)
        over = True
        try:
            yield from run.publish(self._waiting, last=last)
            self._queues = self._bytes = 0
            over = last
        except OperationTimeout:
            run.time_is_up()
            raise
        except BaseException as error:
            run.note_written()
            if not isinstance(error, Exception):
                run.interrupted()
            raise
        finally:
            if over:
                self._end()

    def interrupt(self) -> None:
        """End what is under way, wait for nothing: the caller was cancelled or interrupted between two `submit`."""
        if self._run is not None:
            self._run.interrupted()
            self._end()

    def disown(self) -> bool:
        """Leave to the parent, after a fork, what is under way there; say whether anything is."""
        if self._run is None or self._pid == os.getpid():
            return False
        self._run.note_written()
        self._run = None
        self.forget()
        return True

    def _end(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            self._waiting.extendleft(reversed(run.end()))


class _Run:
    """One run of a batch, on one connection.

    Args:
        session: The connection.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lanes: list[Lane] = []
        """Channels for the reply queues. All messages leave on the first one, so that they reach each queue in order; those with
        direct replies on the channel of these."""
        self._begun: deque[_Chunk] = deque()
        """All that are not finished, in order."""
        self._declared: deque[_Chunk] = deque()
        self._written: deque[_Chunk] = deque()
        self._clean = True
        """Whether nothing is outstanding on the lanes."""

    def publish(self, waiting: deque[Sending], *, last: bool) -> Flow[None]:
        """Take chunk after chunk through its stages; after an error begin no other one, and finish what is written.

        Where more is to come, nothing is waited for here: only what is answered already is finished.
        """
        failure: TransportError | None = None
        while waiting and failure is None:
            failure = yield from _failure(until_unblocked(self.session.connection, waiting[0]))
            if isinstance(failure, Blocked):  # until the deadline: what was written before is not waited for any longer
                self.time_is_up()
                raise failure
            if failure is None:
                failure = yield from _failure(self._begin(_next_chunk(waiting)))
        while last and failure is None and self._declared:
            failure = yield from _failure(self._write())
        while self._written and (last or failure is not None or self._written[0].answered):
            failure = (yield from _failure(self._finish())) or failure
        if failure is not None:
            self._clean = False
            raise failure

    def end(self) -> list[Sending]:
        """Give the channels back; return what is undecided."""
        for lane in self._lanes:
            self.session.give(lane, clean=self._clean and not self._begun)
        return [each for chunk in self._begun for each in chunk.sendings if not each.done and each.error is None]

    def time_is_up(self) -> None:
        """Note that of what was written, and not answered, nobody knows."""
        for each in self.note_written():
            each.error = unconfirmed(self.session.connection, each)

    def interrupted(self) -> None:
        """Delete the reply queues of calls whose caller was cancelled or interrupted: nobody will ask for the results."""
        self.note_written()
        for each, channel in (pair for chunk in (*self._written, *self._declared) for pair in chunk.declared):
            withdraw(each, channel)

    def note_written(self) -> list[Sending]:
        """Note in those that were written, and not answered, that they were; return them."""
        chunks = (*self._written, *self._declared)
        written = (each for chunk in chunks for written in chunk.written for each in written.sendings)
        unanswered = [each for each in written if not each.done and each.error is None]
        for each in unanswered:
            each.written = True
        return unanswered

    # ------------------------------------------------------------------------------------------------------ beginning

    def _begin(self, sendings: Sequence[Sending]) -> Flow[None]:
        """Have the reply queues of another chunk declared, and write the one before; without any, write it at once."""
        chunk = _Chunk(sendings)
        self._begun.append(chunk)
        with_queue = [each for each in sendings if each.plan.reply_queue is not None]
        while len(self._lanes) < (min(LANES, len(with_queue)) or 1):
            self._lanes.append(self.session.take())
        self._declared.append(chunk)
        for number, each in enumerate(with_queue):
            channel = self._lanes[number % len(self._lanes)].channel
            chunk.declared.append((each, channel))
            if each.plan.reply_queue is not None:
                pending = channel.declare_queue(each.plan.reply_queue)
                ignore(pending)
                chunk.answers.append(pending)
        while len(self._declared) > 1 or (self._declared and not chunk.answers):
            yield from self._write()

    def _write(self) -> Flow[None]:
        """Write the messages of the oldest chunk that waits for its reply queues, once they are there and there is room."""
        chunk = self._declared[0]
        for answer in chunk.answers:  # noqa: UP028 - a list cannot be sent the answers
            yield answer
        yield from self._address(chunk.sendings)
        while len(self._written) >= CHUNKS_UNDER_WAY:
            yield from self._finish()
        by_queue = [each for each in chunk.sendings if each.slot is None]
        direct = [each for each in chunk.sendings if each.slot is not None]
        channels = [self.session.direct.expect(each.slot) for each in direct if each.slot is not None]
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
                exchange = ways[planned.routing_key] = (yield from self.session.ways.address(planned)).exchange
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
            self._clean = (yield from delete_queues(self.session, self._lanes, refused)) and self._clean
        self._written.popleft()
        if failure is not None:
            raise failure
        if self._begun[0] is chunk:  # not where one before it has failed
            self._begun.popleft()

    def _follow(self, written: _Written) -> Flow[None]:
        """Publish once more, another way, what came back because its queue has moved."""
        followed: list[Sending] = []
        for each in written.sendings:
            if isinstance(each.error, Unroutable):
                other = yield from self.session.ways.after_return(each.publication)
                if other is not None:
                    each.way, each.error = other, None
                    followed.append(each)
        if followed:
            yield from _heard(_written(written.channel, followed))


def _next_chunk(waiting: deque[Sending]) -> list[Sending]:
    """Take the next ones from what waits."""
    chunk: list[Sending] = []
    queues = size = 0
    while waiting and len(chunk) < CHUNK and queues < CHUNK_QUEUES and size < CHUNK_BYTES:
        each = waiting.popleft()
        chunk.append(each)
        queues += each.plan.reply_queue is not None
        size += len(each.plan.publication.body)
    return chunk


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
