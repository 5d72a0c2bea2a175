"""The link with brokers of cardboard: who opens, who waits, what is replaced. No socket."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import pytest

from amqpq.errors import (
    AmqpqError,
    AuthenticationRefused,
    BrokerUnreachable,
    ConfigurationError,
    ConnectionLost,
    OperationTimeout,
)
from amqpq.transport.interface import Connection
from amqpq.transport.link import Link
from amqpq.transport.url import Address
from amqpq.types import ServerInfo

A, B = Address("a"), Address("b")


class CardboardChannel:
    """Something that can end."""

    def __init__(self) -> None:
        self.closed: Future[AmqpqError | None] = Future()


class CardboardConnection:
    """Something that can end, with channels."""

    def __init__(self) -> None:
        self.closed: Future[AmqpqError | None] = Future()
        self.server = ServerInfo("Cardboard", "1.0")
        self.channels: list[CardboardChannel] = []

    def channel(self) -> CardboardChannel:
        """One more."""
        self.channels.append(CardboardChannel())
        return self.channels[-1]

    def close(self) -> Future[None]:
        """At once."""
        if not self.closed.done():
            self.closed.set_result(None)
        answer: Future[None] = Future()
        answer.set_result(None)
        return answer


class Brokers:
    """An opener: fails as told, and notes who was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.opened: list[CardboardConnection] = []
        self.errors: list[AmqpqError] = []
        self.before: Callable[[], object] = lambda: None

    def __call__(
        self, address: Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = ""
    ) -> Connection:
        """Open, or fail with the next error."""
        assert (heartbeat_seconds, name) == (30, "tester")
        assert timeout_seconds > 0
        self.asked.append(address.host)
        self.before()
        if self.errors:
            raise self.errors.pop(0)
        self.opened.append(CardboardConnection())
        return cast("Connection", self.opened[-1])


@pytest.fixture
def brokers() -> Brokers:
    """Brokers that let everybody in."""
    return Brokers()


@pytest.fixture
def link(brokers: Brokers) -> Link:
    """A link to two of them."""
    return Link([A, B], brokers, name="tester", source=random.Random(1))


def test_one_connection_and_one_channel_serve_everybody(link: Link, brokers: Brokers) -> None:
    """Who asks gets the same connection and the same channel, as long as they are open."""
    assert link.server is None
    assert link.connection(1) is link.connection(1)
    assert link.channel(1) is link.channel(1)
    assert len(brokers.opened) == 1
    assert link.server is not None


def test_a_lost_connection_is_replaced_with_its_channel(link: Link, brokers: Brokers) -> None:
    """After a loss the next caller opens another connection, and another channel on it."""
    channel = link.channel(1)
    brokers.opened[0].closed.set_result(ConnectionLost())
    brokers.opened[0].channels[0].closed.set_result(ConnectionLost())
    assert link.channel(1) is not channel
    assert [len(connection.channels) for connection in brokers.opened] == [1, 1]


def test_a_closed_channel_is_replaced_on_the_same_connection(link: Link, brokers: Brokers) -> None:
    """A channel that the broker closed costs a channel, not a connection."""
    channel = link.channel(1)
    brokers.opened[0].channels[0].closed.set_result(ConnectionLost())
    assert link.channel(1) is not channel
    assert len(brokers.opened) == 1


def test_every_address_is_tried(link: Link, brokers: Brokers) -> None:
    """One node down: the other is asked at once."""
    brokers.errors = [BrokerUnreachable("down")]
    link.connection(5)
    assert sorted(brokers.asked) == ["a", "b"]


def test_in_vain_says_what_every_address_said(link: Link, brokers: Brokers) -> None:
    """A search that ran out of time names all addresses with their words."""
    brokers.errors = [BrokerUnreachable("down") for _ in range(1000)]
    with pytest.raises(
        BrokerUnreachable, match=r"(?s)no broker answered within 0\.3 s at any of 2 addresses.*5672: down"
    ):
        link.connection(0.3)


def test_a_wrong_password_is_not_retried(link: Link, brokers: Brokers) -> None:
    """Where every address refuses for good, the caller hears it at once."""
    brokers.errors = [AuthenticationRefused("wrong"), AuthenticationRefused("wrong")]
    with pytest.raises(AuthenticationRefused):
        link.connection(60)
    assert len(brokers.asked) == 2


def test_threads_wait_for_the_one_that_opens(link: Link, brokers: Brokers) -> None:
    """Ten threads at once open one connection."""
    with ThreadPoolExecutor(10) as pool:
        connections = set(pool.map(lambda _: link.connection(5), range(10)))
        channels = set(pool.map(lambda _: link.channel(5), range(10)))
    assert len(brokers.opened) == len(connections) == len(channels) == 1


def test_who_waits_has_a_deadline_of_its_own(link: Link, brokers: Brokers) -> None:
    """A caller with little time does not wait for the search of one with much."""
    searching, go_on = threading.Event(), threading.Event()
    brokers.before = lambda: (searching.set(), go_on.wait(10))
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(link.connection, 10)
        assert searching.wait(10)
        with pytest.raises(OperationTimeout, match="another thread still looks"):
            link.connection(0.01)
        go_on.set()
        assert patient.result(10) is link.connection(0)


def test_who_waits_for_the_channel_has_one_too(link: Link, brokers: Brokers) -> None:
    """The deadline of `channel` holds while another thread looks for a broker, also after a loss."""
    link.channel(1)
    brokers.opened[0].closed.set_result(ConnectionLost())
    brokers.opened[0].channels[0].closed.set_result(ConnectionLost())
    searching, go_on = threading.Event(), threading.Event()
    brokers.before = lambda: (searching.set(), go_on.wait(10))
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(link.channel, 10)
        assert searching.wait(10)
        with pytest.raises(OperationTimeout):
            link.channel(0.01)
        go_on.set()
        assert patient.result(10) is link.channel(0)


def test_a_closed_link_opens_nothing_more(link: Link, brokers: Brokers) -> None:
    """close ends the connection, is idempotent, and every later call says so."""
    link.channel(1)
    link.close()
    link.close()
    assert brokers.opened[0].closed.result(0) is None
    for ask in (link.connection, link.channel):
        with pytest.raises(ConfigurationError, match="this link was closed"):
            ask(1)


def test_closing_ends_a_search(link: Link, brokers: Brokers) -> None:
    """A thread in the middle of a long pause is let go by close, and what it opened meanwhile is closed."""
    searching = threading.Event()
    brokers.errors = [BrokerUnreachable("down") for _ in range(1_000)]
    brokers.before = searching.set
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(link.connection, None)
        assert searching.wait(10)
        link.close()
        with pytest.raises(ConfigurationError):
            looking.result(10)


def test_a_connection_that_opens_while_the_link_closes_is_closed(link: Link, brokers: Brokers) -> None:
    """Nothing stays open behind a closed link."""
    brokers.before = link.close
    with pytest.raises(ConfigurationError):
        link.connection(1)
    assert brokers.opened[0].closed.result(0) is None


def test_a_link_without_addresses_is_refused(brokers: Brokers) -> None:
    """No address is a mistake in the configuration, and says where to set one."""
    with pytest.raises(ConfigurationError, match=r"set broker\.url or \$AMQPQ_BROKER_URL"):
        Link([], brokers)


def test_its_repr_shows_no_password(brokers: Brokers) -> None:
    """A link can be logged."""
    link = Link([Address("a", password="geheim")], brokers)
    assert "geheim" not in repr(link)
    assert "amqp://guest:***@a:5672/" in repr(link)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_afresh_even_where_the_parent_was_opening(link: Link, brokers: Brokers) -> None:
    """The child has no connection and no held lock, whatever a thread of the parent was doing at the fork."""
    link.connection(1)
    link._opening.acquire()
    child = os.fork()
    if child == 0:
        fine = link._connection is None and not link._opening.locked() and link.connection(1) is not None
        os._exit(0 if fine and len(brokers.opened) == 2 else 1)
    link._opening.release()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(brokers.opened) == 1
