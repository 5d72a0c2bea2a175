"""Parts of the format whose machinery does not exist yet: refused by name wherever they would change behaviour.

Each entry goes when its machinery comes. What would change nothing (`allow:` that allows nothing) is accepted.
"""

from __future__ import annotations

from amqpq.topology.build import DEFAULT_DEAD_LETTER, effective_requirement
from amqpq.topology.document import File
from amqpq.topology.problems import Findings, Path


def refuse(file: File, findings: Findings) -> None:
    """Note every part of the file that is not built yet."""
    for path, what in _found(file):
        findings.error(path, "TOP000", f"not built yet: {what}", "remove it rather than rely on it")


def _found(file: File) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    found += [
        (("exchanges", name, "type"), "consistent-hash exchanges (`partitions:` of a queue makes one)")
        for name, exchange in file.exchanges.items()
        if exchange.type == "x-consistent-hash"
    ]
    requirement = effective_requirement(file)
    for name, queue in file.queues.items():
        if queue.require is not None and queue.require != requirement:
            found.append((("queues", name, "require"), "a signature requirement of its own for one queue"))
    found += [
        (("routes", pattern, "reply"), "one reply queue per client (`reply: client`)")
        for pattern, route in file.routes.items()
        if route.reply == "client"
    ]
    if not file.messages.confirm:
        found.append((("messages", "confirm"), "publishing without confirms"))
    if file.replies.mode == "client":
        found.append((("replies", "mode"), "one reply queue per client (`mode: client`)"))
    if file.security.signing is not None and file.security.signing.algorithm == "x509":
        found.append((("security", "signing", "algorithm"), "signing with X.509 certificates"))
    if file.security.encryption is not None:
        found.append((("security", "encryption"), "encryption"))
    found += [(("schedule", name), "scheduled tasks") for name in file.schedule]
    for index, part in enumerate(file.moved):
        kind, _, name = part.to.partition(".")
        what = _not_renamed(file, name) if kind == "queue" and name in file.queues else None
        if what is not None:
            found.append((("moved", index), f"renames of {what} (`moved`)"))
    return found


def _not_renamed(file: File, name: str) -> str | None:
    queue = file.queues[name]
    if queue.partitions is not None:
        return "queues with partitions"
    if queue.type == "stream":
        return "streams"
    targets = {part.queue for part in file.dead_letters.values()} | {DEFAULT_DEAD_LETTER.format(project=file.project)}
    named = any(part.extra_arguments.get("x-dead-letter-routing-key") == name for part in file.queues.values())
    return "queues that take dead letters" if named or name in targets else None
