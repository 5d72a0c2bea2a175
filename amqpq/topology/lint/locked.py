"""What amqpq fills in otherwise than it did when the file was locked: nobody has written it, and nobody would notice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from amqpq.topology import lockfile
from amqpq.topology.effective import ALTERNATE, FOR_LIFE
from amqpq.topology.lint.context import Context
from amqpq.topology.lockfile import Difference
from amqpq.topology.problems import Path
from amqpq.topology.units import duration_text

_LIFELONG: Final = FOR_LIFE | {"durable", "auto_delete"}
_DURATIONS: Final = frozenset({"x-message-ttl", "x-expires", "x-consumer-timeout"})
_KEYS: Final[Mapping[str, str]] = {
    argument: key for key, arguments in lockfile.ARGUMENTS.items() for argument in arguments
}
_EXCHANGE_KEYS: Final[Mapping[str, str]] = {argument: key for key, argument in lockfile.EXCHANGE_ARGUMENTS.items()}


def check(context: Context) -> None:
    """Run the rule on defaults that are not those of the lock."""
    if context.locked is None or context.findings.failed:
        return  # of a file with errors nobody knows what it will say
    now = lockfile.resolve(context.file, context.topology)
    generated: dict[tuple[str, str], list[Difference]] = {}
    for found in lockfile.differences(context.locked.objects, now):
        kind, _, name = found.address.partition(" ")
        if found.meant:
            continue
        if name in (context.file.exchanges if kind == "exchange" else context.file.queues):
            _written(context, found, context.locked.amqpq)
        elif kind == "queue" and name in context.topology.queues and name != context.topology.revocations:
            _addable(context, found, context.locked.amqpq)
        else:
            generated.setdefault((kind, found.key), []).append(found)
    for each in generated.values():
        _generated(context, each, context.locked.amqpq)


def _written(context: Context, found: Difference, by: str) -> None:
    """Tell of an object that the file has."""
    kind, _, name = found.address.partition(" ")
    section = "exchanges" if kind == "exchange" else "queues"
    path: Path = (section, name, found.key)
    pinned = _pinned(kind, found)
    keep = f"{pinned} to keep it, or " if pinned else ""
    remedy = f"{keep}accept it with `amqpq topology lock`{_price([found])}"
    context.findings.warning(path, "TOP064", _message(found, by), remedy)


def _addable(context: Context, found: Difference, by: str) -> None:
    """Tell of a queue for dead letters that the file leaves to amqpq, and may as well write out."""
    name = found.address.partition(" ")[2]
    remedy = (
        f"{_pinned('queue', found)} for '{name}' under `queues` to keep it, or accept it with `amqpq topology lock`"
    )
    context.findings.warning(("project",), "TOP064", _message(found, by), f"{remedy}{_price([found])}")


def _generated(context: Context, found: list[Difference], by: str) -> None:
    """Tell of objects that amqpq makes: once for all that change alike, since a ladder has a hundred."""
    more = f" (and of {len(found) - 1} more)" if len(found) > 1 else ""
    remedy = f"`amqpq topology plan` says what that takes, `amqpq topology lock` accepts it{_price(found)}"
    context.findings.warning(("project",), "TOP064", f"{_message(found[0], by)}{more}", remedy)


def _message(found: Difference, by: str) -> str:
    kind, _, name = found.address.partition(" ")
    was, will_be = _shown(found.before), _shown(found.after)
    return (
        f"{found.key} of the {kind} '{name}' was {was} by amqpq {by} ({lockfile.NAME}), and this one makes it {will_be}"
    )


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else "empty" if value == "" else str(value)


def _price(found: Iterable[Difference]) -> str:
    """Return what accepting costs."""
    if any(each.address.startswith("queue ") and each.key in _LIFELONG for each in found):
        return ": a queue that exists has to be migrated then"
    if any(each.address.startswith("exchange ") and each.key != ALTERNATE for each in found):
        return ": an exchange that exists has to be replaced then"
    return ""


def _pinned(kind: str, found: Difference) -> str:
    """Return how the file says the value of the lock; empty where it cannot."""
    key = (_EXCHANGE_KEYS if kind == "exchange" else _KEYS).get(found.key)
    if found.key in lockfile.DEAD_LETTER:
        if found.before is None:
            return "write `dead_letter: none`"
        return "write the queue of the lock under `dead_letters`, and its name as `dead_letter`,"
    value = _yaml(found.key, found.before)
    if key is None:
        return "" if found.before is None else f"write `extra_arguments: {{{found.key}: {value}}}`"
    section, _, inner = key.partition(".")
    return f"write `{section}: {{{inner}: {value}}}`" if inner else f"write `{section}: {value}`"


def _yaml(key: str, value: Any) -> str:
    if key in _DURATIONS and value is not None:
        return duration_text(value / 1000)
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
