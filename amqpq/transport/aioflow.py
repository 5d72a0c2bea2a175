"""Runs a `Flow` in the asyncio world: the twin of `amqpq.transport.flow`, waiting on an event loop.

The two differ in how they wait and in nothing else. A task that is cancelled while it waits throws its cancellation
into the flow, so that the flow's `finally` blocks run; what they send is not waited for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeVar

from amqpq.errors import OperationTimeout
from amqpq.log import TRANSPORT
from amqpq.transport.aiochannel import answer
from amqpq.transport.interface import Flow, Pending

T = TypeVar("T")

logger = logging.getLogger(TRANSPORT)


async def run(flow: Flow[T], timeout_seconds: float | None) -> T:
    """Run `flow` to its end in this task.

    Args:
        flow: The protocol; its `finally` blocks may send but, once timed out or cancelled, are not waited for.
        timeout_seconds: For the whole flow; None waits without a deadline.

    Returns:
        What the flow returns.

    Raises:
        OperationTimeout: The deadline passed. It is thrown into the flow first, which may clean up, or answer instead.
        asyncio.CancelledError: The task was cancelled. It is thrown into the flow first, which may clean up only: a
            cancellation is never answered away.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
    try:
        pending = next(flow)
        while True:
            remaining = None if deadline is None else deadline - loop.time()
            try:
                arrived = await _wait(pending, remaining)
            except asyncio.CancelledError as cancelled:
                _clean_up(flow, cancelled)
                raise
            if arrived:
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


def _clean_up(flow: Flow[Any], cancelled: asyncio.CancelledError) -> None:
    """Let the flow's `finally` blocks run; whatever it makes of the cancellation, the task is cancelled."""
    try:
        flow.throw(cancelled)
        flow.close()
    except (StopIteration, asyncio.CancelledError):
        return
    except Exception:
        logger.exception("a protocol failed while it was cleaning up after its cancellation")


async def _wait(pending: Pending[Any], timeout_seconds: float | None) -> bool:
    """Wait until `pending` is done; False where the time ran out first. It is not cancelled: others may wait for it."""
    if pending.done():
        return True
    if timeout_seconds is not None and timeout_seconds <= 0:
        return False
    arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pending.add_done_callback(lambda _: answer(arrived, None))
    if timeout_seconds is None:
        await arrived
        return True
    done, _ = await asyncio.wait({arrived}, timeout=timeout_seconds)
    return bool(done)
