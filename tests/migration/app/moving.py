"""The tasks of the migration harness: each writes its number down, in a file of its process."""

from __future__ import annotations

import os
from pathlib import Path

from amqpq import App

app = App()
_FILES: dict[int, int] = {}


def _note(number: int) -> None:
    pid = os.getpid()
    if pid not in _FILES:
        path = Path(os.environ["MOVING_RUNS"]) / f"done-{pid}"
        _FILES[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(_FILES[pid], b"%d\n" % number)


@app.task(name="by.direct")
def by_direct(number: int) -> None:
    """Come over a direct exchange."""
    _note(number)


@app.task(name="by.topic")
def by_topic(number: int) -> None:
    """Come over a topic exchange."""
    _note(number)


@app.task(name="by.fanout")
def by_fanout(number: int) -> None:
    """Come over a fanout exchange."""
    _note(number)


@app.task(name="by.name")
def by_name(number: int) -> None:
    """Come to a queue by its name."""
    _note(number)


@app.task(name="mail.send")
def mail_send(number: int) -> None:
    """Come to the queue with priorities."""
    _note(number)
