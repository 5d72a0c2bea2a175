"""What was measured, as values, and how it is made of what the probes note. Pure.

Rates are per second, latencies in milliseconds, CPU in microseconds per message. `busy` is CPU seconds per second of this
whole process, all threads: 1.0 is one core.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

SECTIONS: Final = 5
"""A rate is looked at in so many parts of equal time: how far they differ tells whether something else is going on."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The two times a measure needs, in seconds: what passes, and what this process computes."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a measure had come at a moment: messages since its beginning, and both clocks."""

    messages: int
    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one thing takes when nothing else is under way."""

    p50_ms: float
    p99_ms: float
    samples: int


@dataclass(frozen=True, slots=True)
class Rate:
    """How many messages pass in a second when many are under way."""

    per_second: float
    slowest_per_second: float
    """In the slowest fifth of the time; the same as `per_second` where the measure was too short to be parted."""
    fastest_per_second: float
    cpu_us: float
    busy: float
    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Publishing:
    """Publishing with confirms to one queue: many at once, and one after another."""

    batch: Rate
    single: Latency


@dataclass(frozen=True, slots=True)
class Replies:
    """What comes back: a reply queue per task (declare, publish, fetch, delete), and direct replies."""

    queue_per_task: Rate
    direct: Rate


@dataclass(frozen=True, slots=True)
class CodecCost:
    """CPU for one message, without a broker: to write (and sign) it, and to check and read it."""

    encode_us: float
    decode_us: float


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured; what was not is None or empty.

    `publish` and `throughput` are by queue type, `classic` and `quorum`; `signing` by algorithm, `off` among them.
    """

    network: Latency
    """A question that the broker answers without doing anything: the way there and back."""
    publish: Mapping[str, Publishing] = field(default_factory=dict)
    round_trip: Latency | None = None
    """A call and its direct reply, one at a time."""
    throughput: Mapping[str, Rate] = field(default_factory=dict)
    """Publisher and consumer at once, acknowledged late."""
    replies: Replies | None = None
    signing: Mapping[str, CodecCost] = field(default_factory=dict)


def latency(times: Sequence[float]) -> Latency:
    """Return median and 99th percentile of at least one time, in seconds."""
    ordered = sorted(times)
    return Latency(_nearest(ordered, 0.5) * 1e3, _nearest(ordered, 0.99) * 1e3, len(ordered))


def rate(marks: Sequence[Mark]) -> Rate:
    """Return the rate between the first mark and the last, which must be later and have more messages."""
    first, last = marks[0], marks[-1]
    messages, seconds, cpu = last.messages - first.messages, last.wall - first.wall, last.cpu - first.cpu
    per_second = messages / seconds
    parts = _sections(marks) or [per_second]
    return Rate(
        per_second=per_second,
        slowest_per_second=min(parts),
        fastest_per_second=max(parts),
        cpu_us=cpu / messages * 1e6,
        busy=cpu / seconds,
        messages=messages,
        seconds=seconds,
    )


def _nearest(ordered: Sequence[float], share: float) -> float:
    """Return the percentile by nearest rank: a time that did occur."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _sections(marks: Sequence[Mark]) -> list[float]:
    """Return the rates of the sections; empty where marks are too few to tell."""
    if len(marks) < SECTIONS * 4:
        return []
    length = (marks[-1].wall - marks[0].wall) / SECTIONS
    borders = [marks[0]]
    for mark in marks[1:-1]:
        if len(borders) < SECTIONS and mark.wall >= marks[0].wall + length * len(borders):
            borders.append(mark)
    borders.append(marks[-1])
    return [
        (later.messages - earlier.messages) / (later.wall - earlier.wall)
        for earlier, later in pairwise(borders)
        if later.wall > earlier.wall
    ]
