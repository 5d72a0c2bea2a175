"""Suppressions: what is meant so is left out for a while, with its reason; nothing is left out for ever, and no error ever."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from amqpq.topology import Inspection, inspect

TODAY = date(2026, 6, 30)
LOOKALIKES: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"web-high": {}, "web.high": {}},
    "routes": {"a": {"queue": "web-high"}, "b": {"queue": "web.high"}},
}


def entry(**changes: Any) -> dict[str, Any]:
    """Return a suppression of the finding that `LOOKALIKES` has."""
    return {"rule": "TOP009", "at": "queues.web.high", "reason": "the old name goes", "until": "2026-06-30", **changes}


def look(*suppress: dict[str, Any], rabbitmq: str | None = None, **changes: Any) -> Inspection:
    """Look at the file with suppressions."""
    source = {**LOOKALIKES, "lint": {"suppress": list(suppress)}, **changes}
    return inspect(source, environ={}, today=TODAY, rabbitmq=rabbitmq)


def said(inspection: Inspection) -> list[str]:
    """Return errors and warnings by rule, without their place."""
    return sorted(f"{each.rule} {each.message}" for each in inspection.problems if each.severity != "info")


def test_a_suppressed_finding_is_left_out_and_told_with_its_reason() -> None:
    """On the last day it still counts."""
    inspection = look(entry())
    assert said(inspection) == []
    (suppressed,) = inspection.suppressed
    assert suppressed.problem.rule == "TOP009"
    assert suppressed.reason == "the old name goes"
    assert suppressed.until == TODAY


def test_what_is_above_covers_what_is_below() -> None:
    """`at: queues` is for all queues."""
    assert said(look(entry(at="queues"))) == []


@pytest.mark.parametrize("place", ["queues.web", "queues.web.hig", "exchanges", "queues.web-high"])
def test_another_place_is_not_meant(place: str) -> None:
    """A name that begins alike is another one; the message says where the finding is."""
    rules = said(look(entry(at=place)))
    assert [text.split(" ")[0] for text in rules] == ["TOP009", "TOP081"]
    assert "but at queues.web.high" in rules[1]


def test_a_day_that_has_passed_brings_the_finding_back() -> None:
    """With a finding of its own."""
    rules = said(look(entry(until="2026-06-29")))
    assert rules[0].startswith("TOP009")
    assert rules[1] == "TOP080 since 2026-06-29 TOP009 at queues.web.high is not suppressed any more"


def test_a_suppression_of_nothing_is_a_finding() -> None:
    """What was mended needs none."""
    rules = said(look(entry(rule="TOP042")))
    assert "TOP081 there is no TOP042 at queues.web.high to suppress" in rules


def test_for_another_version_nothing_is_superfluous() -> None:
    """With --rabbitmq a finding may be missing that the file's own versions have."""
    assert [text for text in said(look(entry(rule="TOP042"), rabbitmq="4.3")) if "TOP081" in text] == []


def test_an_error_stays() -> None:
    """A reason does not mend it, and the file is still refused."""
    inspection = look(entry(rule="TOP030", at="queues"), queues={"q": {"delivery_limit": 3}}, routes={})
    assert [text.split(" ")[0] for text in said(inspection)] == ["TOP030", "TOP081"]
    assert inspection.topology is None


def test_one_suppression_does_not_hide_another_rule() -> None:
    """Only its own rule."""
    assert said(look(entry(), queues={"web-high": {}, "web.high": {"expires": "1h"}})) != []


def test_an_unknown_rule_is_an_error_with_the_nearest_one() -> None:
    """A typo would suppress nothing."""
    assert said(look(entry(rule="TOP0009")))[0] == "TOP001 there is no rule 'TOP0009' (did you mean 'TOP009'?)"


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"reason": " "}, "lint.suppress[0].reason"),
        ({"until": "soon"}, "lint.suppress[0].until: 'soon' is no date"),
        ({"untl": "2026-06-30"}, "unknown key 'untl' in 'lint.suppress[0]' (did you mean 'until'?)"),
    ],
)
def test_a_reason_and_a_day_are_needed(changes: dict[str, Any], words: str) -> None:
    """Neither may be empty or something else."""
    inspection = look(entry(**changes))
    assert any(words in problem.message for problem in inspection.errors), said(inspection)


@pytest.mark.parametrize("key", ["rule", "at", "reason", "until"])
def test_no_key_of_a_suppression_may_be_missing(key: str) -> None:
    """All four."""
    part = {name: value for name, value in entry().items() if name != key}
    assert any(f"'lint.suppress[0]' lacks the key '{key}'" in problem.message for problem in look(part).errors)
