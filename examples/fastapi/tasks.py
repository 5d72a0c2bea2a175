"""What the worker knows."""

import collections
import time

from amqpq import App

app = App("topology.yaml")


@app.task(name="texts.count")
def count(text: str) -> dict[str, int]:
    """Count words."""
    return dict(collections.Counter(text.lower().split()))


@app.task(name="texts.slow")
def slow(seconds: float) -> float:
    """Take a while."""
    time.sleep(seconds)
    return seconds
