"""Faults of a cluster of three nodes. Workers and producers know all three addresses."""

from __future__ import annotations

import threading
import time
from typing import Final

from amqpq.errors import BrokerSetupError
from tests.faults.clusters import PARTITION_HANDLING, Cluster, HostedNode
from tests.faults.scene import QUEUE, Row, Scene

NOTICE_SECONDS: Final = 90.0
SPLIT_SECONDS: Final = 5.0
"""How long it lasts after the nodes have noticed."""


def kill_node(scene: Scene) -> None:
    """Kill the node where the queue (its leader) is, and start it again."""
    node = _cluster(scene).hosts[_home(scene)]
    node.kill()
    scene.struck()
    node.start()


def split(scene: Scene) -> None:
    """Cut the node where the queue (its leader) is off from the other two, until they have noticed; then heal."""
    cluster = _cluster(scene)
    number = _home(scene)
    lonely, other = cluster.hosts[number], cluster.hosts[(number + 1) % len(cluster.hosts)]
    cluster.split_off(number)
    try:
        scene.struck()
        # Both sides must have noticed: a split that only one has seen is another fault (a partial partition).
        _until(lambda: lonely.name not in other.ctl("eval", "nodes()."), "the neighbours do not notice the split")
        _until(lambda: other.name not in lonely.ctl("eval", "nodes()."), "the node cut off does not notice the split")
        threading.Event().wait(SPLIT_SECONDS)
    finally:
        cluster.heal()
    _until(lambda: _whole(lonely, len(cluster.hosts)), "the split does not heal")


def _whole(node: HostedNode, count: int) -> bool:
    try:
        said = node.ctl("eval", "{rabbit:is_running(), length(nodes())}.")
    except BrokerSetupError:
        return False
    return said.strip() == f"{{true,{count - 1}}}"


def _until(condition: object, complaint: str) -> None:
    deadline = time.monotonic() + NOTICE_SECONDS
    pause = threading.Event()
    while callable(condition) and not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        pause.wait(0.2)


def _cluster(scene: Scene) -> Cluster:
    if not isinstance(scene.server, Cluster):
        raise TypeError("this row needs a cluster")
    return scene.server


def _home(scene: Scene) -> int:
    """Return which node the queue is on."""
    cluster = _cluster(scene)
    listing = cluster.hosts[0].ctl("list_queues", "-p", scene.vhost.name, "name", "pid")
    line = next(line for line in listing.splitlines() if line.startswith(f"{QUEUE}\t"))
    return next((number for number, node in enumerate(cluster.hosts) if f"{node.name}." in line), 0)


ROWS: Final = (
    Row(
        "node-kill",
        "kill -9 of one node of three, the one the queue is on, and a restart",
        kill_node,
        producers=True,
        kind="cluster",
    ),
    Row(
        "split",
        f"that node is cut off from the other two and comes back ({PARTITION_HANDLING})",
        split,
        producers=True,
        kind="cluster",
    ),
)
