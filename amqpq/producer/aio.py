"""The producer of asyncio code: the twin of `amqpq.producer.blocking`."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from amqpq import log
from amqpq.errors import TransportError
from amqpq.producer import attempts, publishing
from amqpq.producer.attempts import Attempts
from amqpq.producer.batch import Batch
from amqpq.producer.options import RetryPolicy
from amqpq.producer.publishing import Sending
from amqpq.producer.telling import published
from amqpq.replies.aiorunner import AsyncRunner
from amqpq.replies.mailbox import ignore
from amqpq.transport import aioflow

H = TypeVar("H")

logger = log.logger(log.PRODUCER)


class AsyncProducer:
    """Publishes for one application, on one event loop. A cancelled publish deletes its reply queue again."""

    def __init__(self, runner: AsyncRunner) -> None:
        self._runner = runner

    async def send(self, sending: Sending, *, timeout_seconds: float, retry: RetryPolicy) -> None:
        """Publish one call; return when the broker has confirmed it. Raises as `Producer.send` does."""
        now = self._runner.now
        course = Attempts(retry, now() + timeout_seconds)
        while True:
            try:
                session = await self._runner.session(course.left(now()))
                await aioflow.run(publishing.submit(session, sending), course.left(now()))
            except TransportError as error:
                pause = course.pause(error, now())
                if pause is None:
                    word = attempts.last_word(sending, error)
                    if word is error:
                        raise
                    raise word from error
                logger.info("publishing task %s again after: %s", sending.plan.task_id, error)
                await self._runner.wait(pause, course.deadline)
            else:
                return

    def passage(self, batch: Batch[H]) -> AsyncPassage[H]:
        """Return what publishes a batch."""
        return AsyncPassage(self._runner, batch)


class AsyncPassage(Generic[H]):
    """Publishes one batch: the twin of `Passage`, for the task that made the batch and those that it starts.

    Whichever of them completes a chunk waits for it. Should that one be cancelled meanwhile, the chunk, which is not all its
    own, goes on without it.
    """

    def __init__(self, runner: AsyncRunner, batch: Batch[H]) -> None:
        self._runner = runner
        self.batch = batch
        self._turn = asyncio.Lock()
        self._steps: set[asyncio.Task[None]] = set()

    async def feed(self) -> None:
        """Send what is due, and wait only where too much is under way. Raises as `Passage.feed` does."""
        step = asyncio.get_running_loop().create_task(self._feed())
        self._steps.add(step)
        step.add_done_callback(self._steps.discard)
        ignore(step)
        await asyncio.shield(step)

    async def finish(self) -> None:
        """Send the rest; return when the broker has confirmed all of it. Raises as `Passage.finish` does."""
        async with self._turn:
            await self._publish(last=True)

    async def leave(self, why: BaseException) -> None:
        """Drop what is not begun, because the block was left by an exception; see `Passage.leave`.

        A cancellation waits for nothing.
        """
        batch = self.batch
        bulk = batch.bulk
        bulk.forget()
        try:
            if not isinstance(why, Exception):
                await self._cancel()
            async with self._turn:
                if bulk.session is not None and isinstance(why, Exception):
                    await aioflow.run(bulk.submit(bulk.session, last=True), batch.timeout_seconds)
        except TransportError as error:
            logger.info("a batch that was left by an exception could not be finished: %s", error)
        finally:
            bulk.interrupt()
            published(batch.drop(why))

    async def _cancel(self) -> None:
        """Cancel what is being fed; its cleaning up waits for nothing."""
        steps = tuple(self._steps)
        for step in steps:
            step.cancel()
        if steps:
            await asyncio.wait(steps)

    async def _feed(self) -> None:
        async with self._turn:
            if self.batch.due:
                await self._publish(last=False)

    async def _publish(self, *, last: bool) -> None:
        batch, bulk, runner = self.batch, self.batch.bulk, self._runner
        failure = batch.failure
        course = Attempts(batch.retry, runner.now() + batch.timeout_seconds)
        while failure is None:
            try:
                session = bulk.session or await runner.session(course.left(runner.now()))
                await aioflow.run(bulk.submit(session, last=last), course.left(runner.now()))
                break
            except TransportError as error:
                pause = course.pause(error, runner.now())
                if pause is None:
                    failure = error
                    break
                logger.info("publishing the rest of a batch again after: %s", error)
                await runner.wait(pause, course.deadline)
        if failure is None and not last:
            published(batch.settle())
            return
        published(batch.end(failure))
        batch.check()
