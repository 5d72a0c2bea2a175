"""Asking a management node: answers in order whatever the cuts, no more requests than it takes, each refusal in its place."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.errors import (
    AccessRefused,
    AuthenticationRefused,
    BrokerUnreachable,
    ConnectionLost,
    OperationTimeout,
    TransportError,
)
from amqpq.transport import amqp10
from amqpq.transport.amqp10 import Described, Frame, FrameParser, Symbol, UInt, encode
from amqpq.transport.management_node import Answer, ManagementNode, bindings_path, queue_path
from amqpq.transport.url import Address
from amqpq.types import BindingSpec

ADDRESS = Address(user="ann", password="secret", vhost="v")


@dataclass
class Broker:
    """A management node that answers by a table, in pieces; it stands where the socket stands."""

    answers: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    forbidden: frozenset[str] = frozenset()
    condition: str = "amqp:unauthorized-access"
    words: str = "read access to queue 'q' in vhost 'v' refused for user 'ann'"
    cut: Callable[[], int] = lambda: 65536
    credit: int = 8
    mechanisms: Any = field(default_factory=lambda: [Symbol("PLAIN"), Symbol("AMQPLAIN")])
    protocols: tuple[bytes, ...] = (amqp10.SASL_PROTOCOL, amqp10.PROTOCOL)
    password: str = "secret"
    numbered_from: int = 0
    frame_bytes: int = 1000
    silent: bool = False
    channel_max: int = 63
    connections: int = 0
    sessions: int = 0
    most: int = 0
    """Requests under way at most."""

    def __call__(self, address: Address, timeout_seconds: float) -> socket.socket:
        """Take a connection."""
        assert address == ADDRESS
        assert timeout_seconds > 0
        self.connections += 1
        self._out = bytearray()
        self._parser = FrameParser()
        self._greeted = 0
        self._requests: list[tuple[int, str]] = []
        self._ended = False
        self._channel = -1
        return cast("socket.socket", self)

    # what of a socket is used

    def settimeout(self, seconds: float) -> None:
        """Heed the deadline."""
        assert seconds > 0

    def close(self) -> None:
        """Hang up."""
        self._ended = True

    def sendall(self, data: bytes) -> None:
        """Take what the client says."""
        if self._ended:
            raise BrokenPipeError
        if data.startswith(b"AMQP"):
            self._out += self.protocols[self._greeted]
            self._greeted += 1
            if self._greeted == 1:
                self._say(amqp10.SASL_MECHANISMS, [self.mechanisms], kind=amqp10.SASL_FRAME)
            return
        self._parser.feed(data)
        for frame in self._parser.frames():
            self._hear(frame)
        self.most = max(self.most, len(self._requests))
        assert len(self._requests) <= self.credit

    def recv(self, size: int) -> bytes:
        """Give a piece of what there is to say; requests are answered when nothing else is left to say."""
        if not self._out and self._requests and not self.silent:
            self._answer()
        if not self._out:
            if self._ended:
                return b""
            raise TimeoutError("timed out")
        piece = bytes(self._out[: min(size, self.cut())])
        del self._out[: len(piece)]
        return piece

    # what a broker does

    def _hear(self, frame: Frame) -> None:
        if frame.code == amqp10.SASL_INIT:
            right = frame.field(1) == f"\0ann\0{self.password}".encode()
            self._say(amqp10.SASL_OUTCOME, [0 if right else 1], kind=amqp10.SASL_FRAME)
        elif frame.code == amqp10.OPEN:
            assert frame.field(1) == "vhost:v"
            self._say(
                amqp10.OPEN,
                [
                    "rabbit",
                    None,
                    None,
                    self.channel_max,
                    *[None] * 5,
                    {Symbol("cluster_name"): "c1", Symbol("version"): "4.3.6"},
                ],
            )
        elif frame.code == amqp10.BEGIN:
            assert self._channel < frame.channel <= self.channel_max
            self._channel = frame.channel
            self._asked = self._granted = self._sent = 0
            self._closed = False
            self.sessions += 1
            self._say(amqp10.BEGIN, [UInt(0), UInt(self.numbered_from), UInt(400), UInt(400)])
        elif frame.code == amqp10.ATTACH:
            self._say(amqp10.ATTACH, [frame.field(0), UInt(frame.field(1) + 5), not frame.field(2)])
            if not frame.field(2):
                session = [UInt(0), UInt(400), UInt(0), UInt(400)]
                self._say(amqp10.FLOW, [*session, UInt(6), UInt(0), UInt(99)])  # of the other link
                self._say(amqp10.FLOW, session)
                self._flow()
        elif frame.code == amqp10.FLOW:
            assert frame.field(0) == (self.numbered_from + self._sent) % 2**32
            self._granted = frame.field(5) + frame.field(6)
        elif frame.code == amqp10.TRANSFER and not self._closed:
            assert frame.channel == self._channel
            properties, body = amqp10.decode(frame.payload)
            assert (properties.value[3], properties.value[4], body) == ("GET", "$me", Described(amqp10.VALUE, None))
            self._requests.append((properties.value[0], properties.value[2]))

    def _flow(self) -> None:
        session = [UInt(0), UInt(400), UInt(0), UInt(400)]
        self._say(amqp10.FLOW, [*session, UInt(5), UInt(self._asked), UInt(self.credit)])

    def _answer(self) -> None:
        number, path = self._requests.pop(0)
        self._asked += 1
        if path in self.forbidden:
            error = Described(amqp10.ERROR, [Symbol(self.condition), self.words])
            self._say(amqp10.END, [error])
            self._requests.clear()
            self._closed = True
            return
        status, body = self.answers.get(path, (404, None))
        properties = [None, None, None, str(status), None, number]
        message = encode(Described(amqp10.PROPERTIES, properties)) + encode(Described(amqp10.VALUE, body))
        self._flow()
        assert self._asked <= self._granted
        for start in range(0, len(message), self.frame_bytes):
            part = message[start : start + self.frame_bytes]
            more = start + self.frame_bytes < len(message)
            self._say(amqp10.TRANSFER, [UInt(6), UInt(number), b"t", UInt(0), True, more], part)
            self._sent += 1

    def _say(self, code: int, fields: list[Any], payload: bytes = b"", kind: int = amqp10.AMQP_FRAME) -> None:
        channel = max(self._channel, 0)
        self._out += amqp10.frame(code, fields, payload, kind=kind, channel=channel)


def node(broker: Broker) -> ManagementNode:
    """Log in."""
    return ManagementNode(ADDRESS, opener=broker, timeout_seconds=5)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_any_cut_gives_the_same_answers(sizes: list[int]) -> None:
    """Also of answers that take several frames."""
    told = {"/a": (200, {"name": "a" * 3000}), "/b": (200, [1, None, "x"])}
    broker = Broker(told, cut=cycle(sizes).__next__, numbered_from=2**32 - 3)
    with node(broker) as asked:
        assert asked.ask(["/a", "/missing", "/b"]) == [Answer(*told["/a"]), Answer(404, None), Answer(*told["/b"])]
        assert asked.ask(["/b"]) == [Answer(*told["/b"])]
        assert (asked.server.cluster_name, asked.server.version_tuple) == ("c1", (4, 3, 6))
    assert broker.connections == 1


@pytest.mark.parametrize("credit", [1, 8])
def test_never_more_requests_are_under_way_than_the_node_takes(credit: int) -> None:
    """And as many as it takes; our own grant is renewed before it is used up."""
    broker = Broker({"/q": (200, 1)}, credit=credit)
    with node(broker) as asked:
        answers = asked.ask(["/q" if number % 7 else "/missing" for number in range(1100)])
    assert [cast("Answer", each).status for each in answers[:3]] == [404, 200, 200]
    assert len(answers) == 1100
    assert broker.most == credit


@pytest.mark.parametrize(("channel_max", "connections"), [(63, 1), (1, 1), (0, 2)])
def test_each_refusal_has_its_place_and_its_remedy(channel_max: int, connections: int) -> None:
    """The broker ends the session with all that was asked behind it; that is asked again in another one."""
    broker = Broker({"/a": (200, 1), "/b": (200, 2)}, frozenset({"/no"}), channel_max=channel_max)
    with node(broker) as asked:
        first, no, second, last = asked.ask(["/a", "/no", "/b", "/no"])
    assert (first, second) == (Answer(200, 1), Answer(200, 2))
    assert isinstance(no, AccessRefused)
    assert "read access to queue 'q'" in str(no)
    assert "rabbitmqctl set_permissions -p v ann" in str(no)
    assert isinstance(last, AccessRefused)
    assert (broker.connections, broker.sessions) == (connections, 2)


def test_any_other_end_of_the_session_is_the_error_with_its_first_line() -> None:
    """Where RabbitMQ has no handler for a request, it sends its whole stack."""
    broker = Broker(forbidden=frozenset({"/no"}), condition="amqp:internal-error", words="function_clause\n[{rabbit...")
    with node(broker) as asked, pytest.raises(TransportError, match="localhost:5672 gave up: function_clause$"):
        asked.ask(["/no"])


def test_an_answer_to_another_question_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to whom is never guessed."""
    broker = Broker({"/a": (200, 1)})
    asked = node(broker)
    monkeypatch.setattr(broker, "_requests", [(7, "/a")])
    with pytest.raises(ConnectionLost, match="no answer to request 0"):
        asked.ask(["/b"])


def test_a_node_that_does_not_answer_is_a_timeout() -> None:
    """After which the next question opens another connection."""
    broker = Broker({"/a": (200, 1)})
    asked = node(broker)
    broker.silent = True
    with pytest.raises(OperationTimeout, match="localhost:5672 did not answer in time"):
        asked.ask(["/a"])
    broker.silent = False
    assert asked.ask(["/a"]) == [Answer(200, 1)]
    assert broker.connections == 2


def test_a_connection_that_ends_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its place."""
    broker = Broker(silent=True)
    asked = node(broker)
    monkeypatch.setattr(broker, "sendall", lambda _: None)
    broker.close()
    with pytest.raises(ConnectionLost, match="localhost:5672 went away: it closed the connection"):
        asked.ask(["/a"])


def test_nothing_is_asked_for_nothing() -> None:
    """No question, no answer."""
    assert node(Broker()).ask([]) == []


def gone(_: Address, __: float) -> socket.socket:
    """Nobody listens."""
    raise ConnectionRefusedError


class Deaf(Broker):
    """Takes everything and hangs up."""

    def sendall(self, data: bytes) -> None:
        """Hang up."""
        del data
        self._ended = True


@pytest.mark.parametrize(
    ("broker", "error", "words"),
    [
        (
            Broker(protocols=(b"AMQP\x00\x00\x09\x01",)),
            TransportError,
            r"does not speak AMQP 1.0: it offers b'AMQP\\x00",
        ),
        (Broker(password="another"), AuthenticationRefused, "refused the user 'ann' or the password"),
        (Broker(mechanisms=Symbol("EXTERNAL")), AuthenticationRefused, "it offers EXTERNAL"),
        (Deaf(), TransportError, "closed the connection before AMQP 1.0 was agreed on"),
        (gone, BrokerUnreachable, "nothing listens at localhost:5672"),
    ],
)
def test_why_there_is_no_connection_is_said(broker: Any, error: type[TransportError], words: str) -> None:
    """Without the password."""
    with pytest.raises(error, match=words) as raised:
        ManagementNode(ADDRESS, opener=broker, timeout_seconds=5)
    assert "secret" not in str(raised.value)


def test_paths_hold_any_name() -> None:
    """Written as in a URL, a space never as a plus sign."""
    assert queue_path("a b/ä?") == "/queues/a%20b%2F%C3%A4%3F"
    assert bindings_path(BindingSpec("x", "q", "a.#&b=c +1")) == "/bindings?src=x&dstq=q&key=a.%23%26b%3Dc%20%2B1"
    assert bindings_path(BindingSpec("x", "y", "", to_exchange=True)) == "/bindings?src=x&dste=y&key="
