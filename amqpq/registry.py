"""The tasks of one application, by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

from amqpq.errors import DuplicateTask, UnknownTask
from amqpq.task import Task, did_you_mean


class Registry:
    """Name to task. Registration happens at import, look-up for every message."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}

    def __repr__(self) -> str:
        """Show the names."""
        return f"<Registry {', '.join(sorted(self._tasks)) or 'empty'}>"

    def __len__(self) -> int:
        """Count the tasks."""
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        """Whether a task of this name is registered."""
        return name in self._tasks

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, sorted."""
        return iter(sorted(self._tasks))

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(sorted(self._tasks))

    def add(self, task: Task[..., Any]) -> None:
        """Register a task.

        The same function of the same place may come again (a reloaded module, an interactive session); it replaces itself.

        Raises:
            DuplicateTask: Another function has this name.
        """
        known = self._tasks.get(task.name)
        if known is not None and not _same_place(known, task):
            message = (
                f"two functions claim the task name {task.name!r}: {_place(known)} and {_place(task)}; "
                "give one of them another name="
            )
            raise DuplicateTask(message)
        self._tasks[task.name] = task

    def get(self, name: str) -> Task[..., Any] | None:
        """Return the task of this name, or None."""
        return self._tasks.get(name)

    def __getitem__(self, name: str) -> Task[..., Any]:
        """Return the task of this name.

        Raises:
            UnknownTask: There is none; the message says what was probably meant.
        """
        task = self._tasks.get(name)
        if task is None:
            raise UnknownTask(self.explain_missing(name))
        return task

    def explain_missing(self, name: str) -> str:
        """Return the sentence that says that `name` is not registered, and what may have been meant."""
        hint = did_you_mean(name, list(self._tasks))
        if not hint:
            hint = f"; registered: {', '.join(sorted(self._tasks))}" if self._tasks else "; nothing is registered"
        return f"no task {name!r} is registered{hint}"


def _code(task: Task[..., Any]) -> CodeType | None:
    code = getattr(task.function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _same_place(one: Task[..., Any], other: Task[..., Any]) -> bool:
    first, second = _code(one), _code(other)
    if one.function is other.function:
        return True
    if first is None or second is None:
        return False
    if (first.co_filename, first.co_firstlineno) == (second.co_filename, second.co_firstlineno):
        return True
    interactive = not hasattr(sys.modules.get("__main__"), "__file__")
    return interactive and one.function.__module__ == other.function.__module__ == "__main__"


def _place(task: Task[..., Any]) -> str:
    code = _code(task)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(task.function)
