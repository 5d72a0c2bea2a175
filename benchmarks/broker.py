"""The broker of a run: a private node in a temporary folder, or the one that `$AMQPQ_BROKER_URL` names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from amqpq.node import Node

VHOST = "bench"


@contextmanager
def broker() -> Iterator[str]:
    """Yield the AMQP URL of a vhost to measure in.

    With `$AMQPQ_BROKER_URL` it is the vhost of that URL; the queues made there are deleted again.

    Raises:
        BrokerSetupError: There is no RabbitMQ on this machine.
    """
    given = os.environ.get("AMQPQ_BROKER_URL")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="amqpq-bench-") as folder:
        node = Node(Path(folder))
        node.start()
        try:
            user = urlsplit(node.url).username or "guest"
            node.ctl("add_vhost", VHOST)
            node.ctl("set_permissions", "-p", VHOST, user, ".*", ".*", ".*")
            yield urlsplit(node.url)._replace(path=f"/{VHOST}").geturl()
        finally:
            node.stop()
