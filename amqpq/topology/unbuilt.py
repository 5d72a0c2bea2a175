"""Parts of the format whose machinery does not exist yet: refused by name wherever they would change behaviour.

Each entry goes when its machinery comes. What would change nothing (`allow:` that allows nothing) is accepted.
"""

from __future__ import annotations

from amqpq.topology.build import effective_requirement
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
    found += [
        (("moved", index), "renames of queues (`moved`)")
        for index, part in enumerate(file.moved)
        if part.from_.startswith("queue.")
    ]
    return found
