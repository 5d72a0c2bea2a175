"""Looks at a broker at the best level there is. Blocking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from amqpq.errors import ConfigurationError, TransportError
from amqpq.management import Management
from amqpq.provision import journal, observe_amqp, observe_amqp10, observe_http
from amqpq.provision.journal import Manifest
from amqpq.provision.observed import Observed
from amqpq.provision.wanted import Wanted
from amqpq.topology import versions
from amqpq.transport import flow
from amqpq.transport.interface import Connection
from amqpq.transport.management_node import ManagementNode
from amqpq.transport.url import Address

Choice: TypeAlias = Literal["auto", "http", "amqp1.0", "amqp"]


@dataclass(frozen=True, slots=True)
class Eyes:
    """What a broker is looked at with.

    `vhost` is the one of the connection. `addresses` are nodes of the cluster that it leads to, one of which is asked over AMQP
    1.0; without any nobody is.
    """

    connection: Connection
    vhost: str
    api: Management | None = None
    choice: Choice = "auto"
    timeout_seconds: float = 30.0
    addresses: tuple[Address, ...] = ()

    @property
    def statistics(self) -> Management | None:
        """The client whose counts may be used; None where the choice is to do without."""
        return None if self.choice in {"amqp1.0", "amqp"} else self.api


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, and a sentence where it was less than was hoped for."""

    observed: Observed
    manifest: Manifest
    remark: str = ""


def look(eyes: Eyes, wanted: Wanted) -> Look:
    """Look at the broker: over the HTTP API where there is one, else over AMQP 1.0 where the broker knows it, else over 0-9-1.

    With `auto`, an API or a management node that does not answer, or refuses us, is a remark; where it was chosen, the error.

    Raises:
        ConfigurationError: What was chosen is not there (no API is named, or the broker is older than AMQP 1.0 management), or
            it belongs to another broker.
        TransportError: The broker cannot be looked at.
    """
    _demand_possible(eyes)
    manifest = journal.read(eyes.connection, wanted.project)
    remarks = [] if eyes.api is not None else ["no broker.management in the file: what AMQP cannot tell is unknown"]
    if eyes.api is not None and eyes.choice in {"auto", "http"}:
        try:
            return Look(observe_http.observe(eyes.api, eyes.vhost, server=eyes.connection.server), manifest)
        except TransportError as error:
            if eyes.choice == "http":
                raise
            remarks = [f"{error}\nso the broker was looked at over AMQP, and what that cannot tell is unknown"]
    if eyes.choice == "amqp1.0" or (eyes.choice == "auto" and _has_node(eyes)):
        try:
            return Look(_over_amqp10(eyes, wanted), manifest, "\n".join(remarks))
        except TransportError as error:
            if eyes.choice == "amqp1.0":
                raise
            remarks.append(f"{error}\nso the broker was looked at over AMQP 0-9-1, which tells no bindings")
    return Look(_over_amqp(eyes, wanted), manifest, "\n".join(remarks))


def _demand_possible(eyes: Eyes) -> None:
    if eyes.choice == "http" and eyes.api is None:
        raise ConfigurationError("--observe http needs broker.management in the file, or $AMQPQ_MANAGEMENT_URL")
    if eyes.choice == "amqp1.0" and not _has_node(eyes):
        version = versions.show(eyes.connection.server.version_tuple)
        raise ConfigurationError(
            f"--observe amqp1.0 needs RabbitMQ 4.0, and the broker is {version}; `--observe amqp` works with every version"
        )


def _has_node(eyes: Eyes) -> bool:
    return bool(eyes.addresses) and eyes.connection.server.version_tuple >= observe_amqp10.SINCE


def _over_amqp(eyes: Eyes, wanted: Wanted) -> Observed:
    connection = eyes.connection
    seeing = observe_amqp.observe(connection.channel, wanted, eyes.vhost, connection.server)
    return flow.run(seeing, eyes.timeout_seconds)


def _over_amqp10(eyes: Eyes, wanted: Wanted) -> Observed:
    with _node(eyes, wanted.project) as node:
        exchanges = _over_amqp(eyes, observe_amqp10.exchanges_alone(wanted))
        return observe_amqp10.observe(node, wanted, exchanges)


def _node(eyes: Eyes, project: str) -> ManagementNode:
    """Return the management node of the first address that answers; raise the error of the last where none does."""
    *others, last = eyes.addresses
    name = f"amqpq topology {project}"
    for address in others:
        try:
            return ManagementNode(address, name=name, timeout_seconds=eyes.timeout_seconds)
        except TransportError:
            continue
    return ManagementNode(last, name=name, timeout_seconds=eyes.timeout_seconds)
