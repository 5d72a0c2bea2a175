"""What a caller knows of a task so far: the state that `AsyncResult` and `AsyncTaskResult` share, and how it reads."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from amqpq import lifecycle
from amqpq.errors import AmqpqError, LocalError, NoReplyExpected, ReplyLost, ResultNotFound, ResultTimeout
from amqpq.message.envelope import ResultEnvelope
from amqpq.replies import reading
from amqpq.replies.direct import Slot

R = TypeVar("R")


class Known(Generic[R]):
    """What is known of one task. Holds no connection.

    Args:
        task_id: The task.
        mode: How its reply comes: task, direct or none.
        slot: Where a direct reply arrives.
        task: Its name, where it is known.
    """

    __slots__ = ("fetched", "final", "forgotten", "id", "mode", "send_error", "slot", "task", "unsent")

    def __init__(self, task_id: str, *, mode: str = "task", slot: Slot | None = None, task: str = "") -> None:
        self.id = task_id
        self.task = task
        self.mode = mode
        self.slot = slot
        self.final: ResultEnvelope | None = None
        """The final state, once it was seen."""
        self.fetched = False
        """Whether its queue was deleted by us."""
        self.forgotten = False
        self.unsent = False
        """Whether it waits in a batch that is not published yet."""
        self.send_error: AmqpqError | None = None
        """Why it was not published, where a batch failed."""

    def check_answerable(self) -> None:
        """Raise where there is nothing to wait for or to look at.

        Raises:
            NoReplyExpected: It was sent with `reply: none`.
            ResultNotFound: It was forgotten.
            LocalError: It was not published yet.
        """
        if self.send_error is not None:
            raise self.send_error
        if self.unsent:
            message = f"task {self.id} is in a batch and not published yet; leave `with app.batch()` first"
            raise LocalError(message)
        if self.mode == "none":
            message = f"task {self.id} was sent with reply: none; there is no result to fetch"
            raise NoReplyExpected(message)
        if self.forgotten:
            message = f"task {self.id} was forgotten here; its reply queue is deleted"
            raise ResultNotFound(message)

    def learn(self, envelope: ResultEnvelope | None) -> ResultEnvelope | None:
        """Remember a final state; return what was given."""
        if envelope is not None and reading.is_final(envelope):
            self.final = envelope
        return envelope

    def forget(self) -> None:
        """Note that the result is not wanted any more."""
        self.slot = None
        self.final = None
        self.forgotten = True

    def value(self, envelope: ResultEnvelope, *, propagate: bool) -> Any:
        """Return what `get` returns for a final state: the value, or the exception raised or (`propagate` off) returned."""
        error = reading.error_of(envelope)
        if error is None:
            return envelope.result
        if propagate:
            raise error
        return error

    def late(self, timeout_seconds: float | None, state: str) -> ResultTimeout:
        """Return the error of a `get` whose time ran out."""
        again = "its result, once there, can still be fetched by this id" if self.mode == "task" else "call get() again"
        return ResultTimeout(
            f"task {self._named} did not finish within {timeout_seconds or 0:g} s (last state seen: {state}); {again}"
        )

    def lost(self, reason: str) -> ReplyLost:
        """Return the error of a direct reply that can no longer come."""
        return ReplyLost(
            f"the reply of task {self._named} is lost: the connection it would have come through went away ({reason}). "
            "Direct replies are at most once; use reply='task' where that is not enough"
        )

    @property
    def _named(self) -> str:
        return f"{self.task}[{self.id}]" if self.task else self.id


def state_word(envelope: ResultEnvelope | None) -> str:
    """Return the state word of what was seen; an empty reply queue is PENDING."""
    return lifecycle.State.PENDING.value if envelope is None else str(envelope.status)


def result_seen(envelope: ResultEnvelope | None) -> Any:
    """Return what `AsyncResult.result` shows: the value, the exception, what the task reported last, or None."""
    if envelope is None:
        return None
    return reading.error_of(envelope) or envelope.result
