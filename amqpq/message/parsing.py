"""What was decoded, checked for its shape: a body may be fine MessagePack and still not be a task. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from amqpq.errors import Undecodable
from amqpq.message.envelope import ResultEnvelope, TaskEnvelope, TaskFacts
from amqpq.message.serializers import BY_CONTENT_TYPE, Serializer
from amqpq.types import EMPTY, Properties

_ERROR_CHARACTERS: Final = 300
"""Decoders quote what they choke on; logs and headers must not carry all of it."""

_PARTS: Final = 3
"""args, kwargs, embed."""


def short(error: BaseException) -> str:
    """Return an error in one bounded line."""
    text = str(error)
    line = " ".join(text[: 2 * _ERROR_CHARACTERS].split()) or type(error).__name__
    return line if len(line) <= _ERROR_CHARACTERS else line[:_ERROR_CHARACTERS] + "..."


def epoch_seconds(moment: str) -> float:
    """Return an ISO 8601 moment (`eta`, `expires`) in seconds since the epoch; without an offset it is UTC.

    Raises:
        ValueError: It is not one.
    """
    when = datetime.fromisoformat(moment)
    return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()


# --------------------------------------------------------------------------------------------------------------- tasks


def task(value: object, properties: Properties, user: Mapping[str, Any]) -> TaskEnvelope:
    """Return the task that a decoded body and its properties describe.

    Raises:
        Undecodable: They describe none; the message names the field.
    """
    if not isinstance(value, (list, tuple)) or len(value) != _PARTS:
        if isinstance(value, dict) and "task" in value:
            raise Undecodable("the body is of Celery's message protocol 1; set task_protocol = 2 in the sender")
        raise Undecodable(f"the body is not [args, kwargs, embed] but {type(value).__name__}")
    args, kwargs, embed = value
    if not isinstance(args, (list, tuple)):
        raise _wrong("args", "a list", args)
    if not isinstance(kwargs, dict):
        raise _wrong("kwargs", "a mapping", kwargs)
    for name in kwargs:
        if not isinstance(name, str):
            raise _wrong("kwargs", "a mapping with text for keys", kwargs)
    if embed is not None and not isinstance(embed, dict):
        raise _wrong("embed", "a mapping", embed)
    get = properties.headers.get
    name, task_id = get("task"), get("id")
    if not name or not isinstance(name, str):
        raise _wrong("header task", "the name of a task", name)
    if not task_id or not isinstance(task_id, str):
        raise _wrong("header id", "the id of a task", task_id)
    retries = get("retries")
    if retries is not None and (type(retries) is not int or retries < 0):
        raise _wrong("header retries", "a count", retries)
    timelimit = get("timelimit")
    origin = get("origin")
    return TaskEnvelope(
        task_id,
        name,
        args,
        kwargs,
        task_id if (root := get("root_id")) is None else _text(root, "root_id"),
        None if (parent := get("parent_id")) is None else _text(parent, "parent_id"),
        None if (group := get("group")) is None else _text(group, "group"),
        retries or 0,
        None if (eta := get("eta")) is None else _moment(eta, "eta"),
        None if (expires := get("expires")) is None else _moment(expires, "expires"),
        (None, None) if timelimit is None else _limits(timelimit),
        "" if origin is None else str(origin),
        None if (shadow := get("shadow")) is None else _text(shadow, "shadow"),
        bool(get("ignore_result")),
        properties.reply_to or None,
        properties.correlation_id or None,
        properties.priority,
        EMPTY if not embed else {key: step for key, step in embed.items() if step is not None},
        user if isinstance(user, dict) else dict(user),
    )


def _wrong(field: str, wanted: str, got: object) -> Undecodable:
    return Undecodable(f"{field} is not {wanted} but {type(got).__name__}")


def _text(value: object, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise _wrong(f"header {field}", "text", value)


def _moment(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise _wrong(f"header {field}", "text", value)
    try:
        epoch_seconds(value)
    except (ValueError, OverflowError) as error:
        raise Undecodable(f"header {field} is not an ISO 8601 moment: {value[:40]!r}") from error
    return value


def _limits(value: object) -> tuple[float | None, float | None]:
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_limit, value)):  # noqa: PLR2004 - a pair
        return value[0], value[1]
    raise _wrong("header timelimit", "two numbers", value)


def _is_limit(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


# ------------------------------------------------------------------------------------------------------------- results


def result(value: object) -> ResultEnvelope:
    """Return the result that a decoded body describes.

    Raises:
        Undecodable: It describes none; the message names the field.
    """
    if not isinstance(value, dict):
        raise Undecodable(f"the body is not a result but {type(value).__name__}")
    task_id, status = value.get("task_id"), value.get("status")
    if not task_id or not isinstance(task_id, str):
        raise _wrong("task_id", "the id of a task", task_id)
    if not status or not isinstance(status, str):
        raise _wrong("status", "a state", status)
    traceback = value.get("traceback")
    if traceback is not None and not isinstance(traceback, str):
        raise _wrong("traceback", "text", traceback)
    children = value.get("children")
    if children is not None and not isinstance(children, (list, tuple)):
        raise _wrong("children", "a list", children)
    return ResultEnvelope(task_id, status, value.get("result"), traceback, children or ())


# --------------------------------------------------------------------------------------------------------------- facts


def facts(properties: Properties) -> TaskFacts:
    """Return what a message claims, whatever it holds."""
    headers = properties.headers
    serializer = BY_CONTENT_TYPE.get(properties.content_type or "")

    def text(name: str) -> str | None:
        value = headers.get(name)
        return value if isinstance(value, str) else None

    def whole(name: str) -> int | None:
        value = headers.get(name)
        return value if type(value) is int else None

    task_id = text("id") or properties.correlation_id or properties.message_id or ""
    return TaskFacts(
        id=task_id,
        task=text("task") or "",
        reply_to=properties.reply_to or None,
        correlation_id=properties.correlation_id or None,
        expires=text("expires"),
        eta=text("eta"),
        retries=whole("retries") or 0,
        root_id=text("root_id") or task_id or None,
        parent_id=text("parent_id"),
        priority=properties.priority,
        origin=text("origin") or "",
        serializer=serializer.name if serializer is not None else None,
        key_id=text("amqpq-kid"),
        signed_at_ms=whole("amqpq-ts"),
        signature=text("amqpq-sig"),
        route=text("amqpq-route"),
    )


# --------------------------------------------------------------------------------------------------------------- blame


def blame_argument(envelope: TaskEnvelope, serializer: Serializer, error: Exception) -> str:
    """Say which argument cannot be written. Only called when writing has failed."""
    values = [(f"argument {place}", value) for place, value in enumerate(envelope.args, 1)]
    values += [(f"argument {name!r}", value) for name, value in envelope.kwargs.items()]
    values += [(f"{name!r}", value) for name, value in envelope.embed.items()]
    for what, value in values:
        try:
            serializer.dumps(value)
        except Exception as cause:  # noqa: BLE001 - any of them is the answer to "which argument?"
            kind = type(value).__name__
            return (
                f"{envelope.task}: {what}, a {kind}, cannot be written as {serializer.name}: {short(cause)}; "
                "pass plain data or choose another serializer"
            )
    return f"{envelope.task}: the message cannot be written as {serializer.name}: {short(error)}"
