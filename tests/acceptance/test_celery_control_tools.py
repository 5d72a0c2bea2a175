"""Celery's own tools against amqpq workers: `celery inspect`, `celery control`, `celery events`, and Flower in a browser.

Nothing of them is changed or configured: they are given the broker's address and find the workers. They sign nothing, so
the topology here lets unsigned commands through.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import TaskRevoked
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

WAIT_SECONDS = 60.0
WORKER = "w1@test"
TOPOLOGY = """\
amqpq: 1
project: shop
queues: {default: {}, extra: {}}
routes: {"*": {queue: default}}
control: {revocations: 1h}
security: {signing: off, require: optional}
"""


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    """A project that signs nothing."""
    file = tmp_path / "topology.yaml"
    file.write_text(TOPOLOGY, encoding="utf-8")
    return file


@pytest.fixture
def open_shop(topology: Path, vhost_url: str) -> Iterator[App]:
    """Its application, as a producer sees it; it is declared on the broker."""
    with App(topology, environ={"AMQPQ_BROKER_URL": vhost_url}) as app:
        connection = app.link.connection(30.0)
        flow.run(declare.apply(connection.channel, declarations(app.topology)), 60.0)
        yield app


@pytest.fixture
def work(start_worker: Any, topology: Path, open_shop: App) -> Callable[..., Any]:
    """Start a worker of that project: two processes, queue `default`."""
    del open_shop

    def start(*arguments: str) -> Any:
        return start_worker("-t", str(topology), "-n", WORKER, "-c", "2", "-Q", "default", *arguments)

    return start


class Celery:
    """Celery's command line on one broker."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command of it."""
        return subprocess.Popen(
            [sys.executable, "-m", "celery", "-b", self._url, *arguments],
            cwd=self._folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def says(self, kind: str, command: str, *arguments: str) -> Any:
        """Run `celery inspect` or `celery control`, and return what the worker answered."""
        process = self.start(kind, command, *arguments, "-d", WORKER, "-t", str(int(WAIT_SECONDS)), "--json")
        text, _ = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, text
        found = json.loads(next(line for line in text.splitlines() if line.startswith(("{", "["))))
        # A mapping by the worker's name, or a list of such.
        listed = found if isinstance(found, list) else [found]
        return {name: value for each in listed for name, value in each.items()}[WORKER]


@pytest.fixture
def celery(vhost_url: str, tmp_path: Path) -> Celery:
    """Celery's command line on this test's broker."""
    return Celery(vhost_url, tmp_path)


def test_celery_inspect_understands_a_worker(
    work: Any, open_shop: App, celery: Celery, tmp_path: Path, until: Any
) -> None:
    """Every inspection of Celery's command line gets the answer that it expects."""
    work("--prefetch", "3", "-c", "1")
    running = open_shop.send_task("shop.hold", [str(tmp_path), "a"])
    until(lambda: list(tmp_path.glob("a.begun.*")))
    waiting = open_shop.send_task("shop.add", [1, 2])
    asked = ("ping", "active", "stats", "registered", "active_queues", "scheduled", "revoked", "conf", "report")
    with ThreadPoolExecutor(3) as together:  # more at once, and Celery's four seconds for connecting may be over
        found = dict(zip(asked, together.map(partial(celery.says, "inspect"), asked), strict=True))
    assert found["ping"] == {"ok": "pong"}
    assert [(task["id"], task["name"]) for task in found["active"]] == [(running.id, "shop.hold")]
    assert found["active"][0]["worker_pid"] == int(next(tmp_path.glob("a.begun.*")).suffix[1:])
    assert found["stats"]["pool"]["implementation"] == "prefork"
    assert {"shop.add", "shop.hold"} <= set(found["registered"])
    assert [queue["name"] for queue in found["active_queues"]] == ["default"]
    assert (found["scheduled"], found["revoked"]) == ([], [])
    assert found["conf"]["project"] == "shop"
    assert "amqpq" in found["report"]["ok"]
    assert [task["id"] for task in celery.says("inspect", "reserved")] == [waiting.id]
    (tmp_path / "open").touch()
    assert waiting.get(timeout=WAIT_SECONDS) == 3


def test_celery_control_commands_a_worker(
    work: Any, open_shop: App, celery: Celery, tmp_path: Path, until: Any
) -> None:
    """It adds and cancels queues, revokes and ends tasks, and shuts the worker down; what cannot be done is said."""
    worker = work()
    assert celery.says("control", "add_consumer", "extra") == {"ok": "add consumer extra"}
    assert open_shop.send_task("shop.add", [1, 2], queue="extra").get(timeout=WAIT_SECONDS) == 3
    assert celery.says("control", "cancel_consumer", "extra") == {"ok": "no longer consuming from extra"}
    running = open_shop.send_task("shop.hold", [str(tmp_path), "a"])
    until(lambda: list(tmp_path.glob("a.begun.*")))
    assert celery.says("control", "terminate", "KILL", running.id) == {"ok": f"terminate: {running.id}"}
    with pytest.raises(TaskRevoked):
        running.get(timeout=WAIT_SECONDS)
    assert celery.says("control", "revoke", "another")["ok"] == "tasks another flagged as revoked"
    assert set(celery.says("control", "rate_limit", "shop.add", "1/s")) == {"ok"}
    assert celery.says("control", "time_limit", "shop.add", "1", "2") == {"ok": "time limits set successfully"}
    assert "did you mean" in celery.says("control", "time_limit", "shop.ad", "1", "2")["error"]
    assert celery.says("control", "enable_events") == {"ok": "task events enabled"}
    assert celery.says("control", "shutdown") == {"ok": "warm shutdown"}
    assert worker.exit_code() == 0


def test_celery_events_sees_tasks_and_the_worker(work: Any, open_shop: App, celery: Celery) -> None:
    """`celery events --dump` prints what -E sends, from heartbeats to the end of the worker."""
    worker = work("-E")
    watcher = celery.start("events", "--dump")
    seen: list[str] = []
    heard = threading.Condition()

    def read() -> None:
        assert watcher.stdout is not None
        with watcher.stdout:
            for line in watcher.stdout:
                with heard:
                    seen.append(line)
                    heard.notify_all()

    def wait_for(text: str) -> None:
        with heard:
            assert heard.wait_for(lambda: text in "".join(seen), WAIT_SECONDS), f"{text!r} is not in:\n{''.join(seen)}"

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_for("heartbeat")
        open_shop.send_task("shop.add", [1, 2]).get(timeout=WAIT_SECONDS)
        for word in ("task received", "task started", "task succeeded"):
            wait_for(word)
        assert worker.stop() == 0
        wait_for("shutdown")
    finally:
        watcher.terminate()  # where the test run itself ignores SIGINT, its children do
        watcher.wait(WAIT_SECONDS)
        reader.join(WAIT_SECONDS)


# -------------------------------------------------------------------------------------------------------------- Flower

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Flower:
    """Flower on a port of its own."""

    def __init__(self, celery: Celery, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._folder = folder
        self.process = celery.start("flower", "--address=127.0.0.1", f"--port={port}")
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self._lines.extend(self.process.stdout)

    def asked(self, path: str) -> str:
        """What a plain request gets; empty while Flower does not listen."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:  # noqa: S310 - our own Flower
                text: str = answer.read().decode()
                return text
        except OSError:
            assert self.process.poll() is None, "".join(self._lines)
            return ""

    def page(self, path: str) -> str:
        """What stands on a page once its scripts have run; a screenshot of it is left in the folder."""
        assert CHROMIUM is not None
        picture = self._folder / f"{path.strip('/').replace('/', '-') or 'root'}.png"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1400,1000",
            "--virtual-time-budget=8000",
        ]
        done = subprocess.run(
            [CHROMIUM, *options, f"--user-data-dir={self._folder / 'browser'}", f"--screenshot={picture}", "--dump-dom",
             self.address + path],
            capture_output=True, text=True, timeout=2 * WAIT_SECONDS, check=False,
        )  # fmt: skip
        return done.stdout

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)


@pytest.fixture
def flower(celery: Celery, tmp_path: Path) -> Iterator[Flower]:
    """Flower on this test's broker."""
    pytest.importorskip("flower")
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    running = Flower(celery, tmp_path)
    yield running
    running.stop()


@pytest.mark.timeout(400)
def test_flower_shows_workers_and_tasks(work: Any, open_shop: App, flower: Flower, tmp_path: Path, until: Any) -> None:
    """The pages of a real browser have the worker, its pool and queues, and the tasks with their states."""
    until(lambda: flower.asked("/healthcheck"), "Flower listening")
    work("-E")
    until(lambda: WORKER in flower.asked("/workers?json=1"), "Flower seeing the worker")
    good = open_shop.send_task("shop.add", [1, 2])
    bad = open_shop.send_task("shop.fail", ["on purpose"])
    assert good.get(timeout=WAIT_SECONDS) == 3
    with pytest.raises(ValueError, match="on purpose"):
        bad.get(timeout=WAIT_SECONDS)
    running = open_shop.send_task("shop.hold", [str(tmp_path), "a"])
    until(lambda: '"task-started": 3' in flower.asked("/workers?json=1"), "Flower seeing the third task begin")
    workers = flower.page("/workers")
    assert WORKER in workers
    assert "Online" in workers
    detail = flower.page(f"/worker/{WORKER}")
    for words in ("prefork", "default", "shop.add", "amqp", running.id):
        assert words.lower() in detail.lower(), words
    tasks = flower.page("/tasks")
    for words in (good.id, bad.id, running.id, "SUCCESS", "FAILURE", "STARTED"):
        assert words in tasks, words
    failed = flower.page(f"/task/{bad.id}")
    assert "ValueError" in failed
    assert "shop.fail" in failed
    (tmp_path / "open").touch()
    assert running.get(timeout=WAIT_SECONDS) == "a"
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("workers.png", "tasks.png"))
