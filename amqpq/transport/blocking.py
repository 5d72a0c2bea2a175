"""The transport for blocking code: py-amqp opens the connection, and from then on the socket is ours.

py-amqp does what is awkward and rare: address families, TLS, SASL, tuning, and its words when any of it fails. What is
simple and happens a hundred thousand times a second is done here (`frames`, `channel`) on one I/O thread per connection
(`reactor`). Its own blocking reads are never used after the handshake.

A connection belongs to the process that opened it. After a fork the child's copy is dead: its descriptors are closed
without a byte sent, and every verb fails with `ConnectionLost`. `amqpq.transport.link` opens another one.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import amqp
import amqp.exceptions
import amqp.transport

from amqpq import version
from amqpq.errors import AmqpqError, ConnectionLost, TransportError
from amqpq.log import TRANSPORT
from amqpq.transport import failures, frames, tls
from amqpq.transport.channel import WireChannel
from amqpq.transport.interface import Home
from amqpq.transport.matching import ChannelNumbers
from amqpq.transport.reactor import Reactor
from amqpq.transport.url import Address, Tls
from amqpq.types import ServerInfo

logger = logging.getLogger(TRANSPORT)

GOODBYE_SECONDS = 5.0
"""How long `close` waits for the broker's answer before it closes the socket anyway."""
_CLOSED_HERE = "this connection was closed here; open another one"
FIRST_BYTES = 16
"""Of what the peer sends first, so much is kept to say what it is if it is no broker."""


def connect(address: Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = "") -> BlockingConnection:
    """Open a connection.

    Args:
        address: Where, and as whom. Its own heartbeat and time to connect win over the arguments.
        heartbeat_seconds: What we propose; the broker's own proposal wins where it is lower. 0 is off.
        timeout_seconds: For the whole way: name resolution excepted, until the connection is open.
        name: Shown by the broker's management beside the connection.

    Returns:
        The open connection.

    Raises:
        BrokerUnreachable: Nobody answered there, or not in time.
        AuthenticationRefused: Wrong user or password.
        AccessRefused: The virtual host does not exist or is closed to the user.
        TlsMismatch: One side speaks TLS and the other does not, or the certificate is not accepted.
        ConfigurationError: A file that the TLS options name cannot be used.
    """
    timeout = min(timeout_seconds, address.connection_timeout_seconds or timeout_seconds)
    heartbeat = heartbeat_seconds if address.heartbeat_seconds is None else address.heartbeat_seconds
    handshake = _Handshake(address, heartbeat, name, time.monotonic() + max(timeout, 0.001))
    try:
        handshake.connect()
    except amqp.exceptions.AMQPError as error:
        raise _login_failure(error, address, handshake) from error
    except (OSError, ValueError) as error:
        raise failures.handshake_error(error, address, bytes(handshake.received)) from error
    finally:
        handshake.forget_password()
    sock, early = handshake.take_socket()
    return BlockingConnection(
        sock, early, handshake.server_info(), address, name=name, channel_max=handshake.channel_max
    )


def _login_failure(error: amqp.exceptions.AMQPError, address: Address, handshake: _Handshake) -> TransportError:
    if not error.reply_code:  # py-amqp's own complaint: no common SASL mechanism, or an unexpected frame
        return failures.handshake_error(error, address, bytes(handshake.received))
    return failures.login_error(error.reply_code, error.reply_text or "", address)


# ---------------------------------------------------------------------------------------------------------- handshake


class _PlainTransport(amqp.transport.TCPTransport):  # type: ignore[misc] # py-amqp has no types
    """Keeps the first bytes received: they tell a TLS port, and what is no broker at all."""

    received: bytearray
    _quick_recv: Callable[[int], bytes]

    def _setup_transport(self) -> None:
        super()._setup_transport()
        receive = self._quick_recv

        def receive_and_keep(size: int) -> bytes:
            data: bytes = receive(size)
            self.received += data[: max(FIRST_BYTES - len(self.received), 0)]
            return data

        self._quick_recv = receive_and_keep


class _TlsTransport(amqp.transport.SSLTransport):  # type: ignore[misc] # py-amqp has no types
    """Wraps with a context of ours: system authorities, name check and SNI by default."""

    tls: Tls
    context: ssl.SSLContext

    def _wrap_socket(self, sock: socket.socket, **_: Any) -> ssl.SSLSocket:
        name = self.tls.server_name or self.host
        return self.context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)


class _Handshake(amqp.Connection):  # type: ignore[misc] # py-amqp has no types
    """py-amqp's connection up to `connection.open-ok`, with one deadline for all of it."""

    _transport: Any

    def __init__(self, address: Address, heartbeat_seconds: int, name: str, deadline: float) -> None:
        self._address = address
        self._tls = address.tls
        self._context = tls.context(address.tls) if address.tls else None
        self._handshake_deadline = deadline
        self.received = bytearray()
        super().__init__(
            host=address.place,
            userid=address.user,
            password=address.password,
            login_method="PLAIN",
            virtual_host=address.vhost,
            heartbeat=heartbeat_seconds,
            connect_timeout=self._remaining(),
            client_properties=_client_properties(name),
            socket_settings=_socket_settings(),
        )

    def Transport(  # noqa: N802 - py-amqp's seam for a transport of one's own
        self, host: str, connect_timeout: float, *_: Any, **options: Any
    ) -> Any:
        kind = _PlainTransport if self._tls is None else _TlsTransport
        transport = kind(host, connect_timeout, socket_settings=options.get("socket_settings"))
        transport.received = self.received
        if self._tls is not None:
            transport.tls, transport.context = self._tls, self._context
        return transport

    def blocking_read(self, timeout: float | None = None) -> Any:
        del timeout  # py-amqp gives every read the whole time; we give all reads together the whole time
        return super().blocking_read(self._remaining())

    def _remaining(self) -> float:
        remaining = self._handshake_deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the handshake took too long")
        return remaining

    def take_socket(self) -> tuple[socket.socket, bytes]:
        """Take the socket out of py-amqp's hands, with what it read too much."""
        transport = self._transport
        sock, early = transport.sock, bytes(transport._read_buffer)  # noqa: SLF001 - the seam we use it for
        transport.sock = None
        transport.connected = False
        self._transport = None
        return sock, early

    def forget_password(self) -> None:
        """Drop what holds the password, which tracebacks and debuggers would show."""
        self.authentication = ()

    def server_info(self) -> ServerInfo:
        """What the broker said of itself, and what was negotiated."""
        said = self.server_properties
        return ServerInfo(
            product=str(said.get("product", "")),
            version=str(said.get("version", "")),
            cluster_name=str(said.get("cluster_name", "")),
            capabilities=dict(said.get("capabilities") or {}),
            frame_max=self.frame_max,
            heartbeat_seconds=int(self.heartbeat or 0),
        )


def _client_properties(name: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "product": "amqpq",
        "product_version": version.installed() or "unknown",
        "platform": f"Python {platform.python_version()}",
        "capabilities": {
            "publisher_confirms": True,
            "basic.nack": True,
            "consumer_cancel_notify": True,
            "connection.blocked": True,
            "authentication_failure_close": True,
            "exchange_exchange_bindings": True,
            "per_consumer_qos": True,
        },
    }
    if name:
        properties["connection_name"] = name
    return properties


def _socket_settings() -> dict[int, int]:
    """TCP options that differ from py-amqp's.

    py-amqp sets TCP_USER_TIMEOUT to one second, and Linux then also ends a connection whose peer does not read for that
    long, although it is alive (a broker under a memory alarm). Heartbeats decide who is gone.
    """
    settings = {socket.TCP_NODELAY: 1}
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        settings[socket.TCP_USER_TIMEOUT] = 0
    return settings


# --------------------------------------------------------------------------------------------------------- connection


class _Answer(Future[Any]):
    """A pending whose callbacks run on the I/O thread, also those added once it is done; nobody can cancel it.

    `concurrent.futures.Future` runs a late callback on the thread that adds it, and lets a waiter cancel what has long
    left for the broker.
    """

    def __init__(self, connection: BlockingConnection) -> None:
        super().__init__()
        self._connection = connection

    def cancel(self) -> bool:
        """Answer False: what was sent cannot be taken back."""
        return False

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call `fn(self)` on the I/O thread once done."""
        super().add_done_callback(partial(self._connection.run_callback, fn))


class BlockingConnection:
    """An open connection. Made by `connect`; see `amqpq.transport.interface.Connection`."""

    def __init__(
        self, sock: socket.socket, early: bytes, server: ServerInfo, address: Address, *, name: str, channel_max: int
    ) -> None:
        self._server = server
        self._address = address
        self.frame_max = server.frame_max
        self._lock = threading.Lock()
        self._channels: dict[int, WireChannel] = {}
        self._numbers = ChannelNumbers(channel_max)
        self._blocked: str | None = None
        self._lost: AmqpqError | None = None
        self._said: ConnectionLost | None = None  # the broker's own reason, where it gave one
        self._goodbye: _Answer | None = None
        self._left = False  # it was us who closed it
        self._finished = False
        self._pid = os.getpid()
        self._closed = _Answer(self)
        self._parser = frames.FrameParser(server.frame_max)
        self._reactor = Reactor(
            sock,
            self._on_data,
            self._on_end,
            heartbeat_seconds=server.heartbeat_seconds,
            heartbeat=frames.HEARTBEAT,
            name=f"amqpq-io {name or address.place}",
        )
        self.send = self._reactor.send
        _alive.add(self)
        if early:
            self._reactor.call_soon(lambda: self._on_data(early))
        self._reactor.start()

    def __repr__(self) -> str:
        state = "open" if self._lost is None else f"closed: {self._lost}"
        return f"<connection {self._address} {self._server.product} {self._server.version} {state}>"

    @property
    def server(self) -> ServerInfo:
        """What the broker said of itself."""
        return self._server

    @property
    def address(self) -> Address:
        """Where it leads."""
        return self._address

    @property
    def closed(self) -> Future[AmqpqError | None]:
        """Resolves when the connection ends: with the reason, or None where we closed it."""
        return self._closed

    @property
    def blocked(self) -> str | None:
        """Why the broker blocks publishers right now (memory or disk alarm), or None."""
        return self._blocked

    @property
    def lost(self) -> AmqpqError | None:
        """Why nothing can be sent any more, or None."""
        return self._lost

    def channel(self) -> WireChannel:
        """Open another channel.

        Raises:
            ConnectionLost: The connection has ended.
            TransportError: Every channel number is in use.
        """
        with self._lock:
            if self._lost is not None:
                raise ConnectionLost(str(self._lost))
            number = self._numbers.take()
            if number is None:
                raise TransportError(f"all {self._numbers.limit} channels of this connection are in use; close some")
            channel = self._channels[number] = WireChannel(self, number)
        channel.start()
        return channel

    def pending(self) -> Future[Any]:
        """Make an unanswered pending."""
        return _Answer(self)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the I/O thread, or here where that has ended."""
        if not self._reactor.call_soon(callback):
            callback()

    def run_callback(self, callback: Callable[[Future[Any]], object], pending: Future[Any]) -> None:
        """Run a pending's callback on the I/O thread: now, where this is it."""
        if self._reactor.on_own_thread:
            callback(pending)
        else:
            self.call_soon(partial(callback, pending))

    def wait_for_room(self) -> bool:
        """Wait while the output buffer is full; False where nothing moves, or while the broker blocks publishers."""
        if not self._reactor.crowded:
            return True
        return self._reactor.wait_for_room(patient=self._blocked is None)

    def move_to(self, home: Home | None) -> None:
        """Have a loop drive the connection from now on (None: a thread of its own); on that loop's thread."""
        self._reactor.move_to(home)

    def close(self) -> Future[None]:
        """Close the connection after what was sent before."""
        with self._lock:
            channels = list(self._channels.values())
        for channel in channels:
            channel.flush_acks()
        with self._lock:
            if self._goodbye is not None:
                return self._goodbye
            self._goodbye = _Answer(self)
            if self._lost is None:
                self._left = True
                self._lost = ConnectionLost(_CLOSED_HERE)
                self.send(frames.request(0, frames.CONNECTION_CLOSE, "HsHH", 200, "", 0, 0))
                self._reactor.stop_after(GOODBYE_SECONDS)
            if not self._finished:
                return self._goodbye  # answered at the end, which is on its way
        self._goodbye.set_result(None)
        return self._goodbye

    def release(self, number: int) -> None:
        """A channel ended; its number may be used again."""
        with self._lock:
            if self._channels.pop(number, None) is not None:
                self._numbers.give_back(number)

    def abandon(self) -> None:
        """Forget the connection in a forked child, without a byte to the broker."""
        self._lock = threading.Lock()
        self._lost = ConnectionLost(
            f"this connection belongs to process {self._pid}, from which this one was forked; open another one"
        )
        self._reactor.abandon()
        for channel in self._channels.values():
            channel.abandon()

    # ---------------------------------------------------------------------------------------- on the I/O thread

    def _on_data(self, data: bytes) -> None:
        channels = self._channels
        for number, method, argument in self._parser.feed(data):
            if number:
                channel = channels.get(number)
                if channel is None:
                    if self._numbers.was_used(number):
                        continue  # the broker goes on delivering on a channel that it closed until it reads our close-ok
                    what = f"method {method >> 16}.{method & 0xFFFF} on channel {number}, which is not open"
                    raise frames.ProtocolViolation(f"the broker sent {what}")
                channel.on_event(method, argument)
            elif method:
                self._on_own_event(method, argument)

    def _on_own_event(self, method: int, argument: tuple[Any, ...]) -> None:
        """What the broker says about the connection itself."""
        if method == frames.CONNECTION_BLOCKED:
            self._blocked = argument[0] or "no reason given"
            logger.warning("the broker at %s blocks publishers: %s", self._address.place, self._blocked)
        elif method == frames.CONNECTION_UNBLOCKED:
            self._blocked = None
            logger.info("the broker at %s takes messages again", self._address.place)
        elif method == frames.CONNECTION_CLOSE:
            self._said = failures.connection_error(argument[0], argument[1], self._address)
            with self._lock:
                self._lost = self._lost or self._said
            self.send(frames.request(0, frames.CONNECTION_CLOSE_OK))
            self._reactor.stop_after(GOODBYE_SECONDS)
            self._reactor.stop()
        elif method == frames.CONNECTION_CLOSE_OK and self._left:
            self._reactor.stop()
        else:
            message = f"the broker sent method {method >> 16}.{method & 0xFFFF} on channel 0, which was not due"
            raise frames.ProtocolViolation(message)

    def _on_end(self, error: BaseException | None) -> None:
        with self._lock:
            ours = self._left
            if ours:
                reason = ConnectionLost(_CLOSED_HERE)
            else:
                reason = self._said or ConnectionLost(
                    f"the connection to the broker at {self._address.place} was lost: {error}"
                )
            if error is not None:
                reason.__cause__ = error
            self._lost = reason
            self._blocked = None
            self._finished = True
            channels = list(self._channels.values())
            self._channels.clear()
            goodbye = self._goodbye
        _alive.discard(self)
        if not ours:
            logger.warning("%s", reason)
        for channel in channels:
            channel.on_connection_end(reason, ours=ours)
        self._closed.set_result(None if ours else reason)
        if goodbye is not None:
            goodbye.set_result(None)


_alive: weakref.WeakSet[BlockingConnection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for connection in list(_alive):
        connection.abandon()
    _alive.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
