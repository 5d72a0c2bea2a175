"""Who wants to know how a worker is: its health endpoint, and the service manager that has started it.

The service manager is told by datagrams to `$NOTIFY_SOCKET`, as sd_notify(3) has it: when the worker consumes (READY=1),
when it stops (STOPPING=1), a line for `systemctl status`, and, where `$WATCHDOG_USEC` asks for it, that it is alive. It is
the loop that says so: a loop that hangs says nothing, and is restarted.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, Self

from amqpq.endpoint import Address
from amqpq.log import WORKER
from amqpq.worker.endpoint import Endpoint
from amqpq.worker.vitals import BEAT_SECONDS, Vitals

logger = logging.getLogger(WORKER)

NOTIFY: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"
WATCHDOG_PID: Final = "WATCHDOG_PID"


class ServiceManager:
    """Tells systemd, or what speaks like it. Does nothing where nobody has asked.

    Args:
        environ: Where the socket's name stands.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._path = environ.get(NOTIFY, "")
        period = environ.get(WATCHDOG, "")
        own = environ.get(WATCHDOG_PID, "") in {"", str(os.getpid())}
        self.watchdog_seconds = int(period) / 1e6 if self._path and period.isdigit() and own else None
        self._stage = ""

    @property
    def listens(self) -> bool:
        """Whether anybody wants to know."""
        return bool(self._path)

    def tell(self, vitals: Vitals) -> None:
        """Pass on what is news; never waits."""
        words: list[str] = []
        stage = "ready" if vitals.consuming and not self._stage else ""
        stage = "stopping" if vitals.stage in {"draining", "over"} and self._stage != "stopping" else stage
        if stage:
            self._stage = stage
            words.append("READY=1" if stage == "ready" else "STOPPING=1")
        if self.watchdog_seconds is not None:
            words.append("WATCHDOG=1")
        busy = sum(1 for member in vitals.members if member.number is not None)
        words.append(f"STATUS={vitals.stage}, {busy} of {len(vitals.members)} busy, {vitals.held} deliveries held")
        self._send("\n".join(words))

    def _send(self, text: str) -> None:
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path  # an abstract socket's name
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode(), address)
        except OSError as error:
            logger.debug("the service manager at $%s cannot be told: %s", NOTIFY, error)


class Watch:
    """Keeps the newest vitals and passes them on. As a context: the time in which the endpoint answers.

    Args:
        worker: Its name.
        address: Of the health endpoint, if there is to be one.
        manager: Who has started it.
    """

    def __init__(self, worker: str, address: Address | None, manager: ServiceManager | None = None) -> None:
        self._newest = Vitals(worker, "starting", time.monotonic())
        self._address = address
        self._manager = manager or ServiceManager()
        self._endpoint: Endpoint | None = None

    @property
    def pulse(self) -> Callable[[Vitals], object] | None:
        """What the loop is to call with its vitals; None where nobody wants to know."""
        return self._beat if self._address is not None or self._manager.listens else None

    @property
    def beat_seconds(self) -> float:
        """How often: at least twice in the time after which the service manager loses patience."""
        return min(BEAT_SECONDS, (self._manager.watchdog_seconds or 60.0) / 2)

    def __enter__(self) -> Self:
        """Open the endpoint.

        Raises:
            ConfigurationError: It cannot be opened.
        """
        if self._address is not None:
            self._endpoint = Endpoint(self._address, lambda: self._newest)
            logger.info("health at %s", self._address)
        return self

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        if self._endpoint is not None:
            self._endpoint.close()

    def _beat(self, vitals: Vitals) -> None:
        self._newest = vitals
        if self._manager.listens:
            self._manager.tell(vitals)
