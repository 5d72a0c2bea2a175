"""The options of a call: what `apply_async` and `send_task` take, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

from amqpq.errors import LocalError, NotBuiltYet
from amqpq.task import check_reply_mode, check_time_limits, did_you_mean

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
"""For a publish as a whole, reconnecting included. A publish never waits without a deadline."""

MAX_PRIORITY: Final = 255
"""One octet on the wire (AMQP 0-9-1, basic class)."""

MAX_SHORT_TEXT_BYTES: Final = 255
"""The id travels as correlation id and in the reply queue's name: short strings (AMQP 0-9-1, section 4.2.5.3)."""

_MAX_ID_BYTES: Final = MAX_SHORT_TEXT_BYTES - len("amqpq.reply.")

_LATER: Final[Mapping[str, str]] = {
    "link": "callbacks",
    "link_error": "callbacks",
    "chain": "chains",
    "chord": "chords",
    "retries": "retries",
    "producer": "explicit producers",
    "connection": "explicit connections",
    "router": "routers",
}

_COMPRESSIONS: Final[Mapping[str, str]] = {
    "zlib": "zlib",
    "gzip": "zlib",
    "bzip2": "bzip2",
    "bz2": "bzip2",
    "none": "none",
}
"""Our words, and Celery's for the same two algorithms (its `gzip` is the zlib format too)."""


class SendOptions(TypedDict, total=False):
    """The keyword options of `apply_async` and `send_task`, for type checkers and editors.

    `expires` is in seconds, a `timedelta`, or a `datetime` with a time zone; `timeout` bounds the publish, in seconds.
    `countdown` is in seconds (or a `timedelta`) from now, `eta` a `datetime` with a time zone: not before that.
    `time_limit` and `soft_time_limit` bound the run of the task, in seconds, and count before the task's own options.
    """

    queue: str | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    expires: float | timedelta | datetime | None
    countdown: float | timedelta | None
    eta: datetime | None
    compression: str | None
    serializer: str | None
    headers: Mapping[str, Any] | None
    task_id: str | None
    shadow: str | None
    reply: str | None
    ignore_result: bool | None
    retry: bool
    retry_policy: Mapping[str, float | None] | None
    timeout: float
    time_limit: float | None
    soft_time_limit: float | None
    root_id: str | None
    parent_id: str | None
    group_id: str | None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a publish that met a lost connection is tried again, always within the call's timeout.

    The names and their meaning are Celery's; intervals are in seconds. `max_retries` None is as often as the timeout
    allows, 0 is never.
    """

    max_retries: int | None = None
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 2.0

    def pause(self, retries: int) -> float | None:
        """Return the seconds to wait before retry number `retries` (from 0), or None where there is to be none."""
        if self.max_retries is not None and retries >= self.max_retries:
            return None
        return min(self.interval_start + self.interval_step * retries, self.interval_max)


NEVER: Final = RetryPolicy(max_retries=0)


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The checked options of one call. None means: as the task, the route or the project says."""

    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    priority: int | None = None
    expires: float | timedelta | datetime | None = None
    countdown: float | timedelta | None = None
    eta: datetime | None = None
    compression: str | None = None
    serializer: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    task_id: str | None = None
    shadow: str | None = None
    reply: str | None = None
    ignore_result: bool | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    time_limit: float | None = None
    soft_time_limit: float | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None


PLAIN: Final = CallOptions()
"""The options of a call that has none; shared, because most calls are like that."""

_NAMES: Final = (*(each.name for each in fields(CallOptions)), "retry_policy")


def read_options(given: Mapping[str, Any]) -> CallOptions:
    """Check the options of a call.

    Raises:
        LocalError: An unknown option (with what was probably meant), or a value that cannot be used.
        NotBuiltYet: An option of a later stage.
    """
    if not given:
        return PLAIN
    values = dict(given)
    for name in values.keys() - set(_NAMES):
        if name in _LATER:
            message = f"not built yet: {name}= ({_LATER[name]})"
            raise NotBuiltYet(message)
        message = f"unknown option {name!r}{did_you_mean(name, _NAMES) or '; known: ' + ', '.join(_NAMES)}"
        raise LocalError(message)
    values["retry"] = _retry(values.pop("retry", True), values.pop("retry_policy", None))
    if values.get("headers") is None:
        values.pop("headers", None)
    options = CallOptions(**values)
    _check(options)
    return CallOptions(**{**values, "compression": compression_word(options.compression)})


def compression_word(word: str | None) -> str | None:
    """Return our word for a compression, Celery's included; None stays None.

    Raises:
        LocalError: There is no such compression.
    """
    if word is None:
        return None
    known = _COMPRESSIONS.get(word)
    if known is None:
        message = (
            f"unknown compression {word!r}{did_you_mean(word, tuple(_COMPRESSIONS))}; there are zlib, bzip2 and none"
        )
        raise LocalError(message)
    return known


def check_priority(priority: object) -> None:
    """Raise `LocalError` unless `priority` is a whole number from 0 to 255."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= MAX_PRIORITY:
        message = f"priority={priority!r} is not a whole number from 0 to {MAX_PRIORITY}"
        raise LocalError(message)


def moment_of(name: str, given: object, now: datetime) -> datetime:
    """Return the moment that an option means, in UTC: seconds or a `timedelta` from now, or a `datetime` with a zone.

    Raises:
        LocalError: It means none, or two.
    """
    if isinstance(given, datetime):
        if given.tzinfo is None:
            message = f"{name}={given!r} has no time zone, so it could mean two moments; use datetime.now(UTC) + ..."
            raise LocalError(message)
        return given.astimezone(UTC)
    try:
        if isinstance(given, timedelta):
            return now + given
        if isinstance(given, bool) or not isinstance(given, int | float):
            message = f"{name}={given!r} is neither seconds nor a timedelta nor a datetime"
            raise LocalError(message)
        return now + timedelta(seconds=given)
    except (OverflowError, ValueError) as error:
        message = f"{name}={given!r} is beyond what a date can hold"
        raise LocalError(message) from error


def _check(options: CallOptions) -> None:
    if options.priority is not None:
        check_priority(options.priority)
    if options.reply is not None:
        mode = check_reply_mode(options.reply)
        if options.ignore_result and mode != "none":
            message = f"ignore_result=True and reply={mode!r} contradict each other; drop one of them"
            raise LocalError(message)
    if options.queue is not None and options.exchange is not None:
        message = "queue= publishes straight to that queue, so it excludes exchange="
        raise LocalError(message)
    if options.task_id is not None:
        _check_id(options.task_id)
    timeout: object = options.timeout
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        message = f"timeout={timeout!r} is not a positive number of seconds; a publish never waits without a deadline"
        raise LocalError(message)
    check_time_limits(options.time_limit, options.soft_time_limit)
    check_headers(options.headers)


def check_headers(headers: object) -> None:
    """Raise `LocalError` unless `headers` is a mapping whose keys are texts."""
    if not isinstance(headers, Mapping) or not all(isinstance(name, str) for name in headers):
        message = f"headers={headers!r:.80} is not a mapping from names to values"
        raise LocalError(message)


def _check_id(task_id: object) -> None:
    if not isinstance(task_id, str) or not task_id:
        message = f"task_id={task_id!r} is not a non-empty text"
        raise LocalError(message)
    if len(task_id.encode()) > _MAX_ID_BYTES:
        message = (
            f"task_id is longer than {_MAX_ID_BYTES} bytes, so its reply queue could not be named: {task_id[:40]!r}..."
        )
        raise LocalError(message)


def _retry(retry: object, policy: Mapping[str, Any] | None) -> RetryPolicy:
    if not isinstance(retry, bool):
        message = f"retry={retry!r} is neither True nor False; how often and how fast is retry_policy's to say"
        raise LocalError(message)
    known = tuple(each.name for each in fields(RetryPolicy))
    values = dict(policy or {})
    for name, value in values.items():
        if name not in known:
            message = f"unknown key {name!r} in retry_policy{did_you_mean(name, known)}; known: {', '.join(known)}"
            raise LocalError(message)
        if (value is None and name != "max_retries") or (value is not None and not _is_count(value)):
            message = f"retry_policy[{name!r}]={value!r} is not a number from 0"
            raise LocalError(message)
    return RetryPolicy(**values) if retry else NEVER


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)
