"""Tasks that tell what a process of the pool finds, and an import that does what some applications do."""

from __future__ import annotations

import atexit
import os
import random
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from amqpq import App

app = App("topology.yaml")

FOLDER = Path(os.environ.get("FORKING_FOLDER", os.devnull))
WAYS = os.environ.get("FORKING_IMPORT", "")
"""What the import is to do: start a thread, open a pipe, make a folder that goes with the process."""
_stop = threading.Event()
_kept: list[object] = []


def note_the_end() -> None:
    """Say which process ends."""
    (FOLDER / f"ended.{os.getpid()}").touch()


if "thread" in WAYS:
    threading.Thread(target=_stop.wait, name="poller", daemon=True).start()
if "pipe" in WAYS:
    _kept.append(os.pipe())
if "folder" in WAYS:
    _kept.append(tempfile.TemporaryDirectory())
if FOLDER.is_dir():
    atexit.register(note_the_end)


@app.task(name="shop.surroundings")
def surroundings() -> dict[str, Any]:
    """Return what is the same in every process of the pool."""
    own = (0, 1, 2)
    return {
        "leads its group": os.getpgrp() == os.getpid(),
        "input": str(Path("/proc/self/fd/0").readlink()),
        "interrupt": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "terminate": signal.getsignal(signal.SIGTERM) == signal.SIG_IGN,
        "child ended": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
        "arguments": sys.argv,
        "is of a file": hasattr(sys.modules["__main__"], "__file__"),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "on the main thread": threading.current_thread() is threading.main_thread(),
        "inherited by its own children": [fd for fd in _descriptors() if fd not in own and os.get_inheritable(fd)],
        "sockets": sum("socket:" in _target(fd) for fd in _descriptors()),
    }


@app.task(name="shop.draw")
def draw() -> tuple[int, float]:
    """Return a random number, and who has drawn it."""
    return os.getpid(), random.random()


@app.task(name="shop.thread_at_the_end")
def thread_at_the_end() -> int:
    """Leave a thread that is to be waited for."""

    def write() -> None:
        threading.main_thread().join()
        (FOLDER / f"waited.{os.getpid()}").touch()

    threading.Thread(target=write).start()
    return os.getpid()


def _descriptors() -> list[int]:
    found = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    return [number for number in found if _target(number)]  # that of the listing itself is closed


def _target(number: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return ""
