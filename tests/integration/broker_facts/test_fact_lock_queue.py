"""L12: an exclusive queue as a lock: who holds it, and when it is free again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from amqpq.node import Node
from amqpq.testing.proxy import Proxy
from tests.conftest import BrokerServer
from tests.support.lab import Lab, answer, until

ROOT = Path(__file__).resolve().parents[3]
LOCK = "amqpq.lock.shop"
HEARTBEAT_SECONDS = 2
"""The broker ends a connection that is silent for two of them."""

HOLDER = """
import sys, time
from amqpq.transport import blocking, url
from amqpq.types import QueueSpec
connection = blocking.connect(url.parse(sys.argv[1]), heartbeat_seconds=30, timeout_seconds=20)
spec = QueueSpec(sys.argv[2], durable=False, exclusive=True, auto_delete=True)
connection.channel().declare_queue(spec).add_done_callback(lambda done: print(done.result().name, flush=True))
time.sleep(600)
"""


def free(lab: Lab) -> bool:
    """Whether the lock can be taken; it then is."""
    said = lab.refusal(LOCK, durable=False, exclusive=True, auto_delete=True)
    assert not said or "RESOURCE_LOCKED" in said, said
    return not said


def test_an_exclusive_queue_is_one_connections(lab: Lab) -> None:
    """Another connection is refused with 405; for the holder the declaration is idempotent."""
    holder = Lab(lab.url, lab.server)
    assert free(holder)
    assert free(holder)
    assert not free(lab)
    holder.close()
    until(lambda: free(lab), "the lock is free")


def test_a_lock_is_free_when_its_holder_is_killed(lab: Lab) -> None:
    """`kill -9` closes its socket, and the broker takes the queue away."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, lab.url, LOCK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == LOCK
        assert not free(lab)
        holder.send_signal(signal.SIGKILL)
        until(lambda: free(lab), "the lock is free")


def test_a_lock_is_free_when_its_holder_is_cut_off(lab: Lab) -> None:
    """Nothing tells the broker but the missing heartbeats."""
    parts = urlsplit(lab.url)
    with Proxy(parts.hostname or "localhost", parts.port or 5672) as proxy:
        through = parts._replace(netloc=f"{parts.username}:{parts.password}@{proxy.host}:{proxy.port}").geturl()
        connection = lab.connect(through, HEARTBEAT_SECONDS)
        holder = Lab(lab.url, lab.server)
        holder.connection, before = connection, holder.connection
        assert free(holder)
        proxy.stall()
        assert not free(lab)
        until(lambda: free(lab), "the lock is free", 20 * HEARTBEAT_SECONDS)
        answer(before.close())


@pytest.mark.slow
def test_a_lock_is_free_after_a_restart_of_the_broker(
    private_node: Node, private_vhost_url: str, private_server: BrokerServer
) -> None:
    """It does not survive its node, killed or stopped."""
    holder = Lab(private_vhost_url, private_server)
    assert free(holder)
    private_node.kill()
    private_node.start()
    after = Lab(private_vhost_url, private_server)
    until(lambda: free(after), "the lock is free")
    after.close()
