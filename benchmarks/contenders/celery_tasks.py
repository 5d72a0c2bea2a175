"""The Celery application of the benchmark: late acknowledgement, rpc:// results, JSON."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks import contender, counting

QUEUE = os.environ["BENCH_QUEUE"]

app = Celery("bench", broker=os.environ["BENCH_URL"], backend="rpc://")
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    worker_prefetch_multiplier=contender.PREFETCH // int(os.environ.get("BENCH_CONCURRENCY", "1")),
    broker_transport_options={"confirm_publish": os.environ.get("BENCH_CONFIRM") == "yes"},
    broker_connection_retry_on_startup=True,
)


@app.task(ignore_result=True)
def noop(payload: str) -> None:  # noqa: ARG001 - carried, not used
    """Do nothing, and be counted."""
    counting.note()


@app.task
def echo(payload: str) -> int:
    """Return the payload's length, and be counted."""
    counting.note()
    return len(payload)
