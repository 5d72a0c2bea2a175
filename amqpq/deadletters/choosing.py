"""Which dead letters are meant. Pure; every condition that is given must hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from amqpq.deadletters.letter import Letter, plain_body

TEXT_BYTES: Final = 16 * 2**20
"""A body is unpacked up to this size to be searched."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a dead letter must be. Empty or None: anything.

    `ids`, `causes` and `origins` hold alternatives. `tasks` are patterns (`web.*`). Ages are seconds since it last failed;
    one whose time is unknown is neither old nor young. `text` is looked for without regard to case.
    """

    ids: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ()
    causes: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    older_than: float | None = None
    newer_than: float | None = None
    text: str = ""

    @property
    def everything(self) -> bool:
        """Whether nothing is asked of a dead letter."""
        return self == Choice()

    def takes(self, letter: Letter, now: float) -> bool:
        """Whether a dead letter is meant.

        Args:
            letter: It.
            now: Seconds since the epoch.
        """
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.tasks or any(fnmatchcase(letter.task, pattern) for pattern in self.tasks))
            and (not self.causes or letter.cause in self.causes)
            and (not self.origins or letter.origin in self.origins)
            and self._takes_age(letter, now)
            and (not self.text or contains(letter, self.text))
        )

    def _takes_age(self, letter: Letter, now: float) -> bool:
        if self.older_than is None and self.newer_than is None:
            return True
        if letter.failed_at is None:
            return False
        age = now - letter.failed_at
        return (self.older_than is None or age > self.older_than) and (self.newer_than is None or age < self.newer_than)


def contains(letter: Letter, text: str) -> bool:
    """Whether reason, traceback, headers or body hold a text, in any case. A binary body is searched for its UTF-8 text."""
    wanted = text.casefold()
    if any(wanted in each.casefold() for each in _words(letter.headers)):
        return True
    if wanted in letter.reason.casefold():
        return True
    return wanted in plain_body(letter, TEXT_BYTES).decode("utf-8", errors="replace").casefold()


def _words(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        each: Any
        for name, each in value.items():
            yield str(name)
            yield from _words(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _words(each)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", errors="replace")
    elif value is not None:
        yield str(value)
