"""FastStream on RabbitMQ (aio-pika): confirms are its default, and so is the acknowledgement after the handler.

It is a messaging framework and no task queue: a call is `broker.request`, through direct reply-to.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import contender

IN_FLIGHT = 100
"""Requests on their way at once while results are collected."""


class Contender:
    """A FastStream producer; the worker is the real command."""

    def __init__(self, setting: contender.Setting) -> None:
        self._setting = setting
        self._loop = asyncio.new_event_loop()
        os.environ.update(setting.environment())
        from benchmarks.contenders import faststream_tasks  # noqa: PLC0415 - it reads the environment when imported

        self._tasks: Any = faststream_tasks

    def prepare(self) -> None:
        """Connect and declare the queue."""
        self._loop.run_until_complete(self._prepare())

    def worker(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command."""
        command = contender.python(
            "faststream",
            "run",
            "benchmarks.contenders.faststream_tasks:app",
            f"--workers={contender.PROCESSES}",
            "--log-level=warning",
        )
        return command, self._setting.environment()

    def publish(self, count: int) -> None:
        """Await `publish`, one after the other."""
        self._loop.run_until_complete(self._publish(count))

    def collect(self, count: int) -> None:
        """Await `request`, `IN_FLIGHT` at once."""
        self._loop.run_until_complete(self._collect(count))

    def round_trip(self) -> None:
        """Await one `request`."""
        self._loop.run_until_complete(self._request())

    def close(self) -> None:
        """Close the connection."""
        self._loop.run_until_complete(self._tasks.broker.stop())

    async def _prepare(self) -> None:
        await self._tasks.broker.connect()
        await self._tasks.broker.declare_queue(self._tasks.QUEUE)

    async def _publish(self, count: int) -> None:
        for _ in range(count):
            await self._tasks.broker.publish(contender.PAYLOAD, queue=self._setting.queue, persist=True)

    async def _collect(self, count: int) -> None:
        for begin in range(0, count, IN_FLIGHT):
            await asyncio.gather(*(self._request() for _ in range(min(IN_FLIGHT, count - begin))))

    async def _request(self) -> None:
        timeout = contender.RESULT_TIMEOUT_SECONDS
        await self._tasks.broker.request(contender.PAYLOAD, queue=self._setting.queue, persist=True, timeout=timeout)
