"""Findings as SARIF 2.1.0, the format that code review, editors and scanners read.

The shape is that of the specification (https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html, sections 3.13 to 3.52).
What the file suppresses is listed with its reason, so that a reviewer sees what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import quote

from amqpq.topology.lint import catalogue
from amqpq.topology.lint.suppressions import Suppressed
from amqpq.topology.problems import Problem, Severity

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Final[dict[Severity, str]] = {"error": "error", "warning": "warning", "info": "note"}


def report(problems: Iterable[Problem], suppressed: Iterable[Suppressed]) -> dict[str, Any]:
    """Return the findings of one file as a SARIF log with one run."""
    places = {name: index for index, name in enumerate(catalogue.rules())}
    results = [_result(problem, places) for problem in problems]
    for each in suppressed:
        reason = f"{each.reason} (until {each.until})"
        results.append(
            {**_result(each.problem, places), "suppressions": [{"kind": "inSource", "justification": reason}]}
        )
    driver = {"name": "amqpq topology lint", "rules": [_rule(rule) for rule in catalogue.rules().values()]}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: catalogue.Rule) -> dict[str, Any]:
    beside = f"\nBeside both, amqpq.lock:\n\n{rule.lock}" if rule.lock else ""
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.finds},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}\n\nThis is found:\n\n{rule.bad}\nThis is not:\n\n{rule.good}{beside}"},
        "defaultConfiguration": {"level": LEVELS[rule.severities[0]]},
    }


def _result(problem: Problem, places: dict[str, int]) -> dict[str, Any]:
    remedy = f"; {problem.remedy}" if problem.remedy else ""
    result: dict[str, Any] = {
        "ruleId": problem.rule,
        "level": LEVELS[problem.severity],
        "message": {"text": f"{problem.message}{remedy}"},
        "locations": [_location(problem)],
    }
    if problem.rule in places:
        result["ruleIndex"] = places[problem.rule]
    return result


def _location(problem: Problem) -> dict[str, Any]:
    path = PurePath(problem.place.file)
    location: dict[str, Any] = {
        "artifactLocation": {"uri": path.as_uri() if path.is_absolute() else quote(path.as_posix())}
    }
    if problem.place.line:
        location["region"] = {"startLine": problem.place.line, "startColumn": max(1, problem.place.column)}
    return {"physicalLocation": location}
