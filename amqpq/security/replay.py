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

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

DEFAULT_CAPACITY: Final = 100_000
"""Messages remembered; at about 400 bytes each, 40 MB when full."""

_Key: TypeAlias = tuple[str, str, int, str]


class SeenIds:
    """What this worker was given lately. Safe to use from several threads.

    Args:
        window_seconds: How long a message is remembered after it was first seen.
        clock: Seconds, monotonic.
        capacity: Messages remembered at most; the oldest goes first.
    """

    __slots__ = ("_capacity", "_clock", "_lock", "_seen", "_window")

    def __init__(self, window_seconds: float, clock: Callable[[], float], capacity: int = DEFAULT_CAPACITY) -> None:
        self._window = window_seconds
        self._clock = clock
        self._capacity = capacity
        self._seen: OrderedDict[_Key, float] = OrderedDict()
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
        key = (queue, message_id, signed_at_ms, signature)
        seen = self._seen
        with self._lock:
            while seen:
                oldest = next(iter(seen))
                if now - seen[oldest] < self._window:
                    break
                del seen[oldest]
            if key in seen:
                return redelivered
            if len(seen) >= self._capacity:
                seen.popitem(last=False)
            seen[key] = now
            return True

    def forget(self, message_id: str, signed_at_ms: int, signature: str, *, queue: str = "") -> None:
        """Forget a message that this worker hands back by publishing it."""
        with self._lock:
            self._seen.pop((queue, message_id, signed_at_ms, signature), None)
