"""A difference between the file and the broker, classed by what can be done about it. Pure values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal["exchange", "queue", "binding", "policy", "operator policy", "consumer", "broker"]
Risk: TypeAlias = Literal["none", "loss"]


class Action(StrEnum):
    """What becomes of a difference."""

    CREATE = "create"
    """Missing; an apply makes it."""
    CHANGE = "change"
    """Changed in place by an apply, without redeclaring anything."""
    DELETE = "delete"
    """Ours, and not in the file any more; an apply removes it."""
    POLICY = "policy"
    """Cannot be changed on the existing object, but a policy can make it hold."""
    MIGRATE = "migrate"
    """Holds for the life of the queue; its messages have to move to another one."""
    REPLACE = "replace"
    """Holds for the life of the exchange; another one has to take its place."""
    MISSING = "missing"
    """Somebody else's, expected, and not there (or not as expected)."""
    FORBIDDEN = "forbidden"
    """Ours to do, and the file or what the object holds forbids it."""
    ADMIN = "admin"
    """Only an administrator of the broker changes it."""
    FOREIGN = "foreign"
    """Neither in the file nor made by this project, and it acts on what is ours; or ours, and another project's as well."""
    UNKNOWN = "unknown"
    """Cannot be seen at this level."""
    INFO = "info"
    """Differs, and makes no difference."""


MARKS: Final = {
    Action.CREATE: "+",
    Action.CHANGE: "~",
    Action.DELETE: "-",
    Action.POLICY: "~",
    Action.MIGRATE: ">",
    Action.REPLACE: ">",
    Action.MISSING: "!",
    Action.FORBIDDEN: "!",
    Action.ADMIN: "!",
    Action.FOREIGN: "*",
    Action.UNKNOWN: "?",
    Action.INFO: " ",
}

APPLIED: Final = frozenset({Action.CREATE, Action.CHANGE, Action.DELETE})
"""What an apply does by itself."""

BLOCKED: Final = frozenset(
    {Action.POLICY, Action.MIGRATE, Action.REPLACE, Action.MISSING, Action.FORBIDDEN, Action.ADMIN, Action.FOREIGN}
)
"""What stays different after an apply, until somebody does what the remedy says."""

_SEVERITY: Final = (
    Action.MIGRATE,
    Action.REPLACE,
    Action.FORBIDDEN,
    Action.POLICY,
    Action.UNKNOWN,
    Action.CHANGE,
    Action.INFO,
)


@dataclass(frozen=True, slots=True)
class Detail:
    """One property: what the broker has and what the file says (None: absent), and what that forces."""

    key: str
    before: Any
    after: Any
    action: Action
    note: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One object that differs. Counts are what was seen of a queue; None where nobody told them."""

    kind: Kind
    name: str
    action: Action
    details: tuple[Detail, ...] = ()
    because: str = ""
    remedy: str = ""
    risk: Risk = "none"
    may_lose: int = 0
    """Messages that may be lost by doing it, as far as the counts tell."""
    ready: int | None = None
    unacknowledged: int | None = None
    consumers: int | None = None

    @property
    def address(self) -> str:
        """The object in words: `queue orders`."""
        return f"{self.kind} {self.name}"

    @property
    def mark(self) -> str:
        """How it is marked where a plan is printed."""
        return MARKS[self.action]


def worst(details: Iterable[Detail]) -> Action:
    """Return what the most stubborn property asks for."""
    actions = {detail.action for detail in details}
    return next((action for action in _SEVERITY if action in actions), Action.INFO)
