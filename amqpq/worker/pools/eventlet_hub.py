"""eventlet (https://eventlet.readthedocs.io) for the `eventlet` pool. Imported in its child only, after that is patched.

The library is in maintenance and asks for no new users. It is here for programs that rely on it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from amqpq.worker.pools import greens


class Eventlet:
    """eventlet as a `greens.Greens`."""

    name = "eventlet"

    def __init__(self) -> None:
        self._eventlet: Any = importlib.import_module("eventlet")
        self._hubs: Any = importlib.import_module("eventlet.hubs")

    def wait_readable(self, file: int) -> None:
        """Let the other greenlets run until the descriptor can be read."""
        self._hubs.trampoline(file, read=True)

    def spawn(self, function: Callable[[], object]) -> None:
        """Run a function in a greenlet of its own, soon."""
        self._eventlet.spawn_n(function)

    def current(self) -> object:
        """Return the greenlet that runs."""
        greenlet: object = self._eventlet.getcurrent()
        return greenlet

    def alarm(self, seconds: float, error: Exception) -> Callable[[], object]:
        """Have the error raised in this greenlet after so long; return what takes that back."""
        cancel: Callable[[], object] = self._eventlet.Timeout(seconds, error).cancel
        return cancel


def main(*system: Any) -> None:
    """Be a child of the eventlet pool."""
    greens.serve(Eventlet(), *system)
