"""The catalogue of rules: each with a sample that is found and its twin that is not, and none without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from amqpq.errors import ConfigurationError
from amqpq.topology import Inspection, inspect
from amqpq.topology.lint import catalogue
from amqpq.topology.lint.catalogue import Rule, Unused

ROOT = Path(__file__).resolve().parents[4]
HEAD = "amqpq: 1\nproject: shop\n"
RULES = list(catalogue.rules().values())


def look(folder: Path, rule: Rule, sample: str) -> Inspection:
    """Look at a sample of a rule, with the head that it leaves out, and beside it what the rule has there."""
    path = folder / "topology.yaml"
    path.write_text(HEAD + sample, encoding="utf-8")
    if rule.lock:
        (folder / "amqpq.lock").write_text(rule.lock, encoding="utf-8")
    return inspect(path, environ={})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_bad_sample_is_found_with_its_words(rule: Rule, tmp_path: Path) -> None:
    """Each rule reports its bad sample with the severity, the message and the remedy of the catalogue."""
    said = [
        f"{problem.severity}: {problem.message}{'; ' if problem.remedy else ''}{problem.remedy}"
        for problem in look(tmp_path, rule, rule.bad).problems
        if problem.rule == rule.id
    ]
    assert rule.says in said


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_good_twin_is_not_found(rule: Rule, tmp_path: Path) -> None:
    """The mended sample has no finding of the rule, and no error but of what is not built."""
    problems = look(tmp_path, rule, rule.good).problems
    assert [str(problem) for problem in problems if problem.rule == rule.id and problem.severity != "info"] == []
    assert [str(each) for each in problems if each.severity == "error" and each.rule != "TOP000"] == []
    assert rule.good != rule.bad


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_each_rule_is_described(rule: Rule) -> None:
    """What it finds, why, a message and two samples: none is empty, and the severities go from grave to light."""
    assert all((rule.finds, rule.why, rule.says, rule.bad, rule.good))
    order = ["error", "warning", "info"]
    assert list(rule.severities) == sorted(set(rule.severities), key=order.index)
    assert rule.why.endswith((".", "?"))


def test_the_rules_in_the_code_are_those_of_the_catalogue() -> None:
    """A rule cannot be reported without its entry, nor have an entry and never be reported."""
    sources = (ROOT / "amqpq" / "topology").rglob("*.py")
    known = {rule for path in sources for rule in re.findall(r'"(TOP\d{3})"', path.read_text(encoding="utf-8"))}
    assert known == set(catalogue.rules())


def test_every_number_has_a_rule_or_a_reason() -> None:
    """No number is left out, none is given twice, and they stand in order."""
    numbers = [*catalogue.rules(), *catalogue.unused()]
    assert sorted(numbers) == [f"TOP{number:03d}" for number in range(len(numbers))]
    for known in (catalogue.rules(), catalogue.unused()):
        assert list(known) == sorted(known)


@pytest.mark.parametrize("text", ["TOP034", "top034", "34", "TOP34", " 034 "])
def test_a_rule_is_found_by_what_a_person_writes(text: str) -> None:
    """The number is enough."""
    assert catalogue.find(text).id == "TOP034"


def test_a_number_without_a_rule_says_why() -> None:
    """It tells what it would find, instead of not being there."""
    found = catalogue.find("TOP018")
    assert isinstance(found, Unused)
    assert found.reason


def test_an_unknown_rule_names_the_nearest_one() -> None:
    """And where all of them are."""
    with pytest.raises(ConfigurationError, match=r"no rule 'TPO034' \(did you mean 'TOP034'\?\); .* --list"):
        catalogue.find("TPO034")
