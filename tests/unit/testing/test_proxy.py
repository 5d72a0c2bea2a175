"""The proxy forwards, cuts, stalls and refuses as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from amqpq.testing.proxy import Proxy, open_gate

DEADLINE_SECONDS = 10.0


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(4096):
                    client.sendall(data)
            except OSError:  # cut: that is what the proxy is for
                return

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(proxy: Proxy) -> socket.socket:
    """Connect to the proxy."""
    return socket.create_connection((proxy.host, proxy.port), timeout=DEADLINE_SECONDS)


def receive(client: socket.socket, size: int) -> bytes:
    """Receive exactly so many bytes."""
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data


def test_it_forwards_both_ways(echo: int) -> None:
    """What goes in comes back, in pieces as small as asked."""
    with Proxy("127.0.0.1", echo, piece_bytes=3) as proxy, connect(proxy) as client:
        client.sendall(b"0123456789")
        assert receive(client, 10) == b"0123456789"
        assert proxy.connections == 1


def test_it_cuts_and_takes_the_next_one(echo: int) -> None:
    """A cut ends what is there; a new connection passes."""
    with Proxy("127.0.0.1", echo) as proxy:
        with connect(proxy) as client:
            client.sendall(b"x")
            receive(client, 1)
            proxy.cut()
            assert client.recv(1) == b""
        with connect(proxy) as client:
            client.sendall(b"y")
            assert receive(client, 1) == b"y"


def test_it_holds_back_and_lets_go(echo: int) -> None:
    """What was sent during a stall arrives after it."""
    with Proxy("127.0.0.1", echo) as proxy, connect(proxy) as client:
        client.sendall(b"a")
        receive(client, 1)
        proxy.stall()
        client.sendall(b"held")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(DEADLINE_SECONDS)
        proxy.resume()
        assert receive(client, 4) == b"held"


def test_it_refuses(echo: int) -> None:
    """While it refuses, connections are made and broken at once, as by a broker that is starting."""
    with Proxy("127.0.0.1", echo) as proxy:
        proxy.refuse()
        with connect(proxy) as client:
            assert client.recv(1) == b""
        proxy.refuse(refusing=False)
        with connect(proxy) as client:
            client.sendall(b"y")
            assert receive(client, 1) == b"y"


def test_it_swallows_what_is_there_and_serves_what_comes(echo: int) -> None:
    """A half-open connection takes bytes and gives none; the next connection is a good one."""
    with Proxy("127.0.0.1", echo) as proxy, connect(proxy) as half_open:
        half_open.sendall(b"a")
        receive(half_open, 1)
        proxy.swallow()
        half_open.sendall(b"never")
        with connect(proxy) as client:
            client.sendall(b"fine")
            assert receive(client, 4) == b"fine"
        half_open.settimeout(0.05)
        with pytest.raises(TimeoutError):
            half_open.recv(1)


def test_its_gates_change_and_break_what_passes(echo: int) -> None:
    """A gate sees each piece of its direction, passes on what it likes, and may end the connection."""

    def shout(data: bytes, /) -> tuple[bytes, bool]:
        return data.upper(), b"!" in data

    with Proxy("127.0.0.1", echo, gates=lambda: (open_gate, shout)) as proxy, connect(proxy) as client:
        client.sendall(b"hey")
        assert receive(client, 3) == b"HEY"
        client.sendall(b"ho!")
        assert receive(client, 3) == b"HO!"
        assert client.recv(1) == b""


def test_a_slow_line_takes_its_time(echo: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece waits for the latency and for its own length, in each direction."""
    slept: list[float] = []
    monkeypatch.setattr("amqpq.testing.proxy.time.sleep", slept.append)
    with Proxy("127.0.0.1", echo) as proxy, connect(proxy) as client:
        proxy.slow(10.0, latency_seconds=0.5)
        client.sendall(b"12345")
        assert receive(client, 5) == b"12345"
    assert slept == [1.0, 1.0]
