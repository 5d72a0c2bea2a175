"""The workers of a cell: processes through the command line, with everything they say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from amqpq.worker.pools.forked import ended
from tests.support.pool import pool_of, template_of

APP = Path(__file__).with_name("app")
ROOT = Path(__file__).resolve().parents[2]
SAY_SECONDS = 60.0
STOP_SECONDS = 40.0
FAMILY_SECONDS = 10.0
"""For what is left of a worker that has ended."""


class Family:
    """Processes that have to end with their worker, though they may be nobody's children by then."""

    def __init__(self) -> None:
        self._descriptors: dict[int, int] = {}

    def add(self, pids: Iterable[int]) -> None:
        """Remember these, which run."""
        self._descriptors.update({pid: os.pidfd_open(pid) for pid in pids})

    def left(self, timeout_seconds: float) -> list[int]:
        """Wait for their end, and forget them; return those that did not end."""
        deadline = time.monotonic() + timeout_seconds
        here, self._descriptors = self._descriptors, {}
        left = [pid for pid, number in here.items() if not ended(number, max(deadline - time.monotonic(), 0.0))]
        for number in here.values():
            os.close(number)
        return left


class Hand:
    """One `amqpq worker`."""

    def __init__(self, name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self.name = name
        self.killed = False
        self._lines: list[str] = []
        self.family = Family()
        self._heard = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "amqpq", "worker", "-A", "faulty", "-n", f"{name}@%h", *arguments],
            cwd=APP,
            env={**environ, "FAULTS_WORKER": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True, name=f"reads-{name}").start()

    def _read(self) -> None:
        stdout = self.process.stdout
        if stdout is None:
            return
        with stdout:
            for line in stdout:
                with self._heard:
                    self._lines.append(line)
                    self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    @property
    def text(self) -> str:
        """Everything said so far."""
        with self._heard:
            return "".join(self._lines)

    def count(self, pattern: str) -> int:
        """How many lines so far match."""
        with self._heard:
            return sum(bool(re.search(pattern, line)) for line in self._lines)

    def says(self, pattern: str, more_than: int = 0, timeout_seconds: float = SAY_SECONDS) -> None:
        """Wait until more than so many lines match.

        Raises:
            TimeoutError: It did not say so in time, or ended before.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._heard:
            while sum(bool(re.search(pattern, line)) for line in self._lines) <= more_than:
                if not self._heard.wait(min(max(deadline - time.monotonic(), 0), 0.5)) and (
                    time.monotonic() >= deadline or not self.alive
                ):
                    raise TimeoutError(f"worker {self.name} did not say {pattern!r}:\n{''.join(self._lines[-20:])}")

    def children(self) -> list[int]:
        """The process ids of its children."""
        return pool_of(self.process.pid)

    def template(self) -> int | None:
        """The process id of the process that its children are forked from, if there is one."""
        return template_of(self.process.pid)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.killed = True
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def ended(self) -> int | None:
        """Wait for its end; return its exit code, None where it did not end and had to be killed."""
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class Crew:
    """The workers of a cell, and those that replace them.

    Args:
        arguments: Of each, beside its name.
        environ: Of each.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self._arguments = tuple(arguments)
        self._environ = environ
        self.hands: list[Hand] = []

    def hire(self, count: int = 1) -> list[Hand]:
        """Start workers."""
        first = len(self.hands) + 1
        new = [Hand(f"w{first + number}", self._arguments, self._environ) for number in range(count)]
        self.hands.extend(new)
        return new

    def ready(self) -> None:
        """Wait until those that run consume."""
        for hand in self.at_work:
            hand.says(r" ready\.")

    @property
    def at_work(self) -> list[Hand]:
        """Those that run."""
        return [hand for hand in self.hands if hand.alive]

    def dismiss(self) -> list[str]:
        """Stop them all; return a sentence for each that ended otherwise than it should."""
        gone = [hand for hand in self.hands if not hand.alive and not hand.killed]
        said = [f"worker {hand.name} ended by itself with {hand.process.returncode}" for hand in gone]
        for hand in self.at_work:
            hand.process.send_signal(signal.SIGTERM)
        for hand in self.hands:
            if hand.killed or hand in gone:
                continue
            code = hand.ended()
            if code != 0:
                said.append(f"worker {hand.name} " + (f"stopped with {code}" if code is not None else "did not stop"))
            said.extend(f"worker {hand.name} left process {pid} behind" for pid in hand.family.left(FAMILY_SECONDS))
        return said

    def kill(self) -> None:
        """End what runs at once."""
        for hand in self.at_work:
            hand.kill()


def environment(topology: Path, runs: Path, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker: this checkout, this topology, and no broker from elsewhere."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AMQPQ_")}
    mine = {"AMQPQ_TOPOLOGY": str(topology), "FAULTS_RUNS": str(runs), "PYTHONUNBUFFERED": "1"}
    return {**kept, "PYTHONPATH": path, **mine, **secrets}
