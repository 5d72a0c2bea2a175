"""Celery 5 with its rpc:// result backend.

Options: `pool` (prefork or solo); `confirm` = "yes" makes py-amqp wait for the broker's confirm (not Celery's default).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import contender


class Contender:
    """A Celery producer; the worker is the real command."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        self._concurrency = contender.PROCESSES if setting.options["pool"] == "prefork" else 1
        os.environ.update(self._environment())
        from benchmarks.contenders import celery_tasks  # noqa: PLC0415 - it reads the environment when imported

        self._tasks: Any = celery_tasks

    def prepare(self) -> None:
        """Declare the queue with the arguments Celery itself would use."""
        with self._tasks.app.connection_for_write() as write:
            self._tasks.app.amqp.queues[self._setting.queue](write.default_channel).declare()

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command. Mingle and gossip are off: one worker has nobody to talk to."""
        command = contender.python(
            "celery",
            "-A",
            "benchmarks.contenders.celery_tasks",
            "worker",
            f"--pool={self._setting.options['pool']}",
            f"--concurrency={self._concurrency}",
            f"--queues={self._setting.queue}",
            "--without-mingle",
            "--without-gossip",
            "--loglevel=WARNING",
        )
        return command, self._environment()

    def publish(self, count: int) -> None:
        """Call `delay` on the task without result."""
        for _ in range(count):
            self._tasks.noop.delay(contender.PAYLOAD)

    def collect(self, count: int) -> None:
        """Call `delay`, then `get` on every result."""
        results = [self._tasks.echo.delay(contender.PAYLOAD) for _ in range(count)]
        for result in results:
            result.get(timeout=contender.RESULT_TIMEOUT_SECONDS)

    def round_trip(self) -> None:
        """Call and get."""
        self._tasks.echo.delay(contender.PAYLOAD).get(timeout=contender.RESULT_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Close the application's pools."""
        self._tasks.app.close()

    def _environment(self) -> dict[str, str]:
        return {
            **self._setting.environment(),
            "BENCH_CONCURRENCY": str(self._concurrency),
            "BENCH_CONFIRM": self._setting.options.get("confirm", "no"),
        }
