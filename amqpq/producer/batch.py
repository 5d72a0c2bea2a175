"""Calls collected to be published together: what a program sees of them, and what is noted in their handles."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Generic, TypeVar

from amqpq.errors import BatchFailed, PublishError, TransportError
from amqpq.producer import attempts
from amqpq.producer.bulk import Bulk
from amqpq.producer.options import DEFAULT_TIMEOUT_SECONDS, NEVER, RetryPolicy
from amqpq.producer.publishing import Sending, unknown
from amqpq.replies.outcome import Known

H = TypeVar("H")

FORKED: Final = (
    "a part of this batch is under way in the process that this one was forked from; leave `with app.batch(stream=True)` "
    "before a fork, or make a batch of its own in each process"
)


class Batch(Generic[H]):
    """What was called inside `with app.batch()`.

    As a stream it is published in chunks while its block runs, otherwise all of it when the block ends. A message that the
    broker has confirmed is let go of. What a stream keeps, and what grows with it: the id of every call, the handle of every
    call that has a result to fetch, the error of every one that failed.

    Args:
        stream: Whether it is published while its block runs.
        timeout_seconds: For publishing all of it; of a stream, for each wait for the broker.
        retry: Whether to publish again what a lost connection left open.
    """

    def __init__(
        self, *, stream: bool = False, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, retry: bool = True
    ) -> None:
        self.open = True
        """Whether the block is still running; what is sent later by a task that was started in it is sent at once."""
        self.stream = stream
        self.results: list[H] = []
        """The handles that the calls returned, in order; of a stream only those with a result to fetch, not `reply: none`."""
        self.failures: dict[str, PublishError] = {}
        """By message id, why those that were not published were not; in a stream, so far."""
        self.failure: TransportError | None = None
        """Why nothing more can be published, where a stream ended early."""
        self.timeout_seconds = timeout_seconds
        self.retry = RetryPolicy() if retry else NEVER
        self.bulk = Bulk()
        """What is under way; for the producer."""
        self._ids: list[str] = []
        self._undecided: deque[Sending] = deque()
        self._known: deque[Known[Any]] = deque()

    def __len__(self) -> int:
        """Count the calls."""
        return len(self._ids)

    def __repr__(self) -> str:
        """Show how many calls there are, and how many of them the broker has not answered."""
        return f"<batch of {len(self)}, {len(self._undecided)} not answered>"

    @property
    def ids(self) -> tuple[str, ...]:
        """The message ids, which are the tasks' ids, in order."""
        return tuple(self._ids)

    @property
    def undecided(self) -> int:
        """How many calls are held because the broker has not answered them."""
        return len(self._undecided)

    @property
    def due(self) -> bool:
        """Whether a chunk is to leave now; also where none can any more, which the caller is to hear at once."""
        return self.stream and (self.bulk.full or self.failure is not None)

    def add(self, sending: Sending, known: Known[Any], result: H) -> bool:
        """Collect one call; say whether a chunk is to leave now."""
        known.unsent = True
        self.bulk.add(sending)
        self._undecided.append(sending)
        self._known.append(known)
        self._ids.append(known.id)
        if known.mode != "none" or not self.stream:
            self.results.append(result)
        return self.due

    def settle(self) -> list[Sending]:
        """Note in the handles what the broker has decided, and let go of it; return what is confirmed."""
        confirmed = []
        undecided, handles = self._undecided, self._known
        while undecided and (undecided[0].done or undecided[0].error is not None):
            sending, known = undecided.popleft(), handles.popleft()
            known.unsent = False
            if sending.done:
                confirmed.append(sending)
            else:
                self._fail(known, attempts.verdicts((sending,), None))
        return confirmed

    def end(self, failure: TransportError | None) -> list[Sending]:
        """Note the end of publishing, and why there is more to publish if there is; return what is confirmed."""
        self.failure = failure
        return self._close(attempts.verdicts(self._undecided, failure))

    def drop(self, why: BaseException) -> list[Sending]:
        """Note that the block was left by an exception, and nothing else is sent; return what is confirmed."""
        verdicts: dict[str, PublishError] = {}
        for each in self._undecided:
            if each.done:
                continue
            ended = f"its batch ended with {type(why).__name__}"
            if isinstance(each.error, PublishError):
                error: PublishError = each.error
            elif each.written:
                error = unknown(each, ended)
            else:
                message = f"task {each.plan.task}[{each.plan.task_id}] was not sent: {ended}"
                error = PublishError(message, message_id=each.plan.task_id)
            verdicts[each.plan.task_id] = error
        return self._close(verdicts)

    def check(self) -> None:
        """Raise where some were not published.

        Raises:
            BatchFailed: Each of them is listed.
        """
        if self.failures:
            raise BatchFailed(self.failures) from self.failure

    def _close(self, verdicts: dict[str, PublishError]) -> list[Sending]:
        self.bulk.forget()
        confirmed = [each for each in self._undecided if each.done]
        for known in self._known:
            known.unsent = False
            self._fail(known, verdicts)
        self._undecided.clear()
        self._known.clear()
        return confirmed

    def _fail(self, known: Known[Any], verdicts: dict[str, PublishError]) -> None:
        error = verdicts.get(known.id)
        if error is not None:
            known.send_error = self.failures[known.id] = error
