"""Version requirements as `requires.rabbitmq` writes them: `>=3.10,<5`."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Version: TypeAlias = tuple[int, int, int]

OLDEST: Final[Version] = (3, 10, 0)
"""The oldest RabbitMQ amqpq runs on."""

_CLAUSE = re.compile(r"(>=|<=|==|>|<)\s*(\d+(?:\.\d+){0,2})")


def lowest(requirement: str) -> Version:
    """Return the lowest version a requirement allows, at least the oldest one amqpq runs on.

    Raises:
        ValueError: It is not a requirement, or allows nothing amqpq runs on.
    """
    low = OLDEST
    allowed = True
    # Lower bounds first: an upper one is held against the lowest version that is left.
    for clause in sorted(requirement.split(","), key=lambda text: text.strip().startswith("<")):
        match = _CLAUSE.fullmatch(clause.strip())
        if match is None:
            msg = f"'{requirement}' is not a version requirement; write e.g. '>=3.10' or '>=3.13,<5'"
            raise ValueError(msg)
        version = parse(match.group(2))
        if match.group(1) in {">=", "==", ">"}:
            low = max(low, version)
        if match.group(1) in {"<=", "=="}:
            allowed = allowed and low <= version
        elif match.group(1) == "<":
            allowed = allowed and low < version
    if not allowed:
        msg = f"'{requirement}' allows no RabbitMQ that amqpq runs on (3.10 and later)"
        raise ValueError(msg)
    return low


def allows(requirement: str, version: Version) -> bool:
    """Whether a broker of this version is one the requirement asks for; the requirement is well-formed."""
    compare = {
        ">=": version.__ge__,
        "<=": version.__le__,
        ">": version.__gt__,
        "<": version.__lt__,
        "==": version.__eq__,
    }
    found = [_CLAUSE.fullmatch(clause.strip()) for clause in requirement.split(",")]
    return all(match is not None and compare[match.group(1)](parse(match.group(2))) for match in found)


def parse(text: str) -> Version:
    """Read `4.1` as (4, 1, 0)."""
    major, minor, patch = [*(int(part) for part in text.split(".")), 0, 0][:3]
    return major, minor, patch


def show(version: Version) -> str:
    """Write (4, 1, 0) as `4.1`."""
    return ".".join(str(part) for part in (version if version[2] else version[:2]))
