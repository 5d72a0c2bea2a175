"""What users of the broker may do, as RabbitMQ reads its permissions. Pure; nothing here is applied to a broker.

The rules, read in `rabbit_auth_backend_internal` and `rabbit_channel` (https://www.rabbitmq.com/docs/access-control#authorisation)
and held against a broker by a test:

* A permission is three regular expressions, to configure, to write and to read. One that matches anywhere in the name of an
  exchange or queue grants it there, so `shop` also grants `workshop`: write `^shop$`. The empty one grants nothing.
* To publish is to write to the exchange; the default exchange has the name `amq.default` there. To consume is to read the
  queue. To declare or delete is to configure; who declares a queue with a dead letter must also read the queue and write to
  the dead-letter exchange, and who declares an exchange with an alternate one must read the first and write to the second.
* Names and patterns are compared byte by byte, as Erlang's `re` does without `unicode`.

Topic permissions, which look at routing keys, are not part of this.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from amqpq.topology.declarations import exchange_spec, queue_spec
from amqpq.topology.expected import OPERATIONS, Operation
from amqpq.topology.model import Permission, Topology
from amqpq.topology.partitions import hash_exchange, physical, queue_behind

Right: TypeAlias = Literal["configure", "write", "read"]

DEFAULT_EXCHANGE_NAME: Final = "amq.default"
"""What the default exchange is called in patterns."""

_READ_DIFFERENTLY: Final = re.compile(r"(?<!\\)\{,|\[\[:|\(\?P[=>]")
"""What Perl's expressions and Python's read differently: open repetitions (before PCRE2 10.43), classes, calls."""


@dataclass(frozen=True, slots=True)
class Need:
    """A right that an operation takes, on what, and the pattern that grants or refuses it."""

    right: Right
    name: str
    pattern: str
    granted: bool

    def __str__(self) -> str:
        """Say it as a line of a trace."""
        if self.granted:
            return f"{self.right} {self.name}: granted by '{self.pattern}'"
        shown = f"'{self.pattern}' does not match" if self.pattern else "there is no pattern, which grants nothing"
        return f"{self.right} {self.name}: refused, {shown}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a user may do something. `refusal`: why nobody may."""

    operation: Operation
    needs: tuple[Need, ...]
    refusal: str = ""

    @property
    def granted(self) -> bool:
        """Whether the broker lets the user."""
        return not self.refusal and bool(self.needs) and all(need.granted for need in self.needs)


def problem(pattern: str) -> str | None:
    """Return why a pattern cannot be understood here as RabbitMQ would, or None."""
    if _READ_DIFFERENTLY.search(pattern):
        return "it is read differently by Erlang and here"
    try:
        _compiled(pattern)
    except (re.error, FutureWarning) as error:
        return f"it is no regular expression that is read alike by Erlang and here ({error})"
    return None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # Python's word for a class that others read differently
        return re.compile((pattern or "^$").encode())


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern grants something on the exchange or queue of this name.

    Raises:
        re.error: It is no pattern (`problem`).
    """
    return _compiled(pattern).search(name.encode()) is not None


def answers(topology: Topology, user: str, name: str) -> tuple[Answer, ...]:
    """Return what a user may do with the exchange, or the queue, of a name; the default exchange has the empty one.

    Raises:
        KeyError: `security.permissions` has no such user.
    """
    permission = topology.security.permissions[user]
    return tuple(_answer(topology, permission, operation, name) for operation in OPERATIONS)


def _answer(topology: Topology, permission: Permission, operation: Operation, name: str) -> Answer:
    exchange, queue = topology.exchanges.get(name), topology.queue(name)
    behind = queue_behind(topology, name)
    if exchange is None and behind is not None:
        exchange = hash_exchange(topology.queues[behind])
    if operation == "publish":
        if exchange is not None and exchange.internal:
            return Answer(operation, (), f"the exchange '{name}' is internal: nobody may publish to it")
        if exchange is None and name:
            return Answer(operation, (), f"'{name}' is no exchange")
        return Answer(operation, (_need(permission, "write", name),))
    if operation == "consume":
        if queue is None:
            return Answer(operation, (), f"'{name}' is no queue")
        return Answer(operation, tuple(_need(permission, "read", each.name) for each in physical(queue)))
    if not name:
        return Answer(operation, (), "nobody may declare or delete the default exchange")
    targets = []
    if exchange is not None:
        targets.append(exchange_spec(exchange).arguments.get("alternate-exchange"))
    if queue is not None:
        targets.append(queue_spec(queue).arguments.get("x-dead-letter-exchange"))
    names = [name] if queue is None else [each.name for each in physical(queue)]
    needs = [_need(permission, "configure", each) for each in names]
    for target in targets:
        if target is not None:
            needs += [*(_need(permission, "read", each) for each in names), _need(permission, "write", target)]
    return Answer(operation, tuple(needs))


def _need(permission: Permission, right: Right, name: str) -> Need:
    pattern: str = getattr(permission, right)
    shown = name or DEFAULT_EXCHANGE_NAME
    return Need(right, shown, pattern, matches(pattern, shown))
