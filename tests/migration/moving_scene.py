"""A broker's virtual host, the topology files, workers and producers, and the count of what was processed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from amqpq import App
from amqpq.errors import AmqpqError, BatchFailed

APP: Final = Path(__file__).with_name("app")
ROOT: Final = Path(__file__).resolve().parents[2]
TASKS: Final = ("by.direct", "by.topic", "by.fanout", "by.name", "mail.send")
PRODUCERS: Final = 2
BATCH: Final = 50
OTHERS: Final = 1_000_000_000
"""The first number of a producer that joins later."""
WAIT_SECONDS: Final = 240.0
READY_SECONDS: Final = 60.0

TOPOLOGY: Final = """\
amqpq: 1
project: moving
exchanges:
  tasks: {{type: direct}}
  web: {{type: topic}}
  news: {{type: fanout}}
queues:
  orders: {orders}
  mail: {mail}
  audit: {{limits: {{max_length: 10, overflow: drop-head}}}}
bindings:
  - tasks[orders] -> orders
  - web[web.#] -> orders
  - web[#] -> orders
  - news -> orders
  - news -> audit
  - tasks[mail] -> mail
routes:
  by.direct: {{exchange: tasks, key: orders}}
  by.topic: {{exchange: web, key: web.page}}
  by.fanout: {{exchange: news}}
  by.name: {{queue: orders}}
  mail.send: {{exchange: tasks, key: mail}}
replies: {{mode: none}}
security:
  signing: {{algorithm: hmac-sha256, key: "env:MOVING_KEY", key_id: moving}}
"""

FILES: Final = {
    "before": ("{type: classic, ttl: 1h}", "{max_priority: 5}"),
    "quorum": ("{type: quorum, ttl: 1h}", "{max_priority: 5}"),
    "longer": ("{type: quorum, ttl: 2h}", "{max_priority: 5}"),
    "after": ("{type: quorum, ttl: 2h}", "{}"),
}
"""What the file says, change by change."""

RENAMED: Final = (
    ("  orders: {", "  purchases: {"),
    ("-> orders", "-> purchases"),
    ("queue: orders", "queue: purchases"),
    ("replies:", "moved: [{from: queue.orders, to: queue.purchases}]\nreplies:"),
)
"""How the file says that `orders` has another name; keys stay."""


class Producer(threading.Thread):
    """Publishes batches at a rate until told to stop; every number once."""

    def __init__(self, topology: Path, environ: dict[str, str], first: int, per_second: float) -> None:
        super().__init__(daemon=True)
        self.app = App(topology, environ=environ, name="moving producer")
        self.confirmed: list[int] = []
        self.failed: list[str] = []
        self._next = first
        self._pause = BATCH / per_second
        self._over = threading.Event()

    def stop(self) -> None:
        """Publish nothing more."""
        self._over.set()
        self.join(60)
        self.app.close()

    def run(self) -> None:
        """Publish."""
        due = time.monotonic()
        while not self._over.is_set():
            numbers = range(self._next, self._next + BATCH * PRODUCERS, PRODUCERS)
            self._next += BATCH * PRODUCERS
            try:
                with self.app.batch():
                    for number in numbers:
                        self.app.send_task(TASKS[number // PRODUCERS % len(TASKS)], [number], timeout=30)
            except BatchFailed as error:
                self.failed += [str(each) for each in error.failures.values()]
            except AmqpqError as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            else:
                self.confirmed.extend(numbers)
            due += self._pause
            self._over.wait(max(0.0, due - time.monotonic()))


class Scene:
    """Everything of one run.

    Args:
        folder: For files and notes.
        broker: URL of the virtual host.
        management: URL of the management API.
        rate: Messages a second, of all producers together.
    """

    def __init__(self, folder: Path, broker: str, management: str, rate: float) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.runs.mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AMQPQ_")}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.environ = {
            **kept,
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "AMQPQ_BROKER_URL": broker,
            "AMQPQ_MANAGEMENT_URL": management,
            "MOVING_KEY": "07" * 32,
            "MOVING_RUNS": str(self.runs),
        }
        for name, (orders, mail) in FILES.items():
            self.write(name, orders, mail)
        text = (folder / "quorum.yaml").read_text(encoding="utf-8")
        for before, after in RENAMED:
            text = text.replace(before, after)
        (folder / "renamed.yaml").write_text(text, encoding="utf-8")
        self._workers: list[subprocess.Popen[str]] = []
        self._rate = rate
        self.producers: list[Producer] = []
        self.started = 0.0
        self.stopped = 0.0

    def write(self, name: str, orders: str, mail: str = "{max_priority: 5}") -> None:
        """Write a topology file."""
        (self.folder / f"{name}.yaml").write_text(TOPOLOGY.format(orders=orders, mail=mail), encoding="utf-8")

    def command(self, *arguments: str, file: str = "before", expect: Sequence[int] = (0,)) -> str:
        """Run `amqpq ...` and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "amqpq", *arguments, "-t", str(self.folder / f"{file}.yaml")],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )
        if done.returncode not in expect:
            raise RuntimeError(f"amqpq {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def cut_off(self, file: str, step: str, writes: int, *, back: bool = False, swap: bool = False) -> None:
        """Begin (or go on with) a migration of `orders` and end it with SIGKILL in a step, after some of its writes.

        With `swap`, that is a step of the second half.
        """
        how = [word for word, given in (("back", back), ("swap", swap)) if given]
        arguments = [str(self.folder / f"{file}.yaml"), step, str(writes), *how]
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("cut_off.py")), *arguments],
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        if said.strip() != "here":
            raise RuntimeError(f"the migration did not come to {step}: {said}")

    def join(self, file: str, queues: str) -> None:
        """Start one more worker."""
        number = len(self._workers) + 1
        log = (self.folder / f"worker-{number}.log").open("w", encoding="utf-8")
        self._workers.append(
            subprocess.Popen(
                [
                    sys.executable, "-m", "amqpq", "worker", "-A", "moving", "-P", "threads", "-c", "2",
                    "--prefetch", "200", "-n", f"w{number}@%h", "-Q", queues, "-l", "warning",
                    "-t", str(self.folder / f"{file}.yaml"),
                ],
                cwd=APP, env=self.environ, stdout=log, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip

    def leave(self, count: int) -> None:
        """End the workers that were started first."""
        for worker in self._workers[:count]:
            worker.send_signal(signal.SIGTERM)
        for worker in self._workers[:count]:
            worker.wait(60)

    def publish(self, file: str) -> None:
        """Start one more producer."""
        producer = Producer(self.folder / f"{file}.yaml", self.environ, OTHERS, self._rate / PRODUCERS)
        self.producers.append(producer)
        producer.start()

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Workers and producers, from beginning to end."""
        self.command("topology", "apply")
        for _ in range(2):
            self.join("before", "orders,mail")
        self.producers = [
            Producer(self.folder / "before.yaml", self.environ, number, self._rate / PRODUCERS)
            for number in range(PRODUCERS)
        ]
        try:
            self.started = time.monotonic()
            for producer in self.producers:
                producer.start()
            self._until(lambda: sum(self.processed().values()) > BATCH, "the workers begin", READY_SECONDS)
            yield
        finally:
            for producer in self.producers:
                producer.stop()
            self.stopped = time.monotonic()
            confirmed = sum(len(producer.confirmed) for producer in self.producers)
            try:
                self._until(lambda: len(self.processed()) >= confirmed, "everything is processed", WAIT_SECONDS)
            except TimeoutError as error:
                sys.stdout.write(f"{error}\n")
            for worker in self._workers:
                worker.send_signal(signal.SIGTERM)
            for worker in self._workers:
                worker.wait(60)

    def processed(self) -> Counter[int]:
        """How often each number was processed."""
        counts: Counter[int] = Counter()
        for path in self.runs.glob("done-*"):
            text = path.read_bytes()
            counts.update(int(line) for line in text[: text.rfind(b"\n") + 1].split())
        return counts

    def result(self) -> dict[str, Any]:
        """Count: sent, lost, doubled, failed."""
        done = self.processed()
        confirmed = [number for producer in self.producers for number in producer.confirmed]
        failed = [reason for producer in self.producers for reason in producer.failed]
        return {
            "confirmed": len(confirmed),
            "per second": round(len(confirmed) / max(self.stopped - self.started, 0.001)),
            "lost": sum(1 for number in confirmed if number not in done),
            "doubled": sum(1 for count in done.values() if count > 1),
            "failed": len(failed),
            "reasons": sorted(set(failed))[:3],
            "workers": [worker.returncode for worker in self._workers],
        }

    def _until(self, ready: Any, what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:g} s: {what}")
            time.sleep(0.5)
