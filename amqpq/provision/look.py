"""Looks at a broker at the best level there is. Blocking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from amqpq.errors import ConfigurationError, TransportError
from amqpq.management import Management
from amqpq.provision import journal, observe_amqp, observe_http
from amqpq.provision.journal import Manifest
from amqpq.provision.observed import Observed
from amqpq.provision.wanted import Wanted
from amqpq.transport import flow
from amqpq.transport.interface import Connection

Choice: TypeAlias = Literal["auto", "http", "amqp"]


@dataclass(frozen=True, slots=True)
class Eyes:
    """What a broker is looked at with. `vhost` is the one of the connection."""

    connection: Connection
    vhost: str
    api: Management | None = None
    choice: Choice = "auto"
    timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, and a sentence where it was less than was hoped for."""

    observed: Observed
    manifest: Manifest
    remark: str = ""


def look(eyes: Eyes, wanted: Wanted) -> Look:
    """Look at the broker: over the HTTP API where there is one, else over AMQP.

    With `auto`, an API that does not answer, or refuses us, is a remark; with `http` it is the error.

    Raises:
        ConfigurationError: `http` is asked for and no API is named, or it belongs to another broker.
        TransportError: The broker cannot be looked at.
    """
    if eyes.choice == "http" and eyes.api is None:
        raise ConfigurationError("--observe http needs broker.management in the file, or $AMQPQ_MANAGEMENT_URL")
    server = eyes.connection.server
    manifest = journal.read(eyes.connection, wanted.project)
    remark = "" if eyes.api is not None else "no broker.management in the file: what AMQP cannot tell is unknown"
    if eyes.api is not None and eyes.choice != "amqp":
        try:
            return Look(observe_http.observe(eyes.api, eyes.vhost, server=server), manifest)
        except TransportError as error:
            if eyes.choice == "http":
                raise
            remark = f"{error}\nso the broker was looked at over AMQP, and what that cannot tell is unknown"
    seeing = observe_amqp.observe(eyes.connection.channel, wanted, eyes.vhost, server)
    return Look(flow.run(seeing, eyes.timeout_seconds), manifest, remark)
