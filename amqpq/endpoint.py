"""Where a worker says how it is. For the worker that listens there, and for `amqpq health`, which has to be quick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from amqpq.errors import ConfigurationError

DEFAULT_HOST: Final = "127.0.0.1"
"""Task names and process ids are nobody's business outside; a kubelet needs `0.0.0.0:PORT`."""

_PORTS: Final = range(1, 65536)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, or the path of a unix socket."""

    host: str = DEFAULT_HOST
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Return what the option takes."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(text: str) -> Address:
    """Read `PORT`, `HOST:PORT` or `unix:PATH`.

    Raises:
        ConfigurationError: It is none of these.
    """
    if text.startswith("unix:") and text != "unix:":
        return Address(path=text.removeprefix("unix:"))
    match = re.fullmatch(r"(?:(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]/]+):)?(?P<port>\d+)", text)
    if match is None or int(match["port"]) not in _PORTS:
        raise ConfigurationError(f"{text!r} is no address for health; use PORT, HOST:PORT or unix:/PATH")
    return Address((match["host"] or DEFAULT_HOST).strip("[]"), int(match["port"]))
