"""When a task is tried again and after how long: the rules alone."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq import App
from amqpq.errors import LocalError, MaxRetriesExceeded
from amqpq.retry import (
    DEFAULT_DELAY_SECONDS,
    DEFAULT_MAX_RETRIES,
    RETRY_AFTER_LIMIT_SECONDS,
    UNLIMITED,
    Policy,
    Retry,
    decide,
    policy_of,
)
from amqpq.task import Request, Task, current_request, task_options
from amqpq.topology import load
from amqpq.topology.model import Backoff, Retries

NONE_SAID = Retries()
THREE = Retries(max=3, backoff=Backoff(2.0, 60.0, 3.0, jitter=False))


def policy(said: Retries = NONE_SAID, **options: Any) -> Policy:
    """The policy of a task with these options."""
    return policy_of(task_options(options), said)


class Busy(Exception):
    """An error that knows when to come again."""

    def __init__(self, retry_after: object) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


def test_nothing_is_tried_again_unless_somebody_says_so() -> None:
    """Neither the file nor the task asks for it."""
    assert decide(policy(), ValueError(), 0, 0.5) is None


def test_the_topology_means_any_exception() -> None:
    """Each wait is three times the one before, up to the maximum, and three attempts follow the first."""
    waits = [decide(policy(THREE), KeyError(), count, 0.5) for count in range(4)]
    assert waits == [2.0, 6.0, 18.0, None]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_what_is_no_exception_of_the_function_is_not_tried_again(error: BaseException) -> None:
    """SystemExit and its like end the task."""
    assert decide(policy(THREE), error, 0, 0.5) is None


def test_a_task_names_its_exceptions() -> None:
    """Subclasses count; others do not; three attempts unless said otherwise."""
    own = policy(autoretry_for=(OSError,), default_retry_delay=7)
    assert decide(own, ConnectionError(), DEFAULT_MAX_RETRIES - 1, 0.5) == 7
    assert decide(own, ConnectionError(), DEFAULT_MAX_RETRIES, 0.5) is None
    assert decide(own, ValueError(), 0, 0.5) is None


def test_an_exception_may_be_left_out() -> None:
    """`dont_autoretry_for` counts before `autoretry_for` and before the topology."""
    own = policy(THREE, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,))
    assert decide(own, FileNotFoundError(), 0, 0.5) is None
    assert decide(own, PermissionError(), 0, 0.5) is not None


def test_the_task_counts_before_the_topology() -> None:
    """Number, backoff and delay of the task replace the file's."""
    assert policy(THREE, max_retries=1).max_retries == 1
    assert policy(THREE, max_retries=None).max_retries == UNLIMITED
    assert decide(policy(THREE, default_retry_delay=9), KeyError(), 2, 0.5) == 9
    assert decide(policy(THREE, retry_backoff=5, retry_jitter=False), KeyError(), 2, 0.5) == 20
    assert decide(policy(THREE, retry_backoff=False), KeyError(), 2, 0.5) == DEFAULT_DELAY_SECONDS


def test_celerys_words_mean_what_they_mean_there() -> None:
    """`retry_backoff=True` begins with a second and ends at ten minutes; `retry_kwargs` holds limit and delay."""
    own = policy(autoretry_for=(KeyError,), retry_backoff=True, retry_jitter=False, max_retries=None)
    assert [decide(own, KeyError(), count, 0.5) for count in (0, 1, 5, 30)] == [1, 2, 32, 600]
    other = policy(retry_for=KeyError, retry_kwargs={"max_retries": 1, "countdown": 4})
    assert [decide(other, KeyError(), count, 0.5) for count in (0, 1)] == [4, None]


@pytest.mark.parametrize(
    "asked,seconds", [(12, 12.0), (0, 0.0), (1e9, RETRY_AFTER_LIMIT_SECONDS), (-1, 2.0), ("12", 2.0), (True, 2.0)]
)
def test_an_exception_knows_better(asked: object, seconds: float) -> None:
    """`retry_after` is a number of seconds from 0, and believed up to a day."""
    assert decide(policy(THREE), Busy(asked), 0, 0.5) == seconds


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1e6), st.floats(1, 100))
def test_a_wait_is_between_half_and_all_of_what_it_has_grown_to(
    retries: int, chance: float, first: float, factor: float
) -> None:
    """Whatever the numbers are, it is finite and within its maximum."""
    whole = Backoff(first, 600.0, factor, jitter=False).wait_seconds(retries, chance)
    spread = Backoff(first, 600.0, factor, jitter=True).wait_seconds(retries, chance)
    assert math.isfinite(whole)
    assert whole / 2 - 1e-9 <= spread <= whole <= 600.0


def test_a_route_says_it_for_its_tasks() -> None:
    """Its `retries` replace the topology's as a whole, and bring the ladder."""
    routes = {"web.*": {"queue": "default", "retries": {"max": 7, "then": "drop"}}, "*": {"queue": "default"}}
    topology = load(
        {"amqpq": 1, "project": "p", "queues": {"default": {}}, "routes": routes, "security": {"signing": "off"}},
        environ={},
    )
    assert (topology.retries_of("web.x").max, topology.retries_of("web.x").then) == (7, "drop")
    assert topology.retries_of("other").max == 0
    assert topology.delays is not None


# ------------------------------------------------------------------------------------------------ what a task asks for


@pytest.fixture
def task() -> Task[..., Any]:
    """A task with two parameters."""
    app = App({"amqpq": 1, "project": "p", "queues": {"default": {}}})

    @app.task(name="t", bind=True)
    def made(self: Any, x: int, y: int = 0) -> None:
        del self, x, y

    return made


@pytest.fixture
def running(task: Task[..., Any]) -> Any:
    """`running(**request)` sets what is being run."""
    tokens = []

    def set_request(**values: Any) -> Request:
        request = Request(id="1", task=task.name, args=(1,), asked=[], **values)
        tokens.append(current_request.set(request))
        return request

    yield set_request
    for token in reversed(tokens):
        current_request.reset(token)


def test_retry_raises_what_the_worker_understands(task: Task[..., Any], running: Any) -> None:
    """With the reason and the wait."""
    running()
    why = ValueError("no")
    with pytest.raises(Retry, match=r"to be tried again in 5 s: ValueError: no") as caught:
        task.retry(exc=why, countdown=5)
    assert (caught.value.exc, caught.value.seconds, caught.value.arguments) == (why, 5, None)


def test_past_the_limit_retry_raises_the_reason(task: Task[..., Any], running: Any) -> None:
    """The error that is given, else one that says it; and the worker knows that this is the end."""
    request = running(retries=3, max_retries=3)
    why = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        task.retry(exc=why)
    assert request.asked == [why]
    with pytest.raises(MaxRetriesExceeded, match=r"t\[1\] was tried again 3 times"):
        task.retry()
    with pytest.raises(Retry):
        task.retry(max_retries=4)


def test_called_directly_retry_raises_the_reason(task: Task[..., Any]) -> None:
    """Nobody would try it again."""
    with pytest.raises(KeyError):
        task.retry(exc=KeyError("x"))
    with pytest.raises(Retry):
        task.retry()


def test_retry_takes_other_arguments_and_checks_them(task: Task[..., Any], running: Any) -> None:
    """What the function would not take is found now."""
    running(kwargs={"y": 2})
    with pytest.raises(Retry) as caught:
        task.retry(args=[5])
    assert caught.value.arguments == ((5,), {"y": 2})
    with pytest.raises(TypeError, match="z"):
        task.retry(kwargs={"z": 1})


def test_retry_refuses_what_means_nothing(task: Task[..., Any], running: Any) -> None:
    """Two moments, or none."""
    running()
    for wrong in (
        {"countdown": 1, "eta": datetime.now(UTC)},
        {"eta": datetime(2030, 1, 1)},  # noqa: DTZ001 - that is the point
        {"countdown": -1},
        {"countdown": float("nan")},
    ):
        with pytest.raises(LocalError, match=r"retry\(\)"):
            task.retry(**wrong)
