"""From a message in a reply queue to a state that can be believed, and from a final state to a value or an exception.

A reply queue has a name that anybody can work out, so what lies in it is checked like everything else: the signature, and
that it speaks of the very task (a genuine result of another task may have been moved here). What fails is discarded with
a line in the log, and the waiting goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from amqpq import lifecycle, log
from amqpq.errors import RemoteError, RemoteMessageError, SignatureInvalid, TaskExpired, TaskRevoked
from amqpq.message import failure
from amqpq.message.codec import Codec
from amqpq.message.envelope import ResultEnvelope
from amqpq.types import Delivery

logger = log.logger(log.SECURITY)

OnState: TypeAlias = Callable[[str, Any], object]
"""Called with each intermediate state and what the task reported with it."""


def read(codec: Codec, task_id: str, delivery: Delivery) -> ResultEnvelope | None:
    """Return the state that a delivery brings, or None where it is not to be believed (and the log says why)."""
    try:
        envelope = codec.decode_result(delivery.body, delivery.properties)
        if envelope.task_id != task_id:
            message = f"a result of task {envelope.task_id!r} lies in the reply queue of {task_id!r}; somebody moved it"
            raise SignatureInvalid(message)
    except RemoteMessageError as error:
        logger.warning(
            "discarded what lay in the reply queue of task %s: %s",
            task_id,
            error,
            extra={"amqpq_task_id": task_id, "amqpq_cause": error.cause},
        )
        return None
    return envelope


def is_final(envelope: ResultEnvelope) -> bool:
    """Whether nothing follows."""
    return lifecycle.is_final(envelope.status)


def error_of(envelope: ResultEnvelope) -> Exception | None:
    """Return the exception that a final state stands for; None for success, and for a state that is not final.

    An exception of the task is rebuilt as its own class where that is loaded here, with the remote traceback as its cause;
    else it is a `RemoteError` with the remote traceback as a note.
    """
    status = envelope.status
    if status == lifecycle.State.SUCCESS or not lifecycle.is_final(status):
        return None
    if status == lifecycle.State.EXPIRED or _is_celery_expiry(envelope):
        return TaskExpired(f"task {envelope.task_id} expired before a worker could run it")
    if status == lifecycle.State.REVOKED:
        return TaskRevoked(f"task {envelope.task_id} was revoked")
    traceback = envelope.traceback or ""
    described = envelope.result
    if not isinstance(described, dict):
        return RemoteError(str(status), described, "", traceback)
    error = failure.rebuild(described, traceback)
    if traceback and isinstance(error, RemoteError):
        error.add_note(f"Traceback on the worker (task {envelope.task_id}):\n{traceback.rstrip()}")
    return error


def _is_celery_expiry(envelope: ResultEnvelope) -> bool:
    """Whether a Celery worker says that the task came too late: it revokes it, with the word `expired`."""
    described = envelope.result
    return (
        envelope.status == lifecycle.State.REVOKED
        and isinstance(described, dict)
        and "expired" in str(described.get("exc_message", ""))
    )
