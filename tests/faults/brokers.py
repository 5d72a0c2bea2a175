"""The brokers of the matrix: one node per version for most rows, three nodes that form a cluster for the rest.

Cells share a broker, each in a vhost of its own; a row that breaks the broker has it running again when it ends.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

from amqpq.errors import BrokerSetupError
from amqpq.node import Node, NodeOptions, find_installation
from amqpq.node.installation import ROOT_VARIABLE, Installation

ROOT = Path(__file__).resolve().parents[2]
HTTP_SECONDS = 30.0
LONG_BOOT_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Release:
    """A RabbitMQ version of the matrix, and the Debian release that has it; an empty one is the machine's own."""

    version: str
    suite: str


RELEASES: Final = (Release("3.10", ""), Release("4.0", "trixie"), Release("4.3", "forky"))


class Server(Protocol):
    """What a cell needs of a broker."""

    @property
    def kind(self) -> str:
        """`node` or `cluster`."""

    @property
    def version(self) -> str:
        """Its RabbitMQ."""

    @property
    def nodes(self) -> Sequence[Node]:
        """Its nodes; the first one is the one to talk to."""

    def start(self) -> None:
        """Start what is not running."""

    def stop(self) -> None:
        """Stop it."""


def installation(release: Release) -> Installation:
    """Find, or unpack, the RabbitMQ of a release.

    Raises:
        BrokerSetupError: This machine cannot have it.
    """
    if not release.suite:
        return find_installation({"PATH": os.environ.get("PATH", "")})
    script = ROOT / "scripts/rabbitmq-from-debian.sh"
    made = subprocess.run([script, release.suite], stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode != 0:
        raise BrokerSetupError(f"{script.name} {release.suite} ended with {made.returncode}")
    return find_installation({ROOT_VARIABLE: made.stdout.strip().splitlines()[-1]})


class SingleNode:
    """One private node."""

    kind = "node"

    def __init__(self, release: Release, folder: Path) -> None:
        found = installation(release)
        self.version = found.version or release.version
        leash = sys.platform == "linux"
        self.node = Node(folder, NodeOptions(dies_with_caller=leash), installation=found)

    @property
    def nodes(self) -> Sequence[Node]:
        """The node."""
        return (self.node,)

    def start(self) -> None:
        """Start it where it is not running."""
        self.node.start(timeout_seconds=LONG_BOOT_SECONDS)

    def stop(self) -> None:
        """Stop it, and forget its data."""
        self.node.stop()
        shutil.rmtree(self.node.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class GivenNode:
    """A node that somebody else starts and stops."""

    node: Node
    kind: str = "node"
    version: str = ""

    @property
    def nodes(self) -> Sequence[Node]:
        """The node."""
        return (self.node,)

    def start(self) -> None:
        """Leave it to its owner."""

    def stop(self) -> None:
        """Leave it to its owner."""


class Vhost:
    """A vhost of its own on a broker, by way of the management API of its first node."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name

    def __enter__(self) -> Self:
        user = urlsplit(self.server.nodes[0].url).username or ""
        self._request("PUT", f"vhosts/{self.name}", {})
        self._request("PUT", f"permissions/{self.name}/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a broker that the fault has left broken is thrown away
            self._request("DELETE", f"vhosts/{self.name}")

    @property
    def urls(self) -> list[str]:
        """AMQP URLs into it, one per node. All nodes of a cluster have the users of the first."""
        first = urlsplit(self.server.nodes[0].url)
        user = first.netloc.rpartition("@")[0]
        places = [urlsplit(node.url).netloc.rpartition("@")[2] for node in self.server.nodes]
        return [first._replace(netloc=f"{user}@{place}", path=f"/{self.name}").geturl() for place in places]

    @property
    def password(self) -> str:
        """The password in the URLs."""
        return urlsplit(self.server.nodes[0].url).password or ""

    def _request(self, method: str, path: str, body: object = None) -> None:
        node = self.server.nodes[0]
        parts = urlsplit(node.url)
        credentials = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - the node that was started here
            f"{node.management_url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Basic {credentials}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=HTTP_SECONDS):  # noqa: S310 - as above
            return
