from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amqpq.errors import ConfigurationError, DuplicateTask, LocalError, NotBuiltYet, UnknownTask
from amqpq.registry import Registry
from amqpq.task import Request, Task, TaskOptions, current_request, default_name, task_options


def add(x: int, y: int = 0, *, z: int = 0) -> int:
    """Add."""
    return x + y + z


def task(function: Any = add, name: str = "tests.add", **options: Any) -> Task[..., Any]:
    """Make a task of a function."""
    return Task(name, function, TaskOptions(**options))


def test_a_task_called_is_the_function() -> None:
    """Calling a task runs its function here, and keeps its name and docstring."""
    made = task()
    assert made(1, 2, z=3) == 6
    assert (made.__name__, made.__doc__, repr(made)) == ("add", "Add.", "<Task tests.add>")  # type: ignore[attr-defined]


def test_bind_gives_the_task_as_first_argument() -> None:
    """With `bind=True` the function gets the task, and the caller does not pass it."""

    def whoami(self: Task[..., Any], suffix: str) -> str:
        return self.name + suffix

    made = task(whoami, "tests.whoami", bind=True)
    assert made("!") == "tests.whoami!"
    made.check_arguments(("!",), {})
    with pytest.raises(TypeError, match=r"tests\.whoami\(suffix: .*\).*: too many positional arguments"):
        made.check_arguments(("!", "?"), {})


def test_bind_needs_a_parameter_for_the_task() -> None:
    """A bound function without parameters is refused where it is decorated."""
    with pytest.raises(ConfigurationError, match="no first parameter to take the task"):
        task(lambda: None, bind=True)


@pytest.mark.parametrize(
    "args, kwargs, fits",
    [
        ((1,), {}, True),
        ((1, 2), {}, True),
        ((1,), {"z": 3}, True),
        ((), {"x": 1}, True),
        ((), {}, False),
        ((1, 2, 3), {}, False),
        ((1,), {"x": 1}, False),
        ((1,), {"w": 1}, False),
    ],
)
def test_arguments_are_checked_where_the_call_is(args: tuple[int, ...], kwargs: dict[str, int], fits: bool) -> None:
    """A call that the function would not take is refused on the caller's side, as a TypeError."""
    if fits:
        task().check_arguments(args, kwargs)
    else:
        with pytest.raises(TypeError, match=r"tests\.add\("):
            task().check_arguments(args, kwargs)


def test_required_keywords_are_required() -> None:
    """No number of positional arguments stands in for a required keyword."""

    def only(*values: int, key: str) -> None: ...

    with pytest.raises(TypeError, match="missing a required"):
        task(only).check_arguments((1, 2), {})
    task(only).check_arguments((1, 2), {"key": "x"})


def test_request_is_that_of_the_running_message() -> None:
    """A task reads its own request; outside a worker there is an empty one."""
    made = task()
    assert made.request.called_directly
    token = current_request.set(Request(id="1f"))
    try:
        assert (made.request.id, made.request.called_directly) == ("1f", False)
    finally:
        current_request.reset(token)


def test_update_state_reports_through_the_request() -> None:
    """What a task reports goes to the worker's hook, with PROGRESS as the default word."""
    reports: list[tuple[str, object]] = []
    token = current_request.set(Request(id="1f", report=lambda state, meta: reports.append((state, meta))))
    try:
        task().update_state(meta={"done": 1})
        task().update_state(state="UPLOADING")
    finally:
        current_request.reset(token)
    assert reports == [("PROGRESS", {"done": 1}), ("UPLOADING", None)]


def test_update_state_outside_a_worker_does_nothing() -> None:
    """A task called as a function has nobody to report to."""
    task().update_state(meta=1)


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "EXPIRED", "RETRY", "PENDING", ""])
def test_a_task_cannot_claim_the_workers_states(state: str) -> None:
    """Final states are the worker's word; a task that could claim one would end its caller's wait."""
    with pytest.raises(LocalError, match="is the worker's to report"):
        task().update_state(state=state)


def test_an_async_task_knows_it() -> None:
    """The worker can tell a coroutine function; calling the task gives the coroutine."""

    async def later(x: int) -> int:
        return x

    made = task(later)
    assert made.is_async
    assert not task().is_async
    assert asyncio.run(made(3)) == 3


@pytest.mark.parametrize("rate", ["100/m", "10/s", "5/h", "0.5/m", 10, 0.25, None])
def test_a_rate_limit_is_written_as_in_celery(rate: object) -> None:
    """A number and a unit, or a number alone, which is per second."""
    assert task_options({"rate_limit": rate}).rate_limit == rate


@pytest.mark.parametrize("rate", ["fast", "10/d", "-1/s", True, -1, [10], float("inf")])
def test_a_wrong_rate_limit_is_refused_at_once(rate: object) -> None:
    """At the decorator, with the way to write it."""
    with pytest.raises(ConfigurationError, match="is not a rate; write a number and a unit: 10/s, 100/m, 5/h"):
        task_options({"rate_limit": rate})


@pytest.mark.parametrize("rate", [0, "0", "0/m"])
def test_a_rate_of_none_at_all_is_refused(rate: object) -> None:
    """It might mean never, or always; nobody should have to guess."""
    with pytest.raises(ConfigurationError, match="would never let the task begin; None is no limit"):
        task_options({"rate_limit": rate})


def test_an_argument_is_found_however_it_is_given() -> None:
    """By position, by keyword, by default, among others; and its name is told from one that no call can give."""

    def sync(customer: int, depth: int = 3, **more: object) -> None:
        pass

    made = task(sync)
    assert made.argument("customer", (7,), {}) == made.argument("customer", (), {"customer": 7}) == 7
    assert made.argument("depth", (7,), {}) == 3
    assert made.argument("tenant", (7,), {"tenant": "a"}) == "a"
    assert made.argument("tenant", (7,), {}) is None
    assert made.takes_argument("customer")
    assert made.takes_argument("tenant")
    assert not task().takes_argument("tenant")
    with pytest.raises(TypeError):
        made.argument("customer", (), {})


@pytest.mark.parametrize(
    "option",
    [
        "acks_on_failure_or_timeout",
        "reject_on_worker_lost",
    ],
)
def test_later_task_options_are_refused_by_name(option: str) -> None:
    """A task option whose machinery is not there yet is never accepted and ignored."""
    with pytest.raises(NotBuiltYet, match=f"not built yet: task option '{option}'"):
        task_options({option: 1})


def test_early_acknowledgement_is_refused() -> None:
    """`acks_late=True` is what happens anyway; False is not built."""
    assert task_options({"acks_late": True}) == TaskOptions()
    with pytest.raises(NotBuiltYet, match="acks_late=False"):
        task_options({"acks_late": False})


def test_an_unknown_task_option_says_what_was_meant() -> None:
    """A misspelt task option is refused with the nearest known one."""
    with pytest.raises(ConfigurationError, match=r"unknown task option 'serialiser' \(did you mean 'serializer'\?\)"):
        task_options({"serialiser": "json"})


@pytest.mark.parametrize(
    "given",
    [
        {"reply": "maybe"},
        {"reply": "task", "ignore_result": True},
        {"expires": 0},
        {"max_retries": -1},
        {"retry_backoff": "fast"},
        {"retry_backoff_max": float("nan")},
        {"retry_jitter": 1},
        {"autoretry_for": "ValueError"},
        {"autoretry_for": (int,)},
        {"retry_kwargs": {"queue": "x"}},
        {"time_limit": 0},
        {"time_limit": True},
        {"soft_time_limit": "5"},
        {"soft_time_limit": float("inf")},
        {"time_limit": 5, "soft_time_limit": 5},
    ],
)
def test_task_options_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    """Values out of range and contradictions are refused where the task is made."""
    with pytest.raises(LocalError):
        task_options(given)


def test_a_task_is_named_after_module_and_function() -> None:
    """The default name is Celery's."""
    assert default_name(add) == f"{__name__}.add"


def test_a_function_without_a_name_needs_one() -> None:
    """A lambda cannot be found again by its name."""
    with pytest.raises(ConfigurationError, match="pass name="):
        default_name(lambda: None)


def test_the_registry_finds_and_lists() -> None:
    """Tasks are found by name, and listed in order."""
    registry = Registry()
    registry.add(task(name="b"))
    registry.add(task(name="a"))
    assert registry.names == ("a", "b")
    assert list(registry) == ["a", "b"]
    assert ("a" in registry, "c" in registry, len(registry)) == (True, False, 2)
    assert registry["a"].name == "a"
    assert registry.get("c") is None


def test_a_missing_task_says_what_was_meant() -> None:
    """A name that is not registered is explained by the nearest one, or by all of them."""
    registry = Registry()
    with pytest.raises(UnknownTask, match="nothing is registered"):
        registry["tasks.add"]
    registry.add(task(name="tasks.add"))
    with pytest.raises(UnknownTask, match=r"no task 'tasks\.ad' is registered \(did you mean 'tasks\.add'\?\)"):
        registry["tasks.ad"]
    assert registry.explain_missing("zzz") == "no task 'zzz' is registered; registered: tasks.add"


def test_two_functions_cannot_share_a_name() -> None:
    """A second function under the same name is refused, with both places."""
    registry = Registry()
    registry.add(task(name="tasks.add"))

    def other() -> None: ...

    with pytest.raises(DuplicateTask, match=r"'tasks\.add': .*test_tasks\.py:\d+ and .*test_tasks\.py:\d+"):
        registry.add(task(other, "tasks.add"))


def test_the_same_function_may_come_again() -> None:
    """A module that is loaded twice registers its tasks twice, and the newer one counts."""
    registry = Registry()
    registry.add(task(name="tasks.add"))
    newer = task(name="tasks.add")
    registry.add(newer)
    assert registry["tasks.add"] is newer
