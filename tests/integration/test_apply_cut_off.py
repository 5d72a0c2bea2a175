"""An apply that is cut off halfway: by the broker, and by the end of its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from amqpq.cli import applying
from amqpq.cli.main import main
from amqpq.node import Node
from amqpq.provision import journal
from amqpq.provision.steps import Step
from amqpq.transport import blocking, url
from tests.support.lab import answer, until

pytestmark = pytest.mark.integration

FILE = """\
amqpq: 1
project: shop
exchanges: {events: {type: topic}}
queues: {orders: {type: quorum}, mail: {}}
bindings: ["events[order.#] -> orders", "events[mail] -> mail"]
routes: {"*": {exchange: events, key: "order.{task}"}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_vhost_url: str, private_node: Node) -> Path:
    """A folder with the file, for the private node."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMQPQ_BROKER_URL", private_vhost_url)
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", private_node.management_url)
    Path("topology.yaml").write_text(FILE, encoding="utf-8")
    return tmp_path


def amqpq(*arguments: str) -> Any:
    """Run `amqpq topology ...`."""
    return CliRunner().invoke(main, ["topology", *arguments])


def finish(vhost_url: str, *left: str) -> None:
    """Plan what is left, carry it out, and find no difference after that; the journal says that it is done."""
    # A broker that has just started takes connections before its streams have a leader, and answers 541 then.
    again = ("plan", "--json", "--out", "rest.plan")
    planned = until(lambda: found if (found := amqpq(*again)).exit_code == 0 else None, "a plan can be made")
    plan = json.loads(planned.stdout)
    assert {step["operation"] for step in plan["steps"]} == set(left)
    assert any(change["address"] == "broker journal" for change in plan["changes"])
    assert amqpq("apply", "rest.plan").exit_code == 0
    assert amqpq("drift").exit_code == 0
    connection = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=10)
    manifest = journal.read(connection, "shop")
    answer(connection.close())
    assert (manifest.serial, manifest.stage) == (2, "done")
    assert "binding events[mail] -> mail" in manifest.owned


def test_a_broker_that_stops_halfway(
    folder: Path, private_node: Node, private_vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is done (exit code 3); when the broker is back, the next plan shows the rest and finishes it."""
    assert folder.is_dir()
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0

    def stop(step: Step) -> None:
        assert step.operation == "exchange"
        private_node.stop()

    monkeypatch.setattr(applying, "_print_step", stop)
    result = amqpq("apply", "kept.plan", "--timeout", "20s")
    private_node.start()
    assert result.exit_code == 3, result.output
    assert "what was done stays done; `amqpq topology plan` shows the rest" in result.stderr
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AMQPQ_BROKER_URL", private_vhost_url)
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", private_node.management_url)
    finish(private_vhost_url, "queue", "bind")


KILLED = """
import os, signal, sys
from amqpq.cli import applying
from amqpq.cli.main import main
applying._print_step = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step.operation == "queue" else None
main(["topology", "apply", "kept.plan"])
"""


def test_a_process_that_is_killed_halfway(folder: Path, private_vhost_url: str) -> None:
    """Its lock goes with its connection; the next plan shows the rest and finishes it."""
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    command = [sys.executable, "-c", KILLED]
    ended = subprocess.run(
        command, cwd=folder, env=dict(os.environ), check=False, timeout=60, capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    finish(private_vhost_url, "bind")
