"""The class of a task: what `base=` and the application's `task_cls` name, joined with the world that the task is sent in.

A base may derive from `Task`, and then serves blocking and asyncio applications alike; or from `AppTask` or `AsyncAppTask`,
and then serves that one. Its class attributes that are named as task options are the defaults of those options, as in
Celery. Hooks may also be given to the decorator one by one (`on_failure=function`); each takes the task first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from amqpq.errors import ConfigurationError
from amqpq.hooks import HOOKS
from amqpq.task import Task, option_names

_NO_DEFAULT = frozenset({"name", "base", "bind"})
"""Options that are the function's, and never its class's."""


def take_class(options: dict[str, Any], default: type[Any] | None, world: type[Any]) -> type[Any]:
    """Take `base` and the hooks out of a decorator's options; return the class to make the task of.

    Args:
        options: Of the decorator; what is taken is removed.
        default: The application's, for a decorator without `base`.
        world: `AppTask` or `AsyncAppTask`.

    Raises:
        ConfigurationError: The base is no class of tasks, or of the other world's; a hook is no function.
    """
    base = options.pop("base", None)
    kind = _joined(_checked(world if base is None and default is None else base or default), world)
    hooks: dict[str, Any] = {name: options.pop(name) for name in HOOKS if name in options}
    for name, hook in hooks.items():
        if not callable(hook):
            raise ConfigurationError(f"task option {name}={hook!r} is not a function")
    return type(kind.__name__, (kind,), hooks | {"__module__": kind.__module__}) if hooks else kind


def options_of(kind: type[Any]) -> dict[str, Any]:
    """Return the options that a base class says as attributes.

    Raises:
        ConfigurationError: An attribute has the name of an option and is no plain value.
    """
    found: dict[str, Any] = {}
    ours = set(Task.__mro__)
    for each in reversed(kind.__mro__):
        if each in ours or each.__module__.partition(".")[0] == "amqpq":
            continue
        for name in option_names() - _NO_DEFAULT:
            if name not in vars(each):
                continue
            value = vars(each)[name]
            if hasattr(value, "__get__"):
                raise ConfigurationError(
                    f"{each.__qualname__}.{name} is a {type(value).__name__}, and {name!r} is a task option: "
                    "give it a value, or another name"
                )
            found[name] = value
    return found


def make(kind: type[Any], application: object, name: str, function: Callable[..., Any], options: object) -> Any:
    """Make the task.

    Raises:
        ConfigurationError: The class has an `__init__` of its own that does not pass on what it is given.
    """
    remedy = "let it be `def __init__(self, *args, **kwargs)` and call `super().__init__(*args, **kwargs)`"
    try:
        inspect.signature(kind).bind(application, name, function, options)
    except TypeError as error:
        raise ConfigurationError(
            f"{kind.__qualname__}.__init__ cannot be called for a task: {error}; {remedy}"
        ) from None
    task = kind(application, name, function, options)
    if not isinstance(getattr(task, "options", None), type(options)):
        raise ConfigurationError(f"{kind.__qualname__}.__init__ does not call its parent's; {remedy}")
    return task


def _checked(base: object) -> type[Any]:
    if not isinstance(base, type) or not issubclass(base, Task):
        raise ConfigurationError(f"base={base!r} is not a class derived from amqpq.Task")
    return base


def _joined(base: type[Any], world: type[Any]) -> type[Any]:
    """Return a class that is both; the base's methods come first."""
    if issubclass(base, world):
        return base
    if issubclass(world, base):  # `Task` itself: a task without anything special
        return world
    other = next((each for each in base.__mro__ if each.__module__ in {"amqpq.app", "amqpq.aioapp"}), None)
    if other is not None:
        raise ConfigurationError(
            f"base={base.__qualname__} is an {other.__name__}, and this application makes tasks of {world.__name__}; "
            "derive it from amqpq.Task, which serves both"
        )
    body: Mapping[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return type(base.__name__, (base, world), dict(body))
