"""What of a virtual host nobody wrote into a file: generated parts of amqpq projects, and objects that programs make as they run.

Generated parts are known by name and shape together, and become the sections of the file that generate them: the delay ladder
becomes `delays:`, permit queues become `limits:`, the stream of revocations becomes `control:`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from amqpq.convert.objects import Objects, Remark, counted, left_out
from amqpq.convert.values import duration
from amqpq.rates import Rate
from amqpq.topology import delays
from amqpq.topology.build import REVOCATIONS_SEGMENT_BYTES
from amqpq.topology.document import DelaysPart
from amqpq.topology.model import Delays, TaskLimit
from amqpq.topology.permits import permits_of, prefix, queues_of
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

OUR_PREFIX: Final = "amqpq."
"""Of reply queues and whatever else amqpq makes while it runs."""

_CELERYS_EXCHANGES: Final = frozenset({"celery.pidbox", "reply.celery.pidbox", "celeryev"})
_CELERYS_QUEUES: Final = re.compile(r".*\.celery\.pidbox|celeryev\..*", re.DOTALL)
_RUNG: Final = re.compile(r"(?P<urgent>urgent\.)?(?P<level>\d{1,2})\.(?P<digit>[1-7])")
_LEVEL: Final = re.compile(r"(urgent\.)?\d{1,2}")
_SECONDS: Final = re.compile(r"(\d+)s")
_KEYED: Final = re.compile(
    r"(?P<pattern>.+)\.(?P<count>\d{1,5})\.(?P<key>[^.]+)\.(?P<slot>\d{1,4})-of-(?P<slots>\d{1,4})", re.DOTALL
)
_RATED: Final = re.compile(r"(?P<pattern>.+?)\.(?P<count>\d+(\.\d+)?)-per-(?P<unit>[smh])\.(?P<permits>\d+)", re.DOTALL)
_COUNTED: Final = re.compile(r"(?P<pattern>.+)\.(?P<count>\d{1,5})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Split:
    """What a person would have written, and the sections that stand for the rest."""

    objects: Objects
    sections: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()


def projects_of(found: Objects) -> list[str]:
    """Return the projects whose delay ladder is there, else those that own the way back for dead letters."""
    exchanges = {exchange.name: exchange for exchange in found.exchanges}
    ladders = [
        name.removesuffix(".delay.out")
        for name, exchange in exchanges.items()
        if name.endswith(".delay.out") and _is_exit(name.removesuffix(".delay.out"), exchange)
    ]
    ways = [
        queue.name.removesuffix(".returning")
        for queue in found.queues
        if queue.name.endswith(".returning") and queue.name in exchanges
    ]
    return list(dict.fromkeys(name for name in (*ladders, *ways) if name))


def _is_exit(project: str, exchange: ExchangeSpec) -> bool:
    lost = delays.lost_exchange(project)
    return exchange.type == "headers" and exchange.arguments.get("alternate-exchange") == lost


def split(found: Objects, project: str) -> Split:
    """Take out what `project` generates, what other projects do, and what programs make as they run."""
    sections: dict[str, Any] = {}
    remarks: list[Remark] = []
    for owner in dict.fromkeys((project, *projects_of(found))):
        ladder = _Ladder(owner, found)
        if ladder.there:
            found = ladder.without()
            if owner == project:
                sections["delays"] = ladder.section()
            else:
                remarks.append(left_out("delay ladder", owner, f"it belongs to the project '{owner}'"))
        found = _without_way(found, owner)
    found, limits = _limits(found, project)
    if limits:
        sections["limits"] = limits
    found, revocations = _revocations(found, project)
    if revocations is not None:
        sections["control"] = {"revocations": revocations}
    found, fleeting = _without_fleeting(found)
    return Split(found, sections, (*remarks, *fleeting))


def without(found: Objects, exchanges: set[str], queues: set[str]) -> Objects:
    """Return the objects without those named, and without their bindings."""
    return replace(
        found,
        exchanges=tuple(exchange for exchange in found.exchanges if exchange.name not in exchanges),
        queues=tuple(queue for queue in found.queues if queue.name not in queues),
        bindings=tuple(binding for binding in found.bindings if not _touches(binding, exchanges, queues)),
    )


def _touches(binding: BindingSpec, exchanges: set[str], queues: set[str]) -> bool:
    return binding.source in exchanges or binding.target in (exchanges if binding.to_exchange else queues)


# -------------------------------------------------------------------------------------------------------- delay ladder


class _Ladder:
    """The delay ladder of one project, as far as it is on the broker."""

    def __init__(self, project: str, found: Objects) -> None:
        self._found = found
        stem = f"{project}.delay."
        self._exchanges = {exchange.name for exchange in found.exchanges if _is_level(project, exchange)}
        self._rungs: dict[delays.Rung, QueueSpec] = {}
        self._queues: set[str] = set()
        for queue in found.queues:
            match = _RUNG.fullmatch(queue.name.removeprefix(stem)) if queue.name.startswith(stem) else None
            if match is not None and str(queue.arguments.get("x-dead-letter-exchange", "")).startswith(stem):
                self._queues.add(queue.name)
                self._rungs[delays.Rung(int(match["level"]), int(match["digit"]))] = queue

    @property
    def there(self) -> bool:
        """Whether any of it is."""
        return bool(self._exchanges and self._queues)

    def without(self) -> Objects:
        """Return the other objects."""
        return without(self._found, self._exchanges, self._queues)

    def section(self) -> dict[str, Any]:
        """Return `delays:` for a ladder of these rungs. Its longest delay is read off them: what was asked for, or a bit more."""
        default = DelaysPart()
        lowest = min(self._rungs)
        ttl = self._rungs[lowest].arguments.get("x-message-ttl")
        unit = ttl / 1000 / lowest.units if isinstance(ttl, int) else default.unit
        section: dict[str, Any] = {}
        if unit != default.unit:
            section["unit"] = duration(round(unit * 1000))
        if set(delays.rungs(Delays(unit, default.max, ""))) != set(self._rungs):
            highest = max(self._rungs)
            section["max"] = duration(round(((highest.digit + 1) * delays.BASE**highest.level - 1) * unit * 1000))
        return section


def _is_level(project: str, exchange: ExchangeSpec) -> bool:
    if exchange.name == delays.lost_exchange(project):
        return exchange.type == "fanout"
    if exchange.name == delays.exit_exchange(project):
        return _is_exit(project, exchange)
    stem = f"{project}.delay."
    return (
        exchange.name.startswith(stem)
        and exchange.type == "headers"
        and _LEVEL.fullmatch(exchange.name.removeprefix(stem)) is not None
        and str(exchange.arguments.get("alternate-exchange", "")).startswith(stem)
    )


# ------------------------------------------------------------------------------------------------------ permits and so on


def _without_way(found: Objects, project: str) -> Objects:
    name = f"{project}.returning"
    if not any(exchange.name == name and exchange.type == "fanout" for exchange in found.exchanges):
        return found
    return without(found, {name}, {name, f"{name}.lock"})


def _limits(found: Objects, project: str) -> tuple[Objects, dict[str, Any]]:
    """Read permit queues back into limits; one whose name says another thing than it holds stays a queue."""
    there = {queue.name: queue for queue in found.queues if queue.name.startswith(prefix(project))}
    limits: dict[str, Any] = {}
    taken: set[str] = set()
    for name, queue in there.items():
        for limit in _limits_named(name.removeprefix(prefix(project))):
            names = queues_of(project, limit)
            fits = queue.arguments.get("x-max-length") == permits_of(limit) and name in names
            if fits and limit.pattern not in limits and set(names) <= there.keys():
                limits[limit.pattern] = _limit_section(limit)
                taken |= set(names)
            if name in taken:
                break
    return without(found, set(), taken), limits


def _limits_named(name: str) -> Iterator[TaskLimit]:
    """Walk the limits that would give a permit queue this name."""
    if (match := _KEYED.fullmatch(name)) is not None:
        yield TaskLimit(match["pattern"], None, int(match["count"]), match["key"], int(match["slots"]))
    if (match := _RATED.fullmatch(name)) is not None and float(match["count"]):
        yield TaskLimit(match["pattern"], Rate(float(match["count"]), match["unit"]))
    if (match := _COUNTED.fullmatch(name)) is not None and int(match["count"]):
        yield TaskLimit(match["pattern"], None, int(match["count"]))


def _limit_section(limit: TaskLimit) -> dict[str, Any]:
    if limit.rate is not None:
        return {"rate": str(limit.rate)}
    section: dict[str, Any] = {"concurrency": limit.concurrency}
    if limit.key is not None:
        section |= {"key": limit.key, "slots": limit.slots}
    return section


def _revocations(found: Objects, project: str) -> tuple[Objects, str | None]:
    name = f"{project}.revocations"
    queue = next((queue for queue in found.queues if queue.name == name), None)
    if queue is None or queue.arguments.get("x-stream-max-segment-size-bytes") != REVOCATIONS_SEGMENT_BYTES:
        return found, None
    age = _SECONDS.fullmatch(str(queue.arguments.get("x-max-age", "")))
    if age is None:
        return found, None
    return without(found, set(), {name}), duration(int(age[1]) * 1000)


def _without_fleeting(found: Objects) -> tuple[Objects, list[Remark]]:
    """Leave out what exists only while a program runs."""
    reasons: dict[str, list[str]] = {}
    for queue in found.queues:
        why = _fleeting(queue)
        if why:
            reasons.setdefault(why, []).append(queue.name)
    queues = {name for names in reasons.values() for name in names}
    exchanges = {
        exchange.name
        for exchange in found.exchanges
        if exchange.name in _CELERYS_EXCHANGES or exchange.name.startswith(OUR_PREFIX)
    }
    remarks = [
        left_out("queue" if len(names) == 1 else "queues", names[0] if len(names) == 1 else "", _many(names, why))
        for why, names in reasons.items()
    ]
    remarks += [
        left_out("exchange", name, "programs declare it themselves, for control and events")
        for name in sorted(exchanges)
    ]
    return without(found, exchanges, queues), remarks


def _fleeting(queue: QueueSpec) -> str:
    if queue.exclusive:
        return "exclusive: it goes with the connection that declared it"
    if queue.name.startswith("amq."):
        return "the broker chose the name; whoever asked for it declares another one next time"
    if queue.name.startswith(OUR_PREFIX):
        return "amqpq declares and deletes it while it runs"
    if _CELERYS_QUEUES.fullmatch(queue.name):
        return "Celery's control and event queues come and go with its processes"
    return ""


def _many(names: list[str], why: str) -> str:
    return why if len(names) == 1 else f"{counted(len(names), 'queue')} ({names[0]}, ...): {why}"
