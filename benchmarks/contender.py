"""What every contender offers the driver, and what it has to declare about itself.

A contender is measured by `benchmarks.drive`, which treats all of them alike: the same phases, the same warm-up, the
same payload, the same way to count finished tasks. What differs is written down in `Facts` and printed beside the
numbers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

SMALL_BYTES = 200
"""What figures for small messages are usually given for."""


def payload(size: int) -> str:
    """Return the one argument of every task: a row of letters, or, above `SMALL_BYTES`, text that packs as text does."""
    if size <= SMALL_BYTES:
        return "x" * size
    return " ".join(str(number * number) for number in range(size // 4))[:size]


PAYLOAD = payload(int(os.environ.get("BENCH_PAYLOAD_BYTES", str(SMALL_BYTES))))

PREFETCH = 100
"""Unacknowledged messages per worker, for everybody: the defaults differ twentyfold and would decide the result."""

PROCESSES = 2
"""Worker processes where a contender has a process pool."""

RESULT_TIMEOUT_SECONDS = 60.0
"""How long any one result may take before the run fails; far above anything measured."""

Options: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a contender has switched on. Words for a table."""

    confirm: str
    late_ack: str
    signing: str
    persistent: str
    replies: str
    worker: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the benchmark: a module with its options, and how many messages it is worth.

    `scale` multiplies the count of messages without result, `calls` that of calls with one, so that a driver that is
    twenty times faster is still measured over a time that means something. `results` is False where the library has none
    on RabbitMQ. `--quick` takes the rows marked `quick`.
    """

    name: str
    module: str
    facts: Facts
    options: Options = field(default_factory=dict)
    scale: int = 1
    calls: int = 1
    results: bool = True
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """Where one measurement happens: the broker, a folder of its own, the queue, and the folder of the counts."""

    url: str
    folder: Path
    queue: str
    counter: Path
    options: Options

    def environment(self) -> dict[str, str]:
        """Return the environment of a worker process: the counter's folder and our own modules on the path."""
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        return {
            **os.environ,
            "PYTHONPATH": path,
            "BENCH_URL": self.url,
            "BENCH_QUEUE": self.queue,
            "BENCH_COUNTER": str(self.counter),
        }


class Contender(Protocol):
    """One library, ready to send. Made in the driver's process; its worker is a process of its own."""

    def prepare(self) -> None:
        """Declare what has to exist on the broker."""

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command of the worker and its environment."""

    def publish(self, count: int) -> None:
        """Send `count` tasks without results; return when the library holds them for sent."""

    def collect(self, count: int) -> None:
        """Send `count` calls, then wait for all their results."""

    def round_trip(self) -> None:
        """Send one call and wait for its result."""

    def close(self) -> None:
        """Give back connections."""


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `module` with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
