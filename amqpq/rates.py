"""Rates as people write them: `100/m`. Values; they import nothing of ours."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
"""Seconds in a unit; Celery's three."""

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a unit of time (`s`, `m`, `h`)."""

    count: float
    unit: str = "s"

    def __str__(self) -> str:
        """Write it as it is read."""
        return f"{self.count:g}/{self.unit}"

    @property
    def per_second(self) -> float:
        """How many in a second."""
        return self.count / UNITS[self.unit]

    @property
    def interval(self) -> float:
        """Seconds from one to the next, where they come evenly."""
        return UNITS[self.unit] / self.count


def rate_of(value: object) -> Rate | None:
    """Read a rate: `100/m`, `10/s`, `5/h`, or a number, which counts per second. None and 0 are no rate.

    Raises:
        ValueError: It is none.
    """
    if value is None:
        return None
    text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value
    match = _RATE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or not math.isfinite(float(match[1])):
        message = f"{value!r} is not a rate; write a number and a unit: 10/s, 100/m, 5/h (a number alone is per second)"
        raise ValueError(message)
    count = float(match[1])
    return Rate(count, match[2] or "s") if count else None
