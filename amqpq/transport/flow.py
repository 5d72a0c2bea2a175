"""Runs a `Flow` in the blocking world: the protocol is a generator, the waiting is here.

The asyncio counterpart is `amqpq.transport.aioflow`; the two differ in how they wait and in nothing else.
"""

from __future__ import annotations

import threading
import time
from typing import Any, TypeVar

from amqpq.errors import OperationTimeout
from amqpq.transport.interface import Flow, Pending

T = TypeVar("T")


def run(flow: Flow[T], timeout_seconds: float | None) -> T:
    """Run `flow` to its end on this thread.

    Args:
        flow: The protocol; its `finally` blocks may send but, once timed out, are not waited for.
        timeout_seconds: For the whole flow; None waits without a deadline.

    Returns:
        What the flow returns.

    Raises:
        OperationTimeout: The deadline passed. It is thrown into the flow first, which may clean up, or answer instead.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    try:
        pending = next(flow)
        while True:
            remaining = None if deadline is None else deadline - time.monotonic()
            if _wait(pending, remaining):
                error = pending.exception()
                pending = flow.throw(error) if error is not None else flow.send(pending.result())
            else:
                flow.throw(OperationTimeout())
                flow.close()
                raise OperationTimeout
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        flow.close()


def _wait(pending: Pending[Any], timeout_seconds: float | None) -> bool:
    """Wait until `pending` is done; False where the time ran out first."""
    if pending.done():
        return True
    arrived = threading.Lock()
    arrived.acquire()
    pending.add_done_callback(lambda _: arrived.release())
    return arrived.acquire(timeout=-1 if timeout_seconds is None else max(timeout_seconds, 0.0))
