"""The unit ring takes less than ten seconds, so its properties are tried on few examples; `make fuzz` tries many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

UNIT = f"{Path(__file__).parent}{os.sep}"

settings.register_profile("unit", max_examples=int(os.environ.get("AMQPQ_EXAMPLES", "25")), deadline=None)
settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time out by a signal: the thread that would watch a test costs more than most of these tests."""
    for item in items:
        if str(item.path).startswith(UNIT) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(method="signal"))
