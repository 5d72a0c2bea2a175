"""What a task is: a name, a function and options. Nothing here sends, and nothing here knows a broker.

`amqpq.app` and `amqpq.aioapp` derive the tasks that people call `delay` on; a worker needs only what is here. While a task
runs, the worker sets `current_request`: the task (and whatever it calls) reads its own id from it, reports progress through
its `report` hook, and messages published meanwhile name it as their parent.
"""

from __future__ import annotations

import functools
import inspect
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from amqpq import lifecycle
from amqpq.errors import ConfigurationError, LocalError, MaxRetriesExceeded, NotBuiltYet
from amqpq.hooks import HOOKS, TaskHooks, overridden
from amqpq.rates import rate_of
from amqpq.retry import DEFAULT_MAX_RETRIES, UNLIMITED, Retry
from amqpq.types import EMPTY

P = ParamSpec("P")
R = TypeVar("R")


class Request(NamedTuple):
    """The message a worker is running right now, as the task sees it (`self.request`).

    `report(state, meta)` publishes an intermediate state; it is None outside a worker, where nobody listens.
    """

    id: str | None = None
    task: str = ""
    args: tuple[Any, ...] = ()
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
    priority: int | None = None
    headers: Mapping[str, Any] = EMPTY
    hostname: str = ""
    """The worker's name, `name@host`."""
    delivery_info: Mapping[str, Any] = EMPTY
    """`exchange`, `routing_key`, `redelivered`, `queue` of the delivery."""
    report: Callable[[str, object], None] | None = None
    max_retries: float = DEFAULT_MAX_RETRIES
    """How often the task may be tried again; `retry.UNLIMITED` is no limit."""
    asked: list[BaseException] | None = None
    """What `retry()` decided: a `Retry` that was not raised, or the error with which it gave up. None outside a worker."""

    @property
    def called_directly(self) -> bool:
        """Whether the function was called as a function and not by a worker."""
        return self.id is None


current_request: ContextVar[Request | None] = ContextVar("amqpq.current_request", default=None)
"""The message that this thread or coroutine is running; None outside a task."""

_DIRECT = Request()


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options of `@app.task(...)`. None means: as the route or the project says.

    `expires` is in seconds from publishing; `serializer` and `compression` are the topology's words.
    `time_limit` and `soft_time_limit` are in seconds from the moment a worker begins the task. `rate_limit` is how often each
    worker may begin it: `10/s`, `100/m`, `5/h`, or a number per second.
    """

    bind: bool = False
    serializer: str | None = None
    compression: str | None = None
    priority: int | None = None
    expires: float | None = None
    reply: str | None = None
    ignore_result: bool = False
    track_started: bool = False
    time_limit: float | None = None
    soft_time_limit: float | None = None
    max_retries: float | None = None
    """`retry.UNLIMITED` where the decorator says None."""
    default_retry_delay: float | None = None
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_backoff: float | None = None
    """The first wait, seconds; True is one second, False (0) a wait that does not grow."""
    retry_backoff_max: float | None = None
    retry_jitter: bool | None = None
    rate_limit: str | float | None = None


TASK_OPTIONS: tuple[str, ...] = (
    "name", "base", *HOOKS, *(option.name for option in fields(TaskOptions)), "acks_late", "retry_for", "retry_kwargs"
)  # fmt: skip
"""What a decorator takes. The class of a task takes `base` and the hooks out (`amqpq.bases`)."""

_LATER: Mapping[str, str] = {
    "acks_on_failure_or_timeout": "early acknowledgement",
    "reject_on_worker_lost": "early acknowledgement",
}
"""Celery's task options whose machinery is not there yet."""


def option_names() -> frozenset[str]:
    """Return the names that mean something to a decorator, and so to a base class: options, and Celery's that are to come."""
    return frozenset(TASK_OPTIONS).union(_LATER) - frozenset(HOOKS)


REPLY_MODES: tuple[str, ...] = ("task", "direct", "none")


def check_reply_mode(mode: object) -> str:
    """Return `mode` if it is a built reply mode; raise `LocalError` otherwise."""
    if mode == "client":
        message = "not built yet: reply mode 'client'; use 'task', 'direct' or 'none'"
        raise NotBuiltYet(message)
    if not isinstance(mode, str) or mode not in REPLY_MODES:
        message = f"reply={mode!r} is not a reply mode; use 'task', 'direct' or 'none'"
        raise LocalError(message)
    return mode


def check_time_limits(time_limit: object, soft_time_limit: object, error: type[LocalError] = LocalError) -> None:
    """Raise `error` unless each limit is None or a positive number of seconds, and the soft one is below the hard one."""
    for name, value in (("time_limit", time_limit), ("soft_time_limit", soft_time_limit)):
        if value is not None and not is_positive(value):
            message = f"{name}={value!r} is not a positive number of seconds"
            raise error(message)
    if (
        isinstance(time_limit, int | float)
        and isinstance(soft_time_limit, int | float)
        and soft_time_limit >= time_limit
    ):
        message = (
            f"soft_time_limit={soft_time_limit!r} is not below time_limit={time_limit!r}: "
            "the task would be killed before it is told"
        )
        raise error(message)


def check_rate_limit(rate_limit: object) -> None:
    """Raise `ConfigurationError` unless a rate limit is None or a rate above 0."""
    try:
        rate = rate_of(rate_limit)
    except ValueError as error:
        message = f"rate_limit={rate_limit!r}: {error}"
        raise ConfigurationError(message) from None
    if rate is None and rate_limit is not None:
        message = f"rate_limit={rate_limit!r} would never let the task begin; None is no limit"
        raise ConfigurationError(message)


def is_positive(value: object) -> bool:
    """Whether a value is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value)


def did_you_mean(word: str, known: tuple[str, ...] | list[str]) -> str:
    """Return ` (did you mean 'x'?)`, or nothing where nothing is close."""
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def task_options(given: Mapping[str, Any]) -> TaskOptions:
    """Check the options of a task decorator, `name` excepted.

    Raises:
        NotBuiltYet: An option of a later stage.
        ConfigurationError: An unknown option, or a value that is out of range.
    """
    values = dict(given)
    for option in values:
        if option in _LATER:
            message = f"not built yet: task option {option!r} ({_LATER[option]})"
            raise NotBuiltYet(message)
        if option not in TASK_OPTIONS:
            message = f"unknown task option {option!r}{did_you_mean(option, TASK_OPTIONS)}"
            raise ConfigurationError(message)
    if values.pop("acks_late", True) is not True:
        message = "not built yet: task option 'acks_late=False'; amqpq acknowledges late, always"
        raise NotBuiltYet(message)
    options = TaskOptions(**read_retry_options(values))
    if options.reply is not None:
        check_reply_mode(options.reply)
        if options.ignore_result and options.reply != "none":
            message = f"ignore_result=True and reply={options.reply!r} contradict each other; drop one of them"
            raise ConfigurationError(message)
    if options.expires is not None and options.expires <= 0:
        message = f"expires={options.expires!r} is not a positive number of seconds"
        raise ConfigurationError(message)
    check_time_limits(options.time_limit, options.soft_time_limit, ConfigurationError)
    check_rate_limit(options.rate_limit)
    return options


def read_retry_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a decorator with those about retries in one form.

    Raises:
        ConfigurationError: A value that cannot be.
    """
    values = dict(given)
    extra = dict(values.pop("retry_kwargs", None) or {})
    for name, option in (("max_retries", "max_retries"), ("countdown", "default_retry_delay")):
        if name in extra:
            values[option] = extra.pop(name)
    if extra:
        message = f"retry_kwargs={extra!r}: known are max_retries and countdown"
        raise ConfigurationError(message)
    values["autoretry_for"] = (*_classes("autoretry_for", values), *_classes("retry_for", values))
    values.pop("retry_for", None)
    values["dont_autoretry_for"] = _classes("dont_autoretry_for", values)
    if "max_retries" in values and values["max_retries"] is None:
        values["max_retries"] = UNLIMITED
    if isinstance(values.get("retry_backoff"), bool):
        values["retry_backoff"] = float(values["retry_backoff"])
    for name in ("max_retries", "default_retry_delay", "retry_backoff", "retry_backoff_max"):
        value = values.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
            message = f"{name}={value!r} is not a number from 0"
            raise ConfigurationError(message)
    if not isinstance(values.get("retry_jitter"), bool | None):
        message = f"retry_jitter={values['retry_jitter']!r} is neither True nor False"
        raise ConfigurationError(message)
    return values


def _classes(name: str, values: Mapping[str, Any]) -> tuple[type[BaseException], ...]:
    given = values.get(name) or ()
    found = given if isinstance(given, list | tuple | set | frozenset) else (given,)
    for each in found:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            message = f"{name}={given!r}: {each!r} is not a class of exceptions; write {name}=(ConnectionError, ...)"
            raise ConfigurationError(message)
    return tuple(found)


class Task(TaskHooks, Generic[P, R]):
    """A function with a name that producers and workers share. Calling it runs the function, here and now.

    ::

        @app.task
        def add(x: int, y: int) -> int:
            return x + y

        add(2, 3)          # 5, here
        add.delay(2, 3)    # on a worker
    """

    def __init__(self, name: str, function: Callable[..., R], options: TaskOptions) -> None:
        self.name = name
        self.function = function
        self.options = options
        self.hooks = overridden(type(self))
        """Names of the hooks that its class has made something of."""
        functools.update_wrapper(self, function)
        self._signature, self._fewest, self._most = _shape(function, bound=options.bind)

    def __repr__(self) -> str:
        """Show the kind and the name."""
        return f"<{type(self).__name__} {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in this thread, with the task itself as first argument where it was made with `bind=True`."""
        if self.options.bind:
            return self.function(self, *args, **kwargs)
        return self.function(*args, **kwargs)

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Check that the function takes these arguments, so that a slip is found by the caller and not by the worker.

        Raises:
            TypeError: It does not; the message names the task.
        """
        if not kwargs and self._fewest <= len(args) <= self._most:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            message = f"{self.name}{self._signature}: {error}"
            raise TypeError(message) from None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the arguments that a call gives, in their order."""
        return tuple(self._signature.parameters)

    def takes_argument(self, name: str) -> bool:
        """Whether calls may have an argument of this name."""
        parameters = self._signature.parameters
        return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())

    def argument(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return what a call gives for the argument `name`, by position, by keyword or by default; None where nothing.

        Raises:
            TypeError: The function does not take these arguments.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments.get(name, kwargs.get(name))

    @property
    def is_async(self) -> bool:
        """Whether the function is `async def`: then calling the task returns a coroutine."""
        return inspect.iscoroutinefunction(self.function)

    @property
    def request(self) -> Request:
        """The message that is being run; an empty one outside a worker."""
        return current_request.get() or _DIRECT

    def update_state(self, *, state: str = lifecycle.State.PROGRESS, meta: object = None) -> None:
        """Tell the caller how far this task is; the newest state replaces the one before.

        Outside a worker, where nobody waits, this does nothing.

        Args:
            state: PROGRESS, or a word of your own.
            meta: What `AsyncResult.result` and `get(on_state=...)` show: plain data, as the serializer takes it.

        Raises:
            LocalError: A state that only a worker may report.
        """
        if not lifecycle.is_reportable(state):
            message = f"state {state!r} is the worker's to report; use PROGRESS or a word of your own"
            raise LocalError(message)
        report = self.request.report
        if report is not None:
            report(str(state), meta)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
    ) -> Retry:
        """End this attempt and have the task tried again; `raise self.retry(exc=error)` says both to a reader.

        It is the same message again, with its id and its reply queue, and waits in the broker. The other keyword arguments of
        Celery's `retry` (queue, priority and so on) are those of the message, and stay.

        Args:
            args: Positional arguments for the next attempt, instead of those of this one. The worker's key signs them then.
            kwargs: Keyword arguments, likewise.
            exc: Why; raised where there is no further attempt.
            throw: False returns the `Retry` instead of raising it; the function goes on, and the attempt counts as failed when
                it ends, whatever it returns.
            eta: Not before this moment (with a time zone).
            countdown: Not before so many seconds.
            max_retries: Instead of the task's own limit.

        Raises:
            Retry: Let it pass.
            MaxRetriesExceeded: It was tried as often as it may be, and `exc` is not given.
            LocalError: eta and countdown are both given, or are none.
        """
        request = self.request
        if request.called_directly:
            raise exc or Retry()
        if eta is not None and countdown is not None:
            message = "retry(): eta= and countdown= both say when; give one of them"
            raise LocalError(message)
        if eta is not None and eta.tzinfo is None:
            message = (
                f"retry(): eta={eta!r} has no time zone, so it could mean two moments; use datetime.now(UTC) + ..."
            )
            raise LocalError(message)
        if countdown is not None and (isinstance(countdown, bool) or not 0 <= countdown < math.inf):
            message = f"retry(): countdown={countdown!r} is not a number of seconds from 0"
            raise LocalError(message)
        asked = [] if request.asked is None else request.asked
        most = request.max_retries if max_retries is None else max_retries
        if request.retries >= most:
            error = exc or MaxRetriesExceeded(f"{self.name}[{request.id}] was tried again {request.retries} times")
            asked.append(error)
            raise error
        arguments = None
        if args is not None or kwargs is not None:
            given = (request.args if args is None else tuple(args), request.kwargs if kwargs is None else kwargs)
            self.check_arguments(*given)
            arguments = given
        found = Retry(exc, seconds=countdown, due=eta, arguments=arguments)
        if throw:
            raise found
        asked.append(found)
        return found


def _shape(function: Callable[..., Any], *, bound: bool) -> tuple[inspect.Signature, int, int]:
    """Return the signature a caller sees, and the fewest and the most positional arguments it takes without keywords.

    Where keyword arguments are required, no number of positional ones will do: the fewest is then more than the most.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if bound:
        if not parameters or parameters[0].kind not in _POSITIONAL:
            message = f"bind=True: {function!r} has no first parameter to take the task"
            raise ConfigurationError(message)
        parameters = parameters[1:]
        signature = signature.replace(parameters=parameters)
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    fewest = sum(1 for each in positional if each.default is each.empty)
    most = sys.maxsize if any(each.kind is each.VAR_POSITIONAL for each in parameters) else len(positional)
    if any(each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in parameters):
        return signature, 1, 0
    return signature, fewest, most


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def default_name(function: Callable[..., Any]) -> str:
    """Return `module.function`, as Celery names tasks; for a script (`__main__`) its file's stem stands for the module.

    Raises:
        ConfigurationError: The function has no name of its own (a lambda, a partial).
    """
    name = getattr(function, "__name__", "")
    if not name or name == "<lambda>":
        message = f"{function!r} has no name of its own; pass name='...'"
        raise ConfigurationError(message)
    module = getattr(function, "__module__", None) or "__main__"
    if module == "__main__":
        file = getattr(sys.modules.get("__main__"), "__file__", None)
        module = pathlib.PurePath(file).stem if file else "__main__"
    return f"{module}.{name}"
