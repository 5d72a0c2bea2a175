"""What a data folder remembers of its node, so that another program run can find, use and stop it."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from amqpq.errors import BrokerSetupError
from amqpq.node.options import Ports
from amqpq.node.process import Process

FILE = "node.json"


@dataclass(frozen=True, slots=True)
class State:
    """One node as its folder knows it.

    Args:
        kind: `rabbitmq` (a process of ours) or `compose` (a container).
        ports: stay the same over restarts.
        user: the administrator.
        password: the administrator's password.
        listen: address of the listeners.
        version: RabbitMQ's, as far as known.
        server: the node's process, None while it is stopped.
        epmd: the name service's process, None while it is stopped or not ours.
    """

    kind: str
    ports: Ports
    user: str
    password: str
    listen: str
    version: str = ""
    server: Process | None = None
    epmd: Process | None = None


def read(folder: Path) -> State | None:
    """Read the state of a data folder; None where no node was ever started in it.

    Raises:
        BrokerSetupError: the file there is not one of ours.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        data = json.loads(text)
        ports = Ports(**data.pop("ports"))
        server, epmd = (Process(**value) if value else None for value in (data.pop("server"), data.pop("epmd")))
        return State(ports=ports, server=server, epmd=epmd, **data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokerSetupError(
            f"{path} is not the state of a private node ({error}); delete the folder to begin anew"
        ) from error


def write(folder: Path, state: State) -> None:
    """Replace the state of a data folder in one step."""
    path = folder / FILE
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds a password
    with os.fdopen(descriptor, "w", encoding="utf-8") as sink:
        json.dump(dataclasses.asdict(state), sink, indent=1)
    fresh.replace(path)
