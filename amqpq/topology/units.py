"""Durations and sizes as the topology file writes them: `10m`, `30d`, `4KiB`."""

from __future__ import annotations

import re
from typing import Final

SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
BYTES: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
AGES: Final = {"Y": 365 * 86400, "M": 30 * 86400, "D": 86400, "h": 3600, "m": 60, "s": 1}
"""The units of a stream's age, as the broker reads them (`rabbit_amqqueue:check_max_age`)."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def seconds(text: str) -> float:
    """Read a duration: a number with a unit, or several in a row (`1h30m`).

    Raises:
        ValueError: It is not one.
    """
    compact = text.strip()
    total, at = 0.0, 0
    while match := _DURATION.match(compact, at):
        total += float(match.group(1)) * SECONDS[match.group(2)]
        at = match.end()
    if at == 0 or at != len(compact):
        msg = f"'{text}' is not a duration; write a number and a unit: 500ms, 30s, 10m, 2h, 1d, 1w"
        raise ValueError(msg)
    return total


def size_bytes(text: str) -> int:
    """Read a size: a number with a unit.

    Raises:
        ValueError: It is not one.
    """
    match = _SIZE.fullmatch(text.strip())
    units = {name.lower(): value for name, value in BYTES.items()}
    if match is None or match.group(2).lower() not in units:
        msg = f"'{text}' is not a size; write a number and a unit: 512B, 4KiB, 16MiB, 1GiB (or KB, MB, GB)"
        raise ValueError(msg)
    return round(float(match.group(1)) * units[match.group(2).lower()])


def duration_text(value: float) -> str:
    """Write a duration in its largest unit that fits evenly."""
    for unit in ("w", "d", "h", "m", "s"):
        if value >= SECONDS[unit] and value % SECONDS[unit] == 0:
            return f"{value / SECONDS[unit]:g}{unit}"
    return f"{value * 1000:g}ms" if value < 1 else f"{value:g}s"


def age_seconds(text: str) -> int:
    """Read the age that a stream keeps, as the broker writes it: one number, one unit (`7D`).

    Raises:
        ValueError: It is not one.
    """
    if not text[:-1].isdigit() or text[-1:] not in AGES:
        msg = f"'{text}' is not the age of a stream; write a number and one of {', '.join(AGES)}"
        raise ValueError(msg)
    return int(text[:-1]) * AGES[text[-1]]


def age_text(seconds: int) -> str:
    """Write the age that a stream keeps as the broker takes it, in the largest of D, h, m, s that fits evenly."""
    unit = next(unit for unit in "Dhms" if seconds % AGES[unit] == 0)
    return f"{seconds // AGES[unit]}{unit}"
