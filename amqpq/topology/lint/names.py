"""Names: what the broker accepts, what it keeps for itself, what people mix up."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

from amqpq.topology.lint.context import Context
from amqpq.topology.permits import prefix
from amqpq.topology.problems import Path

NAME_LIMIT_BYTES: Final = 255
"""Names are short strings on the wire (https://www.rabbitmq.com/docs/queues#names)."""

REPLY_PREFIX: Final = "amqpq.reply."
"""Reply queues of tasks; declared and deleted at run time."""


def check(context: Context) -> None:
    """Run the rules on names."""
    _accepted(context)
    _quorum_names(context)
    _lookalikes(context)


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
