"""Measures one contender once, in a process of its own, and prints one JSON object: measure -> value.

The phases, for everybody:

1. declare, empty the queue;
2. publish N tasks while no worker runs (what the broker does with a consumer is not in this figure), empty the queue;
   then one at a time, each until the library holds it for sent;
3. start the worker; wait until the queue has a consumer; run the same warm-up;
4. end to end: publish N tasks, until the last one has run;
5. with results: call N times, until the last result is there;
6. round trip: one call at a time.

CPU time is read at the borders of a phase: this process for the client, the whole process tree for the worker and the broker.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import cpu
from benchmarks.contender import SMALL_BYTES, Contender, Entry, Setting
from benchmarks.contenders.bare_amqp import connect
from benchmarks.counting import Board

ROOT = Path(__file__).resolve().parent.parent
RUN_TIMEOUT_SECONDS = 300.0

WARM_UP = 50
"""Tasks before the first measured one, for everybody: enough for every worker process to have run some."""

DEADLINE_SECONDS = 60.0
"""Longest wait for anything; above it the run fails."""

STOP_SECONDS = 20.0
"""How long a worker may take to stop when asked, before it is killed."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages each phase has."""

    publish: int
    collect: int
    round_trips: int


class Queue:
    """The contender's queue as seen from beside it, over a connection of our own."""

    def __init__(self, url: str, name: str) -> None:
        self._connection = connect(url, confirm=False)
        self._channel = self._connection.channel()
        self._name = name

    def ready(self) -> int:
        """Return the messages waiting."""
        return int(self._channel.queue_declare(self._name, passive=True).message_count)

    def hold(self, count: int) -> None:
        """Wait until so many messages wait in it.

        Raises:
            TimeoutError: There are more, or fewer.
        """
        found = 0

        def there() -> bool:
            nonlocal found
            found = self.ready()
            return found == count

        try:
            until(there, f"{count} messages in the queue")
        except TimeoutError as error:
            error.add_note(f"there are {found}")
            raise

    def consumers(self) -> int:
        """Return the consumers subscribed."""
        return int(self._channel.queue_declare(self._name, passive=True).consumer_count)

    def purge(self) -> None:
        """Empty it."""
        self._channel.queue_purge(self._name)

    def close(self) -> None:
        """Delete the queue and close the connection."""
        self._channel.queue_delete(self._name)
        self._connection.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for the broker to show `condition`.

    Raises:
        TimeoutError: It did not come true; names `what`.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            message = f"{what}: not within {DEADLINE_SECONDS:.0f} s"
            raise TimeoutError(message)
        time.sleep(0.02)  # the broker has no signal for this


@contextmanager
def running_worker(contender: Contender, queue: Queue, log: Path) -> Iterator[int]:
    """Run the contender's worker until the block ends; yields its process number once it consumes."""
    command, environment = contender.worker()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), cwd=log.parent, stdout=output, stderr=output)
    try:
        until(lambda: process.poll() is not None or queue.consumers() > 0, "a consumer on the queue")
        _check_alive(process)
        yield process.pid
    except Exception as error:
        error.add_note(f"the worker's log ends:\n{log.read_text(errors='replace')[-4000:]}")
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _check_alive(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        message = f"the worker ended with {process.returncode}"
        raise RuntimeError(message)


def measure(contender: Contender, queue: Queue, setting: Setting, counts: Counts, *, results: bool) -> dict[str, float]:
    """Run all phases and return the figures: rates per second, CPU in us per message, times in ms."""
    contender.prepare()
    queue.purge()
    figures = publish_alone(contender, queue, counts.publish)
    figures |= publish_singly(contender, queue, counts.round_trips)
    board = Board(setting.counter)
    with running_worker(contender, queue, setting.folder / "worker.log") as pid:
        contender.publish(WARM_UP)
        board.wait(WARM_UP, DEADLINE_SECONDS)
        figures |= end_to_end(contender, board, pid, counts.publish)
        if results:
            contender.collect(WARM_UP)
            figures |= with_results(contender, pid, counts.collect)
            figures |= round_trips(contender, counts.round_trips)
        until(lambda: queue.ready() == 0, "an empty queue")
    return figures


def publish_alone(contender: Contender, queue: Queue, count: int) -> dict[str, float]:
    """Publish with nobody consuming."""
    contender.publish(WARM_UP)
    queue.hold(WARM_UP)
    queue.purge()
    broker, processor, started = cpu.broker_seconds(), cpu.own_seconds(), time.perf_counter()
    contender.publish(count)
    seconds, processor = time.perf_counter() - started, cpu.own_seconds() - processor
    queue.hold(count)
    broker = cpu.broker_seconds() - broker
    queue.purge()
    return {
        "publish_per_s": count / seconds,
        "publish_cpu_us": processor / count * 1e6,
        "publish_broker_cpu_us": broker / count * 1e6,
    }


def publish_singly(contender: Contender, queue: Queue, count: int) -> dict[str, float]:
    """Publish one at a time with nobody consuming; the median, in milliseconds."""
    times = timed(lambda: contender.publish(1), count)
    queue.hold(count)
    queue.purge()
    return {"publish_p50_ms": times[len(times) // 2]}


def end_to_end(contender: Contender, board: Board, pid: int, count: int) -> dict[str, float]:
    """Publish while the worker runs, until the last task has run."""
    before, _ = board.total()
    broker, worker, started = cpu.broker_seconds(), cpu.tree_seconds(pid), time.monotonic_ns()
    contender.publish(count)
    ended = board.wait(before + count, DEADLINE_SECONDS)
    worker, broker = cpu.tree_seconds(pid) - worker, cpu.broker_seconds() - broker
    return {
        "end_to_end_per_s": count / ((ended - started) / 1e9),
        "end_to_end_worker_cpu_us": worker / count * 1e6,
        "end_to_end_broker_cpu_us": broker / count * 1e6,
    }


def with_results(contender: Contender, pid: int, count: int) -> dict[str, float]:
    """Call `count` times, until the last result is there."""
    client, worker, started = cpu.own_seconds(), cpu.tree_seconds(pid), time.perf_counter()
    contender.collect(count)
    seconds, client, worker = (
        time.perf_counter() - started,
        cpu.own_seconds() - client,
        cpu.tree_seconds(pid) - worker,
    )
    return {
        "results_per_s": count / seconds,
        "results_client_cpu_us": client / count * 1e6,
        "results_worker_cpu_us": worker / count * 1e6,
    }


def round_trips(contender: Contender, count: int) -> dict[str, float]:
    """Call one at a time; the median and the 99th percentile, in milliseconds."""
    times = timed(contender.round_trip, count)
    return {"round_trip_p50_ms": times[len(times) // 2], "round_trip_p99_ms": times[int(len(times) * 0.99)]}


def timed(action: Callable[[], None], count: int) -> list[float]:
    """Do it `count` times; return how long each took, in milliseconds, the shortest first."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1e3)
    return sorted(times)


def measured(entry: Entry, url: str, counts: Counts, *, payload_bytes: int = SMALL_BYTES) -> dict[str, float]:
    """Measure one contender once, in a process of its own.

    Raises:
        RuntimeError: It failed; carries what it said.
    """
    scaled = Counts(counts.publish * entry.scale, counts.collect * entry.calls, counts.round_trips)
    words = command(entry.module, url, dict(entry.options), scaled, results=entry.results)
    environment = {**os.environ, "BENCH_PAYLOAD_BYTES": str(payload_bytes)}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{entry.name} failed:\n{done.stderr[-4000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def command(module: str, url: str, options: dict[str, str], counts: Counts, *, results: bool) -> list[str]:
    """Return the command that measures a contender once."""
    job = {"module": module, "url": url, "options": options, "counts": asdict(counts), "results": results}
    return [sys.executable, "-m", "benchmarks.drive", json.dumps(job)]


def main() -> None:
    """Measure what the one argument says and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", help="JSON: module, url, options, counts, results")
    job: dict[str, Any] = json.loads(parser.parse_args().job)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        counter = Path(folder) / "counter"
        counter.mkdir()
        queue_name = f"bench.{job['module']}.{os.getpid()}"
        setting = Setting(job["url"], Path(folder), queue_name, counter, job["options"])
        contender: Contender = importlib.import_module(f"benchmarks.contenders.{job['module']}").Contender(setting)
        queue = Queue(job["url"], queue_name)
        try:
            figures = measure(contender, queue, setting, Counts(**job["counts"]), results=job["results"])
        finally:
            contender.close()
            queue.close()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
