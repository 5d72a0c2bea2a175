"""`AsyncLink` keeps one connection, finds another when it is gone, and belongs to one loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from amqpq.errors import AuthenticationRefused, BrokerUnreachable, ConfigurationError, OperationTimeout
from amqpq.testing.memory import MemoryBroker
from amqpq.transport.aiolink import AsyncLink
from amqpq.transport.interface import Connection
from amqpq.transport.url import Address

HERE, THERE = Address("here"), Address("there")


class Door:
    """An opener that the test watches and that may refuse."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.asked: list[str] = []
        self.refusals: dict[str, Exception] = {}
        self.gate: asyncio.Event | None = None

    async def __call__(
        self, address: Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = ""
    ) -> Connection:
        """Open a connection to the in-memory broker, whose pendings a link does not wait for."""
        del heartbeat_seconds, timeout_seconds
        self.asked.append(address.host)
        if self.gate is not None:
            await self.gate.wait()
        if address.host in self.refusals:
            raise self.refusals[address.host]
        return self.broker.connect(name)


def link(door: Door, *addresses: Address) -> AsyncLink:
    """Make a link with a known order."""
    return AsyncLink(addresses or (HERE,), door, name="test", source=Random(1))


def scenario(body: Callable[[Door], Any]) -> Door:
    """Run a scenario with a door of its own."""
    door = Door(MemoryBroker())

    async def run() -> None:
        await body(door)

    asyncio.run(run())
    door.broker.kill_connections()
    return door


def test_one_connection_serves_everyone() -> None:
    """Many tasks that ask at once get the same connection and the same channel."""

    async def body(door: Door) -> None:
        its = link(door)
        connections = await asyncio.gather(*(its.connection(5) for _ in range(10)))
        channels = await asyncio.gather(*(its.channel(5) for _ in range(10)))
        assert len({id(connection) for connection in connections}) == 1
        assert len({id(channel) for channel in channels}) == 1

    assert scenario(body).asked == ["here"]


def test_a_lost_connection_is_replaced() -> None:
    """Who asks after a loss gets another connection, and another channel."""

    async def body(door: Door) -> None:
        its = link(door)
        before, channel = await its.connection(5), await its.channel(5)
        door.broker.kill_connections()
        assert before.closed.result() is not None
        assert await its.connection(5) is not before
        assert await its.channel(5) is not channel

    assert scenario(body).asked == ["here", "here"]


def test_a_closed_channel_is_replaced_on_the_same_connection() -> None:
    """A channel error costs a channel, not the connection."""

    async def body(door: Door) -> None:
        its = link(door)
        channel = await its.channel(5)
        channel.close()
        channel.closed.result()
        assert await its.channel(5) is not channel

    assert scenario(body).asked == ["here"]


def test_every_address_is_tried() -> None:
    """An address that does not answer leads to its neighbour."""

    async def body(door: Door) -> None:
        door.refusals["here"] = BrokerUnreachable("nobody is here")
        its = link(door, HERE, THERE)
        for _ in range(4):
            connection = await its.connection(5)
            door.broker.kill_connections()
            connection.closed.result()

    assert scenario(body).asked.count("there") == 4


def test_a_search_that_fails_names_every_address() -> None:
    """The error lists each address with what it said."""

    async def body(door: Door) -> None:
        door.refusals = {"here": BrokerUnreachable("nobody is here"), "there": BrokerUnreachable("nobody is there")}
        with pytest.raises(BrokerUnreachable, match=r"nobody is (here|there)[\s\S]*nobody is (here|there)"):
            await link(door, HERE, THERE).connection(0.2)

    scenario(body)


def test_a_refusal_for_good_is_not_tried_again() -> None:
    """A wrong password ends the search."""

    async def body(door: Door) -> None:
        door.refusals["here"] = AuthenticationRefused("wrong password")
        with pytest.raises(AuthenticationRefused):
            await link(door).connection(5)

    assert scenario(body).asked == ["here"]


def test_a_task_that_waits_for_another_ones_search_has_its_own_deadline() -> None:
    """Who waits behind a search gives up after its own time."""

    async def body(door: Door) -> None:
        door.gate = asyncio.Event()
        its = link(door)
        search = asyncio.create_task(its.connection(5))
        await asyncio.sleep(0)
        with pytest.raises(OperationTimeout, match="still looks"):
            await its.connection(0.01)
        door.gate.set()
        await search

    scenario(body)


def test_a_cancelled_search_is_taken_over() -> None:
    """A task that is cancelled while it looks for a broker leaves the link usable."""

    async def body(door: Door) -> None:
        door.gate = asyncio.Event()
        its = link(door)
        search = asyncio.create_task(its.connection(5))
        await asyncio.sleep(0)
        heir = asyncio.create_task(its.connection(5))
        await asyncio.sleep(0)
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
        door.gate.set()
        assert not (await heir).closed.done()

    assert scenario(body).asked == ["here", "here"]


def test_a_closed_link_opens_nothing() -> None:
    """After `close`, which may be called twice, the link refuses with its reason."""

    async def body(door: Door) -> None:
        its = link(door)
        await its.close()
        await its.close()
        with pytest.raises(ConfigurationError, match="closed"):
            await its.connection(5)
        with pytest.raises(ConfigurationError, match="closed"):
            await its.channel(5)

    assert scenario(body).asked == []


def test_closing_ends_a_search() -> None:
    """A task that looks for a broker while the link is closed hears of it at once."""

    async def body(door: Door) -> None:
        door.refusals["here"] = BrokerUnreachable("nobody is here")
        its = link(door)
        search = asyncio.create_task(its.connection(None))
        await asyncio.sleep(0)
        await its.close()
        with pytest.raises(ConfigurationError, match="closed"):
            await search

    scenario(body)


def test_a_link_belongs_to_one_loop() -> None:
    """On a second loop the link says what to do instead of waiting for ever."""
    door = Door(MemoryBroker())
    its = link(door)

    async def use() -> None:
        await its.connection(5)

    asyncio.run(use())
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(use())
    door.broker.kill_connections()


def test_a_link_needs_an_address() -> None:
    """No address is a mistake of the configuration."""
    with pytest.raises(ConfigurationError, match=r"broker\.url"):
        AsyncLink([], Door(MemoryBroker()))
