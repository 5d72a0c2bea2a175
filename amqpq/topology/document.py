"""The shape of a topology file: which keys there are, what they hold, what they mean.

These models are the one source of the format: they check a file, name its keys in errors, and make the JSON Schema that
editors use. They hold shape only. What refers to what, and what RabbitMQ makes of it, is the business of
`amqpq.topology.lint`; parts of the format whose machinery does not exist yet are refused in `amqpq.topology.unbuilt`.

Validation is strict: a number is not text and text is not a number, because the broker tells them apart.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, JsonValue, WithJsonSchema

from amqpq.topology import values
from amqpq.topology.document_changes import DecommissionPart, MovedPart
from amqpq.topology.document_checks import CheckPart
from amqpq.topology.document_lint import LintPart
from amqpq.topology.document_part import Part
from amqpq.topology.values import Arguments, Compression, Duration, Manage, RateText, Reply, Scalar, Serializer, Size


def _accepted() -> list[Serializer]:
    return ["msgpack", "json"]


# ------------------------------------------------------------------------------------------------------ the file's head


class RequiresPart(Part):
    """What the file needs of the broker."""

    rabbitmq: Annotated[str, BeforeValidator(values.requirement)] = Field(
        default=">=3.10", description="Versions the file is for, e.g. '>=3.10,<5'; lint uses the lowest."
    )


class VariablePart(Part):
    """A value from outside, used as ${NAME}."""

    type: Literal["string", "int", "float", "bool", "duration", "size", "secret"] = Field(
        default="string",
        description="What the value is; '32' read from the environment becomes a number where this says int.",
    )
    from_: str | None = Field(
        default=None,
        alias="from",
        description="Where it comes from: 'env:NAME' or 'file:PATH'. Default: env:<the variable's name>.",
    )
    default: JsonValue = Field(default=None, description="The value where its source has none.")


class AllowPart(Part):
    """What a change may do without asking."""

    delete: bool = Field(default=False, description="Whether objects may be deleted.")
    migrate: Literal["never", "reviewed", "auto"] = Field(
        default="auto",
        description="How migrations are released: never; reviewed, with what --dry said; auto, when asked.",
    )


class TlsPart(Part):
    """How to trust a broker reached over amqps://."""

    verify: Literal["peer", "none"] = Field(
        default="peer", description="peer checks the certificate and the host name."
    )
    ca: str | None = Field(default=None, description="File with the authorities to trust; default: the system's.")
    cert: str | None = Field(default=None, description="File with the client's certificate.")
    key: str | None = Field(default=None, description="File with the client's private key.")


class BrokerPart(Part):
    """Where the broker is."""

    url: Annotated[
        list[str],
        BeforeValidator(values.listed),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(
        default_factory=lambda: ["amqp://guest:guest@localhost:5672/"],
        min_length=1,
        description="amqp:// or amqps:// URL, or a list: the nodes of one cluster. $AMQPQ_BROKER_URL overrides it.",
    )
    management: str | None = Field(
        default=None,
        description="URL of the HTTP API, http(s)://user:password@host:15672; without a login, the one of broker.url. "
        "$AMQPQ_MANAGEMENT_URL overrides it.",
    )
    tls: TlsPart | None = Field(default=None, description="TLS settings; only with amqps://.")
    heartbeat: Duration = Field(default=30.0, ge=0, description="Heartbeat interval; 0s switches heartbeats off.")
    consumer_timeout: Duration | None = Field(
        default=None, gt=0, description="What consumer_timeout in rabbitmq.conf says, where it differs from 30m."
    )


# ---------------------------------------------------------------------------------------------------- broker's objects


class ExchangePart(Part):
    """An exchange."""

    type: Literal["direct", "topic", "fanout", "headers", "x-consistent-hash"] = Field(
        default="direct", description="How it chooses the queues of a message."
    )
    durable: bool = Field(default=True, description="Whether it survives a restart of the broker.")
    auto_delete: bool = Field(default=False, description="Whether it goes away with its last binding.")
    internal: bool = Field(default=False, description="Whether only other exchanges may feed it.")
    unrouted: str | None = Field(
        default=None, description="The exchange that takes what matches no binding (alternate exchange)."
    )
    manage: Manage = Field(
        default="full", description="full: declared; verify: must exist, never declared; external: ignored."
    )
    extra_arguments: Arguments = Field(default_factory=dict, description="Further arguments, passed as they are.")


class LimitsPart(Part):
    """How much a queue may hold."""

    max_length: int | None = Field(default=None, ge=0, description="Ready messages at most.")
    max_length_bytes: Size | None = Field(default=None, ge=0, description="Bytes of ready messages at most.")
    overflow: Literal["drop-head", "reject-publish", "reject-publish-dlx"] | None = Field(
        default=None, description="What happens to a message too many; the broker's default is drop-head."
    )


class RetentionPart(Part):
    """How long a stream keeps its messages."""

    max_age: Annotated[str, Field(pattern=r"^[1-9]\d*[YMDhms]$")] | None = Field(
        default=None, description="As the broker writes it: 30D, 12h."
    )
    max_bytes: Size | None = Field(default=None, ge=1, description="Bytes at most.")
    segment: Size | None = Field(default=None, ge=1, description="Bytes of one segment file.")


class PartitionByPart(Part):
    """What the partition of a message is chosen by, instead of its routing key."""

    header: str | None = Field(default=None, min_length=1, description="A header of the message.")
    property: Literal["correlation_id", "message_id"] | None = Field(
        default=None, description="A property of the message; both are the task's id, so that tasks spread evenly."
    )


class QueuePart(Part):
    """A queue."""

    type: Literal["classic", "quorum", "stream"] = Field(
        default="classic", description="quorum is replicated in a cluster."
    )
    durable: bool = Field(default=True, description="Whether it survives a restart of the broker.")
    auto_delete: bool = Field(default=False, description="Whether it goes away with its last consumer.")
    max_priority: int | None = Field(
        default=None, ge=1, le=255, description="Highest priority; classic queues only, use at most 10."
    )
    delivery_limit: int | None = Field(
        default=None, ge=-1, description="Deliveries before a dead letter; quorum queues only."
    )
    consumer_timeout: Duration | None = Field(
        default=None, gt=0, description="How long a worker may hold a message; RabbitMQ 3.12 and later."
    )
    single_active: bool = Field(default=False, description="Whether one consumer at a time gets the messages.")
    ttl: Duration | None = Field(default=None, ge=0, description="How long a message may wait in it.")
    expires: Duration | None = Field(
        default=None, gt=0, description="How long it may stay unused before it is deleted."
    )
    limits: LimitsPart | None = Field(default=None, description="How much it may hold.")
    retention: RetentionPart | None = Field(default=None, description="How long a stream keeps its messages.")
    dead_letter: str | None = Field(
        default=None,
        description="A name under `dead_letters`, or none (dropped with a log line). Absent: the queue <project>.dead.",
    )
    require: Literal["signed", "optional"] | None = Field(
        default=None, description="Overrides security.require for this queue."
    )
    partitions: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Physical queues behind a consistent-hash exchange, <name>.0 and so on.",
    )
    partition_by: PartitionByPart | None = Field(
        default=None, description="What chooses the partition of a message; default: its routing key."
    )
    manage: Manage = Field(
        default="full", description="full: declared; verify: must exist, never declared; external: ignored."
    )
    extra_arguments: Arguments = Field(default_factory=dict, description="Further arguments, passed as they are.")


class BindingPart(Part):
    """A binding, written out; short form: `source[key, key] -> target`."""

    from_: str = Field(alias="from", description="The exchange messages come from.")
    to: str = Field(description="The queue, or the exchange, they go to; a queue where both have the name.")
    keys: list[str] = Field(default_factory=list, description="Binding keys; each makes a binding of its own.")
    headers: dict[str, Scalar] | None = Field(
        default=None,
        description="For headers exchanges: what the message's headers must be; null asks for presence only.",
    )
    match: Literal["all", "any", "all-with-x", "any-with-x"] | None = Field(
        default=None, description="How the headers combine."
    )
    as_: Literal["queue", "exchange"] | None = Field(
        default=None, alias="as", description="What the target is, where both exist."
    )
    extra_arguments: Arguments = Field(default_factory=dict, description="Further arguments, passed as they are.")


AnyBinding: TypeAlias = Annotated[
    BindingPart,
    BeforeValidator(values.binding, json_schema_input_type=str | BindingPart),
]

# ------------------------------------------------------------------------------------------------------------- messages


class BackoffPart(Part):
    """How the wait between attempts grows."""

    min: Duration = Field(default=1.0, ge=0, description="The first wait.")
    max: Duration = Field(default=600.0, ge=0, description="The longest wait.")
    factor: float = Field(default=2.0, ge=1, strict=False, description="What each wait is multiplied by.")
    jitter: bool = Field(default=True, description="Whether waits are spread at random.")


class RetriesPart(Part):
    """What happens to a task that failed."""

    max: int = Field(default=0, ge=0, description="Attempts after the first, whatever the function raised.")
    backoff: BackoffPart | None = Field(default=None, description="The waits between attempts.")
    then: Literal["dead", "drop"] = Field(default="dead", description="What happens after the last attempt.")


class RoutePart(Part):
    """Where the tasks of a name (or pattern) are published, and what their messages get there."""

    exchange: str | None = Field(default=None, description="The exchange.")
    key: str | None = Field(
        default=None,
        description="Routing key; {task} is what the pattern's * matched, {x} the call's keyword argument x.",
    )
    queue: str | None = Field(default=None, description="Instead of exchange: straight into this queue.")
    priority: int | None = Field(default=None, ge=0, le=255, description="Priority of the messages.")
    expires: Duration | None = Field(
        default=None, gt=0, description="How long a task may wait before it is not run any more."
    )
    compression: Literal["zlib", "bzip2", "none", "default"] = Field(
        default="default", description="Overrides messages.compression."
    )
    serializer: Serializer | None = Field(default=None, description="Overrides messages.serializer.")
    reply: Reply | None = Field(default=None, description="Overrides replies.mode.")
    retries: RetriesPart | None = Field(default=None, description="Instead of the topology's retries, as a whole.")


class TaskLimitPart(Part):
    """How much of some tasks all workers together do."""

    rate: RateText | None = Field(default=None, description="Beginnings in a time: 100/m, 10/s, 30/h.")
    concurrency: int | None = Field(default=None, ge=1, le=10_000, description="Tasks that run at a time.")
    key: str | None = Field(
        default=None, min_length=1, description="An argument of the task: that many at a time for each of its values."
    )
    slots: int | None = Field(
        default=None, ge=2, le=1024, description="With key: how many permit queues its values share. Default: 64."
    )


class CompressionPart(Part):
    """Which messages are compressed."""

    algorithm: Compression = Field(description="zlib, bzip2 or none.")
    above: Size = Field(default=4096, ge=0, description="Smaller bodies travel as they are.")


class MessagesPart(Part):
    """Defaults for every message the project publishes."""

    serializer: Serializer = Field(default="msgpack", description="How arguments and results are written.")
    accept: list[Serializer] = Field(
        default_factory=_accepted, min_length=1, description="What is decoded when it arrives."
    )
    compression: (
        Annotated[
            CompressionPart,
            BeforeValidator(values.algorithm, json_schema_input_type=Compression | CompressionPart),
        ]
        | None
    ) = Field(default=None, description="An algorithm, or {algorithm, above}.")
    max_size: Size = Field(
        default=16 * 1024 * 1024, ge=1, description="Ceiling before publishing and when decompressing."
    )
    persistent: bool = Field(default=True, description="Whether messages survive a restart of the broker.")
    confirm: bool = Field(default=True, description="Whether a publish waits for the broker's word.")
    mandatory: bool = Field(default=True, description="Whether an unroutable message is an error.")


class RepliesPart(Part):
    """How results come back."""

    mode: Reply = Field(default="task", description="task: one queue per task; direct: at most once, fastest; none.")
    expires: Duration = Field(default=86400.0, gt=0, description="How long an unfetched result is kept.")
    persistent: bool = Field(default=True, description="Whether results survive a restart of the broker.")


class DeadLetterPart(Part):
    """Where dead letters go."""

    queue: str = Field(description="The queue; a durable classic queue is made where `queues` does not have it.")


class ControlPart(Part):
    """What workers remember of remote control."""

    revocations: Duration | None = Field(
        default=None,
        ge=60,
        description="How long revoked tasks are remembered across restarts of workers, in the stream <project>.revocations.",
    )


class DelaysPart(Part):
    """The delay ladder in the broker."""

    unit: Duration = Field(default=0.125, gt=0, description="The finest step; delays are rounded up to it.")
    max: Duration = Field(default=30 * 86400.0, gt=0, description="The longest delay.")


# ------------------------------------------------------------------------------------------------------------- security


class SigningPart(Part):
    """The key this host signs with."""

    algorithm: Literal["ed25519", "hmac-sha256", "x509"] = Field(default="ed25519", description="The kind of the key.")
    key: str | None = Field(
        default=None,
        description="File with the private key; for hmac-sha256 env:NAME or file:PATH. Default: keys/<project>.pem.",
    )
    key_id: str | None = Field(
        default=None, min_length=1, description="The name others know the key by. Default: the project."
    )


class TrustPart(Part):
    """A key whose signatures are accepted."""

    key: str = Field(description="File with the public key; for hmac-sha256 env:NAME or file:PATH.")
    may: list[str] | None = Field(
        default=None, description="Task-name patterns, and the words results and control. Default: everything."
    )


class EncryptionPart(Part):
    """Which messages are encrypted."""

    profile: str | None = Field(default=None, description="A name for it.")
    algorithm: Literal["aes-256-gcm"] = Field(default="aes-256-gcm", description="The cipher.")
    key: str = Field(description="A reference: env:NAME or file:PATH.")
    tasks: list[str] = Field(default_factory=list, description="Task-name patterns.")


class PermissionPart(Part):
    """What a user of the broker may do; regular expressions over names, empty ones grant nothing."""

    configure: str = Field(default="", description="Exchanges and queues to declare and delete.")
    write: str = Field(default="", description="Exchanges to publish to.")
    read: str = Field(default="", description="Queues to consume from.")


class SecurityPart(Part):
    """Who may say what."""

    signing: Annotated[
        SigningPart | None,
        BeforeValidator(values.off, json_schema_input_type=SigningPart | Literal["off", False]),
    ] = Field(default_factory=SigningPart, description="The key this host signs with, or off.")
    trust: dict[str, TrustPart] = Field(
        default_factory=dict, description="Key id to the key whose signatures are accepted."
    )
    require: Literal["signed", "optional"] | None = Field(
        default=None, description="Whether unsigned messages are refused. Default: signed, unless signing is off."
    )
    control: Literal["signed", "inspect", "unsigned"] | None = Field(
        default=None,
        description="What unsigned control messages, as Celery's tools send them, may do: nothing but ping (signed), look "
        "(inspect), everything (unsigned). Default: signed where messages must be signed, else unsigned.",
    )
    replay_window: Duration = Field(
        default=600.0,
        gt=0,
        description="How long a worker remembers a message against replays, and how far ahead a sender's clock may be.",
    )
    permissions: dict[str, PermissionPart] = Field(
        default_factory=dict,
        description="What the broker's users may do, by their names; for checks, never applied.",
    )
    encryption: EncryptionPart | None = Field(default=None, description="Which messages are encrypted.")


# ------------------------------------------------------------------------------------------------------------- the rest


class SchedulePart(Part):
    """A task that runs by the clock."""

    task: str = Field(description="The task's name.")
    cron: str | None = Field(default=None, description="Five fields: minute, hour, day of month, month, day of week.")
    every: Duration | None = Field(default=None, gt=0, description="Instead of cron: an interval.")
    zone: str = Field(default="UTC", description="Time zone of the cron fields.")
    misfire: Literal["run-once", "skip", "run-all"] = Field(
        default="run-once", description="What happens to missed times."
    )
    args: list[JsonValue] = Field(default_factory=list, description="Arguments of the call.")
    kwargs: dict[str, JsonValue] = Field(default_factory=dict, description="Keyword arguments of the call.")


class PolicyPart(Part):
    """A hand-written policy."""

    pattern: str = Field(description="Regular expression over names.")
    apply_to: Literal["all", "exchanges", "queues", "classic_queues", "quorum_queues", "streams"] = Field(
        default="all", description="Which objects it is for."
    )
    priority: int = Field(default=0, description="The highest one that matches applies.")
    definition: dict[str, JsonValue] = Field(description="The policy's keys and values.")


class PolicyBandPart(Part):
    """The priorities of generated policies."""

    from_: int = Field(
        alias="from", default=500, description="The lowest one, which they have where nothing is in the way."
    )
    to: int = Field(default=599, description="The highest one.")
    inherit: bool = Field(
        default=False, description="Whether they may hide a policy of others; they take over what it says."
    )


MaybeExchange: TypeAlias = Annotated[ExchangePart, BeforeValidator(values.nothing_is_empty)]
MaybeQueue: TypeAlias = Annotated[QueuePart, BeforeValidator(values.nothing_is_empty)]


class File(Part):
    """A topology file of amqpq: exchanges, queues, bindings and routes on RabbitMQ, and the defaults of its messages."""

    amqpq: Literal[1] = Field(description="Version of the format.")
    project: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", description="Owner of what is declared; names generated objects."
    )
    requires: RequiresPart = Field(default_factory=RequiresPart, description="What the file needs of the broker.")
    variables: dict[str, VariablePart] = Field(
        default_factory=dict, description="Values from outside, used as ${NAME}."
    )
    environments: dict[str, dict[str, JsonValue]] = Field(
        default_factory=dict,
        description="Named overlays, chosen with -e: deep-merged over the file; null removes a key.",
    )
    allow: AllowPart = Field(default_factory=AllowPart, description="What a change may do without asking.")
    broker: BrokerPart = Field(default_factory=BrokerPart, description="Where the broker is.")
    exchanges: dict[str, MaybeExchange] = Field(default_factory=dict, description="Exchanges by name.")
    queues: dict[str, MaybeQueue] = Field(default_factory=dict, description="Queues by name.")
    bindings: list[AnyBinding] = Field(default_factory=list, description="Which exchange feeds what.")
    routes: dict[str, RoutePart] = Field(
        default_factory=dict, description="Task name, or pattern with *, to where it is published."
    )
    limits: dict[str, TaskLimitPart] = Field(
        default_factory=dict, description="Task name, or pattern with *, to what all workers together keep."
    )
    messages: MessagesPart = Field(default_factory=MessagesPart, description="Defaults for all that is published.")
    replies: RepliesPart = Field(default_factory=RepliesPart, description="How results come back.")
    retries: RetriesPart = Field(default_factory=RetriesPart, description="What happens to a task that failed.")
    dead_letters: dict[str, DeadLetterPart] = Field(default_factory=dict, description="Where dead letters go, by name.")
    delays: DelaysPart = Field(default_factory=DelaysPart, description="The delay ladder in the broker.")
    control: ControlPart = Field(default_factory=ControlPart, description="What workers remember of remote control.")
    security: SecurityPart = Field(default_factory=SecurityPart, description="Who may say what.")
    schedule: dict[str, SchedulePart] = Field(default_factory=dict, description="Tasks that run by the clock.")
    policies: dict[str, PolicyPart] = Field(default_factory=dict, description="Hand-written policies.")
    policy_band: PolicyBandPart = Field(
        default_factory=PolicyBandPart, description="The priorities of generated policies."
    )
    moved: list[MovedPart] = Field(default_factory=list, description="Exchanges and queues that have another name now.")
    decommission: DecommissionPart = Field(default_factory=DecommissionPart, description="What is to go.")
    checks: list[CheckPart] = Field(default_factory=list, description="Unit tests of the wiring.")
    lint: LintPart = Field(default_factory=LintPart, description="What lint makes of its findings.")
