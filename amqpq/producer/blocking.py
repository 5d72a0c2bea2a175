"""The producer of blocking code: publishes, and tries again within the deadline where the connection goes away."""

from __future__ import annotations

import time
from typing import Generic, TypeVar

from amqpq import log
from amqpq.errors import LocalError, TransportError
from amqpq.producer import attempts, publishing
from amqpq.producer.attempts import Attempts
from amqpq.producer.batch import FORKED, Batch
from amqpq.producer.options import RetryPolicy
from amqpq.producer.publishing import Sending
from amqpq.producer.telling import published
from amqpq.replies.runner import Runner
from amqpq.transport import flow

H = TypeVar("H")

logger = log.logger(log.PRODUCER)


class Producer:
    """Publishes for one application. Safe in any thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def send(self, sending: Sending, *, timeout_seconds: float, retry: RetryPolicy) -> None:
        """Publish one call; return when the broker has confirmed it.

        Raises:
            Unroutable, Nacked, Blocked, OutcomeUnknown: Why it is not, or may not be, published.
            BrokerUnreachable, OperationTimeout: It was not sent.
        """
        course = Attempts(retry, time.monotonic() + timeout_seconds)
        while True:
            try:
                session = self._runner.session(course.left(time.monotonic()))
                flow.run(publishing.submit(session, sending), course.left(time.monotonic()))
            except TransportError as error:
                pause = course.pause(error, time.monotonic())
                if pause is None:
                    word = attempts.last_word(sending, error)
                    if word is error:
                        raise
                    raise word from error
                logger.info("publishing task %s again after: %s", sending.plan.task_id, error)
                self._runner.wait(pause, course.deadline)
            else:
                return

    def passage(self, batch: Batch[H]) -> Passage[H]:
        """Return what publishes a batch."""
        return Passage(self._runner, batch)


class Passage(Generic[H]):
    """Publishes one batch, on the thread that makes its calls: there is no other one."""

    def __init__(self, runner: Runner, batch: Batch[H]) -> None:
        self._runner = runner
        self.batch = batch

    def feed(self) -> None:
        """Send what is due, and wait only where too much is under way.

        Raises:
            BatchFailed: The broker could not be reached in time, or refuses to be published to: nothing more is sent.
        """
        if self.batch.due:
            self._publish(last=False)

    def finish(self) -> None:
        """Send the rest; return when the broker has confirmed all of it.

        Raises:
            BatchFailed: Some were not published; each is listed with its reason. The others were.
        """
        self._publish(last=True)

    def leave(self, why: BaseException) -> None:
        """Drop what is not begun, because the block was left by an exception, and hear what became of the rest.

        An interruption waits for nothing.
        """
        batch = self.batch
        bulk = batch.bulk
        bulk.disown()
        bulk.forget()
        try:
            if bulk.session is not None and isinstance(why, Exception):
                flow.run(bulk.submit(bulk.session, last=True), batch.timeout_seconds)
        except TransportError as error:
            logger.info("a batch that was left by an exception could not be finished: %s", error)
        finally:
            bulk.interrupt()
            published(batch.drop(why))

    def _publish(self, *, last: bool) -> None:
        batch, bulk, runner = self.batch, self.batch.bulk, self._runner
        if bulk.disown():
            raise LocalError(FORKED)
        failure = batch.failure
        course = Attempts(batch.retry, time.monotonic() + batch.timeout_seconds)
        while failure is None:
            try:
                session = bulk.session or runner.session(course.left(time.monotonic()))
                flow.run(bulk.submit(session, last=last), course.left(time.monotonic()))
                break
            except TransportError as error:
                pause = course.pause(error, time.monotonic())
                if pause is None:
                    failure = error
                    break
                logger.info("publishing the rest of a batch again after: %s", error)
                runner.wait(pause, course.deadline)
        if failure is None and not last:
            published(batch.settle())
            return
        published(batch.end(failure))
        batch.check()
