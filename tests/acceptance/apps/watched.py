"""An application that writes down what it hears: hooks, signals, log lines."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from amqpq import App, Task, signals
from amqpq.log import task_logger

HEARD = Path(os.environ["WATCHED_FOLDER"], "heard") if "WATCHED_FOLDER" in os.environ else Path(os.devnull)

logger = task_logger(__name__)
plain = logging.getLogger("shop.library")


def note(*words: object) -> None:
    """Write one line, whichever process this is."""
    with HEARD.open("a", encoding="utf-8") as file:
        file.write(json.dumps([*words, os.getpid(), threading.current_thread() is threading.main_thread()]) + "\n")


class Watched(Task[..., Any]):
    """Writes down its hooks."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Note."""
        note("before_start", task_id, args, kwargs)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """Note, and fail."""
        note("on_success", retval)
        raise RuntimeError("a hook of somebody's")

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002
        """Note."""
        note("on_failure", repr(exc), "in burn" in str(einfo))


app = App("topology.yaml", task_cls=Watched)


@app.task(name="shop.cook")
def cook(dish: str, *, salt: int = 0) -> str:
    """Return."""
    logger.info("cooking %s", dish)
    plain.warning("salt: %d", salt)
    return f"{dish} with {salt}"


@app.task(name="shop.burn")
def burn() -> None:
    """Raise."""
    raise ValueError("it is black")


@app.task(name="shop.chatter")
def chatter(number: int, letters: int) -> int:
    """Write long lines, with a traceback now and then."""
    for turn in range(20):
        logger.info("%d %d %s", number, turn, "x" * letters)
    try:
        {"a": 1}["y" * letters]
    except LookupError:
        logger.exception("lost")
    return number


def _hear(name: str, *facts: str) -> None:
    def hear(sender: Any, **more: Any) -> None:
        note(name, str(getattr(sender, "name", sender)), *(str(more[fact]) for fact in facts))

    getattr(signals, name).connect(hear)


for _name in ("worker_init", "worker_ready", "worker_shutdown", "worker_process_init", "worker_process_shutdown"):
    _hear(_name)
_hear("worker_shutting_down", "sig", "how", "exitcode")
_hear("task_prerun", "task_id")
_hear("task_postrun", "task_id", "state")
