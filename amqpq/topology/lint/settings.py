"""What the broker takes: queue arguments and policy keys, by type of queue and version, and the values of each.

Read from `capabilities()` of the queue types and `rabbit_policies:validate_policy` of RabbitMQ 3.10.8, 4.0.5 and 4.3.6; what
3.10.8 refuses and ignores was also tried. A key of a policy is the argument without `x-`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from amqpq.topology.effective import UNSUPPORTED
from amqpq.topology.versions import Version

QUORUM: Final = frozenset({"quorum"})
STREAM: Final = frozenset({"stream"})

ARGUMENT_TYPES: Final[Mapping[str, frozenset[str]]] = {
    "x-dead-letter-strategy": QUORUM,
    "x-quorum-initial-group-size": QUORUM,
    "x-max-in-memory-length": QUORUM,
    "x-max-in-memory-bytes": QUORUM,
    "x-consumer-disconnected-timeout": QUORUM,
    "x-delayed-retry-type": QUORUM,
    "x-delayed-retry-min": QUORUM,
    "x-delayed-retry-max": QUORUM,
    "x-initial-cluster-size": STREAM,
    "x-stream-filter-size-bytes": STREAM,
    "x-queue-leader-locator": frozenset({"classic", "quorum", "stream"}),
    "x-queue-mode": frozenset({"classic"}),
    "x-queue-version": frozenset({"classic"}),
    "x-queue-master-locator": frozenset({"classic"}),
}
"""Arguments that have no key of their own in the file. One of another type is refused by the declaration (406)."""

POLICY_KEYS: Final = frozenset(
    {"alternate-exchange", "consumer-timeout", "consumer-disconnected-timeout", "dead-letter-exchange"}
    | {"dead-letter-routing-key", "message-ttl", "expires", "max-length", "max-length-bytes", "overflow"}
    | {"queue-mode", "queue-version", "queue-master-locator", "queue-leader-locator", "stream-filter-size-bytes"}
    | {"delayed-retry-type", "delayed-retry-min", "delayed-retry-max"}
    | {"federation-upstream", "federation-upstream-set", "federation-upstream-pattern"}
    | UNSUPPORTED["classic"]
    | UNSUPPORTED["quorum"]
)

SINCE: Final[Mapping[str, Version]] = {
    "consumer-timeout": (3, 12, 0),
    "consumer-disconnected-timeout": (4, 3, 0),
    "stream-filter-size-bytes": (3, 13, 0),
    "delayed-retry-type": (4, 3, 0),
    "delayed-retry-min": (4, 3, 0),
    "delayed-retry-max": (4, 3, 0),
}
"""The first version that knows a key, as an argument."""

CLASSIC_LOCATOR_SINCE: Final[Version] = (4, 3, 0)
"""The first version whose classic queues take x-queue-leader-locator; before, it is one for other types, and refused."""

POLICY_SINCE: Final[Mapping[str, Version]] = {
    **SINCE,
    "delayed-retry-type": (4, 3, 1),
    "delayed-retry-min": (4, 3, 1),
    "delayed-retry-max": (4, 3, 1),
}
"""The same for policies; delayed retries came later there (rabbitmq-server #16395)."""

_AGE = re.compile(r"[1-9]\d*[YMDhms]")


def _words(*known: str) -> Callable[[object], str]:
    return lambda value: "" if value in known else f"must be one of {', '.join(known)}"


def _number(least: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return "" if whole and int(str(value)) >= least else f"must be a whole number of at least {least}"

    return check


def _text(value: object) -> str:
    return "" if isinstance(value, str) else "must be text"


def _age(value: object) -> str:
    fits = isinstance(value, str) and _AGE.fullmatch(value) is not None
    return "" if fits else "must be a number and one of Y, M, D, h, m, s, as in 30D"


VALUES: Final[Mapping[str, Callable[[object], str]]] = {
    "alternate-exchange": _text,
    "dead-letter-exchange": _text,
    "dead-letter-routing-key": _text,
    "message-ttl": _number(0),
    "expires": _number(1),
    "max-length": _number(0),
    "max-length-bytes": _number(0),
    "max-in-memory-length": _number(0),
    "max-in-memory-bytes": _number(0),
    "delivery-limit": _number(-1),
    "consumer-timeout": _number(0),
    "consumer-disconnected-timeout": _number(0),
    "delayed-retry-min": _number(0),
    "delayed-retry-max": _number(0),
    "initial-cluster-size": _number(1),
    "quorum-initial-group-size": _number(1),
    "target-group-size": _number(1),
    "stream-max-segment-size-bytes": _number(1),
    "overflow": _words("drop-head", "reject-publish", "reject-publish-dlx"),
    "dead-letter-strategy": _words("at-most-once", "at-least-once"),
    "delayed-retry-type": _words("disabled", "all", "failed", "returned"),
    "queue-mode": _words("default", "lazy"),
    "queue-leader-locator": _words("client-local", "balanced", "least-leaders", "random"),
    "max-age": _age,
}


def faults(values: Mapping[str, object]) -> dict[str, str]:
    """Return what is wrong with the values of policy keys (or of arguments without their `x-`), by key."""
    found = {key: VALUES[key](value) for key, value in values.items() if key in VALUES}
    found = {key: text for key, text in found.items() if text}
    # The broker looks at each of these by itself, and not at what they make together (RabbitMQ 4.3.5).
    low, high = values.get("delayed-retry-min"), values.get("delayed-retry-max")
    if isinstance(low, int) and isinstance(high, int) and low > high and "delayed-retry-max" not in found:
        found["delayed-retry-max"] = f"is below delayed-retry-min ({low})"
    if values.get("delayed-retry-type") in {"all", "failed", "returned"} and low is None:
        found.setdefault("delayed-retry-type", "needs delayed-retry-min, too")
    return found
