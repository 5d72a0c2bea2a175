"""What a private node is asked to be, and the ports it gets."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amqpq.errors import BrokerSetupError
from amqpq.topology.partitions import PLUGIN

LOOPBACK = "127.0.0.1"

# Below the range the kernel takes client ports from (32768 and up on Linux, /proc/sys/net/ipv4/ip_local_port_range). A
# listener inside that range may find its port taken by an outgoing connection when it restarts, and a client that keeps
# knocking on such a port while nobody listens can end up connected to itself.
FIRST_PORT = 20_000
LAST_PORT = 32_000


@dataclass(frozen=True, slots=True)
class Ports:
    """The TCP ports of one node.

    Args:
        amqp: AMQP 0-9-1 listener.
        management: HTTP API and management page.
        distribution: Erlang distribution, which `rabbitmqctl` talks to.
        epmd: the Erlang name service of this node alone.
    """

    amqp: int
    management: int
    distribution: int
    epmd: int


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """How a private node differs from the default one.

    Args:
        listen: address that the AMQP and management listeners bind to. Off the loopback address RabbitMQ would refuse
            the user `guest`, so another user with a random password is made.
        ports: fixed ports; None picks free ones, which then stay with the data folder.
        plugins: enabled besides management and the consistent-hash exchange.
        config: further lines of rabbitmq.conf, for example `{"consumer_timeout": "60000"}` (milliseconds).
        prefix: command that runs every program of the node, for example `("ip", "netns", "exec", "broker")`. It must
            `exec` what follows, so that the process keeps its id.
        dies_with_caller: end with the program that starts it, even one that is killed; for tests and scripts that should
            leave nothing behind. Linux only, elsewhere it is refused.
    """

    listen: str = LOOPBACK
    ports: Ports | None = None
    plugins: Sequence[str] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    dies_with_caller: bool = False

    @property
    def only_loopback(self) -> bool:
        """Whether nobody but this machine can connect."""
        return self.listen.startswith("127.")


def free_ports(amqp: int | None = None) -> Ports:
    """Find ports that nobody listens on now.

    Args:
        amqp: take this one for AMQP, and find the others.

    Raises:
        BrokerSetupError: the given port is taken, or too few are free.
    """
    if amqp is not None and not is_free(amqp):
        raise BrokerSetupError(
            f"port {amqp} is taken by another program; choose another one, or leave the choice to amqpq"
        )
    candidates = random.sample(range(FIRST_PORT, LAST_PORT), 200)
    free = (port for port in candidates if port != amqp and is_free(port))
    chosen = [amqp] if amqp is not None else []
    for port in free:
        chosen.append(port)
        if len(chosen) == 4:  # noqa: PLR2004 - the four of Ports
            return Ports(*chosen)
    raise BrokerSetupError(f"no four free ports between {FIRST_PORT} and {LAST_PORT}")


def is_free(port: int) -> bool:
    """Whether nobody listens on the port, on any address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As RabbitMQ itself listens: connections of a former node in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def render_config(options: NodeOptions, ports: Ports, user: str, password: str) -> str:
    """Return the node's rabbitmq.conf."""
    lines = {
        "listeners.tcp.1": f"{options.listen}:{ports.amqp}",
        "management.tcp.ip": options.listen,
        "management.tcp.port": str(ports.management),
        "default_user": user,
        "default_pass": password,
        **options.config,
    }
    if not options.only_loopback:
        lines.setdefault("loopback_users", "none")
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def render_plugins(options: NodeOptions) -> str:
    """Return the node's enabled_plugins file, an Erlang term."""
    plugins = ["rabbitmq_management", PLUGIN, *options.plugins]
    return f"[{','.join(dict.fromkeys(plugins))}].\n"


def write_if_changed(path: Path, text: str) -> None:
    """Write a file unless it holds that text already."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
