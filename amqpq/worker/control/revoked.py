"""The tasks that are not to be run. In memory, bounded by number and by age."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

CAPACITY: Final = 100_000
"""Ids remembered; at about 150 bytes each, 15 MB when full. Celery remembers 50,000."""
DEFAULT_SECONDS: Final = 7 * 86400.0
"""How long an id is remembered where nothing says how long; Celery: three hours."""
ID_CHARACTERS: Final = 255
"""A task id is a short string on the wire; what is longer is none."""


class Revoked:
    """Ids with the time until which they count.

    Args:
        now: Seconds since the epoch.
        capacity: Ids at most; the one revoked longest ago goes first.
    """

    __slots__ = ("_capacity", "_ids", "_now")

    def __init__(self, now: Callable[[], float], capacity: int = CAPACITY) -> None:
        self._now = now
        self._capacity = capacity
        self._ids: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many ids are remembered; with it, an empty memory is false."""
        return len(self._ids)

    def __repr__(self) -> str:
        """Show how full it is."""
        return f"<{len(self._ids)} revoked of {self._capacity}>"

    def __contains__(self, task_id: str) -> bool:
        """Whether this task is revoked."""
        until = self._ids.get(task_id)
        if until is None:
            return False
        if until <= self._now():
            del self._ids[task_id]
            return False
        return True

    def add(self, ids: Iterable[str], until: float | None = None) -> list[str]:
        """Remember these ids; return those that are new.

        Args:
            ids: Task ids.
            until: Seconds since the epoch; None is a week from now. It never shortens what is remembered longer.
        """
        now = self._now()
        until = now + DEFAULT_SECONDS if until is None else until
        if until <= now:
            return []
        new: list[str] = []
        for task_id in ids:
            if len(task_id) > ID_CHARACTERS:
                continue
            before = self._ids.get(task_id)
            if before is None:
                new.append(task_id)
            self._ids[task_id] = until if before is None else max(before, until)
        while len(self._ids) > self._capacity:
            self._ids.popitem(last=False)
        return new

    def ids(self) -> list[str]:
        """Return the ids that count, oldest first."""
        now = self._now()
        return [task_id for task_id, until in self._ids.items() if until > now]
