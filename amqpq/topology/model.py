"""A topology as values: what exists on the broker, which task travels which way, and the defaults of its messages.

Nothing here reads a file, knows YAML or opens a connection; `amqpq.topology.loading` makes these values. All of them are
frozen and can be pickled. Mappings keep the order of the file. A password never appears in a `repr`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from amqpq.errors import LocalError, NoRoute
from amqpq.rates import Rate
from amqpq.topology.address import Broker, Requires
from amqpq.topology.expected import Check
from amqpq.types import BindingSpec, Table

Manage: TypeAlias = Literal["full", "verify", "external"]
"""full: ours to declare; verify: must exist, never declared; external: taken as given, not even looked at."""

ExchangeType: TypeAlias = Literal["direct", "topic", "fanout", "headers", "x-consistent-hash"]
QueueType: TypeAlias = Literal["classic", "quorum", "stream"]
ApplyTo: TypeAlias = Literal["all", "exchanges", "queues", "classic_queues", "quorum_queues", "streams"]
ControlRule: TypeAlias = Literal["signed", "inspect", "unsigned"]
"""What an unsigned control message may do: nothing but ping, look, everything."""
ReplyMode: TypeAlias = Literal["task", "direct", "none"]

Binding: TypeAlias = BindingSpec
"""One binding of the file: one source, one target, one key."""

ROUTING_KEY_LIMIT_BYTES: Final = 255
"""A routing key is a short string on the wire (AMQP 0-9-1, section 4.2.5.3)."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_PARTITION = re.compile(r"(?P<whole>.+)\.(?P<number>0|[1-9][0-9]{0,3})", re.DOTALL)
"""The name of a partition; there are 1024 at most."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


# -------------------------------------------------------------------------------------------------- broker's objects


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange of the file. `unrouted` is its alternate exchange. `generated` marks one that the file did not write out."""

    name: str
    type: ExchangeType = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    unrouted: str | None = None
    manage: Manage = "full"
    extra_arguments: Table = field(default_factory=dict)
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a queue may hold; `overflow` says what happens to the rest. None is no limit, or the broker's default."""

    max_length: int | None = None
    max_length_bytes: int | None = None
    overflow: Literal["drop-head", "reject-publish", "reject-publish-dlx"] | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a stream keeps its messages."""

    max_age: str | None = None
    """As the broker writes it, `30D`."""
    max_bytes: int | None = None
    segment_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the file. `dead_letter` is the name of the queue its dead letters go to, None where they are dropped.

    `generated` marks a queue that the file did not write out: for dead letters, or of the delay ladder. One with `partitions`
    is that many queues on the broker (`amqpq.topology.partitions`), which are told apart by a hash of the routing key, or of what
    `hash_header` or `hash_property` names; `part_of` is set in those.
    """

    name: str
    type: QueueType = "classic"
    durable: bool = True
    auto_delete: bool = False
    max_priority: int | None = None
    delivery_limit: int | None = None
    consumer_timeout_seconds: float | None = None
    single_active: bool = False
    ttl_seconds: float | None = None
    expires_seconds: float | None = None
    limits: Limits = field(default_factory=Limits)
    retention: Retention = field(default_factory=Retention)
    dead_letter: str | None = None
    partitions: int | None = None
    hash_header: str | None = None
    hash_property: str | None = None
    part_of: str | None = None
    manage: Manage = "full"
    extra_arguments: Table = field(default_factory=dict)
    generated: bool = False

    def partition_name(self, number: int) -> str:
        """Return the name of a partition, from 0."""
        return f"{self.name}.{number}"

    def partition(self, number: int) -> Queue:
        """Return a partition, as the broker has it."""
        return replace(self, name=self.partition_name(number), partitions=None, part_of=self.name)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy of the file: what the broker adds to all objects whose name matches `pattern`."""

    name: str
    pattern: str
    apply_to: ApplyTo = "all"
    priority: int = 0
    definition: Table = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyBand:
    """The priorities of generated policies. `inherit`: they may hide a policy of others, and take over what it says."""

    first: int = 500
    last: int = 599
    inherit: bool = False


@dataclass(frozen=True, slots=True)
class Allow:
    """What a change may do without asking."""

    delete: bool = False
    migrate: Literal["never", "reviewed", "auto"] = "auto"


# -------------------------------------------------------------------------------------------------------------- tasks


@dataclass(frozen=True, slots=True)
class Route:
    """Where tasks whose name matches `pattern` are published, and what their messages get there.

    `exchange` is empty for the default exchange. None leaves a choice to the project's defaults (`compression`: the word
    `default` does, None means uncompressed).
    """

    pattern: str
    exchange: str = ""
    key: str = ""
    priority: int | None = None
    expires_seconds: float | None = None
    compression: str | None = "default"
    serializer: str | None = None
    reply: ReplyMode | None = None
    retries: Retries | None = None

    def matches(self, task: str) -> bool:
        """Whether the route is for this task name."""
        return glob(self.pattern).fullmatch(task) is not None

    def routing_key(self, task: str, kwargs: Mapping[str, Any] | None = None) -> str:
        """Fill the key's template.

        Args:
            task: The task's name. `{task}` is what the pattern's `*` matched in it, or all of it.
            kwargs: The call's keyword arguments, for the other fields. Text and whole numbers only.

        Raises:
            LocalError: A field is missing or cannot be part of a key, or the key is too long.
        """
        if "{" not in self.key:
            return self.key
        key = _FIELD.sub(lambda match: self._fill(match.group(1), task, kwargs or {}), self.key)
        if len(key.encode()) > ROUTING_KEY_LIMIT_BYTES:
            msg = f"the routing key of task '{task}' has more than {ROUTING_KEY_LIMIT_BYTES} bytes: '{key[:60]}...'"
            raise LocalError(msg)
        return key

    def fields(self) -> tuple[str, ...]:
        """The names the key's template needs, `task` among them."""
        return tuple(dict.fromkeys(_FIELD.findall(self.key)))

    def _fill(self, name: str, task: str, kwargs: Mapping[str, Any]) -> str:
        if name == "task":
            match = glob(self.pattern).fullmatch(task)
            return match.group(1) if match is not None and match.groups() else task
        if name not in kwargs:
            msg = (
                f"the route '{self.pattern}' needs a keyword argument '{name}' for its key '{self.key}', and the call of "
                f"'{task}' has none{did_you_mean(name, kwargs)}; pass it by keyword"
            )
            raise LocalError(msg)
        value = kwargs[name]
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            msg = (
                f"the route '{self.pattern}' puts '{name}' into its key '{self.key}': that takes text or a whole number, "
                f"not {value!r:.60}"
            )
            raise LocalError(msg)
        return str(value)


@cache
def glob(pattern: str) -> re.Pattern[str]:
    """Compile a task-name pattern: `*` is any text, dots included; every other character is itself.

    Patterns come from files, so there are as many as somebody has written. A bounded memory is worse than none where all are
    tried in turn and there is one more of them: 2,000 routes took minutes.
    """
    return re.compile("(.*)".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)


@dataclass(frozen=True, slots=True)
class TaskLimit:
    """What all workers together keep for the tasks whose name matches `pattern`: a rate, or how many run at a time.

    With `key`, that many run at a time for each value of this argument; the values share `slots` slots.
    """

    pattern: str
    rate: Rate | None = None
    concurrency: int = 0
    key: str | None = None
    slots: int = 64

    def matches(self, task: str) -> bool:
        """Whether the limit is for this task name."""
        return glob(self.pattern).fullmatch(task) is not None


@dataclass(frozen=True, slots=True)
class MessageDefaults:
    """What every message of the project gets unless its route, task or call says otherwise."""

    serializer: str = "msgpack"
    accept: tuple[str, ...] = ("msgpack", "json")
    compression: str | None = None
    compress_above: int = 4096
    """Bytes; smaller bodies travel as they are."""
    max_size: int = 16 * 1024 * 1024
    """Bytes, before publishing and after decompressing."""
    persistent: bool = True
    confirm: bool = True
    mandatory: bool = True


@dataclass(frozen=True, slots=True)
class ReplyDefaults:
    """How results come back."""

    mode: ReplyMode = "task"
    expires_seconds: float = 86400.0
    persistent: bool = True


@dataclass(frozen=True, slots=True)
class Backoff:
    """How the wait between attempts grows; `jitter` takes up to half of it off, at random."""

    min_seconds: float = 1.0
    max_seconds: float = 600.0
    factor: float = 2.0
    jitter: bool = True

    def wait_seconds(self, retries: int, chance: float) -> float:
        """Return the wait after `retries` earlier ones; `chance` is from 0 to 1, at random."""
        try:
            grown = self.min_seconds * self.factor**retries
        except OverflowError:
            grown = self.max_seconds
        whole = min(grown, self.max_seconds)
        return whole * (0.5 + 0.5 * chance) if self.jitter else whole


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a task that failed is tried again, whatever it raised, and what becomes of it after the last attempt."""

    max: int = 0
    backoff: Backoff = field(default_factory=Backoff)
    then: Literal["dead", "drop"] = "dead"


@dataclass(frozen=True, slots=True)
class Delays:
    """The delay ladder (`amqpq.topology.delays`). `lost` is the queue for what is due and has no queue any more."""

    unit_seconds: float
    max_seconds: float
    lost: str
    urgent_lane: bool = False
    """Whether messages of high priority have levels of their own (`delays.URGENT_PRIORITY`)."""


# ----------------------------------------------------------------------------------------------------------- security


@dataclass(frozen=True, slots=True)
class Signing:
    """The key this host signs with. `key` is a path or a reference (`env:NAME`, `file:PATH`), never the key itself."""

    algorithm: Literal["ed25519", "hmac-sha256"]
    key: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Trust:
    """A key whose signatures are accepted, for what `may` lists: task-name patterns, the words `results` and `control`.

    None is everything.
    """

    key: str
    may: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Permission:
    """What a user of the broker may do, as three regular expressions over names of exchanges and queues."""

    configure: str = ""
    write: str = ""
    read: str = ""


@dataclass(frozen=True, slots=True)
class Security:
    """Signatures: made with what, accepted from whom. `signing` is None where it is switched off."""

    signing: Signing | None = None
    trust: Mapping[str, Trust] = field(default_factory=dict)
    require: Literal["signed", "optional"] = "signed"
    control: ControlRule = "signed"
    replay_window_seconds: float = 600.0
    permissions: Mapping[str, Permission] = field(default_factory=dict)
    """Of the broker's users. Checked, never applied."""


# ------------------------------------------------------------------------------------------------------------ control


@dataclass(frozen=True, slots=True)
class ControlMemory:
    """What workers remember of remote control. `revocations_seconds` None: revoked tasks, until the worker ends."""

    revocations_seconds: float | None = None


# ----------------------------------------------------------------------------------------------------------- topology


@dataclass(frozen=True, slots=True)
class Topology:
    """One project's topology.

    `path` is the (first) file it came from, None for a mapping; relative paths in it resolve from `base`.
    """

    project: str
    path: Path | None
    base: Path
    requires: Requires = field(default_factory=Requires)
    environment: str | None = None
    broker: Broker = field(default_factory=Broker)
    exchanges: Mapping[str, Exchange] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    bindings: tuple[Binding, ...] = ()
    routes: tuple[Route, ...] = ()
    limits: tuple[TaskLimit, ...] = ()
    messages: MessageDefaults = field(default_factory=MessageDefaults)
    replies: ReplyDefaults = field(default_factory=ReplyDefaults)
    retries: Retries = field(default_factory=Retries)
    delays: Delays | None = None
    """None where the file uses none."""
    security: Security = field(default_factory=Security)
    control: ControlMemory = field(default_factory=ControlMemory)
    checks: tuple[Check, ...] = ()
    policies: Mapping[str, Policy] = field(default_factory=dict)
    policy_band: PolicyBand = field(default_factory=PolicyBand)
    allow: Allow = field(default_factory=Allow)
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Exchanges by their old names, and their new ones."""
    formers: Mapping[str, str] = field(default_factory=dict)
    """Queues that were renamed, and their former names; see `amqpq.topology.renames`."""
    decommissioned: frozenset[str] = frozenset()
    """Addresses (`queue old`) of what is to go."""

    def route_for(self, task: str) -> Route:
        """Find the route of a task: the one with exactly its name, else the first in file order whose pattern matches.

        Raises:
            NoRoute: There is none.
        """
        for route in self.routes:
            if route.pattern == task:
                return route
        for route in self.routes:
            if route.matches(task):
                return route
        known = ", ".join(f"'{route.pattern}'" for route in self.routes) or "none"
        near = did_you_mean(task, [route.pattern for route in self.routes])
        msg = (
            f"no route matches the task '{task}'{near}; routes of project '{self.project}': {known}. "
            "Add one under `routes:`, or name a queue in the call"
        )
        raise NoRoute(msg)

    def limit_for(self, task: str) -> TaskLimit | None:
        """Find the limit of a task: the one with exactly its name, else the first in file order whose pattern matches."""
        exact = next((limit for limit in self.limits if limit.pattern == task), None)
        return exact or next((limit for limit in self.limits if limit.matches(task)), None)

    @property
    def revocations(self) -> str | None:
        """The stream in which revoked tasks are remembered, or None where the file has none."""
        return f"{self.project}.revocations" if self.control.revocations_seconds is not None else None

    def queue(self, name: str) -> Queue | None:
        """Return the queue of this name, or the partition; None where there is neither."""
        found = self.queues.get(name)
        if found is not None:
            return found
        match = _PARTITION.fullmatch(name)
        whole = None if match is None else self.queues.get(match["whole"])
        if match is None or whole is None or int(match["number"]) >= (whole.partitions or 0):
            return None
        return whole.partition(int(match["number"]))

    def dead_letter_of(self, queue: str) -> str | None:
        """Return the queue that takes the dead letters of `queue`, or None where they are dropped.

        Raises:
            LocalError: The file has no such queue.
        """
        found = self.queue(queue)
        if found is None:
            msg = f"the topology has no queue '{queue}'{did_you_mean(queue, self.queues)}"
            raise LocalError(msg)
        return found.dead_letter

    def retries_of(self, task: str) -> Retries:
        """Return what holds for a task that failed: what its route says, else what the topology does."""
        try:
            return self.route_for(task).retries or self.retries
        except NoRoute:
            return self.retries

    def is_dead_letter(self, queue: str) -> bool:
        """Whether `queue` takes the dead letters of another queue, or of the delay ladder."""
        return queue in self.dead_letter_queues()

    def dead_letter_queues(self) -> frozenset[str]:
        """Return all of them: who asks for many queues asks once."""
        lost = () if self.delays is None else (self.delays.lost,)
        letters = (queue.dead_letter for queue in self.queues.values())
        return frozenset([*lost, *(name for name in letters if name is not None)])
