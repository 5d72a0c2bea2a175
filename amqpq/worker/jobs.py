"""The deliveries that this worker answers for: from arrival until the broker has heard how they ended.

Each is a `Job`. Its number is ours and never used twice; its delivery tag belongs to the tap it came from and dies with it.

Handing over. When a connection is lost, the broker requeues what we hold and delivers it again, often to us, while its task
still runs here. So a job outlives its tap (it is then an *orphan*), and a redelivery of the same message is given to the job
that already runs it, instead of running it twice. A job that ended while nobody could be told is remembered for a while, and
so are those acknowledged just before the end, since the broker may not have read that: their redelivery is acknowledged and
not run. The same message means: the same queue, id, signature and body, and marked as redelivered by the broker, or as a suspect
by a worker that had it in between (see `suspects`). It does not help against a redelivery to another worker; a task under late
acknowledgement has to bear that.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from amqpq.consumer import Tap
from amqpq.message.canonical import UNENCODABLE, task_bytes, user_headers
from amqpq.message.wire import REQUEUES, RETRIES, SIGNATURE, SIGNED_AT
from amqpq.types import Delivery
from amqpq.worker.deadletter import CRASHES, NO_SUSPICION, SUSPICIONS, Suspicion, crashes_of, suspicion_of
from amqpq.worker.settle import End, Step
from amqpq.worker.work import Finished, Remains, Work

DOUBTFUL_SECONDS: Final = 300.0
"""How long the end of a job is remembered whose acknowledgement may not have arrived."""
DOUBTFUL_COUNT: Final = 8_192
"""How many such ends are remembered, the latest: what sixteen queues leave behind at once, in 2 MB."""
RECENT_SECONDS: Final = 10.0
"""Acknowledgements younger than this when the connection ends may not have been read by the broker."""
RECENT_COUNT: Final = 512
"""How many of those are remembered; more cannot be on their way at once with any sensible prefetch."""

Print: TypeAlias = tuple[str, str, int | None, int | None, int | None, int | None]
"""What makes two deliveries the same message here: queue, identity, how many children it has killed, how often it was marked
as a suspect, sent back from the dead letters, and tried again: the next attempt is not a redelivery of this one."""


Message: TypeAlias = tuple[str, str, int | None, int | None, int | None]
"""A `Print` without the marks of a suspect: the same message, through whichever workers it went meanwhile."""


def signed_identity(delivery: Delivery) -> tuple[int, str] | None:
    """Return when a delivery was signed, and a digest of its signature with all that is under it; None for an unsigned one.

    The loop asks before the pool has checked the signature. An altered copy has an identity of its own, so that whoever
    publishes one first cannot make the genuine message look like a replay.
    """
    headers = delivery.properties.headers
    signed_at, signature = headers.get(SIGNED_AT), headers.get(SIGNATURE)
    if not isinstance(signed_at, int) or not isinstance(signature, str):
        return None
    try:
        covered = task_bytes(delivery.properties, user_headers(headers), delivery.body)
    except UNENCODABLE:
        return None  # nothing that a signature can cover: the pool refuses it
    # Not BLAKE2b, which is twice as slow where the processor knows SHA-256: it shows with large bodies.
    return signed_at, hashlib.sha256(covered).hexdigest() + signature


def unsigned_identity(delivery: Delivery) -> str:
    """Return the best there is for an unsigned message: id, time of publishing, body."""
    properties = delivery.properties
    digest = hashlib.sha256(delivery.body).hexdigest()
    return f"{properties.headers.get('id')} {properties.timestamp} {digest}"


@dataclass(slots=True, eq=False)
class Job:
    """One delivery and what is being done about it. `tap` is None once its connection is gone."""

    number: int
    delivery: Delivery
    queue: str
    tap: Tap | None
    identity: str
    signed: tuple[int, str] | None
    """Its `signed_identity`; nobody has checked that signature yet."""
    id: str
    task: str
    crashes: int
    suspicion: Suspicion = NO_SUSPICION
    limits: tuple[float | None, float | None] | None = None
    """Hard and soft, that remote control had set for the task when it came."""
    copy_suspicion: Suspicion = NO_SUSPICION
    """Of the copy that goes to its queue, where one does."""
    asked_settled: bool = False
    """The broker was asked whether it has read the acknowledgement."""
    finished: Finished | None = None
    end: End | None = None
    steps: tuple[Step, ...] = ()
    """What is still to be confirmed before the end."""
    copied: bool = False
    """A copy of it went back to its queue; that copy looks the same and must run."""
    under_way: frozenset[Step] = frozenset()
    """Those of them that are published and not yet answered, or wait for another try."""
    remains: Remains | None = None
    """Of the last child that it has killed."""
    failures: int = 0
    """Publications in a row that the broker did not take."""
    orphaned_at: float = 0.0
    """When its connection was lost, in monotonic seconds."""

    @property
    def print(self) -> Print:
        """What a redelivery of the same message has in common with it."""
        return (self.queue, self.identity, *_marks(self.delivery))

    @property
    def message(self) -> Message:
        """What it has in common with the copies that other workers make of a suspect."""
        return _message(self.print)

    def work(self) -> Work:
        """Return what a pool needs of it."""
        delivery = self.delivery
        return Work(
            self.number,
            self.queue,
            delivery.body,
            delivery.properties,
            delivery.exchange,
            delivery.routing_key,
            delivery.redelivered,
            self.crashes > 0 or self.suspicion.count > 0,
            self.limits,
        )


class Jobs:
    """All jobs, by number, and the memory of those that ended in doubt.

    Args:
        monotonic: Seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.time_limits: dict[str, tuple[float | None, float | None]] = {}
        """What remote control has set, hard and soft, by task. The name in a message is believed only once its signature is
        checked; until then it chooses a limit, and nothing runs."""
        self._jobs: dict[int, Job] = {}
        self._last_number = 0
        self._orphans: dict[Print, Job] = {}
        self._orphans_by_message: dict[Message, Job] = {}
        self._recent: dict[Tap, deque[tuple[float, Message]]] = {}
        self._doubtful: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        """How many are not ended."""
        return len(self._jobs)

    @property
    def unfinished(self) -> int:
        """How many run or wait for their turn."""
        return sum(job.finished is None for job in self._jobs.values())

    def __repr__(self) -> str:
        """Show the counts."""
        return f"<{len(self._jobs)} jobs, {len(self._orphans)} orphans, {len(self._doubtful)} ended in doubt>"

    def all(self) -> list[Job]:
        """Return those that are not ended, oldest first."""
        return list(self._jobs.values())

    def get(self, number: int) -> Job | None:
        """Return the job of that number, if it is not ended."""
        return self._jobs.get(number)

    def open(self, tap: Tap, delivery: Delivery) -> Job:
        """Make a job of a delivery."""
        self._last_number += 1
        properties = delivery.properties
        headers = properties.headers
        signed = signed_identity(delivery)
        task = str(headers.get("task") or "")
        job = Job(
            self._last_number,
            delivery,
            tap.queue,
            tap,
            signed[1] if signed is not None else unsigned_identity(delivery),
            signed,
            str(headers.get("id") or properties.correlation_id or ""),
            task,
            crashes_of(properties),
            suspicion_of(properties),
            self.time_limits.get(task),
        )
        self._jobs[job.number] = job
        return job

    def adopt(self, tap: Tap, delivery: Delivery) -> Job | None:
        """Give a delivery that came again to the orphan that runs the same message; None where there is none.

        A job that is being replaced by a copy adopts nothing but itself: the copy must run.
        """
        if not self._orphans:
            return None
        fingerprint = _print(tap, delivery)
        job = self._orphans.get(fingerprint)
        if job is None:
            job = self._orphans_by_message.get(_message(fingerprint))
            if job is None or job.copied:
                return None
        self._forget_orphan(job)
        job.tap = tap
        job.delivery = delivery
        job.suspicion = suspicion_of(delivery.properties)
        return job

    def ended_before(self, tap: Tap, delivery: Delivery) -> bool:
        """Whether this is a job that ended here, come again because its acknowledgement was lost. True once per end."""
        doubtful = self._doubtful
        if not doubtful:
            return False
        since = doubtful.pop(_digest(_message(_print(tap, delivery))), None)
        return since is not None and self._monotonic() - since < DOUBTFUL_SECONDS

    def close(self, job: Job) -> None:
        """Forget a job that has ended; remember how, where its acknowledgement may not arrive."""
        self._jobs.pop(job.number, None)
        if job.end is not End.ACK or job.copied:
            self._forget_orphan(job)
            return
        tap = job.tap
        if tap is None:
            self._forget_orphan(job)
            self._doubt(job.message)
            return
        recent = self._recent.get(tap)
        if recent is None:
            recent = self._recent[tap] = deque(maxlen=RECENT_COUNT)
        recent.append((self._monotonic(), job.message))

    def forget(self, job: Job) -> None:
        """Drop a job without an end: it goes back to the broker, or is there already."""
        self._jobs.pop(job.number, None)
        self._forget_orphan(job)

    def orphan(self, tap: Tap) -> list[Job]:
        """Note that a tap is gone; return the jobs that came from it, now without one."""
        now = self._monotonic()
        for job in [job for job in self._orphans.values() if self._is_given_up(job, now)]:
            self.forget(job)
        jobs = [job for job in self._jobs.values() if job.tap is tap]
        for job in jobs:
            job.tap = None
            job.orphaned_at = now
            self._orphans[job.print] = job
            if not job.copied:
                self._orphans_by_message[job.message] = job
        for when, message in self._recent.pop(tap, ()):
            if now - when < RECENT_SECONDS:
                self._doubt(message)
        return jobs

    @staticmethod
    def _is_given_up(job: Job, now: float) -> bool:
        """Whether it has only waited for its redelivery, and for so long that another worker must have got that."""
        return job.finished is not None and not job.under_way and now - job.orphaned_at > DOUBTFUL_SECONDS

    def _doubt(self, message: Message) -> None:
        now, doubtful = self._monotonic(), self._doubtful
        digest = _digest(message)
        doubtful[digest] = now
        doubtful.move_to_end(digest)
        while len(doubtful) > DOUBTFUL_COUNT or now - next(iter(doubtful.values())) > DOUBTFUL_SECONDS:
            doubtful.popitem(last=False)

    def _forget_orphan(self, job: Job) -> None:
        if job.tap is None and self._orphans:
            fingerprint, message = job.print, job.message
            if self._orphans.get(fingerprint) is job:
                del self._orphans[fingerprint]
            if self._orphans_by_message.get(message) is job:
                del self._orphans_by_message[message]


def _digest(message: Message) -> bytes:
    return hashlib.blake2b(repr(message).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _message(fingerprint: Print) -> Message:
    queue, identity, crashes, _suspicions, requeues, retries = fingerprint
    return queue, identity, crashes, requeues, retries


def _print(tap: Tap, delivery: Delivery) -> Print:
    signed = signed_identity(delivery)
    identity = signed[1] if signed is not None else unsigned_identity(delivery)
    return (tap.queue, identity, *_marks(delivery))


def _marks(delivery: Delivery) -> tuple[int | None, int | None, int | None, int | None]:
    headers = delivery.properties.headers
    if _COUNTS.isdisjoint(headers):  # mostly
        return _NO_MARKS
    get = headers.get
    return _hashable(get(CRASHES)), _hashable(get(SUSPICIONS)), _hashable(get(REQUEUES)), _hashable(get(RETRIES))


_COUNTS: Final = frozenset({CRASHES, SUSPICIONS, REQUEUES, RETRIES})
_NO_MARKS: Final = (None, None, None, None)


def _hashable(count: object) -> int | None:
    """Nobody signs a count: it may be a table."""
    return count if isinstance(count, int) else None
