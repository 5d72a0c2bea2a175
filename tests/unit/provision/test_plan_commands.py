"""`amqpq topology diff`, `plan` and `apply PLAN` where no broker answers: what a person and a script see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from click.testing import CliRunner, Result

from amqpq.cli.main import main

Amqpq: TypeAlias = Callable[..., Result]

OLD = """\
amqpq: 1
project: shop
exchanges: {events: {type: topic}}
queues: {orders: {type: quorum}, mail: {}, old: {dead_letter: none}}
bindings: ["events[order.#] -> orders", "events[old] -> old"]
routes: {"*": {exchange: events, key: "order.{task}"}}
"""
NEW = """\
amqpq: 1
project: shop
exchanges: {events: {type: topic}}
queues: {orders: {type: quorum}, mail: {max_priority: 5}}
bindings: ["events[order.#] -> orders", "events[mail] -> mail"]
routes: {"*": {exchange: events, key: "order.{task}"}}
"""


@pytest.fixture
def amqpq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Amqpq:
    """Run `amqpq topology ...` in a folder with two files, and no broker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
    monkeypatch.delenv("AMQPQ_MANAGEMENT_URL", raising=False)
    monkeypatch.setenv("AMQPQ_BROKER_URL", "amqp://shop:hunter2@127.0.0.1:1/")
    Path("old.yaml").write_text(OLD, encoding="utf-8")
    Path("topology.yaml").write_text(NEW, encoding="utf-8")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(main, ["topology", *arguments])


def test_two_files_are_compared_without_a_broker(amqpq: Amqpq) -> None:
    """What comes, what goes, what needs a migration; exit code 2."""
    result = amqpq("diff", "old.yaml", "topology.yaml")
    assert (result.exit_code, result.stderr) == (2, "")
    assert result.stdout.splitlines()[1:] == [
        "  + binding    events[mail] -> mail",
        "  - binding    events[old] -> old  not in the file any more",
        "  - queue      old  not in the file any more",
        "  > queue      mail  x-max-priority none -> 5  (holds for the life of a queue)",
        "      -> `amqpq topology migrate` moves its messages to a new queue; or write the broker's value into the file",
        "Plan: 1 to add, 2 to remove, 1 to migrate.   Messages that may be lost by this plan: 0",
    ]


def test_a_rename_is_no_other_queue_between_two_files(amqpq: Amqpq) -> None:
    """The queue of the one is that of the other, under another name."""
    renamed = NEW.replace("mail: {max", "post: {max").replace("-> mail", "-> post")
    Path("renamed.yaml").write_text(f"{renamed}moved: [{{from: queue.mail, to: queue.post}}]\n", encoding="utf-8")
    said = amqpq("diff", "topology.yaml", "renamed.yaml").stdout
    assert [line for line in said.splitlines() if " queue " in line] == [
        "  ~ queue      post  renamed from mail: it lives in the queue mail until `amqpq topology migrate post`"
    ]


def test_a_file_does_not_differ_from_itself(amqpq: Amqpq) -> None:
    """Exit code 0, also as JSON."""
    assert amqpq("diff", "topology.yaml", "topology.yaml").exit_code == 0
    told = json.loads(amqpq("diff", "topology.yaml", "topology.yaml", "--json").stdout)
    assert (told["changes"], told["outcome"], told["observed"]["level"]) == ([], "clean", "file")


@pytest.mark.parametrize("command", [("plan",), ("drift",), ("diff", "live", "topology.yaml")])
def test_a_broker_that_is_down_is_an_error_without_its_password(amqpq: Amqpq, command: tuple[str, ...]) -> None:
    """Exit code 1 is no drift."""
    result = amqpq(*command, "--timeout", "0.2")
    assert result.exit_code == 1
    assert "127.0.0.1:1" in result.stderr
    assert "hunter2" not in result.output


def test_a_plan_file_that_is_not_there_is_said(amqpq: Amqpq) -> None:
    """Before any broker is asked; and `--dry` does not go with a plan."""
    missing = amqpq("apply", "no.plan")
    assert missing.exit_code == 1
    assert "the plan cannot be read" in missing.stderr
    assert "--dry goes without PLAN" in amqpq("apply", "no.plan", "--dry").stderr
