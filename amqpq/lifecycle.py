"""The life of a task as its caller sees it: state words, allowed transitions, and the reply queue that holds the latest one.

::

    PENDING --> STARTED --> PROGRESS (or any word of the task's own) --> SUCCESS | FAILURE | RETRY --> STARTED ...
       |                        |  ^
       |                        +--+
       +--> EXPIRED | REVOKED | REJECTED

The words are Celery's, so that a Celery caller reads an amqpq worker's states and the other way round; EXPIRED is ours.
PENDING is never on the wire: it is what an existing, empty reply queue means. A queue that does not exist is no state at
all: the id was never sent, was fetched already, or expired.

In reply mode `task` each task has a queue of its own, declared by the producer before it publishes and deleted by whoever
retrieves the result. It holds one message, the latest state: `x-max-length: 1` with `drop-head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from amqpq.types import QueueSpec


class State(StrEnum):
    """The state words that mean something to amqpq; a task may report words of its own besides."""

    PENDING = "PENDING"
    """The reply queue exists and is empty: no worker has said anything yet."""
    STARTED = "STARTED"
    """A worker began (only with `track_started`)."""
    PROGRESS = "PROGRESS"
    """The task reported something by `update_state`."""
    RETRY = "RETRY"
    """An attempt failed and another one is to come."""
    SUCCESS = "SUCCESS"
    """The function returned."""
    FAILURE = "FAILURE"
    """The function raised."""
    EXPIRED = "EXPIRED"
    """`expires` passed before a worker could run it."""
    REVOKED = "REVOKED"
    """A worker was told not to run it, or to end it; a Celery worker says so of expired ones too."""
    REJECTED = "REJECTED"
    """A worker could not run it, for a reason that is not the function's."""


FINAL: frozenset[str] = frozenset({State.SUCCESS, State.FAILURE, State.EXPIRED, State.REVOKED, State.REJECTED})
"""States after which nothing follows: the result may be retrieved."""

_INTERMEDIATE: frozenset[str] = frozenset({State.STARTED, State.PROGRESS, State.RETRY})

TRANSITIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        State.PENDING: _INTERMEDIATE | FINAL,
        State.STARTED: _INTERMEDIATE | FINAL,
        State.PROGRESS: _INTERMEDIATE | FINAL,
        # A late acknowledgement means that a task may start again on another worker: STARTED follows itself.
        State.RETRY: _INTERMEDIATE | FINAL,
        **{state: frozenset[str]() for state in FINAL},
    }
)
"""What may follow each state. A word of the task's own behaves as PROGRESS."""

REPLY_QUEUE_PREFIX = "amqpq.reply."
"""Reply queues are `amqpq.reply.<task id>`; permissions for producers and workers are written against this prefix."""

DIRECT_REPLY_QUEUE = "amq.rabbitmq.reply-to"
"""RabbitMQ's pseudo-queue for direct replies (https://www.rabbitmq.com/docs/direct-reply-to)."""

MAX_EXPIRES_MS = 4_294_967_295
"""The greatest `x-expires` and TTL the broker takes (about 49 days): 2**32 - 1 milliseconds."""


def is_final(state: str) -> bool:
    """Whether nothing follows this state."""
    return state in FINAL


def is_reportable(state: str) -> bool:
    """Whether a running task may report this word by `update_state`: a non-empty word that is not the worker's to say."""
    return bool(state) and state not in FINAL and state not in {State.PENDING, State.RETRY}


def may_follow(before: str, after: str) -> bool:
    """Whether `after` may follow `before`; words of the task's own count as PROGRESS."""
    known = before if before in TRANSITIONS else State.PROGRESS
    word = after if after in TRANSITIONS else State.PROGRESS
    return word in TRANSITIONS[known]


def reply_queue_name(task_id: str) -> str:
    """Return the name of the queue that holds the state of one task."""
    return REPLY_QUEUE_PREFIX + task_id


def reply_queue(task_id: str, *, expires_ms: int) -> QueueSpec:
    """Describe the reply queue of one task.

    Args:
        task_id: The task's id.
        expires_ms: Idle time after which the broker deletes an unfetched queue, in milliseconds; at least 1.
    """
    return QueueSpec(
        name=REPLY_QUEUE_PREFIX + task_id,
        arguments={
            # Said explicitly, because a vhost's default queue type may be quorum, which knows no cheap short life.
            "x-queue-type": "classic",
            "x-expires": min(max(expires_ms, 1), MAX_EXPIRES_MS),
            "x-max-length": 1,
            "x-overflow": "drop-head",
        },
    )
