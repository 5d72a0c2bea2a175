"""taskiq on taskiq-aio-pika: confirms are aio-pika's default, and the acknowledgement comes after the task ran."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import contender


class Contender:
    """A taskiq producer; the worker is the real command."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        self._loop = asyncio.new_event_loop()
        os.environ.update(setting.environment())
        from benchmarks.contenders import taskiq_tasks  # noqa: PLC0415 - it reads the environment when imported

        self._tasks: Any = taskiq_tasks

    def prepare(self) -> None:
        """Connect, which declares the exchange and the queues."""
        self._loop.run_until_complete(self._tasks.broker.startup())

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command."""
        command = contender.python(
            "taskiq",
            "worker",
            "benchmarks.contenders.taskiq_tasks:broker",
            f"--workers={contender.PROCESSES}",
            "--log-level=WARNING",
        )
        return command, self._setting.environment()

    def publish(self, count: int) -> None:
        """Await `kiq`, one after the other."""
        self._loop.run_until_complete(self._publish(count))

    def collect(self, count: int) -> None:
        """Refuse: no result backend of taskiq is on RabbitMQ."""
        raise NotImplementedError

    def round_trip(self) -> None:
        """Refuse: no result backend of taskiq is on RabbitMQ."""
        raise NotImplementedError

    def close(self) -> None:
        """Delete what taskiq declared beside the queue, and close its connections."""
        self._loop.run_until_complete(self._close())

    async def _publish(self, count: int) -> None:
        for _ in range(count):
            await self._tasks.noop.kiq(contender.PAYLOAD)

    async def _close(self) -> None:
        channel = self._tasks.broker.write_channel
        await channel.queue_delete(f"{self._setting.queue}.dead")
        await channel.exchange_delete(self._setting.queue)
        await self._tasks.broker.shutdown()
