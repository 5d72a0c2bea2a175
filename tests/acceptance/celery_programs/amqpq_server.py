"""The same tasks in an amqpq application; `$AMQPQ_TOPOLOGY` says where messages come from."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from amqpq import App
from amqpq.errors import SoftTimeLimitExceeded

app = App(os.environ["AMQPQ_TOPOLOGY"])


@app.task(name="shop.add")
def add(x: int, y: int, label: str = "") -> dict[str, object]:
    """Answer with more than a number, so that a result has something to compress."""
    return {"sum": x + y, "label": label}


@app.task(name="shop.fail")
def fail(reason: str) -> None:
    """Fail as tasks do."""
    raise ValueError(reason)


@app.task(name="shop.nap")
def nap(seconds: float) -> None:
    """Sleep on when told to end, so that only the hard limit helps."""
    with contextlib.suppress(SoftTimeLimitExceeded):
        time.sleep(seconds)
    time.sleep(seconds)


@app.task(name="shop.flaky", bind=True)
def flaky(self: Any, due: float) -> dict[str, object]:
    """Fail the first time; tell whether it began too early."""
    if not self.request.retries:
        raise self.retry(exc=ValueError("the first time"), countdown=1)
    return {"retries": self.request.retries, "early": time.time() < due}
