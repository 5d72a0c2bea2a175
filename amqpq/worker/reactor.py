"""One thread, everything that happens to it: posted events, readable and writable sockets, timers.

The worker's loop owns all of its state and locks nothing, because everything reaches it here, one at a time. Transport
threads, pool threads and signal handlers only `post`. A post costs an append; the system call that wakes the loop is made
only when the loop sleeps, so a burst of deliveries is one wake-up and one turn.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

WAKE_BYTES: Final = 4096
"""How much of the wake-up socket is emptied in one go; one byte is sent per sleep."""


@dataclass(order=True, slots=True)
class Timer:
    """A call to come; `cancel` makes it never come."""

    due: float
    order: int
    callback: Callable[[], object] | None = field(compare=False)

    def cancel(self) -> None:
        """Forget the call; harmless when it has happened."""
        self.callback = None


class Reactor:
    """An event loop for one thread. Only `post` may be called from others (and from signal handlers).

    Args:
        monotonic: The clock of the timers, seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.monotonic = monotonic
        self._events: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._asleep = False
        self._last: deque[Callable[[], object]] = deque()
        self._timers: list[Timer] = []
        self._order = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._ears, self._bell = socket.socketpair()
        self._ears.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._ears, selectors.EVENT_READ, self._woken)

    def post(self, handler: Callable[[Any], object], argument: Any = None) -> None:
        """Have the loop's thread call `handler(argument)`; from any thread, in order."""
        self._events.append((handler, argument))
        if self._asleep:
            self._asleep = False
            try:
                self._bell.send(b"\0")
            except (BlockingIOError, OSError):
                # Full: it is ringing already. Closed: the loop is over, and with it whatever this was about.
                return

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` on the loop's thread after `seconds`."""
        timer = Timer(self.monotonic() + seconds, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def before_sleep(self, callback: Callable[[], object]) -> None:
        """Call `callback()` once, after this turn and what its owner does with it, before the loop sleeps or looks again."""
        self._last.append(callback)

    def watch(self, file: socket.socket, callback: Callable[[int], object], *, write: bool = False) -> None:
        """Call `callback(events)` whenever `file` can be read (and with `write`, written); calling again changes it."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0)
        try:
            self._selector.modify(file, events, callback)
        except KeyError:
            self._selector.register(file, events, callback)

    def unwatch(self, file: socket.socket) -> None:
        """Stop watching."""
        try:
            self._selector.unregister(file)
        except KeyError:
            return

    def turn(self, timeout: float | None = None) -> None:
        """Wait until something happens, at most `timeout` seconds, and handle everything that has."""
        while self._last:
            self._last.popleft()()
        for key, events in self._wait(timeout):
            key.data(events)
        queued = self._events
        # Only what is there now: events that handlers post belong to the next turn, so a turn always ends.
        for _ in range(len(queued)):
            handler, argument = queued.popleft()
            handler(argument)
        self._ring_timers()

    def close(self) -> None:
        """Let go of the sockets; posts from now on are lost."""
        self._selector.close()
        self._ears.close()
        self._bell.close()

    def _wait(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        if self._timers:
            until_timer = max(0.0, self._timers[0].due - self.monotonic())
            timeout = until_timer if timeout is None else min(timeout, until_timer)
        self._asleep = True
        if self._events:
            # Posted before the line above, by a thread that saw us awake and did not ring.
            timeout = 0
        try:
            return self._selector.select(timeout)
        finally:
            self._asleep = False

    def _woken(self, _events: int) -> None:
        try:
            self._ears.recv(WAKE_BYTES)
        except BlockingIOError:
            return

    def _ring_timers(self) -> None:
        timers = self._timers
        if not timers:
            return
        now = self.monotonic()
        while timers and timers[0].due <= now:
            callback = heapq.heappop(timers).callback
            if callback is not None:
                callback()
