"""From the objects of a virtual host to the shape of a topology file: what the broker holds, in the words of the format.

The result declares exactly what was found. So a queue without dead letters gets `dead_letter: none` in so many words, and
dead-letter arguments that no `dead_letter` stands for stay arguments, under `extra_arguments`. What can neither be said nor kept
makes the object `manage: external`, which leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from amqpq.convert import generated, partitions
from amqpq.convert.objects import PREDECLARED, Objects, Policy, Remark, binding_name, counted, left_out
from amqpq.convert.values import duration
from amqpq.topology import versions
from amqpq.topology.build import DEFAULT_DEAD_LETTER
from amqpq.topology.document import QueuePart
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

Tree: TypeAlias = dict[str, Any]

EXCHANGE_TYPES: Final = frozenset({"direct", "topic", "fanout", "headers"})
QUEUE_TYPES: Final = frozenset({"classic", "quorum", "stream"})
DEAD_EXCHANGE: Final = "x-dead-letter-exchange"
DEAD_KEY: Final = "x-dead-letter-routing-key"
NONE: Final = "none"
CONSUMER_TIMEOUT_SINCE: Final = (3, 12, 0)
"""Of a queue: `x-consumer-timeout` (https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout)."""
UNLIMITED_SINCE: Final = (4, 0, 0)
"""A delivery limit of -1; before, it means 0."""

_PRIORITIES: Final = range(1, 256)
_DURATIONS: Final = {
    "x-consumer-timeout": ("consumer_timeout", 1),
    "x-message-ttl": ("ttl", 0),
    "x-expires": ("expires", 1),
}
"""Arguments in milliseconds: the key of the format, and the least value it takes."""


@dataclass(slots=True)
class Folded:
    """A topology file in the making. Bindings are in the long form."""

    tree: Tree
    remarks: list[Remark] = field(default_factory=list)


def fold(found: Objects, project: str) -> Folded:
    """Return the topology file that declares these objects, before lint has looked at it."""
    parts = generated.split(found, project)
    objects, spread = partitions.fold(parts.objects)
    folding = _Folding(objects, project)
    sections = folding.sections()
    for name, keys in spread.items():
        sections["queues"][name].update(keys)
    tree: Tree = {"amqpq": 1, "project": project}
    if folding.needs > versions.OLDEST:
        tree["requires"] = {"rabbitmq": f">={versions.show(folding.needs)}"}
    tree |= sections | dict(parts.sections)
    remarks = [*found.remarks, *parts.remarks, *folding.remarks]
    policies, generated_policies = _policies(found.policies)
    tree |= {"policies": policies} if policies else {}
    return Folded(tree, [*remarks, *generated_policies])


def _policies(found: Iterable[Policy]) -> tuple[Tree, list[Remark]]:
    """Return the hand-written policies; those that amqpq made are made again."""
    ours = [policy.name for policy in found if policy.name.startswith(generated.OUR_PREFIX)]
    parts = {
        policy.name: {
            "pattern": policy.pattern,
            "apply_to": policy.apply_to,
            "priority": policy.priority,
            "definition": dict(policy.definition),
        }
        for policy in found
        if policy.name not in ours
    }
    return parts, [left_out("policy", name, "amqpq generated it") for name in ours]


class _Folding:
    """Exchanges, queues and bindings on their way into a file."""

    def __init__(self, found: Objects, project: str) -> None:
        self.remarks: list[Remark] = []
        self.needs = versions.OLDEST
        self._version = found.version
        self._objects = self._supported(found)
        self._queues = {queue.name: queue for queue in self._objects.queues}
        self._dead = _DeadLetters(self._objects, DEFAULT_DEAD_LETTER.format(project=project))

    def sections(self) -> Tree:
        """Return the sections `exchanges`, `queues`, `dead_letters` and `bindings`."""
        exchanges = {exchange.name: self._exchange(exchange) for exchange in self._objects.exchanges}
        queues = {queue.name: self._queue(queue) for queue in self._objects.queues if not self._is_default_dead(queue)}
        for name in self._dead.missing:
            queues[name] = {"manage": "external"}
            self.remarks.append(
                Remark("note", "queue", name, "dead letters are sent there, and it is not on the broker")
            )
        bindings = self._bindings(set(exchanges), {*queues, *self._queues})
        self._wire_ends(exchanges)
        sections = {
            "exchanges": exchanges,
            "queues": queues,
            "dead_letters": {name: {"queue": queue} for queue, name in self._dead.names.items()},
            "bindings": bindings,
        }
        self._tell_of_dead_letters()
        return {name: section for name, section in sections.items() if section}

    # ---------------------------------------------------------------------------------------------------- exchanges

    def _supported(self, found: Objects) -> Objects:
        """Leave out what the format has no type for, with its bindings."""
        odd = {
            exchange.name: exchange.type
            for exchange in found.exchanges
            if exchange.type not in EXCHANGE_TYPES and exchange.name not in PREDECLARED
        }
        odd_queues = {queue.name: kind for queue in found.queues if (kind := _type(queue)) not in QUEUE_TYPES}
        for name, kind in odd.items():
            lost = sum(name in {b.source, b.target if b.to_exchange else None} for b in found.bindings)
            with_bindings = f", and {counted(lost, 'binding')} with it" if lost else ""
            self.remarks.append(left_out("exchange", name, f"its type {kind} is none the format has{with_bindings}"))
        for name, kind in odd_queues.items():
            self.remarks.append(left_out("queue", name, f"its type {kind} is none the format has"))
        named = {
            *(end for b in found.bindings for end in (b.source, b.target if b.to_exchange else "")),
            *(str(exchange.arguments.get("alternate-exchange", "")) for exchange in found.exchanges),
        }
        there = {exchange.name for exchange in found.exchanges}
        unused = {name for name in there & PREDECLARED.keys() if name not in named}
        kept = generated.without(found, {*odd, *unused, ""}, set(odd_queues))
        added = [
            ExchangeSpec(name, kind, internal=name.startswith("amq.rabbitmq."))
            for name, kind in PREDECLARED.items()
            if name in named and name not in there
        ]
        return replace(kept, exchanges=(*kept.exchanges, *added))

    def _exchange(self, exchange: ExchangeSpec) -> Tree:
        arguments = dict(exchange.arguments)
        part: Tree = {"type": exchange.type}
        part |= _flags(exchange.durable, exchange.auto_delete)
        if exchange.internal:
            part["internal"] = True
        unrouted = arguments.pop("alternate-exchange", None)
        if isinstance(unrouted, str) and unrouted:
            part["unrouted"] = unrouted
        elif unrouted is not None:
            part["manage"] = "external"
            self.remarks.append(
                Remark(
                    "changed", "exchange", exchange.name, f"alternate-exchange={unrouted!r} is nothing the format says"
                )
            )
        if exchange.name in PREDECLARED:
            part["manage"] = "verify"
        if arguments:
            part["extra_arguments"] = arguments
        return part

    def _wire_ends(self, exchanges: Tree) -> None:
        """Add alternate exchanges that are not on the broker, as somebody else's."""
        for name, part in list(exchanges.items()):
            target = part.get("unrouted")
            if target is not None and target not in exchanges:
                exchanges[target] = {"manage": "external"}
                why = f"'{name}' names it as its alternate exchange, and it is not on the broker or could not be held"
                self.remarks.append(Remark("note", "exchange", target, why))

    # ------------------------------------------------------------------------------------------------------- queues

    def _is_default_dead(self, queue: QueueSpec) -> bool:
        """Whether the file makes this very queue without naming it."""
        plain = queue.durable and not queue.auto_delete and dict(queue.arguments) in ({}, {"x-queue-type": "classic"})
        return queue.name == self._dead.default and plain and self._dead.is_made

    def _queue(self, queue: QueueSpec) -> Tree:
        arguments = dict(queue.arguments)
        kind = _type(queue)
        arguments.pop("x-queue-type", None)
        part: Tree = {"type": kind} if kind != "classic" else {}
        part |= _flags(queue.durable, queue.auto_delete)
        self._heed_versions(queue, arguments)
        part |= _named(kind, arguments)
        part |= self._dead.of(queue)
        if not self._dead.stays(queue):
            arguments.pop(DEAD_EXCHANGE, None)
            arguments.pop(DEAD_KEY, None)
        foreign = [name for name in arguments if not name.startswith("x-")]
        for name in foreign:
            why = f"the argument {name}={arguments.pop(name)!r}: RabbitMQ stores it and never looks at it"
            self.remarks.append(left_out("queue", queue.name, why))
        unsaid = [name for name in arguments if name in _OWN]
        if unsaid:
            part["manage"] = "external"
            shown = ", ".join(f"{name}={arguments.pop(name)!r}" for name in unsaid)
            why = f"{shown} is nothing the format says, so the file only names the queue (`manage: external`)"
            self.remarks.append(Remark("changed", "queue", queue.name, why))
        if arguments:
            part["extra_arguments"] = arguments
        return {key: part[key] for key in QueuePart.model_fields if key in part}

    def _heed_versions(self, queue: QueueSpec, arguments: dict[str, Any]) -> None:
        """Note what the file needs of the broker; leave out what a broker of the version it comes from does not know."""
        if "x-consumer-timeout" in arguments:
            if self._version is not None and self._version < CONSUMER_TIMEOUT_SINCE:
                value = arguments.pop("x-consumer-timeout")
                why = f"x-consumer-timeout={value}: RabbitMQ {versions.show(self._version)} stores it and never looks at it"
                self.remarks.append(left_out("queue", queue.name, why))
            else:
                self.needs = max(self.needs, CONSUMER_TIMEOUT_SINCE)
        if arguments.get("x-delivery-limit") == -1:
            self.needs = max(self.needs, UNLIMITED_SINCE)

    def _tell_of_dead_letters(self) -> None:
        without = [
            queue.name for queue in self._objects.queues if self._dead.drops(queue) and not self._dead.stays(queue)
        ]
        if without:
            why = (
                f"{counted(len(without), 'queue')} without one on the broker ({_some(without)}): `dead_letter: none` keeps it "
                "so, and amqpq's workers drop, with a log line, what they give up on there"
            )
            self.remarks.append(Remark("note", "dead letters", "", why))
        apart = [queue.name for queue in self._objects.queues if self._dead.stays(queue)]
        if apart:
            why = (
                f"{counted(len(apart), 'queue')} with arguments that lead to an exchange, or to a queue that hands on "
                f"({_some(apart)}): they stay, under `extra_arguments`; `dead_letter` says only where amqpq's workers park "
                "what they give up on, and where it is none they drop it, with a log line"
            )
            self.remarks.append(Remark("note", "dead letters", "", why))

    # ----------------------------------------------------------------------------------------------------- bindings

    def _bindings(self, exchanges: set[str], queues: set[str]) -> list[Tree]:
        """Return one entry for all keys that share ends and arguments."""
        entries: dict[str, Tree] = {}
        keys: dict[str, list[str]] = {}
        for binding in dict.fromkeys(map(_Hashable, self._objects.bindings)):
            spec = binding.spec
            if spec.source not in exchanges or spec.target not in (exchanges if spec.to_exchange else queues):
                gone = spec.source if spec.source not in exchanges else spec.target
                self.remarks.append(left_out("binding", binding_name(spec), f"there is no '{gone}'"))
                continue
            identity = repr((spec.source, spec.target, spec.to_exchange, sorted(spec.arguments.items(), key=str)))
            if identity not in entries:
                entries[identity] = self._binding(spec, queues)
                keys[identity] = []
            keys[identity].append(spec.key)
        for identity, entry in entries.items():
            if keys[identity] != [""]:
                entry["keys"] = keys[identity]
        order = ("from", "to", "keys", "headers", "match", "as", "extra_arguments")
        return [{key: entry[key] for key in order if key in entry} for entry in entries.values()]

    @staticmethod
    def _binding(spec: BindingSpec, queues: set[str]) -> Tree:
        entry: Tree = {"from": spec.source, "to": spec.target}
        arguments = dict(spec.arguments)
        scalars = all(not isinstance(value, dict | list) for value in arguments.values())
        if "x-match" in arguments and scalars:
            entry["match"] = arguments.pop("x-match")
            entry["headers"] = arguments
        elif arguments:
            entry["extra_arguments"] = arguments
        if spec.to_exchange and spec.target in queues:
            entry["as"] = "exchange"
        return entry


_OWN: Final = frozenset(
    {*_DURATIONS, "x-max-priority", "x-delivery-limit", "x-single-active-consumer", "x-max-length"}
) | {
    "x-max-length-bytes",
    "x-overflow",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-queue-type",
}
"""Arguments that have a key of their own; lint refuses them among the further ones."""


class _Hashable:
    """A binding as a key: equal where the broker says it is the same one."""

    def __init__(self, spec: BindingSpec) -> None:
        self.spec = spec
        arguments = sorted(spec.arguments.items(), key=str)
        self._identity = repr((spec.source, spec.target, spec.to_exchange, spec.key, arguments))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


# -------------------------------------------------------------------------------------------------------- dead letters


class _DeadLetters:
    """Which queue's dead letters go where, as far as `dead_letter` can say it.

    It can where the arguments lead through the default exchange to a queue at which dead letters rest. They do not rest at a
    queue that hands them on itself (a queue for waiting), nor in a stream. Where they go through another exchange the arguments
    stay, and `dead_letter` names the queue at their end if there is exactly one.
    """

    def __init__(self, found: Objects, default: str) -> None:
        self.default = default
        self._found = found
        self._queues = {queue.name: queue for queue in found.queues}
        self._types = {exchange.name: exchange.type for exchange in found.exchanges}
        self._ends = {queue.name: self._end(queue) for queue in found.queues}
        targets = dict.fromkeys(end for end in self._ends.values() if end is not None)
        self.names = {end: f"{end}-queue" if end == NONE else end for end in targets if end != default}
        """Queue to its name under `dead_letters`."""
        self.missing = [end for end in targets if end not in self._queues and end != default]

    @property
    def is_made(self) -> bool:
        """Whether some queue has its dead letters in the default one, which is what makes it."""
        return self.default in self._ends.values()

    def stays(self, queue: QueueSpec) -> bool:
        """Whether the dead-letter arguments stay arguments."""
        has = DEAD_EXCHANGE in queue.arguments or DEAD_KEY in queue.arguments
        return has and not (self._ends[queue.name] is not None and _is_plain(queue))

    def drops(self, queue: QueueSpec) -> bool:
        """Whether the file has to say that dead letters are dropped."""
        rests = queue.name in self._ends.values() or queue.name == self.default
        return _type(queue) != "stream" and not rests and self._ends[queue.name] is None

    def of(self, queue: QueueSpec) -> Tree:
        """Return the `dead_letter` of a queue, or nothing."""
        end = self._ends[queue.name]
        if end is not None:
            return {} if end == self.default else {"dead_letter": self.names[end]}
        return {"dead_letter": NONE} if self.drops(queue) else {}

    def _end(self, queue: QueueSpec) -> str | None:
        """Return the queue at which the dead letters of this one rest, where that can be told."""
        if _type(queue) == "stream" or queue.name == self.default:
            return None
        if _is_plain(queue):
            end = str(queue.arguments[DEAD_KEY])
        else:
            ends = self._behind(str(queue.arguments.get(DEAD_EXCHANGE, "")), queue.arguments.get(DEAD_KEY))
            if len(ends) != 1:
                return None
            (end,) = ends
        target = self._queues.get(end)
        if end == queue.name or (
            target is not None and (_type(target) == "stream" or DEAD_EXCHANGE in target.arguments)
        ):
            return None
        return end

    def _behind(self, exchange: str, key: object) -> set[str]:
        """Return the queues bound to a fanout exchange, or to a direct one with this key; nothing where more is involved."""
        kind = self._types.get(exchange)
        bindings = [binding for binding in self._found.bindings if binding.source == exchange]
        if kind not in {"fanout", "direct"} or any(binding.to_exchange for binding in bindings):
            return set()
        if kind == "direct" and not isinstance(key, str):
            return set()
        return {binding.target for binding in bindings if kind == "fanout" or binding.key == key}


def _is_plain(queue: QueueSpec) -> bool:
    key = queue.arguments.get(DEAD_KEY)
    return queue.arguments.get(DEAD_EXCHANGE) == "" and isinstance(key, str) and key != ""


# ----------------------------------------------------------------------------------------------------------- arguments


def _type(queue: QueueSpec) -> str:
    return str(queue.arguments.get("x-queue-type", "classic"))


def _flags(durable: bool, auto_delete: bool) -> Tree:  # noqa: FBT001 - the two flags of AMQP, in its order
    part: Tree = {}
    if not durable:
        part["durable"] = False
    if auto_delete:
        part["auto_delete"] = True
    return part


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _named(kind: str, arguments: dict[str, Any]) -> Tree:
    """Return what has a key of its own, and take it out of the arguments."""
    part: Tree = {}
    if _whole(arguments.get("x-max-priority"), 1) and arguments["x-max-priority"] in _PRIORITIES:
        part["max_priority"] = arguments.pop("x-max-priority")
    if _whole(arguments.get("x-delivery-limit"), -1):
        part["delivery_limit"] = arguments.pop("x-delivery-limit")
    if arguments.get("x-single-active-consumer") is True:
        part["single_active"] = arguments.pop("x-single-active-consumer")
    for argument, (key, least) in _DURATIONS.items():
        if _whole(arguments.get(argument), least):
            part[key] = duration(arguments.pop(argument))
    if kind == "stream":
        part |= _section("retention", _take(arguments, _RETENTION))
    else:
        part |= _section("limits", _take(arguments, _LIMITS))
    return part


_LIMITS: Final = {"x-max-length": "max_length", "x-max-length-bytes": "max_length_bytes", "x-overflow": "overflow"}
_RETENTION: Final = {
    "x-max-age": "max_age",
    "x-max-length-bytes": "max_bytes",
    "x-stream-max-segment-size-bytes": "segment",
}


def _take(arguments: dict[str, Any], names: Mapping[str, str]) -> Tree:
    return {key: arguments.pop(name) for name, key in names.items() if name in arguments}


def _section(name: str, values: Tree) -> Tree:
    return {name: values} if values else {}


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ..."


def default_project(found: Objects) -> str:
    """Return a name for the project: the owner of the delay ladder if there is one, else the virtual host."""
    owners = generated.projects_of(found)
    if owners:
        return owners[0]
    letters = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in found.vhost
    )
    return letters.strip("-._")[:63] or "imported"
