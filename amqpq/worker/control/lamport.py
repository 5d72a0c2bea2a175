"""Celery's logical clock (a Lamport clock): what orders events of several workers whose wall clocks differ."""

from __future__ import annotations

from typing import Final

LARGEST: Final = 2**53
"""A value from outside beyond this is nonsense; JSON readers lose precision there."""


class LamportClock:
    """Counts events, and never behind what others have counted."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def forward(self) -> int:
        """Count an event of ours; return the new value."""
        self.value += 1
        return self.value

    def adjust(self, other: object) -> None:
        """Take note of another's value; anything odd is ignored."""
        if type(other) is int and 0 < other < LARGEST:
            self.value = max(self.value, other) + 1
