"""gevent (https://www.gevent.org) for the `gevent` pool. Imported in its child only, after that is patched."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from amqpq.worker.pools import greens


class Gevent:
    """gevent as a `greens.Greens`."""

    name = "gevent"

    def __init__(self) -> None:
        self._gevent: Any = importlib.import_module("gevent")
        self._socket: Any = importlib.import_module("gevent.socket")

    def wait_readable(self, file: int) -> None:
        """Let the other greenlets run until the descriptor can be read."""
        self._socket.wait_read(file)

    def spawn(self, function: Callable[[], object]) -> None:
        """Run a function in a greenlet of its own, soon."""
        self._gevent.spawn(function)

    def current(self) -> object:
        """Return the greenlet that runs."""
        greenlet: object = self._gevent.getcurrent()
        return greenlet

    def alarm(self, seconds: float, error: Exception) -> Callable[[], object]:
        """Have the error raised in this greenlet after so long; return what takes that back."""
        close: Callable[[], object] = self._gevent.Timeout.start_new(seconds, error).close
        return close


def main(*system: Any) -> None:
    """Be a child of the gevent pool."""
    greens.serve(Gevent(), *system)
