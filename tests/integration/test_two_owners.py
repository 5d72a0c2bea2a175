"""Two projects that declare the same exchange: both plans say so, and there is a way to one owner, on a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from click.testing import CliRunner, Result

from amqpq.cli.main import main
from amqpq.provision import journal
from amqpq.transport.interface import Connection
from amqpq.types import ExchangeSpec
from tests.support.lab import answer

pytestmark = pytest.mark.integration

Amqpq: TypeAlias = Callable[..., Result]

SHARED = "exchange news"


@pytest.fixture
def amqpq(topology_folder: Path) -> Amqpq:
    """Run `amqpq topology ...` for a project; both are applied on a fresh virtual host."""
    runner = CliRunner()

    def run(project: str, command: str, *arguments: str) -> Result:
        return runner.invoke(main, ["topology", command, "-t", str(topology_folder / f"{project}.yaml"), *arguments])

    for project in ("shop", "crm"):
        write(project, {"news": {"type": "fanout"}})
        assert run(project, "apply").exit_code == 0
    return run


def write(project: str, exchanges: dict[str, Any], **sections: Any) -> None:
    """Write the file of a project."""
    queue = f"{project}.news"
    bindings = [f"news -> {queue}"] if exchanges else []
    file = {"amqpq": 1, "project": project, "exchanges": exchanges, "queues": {queue: {"dead_letter": "none"}}}
    text = yaml.safe_dump({**file, "bindings": bindings, **sections})
    Path(f"{project}.yaml").write_text(text, encoding="utf-8")


def shared(result: Result) -> list[tuple[str, str]]:
    """Return what the plan says of the exchange."""
    changes = json.loads(result.stdout)["changes"]
    return [(change["action"], change["because"]) for change in changes if change["address"] == SHARED]


def apply_plan(amqpq: Amqpq, project: str) -> Result:
    """Plan, and carry it out."""
    assert amqpq(project, "plan", "--out", "kept.plan").exit_code == 0
    return amqpq(project, "apply", "kept.plan")


def test_both_are_told_until_one_of_them_only_expects_it(amqpq: Amqpq, connection: Connection) -> None:
    """`manage: verify` in one file, and a plan of it applied, leaves the other one as the owner."""
    for project, other in (("shop", "crm"), ("crm", "shop")):
        result = amqpq(project, "drift", "--json")
        assert result.exit_code == 2
        because = f"the project {other} owns it as well: what one of the two changes or removes, the other loses"
        assert shared(result) == [("foreign", because)]
    write("crm", {"news": {"type": "fanout", "manage": "verify"}})
    assert apply_plan(amqpq, "crm").exit_code == 0
    assert SHARED not in journal.read(connection, "crm").owned
    assert shared(amqpq("shop", "drift", "--json")) == []
    assert shared(amqpq("crm", "drift", "--json")) == []


def test_what_one_of_them_does_not_need_any_more_stays_for_the_other(amqpq: Amqpq, connection: Connection) -> None:
    """It is given up, not deleted, although the file allows deletions."""
    write("crm", {}, allow={"delete": True})
    result = apply_plan(amqpq, "crm")
    assert result.exit_code == 0, result.output
    answer(connection.channel().declare_exchange(ExchangeSpec("news", "fanout"), passive=True))
    assert SHARED not in journal.read(connection, "crm").owned
    assert SHARED in journal.read(connection, "shop").owned
    assert shared(amqpq("shop", "drift", "--json")) == []


def test_without_the_api_nobody_sees_the_other_project(amqpq: Amqpq) -> None:
    """AMQP lists no queues, so no journals; the plan says that it does not see what others have."""
    result = amqpq("shop", "plan", "--observe", "amqp", "--json")
    assert shared(result) == []
    assert "broker everything else" in json.loads(result.stdout)["unknown"]
