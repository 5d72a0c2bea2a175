"""What a value of the topology file may be: durations, sizes, headers and the words of the format.

Each type reads the text of the file into the value the rest of amqpq works with, and says in words what is wrong with it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, JsonValue, WithJsonSchema
from pydantic_core import PydanticCustomError

from amqpq import rates
from amqpq.topology import shorthand, units, versions


def problem(rule: str, message: str, remedy: str = "") -> PydanticCustomError:
    """Make a validation error that carries its rule and its remedy."""
    return PydanticCustomError(rule, "{message}", {"message": message, "remedy": remedy})


# --------------------------------------------------------------------------------------------------------- value types


def _duration(value: object) -> object:
    if isinstance(value, str):
        try:
            return units.seconds(value)
        except ValueError as error:
            raise problem("TOP001", str(error)) from None
    if isinstance(value, int | float) and not isinstance(value, bool):
        rule, message = "TOP001", f"{value} has no unit"
        raise problem(rule, message, f"write {value}s for seconds (or ms, m, h, d, w)")
    return value


def _size(value: object) -> object:
    if isinstance(value, str):
        try:
            return units.size_bytes(value)
        except ValueError as error:
            raise problem("TOP001", str(error)) from None
    return value


def _rate(value: object) -> object:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            rate = rates.rate_of(value)
        except ValueError as error:
            raise problem("TOP001", str(error)) from None
        if rate is None:
            rule, message = "TOP001", "a rate of 0 would never let a task begin"
            raise problem(rule, message, "remove the limit, or write one above 0")
        if not isinstance(value, str):
            rule, message = "TOP001", f"{value:g} has no unit"
            raise problem(rule, message, f"write {value:g}/s for so many in a second (or /m, /h)")
    return value


def requirement(value: object) -> object:
    """Refuse what is no version requirement."""
    if isinstance(value, str):
        try:
            versions.lowest(value)
        except ValueError as error:
            raise problem("TOP001", str(error)) from None
    return value


def _date(value: object) -> object:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            rule, message = "TOP001", f"'{value}' is no date"
            raise problem(rule, message, "write it as 2027-06-30") from None
    return value


def listed(value: object) -> object:
    """Let one text stand for a list of it."""
    return [value] if isinstance(value, str) else value


def nothing_is_empty(value: object) -> object:
    """Let `search:` with nothing behind it stand for `search: {}`."""
    return {} if value is None else value


def off(value: object) -> object:
    """Read `off`, which YAML takes for false."""
    return None if value is False or value == "off" else value


def algorithm(value: object) -> object:
    """Let the name of an algorithm stand for `{algorithm: name}`."""
    return {"algorithm": value} if isinstance(value, str) else value


def _scalar(value: object) -> object:
    if isinstance(value, dict | list):
        rule, message = "TOP001", "a header's value is one value here, not a list or a mapping"
        raise problem(rule, message)
    return value


def binding(value: object) -> object:
    """Read the short form of a binding."""
    if isinstance(value, str):
        try:
            return shorthand.parse(value)
        except ValueError as error:
            message, _, remedy = str(error).partition("; ")
            raise problem("TOP001", message, remedy) from None
    return value


Duration: TypeAlias = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(\d+(\.\d+)?\s*(ms|s|m|h|d|w))+$", "examples": ["30s", "10m", "1d"]}
    ),
]
Size: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([KkMmGg][Ii]?)?[Bb]$", "examples": ["4KiB", "16MiB"]},
                {"type": "integer", "minimum": 0},
            ]
        }
    ),
]
Date: TypeAlias = Annotated[
    date,
    BeforeValidator(_date),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["2027-06-30"]}),
]
RateText: TypeAlias = Annotated[
    str,
    BeforeValidator(_rate),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*/\s*[smh]$", "examples": ["10/s", "100/m"]}),
]
Scalar: TypeAlias = Annotated[
    JsonValue,
    BeforeValidator(_scalar),
    WithJsonSchema({"type": ["string", "integer", "number", "boolean", "null"]}),
]
Arguments: TypeAlias = dict[str, JsonValue]
Compression: TypeAlias = Literal["zlib", "bzip2", "none"]
Serializer: TypeAlias = Literal["msgpack", "json", "yaml", "pickle"]
Manage: TypeAlias = Literal["full", "verify", "external"]
Reply: TypeAlias = Literal["task", "client", "direct", "none"]
