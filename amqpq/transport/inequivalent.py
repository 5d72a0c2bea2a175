"""What the broker says when it refuses to declare an object that exists with another property. Pure.

It names one property, in words that differ between properties: with a type (`the value '5' of type 'signedint'`), without one
(`'true'`), or `none`. From 4.3 on it reads the age of a stream before it compares: `1D` and `24h` are the same there, and the
refusal says milliseconds, which no declaration takes (tests/integration/broker_facts/test_fact_poison_probe.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar, cast

from amqpq.errors import PreconditionFailed
from amqpq.topology.units import age_text
from amqpq.types import ExchangeSpec, QueueSpec

Value: TypeAlias = bool | int | str | None
Thing = TypeVar("Thing", bound=ExchangeSpec | QueueSpec)

ABSENT: Final = "none"

_DIFFERENT = re.compile(
    r"inequivalent arg '(?P<key>[^']+)' for (?:exchange|queue) '.*' in vhost '(?P<vhost>.*)': "
    r"received (?P<received>.+) but current is (?P<current>.+?)(?:;|$)",
    re.DOTALL,
)
_TYPED = re.compile(r"the value '(?P<value>.*)' of type '(?P<type>[^']+)'|'(?P<bare>.*)'", re.DOTALL)
_FLAGS: Final = frozenset({"durable", "auto_delete", "internal", "exclusive"})
_AGE: Final = "x-max-age"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The property that the broker named: its value there and what was asked for, and where the object is.

    `broker` is None where the object has no such property.
    """

    key: str
    vhost: str
    broker: Value
    asked: Value


def read(answer: object) -> Refusal | None:
    """Return what a refused declaration says, None where it was refused for another reason, or was not refused."""
    match = _DIFFERENT.search(str(answer)) if isinstance(answer, PreconditionFailed) else None
    if match is None:
        return None
    return Refusal(
        match["key"], match["vhost"], _value(match["key"], match["current"]), _value(match["key"], match["received"])
    )


def shown(value: Value) -> str:
    """Write a value for people; an empty text is seen, too."""
    if value is None:
        return ABSENT
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


def give_in(spec: Thing, refusal: Refusal) -> Thing:
    """Return `spec` with the broker's value of the property that it named."""
    key, value = refusal.key, refusal.broker
    if key in _FLAGS:
        return replace(spec, **cast("Any", {key: value is True}))
    if key == "type":
        return replace(spec, **cast("Any", {key: str(value)}))
    arguments = {name: argument for name, argument in spec.arguments.items() if name != key}
    if value is not None:
        number = isinstance(spec.arguments.get(key), int) and isinstance(value, str) and value.lstrip("-").isdigit()
        arguments[key] = int(str(value)) if number else value
    return replace(spec, arguments=arguments)


def _value(key: str, text: str) -> Value:
    """Read a value as the broker writes it; without a type only booleans can be told from text."""
    match = _TYPED.fullmatch(text.strip())
    if match is None:
        return None
    if match["bare"] is not None:
        if key == _AGE and match["bare"].isdigit():
            return age_text(int(match["bare"]) // 1000)
        return {"true": True, "false": False}.get(match["bare"], match["bare"])
    if match["type"] == "bool":
        return match["value"] == "true"
    return match["value"] if match["type"] in {"longstr", "binary"} else int(match["value"])
