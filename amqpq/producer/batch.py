"""Calls collected to be published together."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from amqpq.errors import PublishError
from amqpq.producer.publishing import Sending
from amqpq.replies.outcome import Known

H = TypeVar("H")


class Batch(Generic[H]):
    """What was called inside `with app.batch()`: nothing of it is sent before the block ends.

    `results` are the handles that the calls returned, in order; they can be asked after the block.
    """

    def __init__(self) -> None:
        self.open = True
        """Whether the block is still running; what is sent later by a task that was started in it is sent at once."""
        self.results: list[H] = []
        self.sendings: list[Sending] = []
        self._known: list[Known[Any]] = []

    def __len__(self) -> int:
        """Count the calls."""
        return len(self.sendings)

    def __repr__(self) -> str:
        """Show how many calls there are."""
        return f"<batch of {len(self)}>"

    @property
    def ids(self) -> tuple[str, ...]:
        """The message ids, which are the tasks' ids, in order."""
        return tuple(each.plan.task_id for each in self.sendings)

    def add(self, sending: Sending, known: Known[Any], result: H) -> None:
        """Collect one call."""
        known.unsent = True
        self.sendings.append(sending)
        self._known.append(known)
        self.results.append(result)

    def sent(self, failures: dict[str, PublishError]) -> None:
        """Note what became of each when the block ended."""
        self.open = False
        for known in self._known:
            known.unsent = False
            known.send_error = failures.get(known.id)

    def dropped(self, why: BaseException) -> None:
        """Note that nothing was sent, because the block was left by an exception."""
        failures: dict[str, PublishError] = {}
        for each in self.sendings:
            message_id = each.plan.task_id
            message = f"task {each.plan.task}[{message_id}] was not sent: its batch ended with {type(why).__name__}"
            failures[message_id] = PublishError(message, message_id=message_id)
        self.sent(failures)
