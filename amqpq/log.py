"""Logger names and the `extra` keys that log lines carry: what a log pipeline may rely on.

amqpq configures no handler and no level; it logs below the logger `amqpq`, as a library should. Each line about a
message carries the keys below in `extra`, so that a JSON formatter can index them without parsing text. Names and keys
change only with a major version.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Final, TypedDict

ROOT: Final = "amqpq"
TRANSPORT: Final = "amqpq.transport"
"""Connections: opened, lost, blocked, healed."""
PRODUCER: Final = "amqpq.producer"
"""Publications that met trouble."""
REPLIES: Final = "amqpq.replies"
"""Reply queues and results that could not be delivered or fetched."""
WORKER: Final = "amqpq.worker"
"""A worker's life: start, stop, pool, consumers."""
TASK: Final = "amqpq.task"
"""One line per task outcome."""
SECURITY: Final = "amqpq.security"
"""Messages that were refused: unsigned, forged, untrusted, replayed."""
SIGNALS: Final = "amqpq.signals"
"""Receivers of signals that failed, and events that were dropped because they were too slow."""
MEASURING: Final = "amqpq.measuring"
"""What a measure could not clear away."""
NODE: Final = "amqpq.node"
"""Private RabbitMQ nodes."""


class MessageKeys(TypedDict, total=False):
    """The `extra` keys of a line about a message or a task. Absent where unknown.

    The prefix keeps them apart from the attributes of `logging.LogRecord`, which `extra` must not overwrite.
    """

    amqpq_task: str
    """Task name."""
    amqpq_task_id: str
    """Task id (the message's correlation id)."""
    amqpq_message_id: str
    amqpq_queue: str
    amqpq_exchange: str
    amqpq_routing_key: str
    amqpq_worker: str
    """Worker name, `w1@host`."""
    amqpq_cause: str
    """Why a message was dead-lettered or dropped; the words of `RemoteMessageError.cause` and of the settle table."""
    amqpq_attempts: int
    amqpq_seconds: float
    """How long the task ran."""


context: ContextVar[MessageKeys | None] = ContextVar("amqpq.log", default=None)
"""What every line is about that is logged here: the task that this thread or coroutine runs. None: nothing of that kind."""


class Stamp(logging.Filter):
    """Gives each record what `context` says, unless the record says it itself; refuses none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the keys."""
        fields = context.get()
        if fields is not None:
            for key, value in fields.items():
                record.__dict__.setdefault(key, value)
        return True


_STAMP: Final = Stamp()


def task_logger(name: str) -> logging.Logger:
    """Return a logger whose records carry the keys of the running task, whatever handlers the program has.

    Under `amqpq worker` the records of every logger do; this is for programs that set up logging themselves. Celery calls
    it `get_task_logger`.
    """
    found = logging.getLogger(name)
    found.addFilter(_STAMP)  # adding it again changes nothing
    return found


get_task_logger = task_logger


def logger(name: str) -> logging.Logger:
    """Return the logger of that name; use the constants of this module."""
    return logging.getLogger(name)
