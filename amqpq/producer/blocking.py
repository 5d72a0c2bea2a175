"""The producer of blocking code: publishes, and tries again within the deadline where the connection goes away."""

from __future__ import annotations

import time
from collections.abc import Sequence

from amqpq import log
from amqpq.errors import BatchFailed, TransportError
from amqpq.producer import attempts, bulk, publishing
from amqpq.producer.attempts import Attempts
from amqpq.producer.options import RetryPolicy
from amqpq.producer.publishing import Sending
from amqpq.replies.runner import Runner
from amqpq.transport import flow

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

    def send_all(self, sendings: Sequence[Sending], *, timeout_seconds: float, retry: RetryPolicy) -> None:
        """Publish a batch; return when the broker has confirmed all of it.

        Raises:
            BatchFailed: Some were not published; each is listed with its reason. The others were.
        """
        course = Attempts(retry, time.monotonic() + timeout_seconds)
        failure: TransportError | None = None
        while True:
            try:
                session = self._runner.session(course.left(time.monotonic()))
                flow.run(bulk.submit_batch(session, sendings), course.left(time.monotonic()))
                break
            except TransportError as error:
                pause = course.pause(error, time.monotonic())
                if pause is None:
                    failure = error
                    break
                logger.info("publishing the rest of a batch again after: %s", error)
                self._runner.wait(pause, course.deadline)
        failures = attempts.verdicts(sendings, failure)
        if failures:
            raise BatchFailed(failures) from failure
