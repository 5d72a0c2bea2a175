"""What the `checks:` of a topology expect: unit tests of the wiring, as values. `amqpq.topology.checks` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from amqpq.types import Table

How: TypeAlias = Literal["raise", "reject", "crash", "limit"]
"""raise: the function raises; reject: a consumer rejects it, without putting it back; crash: the process that runs the task
dies of it; limit: it comes back unacknowledged, as when connections are lost, and only the broker counts."""

Operation: TypeAlias = Literal["publish", "consume", "configure"]
OPERATIONS: Final[tuple[Operation, ...]] = ("publish", "consume", "configure")

NOWHERE: Final = "nowhere"
"""What `ends_in` says of a message that is dropped."""
DONE: Final = "done"
"""What `ends_in` says of a message that is run in the end."""
WORDS: Final = (NOWHERE, DONE)


@dataclass(frozen=True, slots=True)
class PublishCheck:
    """A message published like this reaches these queues (`exactly`: and no other)."""

    task: str | None
    arguments: Mapping[str, Any]
    exchange: str
    key: str
    headers: Table
    reaches: tuple[str, ...]
    exactly: bool
    place: str
    """Where it stands, `file:line:column`."""


@dataclass(frozen=True, slots=True)
class FailCheck:
    """A message that fails ends in these queues, and soon enough.

    With `task` it is published as its route says, else it is in `queue` (with both: of the copies the one in `queue`).
    `times` None: it fails for ever.
    """

    task: str | None
    arguments: Mapping[str, Any]
    queue: str | None
    how: How
    times: int | None
    ends_in: tuple[str, ...]
    within_seconds: float | None
    place: str


@dataclass(frozen=True, slots=True)
class ExpireCheck:
    """A message that nobody takes is in these queues when so much time has passed."""

    task: str | None
    arguments: Mapping[str, Any]
    queue: str | None
    after_seconds: float
    ends_in: tuple[str, ...]
    place: str


@dataclass(frozen=True, slots=True)
class PermissionCheck:
    """A user may do this with an exchange or a queue (`exactly`: and nothing else)."""

    user: str
    may: tuple[Operation, ...]
    name: str
    exactly: bool
    place: str


Check: TypeAlias = PublishCheck | FailCheck | ExpireCheck | PermissionCheck
