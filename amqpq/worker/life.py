"""What is told of a task where it runs: the hooks of its class, and the receivers of its signals.

`begin` is part of the run: what `before_start` raises is how the task failed. The others come when that is decided, and
nothing that they raise leaves here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from amqpq import signals
from amqpq.hooks import info_of
from amqpq.lifecycle import State
from amqpq.log import TASK
from amqpq.task import Request, Task

logger = logging.getLogger(TASK)


def begin(task: Task[..., Any], request: Request) -> None:
    """Tell that the task begins.

    Raises:
        Exception: What its `before_start` raises.
    """
    if signals.task_prerun.receivers:
        _guarded(
            "a receiver of task_prerun",
            request,
            lambda: signals.task_prerun.send(task, task=task, **_call(request)),
        )
    if "before_start" in task.hooks:
        task.before_start(request.id or "", request.args, request.kwargs)


def succeeded(task: Task[..., Any], request: Request, result: object) -> None:
    """Tell that it returned."""
    task_id = request.id or ""
    if "on_success" in task.hooks:
        _guarded("on_success", request, lambda: task.on_success(result, task_id, request.args, request.kwargs))
    if signals.task_success.receivers:
        _guarded("a receiver", request, lambda: signals.task_success.send(task, result=result))
    _ended(task, request, State.SUCCESS, result)


def failed(task: Task[..., Any], request: Request, error: BaseException, traceback: str) -> None:
    """Tell that it failed for good; `traceback` is the text that goes to the caller."""
    task_id, info = request.id or "", info_of(error, traceback)
    if "on_failure" in task.hooks:
        _guarded("on_failure", request, lambda: task.on_failure(error, task_id, request.args, request.kwargs, info))
    if signals.task_failure.receivers:
        _guarded(
            "a receiver",
            request,
            lambda: signals.task_failure.send(
                task, exception=error, traceback=error.__traceback__, einfo=info, **_call(request)
            ),
        )
    _ended(task, request, State.FAILURE, error, traceback)


def retried(task: Task[..., Any], request: Request, error: BaseException, traceback: str) -> None:
    """Tell that this attempt failed and another one is to come."""
    task_id, info = request.id or "", info_of(error, traceback)
    if "on_retry" in task.hooks:
        _guarded("on_retry", request, lambda: task.on_retry(error, task_id, request.args, request.kwargs, info))
    if signals.task_retry.receivers:
        _guarded(
            "a receiver",
            request,
            lambda: signals.task_retry.send(task, request=request, reason=error, einfo=info),
        )
    if signals.task_postrun.receivers:
        _postrun(task, request, State.RETRY, error)


def listened_to(task: Task[..., Any]) -> bool:
    """Whether anybody wants to know how this task ends."""
    return bool(
        task.hooks
        or signals.task_postrun.receivers
        or signals.task_success.receivers
        or signals.task_failure.receivers
        or signals.task_retry.receivers
    )


def _ended(task: Task[..., Any], request: Request, state: State, value: object, traceback: str = "") -> None:
    if "after_return" in task.hooks:
        info = info_of(value, traceback) if isinstance(value, BaseException) and state is State.FAILURE else None
        _guarded(
            "after_return",
            request,
            lambda: task.after_return(str(state), value, request.id or "", request.args, request.kwargs, info),
        )
    if signals.task_postrun.receivers:
        _postrun(task, request, state, value)


def _postrun(task: Task[..., Any], request: Request, state: State, value: object) -> None:
    _guarded(
        "a receiver",
        request,
        lambda: signals.task_postrun.send(task, task=task, retval=value, state=str(state), **_call(request)),
    )


def _call(request: Request) -> dict[str, Any]:
    return {"task_id": request.id, "args": request.args, "kwargs": request.kwargs}


def _guarded(what: str, request: Request, tell: Callable[[], object]) -> None:
    try:
        tell()
    except BaseException:  # a hook that raises SystemExit must not undo what the task did
        logger.exception("%s of %s[%s] failed; the outcome stands", what, request.task, request.id)
