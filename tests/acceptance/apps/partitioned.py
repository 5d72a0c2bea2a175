"""Tasks on partitioned queues; each writes down for whom it ran, in one file for all processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from amqpq import App

app = App("partitioned.yaml")


def note(folder: str, user: str, number: int) -> None:
    """Write one run down; a short line that is appended is never mixed with another."""
    file = os.open(Path(folder, "runs"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{user} {number} {os.getpid()}\n".encode())
    os.close(file)


@app.task(name="clicks.note")
def click(folder: str, number: int, *, user: str) -> str:
    """Take no time."""
    note(folder, user, number)
    return user


@app.task(name="seen.note")
def seen(folder: str, number: int, *, user: str) -> None:
    """Take no time."""
    note(folder, user, number)


@app.task(name="orders.note")
def order(folder: str, number: int, *, user: str) -> None:
    """Take a little while, so that some are always running."""
    note(folder, user, number)
    time.sleep(0.01)


@app.task(name="orders.crash")
def crash(folder: str, number: int, *, user: str) -> None:
    """Kill the process that runs it, once."""
    note(folder, user, number)
    if not Path(folder, "crashed").exists():
        Path(folder, "crashed").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="clicks.flaky", bind=True, max_retries=3)
def flaky(self: Any, folder: str, number: int, *, user: str) -> str:
    """Fail the first time."""
    note(folder, user, number)
    if not self.request.retries:
        raise self.retry(countdown=0.2)
    return user
