"""`amqpq topology lint`: its forms of output, its exit codes, and what it says of the rules. No broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from amqpq.cli.main import main
from amqpq.topology.lint import catalogue

WIDE = "amqpq: 1\nproject: p\nqueues:\n  q: {max_priority: 99}\n"
SUPPRESSING = """\
lint:
  suppress: [{rule: TOP042, at: queues.q, reason: many kinds of urgent, until: 9999-12-31}]
"""

Lint = Callable[..., Result]


@pytest.fixture
def lint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lint:
    """Run `amqpq topology lint ...` on a file with this text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
    monkeypatch.delenv("AMQPQ_BROKER_URL", raising=False)

    def run(text: str | None, *arguments: str, color: bool = False) -> Result:
        if text is not None:
            Path("topology.yaml").write_text(text, encoding="utf-8")
        return CliRunner().invoke(main, ["topology", "lint", *arguments], color=color)

    return run


def test_a_file_may_let_warnings_fail(lint: Lint) -> None:
    """`lint: {fail_on: warning}` is what --strict does."""
    assert lint(WIDE).exit_code == 0
    assert lint(WIDE + "lint: {fail_on: warning}\n").exit_code == 1


def test_suppressed_findings_are_counted_and_do_not_fail(lint: Lint) -> None:
    """The summary says how many there are; infos do not count."""
    result = lint(WIDE + SUPPRESSING, "--strict")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no errors, no warnings, 1 suppressed\n"


def test_json_lists_what_is_suppressed_with_its_reason(lint: Lint) -> None:
    """Beside the problems."""
    shown = json.loads(lint(WIDE + SUPPRESSING, "--json").stdout)
    assert [each["rule"] for each in shown["problems"]] == ["TOP036"]
    (suppressed,) = shown["suppressed"]
    assert (suppressed["rule"], suppressed["line"]) == ("TOP042", 4)
    assert (suppressed["reason"], suppressed["until"]) == ("many kinds of urgent", "9999-12-31")


def test_sarif_is_printed_and_the_exit_code_is_the_same(lint: Lint) -> None:
    """Data on standard output, whatever was found."""
    result = lint(WIDE, "--sarif", "--strict")
    assert result.exit_code == 1
    results = json.loads(result.stdout)["runs"][0]["results"]
    place = results[0]["locations"][0]["physicalLocation"]
    assert [each["ruleId"] for each in results] == ["TOP036", "TOP042"]
    assert place["artifactLocation"]["uri"] == "topology.yaml"
    assert place["region"] == {"startLine": 4, "startColumn": 6}


def test_only_one_form_at_a_time(lint: Lint) -> None:
    """Two documents on one stream would be none."""
    result = lint(WIDE, "--sarif", "--json")
    assert result.exit_code == 1
    assert "choose one" in result.stderr


def test_colours_are_for_terminals(lint: Lint) -> None:
    """A pipe gets text."""
    assert "\x1b[33mwarning\x1b[0m TOP042" in lint(WIDE, color=True).stdout
    assert "\x1b" not in lint(WIDE).output


def test_a_version_of_the_broker_can_be_given(lint: Lint) -> None:
    """What that version refuses is an error, whatever the file requires."""
    text = "amqpq: 1\nproject: p\nqueues:\n  q: {durable: false}\n"
    assert "warning TOP031" in lint(text).stdout
    result = lint(text, "--rabbitmq", "4.3")
    assert (result.exit_code, "error TOP031" in result.stdout) == (1, True)
    refused = lint(text, "--rabbitmq", "four")
    assert refused.exit_code == 1
    assert "'four' is no version of RabbitMQ; write 4.3 or 4.3.6" in refused.stderr


def test_a_rule_is_explained(lint: Lint) -> None:
    """What, why with its source, what it says, and both samples; no file is read."""
    result = lint(None, "--explain", "top34")
    rule = catalogue.rules()["TOP034"]
    assert result.exit_code == 0
    assert result.stdout.startswith(f"TOP034 (error or warning): {rule.finds}\n")
    words = " ".join(result.stdout.split())
    assert rule.why in words
    assert rule.says in words
    for sample in (rule.bad, rule.good):
        assert "".join(f"    {line}\n" for line in sample.splitlines()) in result.stdout


def test_an_unknown_rule_is_told_with_the_nearest_one(lint: Lint) -> None:
    """And exit code 1."""
    result = lint(None, "--explain", "TPO034")
    assert result.exit_code == 1
    assert "there is no rule 'TPO034' (did you mean 'TOP034'?)" in result.stderr


def test_a_number_without_a_rule_is_explained_too(lint: Lint) -> None:
    """It says what it would find, and why it does not."""
    assert lint(None, "--explain", "TOP018").stdout.startswith("TOP018 has no rule. It would find a route that")


def test_the_rules_are_listed(lint: Lint) -> None:
    """One line each, in order; as JSON with everything that is known of them."""
    lines = lint(None, "--list").stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == list(catalogue.rules())
    shown = json.loads(lint(None, "--list", "--json").stdout)
    assert [rule["id"] for rule in shown["rules"]] == list(catalogue.rules())
    assert [number["id"] for number in shown["unused"]] == list(catalogue.unused())
    assert json.loads(lint(None, "--explain", "34", "--json").stdout)["id"] == "TOP034"
