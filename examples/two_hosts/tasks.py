"""The worker's host: the task, and nothing else."""

import os
import subprocess

from amqpq import App

app = App("topology.yaml")


@app.task
def describe(text: str) -> dict[str, object]:
    """Work, and say where."""
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    return {
        "words": len(text.split()),
        "host": os.environ.get("TWO_HOSTS_NAME"),
        "addresses": addresses,
        "pid": os.getpid(),
    }


@app.task
def fail(reason: str) -> None:
    """Fail as tasks do."""
    raise ValueError(reason)
