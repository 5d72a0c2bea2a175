"""Tasks with limits; each writes down when it began and ended, on the clock that all processes of this machine share."""

from __future__ import annotations

import os
import time
from pathlib import Path

from amqpq import App

app = App("limited.yaml")


def note(folder: str, name: str, began: float) -> None:
    """Write one run down."""
    with Path(folder, f"runs.{os.getpid()}").open("a", encoding="utf-8") as file:
        file.write(f"{name} {began} {time.monotonic()}\n")


@app.task(name="two.work")
def work(folder: str, seconds: float) -> None:
    """Take a while."""
    began = time.monotonic()
    time.sleep(seconds)
    note(folder, "work", began)


@app.task(name="two.hold")
def hold(folder: str, name: str) -> str:
    """Wait until somebody opens."""
    Path(folder, f"{name}.begun.{os.getpid()}").touch()
    while not Path(folder, "open").exists():
        time.sleep(0.01)
    return name


@app.task(name="key.sync")
def sync(folder: str, customer: str, seconds: float = 0.01) -> None:
    """Take a while, for one customer."""
    began = time.monotonic()
    time.sleep(seconds)
    note(folder, customer, began)


@app.task(name="rate.fetch")
def fetch(folder: str) -> None:
    """Take no time."""
    note(folder, "fetch", time.monotonic())


@app.task(name="own.rated", rate_limit="20/s")
def rated(folder: str) -> None:
    """Take no time, and be kept by each worker for itself."""
    note(folder, "rated", time.monotonic())


@app.task(name="shop.add")
def add(x: int, y: int) -> int:
    """Have no limit."""
    return x + y
