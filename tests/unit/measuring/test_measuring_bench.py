"""A whole run on the in-memory broker, with clocks of the test's own: what it leaves, and how it ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqpq import log
from amqpq.errors import AccessRefused, Blocked, ChannelClosed, Nacked, PreconditionFailed, TransportError, Unroutable
from amqpq.measuring import bench as benches
from amqpq.measuring import probes
from amqpq.measuring.bench import MEASURES, PREFIX, Bench, Plan
from amqpq.measuring.figures import Clocks
from amqpq.testing.memory import MemoryBroker, memory_link
from amqpq.transport import flow
from amqpq.transport.interface import Flow, caught_up
from amqpq.types import Fate, Outcome, Properties, Publication, QueueSpec

SHORT = Plan(seconds=1.0, payload_bytes=20, prefetch=10)


def ticking() -> Clocks:
    """Clocks that advance each time somebody looks: a measure ends after some steps, however long they take."""
    wall, cpu = itertools.count(), itertools.count()
    return Clocks(lambda: next(wall) / 50, lambda: next(cpu) / 1000)


Make = Callable[..., Bench]


@pytest.fixture
def broker() -> MemoryBroker:
    """An empty in-memory broker."""
    return MemoryBroker()


@pytest.fixture
def make(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """`make(plan, ...)` is a run that has not begun; its batches are small."""
    monkeypatch.setattr(benches, "BATCH_MESSAGES", 20)
    links = [memory_link(broker), memory_link(broker)]

    def bench(plan: Plan = SHORT, **options: Any) -> Bench:
        return Bench(links[0], links[1], plan, clocks=ticking(), **options)

    yield bench
    for link in links:
        link.close()


def test_a_run_measures_everything_and_leaves_nothing(make: Make, broker: MemoryBroker) -> None:
    """All figures are there, and no queue is left on the broker."""
    figures = make().run()
    assert set(figures.publish) == set(figures.throughput) == {"classic", "quorum"}
    assert figures.round_trip is not None
    assert figures.replies is not None
    assert set(figures.signing) == {"off", "hmac-sha256", "ed25519"}
    assert figures.replies.queue_per_task.messages >= 1
    assert broker.queues() == {}


@pytest.mark.parametrize("measure", MEASURES)
def test_one_measure_alone(measure: str, make: Make, broker: MemoryBroker) -> None:
    """`--only` runs what it names, which takes the whole time, and nothing else."""
    figures = make(Plan(1.0, 20, 10, (measure,))).run()
    there = {
        "publish": bool(figures.publish),
        "round-trip": figures.round_trip is not None,
        "throughput": bool(figures.throughput),
        "replies": figures.replies is not None,
        "signing": bool(figures.signing),
    }
    assert [name for name, found in there.items() if found] == [measure]
    assert broker.queues() == {}


def test_the_time_is_shared_out_whatever_is_measured() -> None:
    """The parts of a run add up to its seconds."""
    parts = {
        "publish": 2,
        "single": 2,
        "throughput": 2,
        "network": 1,
        "round-trip": 1,
        "queues": 1,
        "direct": 1,
        "signing": 1,
    }
    assert sum(count * Plan(10.0).share(part) for part, count in parts.items()) == pytest.approx(10.0)
    alone = Plan(10.0, only=("throughput",))
    assert alone.share("network") + 2 * alone.share("throughput") == pytest.approx(10.0)


@pytest.mark.parametrize("moment", ["publishing to a quorum queue", "a reply queue per task", "direct replies"])
def test_an_interrupted_run_leaves_nothing(moment: str, make: Make, broker: MemoryBroker) -> None:
    """^C in the middle of a measure, with queues on the broker, deletes them."""
    seen: list[set[str]] = []

    def interrupt(what: str) -> None:
        if what == moment:
            seen.append(set(broker.queues()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(on_progress=interrupt).run()
    assert len(seen) == 1
    assert broker.queues() == {}


def test_an_interrupt_among_reply_queues_leaves_none(
    make: Make, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are known by name before they are declared."""

    def cut_off(*arguments: Any) -> Any:
        connection, channels, specs = arguments[:3]
        del connection
        (spec,) = specs(1)
        yield channels[0].declare_queue(spec)
        assert list(broker.queues()) == [spec.name]
        raise KeyboardInterrupt

    monkeypatch.setattr(probes, "queue_lives", cut_off)
    with pytest.raises(KeyboardInterrupt):
        make(Plan(1.0, 20, 10, ("replies",))).run()
    assert broker.queues() == {}


def test_queues_of_others_are_left_alone(make: Make, broker: MemoryBroker) -> None:
    """Also one whose name begins the same: it may be of another run."""
    connection = broker.connect()
    other = QueueSpec(f"{PREFIX}other")
    flow.run(probes.asked(lambda: connection.channel().declare_queue(other)), 5.0)
    make().run()
    assert list(broker.queues()) == [other.name]


def test_queues_expire_where_nobody_can_delete_them(make: Make, broker: MemoryBroker) -> None:
    """A run that is killed leaves queues for some minutes and not for ever."""
    run = make()
    with run._queue("first", "classic"):
        assert len(broker.queues()) == 1
        broker.advance(SHORT.seconds + benches.EXPIRES_AFTER_SECONDS + 1)
        assert broker.queues() == {}


def test_what_cannot_be_deleted_is_said(
    make: Make, broker: MemoryBroker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the broker goes away in the middle, the log says what is left and for how long."""

    def stop(what: str) -> None:
        if what.startswith("publishing"):
            broker.stop()

    monkeypatch.setattr(benches, "CLEAR_SECONDS", 0.05)
    monkeypatch.setattr(benches, "CONNECT_SECONDS", 0.05)
    run = make(on_progress=stop)
    with pytest.raises(TransportError):
        run.run()
    (said,) = [record.getMessage() for record in caplog.records if record.name == log.MEASURING]
    assert said.startswith(f"queues named {run.name}* could not be deleted, they expire in 121 s: ")


def test_a_broker_under_an_alarm_is_named_and_not_waited_for(
    make: Make, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers no publish; the error has its reason and the remedy."""
    monkeypatch.setattr(benches, "FIRST_SECONDS", 0.05)
    broker.block("low on disk space")
    with pytest.raises(Blocked, match=r"low on disk space; free memory or disk on it"):
        make().run()
    assert broker.queues() == {}
    broker.unblock()


def test_a_missing_permission_says_what_is_needed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's words, then the three patterns."""

    def refuse(*_: object) -> Any:
        raise AccessRefused("access to queue 'amqpq.bench.x' in vhost '/' refused for user 'me'")

    monkeypatch.setattr(Bench, "_see_it_taken", refuse)
    with pytest.raises(
        AccessRefused, match=r"refused for user 'me'. `amqpq bench` works in queues of its own: it needs conf"
    ):
        make().run()


def test_a_broker_without_quorum_queues_is_measured_without(
    make: Make, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it refuses is a remark, and the classic figures stand."""
    declared = Bench._run

    def refuse_quorum(self: Bench, measure: Any, what: str, *more: Any) -> Any:
        if what.startswith("making the queue") and what.endswith(".quorum"):
            raise PreconditionFailed("queue type 'quorum' is not allowed here")
        return declared(self, measure, what, *more)

    monkeypatch.setattr(Bench, "_run", refuse_quorum)
    run = make()
    figures = run.run()
    assert set(figures.publish) == set(figures.throughput) == {"classic"}
    (remark,) = run.remarks
    assert remark.startswith("nothing was measured on quorum queues, the broker makes none here: queue type 'quorum'")
    assert broker.queues() == {}


# --------------------------------------------------------------------------------------------------------------- probes


def test_a_measure_without_a_consumer_does_not_fill_the_broker(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is emptied on the way, and what was published is counted all the same."""
    monkeypatch.setattr(probes, "HELD_MESSAGES", 1000)
    links = memory_link(broker), memory_link(broker)
    run = Bench(*links, Plan(1.0, 20, 10, ("publish",)), clocks=ticking())
    deepest = 0
    with run._queue("classic", "classic") as queue:
        channel = links[0].channel(5.0)
        batch = run._batch(queue)
        measure = probes.publish_batches(channel, queue, batch, ticking(), 1.0)
        pending = next(measure)
        marks = []
        while True:
            flow.run(probes.asked(lambda pending=pending: pending), 5.0)  # type: ignore[misc]
            deepest = max(deepest, broker.queues()[queue].messages)
            try:
                pending = measure.send(pending.result())
            except StopIteration as stop:
                marks = stop.value
                break
    assert marks[-1].messages > 2000
    assert 0 < deepest <= 2000
    for link in links:
        link.close()


@pytest.mark.parametrize("measure", ["publish", "throughput", "replies"])
def test_large_messages_do_not_fill_the_broker(measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many may be under way, they are no more bytes than the broker can bear; it would block its publishers here."""
    monkeypatch.setattr(probes, "HELD_BYTES", 100_000)
    monkeypatch.setattr(benches, "BATCH_BYTES", 40_000)
    small = MemoryBroker(memory_limit_bytes=400_000)
    links = memory_link(small), memory_link(small)
    figures = Bench(*links, Plan(1.0, 20_000, 100, (measure,)), clocks=ticking()).run()
    assert figures.publish or figures.throughput or figures.replies
    for link in links:
        link.close()


def test_one_message_at_a_time_does_not_fill_the_broker_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of it would be gigabytes; the queue is emptied on the way, untimed."""
    monkeypatch.setattr(probes, "HELD_BYTES", 100_000)
    small = MemoryBroker(memory_limit_bytes=400_000)
    connection = small.connect()
    channel = connection.channel()
    message = Publication("", "amqpq.bench.x", bytes(20_000), Properties())

    def measure() -> Flow[list[float]]:
        yield channel.declare_queue(QueueSpec("amqpq.bench.x"))
        return (yield from probes.publish_singly(channel, "amqpq.bench.x", message, ticking(), 3.0))

    assert len(flow.run(measure(), 5.0)) >= 40
    assert small.queues()["amqpq.bench.x"].messages <= 5 + probes.WARM_UP


@pytest.mark.parametrize(("payload_bytes", "ahead"), [(200, 1000), (10_000, 400), (2**20, 32), (16 * 2**20, 2)])
def test_the_backlog_is_bounded_in_bytes(
    payload_bytes: int, ahead: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches or four times the prefetch may wait, but no more than 32 MiB."""
    monkeypatch.setattr(benches, "BATCH_MESSAGES", 500)
    run = make(Plan(10.0, payload_bytes))
    assert run._ahead(run._batch("amqpq.bench.x")) == ahead


@pytest.mark.parametrize(
    ("fate", "reason", "kind"),
    [
        (Fate.RETURNED, "312 NO_ROUTE", Unroutable),
        (Fate.NACKED, "basic.nack", Nacked),
        (Fate.NACKED, "ACCESS_REFUSED - access to exchange 'amq.default'", AccessRefused),
    ],
    ids=["returned", "refused", "forbidden"],
)
def test_a_message_that_was_not_taken_ends_the_measure(
    fate: Fate, reason: str, kind: type[Exception], broker: MemoryBroker
) -> None:
    """A rate of messages that went nowhere would be a lie."""
    pending = broker.connect().pending()
    pending.set_result([Outcome(Fate.CONFIRMED), Outcome(fate, reason)])
    with pytest.raises(kind, match=reason):
        flow.run(probes.confirmed(pending), 5.0)


def test_the_last_delivery_is_marked_also_when_nobody_waited_for_it(broker: MemoryBroker) -> None:
    """A consumer that is quicker than the flow that asks for it has a rate, too."""
    connection = broker.connect()
    channel = connection.channel()
    intake = probes.Intake(channel, connection, acknowledge=True)
    watch = probes.Stopwatch(ticking())
    message = Publication("", "amqpq.bench.x", b"", Properties())

    def three() -> Flow[None]:
        yield channel.declare_queue(QueueSpec("amqpq.bench.x"))
        yield intake.consume("amqpq.bench.x", 10)
        intake.start(watch)
        for expected in (1, 2, 3):
            yield from probes.confirmed(channel.publish([message]))
            while intake.count < expected:
                yield from probes.asked(lambda: caught_up(channel))

    flow.run(three(), 5.0)
    assert [mark.messages for mark in watch.marks] == [0]
    intake.stop()
    assert [mark.messages for mark in watch.marks] == [0, 3]
    flow.run(intake.reached(3), 5.0)
    intake.stop()
    assert len(watch.marks) == 2


def test_a_queue_that_somebody_deletes_ends_the_measure(broker: MemoryBroker) -> None:
    """Whoever waits for deliveries is told, and does not wait for ever."""
    connection = broker.connect()
    channel = connection.channel()
    intake = probes.Intake(channel, connection, acknowledge=True)

    def waiting() -> Flow[None]:
        yield channel.declare_queue(QueueSpec("amqpq.bench.x"))
        yield intake.consume("amqpq.bench.x", 10)
        yield connection.channel().delete_queue("amqpq.bench.x")
        yield from intake.reached(1)

    with pytest.raises(ChannelClosed, match="deleted by somebody"):
        flow.run(waiting(), 5.0)
