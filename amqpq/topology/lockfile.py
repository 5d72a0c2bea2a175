"""`amqpq.lock`: what a topology file resolves to, defaults included, kept beside it and in git. Pure.

The arguments of a queue hold for its life, and many of them nobody wrote: they are defaults of amqpq. So a newer amqpq with
another default would change what an apply declares, behind everybody's back. The lock says what they were. Each object has two
parts: `file` is what the file says (its variables put in), `default` what amqpq filled in. Where a value that was filled in then
and is filled in now differs, nobody meant it (TOP064 of lint). Where the file says it, or said it, somebody did.

Queues stand there by the names that the file gives them, partitioned ones once. Where a queue lives after a migration is the
broker's to know (`amqpq.topology.generations`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from amqpq.errors import ConfigurationError
from amqpq.topology.build import DEFAULT_DEAD_LETTER
from amqpq.topology.declarations import declarations, queue_spec
from amqpq.topology.document import File, QueuePart
from amqpq.topology.model import Topology
from amqpq.topology.partitions import partition_names, queue_behind
from amqpq.types import ExchangeSpec, QueueSpec

NAME: Final = "amqpq.lock"
FORMAT: Final = 1
"""Of the lock; another number is another meaning."""

DEAD_LETTER: Final = ("x-dead-letter-exchange", "x-dead-letter-routing-key")

ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "type": ("x-queue-type",),
    "durable": ("durable",),
    "auto_delete": ("auto_delete",),
    "max_priority": ("x-max-priority",),
    "delivery_limit": ("x-delivery-limit",),
    "consumer_timeout": ("x-consumer-timeout",),
    "single_active": ("x-single-active-consumer",),
    "ttl": ("x-message-ttl",),
    "expires": ("x-expires",),
    "dead_letter": DEAD_LETTER,
    "partitions": ("partitions",),
    "retention.max_age": ("x-max-age",),
    "retention.max_bytes": ("x-max-length-bytes",),
    "retention.segment": ("x-stream-max-segment-size-bytes",),
    "limits.max_length": ("x-max-length",),
    "limits.max_length_bytes": ("x-max-length-bytes",),
    "limits.overflow": ("x-overflow",),
}
"""What each key of a queue becomes; a dot is a key within a key."""

EXCHANGE_ARGUMENTS: Final[Mapping[str, str]] = {
    "type": "type",
    "durable": "durable",
    "auto_delete": "auto_delete",
    "internal": "internal",
    "unrouted": "alternate-exchange",
}
"""What each key of an exchange becomes."""

_FOLLOWS: Final = {"x-delivery-limit": ("x-queue-type", "x-single-active-consumer", "partitions")}
"""Defaults that depend on what else is said of the queue."""

Table: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Values:
    """What an object resolves to, by property and argument. None in `said`: the file says that there is none."""

    said: Table = field(default_factory=dict)
    """By the file."""
    filled: Table = field(default_factory=dict)
    """By amqpq."""

    @property
    def whole(self) -> dict[str, Any]:
        """All that the object has."""
        return {key: value for key, value in {**self.filled, **self.said}.items() if value is not None}


Objects: TypeAlias = Mapping[str, Values]
"""By address: `queue web`, `exchange events`."""


@dataclass(frozen=True, slots=True)
class Locked:
    """The objects of one project in one environment, and the amqpq that resolved them."""

    amqpq: str
    objects: Objects


@dataclass(frozen=True, slots=True)
class Lock:
    """A whole `amqpq.lock`, by project and environment (None: the file without one)."""

    entries: Mapping[tuple[str, str | None], Locked] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that is another one than the lock says; None: absent. With an empty `key` the whole object came or went."""

    address: str
    key: str
    before: Any
    after: Any
    meant: bool = True
    """Whether the file says it, or said it. Else amqpq fills in something else than it did."""


# ---------------------------------------------------------------------------------------------------------- resolving


def properties(topology: Topology) -> dict[str, dict[str, Any]]:
    """Return by address what each object that the topology declares resolves to."""
    declared = declarations(topology)
    queues = [queue for queue in topology.queues.values() if queue.manage == "full"]
    known = {name for queue in queues for name in (queue.name, *partition_names(queue))}
    found = {f"exchange {spec.name}": _of_exchange(spec) for spec in declared.exchanges}
    for queue in queues:
        spread = {} if queue.partitions is None else {"partitions": queue.partitions}
        found[f"queue {queue.name}"] = {**_of_queue(queue_spec(queue)), **spread}
    found.update({f"queue {spec.name}": _of_queue(spec) for spec in declared.queues if spec.name not in known})
    return found


def resolve(file: File, topology: Topology) -> dict[str, Values]:
    """Return by address what each object resolves to, and which of it the file says.

    Args:
        file: As it was checked.
        topology: As it was built of that file.
    """
    return {
        address: _parted(values, set(_said(file, topology, address)))
        for address, values in properties(topology).items()
    }


def _of_exchange(spec: ExchangeSpec) -> dict[str, Any]:
    own = {"type": spec.type, "durable": spec.durable, "auto_delete": spec.auto_delete, "internal": spec.internal}
    return {**_arguments(spec.arguments, own), **own}


def _of_queue(spec: QueueSpec) -> dict[str, Any]:
    own = {"durable": spec.durable, "auto_delete": spec.auto_delete}
    return {**_arguments(spec.arguments, own), **own}


def _arguments(arguments: Table, own: Collection[str]) -> dict[str, Any]:
    return {
        f"extra_arguments.{key}" if key in own else key: value for key, value in arguments.items() if value is not None
    }


def _parted(values: Table, said: set[str]) -> Values:
    return Values(
        {key: values.get(key) for key in said}, {key: value for key, value in values.items() if key not in said}
    )


def _said(file: File, topology: Topology, address: str) -> Iterator[str]:
    """Walk what the file itself says of an object."""
    kind, _, name = address.partition(" ")
    if kind == "exchange":
        yield from _said_of_exchange(file, topology, name)
    elif name in file.queues:
        yield from _said_of_queue(file, name, file.queues[name])
    elif name == topology.revocations:
        yield "x-max-age"  # that is `control.revocations`
    elif name.startswith(f"{topology.project}.delay.") and "unit" in file.delays.model_fields_set:
        yield "x-message-ttl"


def _said_of_exchange(file: File, topology: Topology, name: str) -> Iterator[str]:
    part = file.exchanges.get(topology.renamed.get(name, name))
    behind = queue_behind(topology, name)
    if part is not None:
        yield from (argument for key, argument in EXCHANGE_ARGUMENTS.items() if key in part.model_fields_set)
        yield from _arguments(part.extra_arguments, EXCHANGE_ARGUMENTS)
    elif behind is not None and behind in file.queues and "partition_by" in file.queues[behind].model_fields_set:
        yield from ("hash-header", "hash-property")


def _said_of_queue(file: File, name: str, part: QueuePart) -> Iterator[str]:
    for key, arguments in ARGUMENTS.items():
        section, _, inner = key.partition(".")
        if section in part.model_fields_set:
            below = getattr(part, section) if inner else None
            if below is None or inner in below.model_fields_set:
                yield from arguments
    yield from _arguments(part.extra_arguments, ("durable", "auto_delete"))
    takes_dead_letters = any(entry.queue == name for entry in file.dead_letters.values())
    no_choice = takes_dead_letters or name == DEFAULT_DEAD_LETTER.format(project=file.project)
    if no_choice or part.type == "stream" or DEAD_LETTER[0] in part.extra_arguments:
        yield from DEAD_LETTER


# ---------------------------------------------------------------------------------------------------------- comparing


def differences(locked: Objects, now: Objects) -> Iterator[Difference]:
    """Walk what differs, in the order of the lock's addresses."""
    for address in sorted({*locked, *now}):
        before, after = locked.get(address), now.get(address)
        if before is None or after is None:
            yield Difference(address, "", before and before.whole, after and after.whole)
            continue
        had, has = before.whole, after.whole
        for key in sorted({*had, *has}):
            if not _same(had.get(key), has.get(key)):
                yield Difference(address, key, had.get(key), has.get(key), _is_meant(key, before, after))


def is_stale(locked: Locked, topology: Topology) -> bool:
    """Whether a topology resolves to something else than its lock says."""
    return not _same({address: values.whole for address, values in locked.objects.items()}, properties(topology))


def _same(before: object, after: object) -> bool:
    return _text(before) == _text(after)  # 1 and true are equal in Python, and two values to the broker


def _is_meant(key: str, before: Values, after: Values) -> bool:
    if key in before.said or key in after.said:
        return True
    return any(
        (other in before.said or other in after.said) and not _same(before.whole.get(other), after.whole.get(other))
        for other in _FOLLOWS.get(key, ())
    )


# ------------------------------------------------------------------------------------------------------------ the text


def beside(topology_file: Path) -> Path:
    """Return where the lock of a topology file is."""
    return topology_file.with_name(NAME)


def render(lock: Lock) -> str:
    """Write a lock: sorted, a value to a line, so that a change of one is a change of one line."""
    projects: dict[str, Any] = {}
    for (project, environment), locked in lock.entries.items():
        entry = {"amqpq": locked.amqpq, "objects": {name: _parts(each) for name, each in locked.objects.items()}}
        if environment is None:
            projects.setdefault(project, {})["base"] = entry
        else:
            projects.setdefault(project, {}).setdefault("environments", {})[environment] = entry
    whole = {"amqpq_lock": FORMAT, "projects": projects}
    return json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _parts(values: Values) -> dict[str, Any]:
    parts = {"file": dict(values.said), "default": dict(values.filled)}
    return {name: part for name, part in parts.items() if part}


def parse(text: str) -> Lock:
    """Read a lock.

    Raises:
        ConfigurationError: It is none, or of a newer amqpq.
    """
    try:
        found = json.loads(text)
        if found["amqpq_lock"] != FORMAT:
            raise ConfigurationError(
                f"it is of format {found['amqpq_lock']}, and this amqpq reads {FORMAT}; use the amqpq that wrote it"
            )
        return Lock(dict(_entries(found["projects"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else repr(error)
        remedy = "take the one of git again, or remove it and lock every environment"
        raise ConfigurationError(f"it cannot be read ({what}); {remedy}") from error


def _entries(projects: Any) -> Iterator[tuple[tuple[str, str | None], Locked]]:
    for project, entry in projects.items():
        if "base" in entry:
            yield (project, None), _locked(entry["base"])
        for environment, each in entry.get("environments", {}).items():
            yield (project, environment), _locked(each)


def _locked(entry: Any) -> Locked:
    return Locked(
        str(entry["amqpq"]),
        {
            address: Values(dict(values.get("file", {})), dict(values.get("default", {})))
            for address, values in entry["objects"].items()
        },
    )


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
