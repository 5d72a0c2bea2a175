"""Tasks that are sent with a delay, or tried again; they note when they ran in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from amqpq import App

app = App("later.yaml")


@app.task
def note(folder: str, name: str, due: float) -> float:
    """Note by how much this is late; a negative number would be early."""
    late = time.time() - due
    with Path(folder, f"{name}.ran").open("a", encoding="utf-8") as ran:
        ran.write(f"{late:.3f}\n")
    return late


@app.task(bind=True, autoretry_for=(LookupError,), max_retries=5, default_retry_delay=1)
def flaky(self: Any, folder: str, name: str, fails: int) -> list[Any]:
    """Fail so many times; note each attempt."""
    with Path(folder, f"{name}.ran").open("a", encoding="utf-8") as ran:
        ran.write(f"{self.request.retries}\n")
    if self.request.retries < fails:
        raise LookupError(f"attempt {self.request.retries + 1}")
    return [self.request.id, self.request.retries]


@app.task(bind=True)
def count_down(self: Any, number: int) -> int:
    """Try again with one less until there is nothing left."""
    if number:
        raise self.retry(args=[number - 1], countdown=0.2)
    return int(self.request.retries)
