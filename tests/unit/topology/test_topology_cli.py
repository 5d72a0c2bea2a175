"""`amqpq topology`: what a person sees, and the exit codes a script sees. No broker."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from amqpq.topology import schema

TOPOLOGY = """\
amqpq: 1
project: shop
variables: {URL: {type: secret, from: "env:SHOP_URL", default: "amqp://guest:guest@localhost:5672/"}}
broker: {url: "${URL}"}
exchanges:
  web: {type: topic, unrouted: lost}
  lost: {type: fanout}
  audit: {type: headers}
queues:
  high: {max_priority: 5, limits: {max_length: 10, overflow: reject-publish}}
  lost: {dead_letter: none}
  legacy: {manage: verify}
bindings:
  - web[web.#] -> high
  - lost -> lost
  - {from: audit, to: high, headers: {level: 3}}
routes:
  "web.*": {exchange: web, key: "web.{task}", priority: 5, expires: 10m, compression: zlib, reply: direct}
  file.scan: {exchange: web, key: "web.{kind}"}
checks:
  - {publish: {task: web.resize}, reaches: [high], exactly: true}
  - {publish: {task: file.scan, with: {kind: py}}, reaches: [high]}
  - {publish: {exchange: web, key: other}, reaches: [lost]}
  - {publish: {exchange: audit, headers: {level: 4}}, reaches: []}
"""

Amqpq = Callable[..., Result]


@pytest.fixture
def amqpq(topology_command: Callable[[str], Amqpq]) -> Amqpq:
    """Run `amqpq topology ...` in a folder with a topology file."""
    return topology_command(TOPOLOGY)


def test_lint_of_a_sound_file_says_so(amqpq: Amqpq) -> None:
    """Nothing wrong is exit code 0 and one line."""
    result = amqpq("lint")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no errors, no warnings\n"


def test_lint_prints_place_severity_rule_and_remedy(amqpq: Amqpq) -> None:
    """Each finding is a line that begins with its place; errors make the exit code 1."""
    Path("bad.yaml").write_text("amqpq: 1\nproject: p\nqueues:\n  q: {typ: quorum, max_priority: 99}\n")
    result = amqpq("lint", "-t", "bad.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "bad.yaml:4:7: error TOP001 unknown key 'typ' in 'queues.q' (did you mean 'type'?)",
        "bad.yaml:4:34: warning TOP042 each of the 99 priorities costs memory and CPU; use at most 10",
    ]
    assert result.stderr == "1 error, 1 warning\n"


def test_lint_can_be_strict_and_talkative(amqpq: Amqpq) -> None:
    """--strict lets warnings fail, --info prints what is only worth knowing."""
    Path("w.yaml").write_text("amqpq: 1\nproject: p\nqueues:\n  q: {max_priority: 99}\n")
    assert amqpq("lint", "-t", "w.yaml").exit_code == 0
    assert amqpq("lint", "-t", "w.yaml", "--strict").exit_code == 1
    assert "info TOP036" in amqpq("lint", "-t", "w.yaml", "--info").stdout


def test_lint_as_json(amqpq: Amqpq) -> None:
    """--json carries every field of a finding."""
    Path("bad.yaml").write_text("amqpq: 1\nproject: p\nquees: {}\n")
    result = amqpq("lint", "-t", "bad.yaml", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"] == [
        {
            "file": "bad.yaml",
            "line": 3,
            "column": 1,
            "rule": "TOP001",
            "severity": "error",
            "message": "unknown key 'quees' (did you mean 'queues'?)",
            "remedy": "",
        }
    ]


def test_a_missing_file_names_the_ways_to_name_one(amqpq: Amqpq) -> None:
    """Without a topology file every command says where it looked and how to point it elsewhere."""
    Path("topology.yaml").unlink()
    for command in ("lint", "show", "check", "apply"):
        result = amqpq(command)
        assert result.exit_code == 1
        assert result.stderr == "error: no topology file at topology.yaml; name one with -t FILE or $AMQPQ_TOPOLOGY\n"


def test_other_commands_refuse_a_wrong_file_with_all_its_errors(amqpq: Amqpq) -> None:
    """show, route, check and apply list the errors as lint does."""
    Path("topology.yaml").write_text("amqpq: 1\nproject: p\nquees: {}\nrouts: {}\n")
    for command in (["show"], ["check"], ["apply", "--dry"], ["route", "--task", "t"]):
        result = amqpq(*command)
        assert result.exit_code == 1
        assert "2 errors in the topology:\ntopology.yaml:3:1: TOP001" in result.stderr


def test_show_prints_tables(amqpq: Amqpq) -> None:
    """Exchanges, queues, bindings and routes are aligned tables; generated queues only when asked for."""
    text = amqpq("show").stdout
    assert "project shop, RabbitMQ >=3.10" in text
    assert "  web    topic    unrouted: lost" in text
    assert "  high    classic  shop.dead     max_priority: 5, max_length: 10, overflow: reject-publish" in text
    assert "  legacy  classic  shop.dead     manage: verify" in text
    assert "  audit  all: level=3  high" in text
    assert "priority: 5, expires: 10m, compression: zlib, reply: direct" in text
    assert "generated" not in text
    generated = amqpq("show", "--generated").stdout
    assert "  shop.dead  classic  -             generated, x-queue-type=classic" in generated
    assert "x-dead-letter-routing-key=shop.dead" in generated


@pytest.mark.parametrize("command", [["show"], ["show", "--json"], ["lint", "--json"], ["apply", "--dry", "--json"]])
def test_no_output_holds_the_password(amqpq: Amqpq, command: list[str]) -> None:
    """Whatever is printed, the secret from the environment is not in it."""
    assert "hunter2" not in amqpq(*command).output


def test_show_as_json_is_the_whole_topology(amqpq: Amqpq) -> None:
    """--json has every object with its arguments, and masked URLs."""
    shown = json.loads(amqpq("show", "--json").stdout)
    assert shown["broker"]["urls"] == ["amqp://shop:***@localhost:5672/"]
    assert [queue["name"] for queue in shown["queues"]] == ["high", "lost", "legacy", "shop.dead"]
    assert shown["queues"][0]["arguments"]["x-max-priority"] == 5
    assert shown["bindings"][2] == {
        "from": "audit",
        "to": "high",
        "as": "queue",
        "key": "",
        "arguments": {"x-match": "all", "level": 3},
    }


def test_route_tells_where_a_task_goes(amqpq: Amqpq) -> None:
    """A task's address, the steps and the queues are printed."""
    assert amqpq("route", "--task", "web.resize").stdout.splitlines() == [
        "publish to exchange 'web' with key 'web.resize'",
        "  topic exchange 'web': binding 'web.#' matches -> queue 'high'",
        "reaches 1 queue: high",
    ]
    assert "with key 'web.py'" in amqpq("route", "--task", "file.scan", "-k", "kind=py").stdout


def test_route_tells_where_a_message_goes(amqpq: Amqpq) -> None:
    """An exchange with key or headers is simulated too; header values are JSON, else text."""
    assert "reaches 1 queue: lost" in amqpq("route", "--exchange", "web", "--key", "x").stdout
    assert "reaches 1 queue: high" in amqpq("route", "--exchange", "audit", "--header", "level=3").stdout
    assert "reaches no queue" in amqpq("route", "--exchange", "audit", "--header", 'level="3"').stdout
    assert "reaches 1 queue: lost" in amqpq("route", "--exchange", "", "--key", "lost").stdout
    found = json.loads(amqpq("route", "--exchange", "web", "--key", "x", "--cc", "web.y", "--json").stdout)
    assert found["queues"] == ["high"]
    assert found["exchanges"] == ["web"]


@pytest.mark.parametrize(
    "arguments,words",
    [
        ([], "say either --task NAME or --exchange NAME"),
        (["--task", "t", "--exchange", "x"], "say either"),
        (["--exchange", "web", "-k", "a=b"], "-k goes with --task"),
        (["--task", "web.x", "--key", "k"], "--key goes with --exchange"),
        (["--task", "web.x", "-k", "novalue"], "expected NAME=VALUE"),
        (["--exchange", "wbe"], "there is no exchange 'wbe' (did you mean 'web'?)"),
        (["--task", "file.scan"], "needs a keyword argument 'kind'"),
        (["--task", "mail.send"], "no route matches the task 'mail.send'"),
    ],
)
def test_route_refuses_what_it_cannot_simulate(amqpq: Amqpq, arguments: list[str], words: str) -> None:
    """Contradicting options and names that do not exist are errors with exit code 1."""
    result = amqpq("route", *arguments)
    assert result.exit_code == 1
    assert words in result.stderr


def test_checks_pass_or_say_what_went_elsewhere(amqpq: Amqpq) -> None:
    """Each check is a line; a failing one shows its place and the way, and makes the exit code 1."""
    result = amqpq("check")
    assert (result.exit_code, result.stderr) == (0, "4 checks, 0 failed\n")
    assert result.stdout.splitlines()[0] == "pass task web.resize -> high"
    wrong = TOPOLOGY.replace("{task: web.resize}, reaches: [high]", "{task: web.resize}, reaches: [lost]")
    Path("topology.yaml").write_text(wrong)
    result = amqpq("check")
    assert (result.exit_code, result.stderr) == (1, "4 checks, 1 failed\n")
    assert "FAIL task web.resize -> high: misses lost and should not reach high" in result.stdout
    assert "topology.yaml:21:5" in result.stdout
    assert json.loads(amqpq("check", "--json").stdout)["checks"][0]["extra"] == ["high"]


def test_apply_dry_lists_what_would_be_declared(amqpq: Amqpq) -> None:
    """--dry asks no broker; dead-letter queues come before the queues that use them."""
    lines = amqpq("apply", "--dry").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["exchange", "lost"],
        ["exchange", "web"],
        ["exchange", "audit"],
        ["queue", "shop.dead"],
        ["queue", "high"],
        ["queue", "lost"],
        ["binding", "web[web.#]"],
        ["binding", "lost"],
        ["binding", "audit[x-match='all',"],
        ["expected", "legacy"],
    ]


def test_apply_says_when_no_broker_answers(amqpq: Amqpq, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is down is an error with its address, and the password is not in it."""
    monkeypatch.setenv("AMQPQ_BROKER_URL", "amqp://shop:hunter2@127.0.0.1:1/")
    result = amqpq("apply", "--timeout", "0.2")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert "hunter2" not in result.output


def test_library_lists_and_prints_ready_made_files(amqpq: Amqpq) -> None:
    """The ready-made topologies are listed with a sentence each, and one can be printed to begin with."""
    listed = amqpq("library").stdout
    assert "minimal            One queue that takes every task." in listed
    assert amqpq("library", "minimal").stdout.startswith("# yaml-language-server")
    assert "work-queues" in json.loads(amqpq("library", "--json").stdout)
    result = amqpq("library", "minmal")
    assert result.exit_code == 1
    assert "no ready-made topology 'minmal' (did you mean 'minimal'?)" in result.stderr


def test_schema_prints_a_json_schema(amqpq: Amqpq) -> None:
    """The schema is one JSON document that names the format."""
    assert json.loads(amqpq("schema").stdout)["title"] == "amqpq topology"


def test_the_garbage_collector_looks_rarely_while_a_command_runs(amqpq: Amqpq, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as before when it has ended, with an error or without."""
    before, during = gc.get_threshold(), list[tuple[int, int, int]]()
    monkeypatch.setattr(schema, "text", lambda: str(during.append(gc.get_threshold())))
    assert amqpq("schema").exit_code == 0
    assert amqpq("show", "-t", "nowhere.yaml").exit_code == 1
    assert during[0][0] > 2 * before[0]
    assert gc.get_threshold() == before


@pytest.mark.parametrize("command", ["lint", "show", "route", "check", "apply", "schema", "library"])
def test_every_command_has_help_with_examples(amqpq: Amqpq, command: str) -> None:
    """--help explains the command and shows how it is typed."""
    text = amqpq(command, "--help").stdout
    assert "Example" in text
    assert f"amqpq topology {command}" in text
