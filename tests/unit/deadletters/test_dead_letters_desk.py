"""The desk at work on the in-memory broker: nothing lost, nothing doubled, everything in its place."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from amqpq.clock import ManualClock
from amqpq.deadletters import returning
from amqpq.deadletters.choosing import Choice
from amqpq.deadletters.desk import Bounds, Desk, Sending, Source, Tally
from amqpq.deadletters.planning import Return
from amqpq.errors import ChannelClosed, ConnectionLost, LocalError, ObjectNotFound, ResourceLocked
from amqpq.testing.memory import MemoryBroker
from amqpq.testing.memory.channel import MemoryChannel
from amqpq.topology.generations import NOTHING_MOVED, Home
from amqpq.transport import register
from amqpq.transport.interface import Channel
from amqpq.types import Properties, Publication, QueueSpec
from tests.support.lab import answer

DEAD = Source("dead")
ALL = Choice()
BACK = Sending(Return({"default", "orders"}))


def park(channel: Channel, numbers: Sequence[int], **headers: Any) -> None:
    """Put dead letters into the queue, as a worker would."""
    answer(
        channel.publish(
            [
                Publication(
                    "",
                    "dead",
                    b"%d" % number,
                    Properties(
                        headers={
                            "id": str(number),
                            "task": "shop.even" if number % 2 == 0 else "shop.odd",
                            "amqpq-cause": "failed",
                            "amqpq-queue": "default",
                            **headers,
                        }
                    ),
                )
                for number in numbers
            ]
        )
    )


def filled(count: int) -> MemoryBroker:
    """Return a broker with so many dead letters."""
    made = MemoryBroker()
    channel = made.connect().channel()
    for name in ("dead", "default", "orders"):
        answer(channel.declare_queue(QueueSpec(name)))
    park(channel, range(count))
    return made


@pytest.fixture
def broker() -> MemoryBroker:
    """A broker with a hundred dead letters."""
    return filled(100)


def bodies(broker: MemoryBroker, queue: str) -> list[int]:
    """What a queue holds, in its order."""
    return [int(delivery.body) for delivery in broker.messages(queue)]


@pytest.mark.parametrize("bounds", [Bounds(), Bounds(limit=3), Bounds(scan=40), Bounds(limit=1, scan=2)])
def test_looking_leaves_everything_in_its_place(broker: MemoryBroker, bounds: Bounds) -> None:
    """Whatever was looked at, the queue holds the same in the same order."""
    looked = Desk(broker.connect()).look(DEAD, Choice(tasks=("shop.odd",)), bounds)
    assert all(letter.task == "shop.odd" for letter in looked.letters)
    assert looked.letters
    assert bodies(broker, "dead") == list(range(100))


def test_a_look_is_bounded_and_says_so(broker: MemoryBroker) -> None:
    """No more rows than asked for, no more messages looked at than allowed."""
    desk = Desk(broker.connect())
    assert len(desk.look(DEAD, ALL, Bounds(limit=7)).letters) == 7
    scanned = desk.look(DEAD, ALL, Bounds(scan=40))
    assert (len(scanned.letters), scanned.seen, scanned.ready, scanned.complete) == (40, 40, 100, False)
    assert desk.look(DEAD, ALL, Bounds()).complete


def test_a_missing_queue_is_named(broker: MemoryBroker) -> None:
    """It is an error of the person who named it."""
    with pytest.raises(ObjectNotFound, match="nowhere"):
        Desk(broker.connect()).look(Source("nowhere"), ALL, Bounds())


def test_looking_stops_before_it_costs_a_message(broker: MemoryBroker) -> None:
    """A message that a quorum queue has handed out too often is left alone."""
    channel = broker.connect().channel()
    park(channel, [100], **{"x-delivery-count": 15})
    desk = Desk(broker.connect())
    with pytest.raises(LocalError, match="handed out 15 times"):
        desk.look(Source("dead", look_limit=15), ALL, Bounds())
    tally = Tally()
    desk.send_back(Source("dead", look_limit=15), ALL, BACK, tally)  # it leaves the queue
    assert tally.sent_count == 101


def test_what_is_sent_back_leaves_and_the_rest_stays_in_order(broker: MemoryBroker) -> None:
    """The chosen ones are in their queue, once each and in order; the others are dead letters as before."""
    tally = Tally()
    Desk(broker.connect()).send_back(DEAD, Choice(tasks=("shop.even",)), BACK, tally)
    assert bodies(broker, "default") == list(range(0, 100, 2))
    assert bodies(broker, "dead") == list(range(1, 100, 2))
    assert (tally.sent, tally.seen) == ({"default": 50}, 100)


def test_what_comes_back_at_once_is_not_sent_again(broker: MemoryBroker) -> None:
    """Only what was there at the beginning is looked at: a task that fails again does not go round for ever."""
    channel = broker.connect().channel()
    tally = Tally()

    def fail_again(_: Tally) -> None:
        park(channel, [1000])

    Desk(broker.connect()).send_back(DEAD, ALL, Sending(BACK.plan, on_progress=fail_again), tally)
    assert tally.sent_count == 100
    assert set(bodies(broker, "dead")) == {1000}


def test_a_limit_is_kept(broker: MemoryBroker) -> None:
    """So many and no more, the oldest first."""
    tally = Tally()
    Desk(broker.connect()).send_back(DEAD, ALL, Sending(BACK.plan, Bounds(limit=33, scan=None)), tally)
    assert bodies(broker, "default") == list(range(33))
    assert bodies(broker, "dead") == list(range(33, 100))


def test_a_dry_run_does_nothing_and_counts(broker: MemoryBroker) -> None:
    """It says what would go where."""
    tally = Tally()
    Desk(broker.connect()).send_back(DEAD, ALL, Sending(BACK.plan, dry_run=True), tally)
    assert tally.sent == {"default": 100}
    assert bodies(broker, "dead") == list(range(100))
    assert bodies(broker, "default") == []


def test_what_no_queue_takes_stays(broker: MemoryBroker) -> None:
    """A missing queue returns the copy, and the dead letter is not acknowledged."""
    tally = Tally()
    Desk(broker.connect()).send_back(DEAD, ALL, Sending(Return((), to="gone")), tally)
    assert bodies(broker, "dead") == list(range(100))
    assert tally.stayed == {"queue 'gone' is missing; `amqpq topology apply` creates what the file declares": 100}


def test_what_is_sent_back_goes_where_its_queue_lives(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that has moved is called otherwise on the broker, and a copy is moved to it by that name."""
    homes = NOTHING_MOVED.with_home("default", Home("default.g2", ("default.g2",), ingress=True))
    monkeypatch.setattr(register, "look_now", lambda _connection, _project: homes)
    answer(broker.connect().channel().declare_queue(QueueSpec("default.g2")))
    tally = Tally()
    Desk(broker.connect()).send_back(DEAD, ALL, BACK, tally)
    assert tally.sent == {"default.g2": 100}
    assert bodies(broker, "default.g2") == list(range(100))


def test_after_a_lost_connection_nothing_is_lost(broker: MemoryBroker) -> None:
    """Nor doubled: what was sent has left the dead letters, and the next run goes on."""
    tally = Tally()

    def cut(_: Tally) -> None:
        broker.kill_connections()

    with pytest.raises((ChannelClosed, ConnectionLost)):
        Desk(broker.connect()).send_back(DEAD, ALL, Sending(BACK.plan, on_progress=cut), tally)
    assert 0 < tally.sent_count < 100
    Desk(broker.connect()).send_back(DEAD, ALL, BACK, Tally())
    assert bodies(broker, "default") == list(range(100))
    assert bodies(broker, "dead") == bodies(broker, "amqpq.returning") == []


class CutOffError(Exception):
    """The tool was killed here."""


@pytest.mark.parametrize("step", ["publish", "ack", "read_by_broker", "take_copies", "move"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("turn", [1, 2, 4])
def test_cut_off_at_any_step_nothing_is_lost_or_doubled(
    monkeypatch: pytest.MonkeyPatch, step: str, after: bool, turn: int
) -> None:
    """Before or after each thing that it does, in the first window and in later ones; the next run finishes it."""
    broker, in_windows = filled(20), replace(BACK, window=6)
    calls = 0

    def cut(real: Any) -> Any:
        def cutting(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == turn and not after:
                raise CutOffError
            result = real(*arguments, **options)
            if calls == turn:
                if step in {"read_by_broker", "take_copies", "move"}:
                    return cut_after(result)
                raise CutOffError
            return result

        return cutting

    def cut_after(flow_under_way: Any) -> Any:
        yield from flow_under_way
        raise CutOffError

    with monkeypatch.context() as patched:
        owner = MemoryChannel if step in {"publish", "ack"} else returning
        patched.setattr(owner, step, cut(getattr(owner, step)))
        with pytest.raises(CutOffError):
            Desk(broker.connect()).send_back(DEAD, ALL, in_windows, Tally())
    broker.kill_connections()
    tally = Tally()
    Desk(broker.connect()).send_back(DEAD, ALL, in_windows, tally)
    assert sorted(bodies(broker, "default")) == list(range(20))
    assert bodies(broker, "dead") == bodies(broker, "amqpq.returning") == []


def test_only_one_run_is_at_work(broker: MemoryBroker) -> None:
    """A second one says so and does nothing."""
    first = Desk(broker.connect())
    first.finish([DEAD], Tally())
    with pytest.raises(ResourceLocked):
        Desk(broker.connect()).send_back(DEAD, ALL, BACK, Tally())
    assert bodies(broker, "dead") == list(range(100))


def test_equal_dead_letters_are_sent_one_after_the_other(broker: MemoryBroker) -> None:
    """They are two messages, though nothing tells them apart."""
    park(broker.connect().channel(), [7, 7])
    Desk(broker.connect()).send_back(DEAD, ALL, BACK, Tally())
    assert bodies(broker, "default") == [*range(100), 7, 7]


def test_a_target_that_goes_keeps_its_copies_on_the_way(broker: MemoryBroker) -> None:
    """The broker moves them when it is there again; nothing is dropped."""
    channel = broker.connect().channel()

    def remove(_: Tally) -> None:
        answer(channel.delete_queue("orders"))

    desk = Desk(broker.connect())
    orders = Return((), to="orders")
    desk.send_back(DEAD, ALL, Sending(orders, Bounds(limit=40, scan=None), window=1, on_progress=remove), Tally())
    assert bodies(broker, "dead") == list(range(40, 100))
    answer(channel.declare_queue(QueueSpec("orders")))
    broker.advance(1.0)
    assert bodies(broker, "orders") == list(range(1, 40))


def test_a_stop_ends_between_two_steps(broker: MemoryBroker) -> None:
    """What was asked to stop leaves nothing in between: each message is in one of the two queues."""
    stop = threading.Event()
    tally = Tally()
    Desk(broker.connect(), stop=stop).send_back(DEAD, ALL, Sending(BACK.plan, on_progress=lambda _: stop.set()), tally)
    assert bodies(broker, "default") == list(range(tally.sent_count))
    assert bodies(broker, "dead") == list(range(tally.sent_count, 100))
    assert 0 < tally.sent_count < 100


@dataclass
class _Pauses(threading.Event):
    """An event that is waited on: it notes for how long, and moves the clock instead."""

    clock: ManualClock
    waited: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def wait(self, timeout: float | None = None) -> bool:
        """Let the time pass."""
        assert timeout is not None
        self.waited.append(timeout)
        self.clock.advance(timeout)
        return False


def test_a_rate_is_kept_by_pauses_that_are_long_enough(broker: MemoryBroker) -> None:
    """A hundred at two a second take 49.5 s in 99 pauses: no pause is too short to be worth it."""
    clock = ManualClock()
    pauses = _Pauses(clock)
    tally = Tally()
    Desk(broker.connect(), clock, stop=pauses).send_back(DEAD, ALL, Sending(BACK.plan, per_second=2.0), tally)
    assert tally.sent_count == 100
    paused = [pause for pause in pauses.waited if pause]  # it waits for no time until nothing moves, see `_no_rest`
    assert sum(paused) == pytest.approx(49.5)
    assert len(paused) == 99


def test_exactly_what_was_held_is_dropped(broker: MemoryBroker) -> None:
    """What came in between the question and the answer stays."""
    with Desk(broker.connect()).holding(DEAD, Choice(tasks=("shop.odd",)), Bounds()) as (looked, drop):
        park(broker.connect().channel(), [101])
        for letter in looked.letters:
            drop(letter)
    assert len(looked.letters) == 50
    assert bodies(broker, "dead") == [*range(0, 100, 2), 101]


def test_a_drop_that_is_called_off_drops_nothing(broker: MemoryBroker) -> None:
    """Somebody says no: everything is in its place."""

    class CalledOffError(Exception):
        pass

    with pytest.raises(CalledOffError), Desk(broker.connect()).holding(DEAD, ALL, Bounds()):
        raise CalledOffError
    assert bodies(broker, "dead") == list(range(100))


def test_a_drop_after_the_broker_took_them_back_says_so(broker: MemoryBroker) -> None:
    """An acknowledgement on a closed channel does nothing; it must not count as done."""

    def drop_after_the_end() -> None:
        with Desk(broker.connect()).holding(DEAD, ALL, Bounds()) as (looked, drop):
            broker.kill_connections()
            drop(looked.letters[0])

    with pytest.raises(ChannelClosed):
        drop_after_the_end()
    assert bodies(broker, "dead") == list(range(100))
