"""Counting finished tasks without asking the contender: every worker process writes its count into a small mapped file.

A result backend would be part of what is measured, and not every contender has one. One file per process, 16 bytes:
tasks finished, and when the latest one was (`time.monotonic_ns`, the same clock for all processes of a Linux machine).
It costs every contender's task the same microsecond.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from pathlib import Path

_SLOT = struct.Struct("=qq")
_lock = threading.Lock()
_slot: tuple[int, mmap.mmap] | None = None
_finished = 0


def note() -> None:
    """Count one finished task of this process."""
    global _finished, _slot  # noqa: PLW0603 - one counter per process is the point
    with _lock:
        if _slot is None or _slot[0] != os.getpid():
            _slot = (os.getpid(), _open(Path(os.environ["BENCH_COUNTER"]) / str(os.getpid())))
            _finished = 0
        _finished += 1
        _SLOT.pack_into(_slot[1], 0, _finished, time.monotonic_ns())


def _open(path: Path) -> mmap.mmap:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(bytes(_SLOT.size))
    fresh.rename(path)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), _SLOT.size)


class Board:
    """The counts of all worker processes of one measurement, read from outside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._slots: dict[str, mmap.mmap] = {}

    def total(self) -> tuple[int, int]:
        """Return how many tasks have finished, and when the latest one did (monotonic nanoseconds; 0 for none)."""
        for name in os.listdir(self._folder):  # noqa: PTH208 - called in a loop; names are enough
            if name not in self._slots and name.isdigit():
                with (self._folder / name).open("r+b") as file:
                    self._slots[name] = mmap.mmap(file.fileno(), _SLOT.size)
        entries = [_SLOT.unpack_from(slot) for slot in self._slots.values()]
        return sum(count for count, _ in entries), max((when for _, when in entries), default=0)

    def wait(self, target: int, timeout_seconds: float) -> int:
        """Wait until `target` tasks have finished and return when the last one did, in monotonic nanoseconds.

        Raises:
            TimeoutError: They did not finish in time; says how many did.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            count, last = self.total()
            if count >= target:
                return last
            if time.monotonic() > deadline:
                message = f"{count} of {target} tasks finished within {timeout_seconds:.0f} s"
                raise TimeoutError(message)
            time.sleep(0.002)  # another process's memory: there is nothing to wait on
