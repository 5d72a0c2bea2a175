"""Tasks with time limits of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from amqpq import App
from amqpq.errors import SoftTimeLimitExceeded

app = App("topology.yaml")


@app.task(name="shop.stubborn", soft_time_limit=0.2, time_limit=1.0)
def stubborn(folder: str) -> None:
    """Take no notice of the soft limit; have a process of its own that works on, too."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(folder, f"stubborn.begun.{os.getpid()}.{other.pid}").touch()
    while True:
        try:
            time.sleep(600)
        except SoftTimeLimitExceeded:
            Path(folder, "told").touch()


@app.task(name="shop.tidy", soft_time_limit=0.2)
def tidy() -> str:
    """Clean up when told."""
    try:
        time.sleep(600)
    except SoftTimeLimitExceeded:
        return "tidy"
    return "not told"


@app.task(name="shop.grow")
def grow(mebibytes: int) -> int:
    """Leave the process larger; return its id."""
    _kept.append(bytearray(os.urandom(1)) * (mebibytes * 2**20))
    return os.getpid()


_kept: list[bytearray] = []
