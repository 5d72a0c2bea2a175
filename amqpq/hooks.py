"""What a task may hook into of its own life: five methods to override, with Celery's signatures.

They run where the task runs, after the function and before the message is acknowledged: at least once, like the task
itself. `before_start` is part of the run, and an error in it is how the task failed. An error in any other is logged and
changes nothing: what became of the task is decided by then.

A task whose process dies or is killed for its hard time limit has no hook left to call; the signal `task_failure` is sent
for it by the worker.
"""

from __future__ import annotations

import traceback as tracebacks
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """An error with its traceback as text, as hooks and the signals of failures get it (`einfo`)."""

    exception: BaseException
    traceback: str

    @property
    def type(self) -> type[BaseException]:
        """The class of the error."""
        return type(self.exception)

    def __str__(self) -> str:
        """Return the traceback."""
        return self.traceback


def info_of(error: BaseException, traceback: str = "") -> ExceptionInfo:
    """Return the error with this traceback, or its own."""
    return ExceptionInfo(error, traceback or "".join(tracebacks.format_exception(error)))


class TaskHooks:
    """The hooks of a task; all of them do nothing until a base class overrides them."""

    def before_start(self, task_id: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """Run before the function, within its time limits. What it raises is how the task failed."""

    def on_success(self, retval: Any, task_id: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
        """Run when the function has returned `retval`, and that could be encoded."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> object:
        """Run when the task has failed with `exc` for good."""

    def on_retry(
        self,
        exc: BaseException,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> object:
        """Run when this attempt has failed with `exc` and another one is to come."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo | None,
    ) -> object:
        """Run after `on_success` or `on_failure`; `retval` is the error where `status` is FAILURE."""


HOOKS: Final = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


def overridden(kind: type[TaskHooks]) -> frozenset[str]:
    """Return the hooks that a class has made something of, so that a task without any costs nothing."""
    return frozenset(name for name in HOOKS if getattr(kind, name) is not getattr(TaskHooks, name))
