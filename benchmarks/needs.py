"""What a contender needs on this machine, and how to install it. A row that lacks it is skipped, and said to be."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from benchmarks.contenders import librabbitmq

IMPORTS: Mapping[str, str] = {
    "celery": "celery",
    "dramatiq": "dramatiq",
    "taskiq": "taskiq_aio_pika",
    "faststream": "faststream",
}
"""Contender modules that measure a library of the `bench` extra, and the package each imports."""


def missing(module: str) -> str | None:
    """Return what contender `module` lacks and the command that installs it, or None where it can run."""
    if module == "librabbitmq":
        return librabbitmq.missing()
    package = IMPORTS.get(module)
    if package is not None and importlib.util.find_spec(package) is None:
        return f"{package} is not installed: pip install 'amqpq[bench]'"
    return None
