"""One cell of the matrix: a vhost, two workers, producers and collectors, one fault in the middle, and the count."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from amqpq import App
from amqpq.errors import AmqpqError
from amqpq.testing.proxy import OPEN_GATES, Gates, Proxy
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from amqpq.transport.interface import Channel, Flow
from amqpq.types import QueueSpec
from tests.faults.brokers import Server, Vhost
from tests.faults.crew import Crew, environment
from tests.faults.tally import REPLAYED, Load, Tally, repeated
from tests.faults.traffic import Traffic

KEY: Final = "5a" * 32
QUEUE: Final = "work"
WORKERS: Final = 2
PREFETCH: Final = 16
CONCURRENCY: Final = 2
NAP_SECONDS: Final = 0.002
"""What a task takes: long enough that a fault finds some at it."""
HEARTBEAT: Final = "2s"
FAULT_AT: Final = 0.3
"""The share of the results that is there when the fault strikes."""
FIRST_SECONDS: Final = 60.0
FINISH_SECONDS: Final = 120.0
PROBE_SECONDS: Final = 30.0
PROBES: Final = 8


@dataclass(frozen=True, slots=True)
class Column:
    """What a fault is tried on."""

    pool: str
    queue: str
    """classic or quorum."""
    version: str


@dataclass(frozen=True, slots=True)
class Row:
    """A fault.

    Args:
        name: For the command line and the table.
        sentence: What happens.
        strike: Does it; returns when it is over.
        workers: How many workers lose what they hold, each time it strikes.
        producers: Whether what producers have under way is in doubt, too.
        kind: The broker it needs, `node` or `cluster`.
        fits: Whether it exists in a column.
        parked: Dead letters it makes on purpose, by cause.
        fails: Ids of tasks that have to fail.
        gates: Makes what stands in the proxies, for each cell anew.
        prepare: Called before the workers start.
        restore: Called at the end, whatever happened.
        patience_seconds: For the answers that are missing when everything is published.
    """

    name: str
    sentence: str
    strike: Callable[[Scene], None]
    workers: int = WORKERS
    producers: bool = False
    kind: str = "node"
    fits: Callable[[Column], bool] = lambda _: True
    parked: Mapping[str, int] = field(default_factory=dict)
    fails: tuple[str, ...] = ()
    gates: Callable[[], Gates] | None = None
    prepare: Callable[[Scene], None] = lambda _: None
    restore: Callable[[Scene], None] = lambda _: None
    patience_seconds: float = FINISH_SECONDS


@dataclass(slots=True)
class Scene:
    """What a fault has to work with."""

    row: Row
    column: Column
    server: Server
    vhost: Vhost
    crew: Crew
    traffic: Traffic
    gates: Any
    back: Proxy | None
    """The workers' way to the broker; none where they have three."""
    front: Proxy | None
    """That of producers and collectors."""
    runs: Path
    """Has a line for each run that has begun: the task's id, and the process."""
    strikes: int = 0
    notes: list[str] = field(default_factory=list)

    def struck(self, times: int = 1) -> None:
        """Count a strike."""
        self.strikes += times

    @property
    def at_work(self) -> set[int]:
        """The processes that have begun a task, now or before."""
        return {int(line.split()[1]) for line in self.runs.read_text(encoding="utf-8").splitlines()}

    @property
    def ways(self) -> list[Proxy]:
        """Both proxies."""
        return [proxy for proxy in (self.back, self.front) if proxy is not None]

    @property
    def load(self) -> Load:
        """What is in flight."""
        return Load(WORKERS, PREFETCH, self.traffic.in_flight)


def play(row: Row, column: Column, server: Server, *, count: int, folder: Path) -> Tally:
    """Run a cell."""
    began = time.monotonic()
    folder.mkdir(parents=True)
    runs = folder / "runs"
    runs.touch()
    with ExitStack() as stack:
        vhost = stack.enter_context(Vhost(server, folder.name))
        gates = row.gates() if row.gates is not None else lambda: OPEN_GATES
        back = front = None
        back_urls = front_urls = vhost.urls
        if server.kind == "node":
            place = ("127.0.0.1", server.nodes[0].ports.amqp)
            back, front = (stack.enter_context(Proxy(*place, gates=gates)) for _ in range(2))
            back_urls, front_urls = (
                [url.replace(f":{place[1]}/", f":{way.port}/") for url in vhost.urls] for way in (back, front)
            )
        inner, outer = (
            write_topology(folder / f"{name}.yaml", urls, column.queue)
            for name, urls in (("workers", back_urls), ("producers", front_urls))
        )
        name = "faults.work_later" if column.pool == "asyncio" else "faults.work"
        secrets = {"FAULTS_KEY": KEY, "FAULTS_PASSWORD": vhost.password}
        traffic = Traffic(outer, secrets, (name, [NAP_SECONDS]), count)
        stack.callback(traffic.close)
        crew = Crew(arguments(column.pool), environment(inner, runs, secrets))
        stack.callback(crew.kill)
        scene = Scene(row, column, server, vhost, crew, traffic, gates, back, front, runs)
        stack.callback(row.restore, scene)
        failures: list[str] = []
        deaf: list[str] = []
        try:
            _act(scene, count)
            deaf = _deaf(scene)
        except Exception as error:
            logging.getLogger("faults").debug("the cell failed", exc_info=True)
            failures.append(f"{type(error).__name__}: {error}")
        failures += crew.dismiss()
        (folder / "workers.log").write_text("".join(hand.text for hand in crew.hands), encoding="utf-8")
        return _count(scene, deaf, failures, time.monotonic() - began)


def _act(scene: Scene, count: int) -> None:
    declare_all(scene.traffic.producing)
    scene.row.prepare(scene)
    scene.crew.hire(WORKERS)
    scene.crew.ready()
    scene.traffic.start()
    scene.traffic.until(FAULT_AT, FIRST_SECONDS)
    scene.row.strike(scene)
    scene.traffic.extend(count // 10)
    scene.traffic.finish(scene.row.patience_seconds)


def _count(scene: Scene, deaf: list[str], failures: list[str], seconds: float) -> Tally:
    traffic, row = scene.traffic, scene.row
    lost = traffic.lost(row.fails)
    for task_id in row.fails:
        if task_id in traffic.confirmed and not isinstance(traffic.answers.get(task_id), Exception):
            lost = (*lost, f"{task_id} (should have failed)")
    begun = [line.split()[0] for line in scene.runs.read_text(encoding="utf-8").splitlines()]
    published = traffic.in_flight if row.producers else 0
    bound = scene.strikes * (row.workers * PREFETCH + published) + traffic.republished
    if traffic.republished:
        scene.notes.append(f"{traffic.republished} published again")
    if traffic.forgiven:
        scene.notes.append(f"{len(traffic.forgiven)} deleted with their queue")
    try:
        parked = _parked(traffic.producing)
    except AmqpqError as error:
        parked = {}
        failures.append(f"dead letters cannot be read: {error}")
    return Tally(
        confirmed=len(traffic.confirmed) - len(traffic.forgiven),
        lost=lost,
        twice=repeated(begun),
        bound=bound,
        parked=parked,
        allowed={**row.parked, REPLAYED: bound},
        deaf=tuple(deaf),
        exits=tuple(failures),
        strikes=scene.strikes,
        seconds=seconds,
        notes=tuple(scene.notes),
    )


def write_topology(path: Path, urls: list[str], queue: str) -> Path:
    """Write the topology of a cell: one queue, a dead letter, signed messages; return the path."""
    document = {
        "amqpq": 1,
        "project": "faults",
        "variables": {"PASSWORD": {"type": "secret", "from": "env:FAULTS_PASSWORD"}},
        "broker": {"url": [re.sub(r":[^:@/]*@", ":${PASSWORD}@", url) for url in urls], "heartbeat": HEARTBEAT},
        "queues": {QUEUE: {"type": queue}},
        "routes": {"*": {"queue": QUEUE}},
        "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:FAULTS_KEY", "key_id": "faults"}},
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def arguments(pool: str) -> list[str]:
    """Return the command line of a worker with this pool."""
    concurrency = 1 if pool == "solo" else CONCURRENCY
    return ["-P", pool, "-c", str(concurrency), "--prefetch", str(PREFETCH), "-Q", QUEUE]


# ------------------------------------------------------------------------------------------------------- broker facts


def declare_all(app: App) -> None:
    """Declare the topology, as `amqpq topology apply` does."""
    connection = app.link.connection(30.0)
    declare.demand(flow.run(declare.apply(connection.channel, declarations(app.topology)), 60.0))


def consumers(app: App, queue: str = QUEUE) -> int:
    """Ask the broker how many consumers a queue has."""

    def ask(channel: Channel) -> Flow[int]:
        state = yield channel.declare_queue(QueueSpec(queue), passive=True)
        yield channel.close()
        return int(state.consumers)

    return flow.run(ask(app.link.connection(10.0).channel()), 10.0)


def _parked(app: App) -> dict[str, int]:
    target = app.topology.dead_letter_of(QUEUE)
    counts: Counter[str] = Counter()
    if target is None:
        return counts

    def empty(channel: Channel) -> Flow[None]:
        while (delivery := (yield channel.get(target))) is not None:
            counts[str(delivery.properties.headers.get("amqpq-cause", "by the broker"))] += 1
            channel.ack(delivery.tag)

    flow.run(empty(app.link.connection(10.0).channel()), 30.0)
    return dict(counts)


def _deaf(scene: Scene) -> list[str]:
    """Compare with what the broker says, and ask each worker that runs for an answer."""
    hands = {hand.name for hand in scene.crew.at_work}
    app = scene.traffic.producing
    deadline = time.monotonic() + PROBE_SECONDS
    heard: set[str] = set()
    found = -1
    pause = threading.Event()
    while time.monotonic() < deadline:
        found = consumers(app)
        if found == len(hands):
            results = [app.send_task("faults.whoami") for _ in range(PROBES)]
            heard.update(app.collect(results, timeout=PROBE_SECONDS))
            if heard >= hands:
                return []
        pause.wait(0.2)
    said = [f"{name} runs and answers no probe" for name in sorted(hands - heard)]
    if found != len(hands):
        said.append(f"{len(hands)} workers run, and the broker sees {found} consumers")
    return said
