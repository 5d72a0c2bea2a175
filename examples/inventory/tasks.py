"""What the workers know: four tasks. The files' bytes come with the messages, so a worker may be on any host."""

from __future__ import annotations

import hashlib
import io
import os
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import Any

from amqpq import App, Task

app = App(Path(__file__).with_name("topology.yaml"))

PYTHON = frozenset({"py", "pyi"})


@app.task(name="inventory.examine")
def examine(*, path: str, kind: str, content: bytes) -> dict[str, Any]:
    """Measure one file; `kind` is also what the topic exchange routes by."""
    return {
        "path": path,
        "size": len(content),
        "lines": content.count(b"\n"),
        "tokens": _tokens(kind, content),
        "digest": hashlib.sha256(content).hexdigest(),
    }


@app.task(name="inventory.duplicates")
def duplicates(digests: dict[str, str]) -> list[list[str]]:
    """Group the paths that have one digest; only groups of two and more."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for path, digest in digests.items():
        groups[digest].append(path)
    return [sorted(paths) for paths in groups.values() if len(paths) > 1]


@app.task(name="inventory.whoami", bind=True)
def whoami(self: Task[..., Any], *, worker: str) -> dict[str, Any]:
    """Say which worker runs this, asked for by name over the direct exchange."""
    return {"worker": worker, "hostname": self.request.hostname, "pid": os.getpid()}


@app.task(name="inventory.audit", bind=True)
def audit(self: Task[..., Any], event: str) -> None:
    """Write down an event and the queue it came through. Each of the two audit queues gets each event."""
    line = f"{self.request.delivery_info['queue']}\t{event}\n"
    descriptor = os.open(os.environ["INVENTORY_AUDIT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())  # one write, so that two workers never mix their lines
    finally:
        os.close(descriptor)


def _tokens(kind: str, content: bytes) -> int:
    if kind not in PYTHON:
        return len(content.split())
    try:
        return sum(1 for _ in tokenize.tokenize(io.BytesIO(content).readline))
    except (tokenize.TokenError, SyntaxError, UnicodeDecodeError):
        return len(content.split())  # a test file that is broken on purpose, of which the library has some
