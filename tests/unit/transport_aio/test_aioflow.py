"""`aioflow.run` drives a protocol written as a generator, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from amqpq.errors import ConnectionLost, OperationTimeout
from amqpq.transport import aioflow
from amqpq.transport.interface import Flow


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario on a fresh loop, which must have nothing to complain of."""
    complaints: list[str] = []

    async def watched() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
        return await coroutine

    result = asyncio.run(watched())
    assert complaints == []
    return result


def future() -> asyncio.Future[Any]:
    """An unanswered pending."""
    return asyncio.get_running_loop().create_future()


def answered(value: object) -> asyncio.Future[Any]:
    """A pending that already has its answer."""
    pending = future()
    pending.set_result(value)
    return pending


def failed(error: Exception) -> asyncio.Future[Any]:
    """A pending that already failed."""
    pending = future()
    pending.set_exception(error)
    return pending


def test_a_flow_is_sent_each_answer_and_its_return_value_comes_back() -> None:
    """Answers that are there, and one that comes later, arrive in the flow in order."""

    def protocol(late: asyncio.Future[Any]) -> Flow[list[object]]:
        first = yield answered("a")
        second = yield late
        return [first, second]

    async def scenario() -> object:
        late = future()
        asyncio.get_running_loop().call_soon(late.set_result, "b")
        return await aioflow.run(protocol(late), 5.0)

    assert run(scenario()) == ["a", "b"]


def test_a_failed_pending_is_thrown_into_the_flow() -> None:
    """A protocol handles an error where it waits, with try and except."""

    def protocol() -> Flow[str]:
        try:
            yield failed(ConnectionLost())
        except ConnectionLost:
            return "noticed"
        return "missed"

    async def scenario() -> str:
        return await aioflow.run(protocol(), 5.0)

    assert run(scenario()) == "noticed"


def test_an_error_the_flow_does_not_handle_reaches_the_caller() -> None:
    """What a protocol does not expect is its caller's."""

    def protocol() -> Flow[None]:
        yield failed(ConnectionLost())

    async def scenario() -> None:
        with pytest.raises(ConnectionLost):
            await aioflow.run(protocol(), 5.0)

    run(scenario())


@pytest.mark.parametrize("timeout", [0.0, 0.01])
def test_a_passed_deadline_is_thrown_into_the_flow_which_cleans_up(timeout: float) -> None:
    """The finally block of a flow runs when its time is over, and what it yields there is not waited for."""
    cleaned: list[str] = []

    def protocol() -> Flow[None]:
        try:
            yield future()
        finally:
            cleaned.append("cancelled the consumer")
            yield future()

    async def scenario() -> None:
        with pytest.raises(OperationTimeout):
            await aioflow.run(protocol(), timeout)

    run(scenario())
    assert cleaned == ["cancelled the consumer"]


def test_a_flow_may_answer_instead_of_timing_out() -> None:
    """A protocol that catches the deadline decides what its caller gets."""

    def protocol() -> Flow[str]:
        try:
            yield future()
        except OperationTimeout:
            return "so far"
        return "all"

    async def scenario() -> str:
        return await aioflow.run(protocol(), 0.0)

    assert run(scenario()) == "so far"


def test_a_cancelled_task_lets_its_flow_clean_up() -> None:
    """The cancellation is thrown into the flow, the task ends cancelled, and the pending is left to others."""
    cleaned: list[type[BaseException]] = []

    def protocol(never: asyncio.Future[Any]) -> Flow[None]:
        try:
            yield never
        except BaseException as error:
            cleaned.append(type(error))
            raise
        finally:
            yield future()

    async def scenario() -> None:
        never = future()
        task = asyncio.create_task(aioflow.run(protocol(never), None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not never.cancelled()

    run(scenario())
    assert cleaned == [asyncio.CancelledError]


def test_a_flow_cannot_answer_a_cancellation_away() -> None:
    """A protocol that swallows the cancellation is cancelled all the same."""

    def protocol() -> Flow[str]:
        try:
            yield future()
        except asyncio.CancelledError:
            return "swallowed"
        return "answered"

    async def scenario() -> None:
        task = asyncio.create_task(aioflow.run(protocol(), None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


def test_an_error_while_cleaning_up_does_not_hide_the_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the task ends cancelled."""

    def protocol() -> Flow[None]:
        try:
            yield future()
        finally:
            raise ConnectionLost("while cleaning up")

    async def scenario() -> None:
        task = asyncio.create_task(aioflow.run(protocol(), None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())
    assert "while cleaning up" in caplog.text


def test_two_flows_may_wait_for_one_pending() -> None:
    """When one of them gives up, the other still gets the answer."""

    def protocol(shared: asyncio.Future[Any]) -> Flow[object]:
        answer: object = yield shared
        return answer

    async def scenario() -> object:
        shared = future()
        impatient = asyncio.create_task(aioflow.run(protocol(shared), 0.01))
        patient = asyncio.create_task(aioflow.run(protocol(shared), 5.0))
        with pytest.raises(OperationTimeout):
            await impatient
        shared.set_result("for the patient one")
        return await patient

    assert run(scenario()) == "for the patient one"
