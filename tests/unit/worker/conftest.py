"""A worker on the in-memory broker: the real loop, the real thread pool, tasks that the test holds by the hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import pytest

from amqpq import App
from amqpq.clock import SYSTEM_CLOCK
from amqpq.testing.memory import MemoryBroker, memory_link
from amqpq.topology import Topology, load
from amqpq.topology.declarations import declarations
from amqpq.transport import attempts, declare, flow
from amqpq.worker import intake, settler
from amqpq.worker.deadletter import Place
from amqpq.worker.execute import Executor
from amqpq.worker.lane import Lane
from amqpq.worker.loop import ExitCode, Loop, LoopPlan, Parts
from amqpq.worker.pools.threads import ThreadPool
from amqpq.worker.reactor import Reactor

KEY = {"SIGN_KEY": "5a" * 32}
DEADLINE_SECONDS = 20.0

TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {}, "forgetful": {"dead_letter": None}},
    "routes": {"forget.*": {"queue": "forgetful"}, "*": {"queue": "default"}},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}


@cache
def loaded() -> Topology:
    """The topology, read once for all tests."""
    return load(TOPOLOGY, environ=KEY)


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The in-memory broker is there again at once; no worker has to rest before it tries again."""
    for module, pause in ((intake, "PAUSE_SECONDS"), (settler, "PAUSE_SECONDS"), (attempts, "FIRST_PAUSE_SECONDS")):
        monkeypatch.setattr(module, pause, 0.005)


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.002)


@dataclass
class Gate:
    """A task that waits at it has begun, and ends when the test opens it."""

    opened: threading.Event = field(default_factory=threading.Event)
    begun: list[object] = field(default_factory=list)

    def wait(self, who: object) -> object:
        """Say that somebody has begun; wait."""
        self.begun.append(who)
        assert self.opened.wait(DEADLINE_SECONDS)
        return who


class RunningWorker:
    """A loop on a thread of its own."""

    def __init__(self, app: App, broker: MemoryBroker, **options: Any) -> None:
        self.reactor = Reactor()
        pool = ThreadPool(Executor(app, "w1@test"), options.get("concurrency", 2), self.reactor)
        self.loop = Loop(
            LoopPlan(
                options.get("queues", ("default", "forgetful")),
                options.get("prefetch", 10),
                Place("test", "w1@test"),
                options.get("shutdown_timeout", 60.0),
                scale=options.get("scale"),
            ),
            Parts(
                app,
                pool,
                Lane(memory_link(broker), "consuming", self.reactor),
                Lane(memory_link(broker), "publishing", self.reactor),
                self.reactor,
                SYSTEM_CLOCK,
            ),
        )
        self.exit_code: ExitCode | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.exit_code = self.loop.run()
        finally:
            self.reactor.close()

    @property
    def running(self) -> bool:
        """Whether the loop has not ended."""
        return self._thread.is_alive()

    def signal(self) -> None:
        """Do what a SIGTERM does."""
        self.reactor.post(self.loop.signalled)

    def wait(self) -> ExitCode | None:
        """Wait for the end."""
        self._thread.join(DEADLINE_SECONDS)
        assert not self.running, "the worker did not stop"
        return self.exit_code

    def stop(self) -> ExitCode | None:
        """Stop warm and wait."""
        self.signal()
        return self.wait()


class StartWorker(Protocol):
    """Starts a worker with these options and waits until it consumes."""

    def __call__(self, **options: Any) -> RunningWorker:
        """Start it."""


@pytest.fixture(name="until")
def until_fixture() -> Callable[[Callable[[], object]], None]:
    """`until(condition)` waits for it and fails at the deadline."""
    return until


@pytest.fixture
def broker() -> MemoryBroker:
    """An empty in-memory broker."""
    return MemoryBroker()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """What `shop.hold` waits at; opened at the end in any case."""
    made = Gate()
    yield made
    made.opened.set()


@pytest.fixture
def app(broker: MemoryBroker, gate: Gate) -> Iterator[App]:
    """The application with its tasks; its topology is on the broker."""
    application = App(loaded(), environ=KEY, link=memory_link(broker))

    @application.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @application.task(name="shop.hold")
    def hold(who: object) -> object:
        return gate.wait(who)

    @application.task(name="shop.fail")
    def fail(text: str) -> None:
        raise ValueError(text)

    @application.task(name="forget.fail")
    def forget(text: str) -> None:
        raise ValueError(text)

    @application.task(name="shop.progress", bind=True, track_started=True)
    def progress(self: Any) -> str:
        gate.wait("started")
        self.update_state(meta={"done": 1})
        return "end"

    connection = broker.connect()
    flow.run(declare.apply(connection.channel, declarations(application.topology)), 10.0)
    with application:
        yield application


@pytest.fixture
def start(app: App, broker: MemoryBroker, gate: Gate) -> Iterator[StartWorker]:
    """Start workers; what a test leaves running is stopped."""
    started: list[RunningWorker] = []

    def make(**options: Any) -> RunningWorker:
        worker = RunningWorker(app, broker, **options)
        started.append(worker)
        until(
            lambda: all(broker.queues()[queue].consumers for queue in options.get("queues", ("default", "forgetful")))
        )
        return worker

    yield make
    gate.opened.set()
    for worker in started:
        for _ in range(2):
            if worker.running:
                worker.signal()
        worker.wait()
