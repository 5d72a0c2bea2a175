"""The health endpoint: a little HTTP on a thread of its own, which reads the newest `Vitals` and asks nobody anything.

It answers `GET` and `HEAD` with one JSON object and closes. That is all that probes, service managers and people with curl
need of HTTP, so there is no server library here.
"""

from __future__ import annotations

import contextlib
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from amqpq.endpoint import Address
from amqpq.errors import ConfigurationError
from amqpq.worker import health
from amqpq.worker.vitals import Vitals

PATIENCE_SECONDS: Final = 0.5
"""For one request. Requests are answered one after another, and probes give up after a second by default."""
REQUEST_BYTES: Final = 8192
BACKLOG: Final = 16
WORDS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class Endpoint:
    """Serves one worker's health.

    Args:
        address: Where.
        newest: Returns the newest vitals.
        monotonic: The clock of the vitals.
    """

    def __init__(
        self, address: Address, newest: Callable[[], Vitals], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = address
        self._newest = newest
        self._monotonic = monotonic
        self._over = False
        self._ears = _listen(address)
        self._thread = threading.Thread(target=self._serve, name="amqpq-health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._over = True
        # `shutdown` wakes the thread out of `accept`; closing alone does not.
        with contextlib.suppress(OSError):
            self._ears.shutdown(socket.SHUT_RDWR)
        self._ears.close()
        if self._address.path:
            Path(self._address.path).unlink(missing_ok=True)
        self._thread.join(PATIENCE_SECONDS * 2)

    def _serve(self) -> None:
        while not self._over:
            try:
                caller, _ = self._ears.accept()
            except OSError:
                if self._over:
                    return
                time.sleep(0.1)  # out of descriptors, say: try again, and do not spin
                continue
            with caller, contextlib.suppress(OSError):
                caller.settimeout(PATIENCE_SECONDS)
                self._reply(caller)

    def _reply(self, caller: socket.socket) -> None:
        request = _head_of(caller, time.monotonic() + PATIENCE_SECONDS)
        words = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        method, target, protocol = (*words, "", "", "")[:3]
        if not protocol.startswith("HTTP/"):
            code, body = 400, health.as_json({"error": "this is no HTTP request"})
        elif method not in {"GET", "HEAD"}:
            code, body = 405, health.as_json({"error": "only GET and HEAD"})
        else:
            code, data = health.answer(target, self._newest(), self._monotonic())
            body = health.as_json(data)
        head = (
            f"HTTP/1.1 {code} {WORDS[code]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "cache-control: no-store\r\nconnection: close\r\n\r\n"
        )
        caller.sendall(head.encode() + (b"" if method == "HEAD" else body))


def _head_of(caller: socket.socket, deadline: float) -> bytes:
    """Read to the end of the request's head, so that closing does not cut off our answer."""
    request = b""
    while b"\r\n\r\n" not in request and len(request) < REQUEST_BYTES and time.monotonic() < deadline:
        data = caller.recv(REQUEST_BYTES)
        if not data:
            break
        request += data
    return request


def _listen(address: Address) -> socket.socket:
    try:
        if not address.path:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
        _clear(Path(address.path))
        ears = socket.socket(socket.AF_UNIX)
        ears.bind(address.path)
        Path(address.path).chmod(0o660)  # task names are for the worker's user and group
        ears.listen(BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"--health {address}: {error.strerror or error}") from error
    return ears


def _clear(path: Path) -> None:
    """Remove the socket of a worker that is gone; one that answers is somebody's.

    Raises:
        ConfigurationError: Somebody listens there.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"--health unix:{path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PATIENCE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ConfigurationError(f"--health unix:{path}: another worker listens there")
