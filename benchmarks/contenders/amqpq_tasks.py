"""The amqpq application of the benchmark; `$AMQPQ_TOPOLOGY` names the file that `contenders.ours` wrote."""

from __future__ import annotations

import os

from amqpq import App
from benchmarks import counting

app = App(os.environ["AMQPQ_TOPOLOGY"])


@app.task(name="bench.noop", reply="none")
def noop(payload: str) -> None:  # noqa: ARG001 - carried, not used
    """Do nothing, and be counted."""
    counting.note()


@app.task(name="bench.echo")
def echo(payload: str) -> int:
    """Return the payload's length, and be counted."""
    counting.note()
    return len(payload)
