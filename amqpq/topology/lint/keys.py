"""Binding keys and headers: what they match, and what only looks as if it matched."""

from __future__ import annotations

from typing import Final

from amqpq.topology.document import BindingPart
from amqpq.topology.lint.context import Context
from amqpq.topology.model import ROUTING_KEY_LIMIT_BYTES, Binding
from amqpq.topology.problems import Path
from amqpq.topology.routing import topic_words

HASHES_LIMIT: Final = 2
"""A topic binding key may hold this many `#` from RabbitMQ 4.3.5 on (rabbitmq-server #17039)."""

_YAML_BOOLEANS: Final = frozenset({"yes", "no", "on", "off"})


def check(context: Context) -> None:
    """Run the rules on binding keys and headers."""
    for path, part, binding in context.bindings():
        exchange = context.file.exchanges.get(part.from_)
        if exchange is None or ("exchanges", part.from_, "type") in context.findings.unknown:
            continue
        if len(binding.key.encode()) > ROUTING_KEY_LIMIT_BYTES:
            message = f"the binding key '{binding.key[:40]}...' has more than {ROUTING_KEY_LIMIT_BYTES} bytes"
            context.findings.error(path, "TOP027", message, "shorten it")
        if exchange.type == "headers":
            _headers(context, path, part)
        else:
            _key(context, path, part, binding, exchange.type)
    _subsumed(context)
    _compared(context)


def _key(context: Context, path: Path, part: BindingPart, binding: Binding, kind: str) -> None:
    findings = context.findings
    if part.headers is not None or part.match is not None:
        message = f"'{part.from_}' is a {kind} exchange: it does not look at headers"
        findings.error(path, "TOP025", message, "use keys, or an exchange of type headers")
    if kind == "fanout":
        if part.keys:
            message = f"'{part.from_}' is a fanout exchange: it ignores keys"
            findings.warning(path, "TOP023", message, "remove the keys, or use a topic exchange")
        return
    if binding.key == "":
        message = (
            f"the binding from the {kind} exchange '{part.from_}' has no key: it matches only the empty routing key"
        )
        findings.warning(path, "TOP024", message, f"write `{part.from_}[key] -> {part.to}`")
        return
    words = binding.key.split(".")
    if kind == "direct" and any(word in {"*", "#"} for word in words):
        message = f"'{part.from_}' is a direct exchange: it takes '{binding.key}' literally"
        findings.warning(path, "TOP023", message, "use a topic exchange for patterns")
    if kind == "topic":
        _topic(context, path, binding, words)


def _topic(context: Context, path: Path, binding: Binding, words: list[str]) -> None:
    findings = context.findings
    if words.count("#") > HASHES_LIMIT:
        message = f"'{binding.key}' has more than {HASHES_LIMIT} '#': RabbitMQ refuses that from 4.3.5 on"
        add = findings.error if context.lowest >= (4, 3, 5) else findings.warning
        add(path, "TOP022", message, "split the binding")
    if words.count("#") == 1 and "#" in words[:-1]:
        message = f"in '{binding.key}' the '#' is not at the end: every message is tried at every length"
        findings.info(path, "TOP022", message)
    for word in words:
        if len(word) > 1 and ("*" in word or "#" in word):
            message = f"in '{binding.key}' the word '{word}' is literal: '*' and '#' mean something only as whole words"
            findings.warning(path, "TOP022", message, "use dots to separate words")


def _headers(context: Context, path: Path, part: BindingPart) -> None:
    findings = context.findings
    if part.keys:
        message = f"'{part.from_}' is a headers exchange: it ignores keys"
        findings.warning(path, "TOP025", message, "write `{from: ..., to: ..., headers: {...}, match: all}`")
    further = {name: value for name, value in part.extra_arguments.items() if name != "x-match"}
    headers = {**further, **(part.headers or {})}
    for name, value in headers.items():
        node = findings.root.at((*path, "headers", name))
        if name == "x-match":
            findings.error((*path, "headers", name), "TOP025", "x-match is the key `match` here", "write `match: any`")
        elif node is not None and isinstance(node.value, bool) and (node.plain or "").lower() in _YAML_BOOLEANS:
            message = (
                f"YAML reads {node.plain} as the boolean {str(node.value).lower()}, and headers compare with their type"
            )
            remedy = f'quote it ("{node.plain}") if it is text, else write {str(node.value).lower()}'
            findings.error((*path, "headers", name), "TOP003", message, remedy)
        elif isinstance(value, float) and value.is_integer():
            message = f"{value} is matched by the whole number {value:g} before RabbitMQ 3.13, and is not after"
            findings.warning((*path, "headers", name), "TOP026", message, "use a whole number or text")
    match = part.match or str(part.extra_arguments.get("x-match", "all"))
    usable = [name for name in headers if match.endswith("-with-x") or not name.startswith("x-")]
    if match.startswith("any") and not usable:
        message = f"match: {match} with nothing to compare never matches"
        remedy = "use any-with-x: headers that begin with 'x-' are skipped" if headers else "add headers"
        findings.error(path, "TOP025", message, remedy)
    elif headers and not usable:
        message = "headers that begin with 'x-' are skipped: this binding matches everything"
        findings.error(path, "TOP025", message, "use match: all-with-x")
    elif not headers:
        message = f"a binding from the headers exchange '{part.from_}' without headers matches everything"
        findings.warning(path, "TOP025", message, "add headers, or use a fanout exchange")


def _compared(context: Context) -> None:
    """Find headers that a check sends with another type than a binding asks for: they look alike, and do not match."""
    for index, each in enumerate(context.file.checks):
        publish = each.publish
        for _, part, _ in context.bindings() if publish is not None and publish.headers else ():
            if publish is None or part.from_ != publish.exchange or part.headers is None:
                continue
            for name, wanted in part.headers.items():
                given = publish.headers.get(name)
                alike = str(wanted).lower() == str(given).lower() and type(wanted) is not type(given)
                if name in publish.headers and wanted is not None and alike:
                    message = f"the check sends {name}={given!r}, and the binding to '{part.to}' asks for {wanted!r}"
                    path = ("checks", index, "publish", "headers", name)
                    context.findings.warning(path, "TOP026", message, "headers compare with their type")


def _subsumed(context: Context) -> None:
    """Find topic bindings that another one to the same target makes superfluous."""
    groups: dict[tuple[str, str, bool], list[tuple[Path, str]]] = {}
    for path, part, binding in context.bindings():
        exchange = context.file.exchanges.get(part.from_)
        if exchange is not None and exchange.type == "topic":
            groups.setdefault((binding.source, binding.target, binding.to_exchange), []).append((path, binding.key))
    for members in groups.values():
        for path, key in members:
            wider = next((other for _, other in members if other != key and covers(other, key)), None)
            if wider is not None:
                message = f"the key '{key}' is superfluous: '{wider}' to the same target matches all it matches"
                context.findings.warning(path, "TOP021", message, "remove it")


def covers(wide: str, narrow: str) -> bool:
    """Whether every routing key that `narrow` matches is matched by `wide`."""
    return _covers(topic_words(wide), topic_words(narrow))


def _covers(wide: list[str], narrow: list[str]) -> bool:
    if not wide:
        return not narrow
    if wide[0] == "#":
        return _covers(wide[1:], narrow) or (bool(narrow) and _covers(wide, narrow[1:]))
    if not narrow or narrow[0] == "#":
        return False
    return wide[0] in {"*", narrow[0]} and _covers(wide[1:], narrow[1:])
