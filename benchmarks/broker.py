"""The broker of a run: a private node in a temporary folder, or the one that `$AMQPQ_BROKER_URL` names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from amqpq.node import Node

VHOST = "bench"

PID_VARIABLE = "BENCH_BROKER_PID"
"""Holds the process number of a node of ours while it runs, for those that measure in processes of their own."""


@dataclass(frozen=True, slots=True)
class Place:
    """A vhost to measure in: its AMQP URL, and that of the HTTP API (whose login is the same); empty where none is named."""

    url: str
    management: str


@contextmanager
def broker() -> Iterator[str]:
    """Yield the AMQP URL of a vhost to measure in; like `places`."""
    with places() as place:
        yield place.url


@contextmanager
def places() -> Iterator[Place]:
    """Yield a vhost to measure in.

    With `$AMQPQ_BROKER_URL` it is the vhost of that URL; the queues made there are deleted again.

    Raises:
        BrokerSetupError: There is no RabbitMQ on this machine.
    """
    given = os.environ.get("AMQPQ_BROKER_URL")
    if given:
        yield Place(given, os.environ.get("AMQPQ_MANAGEMENT_URL", ""))
        return
    with tempfile.TemporaryDirectory(prefix="amqpq-bench-") as folder:
        node = Node(Path(folder))
        node.start()
        try:
            user = urlsplit(node.url).username or "guest"
            node.ctl("add_vhost", VHOST)
            node.ctl("set_permissions", "-p", VHOST, user, ".*", ".*", ".*")
            os.environ[PID_VARIABLE] = str(node.pid)
            yield Place(urlsplit(node.url)._replace(path=f"/{VHOST}").geturl(), node.management_url)
        finally:
            os.environ.pop(PID_VARIABLE, None)
            node.stop()
