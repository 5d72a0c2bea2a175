"""Migration under fire: producers with confirms and `mandatory`, workers, and queues that change under them.

    python -m tests.migration [--rate 2000] [--parts changes,kills,aborts] [--root FOLDER]

`changes`: `orders` goes from classic to quorum, then gets a longer TTL than its argument allows; `mail` loses its priorities.
`kills`: the migrating process is killed in every step, before, between and after its writes; then `resume`. `aborts`: `abort` at
every step. Counts each message by its number. Uses $AMQPQ_BROKER_URL and $AMQPQ_MANAGEMENT_URL, each part in a virtual host of
its own; with --root, or without those, a private node.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from amqpq.node import Node, NodeOptions, find_installation
from amqpq.node.installation import ROOT_VARIABLE
from tests.migration.moving_scene import Scene

MIGRATE = ("topology", "migrate")
QUICK = ("--quiet", "1s")
# DONE is not among them: when that is in the journal, there is no migration any more.
FORWARD = ("create", "follow", "arm", "switch", "settle", "disarm", "drain", "leave", "prove", "delete")
WRITES = {"create": 1, "arm": 1, "switch": 1, "settle": 1, "disarm": 1, "adopt": 5, "feed": 4, "cut": 4}
ADOPTION = (("adopt", 0), ("adopt", 3), ("adopt", 5), ("feed", 2), ("cut", 2))
ABORTED = ("create", "follow", "arm", "switch", "settle", "disarm", "drain", "leave", "prove")


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def changes(scene: Scene) -> None:
    """The three changes, one after the other."""
    for file, queue in (("quorum", "orders"), ("longer", "orders"), ("after", "mail")):
        begun = time.monotonic()
        scene.command(*MIGRATE, queue, "--finish", *QUICK, file=file)
        say(f"  {queue} to {file!r} in {time.monotonic() - begun:.1f} s")


def kills(scene: Scene) -> None:
    """Killed in every step; the next one goes on."""
    wanted = "quorum"
    for step, writes in ADOPTION:
        scene.cut_off(wanted, step, writes)
        say(f"  killed in {step} after {writes} writes")
    scene.command(*MIGRATE, "resume", *QUICK, file=wanted)
    scene.command(*MIGRATE, "finish", *QUICK, file=wanted)
    for step in FORWARD:
        for writes in sorted({0, WRITES.get(step, 0)}):
            wanted = "before" if wanted == "quorum" else "quorum"
            scene.cut_off(wanted, step, writes)
            scene.command(*MIGRATE, "finish", *QUICK, file=wanted)
            say(f"  killed in {step} after {writes} writes, then finished")


def aborts(scene: Scene) -> None:
    """Aborted at every step; the queue lives where it lived."""
    scene.command(*MIGRATE, "orders", "--finish", *QUICK, file="quorum")
    for step in ABORTED:
        for writes in sorted({0, WRITES.get(step, 0)}):
            scene.cut_off("longer", step, writes)
            scene.command(*MIGRATE, "abort", *QUICK, file="longer")
            status = json.loads(scene.command(*MIGRATE, "status", "--json"))["queues"]["orders"]
            if status["current"] != "orders.g2" or status["migration"] is not None:
                raise RuntimeError(f"after the abort in {step}: {status}")
            say(f"  killed in {step} after {writes} writes, then aborted")


PARTS = {"changes": changes, "kills": kills, "aborts": aborts}


@contextmanager
def broker(root: str | None) -> Iterator[tuple[str, str, str]]:
    """Yield the URLs of a broker, and its version."""
    url, management = os.environ.get("AMQPQ_BROKER_URL"), os.environ.get("AMQPQ_MANAGEMENT_URL")
    if root is None and url and management:
        yield url, management, str(call(management, "GET", "overview")["rabbitmq_version"])
        return
    with tempfile.TemporaryDirectory(prefix="amqpq-migration-") as folder:
        found = find_installation({**os.environ, **({ROOT_VARIABLE: root} if root else {})})
        node = Node(Path(folder) / "node", NodeOptions(dies_with_caller=sys.platform == "linux"), installation=found)
        node.start(timeout_seconds=180)
        try:
            yield node.url, node.management_url, answering(node.management_url)
        finally:
            node.stop()


def answering(management: str) -> str:
    """Wait until the management API answers, which it does a little after the broker; return the version."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return str(call(management, "GET", "overview")["rabbitmq_version"])
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def call(management: str, method: str, path: str, body: object = None) -> dict[str, object]:
    """Call the management API as guest."""
    request = urllib.request.Request(  # noqa: S310 - the broker under test
        f"{management.rstrip('/')}/api/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
            "content-type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
        text = answer.read()
    found: dict[str, object] = json.loads(text) if text else {}
    return found


def run(part: str, urls: tuple[str, str], rate: float) -> bool:
    """Run one part in a virtual host of its own; say whether every message was processed once."""
    url, management = urls
    vhost = f"amqpq-moving-{uuid.uuid4().hex[:8]}"
    call(management, "PUT", f"vhosts/{vhost}", {})
    call(management, "PUT", f"permissions/{vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    try:
        with tempfile.TemporaryDirectory(prefix="amqpq-moving-") as folder:
            scene = Scene(Path(folder) / part, urlsplit(url)._replace(path=f"/{vhost}").geturl(), management, rate)
            begun = time.monotonic()
            error = ""
            with scene.traffic():
                try:
                    PARTS[part](scene)
                except RuntimeError as problem:
                    error = str(problem)
                    say(f"  {error}")
            result = scene.result()
            say(f"{part}: {result} in {time.monotonic() - begun:.0f} s")
            for log in Path(scene.folder).glob("worker-*.log"):
                _, _, text = log.read_text(encoding="utf-8").partition("[tasks]")
                for line in [line for line in text.splitlines() if line.strip() and not line.startswith("  . ")][:20]:
                    say(f"  {log.name}: {line}")
            return not (result["lost"] or result["doubled"] or result["failed"] or error)
    finally:
        call(management, "DELETE", f"vhosts/{vhost}")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.migration")
    parser.add_argument("--rate", type=float, default=2000, help="messages a second")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--root", help="a folder with another RabbitMQ")
    given = parser.parse_args()
    with broker(given.root) as (url, management, version):
        say(f"RabbitMQ {version}")
        good = [run(part, (url, management), given.rate) for part in given.parts.split(",")]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
