"""How what happens on the transport's thread or loop reaches the flow that waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from amqpq.transport.interface import Flow, Pending

T = TypeVar("T")


def ignore(pending: Pending[Any]) -> None:
    """Take note of an answer nobody waits for: asyncio complains of errors that nobody looked at."""
    pending.add_done_callback(_look_at)


def _look_at(pending: Any) -> None:
    if not pending.cancelled():
        pending.exception()


class Mailbox(Generic[T]):
    """Hands what arrives on the transport's thread or loop to the flow that waits for it, in order."""

    def __init__(self, new_pending: Callable[[], Pending[Any]]) -> None:
        self._new_pending = new_pending
        self._items: deque[T] = deque()
        self._waiting: Pending[Any] | None = None
        self._lock = threading.Lock()

    def put(self, item: T) -> None:
        """Add an item; on the transport's own thread or loop."""
        with self._lock:
            self._items.append(item)
            waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def drain(self) -> list[T]:
        """Return what is there, without waiting."""
        with self._lock:
            items = list(self._items)
            self._items.clear()
        return items

    def next(self) -> Flow[T]:
        """Wait for the next item."""
        while True:
            with self._lock:
                if self._items:
                    return self._items.popleft()
                pending = self._waiting = self._new_pending()
            yield pending
