"""Three hosts on one machine: network namespaces, joined by a bridge that stands in the broker's namespace.

The bridge is not in the machine's own namespace on purpose: there, a firewall (Docker's, for one) may drop what it
forwards, and the addresses could collide with real ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SUBNET = "10.203.77"
BROKER, PRODUCER, WORKER = "broker", "producer", "worker"
ADDRESSES = {BROKER: f"{SUBNET}.1", PRODUCER: f"{SUBNET}.2", WORKER: f"{SUBNET}.3"}


@dataclass(frozen=True, slots=True)
class Host:
    """One of the three: its name, its namespace and its only address."""

    name: str
    namespace: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that runs another command on this host."""
        return ("ip", "netns", "exec", self.namespace)


def missing() -> str | None:
    """Return what keeps this machine from making namespaces, or None."""
    if shutil.which("ip") is None:
        return "the command `ip` is missing (Debian, Ubuntu: apt-get install iproute2)"
    probe = f"amqpq-probe-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"network namespaces need root: run it with sudo (ip says: {tried.stderr.strip()})"
    _ip("netns", "delete", probe)
    return None


@contextmanager
def three_hosts() -> Iterator[dict[str, Host]]:
    """Make the hosts, and remove them when the block ends.

    Yields:
        The hosts by name: broker, producer, worker.
    """
    hosts = {name: Host(name, f"amqpq-{os.getpid()}-{name}", address) for name, address in ADDRESSES.items()}
    made: list[Host] = []
    try:
        for host in hosts.values():
            _ip("netns", "add", host.namespace)
            made.append(host)
            _in(host, "link", "set", "lo", "up")
        broker = hosts[BROKER]
        _in(broker, "link", "add", "bridge0", "type", "bridge")
        _in(broker, "address", "add", f"{broker.address}/24", "dev", "bridge0")
        _in(broker, "link", "set", "bridge0", "up")
        for host in (hosts[PRODUCER], hosts[WORKER]):
            _plug(host, broker)
        yield hosts
    finally:
        for host in made:
            _ip("netns", "delete", host.namespace)  # its interfaces go with it


def _plug(host: Host, switch: Host) -> None:
    """Lay a cable from the host to the bridge."""
    port = f"to-{host.name}"
    _in(host, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch.namespace)
    _in(switch, "link", "set", port, "master", "bridge0", "up")
    _in(host, "address", "add", f"{host.address}/24", "dev", "eth0")
    _in(host, "link", "set", "eth0", "up")


def _in(host: Host, *arguments: str) -> None:
    _ip("-n", host.namespace, *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
