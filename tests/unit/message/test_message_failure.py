"""Exceptions as plain data, and back."""

from __future__ import annotations

import builtins
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq import errors
from amqpq.errors import RemoteError
from amqpq.message.failure import MAX_TEXT, RemoteTraceback, describe, rebuild
from amqpq.message.serializers import SERIALIZERS


class Outer:
    """Holds an exception of its own."""

    class InnerError(Exception):
        """Named by a qualified name."""


class PickyError(Exception):
    """Cannot be made from its args."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class ShowsNothing:
    """Has no repr."""

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no", 5, None, 2.5),
        KeyError("key"),
        Outer.InnerError("deep"),
        errors.ResultNotFound("gone"),
        OSError(2, "No such file", "x"),
        ZeroDivisionError(),
    ],
)
@pytest.mark.parametrize("name", ["json", "msgpack", "yaml"])
def test_an_exception_comes_back_as_the_same_class_with_the_same_args(error: Exception, name: str) -> None:
    """Through every serializer that is not pickle."""
    serializer = SERIALIZERS[name]
    back = rebuild(serializer.loads(serializer.dumps(describe(error))), "Traceback (most recent call last): ...")
    assert type(back) is type(error)
    assert back.args == error.args
    assert str(back) == str(error)
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "Traceback (most recent call last)" in str(back.__cause__)


def test_an_exception_from_elsewhere_becomes_a_remote_error_that_shows_its_name() -> None:
    """The caller's host need not have the task's code."""
    back = rebuild(
        {"exc_type": "StockError", "exc_message": ["sold out"], "exc_module": "shop.errors"}, "the traceback"
    )
    assert isinstance(back, RemoteError)
    assert str(back) == "shop.errors.StockError: sold out"
    assert (back.exc_type, back.exc_module, back.traceback) == ("StockError", "shop.errors", "the traceback")


def test_nothing_is_imported_because_a_message_says_so() -> None:
    """A module that is not loaded stays unloaded."""
    assert "this" not in sys.modules
    assert isinstance(rebuild({"exc_type": "Error", "exc_message": [], "exc_module": "this"}), RemoteError)
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    "module,name",
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "SystemExit"),
        ("builtins", "KeyboardInterrupt"),
        ("builtins", "GeneratorExit"),
        ("builtins", "BaseException"),
        ("builtins", "int"),
        ("subprocess", "Popen"),
        ("builtins", "ValueError.__init__"),
        ("builtins", "ValueError.__class__"),
        ("os", "path.join"),
        ("builtins", "."),
        ("", "ValueError"),
    ],
)
def test_nothing_but_a_loaded_exception_class_is_ever_called(module: str, name: str) -> None:
    """Functions, other classes and what would end the process become a RemoteError."""
    assert isinstance(rebuild({"exc_type": name, "exc_message": ["true"], "exc_module": module}), RemoteError)


def test_looking_for_a_class_runs_no_code_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's `__getattr__` is not asked."""
    module = types.ModuleType("lazy_one")

    def asked(name: str) -> Any:
        raise AssertionError(name)

    module.__getattr__ = asked  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_one", module)
    assert isinstance(rebuild({"exc_type": "Lazy", "exc_message": [], "exc_module": "lazy_one"}), RemoteError)


def test_a_class_that_cannot_be_made_from_its_args_becomes_a_remote_error() -> None:
    """The name and the message are kept."""
    back = rebuild(describe(PickyError(5, reason="why")))
    assert isinstance(back, RemoteError)
    assert back.exc_type == "PickyError"
    assert "5: why" in str(back)


def test_a_remote_error_is_handed_on_as_the_original() -> None:
    """Two hops do not wrap twice."""
    first = RemoteError("StockError", ["sold out", 5], "shop.errors", "tb")
    assert describe(first) == {"exc_type": "StockError", "exc_message": ["sold out", 5], "exc_module": "shop.errors"}


def test_arguments_that_are_no_plain_data_become_text() -> None:
    """A description can always be written."""
    described = describe(ValueError(object, {1, 2}, 2**70, {"a": (1, ShowsNothing())}, "\udcff", {3: 4}))
    assert described["exc_message"] == [
        "<class 'object'>",
        "{1, 2}",
        str(2**70),
        {"a": [1, "<ShowsNothing that cannot be shown>"]},
        "\\udcff",
        "{3: 4}",
    ]
    for name in ("json", "msgpack", "yaml"):
        SERIALIZERS[name].dumps(described)


def test_a_long_message_is_cut_and_says_so() -> None:
    """A failure must fit into a message."""
    (text,) = describe(ValueError("x" * 10_000_000))["exc_message"]
    assert len(text) < MAX_TEXT + 50
    assert text.endswith("(10000000 characters)")


def test_a_message_that_is_plain_text_is_the_only_argument() -> None:
    """Senders other than Celery may send the text alone."""
    assert rebuild({"exc_type": "ValueError", "exc_message": "no", "exc_module": "builtins"}).args == ("no",)
    assert rebuild({"exc_type": "ValueError", "exc_message": None, "exc_module": "builtins"}).args == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
names = st.sampled_from([*vars(builtins)])


@given(
    json_values
    | st.fixed_dictionaries(
        {
            "exc_type": names | json_values,
            "exc_message": json_values,
            "exc_module": st.sampled_from(["builtins", "os", "amqpq.errors"]) | json_values,
        }
    ),
    st.none() | st.text(),
)
def test_whatever_the_description_holds_an_exception_comes_out(description: Any, traceback: str | None) -> None:
    """Rebuilding never raises, and never makes what would end the process."""
    assert isinstance(rebuild(description, traceback), Exception)
