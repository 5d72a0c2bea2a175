"""A task that takes its whole worker down, and one that does not; on a classic and on a quorum queue."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from amqpq import App

app = App("poisonous.yaml")


def _kill_worker(folder: str) -> None:
    with Path(folder, "taken-down").open("a", encoding="utf-8") as file:
        file.write(".")
    os.kill(int(Path(folder, "pid").read_text(encoding="utf-8")), signal.SIGKILL)
    threading.Event().wait(30.0)


@app.task(name="classic.take_down")
def take_down_classic(folder: str) -> None:
    """Kill the worker, not only the process that runs this."""
    _kill_worker(folder)


@app.task(name="strong.take_down")
def take_down_strong(folder: str) -> None:
    """The same, from the quorum queue."""
    _kill_worker(folder)


@app.task(name="classic.add")
def add_classic(x: int, y: int) -> int:
    """Add."""
    return x + y


@app.task(name="strong.add")
def add_strong(x: int, y: int) -> int:
    """Add."""
    return x + y
