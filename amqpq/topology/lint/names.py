"""Names: what the broker accepts, what it keeps for itself, what people mix up."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from amqpq.topology.generations import alternate_name, ingress_name, is_generation
from amqpq.topology.lint.context import Context
from amqpq.topology.model import did_you_mean
from amqpq.topology.permits import prefix
from amqpq.topology.problems import Path

NAME_LIMIT_BYTES: Final = 255
"""Names are short strings on the wire (https://www.rabbitmq.com/docs/queues#names)."""

_GENERATION = re.compile(r"(?P<name>.+)\.g(?:[2-9]|[1-9]\d+)")
_INGRESS = re.compile(r"(?P<name>.+)\.(?:in|alt)")
_ADDRESS = re.compile(r"(?P<kind>queue|exchange)\.(?P<name>.+)")

REPLY_PREFIX: Final = "amqpq.reply."
"""Reply queues of tasks; declared and deleted at run time."""


def check(context: Context) -> None:
    """Run the rules on names."""
    _accepted(context)
    _quorum_names(context)
    _lookalikes(context)
    _generations(context)
    _moved(context)
    _decommissioned(context)


def _accepted(context: Context) -> None:
    named: list[tuple[Path, str, str]] = [
        (("exchanges", name), "exchange", part.manage) for name, part in context.file.exchanges.items()
    ]
    named += [(("queues", name), "queue", part.manage) for name, part in context.file.queues.items()]
    named += [
        (("dead_letters", name, "queue"), "queue", "full" if part.queue not in context.file.queues else "listed")
        for name, part in context.file.dead_letters.items()
    ]
    for path, kind, manage in named:
        name = str(path[1]) if path[0] != "dead_letters" else context.file.dead_letters[str(path[1])].queue
        findings = context.findings
        if name == "":
            findings.error(path, "TOP006", f"the {kind} has an empty name", "the empty name is the default exchange")
        elif "\r" in name or "\n" in name:
            findings.error(path, "TOP006", f"the name {name!r} has a line break in it; the broker strips it silently")
        elif len(name.encode()) > NAME_LIMIT_BYTES:
            findings.error(path, "TOP006", f"the name '{name[:40]}...' has more than {NAME_LIMIT_BYTES} bytes")
        elif name.startswith("amq.") and not (kind == "exchange" and manage == "verify"):
            remedy = (
                "name it differently" if kind == "queue" else "name it differently, or add `manage: verify` to use it"
            )
            findings.error(path, "TOP007", f"names that begin with 'amq.' belong to the broker: '{name}'", remedy)
        elif kind == "queue" and name == context.topology.revocations:
            findings.error(
                path, "TOP011", f"'{name}' would collide with the stream of revocations", "name it differently"
            )
        elif kind == "queue" and name.startswith(REPLY_PREFIX):
            findings.error(
                path, "TOP011", f"'{name}' would collide with the reply queues of tasks", "name it differently"
            )
        elif kind == "queue" and name.startswith(prefix(context.topology.project)):
            findings.error(path, "TOP011", f"'{name}' is named like a permit queue of `limits`", "name it differently")


def _quorum_names(context: Context) -> None:
    vhost = unquote(urlsplit(context.topology.broker.urls[0]).path[1:]) or "%2F"
    for name, queue in context.topology.queues.items():
        internal = f"{vhost}_{name}"
        if queue.type == "quorum" and len(internal.encode()) > NAME_LIMIT_BYTES >= len(name.encode()):
            message = f"the quorum queue's internal name <vhost>_<name> has more than {NAME_LIMIT_BYTES} bytes"
            context.findings.error(("queues", name), "TOP008", message, "shorten the name")


def _lookalikes(context: Context) -> None:
    for section in ("exchanges", "queues"):
        seen: dict[str, str] = {}
        for name in getattr(context.file, section):
            plain = name.lower().replace("-", ".").replace("_", ".")
            if plain in seen:
                message = f"'{name}' differs from '{seen[plain]}' only by case or by '.', '-', '_'"
                context.findings.warning((section, name), "TOP009", message, "one of them is probably a typo")
            seen.setdefault(plain, name)


def _generations(context: Context) -> None:
    for name in context.file.queues:
        match = _GENERATION.fullmatch(name)
        if match is not None and match["name"] in context.file.queues:
            message = f"'{name}' is what a migration would name another generation of '{match['name']}'"
            context.findings.error(("queues", name), "TOP011", message, "name it differently")
        elif name == f"{context.topology.project}.generations":
            message = f"'{name}' is the stream in which migrations note where queues live"
            context.findings.error(("queues", name), "TOP011", message, "name it differently")
    for name in context.file.exchanges:
        match = _INGRESS.fullmatch(name)
        if match is not None and match["name"] in context.file.queues:
            message = f"'{name}' is what a migration would name an exchange before '{match['name']}'"
            context.findings.error(("exchanges", name), "TOP011", message, "name it differently")


def _moved(context: Context) -> None:
    for index, part in enumerate(context.file.moved):
        path: Path = ("moved", index)
        old, new = _ADDRESS.fullmatch(part.from_), _ADDRESS.fullmatch(part.to)
        if path in context.findings.unknown:
            continue
        if old is None or new is None or old["kind"] != new["kind"]:
            message = f"'{part.from_}' to '{part.to}' is no rename"
            context.findings.error(path, "TOP001", message, "write `{from: queue.OLD, to: queue.NEW}`, or exchange.")
            continue
        section = "queues" if new["kind"] == "queue" else "exchanges"
        known = getattr(context.file, section)
        _renamed_once(context, index)
        if new["kind"] == "queue":
            _renamed_queue(context, path, old["name"], new["name"])
        if new["name"] not in known:
            near = did_you_mean(new["name"], known)
            remedy = "" if near else f"declare it under `{section}:`"
            if any(other.from_ == part.to for other in context.file.moved):
                remedy = (
                    "one name after the other: take this line out when the first rename is over, then write the next"
                )
            context.findings.error((*path, "to"), "TOP013", f"there is no {new['kind']} '{new['name']}'{near}", remedy)
        elif known[new["name"]].manage != "full":
            message = f"'{new['name']}' belongs to somebody else (manage: {known[new['name']].manage}): it is not ours to rename"
            context.findings.warning(path, "TOP063", message, "remove this, or manage it in full")
        if old["name"] in known:
            message = f"the {old['kind']} '{old['name']}' was renamed to '{new['name']}', and the file still has it"
            context.findings.error((*path, "from"), "TOP011", message, "remove one of them")


def _renamed_once(context: Context, index: int) -> None:
    part = context.file.moved[index]
    before = context.file.moved[:index]
    for key, word in (("from", part.from_), ("to", part.to)):
        if any(word == (other.from_ if key == "from" else other.to) for other in before) and (
            key == "from" or word.startswith("queue.")
        ):
            message = f"'{word}' is renamed twice"
            context.findings.error(("moved", index, key), "TOP011", message, "remove one of them")


def _renamed_queue(context: Context, path: Path, old: str, new: str) -> None:
    """What else must not have the names that a rename needs."""
    here: Path = (*path, "from")
    if is_generation(old, new) or is_generation(new, old):
        message = f"'{old}' and '{new}' are what a migration would name generations of one queue"
        context.findings.error(here, "TOP011", message, "name it differently")
    if old in context.topology.queues and old not in context.file.queues:
        message = f"the queue '{old}' was renamed to '{new}', and amqpq makes one of that name"
        context.findings.error(here, "TOP011", message, "remove this")
    for name in (ingress_name(old), alternate_name(old)):
        if name in context.file.exchanges:
            message = f"'{name}' is what the rename of the queue '{old}' names an exchange"
            context.findings.error(("exchanges", name), "TOP011", message, "name it differently")
    if old in context.file.decommission.queues:
        message = f"the queue '{old}' is to go, and it was renamed to '{new}', which lives there until it is migrated"
        context.findings.error(here, "TOP011", message, "remove it from `decommission`")


def _decommissioned(context: Context) -> None:
    """What is to go must not be in the file as well, and must not be somebody else's."""
    part = context.file.decommission
    for section, names in (("queues", part.queues), ("exchanges", part.exchanges)):
        known = getattr(context.file, section)
        word = section.removesuffix("s")
        for index, name in enumerate(names):
            path: Path = ("decommission", section, index)
            if name.startswith("amq."):
                context.findings.error(path, "TOP007", f"names that begin with 'amq.' belong to the broker: '{name}'")
            elif name not in known:
                continue
            elif known[name].manage != "full":
                message = f"'{name}' belongs to somebody else (manage: {known[name].manage}): it is not ours to delete"
                context.findings.warning(path, "TOP063", message, "remove this, or manage it in full")
            else:
                message = f"the {word} '{name}' is to go, and the file still has it"
                context.findings.error(path, "TOP011", message, f"remove it from `{section}`, or from `decommission`")
