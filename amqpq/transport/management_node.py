"""Asks the management node of RabbitMQ 4: HTTP over AMQP 1.0, on the ordinary port, without the management plugin. Blocking.

    with ManagementNode(address, name="amqpq topology shop", timeout_seconds=30) as node:
        (found,) = node.ask([queue_path("orders")])

A request is a message to the node `/management`, with the method as its subject and the path as its address; the answer comes
back on a link that is paired with the first (https://www.rabbitmq.com/docs/amqp#management). Of the methods only GET is spoken
here.

The node answers in the order in which it was asked, and takes a few requests at a time (its link's credit). Where the user
lacks a permission, RabbitMQ answers nothing and ends the session: then the first question without an answer was the one that
may not be asked, and another session goes on behind it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote

from amqpq.errors import (
    AccessRefused,
    AuthenticationRefused,
    ConnectionLost,
    OperationTimeout,
    TransportError,
)
from amqpq.transport import amqp10, attempts, failures, tls
from amqpq.transport.amqp10 import Described, Frame, FrameParser, Symbol, UByte, UInt
from amqpq.transport.frames import ProtocolViolation
from amqpq.transport.url import Address
from amqpq.types import BindingSpec, ServerInfo

NODE: Final = "/management"
OK, NOT_FOUND = 200, 404
"""Statuses of answers, as in HTTP."""

CONNECT_SECONDS: Final = attempts.LONGEST_ATTEMPT_SECONDS
"""For one node to open a connection: whoever asks has another way, and must not wait for ever for a proxy that swallows what it
does not know. A broker that was busy let new connections wait for five seconds, over AMQP 0-9-1, too (measured)."""

_PAIR: Final = "management-link-pair"
_REQUESTS, _ANSWERS = UInt(0), UInt(1)
"""Handles of the two links."""
_CREDIT: Final = 1000
"""Answers that may be on their way to us; granted anew when half of it is used."""
_WINDOW: Final = 1_000_000
"""Frames, likewise; more than answers of this number ever take."""
_SETTLED, _FIRST = UByte(1), UByte(0)
_UNAUTHORIZED: Final = "amqp:unauthorized-access"
_READ_BYTES: Final = 65536
_GOODBYE_SECONDS: Final = 1.0
_REASON_LIMIT: Final = 300
"""Characters of the broker's words that are kept."""

Opener: TypeAlias = Callable[[Address, float], socket.socket]
"""Opens a socket to an address within some seconds."""


def queue_path(name: str) -> str:
    """Return the path of a queue."""
    return f"/queues/{quote(name, safe='')}"


def bindings_path(binding: BindingSpec) -> str:
    """Return the path of the bindings that have the ends and the key of one, whatever their arguments.

    There is no path of all bindings of an exchange or a queue: RabbitMQ ends the session of who leaves the key out.
    """
    kind = "dste" if binding.to_exchange else "dstq"
    parts = (("src", binding.source), (kind, binding.target), ("key", binding.key))
    return "/bindings?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in parts)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the node answered: a status as in HTTP, and a value; of an error the value is its reason, as text."""

    status: int
    body: Any


class ManagementNode:
    """The management node of a virtual host, seen by one user.

    Args:
        address: Where, and as whom.
        name: Shown by the broker's management beside the connection.
        timeout_seconds: For each `ask`; and for opening a connection, if it is less than `CONNECT_SECONDS`.
        opener: Opens a socket; a test may put another in its place.

    Raises:
        BrokerUnreachable, AuthenticationRefused, TlsMismatch, ConfigurationError: As `amqpq.transport.blocking.connect`.
        TransportError: The peer does not speak AMQP 1.0, or lets nobody at its management node.
    """

    def __init__(
        self, address: Address, *, name: str = "amqpq", timeout_seconds: float = 30.0, opener: Opener | None = None
    ) -> None:
        self._address = address
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._opener = opener or _open_socket
        self._links: _Links | None = None
        self._links = self._connect()
        self.server: ServerInfo = self._links.server
        """What the broker said of itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Idempotent."""
        links, self._links = self._links, None
        if links is not None:
            links.close()

    def ask(self, paths: Sequence[str]) -> list[Answer | AccessRefused]:
        """GET each path; return the answers in this order, where a permission is missing the error that says so.

        Raises:
            OperationTimeout: The node did not answer in time.
            ConnectionLost: It went away.
            TransportError: It cannot be talked to.
        """
        deadline = time.monotonic() + self._timeout_seconds
        answers: list[Answer | AccessRefused] = []
        while len(answers) < len(paths):
            links = self._links = self._links or self._connect()
            try:
                for answer in links.ask(paths[len(answers) :], deadline):
                    answers.append(answer)  # noqa: PERF402 - what came before an error counts
            except _Ended as ended:
                if ended.whole or links.spent:
                    self.close()
                if ended.condition != _UNAUTHORIZED:
                    self.close()
                    raise TransportError(f"the management node at {self._address.place} gave up: {ended}") from ended
                remedy = failures.permission_remedy(str(ended))
                answers.append(AccessRefused(f"{ended}; {remedy}"))
            except TimeoutError as error:
                self.close()
                place = self._address.place
                raise OperationTimeout(f"the management node at {place} did not answer in time") from error
            except (OSError, EOFError, ProtocolViolation) as error:
                self.close()
                raise ConnectionLost(f"the management node at {self._address.place} went away: {error}") from error
        return answers

    def _connect(self) -> _Links:
        address, seconds = self._address, min(self._timeout_seconds, CONNECT_SECONDS)
        deadline = time.monotonic() + seconds
        try:
            opened = self._opener(address, seconds)
        except (OSError, ValueError) as error:
            raise failures.handshake_error(error, address) from error
        links = _Links(_Wire(opened))
        try:
            links.open(address, self._name, deadline)
        except _Ended as ended:
            links.close()
            raise TransportError(f"{address.place} refuses AMQP 1.0: {ended}") from ended
        except ProtocolViolation as error:
            links.close()
            raise TransportError(f"{address.place} does not speak AMQP 1.0: {error}") from error
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            links.close()
            raise TransportError(
                f"{address.place} closed the connection before AMQP 1.0 was agreed on: a proxy that knows AMQP 0-9-1 only, or "
                f"{address.user!r} may not enter the virtual host {address.vhost!r}"
            ) from error
        except OSError as error:
            links.close()
            raise failures.handshake_error(error, address) from error
        except BaseException:
            links.close()
            raise
        return links


class _Ended(Exception):
    """The peer ended the session or the connection (`whole`), or took a link away; `condition` is its symbol for why."""

    def __init__(self, error: Any, *, whole: bool = False) -> None:
        self.whole = whole
        parts = list(error.value) if isinstance(error, Described) and isinstance(error.value, list) else []
        self.condition = str(parts[0]) if parts else ""
        said = str(parts[1]) if len(parts) > 1 and parts[1] else self.condition or "it gave no reason"
        # Where a request has no handler, RabbitMQ sends its whole stack.
        super().__init__(said.partition("\n")[0][:_REASON_LIMIT])


def _open_socket(address: Address, timeout_seconds: float) -> socket.socket:
    context = tls.context(address.tls) if address.tls else None
    opened = socket.create_connection((address.host, address.port), timeout_seconds)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.tls is None or context is None:
        return opened
    try:
        return context.wrap_socket(opened, server_hostname=address.tls.server_name or address.host)
    except BaseException:
        opened.close()
        raise


class _Wire:
    """A socket that speaks in frames, each with a deadline."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._parser = FrameParser()
        self._frames: Iterator[Frame] = iter(())
        self.deadline = 0.0

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._socket.settimeout(self._remaining())
        self._socket.sendall(data)

    def greet(self, protocol: bytes) -> None:
        """Agree with the peer on a protocol.

        Raises:
            ProtocolViolation: It offers another one.
        """
        self.send(protocol)
        while (answer := self._parser.header()) is None:
            self._receive()
        if answer != protocol:
            raise ProtocolViolation(f"it offers {answer!r}")

    def receive(self) -> Frame:
        """Return the next frame."""
        while (found := next(self._frames, None)) is None:
            self._frames = self._parser.frames()
            found = next(self._frames, None)
            if found is not None:
                return found
            self._receive()
        return found

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._socket.close()

    def _receive(self) -> None:
        self._socket.settimeout(self._remaining())
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise EOFError("it closed the connection")
        self._parser.feed(data)

    def _remaining(self) -> float:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the time is over")
        return remaining


class _Links:
    """A connection; on it one session at a time, each on a channel of its own; in that two links, for requests and answers."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self.server = ServerInfo("", "")
        self._channel_max = 0
        self._channel = -1
        self._forget()

    def _forget(self) -> None:
        """Forget the session that ended."""
        self._begun = False
        self._peer_handle: Any = None  # the peer's, of the link for requests
        self._may_send = 0  # so many requests in all since the links are there
        self._sent = 0
        self._first_frame = 0  # the peer's number of the first frame that it sent on this session
        self._frames = 0
        self._answered = 0
        self._granted = 0
        self._payload = b""

    # ------------------------------------------------------------------------------------------------------- opening

    def open(self, address: Address, name: str, deadline: float) -> None:
        """Log in, and take both links."""
        wire = self._wire
        wire.deadline = deadline
        wire.greet(amqp10.SASL_PROTOCOL)
        self._log_in(address)
        wire.greet(amqp10.PROTOCOL)
        host = f"vhost:{address.vhost}"
        wire.send(amqp10.frame(amqp10.OPEN, [name, host, UInt(amqp10.FRAME_LIMIT_BYTES)]))
        welcome = self._wait_for(amqp10.OPEN)
        self.server, self._channel_max = _server(welcome), _number(welcome.field(3))
        self._begin()

    def _begin(self) -> None:
        """Begin a session on the next channel, and take both links."""
        self._forget()
        self._channel += 1
        self._say(amqp10.BEGIN, [None, UInt(0), UInt(_WINDOW), UInt(_WINDOW)])
        self._first_frame = _number(self._wait_for(amqp10.BEGIN).field(1))
        self._say(amqp10.ATTACH, _attach(_REQUESTS, receiving=False))
        self._say(amqp10.ATTACH, _attach(_ANSWERS, receiving=True))
        while not self._may_send:
            self._take(self._wire.receive())
        self._grant()
        self._begun = True

    @property
    def spent(self) -> bool:
        """Whether there is no channel left for another session."""
        return self._channel >= self._channel_max

    def _say(self, code: int, fields: Sequence[Any]) -> None:
        self._wire.send(amqp10.frame(code, fields, channel=self._channel))

    def _log_in(self, address: Address) -> None:
        offered = self._wait_for(amqp10.SASL_MECHANISMS).field(0)
        mechanisms = offered if isinstance(offered, list) else [offered]
        if "PLAIN" not in mechanisms:
            offers = ", ".join(str(each) for each in mechanisms)
            raise AuthenticationRefused(f"{address.place} takes no password over AMQP 1.0; it offers {offers}")
        login = f"\0{address.user}\0{address.password}".encode()
        self._wire.send(amqp10.frame(amqp10.SASL_INIT, [Symbol("PLAIN"), login], kind=amqp10.SASL_FRAME))
        if self._wait_for(amqp10.SASL_OUTCOME).field(0) != 0:
            raise AuthenticationRefused(
                f"the broker at {address.place} refused the user {address.user!r} or the password over AMQP 1.0"
            )

    def _wait_for(self, code: int) -> Frame:
        while True:
            found = self._wire.receive()
            if found.code == code:
                return found
            self._take(found)

    # -------------------------------------------------------------------------------------------------------- asking

    def ask(self, paths: Sequence[str], deadline: float) -> Iterator[Answer]:
        """Send the requests, as many at a time as the node takes; yield the answers as they come."""
        self._wire.deadline = deadline
        if not self._begun:
            self._begin()
        base = self._sent
        while self._answered - base < len(paths):
            room = min(self._may_send - self._sent, len(paths) - (self._sent - base))
            if room > 0:
                waiting = paths[self._sent - base :][:room]
                requests = (_request(self._channel, self._sent + number, path) for number, path in enumerate(waiting))
                self._wire.send(b"".join(requests))
                self._sent += room
            message = self._take(self._wire.receive())
            if message is not None:
                answer = _answer(message, self._answered)
                self._answered += 1
                if self._granted - self._answered < _CREDIT // 2:
                    self._grant()
                yield answer

    def _take(self, found: Frame) -> bytes | None:
        """Follow what the peer says; return a message that is all there.

        Raises:
            _Ended: It says goodbye.
        """
        if found.code in {amqp10.END, amqp10.CLOSE}:
            self._begun = False
            raise _Ended(found.field(0), whole=found.code == amqp10.CLOSE)
        if found.code == amqp10.DETACH:
            raise _Ended(found.field(2), whole=True)
        if found.code == amqp10.ATTACH and found.field(2) is True:
            self._peer_handle = found.field(1)
        elif found.code == amqp10.FLOW and found.field(4) is not None and found.field(4) == self._peer_handle:
            self._may_send = _number(found.field(5)) + _number(found.field(6))
        elif found.code == amqp10.TRANSFER:
            self._frames += 1
            self._payload += found.payload
            if not found.field(5):
                message, self._payload = self._payload, b""
                return message
        return None

    def _grant(self) -> None:
        """Let the peer send: frames on the session, answers on their link."""
        self._granted = self._answered + _CREDIT
        next_frame = UInt((self._first_frame + self._frames) % 2**32)
        session = [next_frame, UInt(_WINDOW), UInt(self._sent), UInt(_WINDOW)]
        self._say(amqp10.FLOW, [*session, _ANSWERS, UInt(self._answered), UInt(_CREDIT)])

    def close(self) -> None:
        """Say goodbye where there was a welcome, and hang up without waiting for an answer."""
        if self._channel >= 0:
            self._wire.deadline = time.monotonic() + _GOODBYE_SECONDS
            with suppress(OSError):
                self._wire.send(amqp10.frame(amqp10.CLOSE, []))
        self._wire.close()


# ---------------------------------------------------------------------------------------------------------------- words


def _attach(handle: UInt, *, receiving: bool) -> list[Any]:
    """Return one half of the pair: the two have one name, and say of each other that they are a pair."""
    here, there = Described(amqp10.SOURCE, [f"{_PAIR}-here"]), Described(amqp10.TARGET, [NODE])
    if receiving:
        here, there = Described(amqp10.SOURCE, [NODE]), Described(amqp10.TARGET, [f"{_PAIR}-here"])
    first_delivery = None if receiving else UInt(0)
    rest = [None, None, first_delivery, None, None, None, {Symbol("paired"): True}]
    return [_PAIR, handle, receiving, _SETTLED, _FIRST, here, there, *rest]


def _request(channel: int, number: int, path: str) -> bytes:
    """Return a request; of its properties are set: id, address, subject, and that the answer comes on the paired link."""
    properties = [number, None, path, "GET", "$me"]
    message = amqp10.encode(Described(amqp10.PROPERTIES, properties)) + amqp10.encode(Described(amqp10.VALUE, None))
    fields = [_REQUESTS, UInt(number), number.to_bytes(8, "big"), UInt(0), True]
    return amqp10.frame(amqp10.TRANSFER, fields, message, channel=channel)


def _answer(message: bytes, number: int) -> Answer:
    """Read an answer: its subject is the status, its correlation id that of the request.

    Raises:
        ProtocolViolation: It is no answer, or to something else.
    """
    sections = {section.code: section.value for section in amqp10.decode(message) if isinstance(section, Described)}
    properties = sections.get(amqp10.PROPERTIES)
    if not isinstance(properties, list) or len(properties) < 6 or properties[5] != number:  # noqa: PLR2004 - the sixth
        raise ProtocolViolation(f"this is no answer to request {number}: {properties!r}")
    status = properties[3]
    if not isinstance(status, str) or not status.isdecimal():
        raise ProtocolViolation(f"an answer has the status {status!r}")
    return Answer(int(status), sections.get(amqp10.VALUE))


def _server(opened: Frame) -> ServerInfo:
    said = opened.field(9)
    facts = said if isinstance(said, dict) else {}
    return ServerInfo(
        product=str(facts.get("product", "")),
        version=str(facts.get("version", "")),
        cluster_name=str(facts.get("cluster_name", "")),
        frame_max=_number(opened.field(2)) or amqp10.FRAME_LIMIT_BYTES,
    )


def _number(value: Any) -> int:
    """Return a number of a frame; null is 0."""
    if value is not None and not isinstance(value, int):
        raise ProtocolViolation(f"{value!r} stands where a number is due")
    return int(value or 0)
