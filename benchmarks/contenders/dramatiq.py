"""dramatiq 2 on RabbitMQ.

Options: `confirm` = "yes" sets `confirm_delivery` (off is dramatiq's default).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import contender

THREADS = 4


class Contender:
    """A dramatiq producer; the worker is the real command."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        os.environ.update(self._environment())
        from benchmarks.contenders import dramatiq_tasks  # noqa: PLC0415 - it reads the environment when imported

        self._tasks: Any = dramatiq_tasks

    def prepare(self) -> None:
        """Declare the queue and its delay and dead-letter queues, as dramatiq does on the first message."""
        self._tasks.broker.declare_queue(self._setting.queue, ensure=True)

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command: processes as everybody, with dramatiq's threads inside."""
        command = contender.python(
            "dramatiq",
            "benchmarks.contenders.dramatiq_tasks",
            f"--processes={contender.PROCESSES}",
            f"--threads={THREADS}",
        )
        return command, self._environment()

    def publish(self, count: int) -> None:
        """Call `send`."""
        for _ in range(count):
            self._tasks.noop.send(contender.PAYLOAD)

    def collect(self, count: int) -> None:
        """Refuse: dramatiq keeps results in Redis or Memcached only."""
        raise NotImplementedError

    def round_trip(self) -> None:
        """Refuse: dramatiq keeps results in Redis or Memcached only."""
        raise NotImplementedError

    def close(self) -> None:
        """Delete what dramatiq declared beside the queue, and close the broker's connections."""
        for suffix in ("DQ", "XQ"):
            self._tasks.broker.channel.queue_delete(f"{self._setting.queue}.{suffix}")
        self._tasks.broker.close()

    def _environment(self) -> dict[str, str]:
        return {
            **self._setting.environment(),
            "BENCH_CONFIRM": self._setting.options.get("confirm", "no"),
            "dramatiq_queue_prefetch": str(contender.PREFETCH // contender.PROCESSES),
        }
