"""Many results at once, over a few channels.

A queue operation waits for the broker's metadata store, not for its processor, so what one channel does in turn sixteen do
at once (measured: 3 to 5 times as many a second). All reply queues are consumed side by side, and each is deleted as soon
as its result is here. Other channels delete than those that consume: `basic.consume-ok` comes from the process of the
queue, other answers from the channel's, so that the broker does not keep their order.

A queue that does not exist closes the channel that asked for it, and takes the consumers of that channel along. Most
collections have no such queue, so they are asked for on shared channels, optimistically. Where it happens, that one result
is missing, and all others of that channel become *suspects*: each is asked for with a `basic.get` of its own, sixteen at a
time on channels that hold nothing else, before it goes back to a shared one. So one missing result costs its neighbours
a round trip, and many cost a channel each, never more.

A queue whose cluster node is down is no missing one. It is set aside until nothing else is being asked for; then the run
ends, and the next one, after a pause, begins with what is left.

What was fetched is noted at once in its `Known`: a collection whose connection is lost, or whose time runs out, has kept
what it got, and may be run again for the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, TypeAlias

from amqpq import lifecycle
from amqpq.errors import (
    AmqpqError,
    ChannelClosed,
    ConnectionLost,
    LocalError,
    ObjectNotFound,
    QueueUnavailable,
    ResultError,
    ResultNotFound,
    ResultTimeout,
)
from amqpq.message.envelope import ResultEnvelope
from amqpq.replies import reading
from amqpq.replies.mailbox import Mailbox
from amqpq.replies.outcome import Known
from amqpq.replies.retrieving import PREFETCH, missing
from amqpq.replies.session import Lane, Session
from amqpq.transport import lagging
from amqpq.transport.interface import Flow, Pending
from amqpq.types import Delivery

LANES: Final = 16
"""Channels; measured, more bring nothing."""

WINDOW: Final = 1024
"""Queues consumed at a time: what bounds the memory of results that wait here to be read."""

Read: TypeAlias = Callable[[Delivery], "ResultEnvelope | None"]


class Collection:
    """Results to fetch, and what became of each.

    Args:
        reader: Returns, for a task id, what makes states of its deliveries.
        on_done: Called with each result when it is fetched, or cannot be.
    """

    def __init__(self, reader: Callable[[str], Read], on_done: Callable[[Known[Any]], object] | None = None) -> None:
        self.errors: dict[str, Exception] = {}
        self.left: dict[str, Known[Any]] = {}
        """Those in reply queues, still to be fetched."""
        self.direct: list[Known[Any]] = []
        self._reader = reader
        self._on_done = on_done
        self._count = 0

    def add(self, items: Iterable[Known[Any]]) -> None:
        """Add results; those that have nothing to wait for are done at once."""
        for known in items:
            self._count += 1
            try:
                known.check_answerable()
            except (ResultError, LocalError) as error:
                self.fail(known, error)
                continue
            if known.final is not None and (known.fetched or known.mode == "direct"):
                self.done(known)
            elif known.mode == "direct":
                self.direct.append(known)
            else:
                self.left[known.id] = known

    def reader(self, known: Known[Any]) -> Read:
        """Return what makes states of the deliveries for one of them."""
        return self._reader(known.id)

    def done(self, known: Known[Any]) -> None:
        """Note that a result was fetched."""
        self.left.pop(known.id, None)
        if self._on_done is not None:
            self._on_done(known)

    def fail(self, known: Known[Any], error: Exception) -> None:
        """Note that a result cannot be had."""
        self.errors[known.id] = error
        self.done(known)

    def late(self, timeout_seconds: float | None) -> ResultTimeout:
        """Return the error of a collection whose time ran out."""
        missing_yet = len(self.left) + sum(1 for known in self.direct if known.final is None)
        first = next(iter(self.left), None) or next((each.id for each in self.direct if each.final is None), "")
        return ResultTimeout(
            f"{missing_yet} of {self._count} tasks did not finish within {timeout_seconds or 0:g} s (the first: {first}); "
            "the others are fetched, and collecting the same results again goes on from here"
        )

    def flow(self, session: Session) -> Flow[None]:
        """Fetch what is left, on this session."""
        run = _Run(self, session)
        clean = False
        try:
            yield from run.go()
            clean = True
        finally:
            run.end(clean=clean)


class _Job:
    """One result on its way."""

    __slots__ = ("caught_up", "held", "known", "lane", "queue", "read")

    def __init__(self, known: Known[Any], read: Read) -> None:
        self.known = known
        self.queue = lifecycle.reply_queue_name(known.id)
        self.read = read
        self.lane: Lane | None = None
        """The shared channel that consumes its queue."""
        self.held: Delivery | None = None
        """The newest state, unacknowledged."""
        self.caught_up = False
        """Whether the node knew all that was declared before we asked."""


class _Run:
    """A collection on one session. What happens comes as calls through the mailbox, in the thread that collects."""

    def __init__(self, collection: Collection, session: Session) -> None:
        self._collection = collection
        self._session = session
        self._mailbox: Mailbox[Callable[[], None]] = Mailbox(session.connection.pending)
        self._todo = deque(_Job(known, collection.reader(known)) for known in collection.left.values())
        self._suspects: deque[_Job] = deque()
        self._behind: list[_Job] = []
        """Missing on a node that may not know of them yet."""
        self._catching_up = False
        self._away: QueueUnavailable | None = None
        """Why some are set aside."""
        self._asked = 0
        """Requests without an answer."""
        self._consumers = 0
        self._consuming = _Rota(session, self._lane_closed_soon)
        self._deleting = _Rota(session, None)
        self._jobs: dict[Lane, set[_Job]] = {}
        self._probing: set[Lane] = set()

    def go(self) -> Flow[None]:
        """Work until nothing is left."""
        while self._collection.left:
            while self._todo and self._consumers < WINDOW:
                self._begin(self._todo.popleft())
            while self._suspects and len(self._probing) < LANES:
                self._probe(self._suspects.popleft())
            if self._behind and not self._catching_up:
                self._catch_up()
            if self._away is not None and not self._asked:
                raise self._away
            happened = yield from self._mailbox.next()
            happened()

    def end(self, *, clean: bool) -> None:
        """Give the lanes back; where something is under way the broker requeues it."""
        for lane in (*self._consuming.lanes, *self._deleting.lanes, *self._probing):
            self._session.give(lane, clean=clean)

    def _soon(self, pending: Pending[Any], handle: Callable[..., None], *arguments: object) -> None:
        """Have `handle(*arguments, pending)` called when a request is answered."""
        put = self._mailbox.put
        self._asked += 1
        pending.add_done_callback(lambda answer: put(partial(self._heard, handle, *arguments, answer)))

    def _heard(self, handle: Callable[..., None], *arguments: object) -> None:
        self._asked -= 1
        handle(*arguments)

    # ------------------------------------------------------------------------------------------------ shared channels

    def _begin(self, job: _Job) -> None:
        if job.known.final is not None:
            self._delete(job)
            return
        lane = self._consuming.next()
        self._consumers += 1
        job.lane, job.held = lane, None
        self._jobs.setdefault(lane, set()).add(job)
        put = self._mailbox.put
        pending = lane.channel.consume(
            job.queue,
            lambda delivery: put(partial(self._delivered, job, lane, delivery)),
            prefetch=PREFETCH,
            on_cancel=lambda _: put(partial(self._cancelled, job, lane)),
        )
        self._soon(pending, self._consumed, job, lane)

    def _consumed(self, job: _Job, lane: Lane, answer: Pending[str]) -> None:
        error = answer.exception()
        if error is not None and job.lane is lane:
            self._leave(job)
            self._refused(job, error)

    def _delivered(self, job: _Job, lane: Lane, delivery: Delivery) -> None:
        if job.lane is not lane:
            return
        envelope = job.read(delivery)
        if envelope is None:
            lane.channel.reject(delivery.tag, requeue=False)
            return
        if job.held is not None:
            lane.channel.ack(job.held.tag)
        job.held = delivery
        if reading.is_final(envelope):
            job.known.final = envelope
            lane.channel.ack(delivery.tag)
            self._leave(job)
            self._delete(job)

    def _cancelled(self, job: _Job, lane: Lane) -> None:
        if job.lane is lane:
            self._leave(job)
            self._suspects.append(job)

    def _lane_closed_soon(self, lane: Lane) -> None:
        self._mailbox.put(partial(self._lane_closed, lane))

    def _lane_closed(self, lane: Lane) -> None:
        if self._session.over:
            raise ConnectionLost("the connection went away while results were collected")
        self._consuming.drop(lane)
        for job in self._jobs.pop(lane, set()):
            job.lane = None
            self._consumers -= 1
            self._suspects.append(job)

    def _leave(self, job: _Job) -> None:
        if job.lane is not None:
            self._jobs[job.lane].discard(job)
            self._consumers -= 1
            job.lane = None

    # --------------------------------------------------------------------------------------------------------- deleting

    def _delete(self, job: _Job) -> None:
        self._soon(self._deleting.next().channel.delete_queue(job.queue), self._deleted, job)

    def _deleted(self, job: _Job, answer: Pending[int]) -> None:
        error = answer.exception()
        if error is None:
            job.known.fetched = True
            self._collection.done(job.known)
        else:
            self._refused(job, error)

    # ------------------------------------------------------------------------------------------- a channel of its own

    def _probe(self, job: _Job) -> None:
        lane = self._session.take()
        self._probing.add(lane)
        self._soon(lane.channel.get(job.queue), self._probed, job, lane)

    def _probed(self, job: _Job, lane: Lane, answer: Pending[Delivery | None]) -> None:
        self._probing.discard(lane)
        error = answer.exception()
        self._session.give(lane, clean=error is None)
        if error is not None:
            self._refused(job, error)
            return
        delivery = answer.result()
        envelope = job.read(delivery) if delivery is not None else None
        if delivery is not None and envelope is not None and reading.is_final(envelope):
            job.known.final = envelope
            lane.channel.ack(delivery.tag)
        elif delivery is not None:
            lane.channel.reject(delivery.tag, requeue=envelope is not None)
        self._todo.append(job)

    # ----------------------------------------------------------------------------------------- a node that may be behind

    def _catch_up(self) -> None:
        """Have the node learn all that others have declared, and ask then for all that was missing."""
        jobs, self._behind = self._behind, []
        self._catching_up = True
        lane = self._session.take()
        self._soon(lagging.catch_up(lane.channel, jobs[0].queue), self._caught_up, jobs, lane)

    def _caught_up(self, jobs: list[_Job], lane: Lane, answer: Pending[None]) -> None:
        error = answer.exception()
        self._session.give(lane, clean=error is None)
        self._catching_up = False
        for job in jobs:
            job.caught_up = True  # or we may not ask the node for it
        self._suspects.extend(jobs)

    def _refused(self, job: _Job, error: BaseException) -> None:
        """Decide what a failed request means for its result."""
        known = job.known
        if isinstance(error, ObjectNotFound) and known.final is None and job.queue in str(error):
            if job.caught_up or not lagging.may_lag(self._session.connection):
                self._collection.fail(known, ResultNotFound(missing(known.id)))
            else:
                self._behind.append(job)
        elif isinstance(error, ConnectionLost) or self._session.over:
            raise ConnectionLost(str(error)) from error
        elif isinstance(error, QueueUnavailable) and job.queue in str(error):
            if known.final is None:
                self._away = error
            else:
                self._collection.done(known)  # the result is here; its queue goes with its x-expires
        elif isinstance(error, ChannelClosed | ObjectNotFound):
            # Of a missing queue: it is a neighbour's, since answers to basic.consume may come out of order.
            (self._suspects if known.final is None else self._todo).append(job)
        elif isinstance(error, AmqpqError):
            self._collection.fail(known, error)
        else:
            raise error


class _Rota:
    """Up to sixteen lanes, used in turn."""

    def __init__(self, session: Session, on_closed: Callable[[Lane], None] | None) -> None:
        self.lanes: list[Lane] = []
        self._session = session
        self._on_closed = on_closed
        self._turn = 0

    def next(self) -> Lane:
        """Return the lane whose turn it is."""
        self._turn += 1
        if len(self.lanes) < LANES:
            lane = self._session.take()
            if self._on_closed is not None:
                lane.watch(partial(self._on_closed, lane))
            self.lanes.append(lane)
            return lane
        place = self._turn % LANES
        if self.lanes[place].channel.closed.done() and self._on_closed is None:
            self.lanes[place] = self._session.take()
        return self.lanes[place]

    def drop(self, lane: Lane) -> None:
        """Use a lane no more."""
        if lane in self.lanes:
            self.lanes.remove(lane)
