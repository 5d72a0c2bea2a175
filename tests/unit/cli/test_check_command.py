"""`amqpq topology check`: what is printed, and the exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from amqpq.cli.main import main

TOPOLOGY = """\
amqpq: 1
project: shop
exchanges:
  web: {type: topic}
queues:
  high: {type: quorum, dead_letter: parked}
  low: {}
dead_letters: {parked: {queue: parked}}
bindings:
  - web[web.#] -> high
  - web[low] -> low
routes:
  "web.*": {exchange: web, key: "web.{task}", retries: {max: 2}}
security: {signing: off, permissions: {host: {write: "^web$"}}}
checks:
  - {publish: {task: web.x}, reaches: [high]}
  - {fail: {task: web.x}, ends_in: parked, within: 1m}
  - {permission: {user: host, may: publish, object: web}}
"""

Check = Callable[..., Result]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Run `amqpq topology check` in a folder with a topology file."""
    monkeypatch.chdir(tmp_path)
    for variable in ("AMQPQ_TOPOLOGY", "AMQPQ_BROKER_URL"):
        monkeypatch.delenv(variable, raising=False)
    Path("topology.yaml").write_text(TOPOLOGY, encoding="utf-8")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(main, ["topology", "check", *arguments])


def write(old: str, new: str) -> None:
    """Change the file."""
    assert old in TOPOLOGY
    Path("topology.yaml").write_text(TOPOLOGY.replace(old, new), encoding="utf-8")


def test_each_check_that_passes_is_a_line(check: Check) -> None:
    """What was tried, and what became of it."""
    result = check()
    assert (result.exit_code, result.stderr) == (0, "3 checks, 0 failed\n")
    assert result.stdout.splitlines() == [
        "pass task web.x -> high",
        "pass task web.x raises every time -> parked after 1.5s to 3s",
        "pass user host on 'web' -> may publish",
    ]


def test_a_check_that_fails_shows_its_place_and_the_way(check: Check) -> None:
    """With times where time passes, and the exit code 1."""
    write("within: 1m", "within: 1s")
    result = check()
    assert (result.exit_code, result.stderr) == (1, "3 checks, 1 failed\n")
    assert result.stdout.splitlines()[1:8] == [
        "FAIL task web.x raises every time -> parked after 1.5s to 3s: may take 3s, longer than 1s",
        "     topology.yaml:17:5",
        "     0s  topic exchange 'web': binding 'web.#' matches -> queue 'high'",
        "     0s  high: attempt 1 of 3 raises; it waits 500ms to 1s",
        "     1s  high: attempt 2 of 3 raises; it waits 1s to 2s",
        "     3s  high: attempt 3 of 3 raises, and no retry is left",
        "     3s  high: the worker parks it in parked",
    ]


def test_a_failing_permission_shows_the_patterns(check: Check) -> None:
    """Without times: none passes."""
    write("may: publish", "may: [publish, configure]")
    lines = check().stdout.splitlines()
    assert lines[2] == "FAIL user host on 'web' -> may publish: should be allowed to configure"
    assert lines[4:] == [
        "     publish: write web: granted by '^web$'",
        "     configure: configure web: refused, there is no pattern, which grants nothing",
    ]


def test_a_long_way_is_cut_in_the_middle(check: Check) -> None:
    """--json has all of it."""
    write("retries: {max: 2}", "retries: {max: 40, backoff: {factor: 1.1, max: 1d}}")
    lines = check().stdout.splitlines()
    assert len(lines) == 4 + 12 + 1 + 6
    assert lines[15].split() == ["...", "5", "more", "..."]
    assert len(json.loads(check("--json").stdout)["checks"][1]["steps"]) == 23


def test_coverage_lists_what_no_check_walks(check: Check) -> None:
    """Each way in a line, then the numbers."""
    result = check("--coverage")
    assert (result.exit_code, result.stderr) == (0, "3 checks, 0 failed\n")
    assert result.stdout.splitlines()[3:] == [
        "no check binding web[low] -> low",
        "no check dead letter low -> shop.dead",
        "coverage 60.0 %: 1 of 1 routes, 1 of 2 bindings, 1 of 2 dead letters",
    ]


def test_too_little_coverage_fails(check: Check) -> None:
    """Only where it is less than what is asked for."""
    assert check("--fail-under", "60").exit_code == 0
    result = check("--fail-under", "60.5")
    assert result.exit_code == 1
    assert result.stderr == "3 checks, 0 failed\nchecks walk 60.0 % of all ways, less than 60.5 %\n"
    assert check("--fail-under", "61", "--json").exit_code == 1


def test_json_has_everything(check: Check) -> None:
    """Kinds, ends with their times, faults, steps and the coverage."""
    write("ends_in: parked", "ends_in: low")
    result = check("--json", "--coverage")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    publish, fail, permission = found["checks"]
    assert (publish["kind"], publish["queues"], publish["passed"]) == ("publish", ["high"], True)
    assert fail["ends"] == [{"in": "parked", "end": "rests", "reason": "", "seconds": {"min": 1.5, "max": 3.0}}]
    assert fail["faults"] == ["should end in low", "should not end in parked"]
    assert fail["steps"][-1] == {"seconds": 3.0, "text": "high: the worker parks it in parked"}
    assert (permission["kind"], permission["granted"]) == ("permission", ["publish"])
    assert found["coverage"]["dead letters"] == {"walked": 0, "all": 2}
    assert {"kind": "binding", "name": "web[low] -> low"} in found["coverage"]["missing"]
    assert found["coverage"]["percent"] == 40.0


def test_a_version_can_be_asked_for(check: Check) -> None:
    """A quorum queue has a delivery limit by default from 4.0 on; a loop has no time in --json."""
    write("{fail: {task: web.x}, ends_in: parked, within: 1m}", "{fail: {queue: high, how: limit}, ends_in: parked}")
    result = check("--json")
    assert result.exit_code == 1
    (end,) = json.loads(result.stdout)["checks"][1]["ends"]
    assert (end["in"], end["seconds"]) == ("a loop", None)
    assert check("--rabbitmq", "4.0").exit_code == 0
    for wrong in ("4.x", "3.8"):
        assert f"--rabbitmq {wrong}: write one version from 3.10 on" in check("--rabbitmq", wrong).stderr
