"""When a publish is tried again, and what its caller learns when it is not. Pure: errors and the clock are handed in."""

from __future__ import annotations

from collections.abc import Sequence

from amqpq.errors import ChannelClosed, ConnectionLost, OperationTimeout, OutcomeUnknown, PublishError, TransportError
from amqpq.producer.options import RetryPolicy
from amqpq.producer.publishing import Sending, unknown

RETRYABLE = (ConnectionLost, ChannelClosed, OutcomeUnknown)
"""After these the same message may be published again, under the same id, on the next connection or channel."""


class Attempts:
    """The attempts of one publish.

    Args:
        policy: How often and how fast.
        deadline: Of the publish as a whole, on the monotonic clock.
    """

    def __init__(self, policy: RetryPolicy, deadline: float) -> None:
        self.deadline = deadline
        self._policy = policy
        self._retries = 0

    def left(self, now: float) -> float:
        """Return the seconds left."""
        return max(self.deadline - now, 0.0)

    def pause(self, error: TransportError, now: float) -> float | None:
        """Return the seconds to wait before the next attempt, or None where there is to be none."""
        if not isinstance(error, RETRYABLE):
            return None
        pause = self._policy.pause(self._retries)
        self._retries += 1
        return None if pause is None or pause >= self.left(now) else pause


def last_word(sending: Sending, error: TransportError) -> TransportError:
    """Return what the caller of one publish is told, when its last attempt ended with `error`.

    An earlier attempt may have reached the broker: then the outcome is unknown, whatever became of the later ones.
    """
    if sending.written and not isinstance(error, PublishError):
        return unknown(sending, str(error))
    if type(error) is OperationTimeout:
        message = f"task {sending.plan.task}[{sending.plan.task_id}] was not sent before the deadline: {error}"
        return OperationTimeout(message)
    return error


def verdicts(sendings: Sequence[Sending], error: TransportError | None) -> dict[str, PublishError]:
    """Return, by message id, why those of a batch that were not published were not."""
    failures: dict[str, PublishError] = {}
    for each in sendings:
        if each.done:
            continue
        message_id = each.plan.task_id
        if isinstance(each.error, PublishError):
            failures[message_id] = each.error
        elif each.written:
            failures[message_id] = unknown(each, str(error) if error is not None else "")
        elif isinstance(error, PublishError) and not isinstance(error, OutcomeUnknown):
            failures[message_id] = type(error)(str(error), message_id=message_id)
        else:
            failures[message_id] = PublishError(f"not sent: {error}", message_id=message_id)
    return failures
