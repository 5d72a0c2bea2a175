"""The loop's reactor: posts from other threads, timers, sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from amqpq.worker.reactor import Reactor


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The reactor's clock."""
    return Clock()


@pytest.fixture
def reactor(clock: Clock) -> Iterator[Reactor]:
    """A reactor on that clock."""
    made = Reactor(clock)
    yield made
    made.close()


def test_posts_are_handled_in_order(reactor: Reactor) -> None:
    """What was posted first is handled first."""
    seen: list[int] = []
    for number in range(5):
        reactor.post(seen.append, number)
    reactor.turn(0)
    assert seen == [0, 1, 2, 3, 4]


def test_a_post_from_another_thread_wakes_the_loop(reactor: Reactor) -> None:
    """The loop sleeps without a timeout and wakes for a post."""
    seen: list[str] = []
    thread = threading.Thread(target=lambda: reactor.post(seen.append, "here"))
    thread.start()
    while not seen:
        reactor.turn(60)
    thread.join()
    assert seen == ["here"]


def test_no_post_of_many_threads_is_lost(reactor: Reactor) -> None:
    """Whenever a post comes, asleep or awake, it is handled: no wake-up gets lost."""
    seen: list[int] = []

    def post_many() -> None:
        for number in range(2000):
            reactor.post(seen.append, number)

    threads = [threading.Thread(target=post_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(seen) < 8000:
        reactor.turn(60)
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(list(range(2000)) * 4)


def test_what_a_handler_posts_belongs_to_the_next_turn(reactor: Reactor) -> None:
    """A turn always ends, even if every handler posts again."""
    seen: list[int] = []

    def again(number: int) -> None:
        seen.append(number)
        reactor.post(again, number + 1)

    reactor.post(again, 0)
    reactor.turn(0)
    assert seen == [0]
    reactor.turn(0)
    assert seen == [0, 1]


def test_timers_ring_when_due_and_in_order(reactor: Reactor, clock: Clock) -> None:
    """A timer rings at its time, not before, the earlier one first."""
    rung: list[str] = []
    reactor.call_later(2, lambda: rung.append("second"))
    reactor.call_later(1, lambda: rung.append("first"))
    reactor.turn(0)
    assert rung == []
    clock.now += 2
    reactor.turn(0)
    assert rung == ["first", "second"]


def test_a_cancelled_timer_never_rings(reactor: Reactor, clock: Clock) -> None:
    """Cancelling holds, before the time and after it."""
    rung: list[str] = []
    timer = reactor.call_later(1, lambda: rung.append("no"))
    timer.cancel()
    clock.now += 2
    reactor.turn(0)
    assert rung == []


def test_sockets_are_heard_until_unwatched(reactor: Reactor) -> None:
    """A watched socket calls back when it can be read; an unwatched one does not."""
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    with ours, theirs:
        reactor.watch(ours, lambda _events: heard.append(ours.recv(10)))
        theirs.send(b"a")
        reactor.turn(60)
        reactor.unwatch(ours)
        theirs.send(b"b")
        reactor.turn(0)
    assert heard == [b"a"]


def test_a_post_after_the_end_is_harmless() -> None:
    """Transport threads may still post when the loop is gone."""
    reactor = Reactor()
    reactor.close()
    reactor.post(print, "nobody hears this")


def test_what_is_for_the_end_of_a_turn_waits_for_it() -> None:
    """`before_sleep` comes after everything of the turn that asked, and before what the next one finds."""
    reactor = Reactor()
    order: list[str] = []
    reactor.before_sleep(lambda: (order.append("last"), reactor.before_sleep(lambda: order.append("very last"))))
    order.append("its owner")
    reactor.post(lambda _: order.append("next turn"))
    reactor.turn(0)
    assert order == ["its owner", "last", "very last", "next turn"]
    reactor.turn(0)
    assert len(order) == 4
    reactor.close()
