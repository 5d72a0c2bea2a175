"""Delays on a real broker, with real workers: promise 8, and `amqpq delayed`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.message import TaskEnvelope
from amqpq.node import Node
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from amqpq.transport.interface import Flow
from amqpq.types import Publication
from tests.acceptance.conftest import APPS, KEY, Starter, worker_environment

DEADLINE_SECONDS = 60.0


def later_at(url: str) -> App:
    """The application as a producer; its topology is declared on the broker."""
    app = App(APPS / "later.yaml", environ={"AMQPQ_BROKER_URL": url, "SHOP_KEY": KEY})
    flow.run(declare.apply(app.link.connection(30.0).channel, declarations(app.topology)), 60.0)
    return app


@pytest.fixture
def later(vhost_url: str) -> Iterator[App]:
    """The application on a vhost of its own."""
    with later_at(vhost_url) as app:
        yield app


def lateness(folder: Path, name: str) -> list[float]:
    """By how much a task was late, each time it ran."""
    ran = folder / f"{name}.ran"
    return [float(line) for line in ran.read_text(encoding="utf-8").splitlines()] if ran.exists() else []


def delayed(url: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Type `amqpq delayed ARGUMENTS`."""
    done = subprocess.run(
        [sys.executable, "-m", "amqpq", "delayed", *arguments, "-t", "later.yaml"],
        cwd=APPS,
        env=worker_environment(url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback (most" not in done.stderr
    return done


def rows(url: str) -> list[dict[str, Any]]:
    """What `amqpq delayed list --json` prints."""
    listed: list[dict[str, Any]] = json.loads(delayed(url, "list", "--json").stdout)
    return listed


@pytest.mark.parametrize("way", [{}, {"exchange": "web", "routing_key": "web.x"}, {"queue": "web.high"}])
def test_a_countdown_is_kept(later: App, start_worker: Starter, tmp_path: Path, way: dict[str, Any]) -> None:
    """Through the default exchange and a topic exchange alike, not early, and its result comes back."""
    start_worker("-A", "later", "-P", "threads", "-c", "1")
    result = later.send_task("later.note", [str(tmp_path), "a", time.time() + 1], countdown=1, **way)
    assert result.state == "PENDING"
    assert result.get(timeout=DEADLINE_SECONDS) >= 0
    assert [late >= 0 for late in lateness(tmp_path, "a")] == [True]


def test_a_delay_survives_a_worker_that_is_killed(later: App, start_worker: Starter, tmp_path: Path) -> None:
    """What came early was in the broker, and not in the worker that had taken it."""
    first = start_worker("-A", "later", "-P", "prefork", "-c", "1")
    due = datetime.now(UTC) + timedelta(seconds=3)
    envelope = TaskEnvelope("early-1", "later.note", (str(tmp_path), "b", due.timestamp()), eta=due.isoformat())
    body, properties = later.codec.encode_task(envelope, exchange="", key="default")
    channel = later.link.connection(DEADLINE_SECONDS).channel()
    pending = channel.publish((Publication("", "default", body, properties),))

    def confirmed() -> Flow[Any]:
        return (yield pending)

    assert flow.run(confirmed(), DEADLINE_SECONDS)[0].confirmed
    first.says("put off")
    first.kill()
    start_worker("-A", "later", "-P", "threads", "-c", "1").says("succeeded")
    assert [late >= 0 for late in lateness(tmp_path, "b")] == [True]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_delays_survive_a_broker_that_is_killed(
    private_node: Node, private_vhost_url: str, start_private_worker: Starter, tmp_path: Path
) -> None:
    """Killed with delayed tasks at every level: each runs, and none before its time."""
    names = [f"n{number}" for number in range(40)]
    with later_at(private_vhost_url) as app, app.batch() as batch:
        for number, name in enumerate(names):
            wait = 0.5 + number / 4
            app.send_task("later.note", [str(tmp_path), name, time.time() + wait], countdown=wait, reply="none")
    assert len(batch) == len(names)
    private_node.kill()
    private_node.start()
    start_private_worker("-A", "later", "-P", "threads", "-c", "2")
    # A level that meets a queue which is not back yet asks again after three minutes; mostly all come at once.
    deadline, pause = time.monotonic() + 300, threading.Event()
    while not all(lateness(tmp_path, name) for name in names):
        assert time.monotonic() < deadline, "a delayed task is lost"
        pause.wait(0.2)
    assert min(late for name in names for late in lateness(tmp_path, name)) >= 0


def test_the_list_shows_what_waits_and_takes_nothing(later: App, vhost_url: str) -> None:
    """The next one due comes first; afterwards everything is still there."""
    slow = later.send_task("later.note", ["x", "slow", 0.0], countdown=7200)
    soon = later.send_task("web.thing", countdown=3600)
    for _ in range(3):
        listed = rows(vhost_url)
        assert [(row["id"], row["queues"]) for row in listed] == [(soon.id, ["web.high"]), (slow.id, ["default"])]
    text = delayed(vhost_url, "list").stdout
    assert "later.note" in text
    assert text.index(soon.id) < text.index(slow.id)
    assert slow.state == "PENDING"


def test_cancel_takes_a_task_back_and_answers_its_caller(later: App, vhost_url: str) -> None:
    """The caller reads REVOKED, the others still wait."""
    gone = later.send_task("later.note", ["x", "gone", 0.0], countdown=3600)
    kept = later.send_task("later.note", ["x", "kept", 0.0], countdown=3600)
    assert "give --yes" in delayed(vhost_url, "cancel", gone.id, code=1).stderr
    delayed(vhost_url, "cancel", gone.id, "--yes")
    assert [row["id"] for row in rows(vhost_url)] == [kept.id]
    assert gone.state == "REVOKED"
    with pytest.raises(Exception, match="revoked"):
        gone.get(timeout=DEADLINE_SECONDS)
    assert "no delayed task with id nobody" in delayed(vhost_url, "cancel", "nobody", "--yes", code=1).stderr


def test_cancel_asks_on_a_terminal(later: App, vhost_url: str) -> None:
    """The answer no leaves the task where it is."""
    kept = later.send_task("later.note", ["x", "kept", 0.0], countdown=3600)
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "amqpq", "delayed", "cancel", kept.id, "-t", "later.yaml"],
            cwd=APPS,
            env=worker_environment(vhost_url),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.write(ours, b"n\n")
        said, _ = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        os.close(ours)
        os.close(theirs)
    assert f"Cancel later.note[{kept.id}] for good?" in said
    assert process.returncode == 1
    assert [row["id"] for row in rows(vhost_url)] == [kept.id]


def test_hurry_lets_a_task_run_now(later: App, vhost_url: str, start_worker: Starter, tmp_path: Path) -> None:
    """Long before its signed eta, signed again by this host; once, and its caller gets the result."""
    start_worker("-A", "later", "-P", "threads", "-c", "1")
    result = later.send_task("later.note", [str(tmp_path), "now", time.time() + 3600], countdown=3600)
    assert "let go" in delayed(vhost_url, "hurry", result.id).stdout
    assert result.get(timeout=DEADLINE_SECONDS) < -3000
    assert len(lateness(tmp_path, "now")) == 1
    assert rows(vhost_url) == []
