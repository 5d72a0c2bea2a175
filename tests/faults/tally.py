"""What a cell of the matrix counts, and the rule it is judged by. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

REPLAYED = "replayed"
"""Cause of a dead letter that is a second copy: published again after an unknown outcome, by a producer, or by a worker that had
to mark a suspect, and seen to be the same. Such a copy is parked where the worker knows it, and runs twice elsewhere: both are
bounded by what was in flight."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is in flight at a time.

    `prefetch` is what one worker holds, `published` what all producers have sent and not seen confirmed.
    """

    workers: int
    prefetch: int
    published: int


@dataclass(frozen=True, slots=True)
class Tally:
    """The count of one cell."""

    confirmed: int
    """Tasks that the broker confirmed, without those that an operator deleted with their queue."""
    lost: tuple[str, ...] = ()
    """Confirmed, and no result or a wrong one: each with what is known of it."""
    twice: int = 0
    """Runs beyond the first, over all tasks."""
    bound: int = 0
    """What may run twice: what was in flight, times the number of strikes."""
    parked: Mapping[str, int] = field(default_factory=dict)
    """Dead letters by cause."""
    allowed: Mapping[str, int] = field(default_factory=dict)
    """Dead letters that the row makes on purpose, and second copies."""
    deaf: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()
    """Workers that ended otherwise than they should."""
    strikes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def broken(tally: Tally) -> list[str]:
    """Return each rule that a cell breaks, as a sentence; nothing where it holds."""
    said = []
    if not tally.confirmed:
        said.append("nothing was published")
    if not tally.strikes:
        said.append("the fault did not happen")
    if tally.lost:
        said.append(f"{len(tally.lost)} lost: {', '.join(tally.lost[:5])}")
    if tally.twice > tally.bound:
        said.append(f"{tally.twice} ran twice, and only {tally.bound} were in flight")
    for cause, count in tally.parked.items():
        if count > tally.allowed.get(cause, 0):
            said.append(f"{count} parked as {cause!r}, and {tally.allowed.get(cause, 0)} may be")
    said.extend(f"deaf: {who}" for who in tally.deaf)
    said.extend(tally.exits)
    return said


def repeated(runs: Iterable[str]) -> int:
    """Return how many of these runs (task ids, one per run) were not the first of their task."""
    return sum(count - 1 for count in Counter(runs).values())


def missing(confirmed: Collection[str], answers: Mapping[str, object]) -> list[str]:
    """Return the confirmed tasks without their answer (their own id), each with what came instead."""
    return [
        f"{task_id} ({answers[task_id]!r:.200})" if task_id in answers else f"{task_id} (no result)"
        for task_id in confirmed
        if answers.get(task_id) != task_id
    ]
