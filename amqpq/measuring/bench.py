"""Runs the measures: two connections, queues of its own, and nothing of it left on the broker.

    bench = Bench(publishing=link, consuming=another_link, plan=Plan(seconds=10))
    figures = bench.run()

All queues are named `amqpq.bench.<random>...`; they are deleted at the end, also of a run that fails or is interrupted, and
expire by themselves where even that is not possible. Nothing else on the broker is touched.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from amqpq import log
from amqpq.errors import AccessRefused, AmqpqError, Blocked, OperationTimeout, TransportError
from amqpq.lifecycle import DIRECT_REPLY_QUEUE
from amqpq.measuring import probes, signing
from amqpq.measuring.figures import Clocks, CodecCost, Figures, Latency, Mark, Publishing, Rate, Replies, latency, rate
from amqpq.transport import flow
from amqpq.transport.interface import Connection, Flow, caught_up
from amqpq.transport.link import Link
from amqpq.types import PERSISTENT, Properties, Publication, QueueSpec

logger = logging.getLogger(log.MEASURING)

T = TypeVar("T")

MEASURES: Final = ("publish", "round-trip", "throughput", "replies", "signing")
PREFIX: Final = "amqpq.bench."
TYPES: Final = ("classic", "quorum")
REPLY_CHANNELS: Final = 16
"""From about here on the broker makes queues no faster; one channel alone makes a fifth of that."""
BATCH_MESSAGES: Final = 500
BATCH_BYTES: Final = 2**20
PATIENCE_SECONDS: Final = 30.0
"""A measure that has not ended so long after its time never will."""
FIRST_SECONDS: Final = 5.0
"""A broker that does not confirm one message in this time is blocked, or as good as that."""
NETWORK_SECONDS: Final = 2.0
"""More questions do not make the answer better."""
CONNECT_SECONDS: Final = 5.0
"""Nobody measures a broker that is harder to reach; a mistyped address is to be said soon."""
CLEAR_SECONDS: Final = 30.0
"""For a broker that has just been driven to its limit, on a machine that has other work, too."""
EXPIRES_AFTER_SECONDS: Final = 120.0
"""Queues that could not be deleted are gone so long after the last of a run's time."""
_ENVELOPE_BYTES: Final = 4096
"""More than what the codec puts around a payload."""

_WEIGHTS: Final[Mapping[str, float]] = {
    "network": 0.3, "publish": 1.2, "single": 0.6, "round-trip": 0.8, "throughput": 1.5, "queues": 1.4, "direct": 0.9,
    "signing": 0.6,
}  # fmt: skip
"""How the time is shared; of `publish`, `single` and `throughput` there is one per queue type."""
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "publish": ("publish", "single") * len(TYPES),
    "round-trip": ("round-trip",),
    "throughput": ("throughput",) * len(TYPES),
    "replies": ("queues", "direct"),
    "signing": ("signing",),
}

NEEDS: Final = (
    r"`amqpq bench` works in queues of its own: it needs configure and read on '^amqpq\.bench\.' and write on "
    r"'^(amqpq\.bench\.|amq\.default$)'. `rabbitmqctl set_permissions` replaces what the user has, so add these to it, or "
    "measure in a virtual host of its own"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and for how long in all."""

    seconds: float = 10.0
    payload_bytes: int = 200
    prefetch: int = 100
    only: tuple[str, ...] = MEASURES

    def share(self, part: str) -> float:
        """Return the seconds of one part."""
        chosen = ("network", *(part for measure in self.only for part in _PARTS[measure]))
        return self.seconds * _WEIGHTS[part] / sum(_WEIGHTS[each] for each in chosen)


class Bench:
    """One run.

    Args:
        publishing: Where to publish; the caller closes it.
        consuming: Another link to the same broker, where to consume; the caller closes it.
        plan: What to measure.
        clocks: The time; tests have their own.
        on_progress: Called with what is measured now.
    """

    def __init__(
        self,
        publishing: Link,
        consuming: Link,
        plan: Plan,
        *,
        clocks: Clocks | None = None,
        on_progress: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.plan = plan
        self.remarks: list[str] = []
        """What the reader of the figures should know; filled while it runs."""
        self.name = PREFIX + secrets.token_hex(4)
        self._publishing = publishing
        self._consuming = consuming
        self._clocks = clocks or Clocks()
        self._on_progress = on_progress
        self._queues: set[str] = set()
        self._reply_queues = 0
        self._expiry = {"x-expires": int((plan.seconds + EXPIRES_AFTER_SECONDS) * 1000)}

    def run(self) -> Figures:
        """Measure, and delete what was made for it.

        Raises:
            BrokerUnreachable, AuthenticationRefused, TlsMismatch: There is no way to the broker.
            AccessRefused: A permission is missing; says which.
            Blocked: The broker takes no messages: memory or disk alarm.
            TransportError: The broker refused something else, or went away.
        """
        connection = self._publishing.connection(CONNECT_SECONDS)
        self._consuming.connection(CONNECT_SECONDS)
        try:
            return self._measure(connection)
        except AccessRefused as error:
            raise AccessRefused(f"{error}. {NEEDS}") from error
        finally:
            self._clear()

    def _measure(self, connection: Connection) -> Figures:
        plan = self.plan
        self._on_progress("the network")
        network = self._network(connection)
        if set(plan.only) != {"signing"}:
            self._see_it_taken()
        publish: dict[str, Publishing] = {}
        throughput: dict[str, Rate] = {}
        for kind in TYPES:
            if {"publish", "throughput"}.isdisjoint(plan.only) or not self._possible(kind):
                continue
            if "publish" in plan.only:
                publish[kind] = self._publish(kind)
            if "throughput" in plan.only:
                throughput[kind] = self._throughput(kind)
        return Figures(
            network=network,
            publish=publish,
            throughput=throughput,
            round_trip=self._round_trip() if "round-trip" in plan.only else None,
            replies=self._replies() if "replies" in plan.only else None,
            signing=self._signing() if "signing" in plan.only else {},
        )

    # ------------------------------------------------------------------------------------------------------ measures

    def _network(self, connection: Connection) -> Latency:
        channel = connection.channel()
        once = partial(probes.asked, partial(caught_up, channel))
        seconds = min(self.plan.share("network"), NETWORK_SECONDS)
        return latency(self._run(probes.repeated(once, self._clocks, seconds), "the network"))

    def _see_it_taken(self) -> None:
        """Publish one message: a broker under an alarm says so only to those who publish, and answers them nothing."""
        with self._queue("first", "classic") as queue:
            channel = self._publishing.channel(CONNECT_SECONDS)
            first = probes.confirmed(channel.publish([self._message(queue, 0)]))
            self._run(first, "the confirm of the first message", FIRST_SECONDS)

    def _possible(self, kind: str) -> bool:
        """Whether queues of this type may be made; what forbids classic ones forbids everything."""
        try:
            with self._queue(kind, kind):
                return True
        except AccessRefused:
            raise
        except TransportError as error:
            if kind == "classic" or self._publishing.connection(CONNECT_SECONDS).closed.done():
                raise
            self.remarks.append(f"nothing was measured on {kind} queues, the broker makes none here: {error}")
            return False

    def _publish(self, kind: str) -> Publishing:
        share, clocks = self.plan.share, self._clocks
        with self._queue(kind, kind) as queue:
            channel = self._publishing.channel(CONNECT_SECONDS)
            what = f"publishing to a {kind} queue"
            self._on_progress(what)
            batch = rate(
                self._run(probes.publish_batches(channel, queue, self._batch(queue), clocks, share("publish")), what)
            )
            self._on_progress(f"{what}, one at a time")
            one = self._message(queue, 0)
            single = latency(self._run(probes.publish_singly(channel, queue, one, clocks, share("single")), what))
        return Publishing(batch, single)

    def _throughput(self, kind: str) -> Rate:
        what = f"publishing and consuming a {kind} queue"
        self._on_progress(what)
        with self._queue(kind, kind) as queue:
            return self._through(queue, what)

    def _through(self, queue: str, what: str) -> Rate:
        connection = self._consuming.connection(CONNECT_SECONDS)
        consumer = connection.channel()
        intake = probes.Intake(consumer, connection, acknowledge=True)
        batch = self._batch(queue)

        def both() -> Flow[Sequence[Mark]]:
            yield intake.consume(queue, self.plan.prefetch)
            publisher = self._publishing.channel(CONNECT_SECONDS)
            seconds = self.plan.share("throughput")
            return (yield from probes.through(publisher, intake, batch, self._ahead(batch), self._clocks, seconds))

        marks = self._run(both(), what)
        consumer.close()
        return rate(marks)

    def _round_trip(self) -> Latency:
        what = "calls with direct replies, one at a time"
        self._on_progress(what)
        with self._served() as queue:
            call = self._message(queue, 0, reply_to=DIRECT_REPLY_QUEUE)
            connection = self._publishing.connection(CONNECT_SECONDS)

            def calls() -> Flow[Sequence[float]]:
                channel, intake = yield from probes.listen(connection)
                once = partial(probes.call_once, channel, intake, call)
                try:
                    return (yield from probes.repeated(once, self._clocks, self.plan.share("round-trip")))
                finally:
                    channel.close()

            return latency(self._run(calls(), what))

    def _replies(self) -> Replies:
        connection = self._publishing.connection(CONNECT_SECONDS)
        what = "a reply queue per task"
        self._on_progress(what)
        channels = [connection.channel() for _ in range(REPLY_CHANNELS)]
        lives = probes.queue_lives(
            connection, channels, self._new_reply_queues, self._message("", 0), self._clocks, self.plan.share("queues")
        )
        queue_per_task = rate(self._run(lives, what))
        for channel in channels:
            channel.close()
        self._forget_reply_queues()
        what = "direct replies"
        self._on_progress(what)
        with self._served() as queue:
            batch = self._batch(queue, reply_to=DIRECT_REPLY_QUEUE)

            def calls() -> Flow[Sequence[Mark]]:
                channel, intake = yield from probes.listen(connection)
                seconds = self.plan.share("direct")
                try:
                    return (
                        yield from probes.through(channel, intake, batch, self._ahead(batch), self._clocks, seconds)
                    )
                finally:
                    channel.close()

            direct = rate(self._run(calls(), what))
        return Replies(queue_per_task, direct)

    def _signing(self) -> Mapping[str, CodecCost]:
        self._on_progress("signing")
        payload = bytes(self.plan.payload_bytes)
        return dict(signing.costs(payload, len(payload) + _ENVELOPE_BYTES, self._clocks, self.plan.share("signing")))

    # ---------------------------------------------------------------------------------------------- queues, messages

    @contextmanager
    def _queue(self, name: str, kind: str) -> Iterator[str]:
        """Make a queue for one measure, on a channel of its own, which the broker closes with a refusal."""
        full = f"{self.name}.{name}"
        channel = self._publishing.connection(CONNECT_SECONDS).channel()
        self._queues.add(full)
        spec = QueueSpec(full, arguments={"x-queue-type": kind, **self._expiry})
        self._run(probes.asked(partial(channel.declare_queue, spec)), f"making the queue {full}")
        yield full
        self._run(probes.delete(channel, {full}), f"deleting the queue {full}")
        self._queues.discard(full)
        channel.close()

    @contextmanager
    def _served(self) -> Iterator[str]:
        """Make a queue whose messages are calls, and answer them on the consuming connection."""
        with self._queue("calls", "classic") as queue:
            served = probes.serve(self._consuming.connection(CONNECT_SECONDS), queue, self.plan.prefetch)
            self._run(served, "a consumer for calls")
            yield queue

    def _new_reply_queues(self, count: int) -> list[QueueSpec]:
        first = self._reply_queues
        self._reply_queues += count
        self._forget_reply_queues()  # those of the round before are deleted
        names = [f"{self.name}.r{number}" for number in range(first, first + count)]
        self._queues.update(names)
        return [QueueSpec(name, arguments={"x-queue-type": "classic", **self._expiry}) for name in names]

    def _forget_reply_queues(self) -> None:
        self._queues = {name for name in self._queues if not name.startswith(f"{self.name}.r")}

    def _batch(self, queue: str, *, reply_to: str | None = None) -> list[Publication]:
        fitting = BATCH_BYTES // max(self.plan.payload_bytes, 1)
        count = max(min(BATCH_MESSAGES, fitting), 1)
        return [self._message(queue, number, reply_to=reply_to) for number in range(count)]

    def _ahead(self, batch: Sequence[Publication]) -> int:
        """Return how many messages may wait on the broker: enough to keep both sides busy, and no more bytes than it can bear."""
        return min(max(2 * len(batch), 4 * self.plan.prefetch), probes.most_held(batch))

    def _message(self, queue: str, number: int, *, reply_to: str | None = None) -> Publication:
        """Return a message with the properties and headers that a task has."""
        task_id = f"{self.name}.{number:05}"
        headers = {"lang": "py", "task": "bench.noop", "id": task_id, "retries": 0}
        properties = Properties(
            content_type="application/x-msgpack",
            content_encoding="binary",
            headers=headers,
            delivery_mode=PERSISTENT,
            correlation_id=task_id,
            reply_to=reply_to,
            message_id=task_id,
        )
        return Publication("", queue, bytes(self.plan.payload_bytes), properties)

    # --------------------------------------------------------------------------------------------------- the broker

    def _run(self, measure: Flow[T], what: str, deadline_seconds: float | None = None) -> T:
        deadline_seconds = deadline_seconds or self.plan.seconds + PATIENCE_SECONDS
        try:
            return flow.run(measure, deadline_seconds)
        except OperationTimeout as error:
            for link in (self._publishing, self._consuming):
                blocked = link.connection(CONNECT_SECONDS).blocked
                if blocked is not None:
                    raise Blocked(
                        f"the broker takes no messages at the moment: {blocked}; free memory or disk on it "
                        "(`rabbitmqctl status` shows the alarms), then measure again"
                    ) from error
            raise OperationTimeout(f"{what}: not within {deadline_seconds:g} s, the broker does not answer") from error

    def _clear(self) -> None:
        """Delete what is left, on the connection that consumes: under an alarm the broker reads nothing of one that published."""
        if not self._queues:
            return
        try:
            channel = self._consuming.connection(CLEAR_SECONDS).channel()
            flow.run(probes.delete(channel, self._queues), CLEAR_SECONDS)
        except AmqpqError as error:
            seconds = self._expiry["x-expires"] / 1000
            logger.warning("queues named %s* could not be deleted, they expire in %g s: %s", self.name, seconds, error)
        else:
            self._queues.clear()
