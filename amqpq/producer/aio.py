"""The producer of asyncio code: the twin of `amqpq.producer.blocking`."""

from __future__ import annotations

from collections.abc import Sequence

from amqpq import log
from amqpq.errors import BatchFailed, TransportError
from amqpq.producer import attempts, bulk, publishing
from amqpq.producer.attempts import Attempts
from amqpq.producer.options import RetryPolicy
from amqpq.producer.publishing import Sending
from amqpq.replies.aiorunner import AsyncRunner
from amqpq.transport import aioflow

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

    async def send_all(self, sendings: Sequence[Sending], *, timeout_seconds: float, retry: RetryPolicy) -> None:
        """Publish a batch; return when the broker has confirmed all of it. Raises as `Producer.send_all` does."""
        now = self._runner.now
        course = Attempts(retry, now() + timeout_seconds)
        failure: TransportError | None = None
        while True:
            try:
                session = await self._runner.session(course.left(now()))
                await aioflow.run(bulk.submit_batch(session, sendings), course.left(now()))
                break
            except TransportError as error:
                pause = course.pause(error, now())
                if pause is None:
                    failure = error
                    break
                logger.info("publishing the rest of a batch again after: %s", error)
                await self._runner.wait(pause, course.deadline)
        failures = attempts.verdicts(sendings, failure)
        if failures:
            raise BatchFailed(failures) from failure
