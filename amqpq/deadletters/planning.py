"""Where a dead letter goes when it is sent back, or why it stays. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from amqpq.deadletters.letter import Letter, sent_back
from amqpq.types import Publication


@dataclass(frozen=True, slots=True)
class Stays:
    """A dead letter that is not sent back, and why."""

    why: str


class Plan(Protocol):
    """Says what becomes of each dead letter that is meant."""

    def plan(self, letter: Letter, now: float) -> Publication | Stays:
        """Decide about one; `now` is seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Return:
    """How dead letters are sent back.

    Args:
        queues: Those that the topology has. The header with the origin is not signed, so that it may say anything; a message
            is sent nowhere else unless `to` says so.
        to: One queue for all, instead of where each came from.
        renamed: Queues that came by another name, and the one that they have now.
        expired: Also those whose signed `expires` has passed; a worker would park them again.
    """

    queues: Collection[str]
    to: str | None = None
    expired: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)

    def plan(self, letter: Letter, now: float) -> Publication | Stays:
        """Decide about one.

        Args:
            letter: It.
            now: Seconds since the epoch.
        """
        target = self.to if self.to is not None else self.renamed.get(letter.origin or "", letter.origin)
        if not target:
            return Stays("nothing says which queue it came from; --to QUEUE names one")
        if target == letter.queue:
            return Stays(f"it would go to {target!r}, where it is")
        if self.to is None and target not in self.queues:
            return Stays(f"it came from queue {target!r}, which the topology does not have; --to QUEUE names another")
        if letter.expires_at is not None and letter.expires_at <= now and not self.expired:
            return Stays("its expiry has passed, so that it would come straight back; --expired sends it all the same")
        return sent_back(letter, target)
