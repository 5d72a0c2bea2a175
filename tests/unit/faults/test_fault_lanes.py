"""Several brokers side by side, and an interrupt."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.faults import lanes


def test_after_an_interrupt_nobody_waits_for_what_never_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is waited for, because it ends in order; a group that waits for its turn is given up."""
    begun: Future[Any] = Future()
    waiting: Future[Any] = Future()
    begun.set_running_or_notify_cancel()

    def interrupted(_left: Iterable[Future[Any]]) -> Any:
        monkeypatch.setattr(lanes, "as_completed", concurrent.futures.as_completed)
        begun.set_result([])
        raise KeyboardInterrupt

    monkeypatch.setattr(lanes, "as_completed", interrupted)
    assert list(lanes._finished([begun, waiting])) == [begun]
    assert waiting.cancelled()
