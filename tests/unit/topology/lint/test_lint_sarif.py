"""SARIF: what the specification asks of a log, held by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from amqpq.topology import inspect
from amqpq.topology.lint import catalogue, sarif

TEXT = """\
amqpq: 1
project: shop
queues:
  q: {max_priority: 99, typ: quorum}
  Q: {}
routes: {a: {queue: q}, b: {queue: Q}}
lint:
  suppress:
    - {rule: TOP042, at: queues.q, reason: ninety-nine kinds of urgent, until: 9999-12-31}
"""


@pytest.fixture
def log(tmp_path: Path) -> dict[str, Any]:
    """The log of a file with an error, a warning, infos, and a suppressed warning."""
    path = tmp_path / "my topology.yaml"
    path.write_text(TEXT, encoding="utf-8")
    inspection = inspect(path, environ={})
    made: dict[str, Any] = json.loads(json.dumps(sarif.report(inspection.problems, inspection.suppressed)))
    return made


def test_a_log_has_its_version_and_one_run_with_a_tool(log: dict[str, Any]) -> None:
    """Sections 3.13 and 3.14: version, runs, tool.driver.name; columns count code points."""
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    assert run["tool"]["driver"]["name"] == "amqpq topology lint"
    assert run["columnKind"] == "unicodeCodePoints"
    assert set(run) == {"tool", "columnKind", "results"}


def test_each_rule_has_an_id_texts_and_a_level(log: dict[str, Any]) -> None:
    """Sections 3.49 to 3.50: descriptors are unique, their messages have text, the level is one of four words."""
    rules = log["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(catalogue.rules())
    for rule in rules:
        assert all(rule[key]["text"] for key in ("shortDescription", "fullDescription", "help"))
        assert rule["defaultConfiguration"]["level"] in {"none", "note", "warning", "error"}


def test_each_result_names_its_rule_level_message_and_place(log: dict[str, Any]) -> None:
    """Section 3.27: ruleIndex points at the rule, positions count from one, the place is a URI."""
    run = log["runs"][0]
    results = run["results"]
    assert {result["level"] for result in results} == {"error", "warning", "note"}
    for result in results:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert physical["region"]["startLine"] >= 1
        assert physical["region"]["startColumn"] >= 1
        uri = urlsplit(physical["artifactLocation"]["uri"])
        assert (uri.scheme, Path(unquote(uri.path)).name) == ("file", "my topology.yaml")
        assert " " not in uri.path


def test_what_is_suppressed_is_there_with_its_justification(log: dict[str, Any]) -> None:
    """Section 3.35: a reviewer sees what was left out, and why."""
    suppressed = [result for result in log["runs"][0]["results"] if "suppressions" in result]
    assert [result["ruleId"] for result in suppressed] == ["TOP042"]
    assert suppressed[0]["suppressions"] == [
        {"kind": "inSource", "justification": "ninety-nine kinds of urgent (until 9999-12-31)"}
    ]


def test_what_has_no_line_has_no_region() -> None:
    """A mapping has places and no lines; a region without a line would be wrong (section 3.30)."""
    inspection = inspect({"amqpq": 1, "project": "shop", "quees": {}}, environ={})
    (run,) = sarif.report(inspection.problems, ())["runs"]
    (location,) = run["results"][0]["locations"]
    assert set(location["physicalLocation"]) == {"artifactLocation"}
