"""What a message says, apart from how it is written: a task to run, and what became of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from amqpq.types import EMPTY, Table


class TaskEnvelope(NamedTuple):
    """A task to run, as it travels (Celery's message protocol 2).

    `eta` and `expires` are ISO 8601 with an offset. `timelimit` is (hard, soft), in seconds. `embed` holds what is to
    follow: `callbacks`, `errbacks`, `chain`, `chord`. `headers` are the user's own; they are signed with the rest.
    """

    id: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = EMPTY
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    retries: int = 0
    eta: str | None = None
    expires: str | None = None
    timelimit: tuple[float | None, float | None] = (None, None)
    origin: str = ""
    shadow: str | None = None
    ignore_result: bool = False
    reply_to: str | None = None
    correlation_id: str | None = None
    """None is the task's id."""
    priority: int | None = None
    embed: Mapping[str, Any] = EMPTY
    headers: Table = EMPTY


class ResultEnvelope(NamedTuple):
    """What became of a task, finally or so far.

    `result` is the return value; for a failure `{exc_type, exc_message, exc_module}` (`amqpq.message.failure` makes and
    reads it); for a state on the way whatever the task reported. `traceback` is text.
    """

    task_id: str
    status: str
    result: Any = None
    traceback: str | None = None
    children: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What the properties of a message claim, unverified: for logs, dead letters and refusals, never for decisions.

    Fields that are absent or of the wrong type are None or empty.
    """

    id: str = ""
    task: str = ""
    reply_to: str | None = None
    correlation_id: str | None = None
    expires: str | None = None
    eta: str | None = None
    retries: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    priority: int | None = None
    origin: str = ""
    serializer: str | None = None
    """The name for the content type: answer in it, since the sender can read it."""
    key_id: str | None = None
    signed_at_ms: int | None = None
    signature: str | None = None
    route: str | None = None
