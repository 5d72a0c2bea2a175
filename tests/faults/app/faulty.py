"""The tasks of the fault matrix. Each run leaves a line in a file, so that runs can be counted whatever else dies."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from amqpq import App

app = App()  # $AMQPQ_TOPOLOGY
RUNS = os.environ["FAULTS_RUNS"]
HUNGER_BYTES = 1 << 30


def note(task_id: str) -> None:
    """Write that a run begins. One short write with O_APPEND is never torn, and survives the process."""
    descriptor = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{task_id} {os.getpid()}\n".encode())
    finally:
        os.close(descriptor)


def runs(task_id: str) -> int:
    """How many runs of this task have begun."""
    return Path(RUNS).read_text(encoding="utf-8").count(f"{task_id} ")


@app.task(name="faults.work", bind=True)
def work(self: Any, seconds: float) -> str:
    """Take a moment; the answer is the task's id."""
    note(self.request.id)
    time.sleep(seconds)
    return str(self.request.id)


@app.task(name="faults.work_later", bind=True)
async def work_later(self: Any, seconds: float) -> str:
    """Do the same on an event loop."""
    note(self.request.id)
    await asyncio.sleep(seconds)
    return str(self.request.id)


@app.task(name="faults.gorge", bind=True)
def gorge(self: Any) -> str:
    """Take memory, and be killed as the kernel kills who takes too much; only the first time."""
    note(self.request.id)
    if runs(self.request.id) == 1:
        hoard = bytearray(os.urandom(4096)) * 16_384  # 64 MiB, touched
        os.kill(os.getpid(), signal.SIGKILL if hoard else 0)
    return str(self.request.id)


@app.task(name="faults.starve", bind=True)
def starve(self: Any) -> None:
    """Ask for more memory than the process may have."""
    note(self.request.id)
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + HUNGER_BYTES // 16, before[1]))
    try:
        bytearray(HUNGER_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@app.task(name="faults.linger", bind=True)
def linger(self: Any, seconds: float) -> str:
    """Take longer than a consumer may."""
    note(self.request.id)
    time.sleep(seconds)
    return str(self.request.id)


MARKS = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@app.task(name="faults.mark", reply="none")
def mark(number: int) -> None:
    """Write one's number, in 8 bytes."""
    os.write(MARKS, number.to_bytes(8))


@app.task(name="faults.whoami")
def whoami() -> str:
    """Return the name of the worker that runs this."""
    time.sleep(0.02)
    return os.environ["FAULTS_WORKER"]
