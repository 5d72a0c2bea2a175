"""A million messages through one worker whose connection is cut every few seconds: `make soak`.

Memory must not grow: at the end the resident memory of every process of the worker is within a tenth of what it was after
the first 50,000 messages. No message may be lost, and twice may run only what was in flight at a cut.

Memory is sampled all the time, and what is compared is the median of a stretch of samples: one sample may fall into a burst.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from amqpq import App
from amqpq.errors import BatchFailed
from amqpq.testing.proxy import Proxy
from tests.faults.brokers import RELEASES, SingleNode, Vhost
from tests.faults.crew import Crew, Hand, environment
from tests.faults.scene import KEY, declare_all, write_topology

MESSAGES: Final = 1_000_000
SETTLED: Final = 50_000
"""From here on memory is compared."""
GROWTH: Final = 0.10
CUT_SECONDS: Final = 4.0
BATCH: Final = 500
PREFETCH: Final = 200
CHILDREN: Final = 2
SAMPLE_SECONDS: Final = 0.25
STRETCH: Final = 20
"""Samples whose median is compared."""
AHEAD: Final = 20_000
"""Messages that wait in the queue at most, so that the worker decides the speed and the broker keeps its memory."""
IDLE_SECONDS: Final = 60.0
TASK: Final = "faults.mark"


@dataclass(slots=True)
class Watch:
    """The memory of the processes of a worker over time: bytes by process, one dict per sample, and how far it was."""

    hand: Hand
    samples: list[tuple[int, dict[str, int]]] = field(default_factory=list)

    def sample(self, done: int) -> None:
        """Take one."""
        processes = {"worker": self.hand.process.pid}
        processes |= {f"child {pid}": pid for pid in self.hand.children()}
        found = {name: size for name, pid in processes.items() if (size := resident(pid))}
        self.samples.append((done, found))


@dataclass(frozen=True, slots=True)
class Growth:
    """The memory of one process: at first, at the end (bytes)."""

    process: str
    first: int
    last: int

    @property
    def share(self) -> float:
        """How much it grew, of what it was."""
        return self.last / self.first - 1


def growths(samples: Sequence[tuple[int, dict[str, int]]], settled: int) -> list[Growth]:
    """Compare the first samples after `settled` messages with the last ones, for each process that is in all of them."""
    later = [found for done, found in samples if done >= settled]
    first, last = later[:STRETCH], later[-STRETCH:]
    if not later:
        return []
    names = [name for name in first[0] if all(name in found for found in (*first, *last))]
    return [
        Growth(name, *(int(statistics.median(found[name] for found in stretch)) for stretch in (first, last)))
        for name in names
    ]


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return int(line.split()[1]) * 1024


class Marks:
    """The runs so far: a byte per message, where the task whose number it is has written.

    The file that tasks append to is read from where reading stopped; it holds 8 bytes a run.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._read = 0
        self.seen = bytearray(count)
        self.distinct = 0
        self.twice = 0

    def update(self) -> None:
        """Read on."""
        with self._path.open("rb") as source:
            source.seek(self._read)
            data = source.read()
        whole = len(data) - len(data) % 8
        self._read += whole
        for start in range(0, whole, 8):
            number = int.from_bytes(data[start : start + 8])
            if self.seen[number]:
                self.twice += 1
            else:
                self.seen[number] = 1
                self.distinct += 1


def produce(app: App, count: int, marks: Marks, confirmed: bytearray) -> None:
    """Publish the numbers up to `count`, in batches, not too far ahead of the worker."""
    pause = threading.Event()
    for first in range(0, count, BATCH):
        while first - marks.distinct > AHEAD:
            pause.wait(0.02)
        numbers = {f"n{number}": number for number in range(first, min(first + BATCH, count))}
        left = dict(numbers)
        while left:
            failed: dict[str, object] = {}
            try:
                with app.batch():
                    for task_id, number in left.items():
                        app.send_task(TASK, (number,), task_id=task_id, reply="none")
            except BatchFailed as error:
                failed = dict(error.failures)
            left = {task_id: number for task_id, number in left.items() if task_id in failed}
        for number in numbers.values():
            confirmed[number] = 1


def cutting(proxy: Proxy, over: threading.Event, seconds: float) -> int:
    """Cut every connection again and again until it is over; return how often."""
    times = 0
    while not over.wait(seconds):
        proxy.cut()
        times += 1
    return times


def main(given: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="(%(default)s)")
    parser.add_argument("--settled", type=int, help=f"compare memory from here on (a twentieth, at most {SETTLED})")
    parser.add_argument("--cut-every", type=float, default=CUT_SECONDS, help="seconds (%(default)s)")
    parser.add_argument("--version", default=RELEASES[0].version, choices=[release.version for release in RELEASES])
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(given)
    release = next(release for release in RELEASES if release.version == options.version)
    settled = options.settled or min(SETTLED, options.messages // 20)
    with tempfile.TemporaryDirectory(prefix="amqpq-soak-") as scratch:
        server = SingleNode(release, Path(scratch) / "node")
        server.start()
        try:
            return soak(server, Path(scratch), options, settled)
        finally:
            server.stop()


def soak(server: SingleNode, scratch: Path, options: argparse.Namespace, settled: int) -> int:
    """Run it on this broker; return the exit code."""
    count = options.messages
    runs = scratch / "runs"
    runs.touch()
    with Vhost(server, "soak") as vhost, Proxy("127.0.0.1", server.node.ports.amqp) as proxy:
        secrets = {"FAULTS_KEY": KEY, "FAULTS_PASSWORD": vhost.password}
        straight = write_topology(scratch / "producers.yaml", vhost.urls, "classic")
        way = [url.replace(f":{server.node.ports.amqp}/", f":{proxy.port}/") for url in vhost.urls]
        through = write_topology(scratch / "workers.yaml", way, "classic")
        crew = Crew(
            ["-c", str(CHILDREN), "--prefetch", str(PREFETCH), "-l", "warning"], environment(through, runs, secrets)
        )
        with App(straight, environ=secrets) as app:
            declare_all(app)
            hand = crew.hire()[0]
            try:
                return _run(app, hand, crew, proxy, (count, settled, options.cut_every, runs, options.json))
            finally:
                crew.kill()


def _run(app: App, hand: Hand, crew: Crew, proxy: Proxy, how: tuple[int, int, float, Path, Path | None]) -> int:
    count, settled, cut_every, runs, target = how
    marks, watch, confirmed = Marks(runs, count), Watch(hand), bytearray(count)
    over = threading.Event()
    cuts: list[int] = []
    threads = [
        threading.Thread(target=produce, args=(app, count, marks, confirmed), daemon=True),
        threading.Thread(target=lambda: cuts.append(cutting(proxy, over, cut_every)), daemon=True),
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    progressed, told = began, began
    while marks.distinct < count and time.monotonic() - progressed < IDLE_SECONDS and hand.alive:
        over.wait(SAMPLE_SECONDS)
        before = marks.distinct
        marks.update()
        watch.sample(marks.distinct)
        now = time.monotonic()
        progressed = now if marks.distinct > before else progressed
        if now - told > 10:
            told = now
            memory = ", ".join(f"{name} {size >> 20} MiB" for name, size in watch.samples[-1][1].items())
            print(f"{marks.distinct:8} of {count}, {marks.distinct / (now - began):.0f}/s, {memory}", flush=True)
    seconds = time.monotonic() - began
    over.set()
    threads[1].join()
    exits = crew.dismiss()
    marks.update()
    return verdict(marks, (count, sum(confirmed), cuts[0], seconds), growths(watch.samples, settled), exits, target)


def verdict(
    marks: Marks,
    counts: tuple[int, int, int, float],
    grown: Sequence[Growth],
    exits: Sequence[str],
    target: Path | None,
) -> int:
    """Print what came of it; return the exit code."""
    count, confirmed, cuts, seconds = counts
    lost = confirmed - marks.distinct
    bound = cuts * PREFETCH
    print(f"{count} messages in {seconds:.0f} s ({count / seconds:.0f}/s), {cuts} cuts")
    print(f"confirmed {confirmed}, lost {max(lost, 0)}, run twice {marks.twice} (in flight at the cuts: {bound})")
    for growth in grown:
        print(
            f"{growth.process}: {growth.first / 2**20:.1f} MiB, at the end {growth.last / 2**20:.1f} ({growth.share:+.1%})"
        )
    wrong = [*exits]
    if lost > 0 or confirmed < count:
        wrong.append(f"{lost} lost, {count - confirmed} not published")
    if marks.twice > bound:
        wrong.append(f"{marks.twice} ran twice, and {bound} were in flight")
    wrong += [f"{growth.process} grew by {growth.share:.1%}" for growth in grown if growth.share > GROWTH]
    if len(grown) != 1 + CHILDREN:
        wrong.append(f"{len(grown)} processes were measured from first to last, and {1 + CHILDREN} should be")
    for sentence in wrong:
        print(f"NO  {sentence}")
    if target is not None:
        memory = {growth.process: [growth.first, growth.last] for growth in grown}
        numbers = {"messages": count, "seconds": seconds, "cuts": cuts, "lost": lost, "twice": marks.twice}
        target.write_text(json.dumps({**numbers, "memory_bytes": memory, "wrong": wrong}, indent=1), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
