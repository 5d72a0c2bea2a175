"""100,000 delayed tasks over two minutes, the worker restarted in the middle: how late, how many lost, how much memory.

    python -m benchmarks.delays --tasks 100000 --seconds 120

Started by hand; takes the time it says and a little more. Needs $AMQPQ_BROKER_URL, in whose vhost it declares the project
`delaybench` (a vhost of its own is best). The same file is the application that its worker runs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amqpq import App
from amqpq.topology.declarations import declarations
from amqpq.transport import declare, flow
from amqpq.types import QueueSpec
from benchmarks import cpu

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "delaybench",
    "queues": {"default": {}},
    "routes": {"*": {"queue": "default", "reply": "none"}},
    "delays": {"max": "10m"},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:DELAYBENCH_KEY", "key_id": "delaybench"}},
}
os.environ.setdefault("DELAYBENCH_KEY", "5a" * 32)
ROOT = Path(__file__).resolve().parents[1]
CHUNK = 200
PATIENCE_SECONDS = 120

app = App(SOURCE)


@app.task(name="note")
def note(folder: str, number: int, due: float) -> None:
    late = time.time() - due
    with Path(folder, f"{os.getpid()}.late").open("a", encoding="ascii") as notes:
        notes.write(f"{number} {due:.3f} {late:.4f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.0, help="tasks sent per second at most; 0: as fast as they go")
    given = parser.parse_args()
    flow.run(declare.apply(app.link.connection(30.0).channel, declarations(app.topology)), 60.0)
    with tempfile.TemporaryDirectory(prefix="delaybench-") as folder:
        run(given, Path(folder))
    app.close()


def run(given: argparse.Namespace, folder: Path) -> None:
    worker = Worker(given.concurrency, folder)
    before = worker.resident()
    began = time.time()
    restarted: list[tuple[float, float]] = []

    def restart() -> None:
        nonlocal worker
        left = time.time()
        worker.stop()
        worker = Worker(given.concurrency, folder)
        restarted.append((left - began, time.time() - began))

    backlog: list[int] = []
    over = threading.Event()

    def sample() -> None:
        channel = app.link.connection(30.0).channel()
        while not over.wait(1.0):
            backlog.append(flow.run(_ready(channel), 30.0).messages)

    threading.Thread(target=sample, daemon=True).start()
    timer = threading.Timer(given.seconds / 2, restart)
    timer.start()
    send(given, folder)
    sent = time.time() - began
    timer.join()
    after_restart = worker.resident()
    deadline = time.time() + 2 * given.seconds + PATIENCE_SECONDS
    # Reading the notes costs what the worker needs; so not before all can be there.
    time.sleep(max(0.0, began + sent + given.seconds - time.time()))
    while len({number for number, _, _ in notes(folder)}) < given.tasks and time.time() < deadline:
        time.sleep(2)
    over.set()
    report(given, list(notes(folder)), sent, restarted, began)
    print(
        f"due and waiting for the worker: {max(backlog, default=0)} at most, {sum(backlog) // max(len(backlog), 1)} on average"
    )
    print(f"resident memory of the worker's processes, MiB: {before} at the start, {after_restart} after the restart, "
          f"{worker.resident()} at the end")  # fmt: skip
    worker.stop()


def send(given: argparse.Namespace, folder: Path) -> None:
    rnd = random.Random(1)
    began = time.time()
    for start in range(0, given.tasks, CHUNK):
        if given.rate:
            time.sleep(max(0.0, began + start / given.rate - time.time()))
        with app.batch(timeout=60):
            for number in range(start, min(start + CHUNK, given.tasks)):
                wait = rnd.uniform(0.0, given.seconds)
                app.send_task("note", [str(folder), number, time.time() + wait], countdown=wait)


def notes(folder: Path) -> Iterator[tuple[int, float, float]]:
    for file in folder.glob("*.late"):
        for line in file.read_text(encoding="ascii").splitlines():
            words = line.split()
            if len(words) == 3:
                yield int(words[0]), float(words[1]), float(words[2])


def report(
    given: argparse.Namespace,
    ran: list[tuple[int, float, float]],
    sent: float,
    restarted: list[tuple[float, float]],
    began: float,
) -> None:
    distinct = {number for number, _, _ in ran}
    print(f"{given.tasks} tasks within {given.seconds:g} s; sent in {sent:.1f} s; load {os.getloadavg()[0]:.1f}")
    print(
        f"lost {given.tasks - len(distinct)}, run twice {len(ran) - len(distinct)}, early {sum(late < 0 for *_, late in ran)}"
    )
    show("all", [late for *_, late in ran])
    for left, back in restarted:
        print(f"the worker was away from {left:.1f} s to {back:.1f} s")
        # What fell due while nobody was there, and what waited behind it, cannot be punctual.
        show("but those due while it was away, or within 10 s after",
             [late for _, due, late in ran if not left - 1 <= due - began <= back + 10])  # fmt: skip


def show(what: str, lates: list[float]) -> None:
    ordered = sorted(lates)
    if ordered:
        cuts = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99, 1.0)]
        print(f"lateness of {len(ordered)} ({what}), s: p50 {cuts[0]:.3f}  p99 {cuts[1]:.3f}  max {cuts[2]:.3f}")


def _ready(channel: Any) -> Any:
    state = yield channel.declare_queue(QueueSpec("default"), passive=True)
    return state


class Worker:
    """`amqpq worker` on this file."""

    def __init__(self, concurrency: int, folder: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "amqpq",
            "worker",
            "-A",
            "benchmarks.delays",
            "-P",
            "prefork",
            "-c",
            str(concurrency),
        ]
        log = (folder / "worker.log").open("ab")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command += ["--prefetch", "200", "-l", "warning"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        log.close()
        self._ready()

    def _ready(self) -> None:
        channel = app.link.connection(30.0).channel()
        while not flow.run(_ready(channel), 30.0).consumers:
            time.sleep(0.05)

    def resident(self) -> int:
        pids = cpu.tree(self.process.pid)
        pages = [int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) for pid in pids]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE") // 2**20

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


if __name__ == "__main__":
    main()
