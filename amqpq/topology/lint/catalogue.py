"""The catalogue of rules: what each one finds, why, and a sample of each side.

`rules.yaml` beside this module holds them. The reference page, `amqpq topology lint --explain`, SARIF and the tests all read it,
so that a rule is described once. A number is never given to another rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from amqpq import yamlfile
from amqpq.errors import ConfigurationError
from amqpq.topology.model import did_you_mean
from amqpq.topology.problems import Severity

_SHORT = re.compile(r"(?:top)?0*(\d{1,3})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of lint. `severities` are those it may report with, the gravest first."""

    id: str
    severities: tuple[Severity, ...]
    finds: str
    why: str
    bad: str
    """A topology without its head that the rule finds something in."""
    says: str
    """What it says about `bad`: severity and message."""
    good: str
    """The same, mended."""
    lock: str = ""
    """The `amqpq.lock` beside both, for a rule that looks at one."""

    @property
    def severity(self) -> str:
        """The severities in words."""
        return " or ".join(self.severities)


@dataclass(frozen=True, slots=True)
class Unused:
    """A number without a rule: what it would find, and why there is nothing for it to look at."""

    id: str
    would_find: str
    reason: str


@lru_cache(maxsize=1)
def rules() -> Mapping[str, Rule]:
    """Return the rules by id, in their order."""
    return {
        name: Rule(
            id=name,
            severities=tuple(entry["severity"]),
            finds=entry["finds"],
            why=" ".join(entry["why"].split()),
            bad=entry["bad"],
            says=" ".join(entry["says"].split()),
            good=entry["good"],
            lock=entry.get("lock", ""),
        )
        for name, entry in _data()["rules"].items()
    }


@lru_cache(maxsize=1)
def unused() -> Mapping[str, Unused]:
    """Return the numbers that have no rule."""
    return {
        name: Unused(name, " ".join(entry["would_find"].split()), " ".join(entry["reason"].split()))
        for name, entry in _data()["unused"].items()
    }


def find(text: str) -> Rule | Unused:
    """Return the rule a person means: `TOP034`, `top34` or `34`.

    Raises:
        ConfigurationError: There is none.
    """
    short = _SHORT.fullmatch(text.strip())
    name = f"TOP{int(short.group(1)):03d}" if short else text.strip().upper()
    known: dict[str, Rule | Unused] = {**rules(), **unused()}
    if name not in known:
        near = did_you_mean(name, known)
        raise ConfigurationError(f"there is no rule '{text}'{near}; `amqpq topology lint --list` has them all")
    return known[name]


@lru_cache(maxsize=1)
def _data() -> Any:
    path = Path(__file__).with_name("rules.yaml")
    return yamlfile.read(path.read_text(encoding="utf-8"), path.name).root.data()
