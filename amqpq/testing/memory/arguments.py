"""Which declarations the in-memory broker takes, and RabbitMQ's words for those it does not. Pure.

Values and equivalence follow `rabbit_amqqueue` and `rabbit_exchange`: a value that makes no sense is a 406, and so is a
second declaration that differs. An argument that the broker knows but this model does not honour is refused with
`NotBuiltYet`: a test that passes because an argument was ignored is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from amqpq.errors import NotBuiltYet
from amqpq.testing.memory.values import PRECONDITION_FAILED, Limits, Refused
from amqpq.topology.partitions import EXCHANGE_TYPE
from amqpq.types import ExchangeSpec, QueueSpec, Table

EXCHANGE_TYPES = frozenset({"direct", "topic", "fanout", "headers", EXCHANGE_TYPE})
_HASH_PROPERTIES = frozenset({"correlation_id", "message_id"})
MAX_EXPIRY_MS = 315_360_000_000
"""Ten years: the longest time RabbitMQ takes (MAX_EXPIRY_TIMER)."""
_MAX_PRIORITY = 255
_ABSENT = object()

Check: TypeAlias = Callable[[Any], "str | None"]
"""Answers what is wrong with a value, in RabbitMQ's words, or None."""


def _whole(minimum: int = 0, maximum: int | None = None) -> Check:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return f'"expected integer, got {kind_of(value)}"'
        if value < minimum:
            return f"{{value_zero,{value}}}" if value == 0 else f"{{value_negative,{value}}}"
        return f"{{value_too_large,{value}}}" if maximum is not None and value > maximum else None

    return check


def _one_of(complaint: str, *choices: str) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return f"{{unacceptable_type,{kind_of(value)}}}"
        return None if value in choices else complaint.format(value)

    return check


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"{{unacceptable_type,{kind_of(value)}}}"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{{unacceptable_type,{kind_of(value)}}}"


def _priority(value: Any) -> str | None:
    problem = _whole()(value)
    return problem or (None if value <= _MAX_PRIORITY else f"{{max_value_exceeded,{value}}}")


_COMMON: Mapping[str, Check] = {
    "x-queue-type": _one_of("\"unsupported queue type '{}'\"", "classic", "quorum"),
    "x-message-ttl": _whole(0, MAX_EXPIRY_MS),
    "x-expires": _whole(1, MAX_EXPIRY_MS),
    "x-max-length": _whole(),
    "x-max-length-bytes": _whole(),
    "x-dead-letter-exchange": _text,
    "x-dead-letter-routing-key": _text,
    "x-single-active-consumer": _flag,
}
_CLASSIC: Mapping[str, Check] = {
    **_COMMON,
    "x-overflow": _one_of("invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx"),
    "x-max-priority": _priority,
    "x-queue-mode": _one_of(
        "\"unsupported queue mode '{}'\"", "default", "lazy"
    ),  # where bodies lie; here is one place
    "x-queue-version": _whole(1),
}
_QUORUM: Mapping[str, Check] = {
    **_COMMON,
    "x-overflow": _one_of("invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx"),
    "x-delivery-limit": lambda value: None if value == -1 else _whole()(value),
    "x-quorum-initial-group-size": _whole(1),
    "x-queue-leader-locator": _one_of("invalid_queue_locator_arg", "client-local", "balanced"),  # there is one node
    "x-dead-letter-strategy": _one_of("invalid_dlx_strategy", "at-most-once", "at-least-once"),
}
_NOT_MODELLED_ON_QUORUM = (
    ("x-overflow", "reject-publish-dlx"),  # RabbitMQ takes it and does something else
    ("x-delivery-limit", -1),  # means another thing on 3.x than on 4.x
)


def read_queue(spec: QueueSpec, vhost: str) -> Limits:
    """Check a declaration and read its arguments.

    Raises:
        Refused: RabbitMQ would answer 406.
        NotBuiltYet: RabbitMQ would take it, but the model does not honour it.
    """
    arguments = spec.arguments
    kind = arguments.get("x-queue-type", "classic")
    if kind == "stream":
        raise NotBuiltYet("not built yet: the in-memory broker has no streams")
    checks = _QUORUM if kind == "quorum" else _CLASSIC
    for name, value in arguments.items():
        if name not in checks:
            if name in _CLASSIC or name in _QUORUM:
                text = (
                    f"invalid arg '{name}' for queue '{spec.name}' in vhost '{vhost}' of queue type rabbit_{kind}_queue"
                )
                raise Refused(PRECONDITION_FAILED, text)
            raise NotBuiltYet(f"not built yet: the in-memory broker does not model the queue argument {name}")
        problem = checks[name](value)
        if problem is not None:
            raise Refused(PRECONDITION_FAILED, _complaint(name, value, problem, spec.name, vhost))
        if kind == "quorum" and (name, value) in _NOT_MODELLED_ON_QUORUM:
            raise NotBuiltYet(f"not built yet: the in-memory broker does not model {name}: {value} on quorum queues")
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        text = (
            f"invalid arg 'x-dead-letter-routing-key' for queue '{spec.name}' in vhost '{vhost}': "
            "routing_key_but_no_dlx_defined"
        )
        raise Refused(PRECONDITION_FAILED, text)
    if kind == "quorum":
        _check_quorum(spec, vhost)
    return Limits(
        quorum=kind == "quorum",
        ttl_seconds=_seconds(arguments.get("x-message-ttl")),
        expires_seconds=_seconds(arguments.get("x-expires")),
        max_length=arguments.get("x-max-length"),
        max_bytes=arguments.get("x-max-length-bytes"),
        overflow=arguments.get("x-overflow", "drop-head"),
        dead_exchange=arguments.get("x-dead-letter-exchange"),
        dead_key=arguments.get("x-dead-letter-routing-key"),
        dead_at_least_once=arguments.get("x-dead-letter-strategy") == "at-least-once",
        max_priority=arguments.get("x-max-priority", 0),
        delivery_limit=arguments.get("x-delivery-limit"),
        single_active=arguments.get("x-single-active-consumer", False),
        arguments=dict(arguments),
    )


def _complaint(name: str, value: object, problem: str, queue: str, vhost: str) -> str:
    if name.startswith("x-dead-letter-") and "unacceptable_type" in problem:  # RabbitMQ words these in its own way
        return f"invalid type '{kind_of(value)}' for arg '{name}' in queue '{queue}' in vhost '{vhost}'"
    return f"invalid arg '{name}' for queue '{queue}' in vhost '{vhost}': {problem}"


def _check_quorum(spec: QueueSpec, vhost: str) -> None:
    wrong = "non-durable" if not spec.durable else "exclusive-owner" if spec.exclusive else ""
    wrong = wrong or ("auto-delete" if spec.auto_delete else "")
    if wrong:
        text = f"invalid property '{wrong}' for queue '{spec.name}' in vhost '{vhost}'"
        raise Refused(PRECONDITION_FAILED, text)


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def check_exchange(spec: ExchangeSpec) -> None:
    """Check an exchange's type and arguments.

    Raises:
        Refused: RabbitMQ would answer 406.
        NotBuiltYet: The model has no such type or argument.
    """
    if spec.type not in EXCHANGE_TYPES:
        raise NotBuiltYet(f"not built yet: the in-memory broker has no exchanges of type {spec.type!r}")
    hashing = {"hash-header", "hash-property"} if spec.type == EXCHANGE_TYPE else set()
    if hashing <= spec.arguments.keys() and hashing:
        raise Refused(PRECONDITION_FAILED, "hash-header and hash-property are mutually exclusive")
    if hashing and spec.arguments.get("hash-property", "message_id") not in _HASH_PROPERTIES:
        raise Refused(PRECONDITION_FAILED, f"Unsupported property: {spec.arguments['hash-property']}")
    for name, value in spec.arguments.items():
        if name in hashing:
            continue
        if name != "alternate-exchange":
            raise NotBuiltYet(f"not built yet: the in-memory broker does not model the exchange argument {name}")
        if not isinstance(value, str):
            raise Refused(PRECONDITION_FAILED, f"invalid arg 'alternate-exchange' for exchange '{spec.name}'")


def check_weight(key: str) -> None:
    """Check the key of a binding to a consistent-hash exchange: how many places it has in the ring.

    Raises:
        Refused: RabbitMQ would answer 406.
    """
    try:
        weight = int(key)
    except ValueError:
        raise Refused(PRECONDITION_FAILED, f"The binding key must be an integer: '{key}'") from None
    if weight < 1:
        raise Refused(PRECONDITION_FAILED, "The binding key must be greater than 0")


def same_queue(wanted: QueueSpec, current: QueueSpec, vhost: str) -> None:
    """Compare a second declaration of a queue with the first.

    Raises:
        Refused: They differ; the first difference is named with both values.
    """
    where = f"for queue '{current.name}' in vhost '{vhost}'"
    _same_flag("durable", where, wanted.durable, current.durable)
    _same_flag("auto_delete", where, wanted.auto_delete, current.auto_delete)
    if _type_of(wanted) != _type_of(current):
        _same_argument("x-queue-type", where, wanted.arguments, current.arguments)
    for name in dict.fromkeys((*_CLASSIC, *_QUORUM)):
        if name != "x-queue-type":
            _same_argument(name, where, wanted.arguments, current.arguments)


def same_exchange(wanted: ExchangeSpec, current: ExchangeSpec, vhost: str) -> None:
    """Compare a second declaration of an exchange with the first.

    Raises:
        Refused: They differ; the first difference is named with both values.
    """
    where = f"for exchange '{current.name}' in vhost '{vhost}'"
    if wanted.type != current.type:
        _differ("type", where, f"'{wanted.type}'", f"'{current.type}'")
    for name in ("durable", "auto_delete", "internal"):
        _same_flag(name, where, getattr(wanted, name), getattr(current, name))
    _same_argument("alternate-exchange", where, wanted.arguments, current.arguments)


def _type_of(spec: QueueSpec) -> object:
    """A missing `x-queue-type` means classic."""
    return spec.arguments.get("x-queue-type", "classic")


def _same_flag(name: str, where: str, wanted: bool, current: bool) -> None:  # noqa: FBT001 - two values of one kind
    if wanted != current:
        _differ(name, where, f"'{str(wanted).lower()}'", f"'{str(current).lower()}'")


def _same_argument(name: str, where: str, wanted: Table, current: Table) -> None:
    left, right = wanted.get(name, _ABSENT), current.get(name, _ABSENT)
    if left is right or (type(left) is type(right) and left == right):
        return
    if left is _ABSENT:
        _differ(name, where, "none", f"the value '{_shown(right)}' of type '{kind_of(right)}'")
    if right is _ABSENT:
        _differ(name, where, f"the value '{_shown(left)}' of type '{kind_of(left)}'", "none")
    _differ(name, where, f"'{_shown(left)}'", f"'{_shown(right)}'")


def _differ(name: str, where: str, received: str, current: str) -> None:
    raise Refused(
        PRECONDITION_FAILED, f"inequivalent arg '{name}' {where}: received {received} but current is {current}"
    )


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def kind_of(value: object) -> str:
    """What RabbitMQ calls the type of a field value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "signedint" if -0x80000000 <= value <= 0x7FFFFFFF else "long"  # noqa: PLR2004 - 32 bits
    return {str: "longstr", float: "double", bytes: "binary", list: "array", dict: "table"}.get(type(value), "void")
