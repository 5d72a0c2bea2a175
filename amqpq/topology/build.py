"""From a checked file to the `Topology`: defaults filled in, dead letters and targets resolved.

It tolerates references to nowhere (lint reports them), so that every rule can look at the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from amqpq.rates import rate_of
from amqpq.topology import document, model, versions
from amqpq.topology.address import Broker, Requires, Tls
from amqpq.topology.delays import URGENT_PRIORITY
from amqpq.topology.document import BindingPart, File, QueuePart, RoutePart
from amqpq.topology.document_checks import CheckPart
from amqpq.topology.expected import Check, ExpireCheck, FailCheck, PermissionCheck, PublishCheck
from amqpq.topology.partitions import DELIVERY_LIMIT, exchange_name
from amqpq.topology.problems import Findings

DEFAULT_DEAD_LETTER: Final = "{project}.dead"
"""The queue generated where a file says nothing about dead letters."""

_OVERTAKING: Final = ((4, 0, 0), (4, 1, 0), (4, 2, 0))
"""Versions in which urgent messages overtake in quorum queues, although they are not due."""

DEFAULT_SLOTS: Final = 64
"""Permit queues of a limit with a key: about 2 MB of the broker's memory. When ten values run at a time, the odds are even
that two of them share a slot, and one waits for the other."""

REVOCATIONS_SEGMENT_BYTES: Final = 500_000

DROPPED: Final = "none"
"""What `dead_letter:` says where dead letters are dropped."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a topology comes from."""

    path: Path | None
    base: Path
    environment: str | None


def build(file: File, findings: Findings, origin: Origin) -> model.Topology:
    """Make the topology a checked file describes."""
    queues = _queues(file)
    delays = _delays(file, queues)
    return model.Topology(
        project=file.project,
        path=origin.path,
        base=origin.base,
        environment=origin.environment,
        requires=_requires(file),
        broker=_broker(file.broker, origin.base),
        exchanges={name: _exchange(name, part) for name, part in file.exchanges.items()},
        queues=queues,
        bindings=tuple(binding for part in file.bindings for binding in bindings_of(part, file, queues)),
        routes=_routes(file, queues),
        limits=tuple(_limit(pattern, part) for pattern, part in file.limits.items() if is_whole(part)),
        messages=_messages(file.messages),
        replies=model.ReplyDefaults(
            mode=cast("model.ReplyMode", file.replies.mode),
            expires_seconds=file.replies.expires,
            persistent=file.replies.persistent,
        ),
        retries=_retries(file.retries),
        delays=delays,
        security=_security(file),
        control=model.ControlMemory(file.control.revocations),
        checks=tuple(
            check
            for index, part in enumerate(file.checks)
            if (check := _check(part, str(findings.place(("checks", index))))) is not None
        ),
        policies={name: _policy(name, part) for name, part in file.policies.items()},
        policy_band=model.PolicyBand(file.policy_band.from_, file.policy_band.to, file.policy_band.inherit),
        allow=model.Allow(file.allow.delete, file.allow.migrate),
        renamed={
            part.from_.removeprefix("exchange."): part.to.removeprefix("exchange.")
            for part in file.moved
            if part.from_.startswith("exchange.")
        },
        formers=_formers(file, queues),
        decommissioned=frozenset(
            [
                *(f"queue {name}" for name in file.decommission.queues),
                *(f"exchange {name}" for name in file.decommission.exchanges),
            ]
        ),
    )


# ------------------------------------------------------------------------------------------------------------- broker


def _requires(file: File) -> Requires:
    return Requires(file.requires.rabbitmq, versions.lowest(file.requires.rabbitmq))


def _broker(part: document.BrokerPart, base: Path) -> Broker:
    tls = part.tls
    return Broker(
        urls=tuple(part.url),
        management=part.management,
        tls=None
        if tls is None
        else Tls(
            verify=tls.verify,
            ca=None if tls.ca is None else base / tls.ca,
            cert=None if tls.cert is None else base / tls.cert,
            key=None if tls.key is None else base / tls.key,
        ),
        heartbeat_seconds=round(part.heartbeat),
        consumer_timeout_seconds=part.consumer_timeout,
    )


def _exchange(name: str, part: document.ExchangePart) -> model.Exchange:
    return model.Exchange(
        name=name,
        type=part.type,
        durable=part.durable,
        auto_delete=part.auto_delete,
        internal=part.internal,
        unrouted=part.unrouted,
        manage=part.manage,
        extra_arguments=part.extra_arguments,
    )


# ------------------------------------------------------------------------------------------------------------- queues


def _queues(file: File) -> dict[str, model.Queue]:
    default = DEFAULT_DEAD_LETTER.format(project=file.project)
    targets = {part.queue for part in file.dead_letters.values()}
    queues = {
        name: _queue(name, part, _dead_letter(file, name, part, targets, default)) for name, part in file.queues.items()
    }
    used = {queue.dead_letter for queue in queues.values()} - {None}
    for name in [*(part.queue for part in file.dead_letters.values()), default]:
        if name not in queues and (name in targets or name in used):
            queues[name] = model.Queue(name=name, generated=True)
    if file.control.revocations is not None:
        revocations = _revocations(file.project, file.control.revocations)
        queues.setdefault(revocations.name, revocations)
    return queues


def _formers(file: File, queues: Mapping[str, model.Queue]) -> dict[str, str]:
    pairs = [(part.from_.partition("."), part.to.partition(".")) for part in file.moved]
    return {
        new: old
        for (kind, _, old), (_, _, new) in pairs
        if kind == "queue" and new in queues and queues[new].manage == "full"
    }


def _delays(file: File, queues: dict[str, model.Queue]) -> model.Delays | None:
    """Return the ladder where something of the file uses it; sees to a queue for what finds no other at its end."""
    retried = file.retries.max or any(part.retries is not None and part.retries.max for part in file.routes.values())
    if "delays" not in file.model_fields_set and not retried:
        return None
    default = DEFAULT_DEAD_LETTER.format(project=file.project)
    dead = [queue.dead_letter for queue in queues.values() if queue.dead_letter is not None]
    lost = default if default in dead or not dead else dead[0]
    queues.setdefault(lost, model.Queue(name=lost, generated=True))
    overtaking = any(versions.allows(file.requires.rabbitmq, version) for version in _OVERTAKING)
    urgent = any((queue.max_priority or 0) >= URGENT_PRIORITY for queue in queues.values()) or any(
        (route.priority or 0) >= URGENT_PRIORITY for route in file.routes.values()
    )
    return model.Delays(file.delays.unit, file.delays.max, lost, urgent_lane=overtaking and urgent)


def _revocations(project: str, seconds: float) -> model.Queue:
    """Return the stream of revocations: every worker reads all of it, which no other kind of queue allows."""
    # The broker drops whole segments once all in them is too old (https://www.rabbitmq.com/docs/streams#retention), so
    # they are small; each entry says itself until when it counts.
    retention = model.Retention(max_age=f"{math.ceil(seconds)}s", segment_bytes=REVOCATIONS_SEGMENT_BYTES)
    return model.Queue(name=f"{project}.revocations", type="stream", retention=retention, generated=True)


def _dead_letter(file: File, name: str, part: QueuePart, targets: set[str], default: str) -> str | None:
    """Return the queue for the dead letters of a queue; one that takes dead letters has itself none, nor has a stream."""
    if name in targets or name == default or part.type == "stream":
        return None
    if "dead_letter" not in part.model_fields_set:
        return default
    if part.dead_letter is None or part.dead_letter == DROPPED or part.dead_letter not in file.dead_letters:
        return None
    return file.dead_letters[part.dead_letter].queue


def _queue(name: str, part: QueuePart, dead_letter: str | None) -> model.Queue:
    limits, retention = part.limits, part.retention
    ordered = part.type == "quorum" and part.single_active and part.partitions is not None
    return model.Queue(
        name=name,
        type=part.type,
        durable=part.durable,
        auto_delete=part.auto_delete,
        max_priority=part.max_priority,
        delivery_limit=DELIVERY_LIMIT if ordered and part.delivery_limit is None else part.delivery_limit,
        consumer_timeout_seconds=part.consumer_timeout,
        single_active=part.single_active,
        ttl_seconds=part.ttl,
        expires_seconds=part.expires,
        limits=model.Limits()
        if limits is None
        else model.Limits(limits.max_length, limits.max_length_bytes, limits.overflow),
        retention=model.Retention()
        if retention is None
        else model.Retention(retention.max_age, retention.max_bytes, retention.segment),
        dead_letter=dead_letter,
        partitions=part.partitions,
        hash_header=None if part.partition_by is None else part.partition_by.header,
        hash_property=None if part.partition_by is None else part.partition_by.property,
        manage=part.manage,
        extra_arguments=part.extra_arguments,
    )


def bindings_of(part: BindingPart, file: File, queues: Mapping[str, model.Queue]) -> list[model.Binding]:
    """Return the bindings one entry stands for: one for each key."""
    guessed = "exchange" if part.to not in queues and part.to in file.exchanges else "queue"
    to_exchange = (part.as_ or guessed) == "exchange"
    arguments: dict[str, Any] = {}
    if part.headers is not None or part.match is not None:
        arguments = {"x-match": part.match or "all", **(part.headers or {})}
    arguments.update(part.extra_arguments)
    return [
        model.Binding(source=part.from_, target=part.to, key=key, to_exchange=to_exchange, arguments=arguments)
        for key in part.keys or [""]
    ]


# ------------------------------------------------------------------------------------------------------ tasks, messages


def _routes(file: File, queues: dict[str, model.Queue]) -> tuple[model.Route, ...]:
    """Return the routes; a file without any sends every task to the queue `default`, or to its only one."""
    if file.routes:
        return tuple(_route(pattern, part, queues) for pattern, part in file.routes.items())
    dead = {queue.dead_letter for queue in queues.values()}
    candidates = [q.name for q in queues.values() if not q.generated and q.name not in dead and q.type != "stream"]
    chosen = "default" if "default" in candidates else candidates[0] if len(candidates) == 1 else None
    if chosen is None or (queues[chosen].partitions and queues[chosen].hash_property is None):
        return ()  # what is the key of a partition, or the header, only the file can say
    return (_route("*", RoutePart(queue=chosen), queues),)


def _route(pattern: str, part: RoutePart, queues: Mapping[str, model.Queue]) -> model.Route:
    exchange, key = part.exchange or "", part.key or ""
    if part.queue is not None:
        spread = part.queue in queues and queues[part.queue].partitions
        exchange, key = (exchange_name(part.queue), key) if spread else ("", part.queue)
    return model.Route(
        pattern=pattern,
        exchange=exchange,
        key=key,
        priority=part.priority,
        expires_seconds=part.expires,
        compression=None if part.compression == "none" else part.compression,
        serializer=part.serializer,
        reply=cast("model.ReplyMode | None", part.reply),
        retries=None if part.retries is None else _retries(part.retries),
    )


def _retries(part: document.RetriesPart) -> model.Retries:
    backoff = part.backoff or document.BackoffPart()
    return model.Retries(
        max=part.max,
        backoff=model.Backoff(backoff.min, backoff.max, backoff.factor, backoff.jitter),
        then=part.then,
    )


def is_whole(part: document.TaskLimitPart) -> bool:
    """Whether a limit says one thing; lint reports those that do not."""
    return (part.rate is None) is not (part.concurrency is None)


def _limit(pattern: str, part: document.TaskLimitPart) -> model.TaskLimit:
    return model.TaskLimit(
        pattern=pattern,
        rate=rate_of(part.rate),
        concurrency=part.concurrency or 0,
        key=part.key if part.rate is None else None,
        slots=part.slots or DEFAULT_SLOTS,
    )


def _messages(part: document.MessagesPart) -> model.MessageDefaults:
    compression = part.compression
    algorithm = None if compression is None or compression.algorithm == "none" else compression.algorithm
    return model.MessageDefaults(
        serializer=part.serializer,
        accept=tuple(part.accept),
        compression=algorithm,
        compress_above=4096 if compression is None else compression.above,
        max_size=part.max_size,
        persistent=part.persistent,
        confirm=part.confirm,
        mandatory=part.mandatory,
    )


def _security(file: File) -> model.Security:
    part = file.security
    signing = None
    if part.signing is not None:
        signing = model.Signing(
            algorithm=cast("Any", part.signing.algorithm),
            key=part.signing.key if part.signing.key is not None else f"keys/{file.project}.pem",
            key_id=part.signing.key_id or file.project,
        )
    return model.Security(
        signing=signing,
        trust={
            key_id: model.Trust(trust.key, None if trust.may is None else tuple(trust.may))
            for key_id, trust in part.trust.items()
        },
        require=effective_requirement(file),
        control=part.control or ("signed" if effective_requirement(file) == "signed" else "unsigned"),
        replay_window_seconds=part.replay_window,
        permissions={
            user: model.Permission(permission.configure, permission.write, permission.read)
            for user, permission in part.permissions.items()
        },
    )


def effective_requirement(file: File) -> Any:
    """Return whether messages must be signed: as the file says, else yes unless signing is off."""
    if file.security.require is not None:
        return file.security.require
    return "signed" if file.security.signing is not None else "optional"


def _policy(name: str, part: document.PolicyPart) -> model.Policy:
    return model.Policy(name, part.pattern, part.apply_to, part.priority, part.definition)


def _check(part: CheckPart, place: str) -> Check | None:
    """Return a check; None for one that says too little, which lint reports."""
    if part.publish is not None:
        return PublishCheck(
            task=part.publish.task,
            arguments=part.publish.with_,
            exchange=part.publish.exchange or "",
            key=part.publish.key,
            headers=part.publish.headers,
            reaches=tuple(part.reaches or ()),
            exactly=part.exactly,
            place=place,
        )
    ends_in = tuple(part.ends_in or ())
    if part.fail is not None:
        fail = part.fail
        return FailCheck(fail.task, fail.with_, fail.queue, fail.how, fail.times, ends_in, part.within, place)
    if part.expire is not None:
        expire = part.expire
        return ExpireCheck(expire.task, expire.with_, expire.queue, expire.after, ends_in, place)
    if part.permission is not None:
        permission = part.permission
        return PermissionCheck(permission.user, tuple(permission.may), permission.object, part.exactly, place)
    return None
