"""A connection over a socket pair, with the broker's part played by hand; no handshake, no broker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from amqpq import errors
from amqpq.transport import frames
from amqpq.transport.blocking import BlockingConnection
from amqpq.transport.drivers import OwnThread
from amqpq.transport.frames import request
from amqpq.transport.url import Address
from amqpq.types import Fate, Properties, Publication, QueueSpec, ServerInfo

DEADLINE_SECONDS = 10.0
ADDRESS = Address("there", 1234)


class Stage:
    """A connection, and the broker's end of its socket."""

    def __init__(self, early: bytes = b"", channel_max: int = 2047) -> None:
        self.end, ours = socket.socketpair()
        self.end.settimeout(DEADLINE_SECONDS)
        server = ServerInfo("Paper", "1.0", frame_max=4096)
        self.connection = BlockingConnection(ours, early, server, ADDRESS, name="stage", channel_max=channel_max)

    def expect(self, data: bytes) -> None:
        """The connection must send exactly this next."""
        got = b""
        while len(got) < len(data):
            piece = self.end.recv(len(data) - len(got))
            assert piece, f"the connection closed after {got!r}"
            got += piece
        assert got == data

    def say(self, *data: bytes) -> None:
        """Send to the connection."""
        self.end.sendall(b"".join(data))

    def open_channel(self, number: int = 1) -> Any:
        """Open a channel and answer its opening."""
        channel = self.connection.channel()
        self.expect(
            request(number, frames.CHANNEL_OPEN, "s", "") + request(number, frames.CONFIRM_SELECT, "b", (False,))
        )
        self.say(request(number, frames.CHANNEL_OPEN_OK, "I", 0), request(number, frames.CONFIRM_SELECT_OK))
        return channel


@pytest.fixture
def stage() -> Iterator[Stage]:
    """An open connection; its end is closed afterwards."""
    stage = Stage()
    yield stage
    stage.end.close()
    stage.connection.closed.result(DEADLINE_SECONDS)


def wait(pending: Future[Any]) -> Any:
    """Wait for an answer."""
    return pending.result(DEADLINE_SECONDS)


def test_bytes_that_the_handshake_read_too_much_are_not_lost() -> None:
    """What came together with open-ok is handled first."""
    stage = Stage(early=request(0, frames.CONNECTION_BLOCKED, "s", "low on memory"))
    stage.say(request(0, frames.CONNECTION_UNBLOCKED))
    stage.end.close()
    wait(stage.connection.closed)
    assert stage.connection.blocked is None


def test_blocked_and_unblocked_are_kept(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The broker's reason stands in `blocked` until it unblocks, and in the log."""
    channel = stage.open_channel()
    stage.say(request(0, frames.CONNECTION_BLOCKED, "s", "low on disk"))
    answer = channel.get("q")
    stage.expect(request(1, frames.BASIC_GET, "Hsb", 0, "q", (False,)))
    stage.say(request(1, frames.BASIC_GET_EMPTY, "s", ""))
    wait(answer)
    assert stage.connection.blocked == "low on disk"
    assert "blocks publishers: low on disk" in caplog.text
    answer = channel.get("q")
    stage.say(request(0, frames.CONNECTION_UNBLOCKED), request(1, frames.BASIC_GET_EMPTY, "s", ""))
    wait(answer)
    assert stage.connection.blocked is None


def test_a_close_by_the_broker_is_the_reason_everywhere(stage: Stage) -> None:
    """The broker's words reach every pending, every channel, the connection, and later verbs; the goodbye is answered."""
    channel = stage.open_channel()
    asked, published = channel.declare_queue(QueueSpec("q")), channel.publish([Publication("", "q", b"", Properties())])
    stage.say(request(0, frames.CONNECTION_CLOSE, "HsHH", 320, "CONNECTION_FORCED - shutdown", 0, 0))
    reason = wait(stage.connection.closed)
    assert isinstance(reason, errors.ConnectionLost)
    assert str(reason) == "the broker at there:1234 closed the connection: CONNECTION_FORCED - shutdown"
    with pytest.raises(errors.ConnectionLost, match="CONNECTION_FORCED"):
        wait(asked)
    (outcome,) = wait(published)
    assert outcome.fate is Fate.UNKNOWN
    assert wait(channel.closed) is reason
    with pytest.raises(errors.ConnectionLost, match="CONNECTION_FORCED"):
        wait(channel.get("q"))
    with pytest.raises(errors.ConnectionLost, match="CONNECTION_FORCED"):
        stage.connection.channel()
    sent = b""
    while piece := stage.end.recv(65536):
        sent += piece
    assert sent.endswith(request(0, frames.CONNECTION_CLOSE_OK))
    assert wait(stage.connection.close()) is None


def test_our_close_is_said_and_waited_for(stage: Stage) -> None:
    """close resolves with the broker's answer; `closed` resolves with None, on the channels too."""
    channel = stage.open_channel()
    asked = channel.get("q")
    closing = stage.connection.close()
    assert stage.connection.close() is closing
    stage.expect(request(1, frames.BASIC_GET, "Hsb", 0, "q", (False,)))
    stage.expect(request(0, frames.CONNECTION_CLOSE, "HsHH", 200, "", 0, 0))
    assert not closing.done()
    with pytest.raises(errors.ConnectionLost, match="closed here"):
        stage.connection.channel()
    stage.say(request(0, frames.CONNECTION_CLOSE_OK))
    assert wait(closing) is None
    assert wait(stage.connection.closed) is None
    assert wait(channel.closed) is None
    with pytest.raises(errors.ConnectionLost, match="closed here"):
        wait(asked)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (request(0, frames.CONNECTION_CLOSE_OK), r"method 10\.51 on channel 0, which was not due"),
        (request(9, frames.CHANNEL_OPEN_OK, "I", 0), r"method 20\.11 on channel 9, which is not open"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "larger than was agreed"),
    ],
)
def test_nonsense_ends_the_connection_with_words_for_it(stage: Stage, data: bytes, words: str) -> None:
    """A peer that does not keep the protocol is left, and the reason says what it did."""
    stage.say(data)
    reason = wait(stage.connection.closed)
    with pytest.raises(errors.ConnectionLost, match=words):
        raise reason


def test_channel_numbers_are_used_again_and_run_out() -> None:
    """A channel that ended gives its number back; more channels than agreed are refused with the remedy."""
    stage = Stage(channel_max=2)
    first = stage.open_channel(1)
    stage.open_channel(2)
    with pytest.raises(errors.TransportError, match="all 2 channels of this connection are in use; close some"):
        stage.connection.channel()
    closing = first.close()
    stage.say(request(1, frames.CHANNEL_CLOSE_OK))
    wait(closing)
    stage.expect(request(1, frames.CHANNEL_CLOSE, "HsHH", 200, "", 0, 0))
    stage.open_channel(1)
    stage.end.close()
    wait(stage.connection.closed)


def test_callbacks_run_on_the_thread_of_the_connection_also_when_they_come_late(stage: Stage) -> None:
    """A callback added before or after the answer runs on the I/O thread; after the end, on the caller's."""
    here = threading.get_ident()
    channel = stage.open_channel()
    answer = channel.get("q")
    ran: list[int] = []
    arrived = threading.Semaphore(0)

    def note(_: Future[Any]) -> None:
        ran.append(threading.get_ident())
        arrived.release()

    answer.add_done_callback(note)
    stage.say(request(1, frames.BASIC_GET_EMPTY, "s", ""))
    wait(answer)
    answer.add_done_callback(note)
    for _ in range(2):
        assert arrived.acquire(timeout=DEADLINE_SECONDS)
    assert len(set(ran)) == 1
    assert here not in ran
    assert not answer.cancel()
    stage.end.close()
    wait(stage.connection.closed)
    driver = stage.connection._reactor._driver
    assert isinstance(driver, OwnThread)
    driver.thread.join(DEADLINE_SECONDS)
    answer.add_done_callback(note)
    assert ran[-1] == here
