"""What it costs to begin: importing amqpq, `amqpq --help`, and the memory of a worker that has nothing to do.

    python -m benchmarks.start --rounds 15

CPU is that of the whole child process, interpreter included, from the kernel's account (`wait4`). Memory is the proportional
set size of the worker's process tree: a page that N processes share counts for 1/N in each of them. Celery's worker is the
one of the other benchmarks, measured before or after ours in turn. A private node is started, or `$AMQPQ_BROKER_URL` names
a broker; the queues are deleted again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks import cpu, needs
from benchmarks.broker import broker
from benchmarks.contender import Contender, Setting
from benchmarks.contenders import celery, ours
from benchmarks.drive import Queue, running_worker, until

BARE = "import socket, struct, ssl"
COMMANDS: Mapping[str, Sequence[str]] = {
    BARE: ("-c", BARE),
    "import amqpq": ("-c", "import amqpq"),
    "amqpq --help": ("-m", "amqpq", "--help"),
}

IMPORT_LIMIT = 1.5
HELP_SECONDS = 0.25
MEMORY_LIMIT = 0.6

STEADY_SECONDS = 1.0
"""Between two looks at a worker's memory; when they agree within a hundredth, it has started."""

Maker = Callable[[Setting], Contender]
WORKERS: Mapping[str, tuple[Maker, Mapping[str, str]]] = {
    "amqpq": (ours.Contender, {"signing": "hmac-sha256"}),
    "celery": (celery.Contender, {"pool": "prefork"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="processes of each kind (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=3, help="workers of each kind (default: %(default)s)")
    given = parser.parse_args()
    held = processes(given.rounds)
    lack = needs.missing("celery")
    if lack is not None:
        print(f"SKIPPED: memory beside Celery's. {lack}")
        return 1
    return 0 if all((*held, memory(given.workers))) else 1


def processes(rounds: int) -> list[bool]:
    """Time the processes in turn, print their medians, and return whether each limit holds."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        child_seconds(arguments)  # writes the byte code, and brings the files into memory
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            seconds[name].append(child_seconds(arguments))
    medians = {name: median(found) for name, found in seconds.items()}
    for name, found in seconds.items():
        print(f"{name:30} {medians[name] * 1e3:7.1f} ms of CPU ({min(found) * 1e3:.1f} to {max(found) * 1e3:.1f})")
    ratio = medians["import amqpq"] / medians[BARE]
    return [
        verdict(f"import amqpq: {ratio:.2f} of a bare process", ratio, IMPORT_LIMIT),
        verdict(f"amqpq --help: {medians['amqpq --help']:.3f} s of CPU", medians["amqpq --help"], HELP_SECONDS),
    ]


def child_seconds(arguments: Sequence[str]) -> float:
    """Run this interpreter with `arguments`; return the CPU it took."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)} ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime


def memory(workers: int) -> bool:
    """Start workers in turn, print what they hold when idle, and return whether the limit holds."""
    held: dict[str, list[int]] = {name: [] for name in WORKERS}
    with broker() as url:
        for number in range(workers):
            for name in sorted(WORKERS, reverse=bool(number % 2)):
                held[name].append(idle_bytes(name, url))
    for name, found in held.items():
        print(
            f"idle worker, {name:7} {median(found) / 2**20:6.1f} MiB ({', '.join(f'{n / 2**20:.1f}' for n in found)})"
        )
    ratio = median(held["amqpq"]) / median(held["celery"])
    return verdict(f"an idle worker with two processes: {ratio:.2f} of Celery's memory", ratio, MEMORY_LIMIT)


def idle_bytes(name: str, url: str) -> int:
    """Start one worker, wait until its memory is steady, and return it."""
    maker, options = WORKERS[name]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        counter = Path(folder) / "counter"
        counter.mkdir()
        setting = Setting(url, Path(folder), f"bench.start.{name}.{os.getpid()}", counter, options)
        contender = maker(setting)
        contender.prepare()
        queue = Queue(url, setting.queue)
        try:
            with running_worker(contender, queue, Path(folder) / "worker.log") as pid:
                return steady(lambda: sum(proportional_bytes(member) for member in cpu.tree(pid)))
        finally:
            queue.close()


def steady(look: Callable[[], int]) -> int:
    """Look until two looks in a row agree within a hundredth; return the last."""
    seen = [look()]

    def agrees() -> bool:
        time.sleep(STEADY_SECONDS)  # starting is over when nothing moves any more, which nobody announces
        seen.append(look())
        return abs(seen[-1] - seen[-2]) * 100 <= seen[-1]

    until(agrees, "a worker that has started")
    return seen[-1]


def proportional_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 where it ended meanwhile."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def verdict(says: str, value: float, limit: float) -> bool:
    """Print a figure with its limit; return whether it holds."""
    holds = value <= limit
    print(f"{says}; at most {limit:g}: {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


if __name__ == "__main__":
    sys.exit(main())
