"""The I/O thread over a socket pair: order, back-pressure, heartbeats, ends. No broker.

Whatever holds with a thread of its own holds in the loop of a worker; and so it does on the way from one to the other.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from amqpq.transport import reactor as reactor_module
from amqpq.transport.interface import Home
from amqpq.transport.reactor import Reactor
from amqpq.worker.reactor import Reactor as Loop

DEADLINE_SECONDS = 10.0


class Peer:
    """The other end of a reactor's socket, and what the reactor told."""

    def __init__(self, home: Home | None = None) -> None:
        self.home = home
        self.made: Reactor | None = None
        self.end, other = socket.socketpair()
        self.end.settimeout(DEADLINE_SECONDS)
        self.other = other
        self.data: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.on_data: Callable[[bytes], None] = self.data.put

    def reactor(self, heartbeat_seconds: float = 0) -> Reactor:
        """Start a reactor on the other end."""
        reactor = Reactor(
            self.other, self.receive, self.ended.put,
            heartbeat_seconds=heartbeat_seconds, heartbeat=b"beat", name="reactor under test",
        )  # fmt: skip
        self.made = reactor
        reactor.start()
        if self.home is not None:
            reactor.move_to(self.home)
        return reactor

    def receive(self, data: bytes) -> None:
        """Take what arrived, as the test says."""
        self.on_data(data)

    def read(self, count: int) -> bytes:
        """Read exactly so much."""
        data = b""
        while len(data) < count:
            piece = self.end.recv(count - len(data))
            assert piece, "the reactor closed"
            data += piece
        return data

    def close(self) -> None:
        """Close this end, and see the reactor end."""
        self.end.close()
        if self.made is not None and self.made.call_soon(lambda: None):
            self.why()
        self.other.close()

    def why(self) -> BaseException | None:
        """Wait for the end, and return what ended it."""
        return self.ended.get(timeout=DEADLINE_SECONDS)


class Turning:
    """A worker's loop that turns on a thread."""

    name = "a loop under test"

    def __init__(self) -> None:
        self.loop = Loop()
        self._over = False
        self._thread = threading.Thread(target=self._turn, name=self.name)
        self._thread.start()

    def _turn(self) -> None:
        while not self._over:
            self.loop.turn()

    def call(self, callback: Callable[[], object]) -> None:
        """Call it on the loop's thread, and wait for that."""
        done = threading.Event()
        self.loop.post(lambda _: (callback(), done.set()))
        assert done.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        """End it."""
        self._over = True
        self.loop.post(lambda _: None)
        self._thread.join(DEADLINE_SECONDS)
        self.loop.close()


@pytest.fixture
def turning() -> Iterator[Turning]:
    """A loop; ended at the end."""
    turning = Turning()
    yield turning
    turning.close()


@pytest.fixture
def lone() -> Iterator[Peer]:
    """A peer of a reactor with a thread of its own; closed at the end."""
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture(params=["thread", "home"])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """A peer of a reactor with a thread of its own, and of one in a loop; closed at the end."""
    peer = Peer(request.getfixturevalue("turning").loop if request.param == "home" else None)
    yield peer
    peer.close()


def test_what_arrives_is_handed_on(peer: Peer) -> None:
    """Bytes from the peer reach on_data on the I/O thread."""
    own: list[bool] = []
    peer.on_data = lambda data: (own.append(reactor.on_own_thread), peer.data.put(data))[1]
    reactor = peer.reactor()
    peer.end.sendall(b"hello")
    assert peer.data.get(timeout=DEADLINE_SECONDS) == b"hello"
    assert own == [True]


def test_what_is_sent_arrives_in_order_whoever_sends(peer: Peer) -> None:
    """Direct, lazy and large sends leave in the order of the calls, although the kernel takes them in pieces."""
    reactor = peer.reactor()
    pieces = [bytes([65 + number % 26]) * (1 if number % 3 else 100_000) for number in range(60)]

    def send() -> None:
        for number, piece in enumerate(pieces):
            reactor.send(piece, lazy=number % 2 == 0)

    threading.Thread(target=send).start()
    assert peer.read(sum(map(len, pieces))) == b"".join(pieces)


def test_threads_do_not_tear_each_others_frames(peer: Peer) -> None:
    """Each send arrives whole between those of other threads."""
    reactor = peer.reactor()
    threads = [
        threading.Thread(target=lambda mark=mark: [reactor.send(mark * 1000) for _ in range(50)])
        for mark in (b"a", b"b", b"c")
    ]
    for thread in threads:
        thread.start()
    data = peer.read(150_000)
    runs = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    assert all(run == run[:1] * 1000 for run in runs)
    assert sorted(run[:1] for run in runs) == [b"a"] * 50 + [b"b"] * 50 + [b"c"] * 50


def test_a_caller_waits_while_the_buffer_is_full_and_goes_on(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit a caller is held back until the peer reads; memory stays bounded, nothing is lost."""
    monkeypatch.setattr(reactor_module, "BUFFER_LIMIT_BYTES", 1_000_000)
    reactor = peer.reactor()
    sent = 0
    highest = 0

    def publish() -> None:
        nonlocal sent, highest
        for _ in range(100):
            assert reactor.wait_for_room(patient=True)
            reactor.send(b"x" * 100_000)
            sent += 1
            highest = max(highest, reactor._out_bytes)

    publisher = threading.Thread(target=publish)
    publisher.start()
    assert len(peer.read(10_000_000)) == 10_000_000
    publisher.join(DEADLINE_SECONDS)
    assert sent == 100
    assert highest <= 1_100_000


def test_a_caller_does_not_wait_for_a_peer_that_reads_nothing(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that does not move lets nobody wait for ever; nor does an impatient caller wait at all."""
    monkeypatch.setattr(reactor_module, "BUFFER_LIMIT_BYTES", 1000)
    monkeypatch.setattr(reactor_module, "STALL_SECONDS", 0.05)
    reactor = peer.reactor()
    reactor.send(b"x" * 5_000_000)
    assert reactor.crowded
    assert not reactor.wait_for_room(patient=False)
    assert not reactor.wait_for_room(patient=True)


def test_who_waits_for_room_is_let_go_at_the_end(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the connection frees a waiting caller at once."""
    monkeypatch.setattr(reactor_module, "BUFFER_LIMIT_BYTES", 1000)
    reactor = peer.reactor()
    reactor.send(b"x" * 5_000_000)
    waiting = threading.Thread(target=lambda: reactor.wait_for_room(patient=True))
    waiting.start()
    peer.end.close()
    assert isinstance(peer.why(), OSError)
    waiting.join(DEADLINE_SECONDS)
    assert not waiting.is_alive()


def test_sends_of_callbacks_leave_together(peer: Peer) -> None:
    """What the I/O thread sends while it handles one piece of data goes out in one write, in order."""
    writes: list[bytes] = []
    reactor = peer.reactor()
    real_send = reactor._try_send
    reactor._try_send = lambda data: (writes.append(bytes(data)), real_send(data))[1]  # type: ignore[method-assign]

    def burst(_: bytes) -> None:
        for number in range(100):
            reactor.send(b"%d," % number)

    peer.on_data = burst
    peer.end.sendall(b"go")
    expected = b"".join(b"%d," % number for number in range(100))
    assert peer.read(len(expected)) == expected
    assert writes == [expected]


def test_a_silent_peer_is_gone_after_two_heartbeats(peer: Peer) -> None:
    """Nothing received for two intervals ends the connection, and says how long nothing was heard."""
    peer.reactor(heartbeat_seconds=0.1)
    error = peer.why()
    assert isinstance(error, TimeoutError)
    assert "nothing was heard from the broker" in str(error)


def test_an_idle_connection_sends_heartbeats(peer: Peer) -> None:
    """When nothing else leaves, heartbeats do; a peer that sends any byte is alive."""
    peer.reactor(heartbeat_seconds=0.2)
    for _ in range(5):
        assert peer.read(4) == b"beat"
        peer.end.sendall(b".")
    assert peer.ended.empty()


def test_stopping_sends_what_was_asked_for_before(peer: Peer) -> None:
    """stop ends the connection after the buffer has left; the reason is none."""
    reactor = peer.reactor()
    reactor.send(b"x" * 3_000_000)
    reactor.stop()
    assert peer.read(3_000_000) == b"x" * 3_000_000
    assert peer.why() is None
    assert peer.end.recv(1) == b""


def test_a_goodbye_is_not_waited_for_for_ever(peer: Peer) -> None:
    """stop_after ends the connection although the peer reads nothing."""
    reactor = peer.reactor()
    reactor.send(b"x" * 5_000_000)
    reactor.stop_after(0.05)
    assert isinstance(peer.why(), TimeoutError)


def test_the_last_words_of_a_peer_are_read(peer: Peer) -> None:
    """A write that fails does not hide what the peer said before it closed."""
    reactor = peer.reactor()
    seen = threading.Event()
    gate = threading.Event()
    reactor.call_soon(lambda: (seen.set(), gate.wait(DEADLINE_SECONDS)))  # hold the thread: nothing is read meanwhile
    assert seen.wait(DEADLINE_SECONDS)
    peer.end.sendall(b"closing because of you")
    peer.end.shutdown(socket.SHUT_RDWR)
    reactor.send(b"too late")
    gate.set()
    assert peer.data.get(timeout=DEADLINE_SECONDS) == b"closing because of you"
    assert isinstance(peer.why(), OSError)


def test_an_error_in_on_data_ends_the_connection_with_it(peer: Peer) -> None:
    """A violation of the protocol is the reason of the end."""

    def refuse(_: bytes) -> None:
        raise ValueError("nonsense")

    peer.on_data = refuse
    peer.reactor()
    peer.end.sendall(b"x")
    assert str(peer.why()) == "nonsense"


def test_callbacks_run_in_order_on_the_thread_and_may_fail(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """call_soon keeps the order; an exception is logged and does not stop the others; after the end it says no."""
    reactor = peer.reactor()
    done = threading.Event()
    heard: list[tuple[int, bool]] = []
    for number in range(5):
        reactor.call_soon(lambda number=number: heard.append((number, reactor.on_own_thread)))  # type: ignore[misc]
    reactor.call_soon(lambda: 1 / 0)
    reactor.call_soon(done.set)
    assert done.wait(DEADLINE_SECONDS)
    assert heard == [(number, True) for number in range(5)]
    assert "ZeroDivisionError" in caplog.text
    reactor.stop()
    assert peer.why() is None
    assert not reactor.call_soon(done.set)
    reactor.send(b"into nothing")


# ---------------------------------------------------------------------------------------------------- from here to there


def names_of_threads(peer: Peer) -> list[str]:
    """Send one byte after the other until the last two were taken on one thread; return the names of all."""
    names: list[str] = []
    peer.on_data = lambda data: (names.append(threading.current_thread().name), peer.data.put(data))[1]
    while len(names) < 2 or names[-1] != names[-2]:
        peer.end.sendall(b".")
        assert peer.data.get(timeout=DEADLINE_SECONDS) == b"."
    return names


def test_it_moves_there_and_back(turning: Turning, lone: Peer) -> None:
    """Who is taken in is driven by the loop, and by a thread of its own when it has left; nothing ends with that."""
    reactor = lone.reactor(heartbeat_seconds=60)
    assert names_of_threads(lone) == ["reactor under test"] * 2
    for _ in range(3):
        turning.call(lambda: reactor.move_to(turning.loop))
        assert names_of_threads(lone)[-1] == turning.name
        turning.call(lambda: reactor.move_to(None))
        assert names_of_threads(lone) == ["reactor under test"] * 2
    reactor.send(b"still here")
    assert lone.read(10) == b"still here"
    reactor.stop()
    assert lone.why() is None


def test_what_waits_moves_with_it(turning: Turning, lone: Peer) -> None:
    """What the kernel did not take before a move leaves after it, in order, in both directions."""
    reactor = lone.reactor()
    reactor.send(b"a" * 2_000_000)
    turning.call(lambda: reactor.move_to(turning.loop))
    reactor.send(b"b" * 2_000_000)
    turning.call(lambda: (reactor.send(b"c" * 2_000_000), reactor.move_to(None)))
    reactor.send(b"d" * 10)
    assert lone.read(6_000_010) == b"a" * 2_000_000 + b"b" * 2_000_000 + b"c" * 2_000_000 + b"d" * 10
    reactor.stop()
    assert lone.why() is None


def test_who_turns_back_on_the_way_goes_on(lone: Peer) -> None:
    """A loop that never turns again keeps nobody: moved out before it arrived, the connection has a thread."""
    loop = Loop()
    reactor = lone.reactor()
    reactor.move_to(loop)
    reactor.move_to(None)
    assert names_of_threads(lone)[-1] == "reactor under test"
    loop.turn(0)
    assert names_of_threads(lone)[-1] == "reactor under test"
    reactor.stop()
    assert lone.why() is None
    loop.close()


def test_what_a_turn_sends_leaves_in_one_write_when_it_is_over(lone: Peer) -> None:
    """Sends and callbacks of the loop's own thread wait for the end of its turn; those of other threads do not."""
    loop = Loop()
    reactor = lone.reactor()
    reactor.move_to(loop)
    while not reactor.on_own_thread:
        loop.turn()
    lone.end.setblocking(False)
    for number in range(10):
        reactor.send(b"%d" % number)
    reactor.call_soon(lambda: reactor.send(b"!"))
    with pytest.raises(BlockingIOError):
        lone.end.recv(100)
    other = threading.Thread(target=reactor.send, args=(b"+",))
    other.start()
    other.join(DEADLINE_SECONDS)
    assert lone.end.recv(100) == b"0123456789+"
    loop.turn(0)
    assert lone.end.recv(100) == b"!"
    reactor.move_to(None)
    reactor.stop()
    assert lone.why() is None
    loop.close()


def test_a_full_buffer_does_not_hold_the_loop(lone: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop itself makes the room: it may go on while the broker takes messages, and may not while it blocks them."""
    monkeypatch.setattr(reactor_module, "BUFFER_LIMIT_BYTES", 1000)
    loop = Loop()
    reactor = lone.reactor()
    reactor.move_to(loop)
    while not reactor.on_own_thread:
        loop.turn()
    reactor.send(b"x" * 5_000_000)
    assert reactor.crowded
    assert reactor.wait_for_room(patient=True)
    assert not reactor.wait_for_room(patient=False)
    reactor.move_to(None)
    lone.end.close()
    assert isinstance(lone.why(), OSError)
    loop.close()


def test_a_loop_that_is_held_up_does_not_stop_the_heart(turning: Turning, lone: Peer) -> None:
    """Heartbeats go on while something holds the loop, and what it had sent leaves; afterwards it judges nobody dead."""
    lone.home = turning.loop
    reactor = lone.reactor(heartbeat_seconds=0.2)
    assert names_of_threads(lone)[-1] == turning.name
    held, free = threading.Event(), threading.Event()
    turning.loop.post(lambda _: (reactor.send(b"result"), held.set(), free.wait(DEADLINE_SECONDS)))
    assert held.wait(DEADLINE_SECONDS)
    heard = lone.end.recv(100)
    while not heard.endswith(b"result" + b"beat" * 5):
        lone.end.sendall(b".")
        heard += lone.end.recv(100)
    assert not free.is_set()
    free.set()
    turning.call(lambda: None)
    assert lone.ended.empty()


def test_the_loop_is_let_go_by_a_connection_that_has_ended(turning: Turning, lone: Peer) -> None:
    """After the end the loop sleeps: nothing is watched, no timer rings, and a move is nothing."""
    lone.home = turning.loop
    reactor = lone.reactor(heartbeat_seconds=60)
    assert names_of_threads(lone)[-1] == turning.name
    lone.end.close()
    assert isinstance(lone.why(), OSError)
    turning.call(lambda: reactor.move_to(None))
    watched: list[int] = []
    turning.call(lambda: watched.append(len(turning.loop._selector.get_map())))
    assert watched == [1]  # the loop's own bell
    assert all(timer.callback is None for timer in turning.loop._timers)
