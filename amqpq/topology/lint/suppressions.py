"""Suppressions: findings that the file says are meant so, each with its reason and until when.

Errors stay: what the broker refuses, or a secret in clear, is not mended by a reason. A suppression whose day has passed, or that
suppresses nothing, is a finding itself, so that the list does not outlive what it was written for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from amqpq.topology.document_lint import SuppressPart
from amqpq.topology.lint import catalogue
from amqpq.topology.model import did_you_mean
from amqpq.topology.problems import Findings, Path, Problem, written


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A finding that was left out, and why."""

    problem: Problem
    reason: str
    until: date


def apply(
    parts: Iterable[SuppressPart], findings: Findings, problems: Iterable[Problem], today: date, *, whole: bool
) -> tuple[list[Problem], list[Suppressed]]:
    """Take out what is suppressed; note suppressions that are out of date in `findings`.

    Args:
        parts: The suppressions of the file, in its order.
        findings: Where to note what is wrong with them.
        problems: All that lint found.
        today: The day; a suppression counts on its last day, too.
        whole: Whether every rule has run as the file says, so that a suppression without its finding is superfluous.

    Returns:
        What is left, and what was suppressed.
    """
    left = list(problems)
    suppressed: list[Suppressed] = []
    for index, part in enumerate(parts):
        path: Path = ("lint", "suppress", index)
        if part.rule not in catalogue.rules():
            near = did_you_mean(part.rule, catalogue.rules())
            remedy = "" if near else "`amqpq topology lint --list` has them all"
            findings.error((*path, "rule"), "TOP001", f"there is no rule '{part.rule}'{near}", remedy)
            continue
        meant = [problem for problem in left if problem.rule == part.rule and _is_in(problem.path, part.at)]
        soft = [problem for problem in meant if problem.severity != "error"]
        if part.until < today:
            message = f"since {part.until} {part.rule} at {part.at} is not suppressed any more"
            remedy = "look at it again: mend it, or give a later day" if meant else "remove it"
            findings.warning((*path, "until"), "TOP080", message, remedy)
            continue
        if len(soft) < len(meant):
            message = f"{part.rule} at {part.at} is an error here, and errors cannot be suppressed"
            findings.warning(path, "TOP081", message, "mend it, and remove this")
        elif not soft and whole:
            _superfluous(findings, path, part, left)
        left = [problem for problem in left if problem not in soft]
        suppressed += [Suppressed(problem, part.reason, part.until) for problem in soft]
    return left, suppressed


def _superfluous(findings: Findings, path: Path, part: SuppressPart, left: list[Problem]) -> None:
    places = [written(problem.path) for problem in left if problem.rule == part.rule and problem.path]
    if places:
        message = f"{part.rule} is not found at {part.at}, but at {', '.join(dict.fromkeys(places))}"
    else:
        message = f"there is no {part.rule} at {part.at} to suppress"
    findings.warning(path, "TOP081", message, "correct `at`" if places else "remove it")


def _is_in(path: Path, place: str) -> bool:
    """Whether a path leads to the place, or into it; names may hold dots, so whole steps are compared."""
    return any(written(path[:length]) == place for length in range(1, len(path) + 1))
