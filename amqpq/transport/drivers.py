"""Who turns a connection: a thread of its own, or a loop that the program has anyway.

A thread sleeps until the socket has something, or somebody wakes it. A worker has a loop, and takes its connections into that:
what arrives is then handled in the turn that found it, with no change of threads between, and what the turn sends leaves in one
write before the loop sleeps. In a worker that is a tenth of the processor time of a call.

One driver has the connection at a time; it hands it on between two turns (`Turns.pass_on`). The next one begins with a turn, so
that nothing is forgotten which came when nobody had it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Protocol

from amqpq.transport.interface import Alarm, Home


class Turns(Protocol):
    """What is driven: `amqpq.transport.reactor.Reactor`."""

    def turn(self, *, readable: bool) -> bool:
        """Do what there is to do; answer whether the connection goes on. Any error ends it."""

    def end(self, reason: BaseException | None) -> None:
        """Close everything, and tell who waits."""

    def pass_on(self, driver: Driver) -> bool:
        """Start the next driver, where there is to be one; then `driver` has nothing to do any more."""

    def beat(self) -> None:
        """Send a heartbeat where one is due; from any thread."""

    beat_seconds: float
    """How often to see to that; 0 is never."""

    @property
    def patience(self) -> float | None:
        """How long to sleep when nothing happens, seconds; None for ever."""

    @property
    def hurried(self) -> bool:
        """Whether `patience` may have become shorter since the last turn but one."""

    @property
    def full(self) -> bool:
        """Whether the kernel did not take all, so that its having room again is an event."""


class Driver(Protocol):
    """Gives a connection its turns."""

    ident: int
    """Of the thread that does, -1 for none."""

    def start(self) -> None:
        """Begin; from any thread."""

    def wake(self) -> None:
        """Give it a turn soon; from any thread."""

    def come_back(self) -> None:
        """Give it a turn before the driving thread sleeps; on that thread."""

    def leave(self) -> None:
        """Pass the connection on; on the thread of the home that is left, or is moved to."""

    def abandon(self) -> None:
        """Forget it, in a forked child."""


class OwnThread:
    """A thread for one connection.

    Args:
        turns: The connection.
        sock: Its socket.
        name: For the thread.
    """

    def __init__(self, turns: Turns, sock: socket.socket, name: str) -> None:
        self.ident = -1
        self._turns = turns
        self._sock = sock
        self._awake = False  # a wake-up byte is under way
        self._ears, self._bell = socket.socketpair()
        self._ears.setblocking(False)
        self._bell.setblocking(False)
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; from any thread."""
        self.thread.start()

    def wake(self) -> None:
        """Give it a turn soon; from any thread."""
        if self._awake:
            return
        self._awake = True
        with contextlib.suppress(OSError):  # full (it wakes anyway) or closed (nobody is left to wake)
            self._bell.send(b"\0")

    def come_back(self) -> None:
        """Do nothing: whatever runs on this thread is part of a turn."""

    def leave(self) -> None:
        """Pass the connection on when this turn is over."""
        self.wake()

    def abandon(self) -> None:
        """Forget it, in a forked child."""
        self.ident = -1
        self._close()

    def _run(self) -> None:
        self.ident = threading.get_ident()
        reason: BaseException | None = None
        try:
            passed_on = self._turn_until_end()
        except BaseException as error:  # noqa: BLE001 - a SystemExit out of a callback, too, must leave nobody waiting
            passed_on, reason = False, error
        self._close()
        if not passed_on:
            self._turns.end(reason)

    def _turn_until_end(self) -> bool:
        """Turn until the connection ends; answer whether another driver has it instead."""
        turns = self._turns
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            selector.register(self._ears, selectors.EVENT_READ)
            ears = self._ears.fileno()
            watching = selectors.EVENT_READ
            readable = True
            while turns.turn(readable=readable):
                if turns.pass_on(self):
                    return True
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if turns.full else 0)
                if wanted != watching:
                    selector.modify(self._sock, wanted)
                    watching = wanted
                readable = False
                for ready, _ in selector.select(turns.patience):
                    if ready.fd == ears:
                        self._woken()
                    else:
                        readable = True
        return False

    def _woken(self) -> None:
        # In this order: a byte written between the two would be swallowed by the read, with the flag left standing, and
        # nobody would be woken again. One that comes before the flag falls is covered by the turn that follows.
        with contextlib.suppress(BlockingIOError):
            self._ears.recv(4096)
        self._awake = False

    def _close(self) -> None:
        for end in (self._ears, self._bell):
            with contextlib.suppress(OSError):  # the parent's, in a child
                end.close()


class AtHome:
    """A loop for many connections.

    A loop may be held up, by a write to a log that nobody reads for instance. So a thread that does nothing else sees to the
    heartbeats: a broker that misses them gives the deliveries of this connection to others, who would run them a second time.

    Args:
        turns: The connection.
        sock: Its socket.
        home: The loop.
    """

    def __init__(self, turns: Turns, sock: socket.socket, home: Home) -> None:
        self.ident = -1
        self._turns = turns
        self._sock = sock
        self._home = home
        self._here = False
        self._left = False
        self._called = False  # `wake` has posted
        self._due = False  # a turn is under way, or comes before the loop sleeps
        self._for_room = False  # the loop looks for room in the kernel's buffer, too
        self._alarm: Alarm | None = None
        self._gone = threading.Event()

    def start(self) -> None:
        """Begin; from any thread."""
        self._home.post(self._arrive)

    def wake(self) -> None:
        """Give it a turn soon; from any thread."""
        if not self._called:
            self._called = True
            self._home.post(self._answer)

    def come_back(self) -> None:
        """Give it a turn before the loop sleeps; on its thread."""
        if not self._due:
            self._due = True
            self._home.before_sleep(self._back)

    def leave(self) -> None:
        """Pass the connection on; on the loop's thread. It need not have arrived: it never will then."""
        self._let_go()
        self._turns.pass_on(self)

    def abandon(self) -> None:
        """Forget it, in a forked child, where the loop's bell is the parent's."""
        self.ident = -1
        self._left, self._called = True, True

    def _arrive(self, _: object) -> None:
        if self._left:
            return
        self._here = True
        self.ident = threading.get_ident()
        self._home.watch(self._sock, self._ready)
        if self._turns.beat_seconds:
            threading.Thread(target=self._beat, name="amqpq-heartbeat", daemon=True).start()
        self._turn(readable=True)

    def _let_go(self) -> None:
        if self._here:
            self._home.unwatch(self._sock)
        if self._alarm is not None:
            self._alarm.cancel()
        self._here, self._left, self._alarm, self.ident = False, True, None, -1
        self._gone.set()

    def _beat(self) -> None:
        while not self._gone.wait(self._turns.beat_seconds):
            self._turns.beat()

    def _ready(self, events: int) -> None:
        self._turn(readable=bool(events & selectors.EVENT_READ))

    def _answer(self, _: object) -> None:
        self._called = False  # before the turn: who calls from now on wants another one
        self._turn(readable=False)

    def _back(self) -> None:
        self._turn(readable=False)

    def _ring(self) -> None:
        self._alarm = None
        self._turn(readable=False)

    def _turn(self, *, readable: bool) -> None:
        if not self._here:
            return  # called before it came, or when it had left
        self._due = True
        turns = self._turns
        reason: BaseException | None = None
        try:
            goes_on = turns.turn(readable=readable)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for something
            goes_on, reason = False, error
        self._due = False
        if not goes_on:
            self._let_go()
            turns.end(reason)
        else:
            self._expect(turns)

    def _expect(self, turns: Turns) -> None:
        """See that the next turn comes."""
        if turns.full != self._for_room:
            self._for_room = turns.full
            self._home.watch(self._sock, self._ready, write=self._for_room)
        if self._alarm is not None and not turns.hurried:
            return  # at the latest then
        patience = turns.patience
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if patience is None else self._home.call_later(patience, self._ring)
