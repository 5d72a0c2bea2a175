"""`flow.run` drives a protocol written as a generator."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from amqpq.errors import ConnectionLost, OperationTimeout
from amqpq.transport import flow
from amqpq.transport.interface import Flow


def answered(value: object) -> Future[Any]:
    """A pending that already has its answer."""
    pending: Future[Any] = Future()
    pending.set_result(value)
    return pending


def failed(error: Exception) -> Future[Any]:
    """A pending that already failed."""
    pending: Future[Any] = Future()
    pending.set_exception(error)
    return pending


def test_a_flow_is_sent_each_answer_and_its_return_value_comes_back() -> None:
    """The values of the pendings arrive in the flow, in order."""

    def protocol() -> Flow[list[object]]:
        first = yield answered("a")
        second = yield answered("b")
        return [first, second]

    assert flow.run(protocol(), 1.0) == ["a", "b"]


def test_a_failed_pending_is_thrown_into_the_flow() -> None:
    """A protocol handles an error where it waits, with try and except."""

    def protocol() -> Flow[str]:
        try:
            yield failed(ConnectionLost())
        except ConnectionLost:
            return "noticed"
        return "missed"

    assert flow.run(protocol(), 1.0) == "noticed"


def test_an_error_the_flow_does_not_handle_reaches_the_caller() -> None:
    """What a protocol does not expect is its caller's."""

    def protocol() -> Flow[None]:
        yield failed(ConnectionLost())

    with pytest.raises(ConnectionLost):
        flow.run(protocol(), 1.0)


def test_a_passed_deadline_is_thrown_into_the_flow_which_cleans_up() -> None:
    """The finally block of a flow runs when its time is over."""
    cleaned: list[str] = []

    def protocol() -> Flow[None]:
        try:
            yield Future()
        finally:
            cleaned.append("cancelled the consumer")

    with pytest.raises(OperationTimeout):
        flow.run(protocol(), 0.0)
    assert cleaned == ["cancelled the consumer"]


def test_a_flow_may_answer_instead_of_timing_out() -> None:
    """A protocol that catches the deadline decides what its caller gets."""

    def protocol() -> Flow[str]:
        try:
            yield Future()
        except OperationTimeout:
            return "so far"
        return "all"

    assert flow.run(protocol(), 0.0) == "so far"


def test_a_flow_that_yields_after_its_deadline_is_not_waited_for() -> None:
    """Cleaning up may send, but nobody waits for the answers."""

    def protocol() -> Flow[None]:
        try:
            yield Future()
        finally:
            yield Future()

    with pytest.raises(OperationTimeout):
        flow.run(protocol(), 0.0)


def test_an_answer_from_another_thread_wakes_the_flow() -> None:
    """The transport answers on its own thread."""
    pending: Future[str] = Future()
    threading.Thread(target=pending.set_result, args=("late",)).start()

    def protocol() -> Flow[str]:
        return (yield pending)

    assert flow.run(protocol(), 10.0) == "late"
