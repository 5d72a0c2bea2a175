"""Time as a parameter: code that needs to know it takes a `Clock`, and tests inject their own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """The two times a program needs."""

    def time(self) -> float:
        """Seconds since the epoch, UTC; what travels in messages. May jump."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; what deadlines are measured with. Never goes back."""


class SystemClock:
    """The clock of this machine."""

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return time.monotonic()


SYSTEM_CLOCK: Clock = SystemClock()


@dataclass(slots=True)
class ManualClock:
    """A clock that stands still until it is advanced.

    Args:
        now: what `time()` answers, seconds since the epoch.
    """

    now: float = 1_700_000_000.0
    _elapsed: float = field(default=0.0, init=False)

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        return self.now

    def monotonic(self) -> float:
        """Seconds this clock was advanced in all."""
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both times."""
        self.now += seconds
        self._elapsed += seconds
