"""A worker as people have it today: a Celery application, run by the `celery` command."""

from __future__ import annotations

import os

from celery import Celery

SERIALIZER = os.environ["SERIALIZER"]

app = Celery("server", broker=os.environ["AMQPQ_BROKER_URL"], backend="rpc://")
app.conf.update(
    task_serializer=SERIALIZER,
    result_serializer=SERIALIZER,
    accept_content=[SERIALIZER],
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="shop.add")
def add(x: int, y: int, label: str = "") -> dict[str, object]:
    """Answer with more than a number, so that a result has something to compress."""
    return {"sum": x + y, "label": label}


@app.task(name="shop.fail")
def fail(reason: str) -> None:
    """Fail as tasks do."""
    raise ValueError(reason)
