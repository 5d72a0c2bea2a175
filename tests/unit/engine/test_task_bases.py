from __future__ import annotations

from typing import Any, ParamSpec, TypeVar

import pytest

from amqpq import App, AppTask, AsyncApp, AsyncAppTask, Task
from amqpq.errors import ConfigurationError, NotBuiltYet

P = ParamSpec("P")
R = TypeVar("R")

TOPOLOGY = {"amqpq": 1, "project": "shop", "queues": {"default": {}}, "security": {"signing": False}}


class Patient(Task[P, R]):
    """A base for both worlds, with an option, a hook and a thing of its own."""

    priority = 4
    unit = "ms"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[str] = []

    def on_failure(self, exc: BaseException, *_: Any, **__: Any) -> None:
        """Remember."""
        self.calls.append(str(exc))


class Blocking(AppTask[P, R]):
    """A base for `App` alone."""


class Impatient(Task[P, R]):
    """Takes nothing, as Celery's bases may."""

    def __init__(self) -> None:
        """Forget the task."""


class Forgetful(Task[P, R]):
    """Does not pass on what it is given."""

    def __init__(self, *args: Any) -> None:
        """Forget the task."""


class Clashing(Task[P, R]):
    """Has a method where an option would be."""

    def expires(self) -> int:
        """Nothing that a task option could be."""
        return 3


class Hasty(Task[P, R]):
    """Asks for something that is not built."""

    acks_on_failure_or_timeout = False


def double(x: int) -> int:
    """Double it."""
    return x * 2


@pytest.fixture
def app() -> App:
    """An application without a broker."""
    return App(TOPOLOGY)


def test_a_task_is_an_instance_of_its_base_and_can_be_sent(app: App) -> None:
    """`base=` gives the task the base's methods and state; the function and `delay` are there as ever."""
    task: Any = app.task(base=Patient)(double)
    assert isinstance(task, Patient)
    assert isinstance(task, AppTask)
    assert (task(4), task.unit, task.calls, type(task).__name__) == (8, "ms", [], "Patient")
    assert callable(task.delay)


def test_one_base_serves_both_worlds() -> None:
    """A base that derives from Task can be used by an AsyncApp, too."""
    task = AsyncApp(TOPOLOGY).task(base=Patient)(double)
    assert isinstance(task, Patient)
    assert isinstance(task, AsyncAppTask)


def test_a_base_of_the_other_world_is_refused() -> None:
    """An AppTask cannot be awaited; the error says what to derive from."""
    with pytest.raises(ConfigurationError, match=r"makes tasks of AsyncAppTask; derive it from amqpq\.Task"):
        AsyncApp(TOPOLOGY).task(base=Blocking)(double)


@pytest.mark.parametrize("base", [int, "Patient", 3, double])
def test_a_base_is_a_class_of_tasks(app: App, base: Any) -> None:
    """Anything else is refused where the decorator stands."""
    with pytest.raises(ConfigurationError, match=r"is not a class derived from amqpq\.Task"):
        app.task(base=base)(double)


def test_the_application_has_a_default_base() -> None:
    """`task_cls` is the base of decorators that name none; one that names another gets that."""
    app = App(TOPOLOGY, task_cls=Patient)
    assert isinstance(app.task(name="one")(double), Patient)
    assert not isinstance(app.task(name="two", base=Blocking)(double), Patient)
    assert type(app.task(name="three", base=Task)(double)) is AppTask


def test_class_attributes_are_defaults_of_options(app: App) -> None:
    """As in Celery; the decorator's word counts before them, and other attributes are the class's own business."""
    assert app.task(name="one", base=Patient)(double).options.priority == 4
    assert app.task(name="two", base=Patient, priority=9)(double).options.priority == 9


def test_an_attribute_that_hides_an_option_is_refused(app: App) -> None:
    """A method of an option's name would neither be the option nor be noticed."""
    with pytest.raises(ConfigurationError, match=r"Clashing\.expires is a function, and 'expires' is a task option"):
        app.task(base=Clashing)(double)


def test_a_later_option_is_refused_in_a_base_as_well(app: App) -> None:
    """What is not built is refused wherever it is asked for."""
    with pytest.raises(NotBuiltYet, match="'acks_on_failure_or_timeout'"):
        app.task(base=Hasty)(double)


@pytest.mark.parametrize(
    ("base", "reason"), [(Impatient, "cannot be called for a task"), (Forgetful, "does not call its parent's")]
)
def test_an_init_that_keeps_the_task_from_being_one_is_refused(app: App, base: Any, reason: str) -> None:
    """The error says how to write it."""
    with pytest.raises(ConfigurationError, match=reason) as refused:
        app.task(base=base)(double)
    assert "super().__init__(*args, **kwargs)" in str(refused.value)


def test_hooks_may_be_given_one_by_one(app: App) -> None:
    """A function given to the decorator becomes a method of that task alone."""
    seen: list[Any] = []
    task = app.task(on_success=lambda self, retval, *_: seen.append((self.name, retval)), name="one")(double)
    other = app.task(name="two")(double)
    task.on_success(8, "id", (4,), {})
    assert seen == [("one", 8)]
    assert (sorted(task.hooks), sorted(other.hooks)) == (["on_success"], [])


def test_a_hook_that_is_no_function_is_refused(app: App) -> None:
    """It would fail on every task."""
    with pytest.raises(ConfigurationError, match="on_failure='log' is not a function"):
        app.task(on_failure="log")(double)


def test_a_bound_function_gets_the_instance(app: App) -> None:
    """`self` is the task, with all that its base gave it."""

    @app.task(base=Patient, bind=True)
    def unit_of(self: Any, x: int) -> str:
        return f"{x} {self.unit}"

    assert unit_of(3) == "3 ms"
