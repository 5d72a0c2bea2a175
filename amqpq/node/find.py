"""Which private broker this machine can have, and where its data is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from amqpq.errors import BrokerSetupError, ConfigurationError
from amqpq.node import state
from amqpq.node.compose import ComposeNode, find_docker
from amqpq.node.installation import find_installation
from amqpq.node.node import Node
from amqpq.node.options import NodeOptions

DEFAULT_NAME = "default"


class Broker(Protocol):
    """What `amqpq broker` needs of a private broker, however it runs."""

    kind: str
    folder: Path

    @property
    def running(self) -> bool:
        """Whether it runs."""

    @property
    def pid(self) -> int | None:
        """Its process id, where it is a process of this machine."""

    @property
    def version(self) -> str:
        """RabbitMQ's version."""

    @property
    def url(self) -> str:
        """AMQP URL with user and password."""

    @property
    def management_url(self) -> str:
        """Root of the HTTP API."""

    @property
    def log(self) -> Path:
        """Where to read on."""

    def start(self, *, timeout_seconds: float = ..., on_progress: Callable[[str], object] | None = ...) -> None:
        """Start it and wait until it is ready."""

    def stop(self, *, timeout_seconds: float = ...) -> None:
        """Stop it."""


def default_folder(name: str = DEFAULT_NAME, environ: Mapping[str, str] | None = None) -> Path:
    """Return the data folder of the private broker of that name: `$XDG_STATE_HOME/amqpq/broker/NAME`.

    Raises:
        ConfigurationError: the name cannot be a folder's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigurationError(f"{name!r} cannot name a broker; use letters, digits, dots and dashes")
    variables = os.environ if environ is None else environ
    # The default is the XDG base directory specification's.
    base = variables.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    return Path(base) / "amqpq" / "broker" / name


def find_broker(folder: Path, options: NodeOptions | None = None) -> Broker:
    """Return the private broker of that folder: what it was before, else what this machine can run.

    Raises:
        BrokerSetupError: neither RabbitMQ nor Docker is there; the message holds the command that helps.
    """
    known = state.read(folder)
    if known and known.kind == Node.kind:
        return Node(folder, options)
    if known is None:
        try:
            return Node(folder, options, installation=find_installation())
        except BrokerSetupError as error:
            missing = error
    else:
        missing = BrokerSetupError(f"{folder} holds a node of docker compose, and Docker does not answer now")
    docker = find_docker()
    if docker is None:
        raise missing
    return ComposeNode(folder, options, docker=docker)
