"""The tasks that the acceptance tests run. They say how far they are through files, so that nobody has to guess."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import time
from pathlib import Path

from amqpq import App

app = App("topology.yaml")


@app.task
def add(x: int, y: int) -> int:
    """Add."""
    return x + y


@app.task
async def add_later(x: int, y: int) -> int:
    """Add, after a moment on an event loop."""
    await asyncio.sleep(0.01)
    return x + y


@app.task(name="web.resize")
def resize(width: int) -> int:
    """Go through the topic exchange."""
    return width // 2


@app.task
def nap(seconds: float, number: int) -> int:
    """Take a moment."""
    time.sleep(seconds)
    return number


@app.task
async def nap_later(seconds: float, number: int) -> int:
    """Take a moment on an event loop."""
    await asyncio.sleep(seconds)
    return number


@app.task
async def spin_later(seconds: float, number: int) -> int:
    """Hold the event loop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return number


@app.task
def whoami() -> int:
    """Return the process that runs this."""
    return os.getpid()


@app.task
def hold(folder: str, name: str) -> str:
    """Say that it has begun, and wait until the test opens."""
    Path(folder, f"{name}.begun.{os.getpid()}").touch()
    while not Path(folder, "open").exists():
        time.sleep(0.005)
    return name


@app.task
def spin(seconds: float) -> float:
    """Hold the interpreter."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


@app.task
def fail(text: str) -> None:
    """Raise."""
    raise ValueError(text)


@app.task
def die(folder: str) -> None:
    """Kill the process that runs this."""
    Path(folder, f"died.{os.getpid()}").touch()
    logging.getLogger("shop").warning("about to die in %s", folder)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def break_interpreter() -> None:
    """Read where there is no memory."""
    ctypes.string_at(0)


@app.task
def fail_until(path: str) -> str:
    """Raise until the file is there; say each time that it ran."""
    with Path(path).with_suffix(".ran").open("a", encoding="utf-8") as ran:
        ran.write("x")
    if not Path(path).exists():
        raise LookupError(f"{path} is not there yet")
    return "mended"
