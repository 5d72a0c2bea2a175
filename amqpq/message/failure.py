"""Exceptions as plain data, as Celery sends them: `{exc_type, exc_message, exc_module}`.

An exception is never pickled. The other side makes the same class again, and that is the delicate part: the class is
named by a message. So the rules are narrow. The module must be loaded already (nothing is imported because a message
says so), the name is looked up without running code of the module, it must be a subclass of `Exception` (a message
cannot raise `SystemExit` or `KeyboardInterrupt` here), and nothing but that class is called. Whatever does not fit
becomes a `RemoteError` that shows the original name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from amqpq.errors import RemoteError

MAX_TEXT: Final = 64 * 2**10
"""Characters of one text in a description; what is longer is cut. A failure must fit into a message."""

_MAX_ITEMS: Final = 1000
_MAX_DEPTH: Final = 5
_LARGEST_INT: Final = 2**63


class RemoteTraceback(Exception):
    """The traceback on the other side, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        """Show it as the interpreter shows a cause."""
        return f'\n"""\n{self.text.rstrip()}\n"""'


def describe(error: BaseException) -> dict[str, Any]:
    """Return the exception as data that every serializer can write and Celery can read.

    Args:
        error: Arguments that are no plain data are replaced by their repr; long texts are cut.

    Returns:
        `exc_type` (the qualified name), `exc_message` (the arguments, a list) and `exc_module`.
    """
    if type(error) is RemoteError:
        # Handed on: a task failed because one it called had failed. The original is what its caller wants to see.
        message = error.exc_message
        plain = _plain(list(message) if isinstance(message, tuple) else message, _MAX_DEPTH)
        return {"exc_type": error.exc_type, "exc_message": plain, "exc_module": error.exc_module}
    kind = type(error)
    arguments = error.args
    if isinstance(error, OSError) and error.filename is not None and len(arguments) == 2:  # noqa: PLR2004 - see below
        # The interpreter takes the name of the file out of `args`, which leaves errno and strerror.
        arguments = (*arguments, error.filename)
    return {
        "exc_type": kind.__qualname__,
        "exc_message": [_plain(each, _MAX_DEPTH) for each in arguments[:_MAX_ITEMS]],
        "exc_module": kind.__module__,
    }


def rebuild(description: object, traceback: str | None = None) -> Exception:
    """Return the exception that a description stands for; the remote traceback becomes its cause.

    Args:
        description: From the result of a failed task.
        traceback: The remote traceback.

    Returns:
        An exception of the same class where the rules above allow it, else a `RemoteError`. Never raises.
    """
    if not isinstance(description, Mapping):
        return RemoteError("Exception", _shown(description), "", traceback or "")
    name, module, message = (description.get(key) for key in ("exc_type", "exc_module", "exc_message"))
    name = name if isinstance(name, str) and name else "Exception"
    module = module if isinstance(module, str) else ""
    error = _made(name, module, message)
    if error is None:
        return RemoteError(name, _one(message), module, traceback or "")
    if traceback:
        error.__cause__ = RemoteTraceback(traceback)
    return error


def _made(name: str, module: str, message: object) -> Exception | None:
    """Make the exception, or None where the rules or its constructor do not allow it."""
    kind = _class(name, module)
    if kind is None:
        return None
    arguments = message if isinstance(message, (list, tuple)) else () if message is None else (message,)
    try:
        error = kind(*arguments)
    except Exception:  # noqa: BLE001 - many classes cannot be made from their args; RemoteError then stands in
        return None
    return error if isinstance(error, kind) else None


def _class(name: str, module: str) -> type[Exception] | None:
    """Find a loaded exception class by name, without running any code to find it."""
    found: object = sys.modules.get(module)
    for part in name.split("."):
        # Not getattr: it would run a module's `__getattr__` or a descriptor, at the wish of a message.
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _one(message: object) -> object:
    """Return the arguments as a person writes them: the only one alone."""
    return message[0] if isinstance(message, (list, tuple)) and len(message) == 1 else message


def _plain(value: object, depth: int) -> object:
    """Return plain data as it is, anything else as text."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, str):
        return _cut(str(value))
    if isinstance(value, int):
        return int(value) if -_LARGEST_INT <= value < _LARGEST_INT else _shown(value)
    if depth and isinstance(value, (list, tuple)) and len(value) <= _MAX_ITEMS:
        return [_plain(each, depth - 1) for each in value]
    if depth and isinstance(value, dict) and len(value) <= _MAX_ITEMS and all(isinstance(key, str) for key in value):
        return {_cut(key): _plain(each, depth - 1) for key, each in value.items()}
    return _shown(value)


def _shown(value: object) -> str:
    """Return the repr of anything, even where it has none."""
    try:
        return _cut(repr(value))
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide the failure that carries it
        return f"<{type(value).__name__} that cannot be shown>"


def _cut(text: str) -> str:
    # A lone surrogate cannot be written as UTF-8, and exceptions about broken file names carry them.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"
