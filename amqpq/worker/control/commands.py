"""The table of control commands: what each is called, takes, may be asked by whom, and does.

Names, arguments and answers are Celery's (celery/worker/control.py), so that `celery inspect`, `celery control` and Flower
understand them: `{"ok": ...}` and `{"error": ...}`, or the bare value of an inspection. `pause` and `resume` are ours.
Commands that cannot be kept answer with an error that says why; no argument is taken and ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import IntEnum
from math import inf
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from amqpq.worker.control.surface import Arguments, Refused, Surface

DEFAULT_SIGNAL: Final = "TERM"
LARGEST_STEP: Final = 1000
"""By how much a pool is resized at once; more is a mistake."""


class Access(IntEnum):
    """What a command is to a worker: the higher, the more an unsigned message must be allowed."""

    PING = 0
    LOOK = 1
    ACT = 2


ALLOWED: Final[Mapping[str, Access]] = MappingProxyType(
    {"signed": Access.PING, "inspect": Access.LOOK, "unsigned": Access.ACT}
)
"""`security.control` to what an unsigned message may ask for."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise Refused("text")
    return value


def _optional_text(value: object) -> str | None:
    return None if value is None or value == "" else _text(value)


def _texts(value: object) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, Sequence) or not all(isinstance(each, str) and each for each in found):
        raise Refused("text, or a list of texts")
    return list(found)


def _flag(value: object) -> bool:
    if not isinstance(value, bool | None):
        raise Refused("true or false")
    return bool(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST_STEP:
        raise Refused(f"a whole number from 1 to {LARGEST_STEP}")
    return value


def _optional_count(value: object) -> int | None:
    return None if value is None else _count(value)


def _anything(value: object) -> object:
    return value


def _rate(value: object) -> str | float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise Refused("a rate: 10/s, 100/m, 5/h, a number per second, or 0 for none")
    return value


def _seconds(value: object) -> float | None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | None)
        or (value is not None and not 0 <= value < inf)
    ):
        raise Refused("a number of seconds, or 0 for none")
    return value or None


Reader: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `takes` says how each argument is read; those in `needs` must be there."""

    name: str
    access: Access
    call: Callable[[Surface, Arguments], Any]
    takes: Mapping[str, Reader] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    routine: bool = False
    """Monitors ask it all the time; the log has it only where it changes something."""


# ------------------------------------------------------------------------------------------------------------ looking


def _hello(surface: Surface, _: Arguments) -> Any:
    # What Celery workers ask one another when they start. Their revoked ids are not taken over: these are other tasks.
    return {"revoked": [], "clock": surface.clock()}


def _query(surface: Surface, arguments: Arguments) -> Any:
    wanted = set(arguments["ids"])
    found = {task["id"]: ["reserved", task] for task in surface.reserved() if task["id"] in wanted}
    found.update({task["id"]: ["active", task] for task in surface.active() if task["id"] in wanted})
    return found


_LOOKING: Final = (
    Command("clock", Access.LOOK, lambda surface, _: {"clock": surface.clock()}),
    Command("hello", Access.LOOK, _hello, {"from_node": _anything, "revoked": _anything}),
    Command("stats", Access.LOOK, lambda surface, _: surface.stats()),
    Command(
        "conf", Access.LOOK, lambda surface, _: surface.conf(), {"with_defaults": _anything}, aliases=("dump_conf",)
    ),
    Command("report", Access.LOOK, lambda surface, _: {"ok": surface.report()}),
    Command(
        "registered",
        Access.LOOK,
        lambda surface, arguments: surface.registered(arguments.get("taskinfoitems") or ()),
        {"taskinfoitems": lambda value: _texts(value) if value else [], "builtins": _flag},
        aliases=("registered_tasks", "dump_tasks"),
    ),
    Command("active", Access.LOOK, lambda surface, _: surface.active(), {"safe": _flag}, aliases=("dump_active",)),
    Command("reserved", Access.LOOK, lambda surface, _: surface.reserved(), aliases=("dump_reserved",)),
    # Delays live in the broker: no worker ever holds a task that is not due.
    Command("scheduled", Access.LOOK, lambda *_: [], aliases=("dump_schedule",)),
    Command("revoked", Access.LOOK, lambda surface, _: surface.revoked(), aliases=("dump_revoked",)),
    Command("active_queues", Access.LOOK, lambda surface, _: surface.active_queues()),
    Command("query_task", Access.LOOK, _query, {"ids": _texts}, ("ids",)),
    Command("heartbeat", Access.LOOK, lambda surface, _: surface.beat()),
)

# ------------------------------------------------------------------------------------------------------------- acting


def _revoke(surface: Surface, arguments: Arguments) -> Any:
    ids = arguments["task_id"]
    surface.revoke(ids)
    if not arguments.get("terminate"):
        return {"ok": f"tasks {', '.join(ids)} flagged as revoked"}
    return _terminate_revoked(surface, ids, arguments.get("signal"))


def _terminate(surface: Surface, arguments: Arguments) -> Any:
    surface.revoke(arguments["task_id"])
    return _terminate_revoked(surface, arguments["task_id"], arguments["signal"])


def _terminate_revoked(surface: Surface, ids: Sequence[str], signal: str | None) -> Any:
    found = surface.terminate(ids, signal or DEFAULT_SIGNAL)
    return {"ok": f"terminate: {', '.join(found)}" if found else "terminate: tasks unknown"}


def _events(surface: Surface, *, on: bool) -> Any:
    word = "enabled" if on else "disabled"
    return {"ok": f"task events {word}" if surface.send_events(on=on) else f"task events already {word}"}


def _grow(surface: Surface, arguments: Arguments) -> Any:
    return {"ok": f"pool will grow to {surface.resize(arguments.get('n', 1))}"}


def _shrink(surface: Surface, arguments: Arguments) -> Any:
    return {"ok": f"pool will shrink to {surface.resize(-arguments.get('n', 1))}"}


def _rate_limit(surface: Surface, arguments: Arguments) -> Any:
    limited = surface.limit_rate(arguments["task_name"], arguments["rate_limit"])
    return {"ok": "new rate limit set successfully" if limited else "rate limit disabled successfully"}


def _time_limit(surface: Surface, arguments: Arguments) -> Any:
    limited = surface.limit_time(arguments["task_name"], arguments.get("hard"), arguments.get("soft"))
    return {"ok": "time limits set successfully" if limited else "time limits taken away"}


def _autoscale(surface: Surface, arguments: Arguments) -> Any:
    most, least = surface.autoscale(arguments.get("max"), arguments.get("min"))
    return {"ok": f"autoscale now max={most} min={least}"}


def _add_consumer(surface: Surface, arguments: Arguments) -> Any:
    queue = arguments["queue"]
    extra = [name for name in ("exchange", "exchange_type", "routing_key") if arguments.get(name)]
    if extra:
        raise Refused(f"{', '.join(extra)}: queues and their bindings come from the topology file; name the queue only")
    return {"ok": f"add consumer {queue}" if surface.add_queue(queue) else f"already consuming from {queue}"}


def _cancel_consumer(surface: Surface, arguments: Arguments) -> Any:
    surface.cancel_queue(arguments["queue"])
    return {"ok": f"no longer consuming from {arguments['queue']}"}


def _shutdown(surface: Surface, _: Arguments) -> Any:
    surface.shut_down()
    return {"ok": "warm shutdown"}


def _pause(surface: Surface, _: Arguments) -> Any:
    surface.pause()
    return {"ok": "consuming paused"}


def _resume(surface: Surface, _: Arguments) -> Any:
    surface.resume()
    return {"ok": "consuming again"}


def _never(why: str) -> Callable[[Surface, Arguments], Any]:
    def refuse(_: Surface, __: Arguments) -> Any:
        raise Refused(why)

    return refuse


_REVOKE: Final[Mapping[str, Reader]] = {"task_id": _texts, "terminate": _flag, "signal": _optional_text}
_QUEUE: Final[Mapping[str, Reader]] = {
    "queue": _text,
    "exchange": _optional_text,
    "exchange_type": _optional_text,
    "routing_key": _optional_text,
}

_ACTING: Final = (
    Command("revoke", Access.ACT, _revoke, _REVOKE, ("task_id",)),
    Command("terminate", Access.ACT, _terminate, {"task_id": _texts, "signal": _text}, ("task_id", "signal")),
    Command(
        "revoke_by_stamped_headers",
        Access.ACT,
        _never("amqpq tasks carry no stamps; revoke by task id"),
        {"headers": _anything, "terminate": _flag, "signal": _optional_text},
    ),
    Command(
        "rate_limit",
        Access.ACT,
        _rate_limit,
        {"task_name": _text, "rate_limit": _rate},
        ("task_name", "rate_limit"),
    ),
    Command(
        "time_limit",
        Access.ACT,
        _time_limit,
        {"task_name": _text, "hard": _seconds, "soft": _seconds},
        ("task_name",),
    ),
    Command("pool_grow", Access.ACT, _grow, {"n": _count}),
    Command("pool_shrink", Access.ACT, _shrink, {"n": _count}),
    Command("autoscale", Access.ACT, _autoscale, {"max": _optional_count, "min": _optional_count}),
    Command(
        "pool_restart",
        Access.ACT,
        _never("code is not reloaded in a running worker; restart it"),
        {"modules": _anything, "reload": _anything, "reloader": _anything},
    ),
    Command("shutdown", Access.ACT, _shutdown, {"msg": _anything}),
    Command("add_consumer", Access.ACT, _add_consumer, _QUEUE, ("queue",)),
    Command("cancel_consumer", Access.ACT, _cancel_consumer, {"queue": _text}, ("queue",)),
    Command("pause", Access.ACT, _pause),
    Command("resume", Access.ACT, _resume),
    Command("enable_events", Access.ACT, lambda surface, _: _events(surface, on=True), routine=True),
    Command("disable_events", Access.ACT, lambda surface, _: _events(surface, on=False), routine=True),
)

PING: Final = Command("ping", Access.PING, lambda *_: {"ok": "pong"})

COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {name: command for command in (PING, *_LOOKING, *_ACTING) for name in (command.name, *command.aliases)}
)
"""Every command by its name and its aliases."""


def find(method: str) -> Command:
    """Return the command of that name.

    Raises:
        Refused: There is none.
    """
    command = COMMANDS.get(method)
    if command is None:
        near = get_close_matches(method, COMMANDS, n=1)
        raise Refused(f"no such control command: {method[:60]!r}{f' (did you mean {near[0]!r}?)' if near else ''}")
    return command


def read_arguments(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments of a command.

    Raises:
        Refused: One is unknown, missing, or of another kind.
    """
    unknown = [name for name in given if name not in command.takes]
    if unknown:
        known = ", ".join(command.takes) or "none"
        raise Refused(f"{command.name}: unknown argument {unknown[0][:60]!r}; it takes {known}")
    missing = [name for name in command.needs if given.get(name) in (None, "", [])]
    if missing:
        raise Refused(f"{command.name}: {missing[0]} is missing")
    read: dict[str, Any] = {}
    for name, value in given.items():
        try:
            read[name] = command.takes[name](value)
        except Refused as wanted:
            raise Refused(f"{command.name}: {name} is {wanted}, not {value!r:.60}") from None
    return read
