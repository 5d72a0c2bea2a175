"""Celery settings as a topology file: queues, exchanges and bindings as Celery declares them, its routes, its message defaults.

Celery's own rules (`celery.app.amqp`, `celery.app.routes`) are followed where a setting is missing: the queue `celery` behind an
exchange of its name, JSON, queues that are made because a route names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from amqpq.convert.folding import Folded, Tree, fold
from amqpq.convert.objects import Objects, Remark, left_out
from amqpq.convert.values import duration
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec

QUEUE: Final = "celery"
"""Celery's default queue."""
SERIALIZERS: Final = {
    "json": "json",
    "application/json": "json",
    "msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
    "yaml": "yaml",
    "application/x-yaml": "yaml",
    "pickle": "pickle",
    "application/x-python-serialize": "pickle",
}
COMPRESSIONS: Final = {
    "zlib": "zlib",
    "gzip": "zlib",
    "application/x-gzip": "zlib",
    "bzip2": "bzip2",
    "bzip": "bzip2",
    "application/x-bz2": "bzip2",
}
OTHERWISE: Final = {
    "broker_url": "not copied, it may hold a password: set $AMQPQ_BROKER_URL, or write `broker: {url: ...}`",
    "result_backend": "results come back through reply queues of RabbitMQ, whatever the backend was (docs: results)",
    "result_serializer": "results are written as `messages.serializer` says",
    "task_acks_late": "amqpq acknowledges late unless a task says `acks_late=False`",
    "worker_prefetch_multiplier": "`amqpq worker --prefetch N`, deliveries held per queue",
    "worker_concurrency": "`amqpq worker -c N`",
    "task_time_limit": "`amqpq worker --time-limit SECONDS`, or `time_limit=` of a task",
    "task_soft_time_limit": "`amqpq worker --soft-time-limit SECONDS`, or `soft_time_limit=` of a task",
    "task_default_rate_limit": "`rate_limit=` of a task, or `limits:` for all workers together",
    "task_annotations": "options of tasks: `@app.task(rate_limit=..., time_limit=...)`, or `limits:`",
    "task_always_eager": "for tests there is amqpq.testing",
    "beat_schedule": "schedules are not taken along: amqpq has its own `schedule:`",
    "task_default_queue_type": "",
    "task_create_missing_queues": "",
}
"""Settings that have another place in amqpq; empty text: heeded above."""


@dataclass(slots=True)
class _Celery:
    """What the settings declare, as it is found out."""

    settings: Mapping[str, Any]
    exchanges: dict[str, ExchangeSpec] = field(default_factory=dict)
    queues: dict[str, QueueSpec] = field(default_factory=dict)
    bindings: list[BindingSpec] = field(default_factory=list)
    homes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Queue to the exchange and the key Celery publishes with; the exchange is empty for the default one."""
    remarks: list[Remark] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        value = self.settings.get(name)
        return default if value is None else value

    @property
    def default_queue(self) -> str:
        return str(self.get("task_default_queue", QUEUE))

    @property
    def default_key(self) -> str:
        return str(self.get("task_default_routing_key", self.default_queue))

    def default_exchange(self) -> ExchangeSpec:
        name = str(self.get("task_default_exchange", self.default_queue))
        return ExchangeSpec(name, str(self.get("task_default_exchange_type", "direct")))


def convert(settings: Mapping[str, Any], project: str) -> Folded:
    """Return the topology file for settings of Celery, under their new names."""
    state = _Celery(settings)
    _queues(state)
    routes = _routes(state)
    found = Objects("celery", tuple(state.exchanges.values()), tuple(state.queues.values()), tuple(state.bindings))
    folded = fold(found, project)
    folded.tree["routes"] = routes
    folded.tree |= {name: part for name, part in (("messages", _messages(state)), ("replies", _replies(state))) if part}
    folded.remarks += state.remarks
    folded.remarks += _others(settings)
    folded.remarks.append(
        Remark("note", "security", "", "Celery does not sign: where it takes part, write `security: {signing: off}`")
    )
    return folded


# ------------------------------------------------------------------------------------------------------------- queues


def _queues(state: _Celery) -> None:
    given = state.get("task_queues")
    if not given:
        arguments = {"x-queue-type": "quorum"} if state.get("task_default_queue_type") == "quorum" else {}
        _add(state, QueueSpec(state.default_queue, arguments=arguments), state.default_exchange(), state.default_key)
        return
    if isinstance(given, Mapping):
        for name, options in given.items():
            if isinstance(options, Mapping):
                _add_options(state, str(name), options)
            else:
                _add_object(state, options)
        return
    for queue in given:
        _add_object(state, queue)


def _add(state: _Celery, queue: QueueSpec, exchange: ExchangeSpec, key: str, arguments: Mapping[str, Any] = {}) -> None:
    highest = state.get("task_queue_max_priority")
    if highest is not None and "x-max-priority" not in queue.arguments:
        queue = QueueSpec(
            queue.name,
            queue.durable,
            queue.exclusive,
            queue.auto_delete,
            {**queue.arguments, "x-max-priority": highest},
        )
    state.queues[queue.name] = queue
    state.homes[queue.name] = (exchange.name, key)
    if exchange.name:
        state.exchanges.setdefault(exchange.name, exchange)
        state.bindings.append(BindingSpec(exchange.name, queue.name, key, arguments=dict(arguments)))


def _add_options(state: _Celery, name: str, options: Mapping[str, Any]) -> None:
    """Add a queue of the old form: a mapping of options."""
    default = state.default_exchange()
    exchange = options.get("exchange")
    if exchange is not None and not isinstance(exchange, str):
        spec = _exchange(exchange)
    elif exchange:
        spec = ExchangeSpec(
            exchange, str(options.get("exchange_type", "direct")), bool(options.get("exchange_durable", True))
        )
    else:
        spec = default
    queue = QueueSpec(
        name,
        durable=bool(options.get("durable", options.get("queue_durable", True))),
        exclusive=bool(options.get("exclusive", False)),
        auto_delete=bool(options.get("auto_delete", options.get("queue_auto_delete", False))),
        arguments=_arguments(options.get("queue_arguments"), options.get),
    )
    key = options.get("routing_key") or options.get("binding_key") or name
    _add(state, queue, spec, str(key), options.get("binding_arguments") or {})


def _add_object(state: _Celery, queue: Any) -> None:
    """Add a queue of kombu's."""
    name = getattr(queue, "name", None)
    if not isinstance(name, str):
        state.remarks.append(left_out("queue", repr(queue)[:60], "it is no kombu Queue"))
        return
    if type(queue).__name__ == "Broadcast":
        why = "each worker makes a queue of its own for a Broadcast; in amqpq, bind one queue per group of workers to a fanout"
        state.remarks.append(left_out("queue", name, why))
        return
    spec = QueueSpec(
        name,
        durable=bool(queue.durable),
        exclusive=bool(queue.exclusive),
        auto_delete=bool(queue.auto_delete) and not queue.exclusive,
        arguments=_arguments(queue.queue_arguments, lambda key: getattr(queue, key, None)),
    )
    given = getattr(queue, "exchange", None)
    exchange = state.default_exchange() if given is None or not given.name else _exchange(given)
    _add(state, spec, exchange, str(queue.routing_key or state.default_key), queue.binding_arguments or {})
    for each in sorted(queue.bindings or (), key=lambda each: (each.exchange.name, str(each.routing_key))):
        state.exchanges.setdefault(each.exchange.name, _exchange(each.exchange))
        arguments = dict(each.arguments or {})
        state.bindings.append(BindingSpec(each.exchange.name, name, str(each.routing_key or ""), arguments=arguments))


def _exchange(exchange: Any) -> ExchangeSpec:
    return ExchangeSpec(
        str(exchange.name),
        str(exchange.type or "direct"),
        durable=bool(exchange.durable),
        auto_delete=bool(exchange.auto_delete),
        arguments=dict(exchange.arguments or {}),
    )


def _arguments(given: Mapping[str, Any] | None, option: Any) -> dict[str, Any]:
    """Return the arguments of a queue, with what kombu makes of its options."""
    arguments = dict(given or {})
    seconds = {"expires": "x-expires", "message_ttl": "x-message-ttl"}
    numbers = {"max_length": "x-max-length", "max_length_bytes": "x-max-length-bytes", "max_priority": "x-max-priority"}
    for key, argument in seconds.items():
        if option(key) is not None:
            arguments[argument] = round(float(option(key)) * 1000)
    for key, argument in numbers.items():
        if option(key) is not None:
            arguments[argument] = int(option(key))
    return arguments


# ------------------------------------------------------------------------------------------------------------- routes


def _routes(state: _Celery) -> dict[str, Tree]:
    exact: dict[str, Tree] = {}
    patterns: dict[str, Tree] = {}
    for pattern, target in _entries(state, state.get("task_routes")):
        # Within one mapping a name counts before every pattern; a later mapping counts only where none before it matched.
        if pattern in exact or pattern in patterns:
            state.remarks.append(left_out("route", pattern, "an entry above it has the same name, and counts"))
            continue
        route = _route(state, pattern, target)
        if route is not None:
            (patterns if "*" in pattern else exact)[pattern] = route
    routes = exact | patterns
    if "*" not in routes and state.default_queue:
        default = _route(state, "*", {"queue": state.default_queue})
        routes |= {} if default is None else {"*": default}
    return routes


def _entries(state: _Celery, given: Any) -> Iterator[tuple[str, Any]]:
    """Walk the routes of Celery: a mapping, pairs, or a list of those, of functions and of names of functions."""
    if given is None:
        return
    if not isinstance(given, list | tuple):
        given = [given]
    above: list[str] = []
    for router in given:
        pairs = list(router.items()) if isinstance(router, Mapping) else _pairs(router)
        if pairs is None:
            name = router if isinstance(router, str) else getattr(router, "__qualname__", type(router).__name__)
            why = "a router that is code: amqpq routes by name; say it as patterns under `routes:`, or in the call"
            state.remarks.append(left_out("route", str(name), why))
            continue
        patterns = []
        for key, target in pairs:
            pattern = _pattern(state, key)
            if pattern is None:
                continue
            hidden = next((wide for wide in above if _matches(wide, pattern)), None)
            if hidden is not None:
                why = f"'{hidden}' in an entry above it matches the same tasks, and counts in Celery"
                state.remarks.append(left_out("route", pattern, why))
                continue
            patterns.append(pattern)
            yield pattern, target
        above += [pattern for pattern in patterns if "*" in pattern]


def _pairs(router: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(router, Iterable) and not isinstance(router, str):
        entries = list(router)
        if all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in entries):  # noqa: PLR2004 - pairs
            return [(entry[0], entry[1]) for entry in entries]
    return None


def _pattern(state: _Celery, key: Any) -> str | None:
    if isinstance(key, re.Pattern):
        plain = re.fullmatch(r"\^?((?:\w|\\\.|\.\*)+)\$?", key.pattern)
        if plain is None:
            why = "a regular expression; a pattern here knows only *, which is any text"
            state.remarks.append(left_out("route", key.pattern, why))
            return None
        return plain[1].replace(".*", "*").replace("\\.", ".")
    text = str(key)
    if "*" in text and re.search(r"[?\[\]]", text):
        state.remarks.append(
            left_out("route", text, "'?' and '[...]' are no patterns here; only * is, which is any text")
        )
        return None
    return text


def _matches(wide: str, narrow: str) -> bool:
    parts = ".*".join(re.escape(part) for part in wide.split("*"))
    return re.fullmatch(parts, narrow, re.DOTALL) is not None


def _route(state: _Celery, pattern: str, target: Any) -> Tree | None:
    options = {"queue": target} if isinstance(target, str) else dict(target) if isinstance(target, Mapping) else None
    if options is None:
        state.remarks.append(left_out("route", pattern, f"{target!r:.60} is neither a queue nor options"))
        return None
    queue = options.pop("queue", None)
    exchange, key = options.pop("exchange", None), options.pop("routing_key", None)
    kind = options.pop("exchange_type", None)
    route = _address(state, pattern, queue, (getattr(exchange, "name", exchange), key, kind))
    if route is None:
        return None
    if options.get("priority") is not None:
        route["priority"] = int(options.pop("priority"))
    if options.get("expires") is not None:
        expires = options.pop("expires")
        if isinstance(expires, int | float | timedelta):
            route["expires"] = duration(round(_seconds(expires) * 1000))
        else:
            state.remarks.append(left_out("route", pattern, f"expires={expires!r} is no duration"))
    for name, words in (("compression", COMPRESSIONS), ("serializer", SERIALIZERS)):
        value = options.pop(name, None)
        if value in words:
            route[name] = words[value]
        elif value is not None:
            state.remarks.append(
                left_out("route", pattern, f"{name}={value!r}: amqpq has {', '.join(sorted(set(words.values())))}")
            )
    if options.pop("ignore_result", False):
        route["reply"] = "none"
    if options:
        state.remarks.append(
            left_out("route", pattern, f"{', '.join(sorted(options))}: say it in the call or in the task")
        )
    return route


def _address(state: _Celery, pattern: str, queue: Any, given: tuple[Any, Any, Any]) -> Tree | None:
    """Return where Celery publishes: straight into a queue where its exchange is direct, else to the exchange with a key."""
    exchange, key, kind = given
    if queue is None and exchange is None and key is None:
        queue = state.default_queue
    if queue is None and exchange is None:
        exchange = state.default_exchange().name
    name = None if queue is None else str(getattr(queue, "name", queue))
    if name is not None and name not in state.queues:
        if not isinstance(queue, str):
            _add_object(state, queue)
        elif state.get("task_create_missing_queues", default=True):
            _add(state, QueueSpec(name), ExchangeSpec(name), name)
        if name not in state.queues:
            state.remarks.append(left_out("route", pattern, f"there is no queue '{name}' in task_queues"))
            return None
    if name is None:
        if exchange not in state.exchanges:
            state.remarks.append(left_out("route", pattern, f"no queue is bound to the exchange '{exchange}'"))
            return None
        return {"exchange": exchange, "key": str(key or state.default_key)}
    home, home_key = state.homes[name]
    home_type = kind or (state.exchanges[home].type if home else "direct")
    if (not exchange or not key) and home_type == "direct":
        return {"queue": name}
    exchange, key = exchange or home, str(key or home_key)
    if exchange not in state.exchanges or set(key.split(".")) & {"*", "#"}:
        why = f"straight into the queue '{name}'; Celery would publish to '{exchange}' with the key '{key}'"
        state.remarks.append(Remark("changed", "route", pattern, why))
        return {"queue": name}
    keyed = state.exchanges[exchange].type in {"direct", "topic"}
    return {"exchange": exchange, "key": key} if keyed else {"exchange": exchange}


# ----------------------------------------------------------------------------------------------------------- messages


def _messages(state: _Celery) -> Tree:
    """Return the message defaults; what is not set is Celery's default, JSON."""
    messages: Tree = {"serializer": _known(state, "task_serializer", "json")}
    accepted = [SERIALIZERS[each] for each in state.get("accept_content", ["json"]) if each in SERIALIZERS]
    odd = [str(each) for each in state.get("accept_content", []) if each not in SERIALIZERS]
    if odd:
        state.remarks.append(left_out("setting", "accept_content", f"{', '.join(odd)}: amqpq does not read that"))
    messages["accept"] = list(dict.fromkeys([*accepted, messages["serializer"]]))
    compression = state.get("task_compression")
    if compression in COMPRESSIONS:
        messages["compression"] = COMPRESSIONS[compression]
    elif compression is not None:
        state.remarks.append(left_out("setting", "task_compression", f"{compression!r}: amqpq has zlib and bzip2"))
    if state.get("task_default_delivery_mode") in {1, "transient"}:
        messages["persistent"] = False
    return messages


def _known(state: _Celery, name: str, default: str) -> str:
    value = state.get(name, default)
    if value not in SERIALIZERS:
        state.remarks.append(left_out("setting", name, f"{value!r}: amqpq has msgpack, json, yaml and pickle"))
    return SERIALIZERS.get(value, default)


def _replies(state: _Celery) -> Tree:
    replies: Tree = {}
    if state.get("task_ignore_result"):
        replies["mode"] = "none"
    expires = state.get("result_expires")
    if isinstance(expires, int | float | timedelta) and _seconds(expires) > 0:
        replies["expires"] = duration(round(_seconds(expires) * 1000))
    elif expires is not None:
        state.remarks.append(
            left_out("setting", "result_expires", "results that never expire: a reply queue always does")
        )
    if state.get("result_persistent") is False:
        replies["persistent"] = False
    return replies


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


_HEEDED: Final = frozenset({"task_queues", "task_routes", "task_default_queue", "task_default_exchange"}) | {
    "task_default_exchange_type",
    "task_default_routing_key",
    "task_default_delivery_mode",
    "task_queue_max_priority",
    "task_serializer",
    "accept_content",
    "task_compression",
    "result_expires",
    "result_persistent",
    "task_ignore_result",
}


def _others(settings: Mapping[str, Any]) -> list[Remark]:
    """Say of every other setting where its subject is in amqpq; no setting is passed over in silence."""
    remarks = [Remark("note", "setting", name, why) for name, why in OTHERWISE.items() if why and name in settings]
    rest = sorted(name for name in settings if name not in _HEEDED and name not in OTHERWISE)
    if rest:
        remarks.append(left_out("settings", "", f"{', '.join(rest)}: not a matter of the topology"))
    return remarks
