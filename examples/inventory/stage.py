"""What the demo starts and has to end again: a broker, keys, workers, the objects on the broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amqpq.node import Node

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Broker:
    """The broker of this run; `node` is None where `$AMQPQ_BROKER_URL` named one that was there before."""

    url: str
    node: Node | None


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """Use `$AMQPQ_BROKER_URL`, or run a private node until the block ends.

    Raises:
        BrokerSetupError: No RabbitMQ is installed; says how to get one.
    """
    given = os.environ.get("AMQPQ_BROKER_URL")
    if given:
        yield Broker(given, None)
        return
    node = Node(folder)
    node.start()
    try:
        yield Broker(node.url, node)
    finally:
        node.stop()


def amqpq(*arguments: str) -> None:
    """Run the command line of amqpq to its end.

    Raises:
        RuntimeError: It did not end well; carries what it said.
    """
    command = [sys.executable, "-m", "amqpq", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"amqpq {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


class Worker:
    """A worker process, started through the command line."""

    def __init__(self, name: str, queues: Sequence[str], *, topology: Path, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "amqpq", "worker"),
                    *("-t", str(topology), "-A", "examples.inventory.tasks"),
                    *("-Q", ",".join(queues), "-P", "prefork", "-c", "1", "-n", f"{name}@%h"),
                ],
                cwd=ROOT,
                env={**os.environ, "INVENTORY_KEY_ID": name},
                stdout=output,
                stderr=output,
            )

    def check(self) -> None:
        """Make sure that it still runs.

        Raises:
            RuntimeError: It ended; with the end of its log.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")

    def stop(self) -> int:
        """Ask it to stop, and return its exit code; a worker that does not listen is killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-3000:]
