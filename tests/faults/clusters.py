"""Three RabbitMQ nodes on one machine, each on a host of its own: a network namespace with one address on a common bridge.

The bridge stands in a fourth namespace, and a cable leads from it into the machine's own, where producers and workers are.
Cutting the nodes off from one another leaves the clients' ways to them open: that is what a split between nodes is.
Needs root and `ip` (iproute2).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from amqpq.errors import BrokerSetupError
from amqpq.node import Node, NodeOptions
from amqpq.node.installation import Installation
from amqpq.node.options import Ports
from amqpq.node.process import Process
from amqpq.node.state import State
from tests.faults.brokers import LONG_BOOT_SECONDS, Release, installation

SUBNETS: Final = ("10.203.78", "10.203.79", "10.203.80")
"""One per version: clusters may stand side by side."""
CLIENT: Final = 254
COUNT: Final = 3
PORTS: Final = Ports(amqp=5672, management=15672, distribution=25672, epmd=4369)
"""The usual ones: nobody else is on these hosts."""
TICK_SECONDS: Final = 8
"""Erlang's net_ticktime: a silent neighbour counts as down after 0.75 to 1.25 of it. The default is 60."""
PARTITION_HANDLING: Final = "pause_minority"
"""What the nodes do about a split (https://www.rabbitmq.com/docs/partitions). 4.3 keeps its metadata in Khepri, where the
minority cannot decide anything by construction, and ignores the setting."""


class HostedNode(Node):
    """A node with a name and an address that its neighbours can reach."""

    def __init__(self, folder: Path, address: str, namespace: str, release: Installation) -> None:
        self.address = address
        self.namespace = namespace
        self.name = f"rabbit@{address}"
        options = NodeOptions(
            listen=address,
            ports=PORTS,
            config={"cluster_partition_handling": PARTITION_HANDLING},
            prefix=("ip", "netns", "exec", namespace),
            dies_with_caller=True,
        )
        super().__init__(folder, options, installation=release)

    def _environ(self, ports: Ports) -> dict[str, str]:
        interface = self.address.replace(".", ",")
        changed = {
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-kernel inet_dist_use_interface {{{interface}}} net_ticktime {TICK_SECONDS}"
            ),
            "ERL_EPMD_ADDRESS": self.address,
        }
        return super()._environ(ports) | changed

    def _start_epmd(self, known: State) -> Process | None:
        epmd = self.installation.epmd
        if epmd is None:
            raise BrokerSetupError("the cluster needs epmd beside RabbitMQ")
        arguments = [epmd, "-port", str(known.ports.epmd), "-address", self.address]
        return self._spawn(arguments, known.ports, {})


class Cluster:
    """Three nodes of one version that are one broker."""

    kind = "cluster"

    def __init__(self, release: Release, folder: Path, number: int) -> None:
        found = installation(release)
        self.version = found.version or release.version
        self._folder = folder
        self._mark = f"amqpq-faults-{number}-{os.getpid()}"
        self._cable = f"aqf{number}-{os.getpid() % 1_000_000}"
        self._subnet = SUBNETS[number]
        self._switch = f"{self._mark}-switch"
        self.hosts = tuple(
            HostedNode(folder / f"node{host}", f"{self._subnet}.{host}", f"{self._mark}-{host}", found)
            for host in range(1, COUNT + 1)
        )
        self._wired = False
        self._joined = False

    @property
    def nodes(self) -> Sequence[Node]:
        """The three."""
        return self.hosts

    def start(self) -> None:
        """Start the nodes that do not run; the first time, lay the network and join them."""
        if not self._wired:
            self._wired = True
            self._wire()
        if self._joined:
            for node in self.hosts:
                node.start(timeout_seconds=LONG_BOOT_SECONDS)
            return
        cookie = secrets.token_hex(16)
        for node in self.hosts:
            node.folder.mkdir(mode=0o700, parents=True)
            path = node.folder / ".erlang.cookie"
            path.write_text(cookie, encoding="ascii")
            path.chmod(0o400)
        with ThreadPoolExecutor(COUNT) as together:
            list(together.map(lambda node: node.start(timeout_seconds=LONG_BOOT_SECONDS), self.hosts))
        for node in self.hosts[1:]:
            node.ctl("stop_app")
            node.ctl("reset")
            node.ctl("join_cluster", self.hosts[0].name, timeout_seconds=LONG_BOOT_SECONDS)
            node.ctl("start_app", timeout_seconds=LONG_BOOT_SECONDS)
        self._joined = True

    def stop(self) -> None:
        """Stop the nodes and take the network away."""
        self.heal()
        for node in self.hosts:
            node.kill() if node.folder.joinpath("node.json").exists() else None
            if node.running:
                node.stop()
        for namespace in (*(node.namespace for node in self.hosts), self._switch):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def split_off(self, number: int) -> None:
        """Make one node (from 0) and the others unreachable to each other; clients reach all of them."""
        lonely = self.hosts[number]
        for other in self.hosts:
            if other is not lonely:
                _ip("-n", lonely.namespace, "route", "add", "blackhole", f"{other.address}/32")

    def heal(self) -> None:
        """End a split."""
        for node in self.hosts:
            for other in self.hosts:
                route = ["ip", "-n", node.namespace, "route", "delete", "blackhole", f"{other.address}/32"]
                subprocess.run(route, check=False, capture_output=True)

    def _wire(self) -> None:
        switch = self._switch
        place = f"{self._subnet}.{CLIENT}"
        if device := holder(_ip("-o", "address", "show", "to", place)):
            raise BrokerSetupError(
                f"{place} is that of {device}: another run has a cluster of this version here, or has left it behind "
                f"(`ip link delete {device}`)"
            )
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge0", "up")
        for node in self.hosts:
            port = f"to-{node.address.rpartition('.')[2]}"
            _ip("netns", "add", node.namespace)
            _ip("-n", node.namespace, "link", "set", "lo", "up")
            _ip("-n", node.namespace, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
            _ip("-n", switch, "link", "set", port, "master", "bridge0", "up")
            _ip("-n", node.namespace, "address", "add", f"{node.address}/24", "dev", "eth0")
            _ip("-n", node.namespace, "link", "set", "eth0", "up")
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "to-clients", "netns", switch)
        _ip("-n", switch, "link", "set", "to-clients", "master", "bridge0", "up")
        _ip("address", "add", f"{place}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")


def obstacle(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return what keeps this machine from having hosts of its own, or None."""
    if shutil.which("ip", path=environ.get("PATH")) is None:
        return "the command `ip` is missing (Debian, Ubuntu: apt-get install iproute2)"
    return None if os.geteuid() == 0 else "network namespaces need root"


def holder(listing: str) -> str | None:
    """Return the device that has an address, given what `ip -o address show to` says of it; None where none has."""
    words = listing.split()
    return words[1].partition("@")[0] if words else None


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BrokerSetupError(f"`ip {' '.join(arguments)}`: {done.stderr.strip()}")
    return done.stdout
