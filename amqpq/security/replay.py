"""The memory against replays.

A signature proves who wrote a message, not that it was published once: whoever can read a queue and publish can publish
what they read again. What guards against that, and how far:

* `expires` is signed. A task that carries it cannot run after it, whoever publishes it again. It is the only guard that
  does not forget, and the only one that holds across workers.
* `SeenIds` remembers what this worker was given. A message with the same id, time and signature that arrives again on
  the same queue, and is not a redelivery, is a replay. It is forgotten after the window, when memory is full (oldest
  first), and when the process ends; another worker never knew of it. So it stops the flood and the accident, not the
  patient.
* Where the consumer knows the exchange and key a delivery was published with, they are compared with the signed ones
  (`Codec.decode_task(arrived=...)`), so that a message cannot be moved to a queue it was not meant for.
* The past is not limited: a task may wait in its queue for days, and that is what queues are for.

A redelivery is told from a replay by the broker's `redelivered` flag, which a publisher cannot set. What this worker
itself puts back with a publish (a crashed task, a dead letter that may be requeued) must be `forget`-ed first. One
message that reaches two queues of this worker is two deliveries, not a replay: the queue is part of what is remembered.
"""

from __future__ import annotations

import secrets
import threading
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Final

DEFAULT_CAPACITY: Final = 100_000
"""Messages remembered. The room for them, 5 MB, is taken with the first one and never changes."""

_FINGERPRINT: Final = (1 << 64) - 1
"""Bits of the hash that is remembered: Python's of a text (SipHash, PEP 456) that begins with a secret of this process, so nobody
can make two messages meet, even where `PYTHONHASHSEED` is known. Chance does it once in 10^14 messages."""


class _Table:
    """A set of numbers other than 0, in memory of fixed size.

    A `set` of Python's moves to new memory with every few ten thousand additions, even where as many are taken out, and
    the process keeps what it left. Open addressing with linear probing, at most half full; taking out closes the gap (Knuth,
    volume 3, 6.4, algorithm R).

    Args:
        capacity: Numbers it holds at most, and one more for a moment; its user sees to it.
    """

    __slots__ = ("_cells", "_count", "_mask")

    def __init__(self, capacity: int) -> None:
        size = 1 << (2 * capacity - 1).bit_length()
        self._cells = array("Q", bytes(8 * size))
        self._mask = size - 1
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return self._cells[self._place(number)] == number

    def add(self, number: int) -> bool:
        """Put a number in; False where it is there already."""
        place = self._place(number)
        if self._cells[place]:
            return False
        self._cells[place] = number
        self._count += 1
        return True

    def remove(self, number: int) -> None:
        """Take a number out that is there."""
        cells, mask = self._cells, self._mask
        gap = place = self._place(number)
        while True:
            place = (place + 1) & mask
            other = cells[place]
            if not other:
                break
            if (place - other) & mask >= (place - gap) & mask:  # its own place is not between the gap and here
                cells[gap] = other
                gap = place
        cells[gap] = 0
        self._count -= 1

    def _place(self, number: int) -> int:
        """Return where a number is, or may be put."""
        cells, mask = self._cells, self._mask
        place = number & mask
        while (found := cells[place]) and found != number:
            place = (place + 1) & mask
        return place


class SeenIds:
    """What this worker was given lately. Safe to use from several threads.

    Args:
        window_seconds: How long a message is remembered after it was first seen.
        clock: Seconds, monotonic.
        capacity: Messages remembered at most; the oldest goes first.
    """

    # A table of numbers, and a ring of them in the order of their arrival: a worker's memory must not grow while it works.
    # What is forgotten stays in the ring until its turn comes.
    __slots__ = (
        "_begin",
        "_capacity",
        "_clock",
        "_count",
        "_key",
        "_lock",
        "_order",
        "_seen",
        "_stale",
        "_times",
        "_window",
    )

    def __init__(self, window_seconds: float, clock: Callable[[], float], capacity: int = DEFAULT_CAPACITY) -> None:
        self._window = window_seconds
        self._clock = clock
        self._capacity = capacity
        self._key = secrets.token_hex(16)
        self._seen = _Table(0)
        self._order = array("Q")
        self._times = array("d")
        self._begin = self._count = 0
        self._stale: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many messages are remembered."""
        return len(self._seen)

    def __repr__(self) -> str:
        """Show how full the memory is."""
        return f"SeenIds({len(self._seen)} of {self._capacity}, {self._window:g} s)"

    def admit(self, message_id: str, signed_at_ms: int, signature: str, *, redelivered: bool, queue: str = "") -> bool:
        """Say whether the message may be run, and remember it.

        Call it after the signature was checked: what is not genuine must not fill the memory.

        Args:
            message_id: The task's id.
            signed_at_ms: As signed.
            signature: Its canonical text.
            redelivered: What the broker says of the delivery.
            queue: Where it arrived.
        """
        now = self._clock()
        fingerprint = self._fingerprint(queue, message_id, signed_at_ms, signature)
        with self._lock:
            if not self._order:
                self._take_room()
            while self._count and now - self._times[self._begin] >= self._window:
                self._drop_oldest()
            if not self._seen.add(fingerprint):
                return redelivered
            while len(self._seen) > self._capacity or self._count == len(self._order):
                self._drop_oldest()
            place = (self._begin + self._count) % len(self._order)
            self._order[place], self._times[place] = fingerprint, now
            self._count += 1
            return True

    def forget(self, message_id: str, signed_at_ms: int, signature: str, *, queue: str = "") -> None:
        """Forget a message that this worker hands back by publishing it."""
        fingerprint = self._fingerprint(queue, message_id, signed_at_ms, signature)
        with self._lock:
            if fingerprint in self._seen:
                self._seen.remove(fingerprint)
                self._stale[fingerprint] += 1

    def _take_room(self) -> None:
        self._seen = _Table(self._capacity)
        self._order = array("Q", bytes(8 * 2 * self._capacity))
        self._times = array("d", bytes(8 * 2 * self._capacity))

    def _drop_oldest(self) -> None:
        """Take the oldest out of the ring, and forget it unless that has happened; the lock is held."""
        fingerprint = self._order[self._begin]
        self._begin = (self._begin + 1) % len(self._order)
        self._count -= 1
        if fingerprint not in self._stale:
            self._seen.remove(fingerprint)
        elif self._stale[fingerprint] == 1:
            del self._stale[fingerprint]
        else:
            self._stale[fingerprint] -= 1

    def _fingerprint(self, queue: str, message_id: str, signed_at_ms: int, signature: str) -> int:
        return hash(f"{self._key}\0{queue}\0{message_id}\0{signed_at_ms}\0{signature}") & _FINGERPRINT or 1
