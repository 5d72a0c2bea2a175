"""Migration under fire: producers with confirms and `mandatory`, workers, and queues that change under them.

    python -m tests.migration [--rate 2000] [--parts changes,kills,aborts,swaps,renames] [--root FOLDER]
    python -m tests.migration --cluster 3.10,4.0,4.3 [--rate 500]

`changes`: `orders` goes from classic to quorum, then gets a longer TTL than its argument allows; `mail` loses its priorities.
`kills`: the migrating process is killed in every step, before, between and after its writes; then `resume`. `aborts`: `abort` at
every step. `swaps`: `orders` changes and keeps its name, also where the migrating process is killed in the second half.
`renames`: `orders` becomes `purchases`, with producers and workers of both files, killed in every step. Counts each message by
its number. Uses $AMQPQ_BROKER_URL and $AMQPQ_MANAGEMENT_URL, each part in a virtual host of its own; with --root, or without
those, a private node.

`--cluster`: the changes on three nodes (tests/faults/clusters.py), of which one is stopped and started again in the middle of
each. Producers, workers and the migrating process are on the first node, the others are stopped in turn: what is to be seen is
what the switch does in a cluster, and not that a lost connection may cost a second run.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from amqpq.node import Node, NodeOptions, find_installation
from amqpq.node.installation import ROOT_VARIABLE
from tests.faults.brokers import LONG_BOOT_SECONDS, RELEASES, Release
from tests.faults.clusters import Cluster
from tests.migration.moving_scene import Scene

MIGRATE = ("topology", "migrate")
QUICK = ("--quiet", "1s")
# DONE is not among them: when that is in the journal, there is no migration any more.
FORWARD = ("create", "follow", "arm", "switch", "settle", "disarm", "drain", "leave", "prove", "delete")
WRITES = {"create": 1, "arm": 1, "switch": 1, "settle": 1, "disarm": 1, "adopt": 5, "feed": 4, "cut": 4}
ADOPTION = (("adopt", 0), ("adopt", 3), ("adopt", 5), ("feed", 2), ("cut", 2))
RETURNING = (("create", 0), ("create", 1), ("switch", 1), ("prove", 0))
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


def restarts(scene: Scene, nodes: Sequence[Node]) -> None:
    """The three changes, each with a node stopped and started again while it goes on."""
    for number, (file, queue) in enumerate((("quorum", "orders"), ("longer", "orders"), ("after", "mail"))):
        node = nodes[1 + number % (len(nodes) - 1)]
        begun = time.monotonic()
        with ThreadPoolExecutor(1) as beside:
            migrated = beside.submit(scene.command, *MIGRATE, queue, "--finish", *QUICK, file=file)
            node.stop()
            stopped = time.monotonic()
            running = not migrated.done()
            node.start(timeout_seconds=LONG_BOOT_SECONDS)
            started = time.monotonic()
            migrated.result()
        say(
            f"  {queue} to {file!r} in {time.monotonic() - begun:.1f} s; node {1 + number % (len(nodes) - 1)} was away from "
            f"{stopped - begun:.1f} to {started - begun:.1f} s, the migration {'went on' if running else 'was over'}"
        )


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


def swaps(scene: Scene) -> None:
    """A queue that keeps its name: to quorum and back by two halves each, then cut off in the second half, and gone on with."""
    for file in ("quorum", "before"):
        begun = time.monotonic()
        scene.command(*MIGRATE, "orders", "--strategy", "swap", "--finish", *QUICK, file=file)
        _see_home(scene)
        say(f"  orders to {file!r}, and still orders, in {time.monotonic() - begun:.1f} s")
    wanted = "before"
    for step, writes in RETURNING:
        wanted = "before" if wanted == "quorum" else "quorum"
        scene.cut_off(wanted, step, writes, swap=True)
        scene.command(*MIGRATE, "resume", *QUICK, file=wanted)
        _see_home(scene)
        say(f"  killed in {step} of the second half after {writes} writes, then resumed")


def _see_home(scene: Scene) -> None:
    status = json.loads(scene.command(*MIGRATE, "status", "--json"))["queues"]["orders"]
    if status["current"] != "orders" or status["migration"] is not None:
        raise RuntimeError(f"after a swap: {status}")


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


def renames(scene: Scene) -> None:
    """`orders` gets another name and another type, with producers and workers of both files, and is killed in every step."""
    scene.publish("renamed")
    scene.join("renamed", "purchases,mail")
    scene.command("topology", "apply", file="renamed", expect=(0, 3))  # the other type is refused, and comes later
    for step, writes in (*ADOPTION, ("create", 0), ("create", 1)):
        scene.cut_off("renamed", step, writes)
        say(f"  killed in {step} after {writes} writes")
    scene.leave(2)  # those with the file of before, which do not follow
    for step in FORWARD[1:]:
        for writes in sorted({0, WRITES.get(step, 0)}):
            scene.cut_off("renamed", step, writes)
            say(f"  killed in {step} after {writes} writes")
    scene.command(*MIGRATE, "finish", *QUICK, file="renamed")
    home = json.loads(scene.command(*MIGRATE, "status", "--json", file="renamed"))["queues"]["purchases"]
    if home["current"] != "purchases" or home["migration"] is not None:
        raise RuntimeError(f"after a rename: {home}")


PARTS = {"changes": changes, "kills": kills, "aborts": aborts, "swaps": swaps, "renames": renames}


@dataclass(frozen=True, slots=True)
class Place:
    """A broker: its AMQP URL, and that of the management API, where the same login holds."""

    url: str
    management: str

    def call(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """Call the management API."""
        login = urlsplit(self.url)
        request = urllib.request.Request(  # noqa: S310 - the broker under test
            f"{self.management.rstrip('/')}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode(),
                "content-type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            text = answer.read()
        found: dict[str, object] = json.loads(text) if text else {}
        return found

    def version(self) -> str:
        """Wait until the management API answers, which it does a little after the broker; return RabbitMQ's version."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return str(self.call("GET", "overview")["rabbitmq_version"])
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)


@contextmanager
def broker(root: str | None) -> Iterator[Place]:
    """Yield a broker."""
    url, management = os.environ.get("AMQPQ_BROKER_URL"), os.environ.get("AMQPQ_MANAGEMENT_URL")
    if root is None and url and management:
        yield Place(url, management)
        return
    with tempfile.TemporaryDirectory(prefix="amqpq-migration-") as folder:
        found = find_installation({**os.environ, **({ROOT_VARIABLE: root} if root else {})})
        node = Node(Path(folder) / "node", NodeOptions(dies_with_caller=sys.platform == "linux"), installation=found)
        node.start(timeout_seconds=LONG_BOOT_SECONDS)
        try:
            yield Place(node.url, node.management_url)
        finally:
            node.stop()


def run(part: str, act: Callable[[Scene], None], place: Place, rate: float) -> bool:
    """Run one part in a virtual host of its own; say whether every message was processed once."""
    vhost = f"amqpq-moving-{uuid.uuid4().hex[:8]}"
    user = urlsplit(place.url).username
    place.call("PUT", f"vhosts/{vhost}", {})
    place.call("PUT", f"permissions/{vhost}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
    try:
        with tempfile.TemporaryDirectory(prefix="amqpq-moving-") as folder:
            url = urlsplit(place.url)._replace(path=f"/{vhost}").geturl()
            scene = Scene(Path(folder) / part, url, place.management, rate)
            begun = time.monotonic()
            error = ""
            with scene.traffic():
                try:
                    act(scene)
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
        place.call("DELETE", f"vhosts/{vhost}")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.migration")
    parser.add_argument("--rate", type=float, default=2000, help="messages a second")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--root", help="a folder with another RabbitMQ")
    parser.add_argument(
        "--cluster", metavar="VERSIONS", help=f"of {', '.join(release.version for release in RELEASES)}"
    )
    given = parser.parse_args()
    if given.cluster:
        wanted = given.cluster.split(",")
        found = [(number, release) for number, release in enumerate(RELEASES) if release.version in wanted]
        good = [on_cluster(number, release, given.rate) for number, release in found]
        return 0 if all(good) else 1
    with broker(given.root) as place:
        say(f"RabbitMQ {place.version()}")
        good = [run(part, PARTS[part], place, given.rate) for part in given.parts.split(",")]
    return 0 if all(good) else 1


def on_cluster(number: int, release: Release, rate: float) -> bool:
    """Run the changes on three nodes of a version."""
    with tempfile.TemporaryDirectory(prefix="amqpq-migration-") as folder:
        cluster = Cluster(release, Path(folder) / "cluster", number)
        try:
            cluster.start()
            place = Place(cluster.nodes[0].url, cluster.nodes[0].management_url)
            say(f"RabbitMQ {place.version()}, three nodes")
            return run("restarts", lambda scene: restarts(scene, cluster.nodes), place, rate)
        finally:
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main())
