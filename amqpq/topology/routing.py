"""Where a message goes: the routing of RabbitMQ, as a pure function of exchanges, queues and bindings.

The rules, read in `rabbit_exchange`, `rabbit_exchange_type_topic`, `rabbit_exchange_type_headers` and held against a real
broker by a generated test:

* The default exchange (empty name) delivers to the queue whose name equals the routing key; so do its CC and BCC keys.
* Every other exchange is put on a work-list; an exchange reached over a binding or as an alternate exchange joins the list,
  each exchange once per message. A queue gets at most one copy, however many bindings led to it.
* direct: binding key equals a routing key. fanout: always. topic: words between dots, `*` is one word (an empty one
  too), `#` zero or more; wildcards inside a word are literal. The empty routing key has no word at all (`*` does not
  match it).
* headers: keys are ignored. `x-match` is all (default), any, all-with-x or any-with-x; without `-with-x` binding
  arguments that begin with `x-` are skipped. A binding value of None asks for presence only. Values compare decoded:
  1 is neither "1" nor true, text and bytes are alike; 1 is 1.0 in RabbitMQ 3.10, and is not from 4.0 on (measured on
  3.10.8, 4.0.5, 4.3.6). `any` with nothing to compare matches nothing, `all` with nothing matches everything.
* An alternate exchange takes a message when the exchange *itself* matched no binding, not where the bindings that
  matched led nowhere. One that does not exist drops the message.
* CC and BCC headers are further routing keys, for direct and topic exchanges alike.
* x-consistent-hash: exactly one of its bindings, chosen by a hash of the routing key, or of the header that the argument
  `hash-header` names. Which one is the broker's secret: here another hash chooses, as stable as its own. In a topology it makes
  no difference, because the exchange before a partitioned queue is seen with one binding, to that queue by its logical name
  (`partitions.folded`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from amqpq.errors import LocalError
from amqpq.topology.declarations import exchange_spec, queue_spec
from amqpq.topology.delays import ladder
from amqpq.topology.model import Topology, did_you_mean
from amqpq.topology.partitions import EXCHANGE_TYPE, binding_order, folded
from amqpq.topology.renames import alias_specs, forwarding, old_exchanges
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec, Table

DEFAULT_EXCHANGE: Final = ""

STRICT_NUMBERS: Final = (3, 13, 0)
"""From here on headers exchanges tell 1 from 1.0 (message containers; 3.13 itself was not measured)."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a message goes. `exchanges` are those it visited, in order; `steps` tells the way in sentences (if asked for).

    `bindings` are those that matched, and `unrouted` the exchanges that handed it to their alternate exchange.
    """

    queues: frozenset[str]
    exchanges: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    bindings: tuple[BindingSpec, ...] = ()
    unrouted: tuple[str, ...] = ()


class Router:
    """Routes messages through a fixed set of exchanges, queues and bindings. Build another one after a change."""

    def __init__(
        self,
        exchanges: Iterable[ExchangeSpec],
        queues: Iterable[QueueSpec],
        bindings: Iterable[BindingSpec],
        *,
        version: tuple[int, int, int] = (4, 0, 0),
    ) -> None:
        self._exchanges = {exchange.name: exchange for exchange in exchanges}
        self._queues = {queue.name: queue for queue in queues}
        self.version = version
        self._loose_numbers = version < STRICT_NUMBERS
        self._bindings: dict[str, list[tuple[BindingSpec, list[str]]]] = {}
        for binding in bindings:
            # Split once here: a topic exchange looks at the words of every binding for every message.
            self._bindings.setdefault(binding.source, []).append((binding, topic_words(binding.key)))

    @property
    def queues(self) -> Mapping[str, QueueSpec]:
        """The queues, by name."""
        return self._queues

    def has_exchange(self, name: str) -> bool:
        """Whether there is an exchange of this name; the default one is always there."""
        return name == DEFAULT_EXCHANGE or name in self._exchanges

    def route(
        self,
        exchange: str,
        key: str,
        headers: Table | None = None,
        cc: Sequence[str] = (),
        *,
        trace: bool = False,
        properties: Table | None = None,
    ) -> Reach:
        """Return where a message published to `exchange` with `key` goes.

        Args:
            exchange: The exchange; empty for the default one.
            key: The routing key.
            headers: The message's headers; lists under `CC` and `BCC` are further routing keys.
            cc: Further routing keys, as a CC header would hold them.
            trace: Also tell the way, in `steps`.
            properties: The message's, as far as exchanges may hash them.

        Raises:
            LocalError: There is no such exchange (the broker would close the channel with 404).
        """
        table = headers or {}
        keys = (key, *cc, *_listed(table, "CC"), *_listed(table, "BCC"))
        if exchange == DEFAULT_EXCHANGE:
            return self._default(keys, trace=trace)
        if exchange not in self._exchanges:
            msg = f"there is no exchange '{exchange}'{did_you_mean(exchange, self._exchanges)}"
            raise LocalError(msg)
        queues: dict[str, None] = {}
        visited = [exchange]
        steps: list[str] = []
        walked: list[BindingSpec] = []
        unrouted: list[str] = []
        for name in visited:  # grows while it is walked: this is the work-list
            spec = self._exchanges[name]
            matched = self._matched(spec, keys, table, properties or {})
            if trace:
                steps.extend(_tell(spec, binding) for binding in matched)
            walked += matched
            targets = [(binding.target, binding.to_exchange) for binding in matched]
            if not matched:
                targets = self._alternate(spec, keys, steps if trace else None)
                unrouted += [name] if targets else []
            for target, to_exchange in targets:
                if not to_exchange:
                    if target in self._queues:
                        queues[target] = None
                elif target in self._exchanges and target not in visited:
                    visited.append(target)
        return Reach(frozenset(queues), tuple(visited), tuple(steps), tuple(walked), tuple(unrouted))

    def _matched(self, spec: ExchangeSpec, keys: Sequence[str], headers: Table, properties: Table) -> list[BindingSpec]:
        """Return the bindings of an exchange that match."""
        bindings = self._bindings.get(spec.name, [])
        if spec.type == "fanout":
            return [binding for binding, _ in bindings]
        if spec.type == "direct":
            return [binding for binding, _ in bindings if binding.key in keys]
        if spec.type == "topic":
            split = [topic_words(key) for key in keys]
            return [binding for binding, pattern in bindings if any(_words_match(pattern, words) for words in split)]
        if spec.type == "headers":
            loose = self._loose_numbers
            return [
                binding for binding, _ in bindings if headers_match(binding.arguments, headers, loose_numbers=loose)
            ]
        if spec.type == EXCHANGE_TYPE:
            return _hashed([binding for binding, _ in bindings], _hash_value(spec, keys, headers, properties))
        raise LocalError(f"exchange type '{spec.type}' cannot be simulated; known are direct, topic, fanout, headers")

    def _default(self, keys: Sequence[str], *, trace: bool) -> Reach:
        found = frozenset(key for key in keys if key in self._queues)
        if not trace:
            return Reach(found, (DEFAULT_EXCHANGE,))
        steps = tuple(
            f"default exchange: key '{key}' is the name of queue '{key}'"
            if key in found
            else f"default exchange: there is no queue named '{key}'"
            for key in dict.fromkeys(keys)
        )
        return Reach(found, (DEFAULT_EXCHANGE,), steps)

    def _alternate(self, spec: ExchangeSpec, keys: Sequence[str], steps: list[str] | None) -> list[tuple[str, bool]]:
        """Return the alternate exchange as the only target of an exchange that matched nothing."""
        alternate = spec.arguments.get("alternate-exchange")
        words = ", ".join(f"'{key}'" for key in dict.fromkeys(keys))
        text = f"{spec.type} exchange '{spec.name}': no binding matches {words}"
        if alternate is None:
            if steps is not None:
                steps.append(f"{text}, and it has no alternate exchange")
            return []
        known = alternate in self._exchanges
        if steps is not None:
            steps.append(f"{text}; its alternate exchange '{alternate}' {'takes it' if known else 'does not exist'}")
        return [(alternate, True)] if known else []


def reach(
    topology: Topology,
    exchange: str,
    key: str,
    headers: Mapping[str, Any] | None = None,
    cc: Sequence[str] = (),
) -> Reach:
    """Return where a message goes in `topology`, with the way in `steps`.

    Raises:
        LocalError: The topology has no such exchange.
    """
    return router(topology).route(exchange, key, headers, cc, trace=True)


def router(topology: Topology) -> Router:
    """Build the router of a topology; keep it where many messages are routed."""
    rungs, whole = ladder(topology), folded(topology)
    exchanges = (*topology.exchanges.values(), *old_exchanges(topology), *whole.exchanges, *rungs.exchanges)
    return Router(
        (*map(exchange_spec, exchanges), *alias_specs(topology)),
        [queue_spec(queue) for queue in (*topology.queues.values(), *rungs.queues)],
        (*topology.bindings, *forwarding(topology), *whole.bindings, *rungs.bindings),
        version=topology.requires.lowest,
    )


# ------------------------------------------------------------------------------------------------------- dead letters

REJECTED: Final = "rejected"
EXPIRED: Final = "expired"
DELIVERY_LIMIT: Final = "delivery_limit"
"""Reasons of dead letters, as `x-death` writes them."""

Deaths: TypeAlias = tuple[tuple[str, str], ...]
"""Queue and reason of each death of a message, the newest first; a pair that comes again moves to the front."""

ORDERED_DEATHS: Final = (3, 13, 0)
"""From here on deaths keep their order (message containers; 3.13.0 itself, which sorts them by name, is not modelled)."""


def died(deaths: Deaths, queue: str, reason: str, *, version: tuple[int, int, int] = (4, 0, 0)) -> Deaths:
    """Return the deaths of a message with one more.

    Before 3.13 each new one turns the order of all earlier ones round (`rabbit_dead_letter:group_by_queue_and_reason`; measured
    on 3.10.8), so that the broker may take an old rejection for a new one, or a new one for old, and cuts circles by it.
    """
    others = tuple(death for death in deaths if death != (queue, reason))
    return ((queue, reason), *(others if version >= ORDERED_DEATHS else reversed(others)))


def is_cut(deaths: Deaths, target: str) -> bool:
    """Whether the broker drops a dead letter that would come to `target`: it died there before, and nobody rejected it since.

    https://www.rabbitmq.com/docs/dlx#automatic-dead-lettering-cycles (`mc:is_death_cycle`, before 4.0
    `rabbit_dead_letter:is_cycle`); one that is being rejected now is never cut.
    """
    for position, (queue, _) in enumerate(deaths):
        if queue == target:
            return all(reason != REJECTED for _, reason in deaths[: position + 1])
    return False


# ----------------------------------------------------------------------------------------------------------- matching


def topic_matches(pattern: str, key: str) -> bool:
    """Whether a topic binding key matches a routing key."""
    return _words_match(topic_words(pattern), topic_words(key))


def topic_words(key: str) -> list[str]:
    """Split a key as the broker does: the empty key has no words, every dot separates two (`a.` has an empty second)."""
    return key.split(".") if key else []


def _words_match(pattern: list[str], words: list[str]) -> bool:
    """Match words one by one; on a mismatch let the last `#` take one word more (no exponential case)."""
    position = word = 0
    hash_at = resume = -1
    while word < len(words):
        if position < len(pattern) and pattern[position] == "#":
            hash_at, resume = position, word
            position += 1
        elif position < len(pattern) and pattern[position] in {"*", words[word]}:
            position += 1
            word += 1
        elif hash_at >= 0:
            resume += 1
            position, word = hash_at + 1, resume
        else:
            return False
    return all(part == "#" for part in pattern[position:])


def headers_match(arguments: Table, headers: Table, *, loose_numbers: bool = False) -> bool:
    """Whether a headers binding matches a message's headers; `loose_numbers` takes 1 and 1.0 for the same."""
    kind = arguments.get("x-match", "all")
    with_x = kind in {"all-with-x", "any-with-x"}
    wanted = [
        (name, value)
        for name, value in arguments.items()
        if (name != "x-match" if with_x else not name.startswith("x-"))
    ]
    results = (
        name in headers and (value is None or _same(value, headers[name], loose_numbers=loose_numbers))
        for name, value in wanted
    )
    return any(results) if kind in {"any", "any-with-x"} else all(results)


def _hash_value(spec: ExchangeSpec, keys: Sequence[str], headers: Table, properties: Table) -> str:
    """Return what a consistent-hash exchange looks at."""
    header, name = spec.arguments.get("hash-header"), spec.arguments.get("hash-property")
    if header is not None:
        return repr(headers.get(header))
    return keys[0] if name is None else repr(properties.get(name))


def _hashed(bindings: Sequence[BindingSpec], value: str) -> list[BindingSpec]:
    """Choose one binding by a hash, in the order of the ring."""
    ring = [binding for binding in sorted(bindings, key=binding_order) for _ in range(int(binding.key))]
    return [ring[zlib.crc32(value.encode()) % len(ring)]] if ring else []


def _same(left: object, right: object, *, loose_numbers: bool) -> bool:
    """Compare decoded values: booleans are no numbers, and text is the bytes it is written in."""
    left, right = (value.encode() if isinstance(value, str) else value for value in (left, right))
    if type(left) is type(right):
        return left == right
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (left, right))
    return loose_numbers and numbers and left == right


def _listed(headers: Table, name: str) -> tuple[str, ...]:
    value = headers.get(name)
    return tuple(str(key) for key in value) if isinstance(value, list | tuple) else ()


def _tell(spec: ExchangeSpec, binding: BindingSpec) -> str:
    kind = "exchange" if binding.to_exchange else "queue"
    if spec.type == "fanout":
        how = "sends everything"
    elif spec.type == EXCHANGE_TYPE:
        how = "chooses a partition by its hash"
    elif spec.type == "headers":
        shown = ", ".join(f"{name}={value!r}" for name, value in binding.arguments.items())
        how = f"headers match {{{shown}}}"
    else:
        how = f"binding '{binding.key}' matches"
    return f"{spec.type} exchange '{spec.name}': {how} -> {kind} '{binding.target}'"
