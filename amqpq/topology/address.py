"""Where a broker is, and which one a file is written for, as values. A password never appears in a `repr`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

DEFAULT_URL: Final = "amqp://guest:guest@localhost:5672/"

_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^/@:]*):(?P<password>.*)@(?P<tail>[^@]*)", re.IGNORECASE)


def masked(url: str) -> str:
    """Return `url` with its password replaced by `***`."""
    return _PASSWORD.sub(r"\g<head>:***@\g<tail>", url)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust a broker reached over amqps://. Paths are absolute."""

    verify: Literal["peer", "none"] = "peer"
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Broker:
    """Where the broker is. `urls` are the nodes of one cluster, with their passwords."""

    urls: tuple[str, ...] = (DEFAULT_URL,)
    management: str | None = None
    tls: Tls | None = None
    heartbeat_seconds: int = 30
    consumer_timeout_seconds: float | None = None
    """What the broker's configuration says, where it is not the default."""

    def __repr__(self) -> str:
        """Show everything but the passwords."""
        urls = tuple(masked(url) for url in self.urls)
        management = masked(self.management) if self.management else None
        return (
            f"Broker(urls={urls!r}, management={management!r}, tls={self.tls!r}, "
            f"heartbeat_seconds={self.heartbeat_seconds!r}, "
            f"consumer_timeout_seconds={self.consumer_timeout_seconds!r})"
        )


@dataclass(frozen=True, slots=True)
class Requires:
    """The broker versions the file is written for, as its text, and the lowest of them as three numbers."""

    rabbitmq: str = ">=3.10"
    lowest: tuple[int, int, int] = (3, 10, 0)
