"""What else goes on where it is measured: said beside the figures, because no figure shows it."""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from amqpq.errors import TransportError
from amqpq.management import Management
from amqpq.transport.url import Address

LOOK_SECONDS: Final = 0.25
"""Between two readings; the kernel counts in hundredths of a second."""
OTHERS_PER_SECOND: Final = 100.0
"""Messages that others publish before it is worth a word."""
_ALARMS: Final[Mapping[str, str]] = {"mem_alarm": "memory", "disk_free_alarm": "disk space"}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was seen before the first measure.

    `busy` is the share of all processors in use, 0 to 1, None where the machine does not tell. `others_per_second` and `alarms`
    (one text per node and alarm) come from the management API; None where nobody could be asked.
    """

    local: bool
    cpus: int
    busy: float | None = None
    others_per_second: float | None = None
    alarms: tuple[str, ...] | None = None


def look(addresses: Iterable[Address], management: Management | None) -> Surroundings:
    """Look around; what cannot be seen is None, and that is no error."""
    others, alarms = None, None
    if management is not None:
        with suppress(TransportError):  # it takes a tag that not everybody has
            others = publish_rate(management.request("GET", "overview"))
        with suppress(TransportError):
            alarms = raised(management.request("GET", "nodes"))
    return Surroundings(all(map(is_local, addresses)), os.cpu_count() or 1, machine_busy(), others, alarms)


def machine_busy(stat: Path = Path("/proc/stat"), pause_seconds: float = LOOK_SECONDS) -> float | None:
    """Return the share of the processors that is in use just now, 0 to 1; None where there is no such file (not Linux).

    The load average would not do: for a minute it holds what ended long ago, the last run of the same command for one.
    """
    try:
        before = stat.read_text(encoding="ascii")
        threading.Event().wait(pause_seconds)
        after = stat.read_text(encoding="ascii")
    except OSError:
        return None
    return share_in_use(before, after)


def share_in_use(before: str, after: str) -> float | None:
    """Return the share between two readings of `/proc/stat` (proc(5)): all but idle and waiting for a disk."""
    first, last = (list(map(int, text.split("\n", 1)[0].split()[1:9])) for text in (before, after))
    spent = [later - earlier for earlier, later in zip(first, last, strict=True)]
    return 1 - sum(spent[3:5]) / sum(spent) if sum(spent) else None


def is_local(address: Address) -> bool:
    """Whether this address is this machine's, as far as the name says it."""
    if address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def publish_rate(overview: Any) -> float | None:
    """Read from `GET /api/overview` how many messages are published in a second; None where it does not say."""
    stats = overview.get("message_stats") if isinstance(overview, Mapping) else None
    details = stats.get("publish_details") if isinstance(stats, Mapping) else None
    found = details.get("rate") if isinstance(details, Mapping) else None
    return float(found) if isinstance(found, int | float) else None


def raised(nodes: Any) -> tuple[str, ...] | None:
    """Read from `GET /api/nodes` which alarms there are."""
    if not isinstance(nodes, list):
        return None
    return tuple(
        f"{what} on {node.get('name')}"
        for node in nodes
        if isinstance(node, Mapping)
        for key, what in _ALARMS.items()
        if node.get(key) is True
    )


def remarks(seen: Surroundings) -> Sequence[str]:
    """Return what a reader of the figures has to know, as sentences."""
    found = [f"the broker has an alarm: {alarm}; it takes no messages while that lasts" for alarm in seen.alarms or ()]
    if (seen.others_per_second or 0.0) >= OTHERS_PER_SECOND:
        found.append(
            f"others publish about {seen.others_per_second:,.0f} messages/s on this broker, which takes its share"
        )
    if seen.local:
        found.append(
            f"the broker runs on this machine: both share its {seen.cpus} CPUs, and there is no network between them; measure "
            "from where the producers and workers are to be"
        )
    return found
