"""A bad network on purpose: a TCP proxy before the broker that can cut, stall, slow down and change what passes.

A transport is only as good as its worst moment on the wire, and a broker on the same machine has no bad moments. Tests
connect through a `Proxy` and say when the network breaks.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

CHUNK_BYTES = 65536
CONNECT_SECONDS = 10.0


class Gate(Protocol):
    """Decides about one direction of one connection. Called with each piece that arrives, in order."""

    def __call__(self, data: bytes, /) -> tuple[bytes, bool]:
        """Return what to pass on in its place, and whether the connection breaks after that."""


def open_gate(data: bytes) -> tuple[bytes, bool]:
    """Let everything pass."""
    return data, False


Gates: TypeAlias = Callable[[], tuple[Gate, Gate]]
"""Called for each new connection: the gate from client to broker, and the one back."""

OPEN_GATES: Final[tuple[Gate, Gate]] = (open_gate, open_gate)


class Proxy:
    """Forwards TCP connections to one address until it is told to misbehave.

    Args:
        host: Where the broker listens.
        port: Its port.
        piece_bytes: The most bytes handed to the client in one piece; small values split frames anywhere.
        tls: Speak TLS to the client with this server context, and plain to the broker.
        gates: Makes what decides about each new connection's bytes.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        piece_bytes: int = CHUNK_BYTES,
        tls: ssl.SSLContext | None = None,
        gates: Gates = lambda: OPEN_GATES,
    ) -> None:
        self._target = (host, port)
        self._tls = tls
        self._gates = gates
        self._piece_bytes = piece_bytes
        self._bytes_per_second = 0.0
        self._latency_seconds = 0.0
        self._swallowed: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, name=f"proxy-{self.port}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections pass through right now."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> None:
        """Break every connection that passes through now; new ones are let in."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _break(*pair)

    def refuse(self, *, refusing: bool = True) -> None:
        """Break every new connection at once, as a broker that is starting does; or stop doing so."""
        self._refusing = refusing

    def stall(self) -> None:
        """Stop forwarding without closing: a peer that went away without a word."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again, beginning with what was held back."""
        self._flowing.set()

    def swallow(self) -> None:
        """Take what comes on the present connections and forward none of it, for ever: half-open sockets.

        Unlike `stall` it concerns no new connection, and the sender sees its bytes accepted.
        """
        with self._lock:
            self._swallowed = set(self._pairs)

    def slow(self, bytes_per_second: float, latency_seconds: float = 0.0) -> None:
        """Let every piece wait, in each direction of each connection, as on a long thin line; 0 is as fast as it goes.

        Args:
            bytes_per_second: What one direction of one connection carries.
            latency_seconds: What each piece takes beside that.
        """
        self._bytes_per_second, self._latency_seconds = bytes_per_second, latency_seconds

    def close(self) -> None:
        """Break everything and stop listening."""
        self._closed = True
        self._listener.close()
        self.cut()
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the proxy's end
                return
            if self._refusing:
                client.close()
                continue
            try:
                client.settimeout(CONNECT_SECONDS)
                client = self._tls.wrap_socket(client, server_side=True) if self._tls else client
                server = socket.create_connection(self._target, timeout=CONNECT_SECONDS)
            except OSError:  # the broker is away, or TLS failed: the client sees its connection break
                client.close()
                continue
            for end in (client, server):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            if self._closed:
                self.cut()
                return
            up, down = self._gates()
            for side, piece, gate in ((0, CHUNK_BYTES, up), (1, self._piece_bytes, down)):
                threading.Thread(target=self._pump, args=(pair, side, piece, gate), daemon=True).start()

    def _pump(self, pair: tuple[socket.socket, socket.socket], side: int, piece_bytes: int, gate: Gate) -> None:
        source, target = pair[side], pair[1 - side]
        try:
            while arrived := source.recv(CHUNK_BYTES):
                self._flowing.wait()
                if pair in self._swallowed:
                    continue
                data, breaks = gate(arrived)
                self._delay(len(data))
                for start in range(0, len(data), piece_bytes):
                    target.sendall(data[start : start + piece_bytes])
                if breaks:
                    return
        except OSError:  # one side went away: so does the other
            pass
        finally:
            with self._lock:
                self._pairs.discard(pair)
                self._swallowed.discard(pair)
            _break(*pair)

    def _delay(self, size_bytes: int) -> None:
        seconds = self._latency_seconds + (size_bytes / self._bytes_per_second if self._bytes_per_second else 0.0)
        if seconds:
            time.sleep(seconds)


def _break(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):  # already gone
            end.shutdown(socket.SHUT_RDWR)
        end.close()
