"""Further arguments of exchanges and queues (`extra_arguments`): those that have a key here, and those the broker refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from amqpq.topology import versions
from amqpq.topology.lint import settings
from amqpq.topology.lint.context import Context
from amqpq.topology.model import Queue, did_you_mean

OWN_ARGUMENTS: Final = {
    "x-queue-type": "type",
    "x-max-priority": "max_priority",
    "x-delivery-limit": "delivery_limit",
    "x-consumer-timeout": "consumer_timeout",
    "x-single-active-consumer": "single_active",
    "x-message-ttl": "ttl",
    "x-expires": "expires",
    "x-max-length": "limits.max_length",
    "x-max-length-bytes": "limits.max_length_bytes",
    "x-overflow": "limits.overflow",
    "x-max-age": "retention.max_age",
    "x-stream-max-segment-size-bytes": "retention.segment",
    "x-dead-letter-exchange": "dead_letter",
    "x-dead-letter-routing-key": "dead_letter",
    "alternate-exchange": "unrouted",
}
DEAD_LETTER_ARGUMENTS: Final = ("x-dead-letter-exchange", "x-dead-letter-routing-key")
"""A queue may have them as further arguments: where the broker's own dead letters go another way than `dead_letter`."""
GONE: Final = {
    "x-queue-mode": "lazy queues are how classic queues work now",
    "x-queue-version": "version 1 is gone",
    "x-queue-master-locator": "use x-queue-leader-locator",
}
"""Arguments that RabbitMQ 4.3 refuses (release notes of 4.3.0)."""

_POLICY_COULD: Final = frozenset({"x-dead-letter-strategy", "x-consumer-disconnected-timeout", "x-delayed-retry-type"})
"""Arguments that a policy could carry; as arguments they are there for the life of the queue."""


def of_exchange(context: Context, name: str, arguments: Mapping[str, object]) -> None:
    """Run the rules on the further arguments of an exchange."""
    for argument in arguments:
        if argument in OWN_ARGUMENTS:
            _own(context, ("exchanges", name, "extra_arguments", argument), argument)


def of_queue(context: Context, queue: Queue) -> None:
    """Run the rules on the further arguments of a queue."""
    for argument, value in queue.extra_arguments.items():
        path = ("queues", queue.name, "extra_arguments", argument)
        if argument in DEAD_LETTER_ARGUMENTS:
            continue
        if argument in OWN_ARGUMENTS:
            _own(context, path, argument)
        elif not argument.startswith("x-"):
            message = f"'{argument}' is no queue argument: the broker would store it and never look at it"
            context.findings.error(path, "TOP043", message, "queue arguments begin with 'x-'")
        elif argument not in settings.ARGUMENT_TYPES:
            near = did_you_mean(argument, [*settings.ARGUMENT_TYPES, *OWN_ARGUMENTS])
            if near:
                message = f"RabbitMQ knows no argument {argument}{near}: it would store it and never look at it"
                context.findings.warning(path, "TOP043", message, "correct it, or remove it")
        elif queue.type not in settings.ARGUMENT_TYPES[argument]:
            kinds = " and ".join(sorted(settings.ARGUMENT_TYPES[argument]))
            message = f"{argument} is for {kinds} queues: the broker refuses it for a {queue.type} one"
            context.findings.error(path, "TOP030", message, "remove it, or change the type")
        else:
            _by_version(context, path, argument, value, kind=queue.type)
    own = {name.removeprefix("x-"): value for name, value in queue.extra_arguments.items() if name.startswith("x-")}
    for key, fault in settings.faults(own).items():
        path = ("queues", queue.name, "extra_arguments", f"x-{key}")
        context.findings.error(path, "TOP041", f"x-{key}: {own[key]!r} {fault}")


def _own(context: Context, path: tuple[str, ...], argument: str) -> None:
    message = f"the argument {argument} has a key of its own"
    context.findings.error(path, "TOP043", message, f"write `{OWN_ARGUMENTS[argument]}`")


def _by_version(context: Context, path: tuple[str, ...], argument: str, value: object, *, kind: str) -> None:
    findings, lowest = context.findings, context.lowest
    since = settings.SINCE.get(argument.removeprefix("x-"))
    if argument == "x-queue-leader-locator" and kind == "classic":
        since = settings.CLASSIC_LOCATOR_SINCE
    if since is not None and lowest < since:
        known, asked = versions.show(since), versions.show(lowest)
        message = f"{kind} queues have {argument} from RabbitMQ {known} on, and the file is for {asked}"
        findings.error(path, "TOP033", message, f"require >={known}, or remove it")
    elif argument in GONE and not (argument == "x-queue-version" and value != 1):
        add = findings.error if lowest >= (4, 3, 0) else findings.warning
        add(path, "TOP032", f"RabbitMQ 4.3 refuses {argument}", GONE[argument])
    elif argument in _POLICY_COULD:
        message = f"{argument} stays for the life of the queue; a policy with the same could be changed"
        findings.info(path, "TOP044", message)
