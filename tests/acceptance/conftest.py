"""Worker processes through the command line, and an application that calls them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from amqpq import App
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from tests.support.pool import pool_of

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).with_name("apps")
KEY = "5a" * 32
DEADLINE_SECONDS = 60.0


class WorkerProcess:
    """One `amqpq worker`, with everything it says."""

    def __init__(self, url: str, *arguments: str) -> None:
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self.listening = threading.Event()
        """While this is not set nobody reads what the worker says."""
        self.listening.set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "amqpq", "worker", "-A", "shop", *arguments],
            cwd=APPS,
            env=worker_environment(url),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self.listening.wait()
                with self._heard:
                    self._lines.append(line)
                    self._heard.notify_all()

    @property
    def text(self) -> str:
        """Everything said so far."""
        return "".join(self._lines)

    def says(self, text: str, times: int = 1) -> WorkerProcess:
        """Wait until a line holds `text`, or several do."""
        with self._heard:
            said = self._heard.wait_for(
                lambda: sum(text in line for line in self._lines) >= times or self.process.poll() is not None,
                DEADLINE_SECONDS,
            )
        assert said, f"the worker did not say {text!r} in time:\n{self.text}"
        assert text in self.text, f"the worker ended without saying {text!r}:\n{self.text}"
        return self

    def ready(self) -> WorkerProcess:
        """Wait until it consumes."""
        return self.says(" ready.")

    def children(self) -> set[int]:
        """The process ids of its children."""
        return set(pool_of(self.process.pid))

    def signal(self, number: int) -> None:
        """Send a signal to the worker alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)

    def exit_code(self) -> int:
        """Wait for its end."""
        code = self.process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        return code

    def stop(self) -> int:
        """Stop it warm; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.exit_code()


class Starter(Protocol):
    """Starts a worker with these arguments; `wait=False` does not wait until it consumes, `url` is another broker's."""

    def __call__(self, *arguments: str, wait: bool = True, url: str = "") -> WorkerProcess:
        """Start it."""


def worker_environment(url: str) -> dict[str, str]:
    """The environment of a program that finds this checkout, this broker and the key."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    return {**os.environ, "PYTHONPATH": path, "AMQPQ_BROKER_URL": url, "SHOP_KEY": KEY, "PYTHONUNBUFFERED": "1"}


def until(condition: Callable[[], object], what: str = "the condition", seconds: float = DEADLINE_SECONDS) -> None:
    """Wait for a condition; fail at the deadline."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in time"
        pause.wait(0.02)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    """`until(condition)` waits for it and fails at the deadline."""
    return until


def shop_at(url: str) -> App:
    """The application as a producer without task code sees it; its topology is declared on the broker."""
    app = App(APPS / "topology.yaml", environ={"AMQPQ_BROKER_URL": url, "SHOP_KEY": KEY})
    connection = app.link.connection(30.0)
    flow.run(declare.apply(connection.channel, declarations(app.topology)), 60.0)
    return app


def starting(usual_url: str) -> Iterator[Starter]:
    """Start workers of one broker; what a test leaves running is killed."""
    started: list[WorkerProcess] = []

    def start(*arguments: str, wait: bool = True, url: str = "") -> WorkerProcess:
        worker = WorkerProcess(url or usual_url, *arguments)
        started.append(worker)
        return worker.ready() if wait else worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture
def shop(vhost_url: str) -> Iterator[App]:
    """The application on a vhost of its own."""
    with shop_at(vhost_url) as app:
        yield app


@pytest.fixture
def start_worker(vhost_url: str) -> Iterator[Starter]:
    """Starts workers on that vhost."""
    yield from starting(vhost_url)


@pytest.fixture
def private_shop(private_vhost_url: str) -> Iterator[App]:
    """The application on a node that may be restarted."""
    with shop_at(private_vhost_url) as app:
        yield app


@pytest.fixture
def start_private_worker(private_vhost_url: str) -> Iterator[Starter]:
    """Starts workers on that node."""
    yield from starting(private_vhost_url)
