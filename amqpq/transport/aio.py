"""The asyncio transport: pika opens and keeps the connection, the shared frame codec does the rest.

pika does here what only a driver does well: resolving, connecting, TLS, the handshake, heartbeats, the goodbye. Behind
the handshake its channels are left out, for three reasons that its 1.4.4 gives: a double in a header comes back cut to
an integer (`pika.data`), one request per channel is under way at a time, and each frame is a system call of its own.
The frames go to `amqpq.transport.frames` instead, as in the blocking transport, and both speak the same bytes.

Written frames are gathered and leave together at the end of the loop's turn. Above `HIGH_WATER_BYTES` in the buffers
new publications wait, un-encoded, and what is asked after them waits behind them: so memory is bounded by what callers
have under way and not by how fast they publish. Whatever the broker says next tells that it goes on taking bytes, and
lets the next ones through.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pika.exceptions
import pika.frame
import pika.spec
from pika.adapters.asyncio_connection import AsyncioConnection

from amqpq.errors import AmqpqError, ConnectionLost, TransportError
from amqpq.transport import failures, tls
from amqpq.transport.aiochannel import Channel, answer, fail
from amqpq.transport.frames import (
    CONNECTION_BLOCKED,
    CONNECTION_CLOSE,
    CONNECTION_CLOSE_OK,
    CONNECTION_UNBLOCKED,
    HEARTBEAT_EVENT,
    FrameParser,
)
from amqpq.transport.interface import Home
from amqpq.transport.matching import ChannelNumbers
from amqpq.transport.url import Address
from amqpq.types import ServerInfo

HIGH_WATER_BYTES = 8 * 1024 * 1024
"""Publications wait above this, as in the blocking transport."""
FLUSH_BYTES = 256 * 1024
"""Gathered frames leave before the end of the turn above this."""
RECEIVE_BYTES = 60 * 1024
"""Asked of the socket in one piece, as in `reactor`; pika's own 4 KiB is 256 system calls for a message of 1 MiB."""
GOODBYE_SECONDS = 5.0
"""How long a broker may take to answer our goodbye: one that blocks publishers does not read it at all."""
ABORT_SECONDS = 1.0
"""How long the pieces of an abandoned attempt to connect may take to close."""

# What pika logs of an ending connection, tracebacks included, is in the error that we raise.
logging.getLogger("pika").setLevel(logging.CRITICAL)


async def connect(address: Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = "") -> Connection:
    """Open a connection on the running event loop.

    Args:
        address: Where, and as whom.
        heartbeat_seconds: Proposed interval; 0 switches heartbeats off. The address's own wins.
        timeout_seconds: For everything: resolving, connecting, TLS, the handshake. The address's own, if shorter, wins.
        name: Shown by the broker's tools.

    Raises:
        BrokerUnreachable: Nobody answered there, or not in time.
        AuthenticationRefused: Wrong user or password.
        AccessRefused: The virtual host does not exist or is closed to the user.
        TlsMismatch: One side speaks TLS and the other does not, or the certificate is not accepted.
        ConfigurationError: A TLS file cannot be used.
    """
    loop = asyncio.get_running_loop()
    limit = min(timeout_seconds, address.connection_timeout_seconds or timeout_seconds)
    opened: asyncio.Future[None] = loop.create_future()
    wire = _Wire(_parameters(address, heartbeat_seconds, name), opened, loop)
    try:
        await asyncio.wait({opened}, timeout=limit)
    except asyncio.CancelledError:
        await wire.abandon(opened)
        raise
    if not opened.done():
        await wire.abandon(opened)
        raise failures.handshake_error(TimeoutError(), address, wire.received)
    error = opened.exception()
    if error is not None:
        raise _refused(error, wire, address) from error
    return Connection(wire, address)


def _parameters(address: Address, heartbeat_seconds: int, name: str) -> pika.ConnectionParameters:
    properties = {"product": "amqpq", "connection_name": name} if name else {"product": "amqpq"}
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        heartbeat=heartbeat_seconds if address.heartbeat_seconds is None else address.heartbeat_seconds,
        ssl_options=_tls_options(address),
        connection_attempts=1,
        socket_timeout=None,  # one deadline for everything is ours
        stack_timeout=None,
        client_properties=properties,
    )


def _tls_options(address: Address) -> pika.SSLOptions | None:
    if address.tls is None:
        return None
    return pika.SSLOptions(tls.context(address.tls), address.tls.server_name or address.host)


# -------------------------------------------------------------------------------------------------------------- errors


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Everything that pika wrapped into one another, outermost first."""
    yield error
    inner = [*getattr(error, "exceptions", ()), getattr(error, "exception", None), *getattr(error, "args", ())]
    for cause in inner:
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def _refused(error: BaseException, wire: _Wire, address: Address) -> TransportError:
    """The error for a connection that could not be opened."""
    if wire.last_words is not None:
        return failures.login_error(*wire.last_words, address)
    for cause in _causes(error):
        if isinstance(cause, pika.exceptions.ProbableAuthenticationError):  # hung up on without a word
            return failures.login_error(403, "the broker closed the connection during the login", address)
        if isinstance(cause, pika.exceptions.ProbableAccessDeniedError):
            return failures.login_error(530, "the broker closed the connection to this virtual host", address)
        if isinstance(cause, OSError):
            return failures.handshake_error(cause, address, wire.received)
    return failures.handshake_error(ConnectionResetError(str(error)), address, wire.received)


def _lost(error: BaseException, address: Address) -> ConnectionLost:
    """The error for an open connection that ended without our wish."""
    if isinstance(error, pika.exceptions.ConnectionClosedByBroker):
        lost = failures.connection_error(error.reply_code, error.reply_text, address)
    elif isinstance(error, pika.exceptions.AMQPHeartbeatTimeout):
        lost = ConnectionLost(f"nothing was heard from the broker at {address.place} for too long (missed heartbeats)")
    else:
        said = next((str(cause) for cause in _causes(error) if str(cause)), repr(error))
        lost = ConnectionLost(f"the connection to {address.place} broke: {said}")
    lost.__cause__ = error
    return lost


# ---------------------------------------------------------------------------------------------------------------- wire


class _Wire(AsyncioConnection):  # type: ignore[misc] # pika ships no types
    """A pika connection whose frames behind the handshake go to our own codec."""

    def __init__(
        self, parameters: pika.ConnectionParameters, opened: asyncio.Future[None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.received = b""
        """The first bytes the peer sent: they tell a TLS port, or no broker at all."""
        self.last_words: tuple[int, str] | None = None
        """Code and text of the broker's connection.close."""
        self.on_event: Callable[[int, int, Any], None] = _unheard
        self.on_end: Callable[[BaseException], None] = lambda _: None
        self._frame_buffer: bytes
        self._loop = loop
        self._parser: FrameParser | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        super().__init__(
            parameters,
            on_open_callback=lambda _: answer(opened, None),
            on_open_error_callback=lambda _, error: fail(opened, error),
            on_close_callback=lambda _, error: self.on_end(error),
            custom_ioloop=loop,
        )

    async def abandon(self, opened: asyncio.Future[None]) -> None:
        """Give up an attempt to connect, and wait for its socket to be closed."""
        if not self.is_closed and not self.is_closing:
            self.close()
        if not opened.done():
            await asyncio.wait({opened}, timeout=ABORT_SECONDS)

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        # pika 1.4.4 hands over the class of `AMQPConnectionWorkflowAborted` and then asserts that it got an instance.
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)

    # ------------------------------------------------------------------------------------------------------ reading

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = RECEIVE_BYTES  # noqa: SLF001 - a tuning; without it all works, in small pieces
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        if len(self.received) < 16:  # noqa: PLR2004 - enough to recognise any protocol
            self.received += data_in[:16]
        if not self._opened:
            super()._on_data_available(data_in)
            return
        if self._parser is None:
            self._parser = FrameParser(self.params.frame_max)
            data_in = self._frame_buffer + data_in
            self._frame_buffer = b""
        self.bytes_received += len(data_in)  # what pika's heartbeat checker looks at
        for channel, method, argument in self._parser.feed(data_in):
            if channel:
                self.on_event(channel, method, argument)
            elif method == CONNECTION_CLOSE:
                self._process_frame(pika.frame.Method(0, pika.spec.Connection.Close(*argument)))
            elif method == CONNECTION_CLOSE_OK:
                self._process_frame(pika.frame.Method(0, pika.spec.Connection.CloseOk()))
            elif method != HEARTBEAT_EVENT:
                self.on_event(0, method, argument)

    def _terminate_stream(self, error: Exception | None) -> None:
        if isinstance(error, pika.exceptions.ConnectionClosedByBroker):
            self.last_words = (error.reply_code, error.reply_text)
        super()._terminate_stream(error)

    def hang_up(self) -> None:
        """End the connection without waiting for the broker."""
        if not self.is_closed:
            self._terminate_stream(pika.exceptions.ConnectionClosedByClient(200, "no answer to our goodbye"))

    # ------------------------------------------------------------------------------------------------------ writing

    @property
    def crowded(self) -> bool:
        """Whether publications should wait."""
        transport = self._transport
        return self._out_bytes + (transport.get_write_buffer_size() if transport else 0) > HIGH_WATER_BYTES

    def send(self, data: bytes) -> None:
        """Gather whole frames; they leave at the end of the turn."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what was gathered to the socket."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            if self._transport is not None:
                self.bytes_sent += len(data)
                self._adapter_emit_data(data)


def _unheard(channel: int, method: int, argument: object) -> None:
    """Nobody listens yet; nothing but the handshake can arrive."""


# ---------------------------------------------------------------------------------------------------------- connection


class Connection:
    """One open connection; see `amqpq.transport.interface.Connection`. All but `call_soon` is for its loop only."""

    def __init__(self, wire: _Wire, address: Address) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._wire = wire
        self._address = address
        self._server = _server_info(wire)
        self._channels: dict[int, Channel] = {}
        self._numbers = ChannelNumbers(int(wire.params.channel_max))
        self._held: deque[Callable[[], None]] = deque()
        self._blocked: str | None = None
        self._ended: ConnectionLost | None = None
        self._reason: AmqpqError | None = None
        self._closing: list[asyncio.Future[None]] = []
        self._patience: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[AmqpqError | None] = self.loop.create_future()
        wire.on_event = self._handle
        wire.on_end = self._end

    def __repr__(self) -> str:
        state = "closed" if self._ended else "closing" if self._closing else "open"
        return f"<aio.Connection {self._address} {state} channels={len(self._channels)}>"

    @property
    def server(self) -> ServerInfo:
        """What the broker said of itself."""
        return self._server

    @property
    def closed(self) -> asyncio.Future[AmqpqError | None]:
        """Resolves when the connection ends. It is shared: shield it where the task that awaits it may be cancelled."""
        if self._closed.cancelled():
            self._closed = self.loop.create_future()
            if self._ended:
                self._closed.set_result(self._reason)
        return self._closed

    @property
    def blocked(self) -> str | None:
        """Why the broker blocks publishers right now, or None."""
        return self._blocked

    @property
    def waiting(self) -> int:
        """How many publications and requests wait for room in the buffers."""
        return len(self._held)

    def channel(self) -> Channel:
        """Open another channel.

        Raises:
            ConnectionLost: The connection has ended.
            TransportError: Every channel number is in use.
        """
        if self._ended is not None or self._closing:
            raise ConnectionLost(str(self._ended or _closed_by_us(self._address)))
        number = self._numbers.take()
        if number is None:
            raise TransportError(
                f"all {self._numbers.limit} channels of the connection to {self._address.place} are in use"
            )
        channel = Channel(self, number, self._server.frame_max)
        self._channels[number] = channel
        return channel

    def pending(self) -> asyncio.Future[Any]:
        """Make an unanswered future."""
        return self.loop.create_future()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the loop; from any thread."""
        if threading.get_ident() == self._thread:
            self.loop.call_soon(callback)
        else:
            self.loop.call_soon_threadsafe(callback)

    def move_to(self, home: Home | None) -> None:
        """Stay: its own loop drives it."""

    def close(self) -> asyncio.Future[None]:
        """Close the connection after what was sent before."""
        future: asyncio.Future[None] = self.loop.create_future()
        if self._ended is not None:
            future.set_result(None)
            return future
        self._closing.append(future)
        if len(self._closing) == 1:
            self._patience = self.loop.call_later(GOODBYE_SECONDS, self._wire.hang_up)
            leaving = [channel.close() for channel in self._channels.values()]
            for goodbye in leaving:
                goodbye.add_done_callback(lambda _: self._say_goodbye(leaving))
            self._say_goodbye(leaving)
        return future

    def _say_goodbye(self, leaving: list[asyncio.Future[None]]) -> None:
        if all(goodbye.done() for goodbye in leaving) and self._wire.is_open:
            self._wire.flush()
            self._wire.close()

    # ------------------------------------------------------------------------------------------ what a channel needs

    @property
    def ended(self) -> ConnectionLost | None:
        """Why nothing can be sent any more, or None."""
        return self._ended

    def send(self, data: bytes) -> None:
        """Send whole frames, behind what waits for room."""
        if self._held:
            self._held.append(lambda: self._wire.send(data))
        else:
            self._wire.send(data)

    def send_soon(self, data: bytes) -> None:
        """Send whole frames, before what waits for room."""
        if self._ended is None:
            self._wire.send(data)

    def when_room(self, action: Callable[[], None]) -> None:
        """Run `action` now, or when the buffer has room again; also when the connection ends first."""
        if self._held or self._wire.crowded:
            self._held.append(action)
        else:
            action()

    def release(self, number: int) -> None:
        """The channel's number may be used again."""
        if self._channels.pop(number, None) is not None:
            self._numbers.give_back(number)

    # ------------------------------------------------------------------------------------------------------- events

    def _handle(self, channel: int, method: int, argument: Any) -> None:
        if channel:
            target = self._channels.get(channel)
            if target is not None:
                target.handle(method, argument)
        elif method == CONNECTION_BLOCKED:
            self._blocked = argument[0] or "the broker gives no reason"
        elif method == CONNECTION_UNBLOCKED:
            self._blocked = None
        while self._held and not self._wire.crowded:
            self._held.popleft()()

    def _end(self, error: BaseException) -> None:
        """The connection has ended: fail everything under way, then `closed`."""
        if self._closing:
            self._ended, self._reason = _closed_by_us(self._address), None
        else:
            self._ended = self._reason = _lost(error, self._address)
        if self._patience is not None:
            self._patience.cancel()
        self._blocked = None
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.end(self._reason)
        held, self._held = self._held, deque()
        for action in held:
            action()
        answer(self._closed, self._reason)
        for future in self._closing:
            answer(future, None)


def _closed_by_us(address: Address) -> ConnectionLost:
    return ConnectionLost(f"the connection to {address.place} was closed by this side")


def _server_info(wire: _Wire) -> ServerInfo:
    said = wire.server_properties or {}
    return ServerInfo(
        product=str(said.get("product", "")),
        version=str(said.get("version", "")),
        cluster_name=str(said.get("cluster_name", "")),
        capabilities=dict(said.get("capabilities", {})),
        frame_max=int(wire.params.frame_max),
        heartbeat_seconds=int(wire.params.heartbeat or 0),
    )
