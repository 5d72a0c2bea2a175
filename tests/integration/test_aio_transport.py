"""The asyncio transport against a real broker: what the conformance suite cannot ask of every transport."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from amqpq.errors import (
    AccessRefused,
    AuthenticationRefused,
    BrokerUnreachable,
    ConfigurationError,
    ConnectionLost,
    OperationTimeout,
    TlsMismatch,
    TransportError,
)
from amqpq.testing.proxy import Proxy
from amqpq.testing.rigs import through
from amqpq.transport import aio, aioflow, url
from amqpq.transport.aiolink import AsyncLink
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.types import Delivery, Fate, Properties, Publication, QueueSpec

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 20.0


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario on a fresh loop, which must have nothing to complain of, and must be left empty."""
    complaints: list[str] = []

    async def watched() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(str(context)))
        async with asyncio.timeout(DEADLINE_SECONDS * 2):
            result = await scenario
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        return result

    result = asyncio.run(watched())
    gc.collect()
    assert complaints == []
    return result


async def connect(
    broker_url: str, timeout_seconds: float = DEADLINE_SECONDS, heartbeat_seconds: int = 30
) -> Connection:
    """Open a connection."""
    address = url.parse(broker_url)
    return await aio.connect(
        address, heartbeat_seconds=heartbeat_seconds, timeout_seconds=timeout_seconds, name="aio test"
    )


def waits(pending: Any) -> Flow[Any]:
    """A flow that waits for one pending."""
    answer = yield pending
    return answer


async def answer(pending: Any, timeout_seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait for one pending with a deadline."""
    return await aioflow.run(waits(pending), timeout_seconds)


async def queue(channel: Channel) -> str:
    """Declare a queue that ends with its connection."""
    state = await answer(channel.declare_queue(QueueSpec("", durable=False, exclusive=True)))
    name: str = state.name
    return name


async def until(question: Callable[[], bool]) -> None:
    """Ask until the answer is yes, for what no callback tells."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not question():  # noqa: ASYNC110 - what is asked is a state, not an event
            await asyncio.sleep(0.02)


def post(name: str, body: bytes = b"x") -> Publication:
    """A message straight to a queue."""
    return Publication("", name, body, Properties())


# ---------------------------------------------------------------------------------------------------- connecting


def failing(address: str, kind: type[TransportError], timeout_seconds: float = DEADLINE_SECONDS) -> str:
    """Connect where it must fail in this way; return the message."""

    async def scenario() -> str:
        with pytest.raises(kind) as caught:
            await connect(address, timeout_seconds)
        return str(caught.value)

    message: str = run(scenario())
    return message


def test_the_broker_refuses_a_wrong_password(broker_url: str) -> None:
    """The error says who was refused and where, and never shows the password."""
    host = broker_url.partition("@")[2]
    message = failing(f"amqp://guest:hunter2@{host}", AuthenticationRefused)
    assert "'guest'" in message
    assert "hunter2" not in message


def test_the_broker_refuses_a_virtual_host_that_does_not_exist(broker_url: str) -> None:
    """The error names the virtual host and the remedy."""
    message = failing(broker_url.rpartition("/")[0] + "/not-there", AccessRefused)
    assert "'not-there'" in message
    assert "rabbitmqctl" in message


def test_nobody_listens() -> None:
    """A port without a listener is told as such."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "nothing listens" in failing(f"amqp://127.0.0.1:{port}/", BrokerUnreachable)


def test_the_name_of_the_host_is_unknown() -> None:
    """A host name that does not resolve is told as such."""
    message = failing("amqp://no-such-host.invalid/", BrokerUnreachable)
    assert "no-such-host.invalid" in message


def test_tls_is_spoken_to_a_plain_port(broker_url: str) -> None:
    """amqps:// to a plain port says which of the two to change."""
    assert "amqp://" in failing(broker_url.replace("amqp://", "amqps://"), TransportError)


def serve(reply: bytes) -> tuple[socket.socket, int]:
    """Listen, and answer whoever connects with some bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            client.recv(64)
            client.sendall(reply)
            while reply == b"" and client.recv(64):
                pass

    threading.Thread(target=accept, daemon=True).start()
    return listener, listener.getsockname()[1]


@pytest.mark.parametrize(
    "reply,kind,words",
    [
        (b"\x15\x03\x01\x00\x02\x02\x46", TlsMismatch, "speaks TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", TransportError, "not an AMQP broker"),
        (b"AMQP\x03\x01\x00\x00", TransportError, "AMQP 0-9-1"),
    ],
    ids=["tls", "http", "amqp-1.0"],
)
def test_the_peer_is_no_such_broker(reply: bytes, kind: type[TransportError], words: str) -> None:
    """What answers instead of a broker is recognised by its first bytes."""
    listener, port = serve(reply)
    with listener:
        assert words in failing(f"amqp://127.0.0.1:{port}/", kind)


def test_a_silent_peer_costs_the_time_given_and_no_more() -> None:
    """A listener that says nothing is given up on, and its socket is closed."""
    listener, port = serve(b"")
    with listener:
        assert "did not answer" in failing(f"amqp://127.0.0.1:{port}/", BrokerUnreachable, timeout_seconds=0.2)


def test_a_cancelled_connect_leaves_nothing_behind() -> None:
    """The task ends cancelled and the half-open socket is closed."""
    listener, port = serve(b"")

    async def scenario() -> None:
        task = asyncio.create_task(connect(f"amqp://127.0.0.1:{port}/"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with listener:
        run(scenario())


# ---------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `localhost`, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(secret + builder.sign(key, hashes.SHA256()).public_bytes(encoding))
    return path


@pytest.fixture
def tls_url(broker_url: str, certificate: Path) -> Iterator[str]:
    """The URL of a port that speaks TLS and hands on to the broker."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    address = url.parse(broker_url)
    with Proxy(address.host, address.port, tls=server) as proxy:
        yield through(proxy, broker_url).replace("amqp://", "amqps://").replace("127.0.0.1", "localhost")


def test_messages_travel_over_tls(tls_url: str, certificate: Path) -> None:
    """Verified TLS carries the handshake, a body of a mebibyte, and many small ones."""

    async def scenario() -> None:
        connection = await connect(f"{tls_url}?cacertfile={certificate}")
        channel = connection.channel()
        name = await queue(channel)
        texts = [bytes(range(256)) * 4096, *(b"%d" % number for number in range(200))]
        await answer(channel.publish([post(name, text) for text in texts]))
        assert [(await answer(channel.get(name, no_ack=True))).body for _ in texts] == texts
        await answer(connection.close())

    run(scenario())


def test_a_certificate_of_an_unknown_authority_is_refused(tls_url: str) -> None:
    """The error says which certificate and where to name its authority."""
    assert "is not accepted" in failing(tls_url, TlsMismatch)


def test_a_tls_file_that_is_not_there_is_told_before_connecting() -> None:
    """A wrong path is a mistake of the configuration, not of the network."""

    async def scenario() -> None:
        address = url.Address("127.0.0.1", 1, tls=url.Tls(ca="/nowhere/ca.pem"))
        with pytest.raises(ConfigurationError, match=r"/nowhere/ca\.pem"):
            await aio.connect(address, heartbeat_seconds=0, timeout_seconds=1)

    run(scenario())


# -------------------------------------------------------------------------------------------- waiting and giving up


def test_a_timeout_leaves_the_channel_usable(broker_url: str) -> None:
    """Who gives up waiting does not disturb the answers of others."""

    async def scenario() -> None:
        connection = await connect(broker_url)
        channel = connection.channel()
        name = await queue(channel)
        with pytest.raises(OperationTimeout):
            await answer(channel.publish([post(name)]), 0.0)
        assert (await answer(channel.publish([post(name)])))[0].confirmed
        assert await answer(channel.purge_queue(name)) == 2
        await answer(connection.close())

    run(scenario())


def test_a_cancelled_waiter_leaves_no_consumer_behind(broker_url: str) -> None:
    """A flow that is cancelled while it consumes cancels its consumer in its `finally`."""

    def first_message(channel: Channel, connection: Connection, name: str) -> Flow[Delivery]:
        arrived = connection.pending()
        tag = yield channel.consume(name, arrived.set_result)
        try:
            return (yield arrived)
        finally:
            yield channel.cancel(tag)

    async def scenario() -> None:
        connection = await connect(broker_url)
        channel, other = connection.channel(), connection.channel()
        name = await queue(other)
        task = asyncio.create_task(aioflow.run(first_message(channel, connection, name), None))
        while (await answer(other.declare_queue(QueueSpec(name), passive=True))).consumers == 0:
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while (await answer(other.declare_queue(QueueSpec(name), passive=True))).consumers:
            assert not connection.closed.done()
        await answer(other.publish([post(name)]))
        assert (await answer(other.get(name))).body == b"x"
        await answer(connection.close())

    run(scenario())


def test_many_tasks_share_a_channel(broker_url: str) -> None:
    """Five hundred tasks publish and wait at once; some give up; the others get their own answers."""

    async def scenario() -> None:
        connection = await connect(broker_url)
        channel = connection.channel()
        name = await queue(channel)
        tasks = [asyncio.create_task(answer(channel.publish([post(name, b"%d" % number)]))) for number in range(500)]
        await asyncio.sleep(0)
        for task in tasks[::5]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        confirmed = [result for result in results if not isinstance(result, BaseException)]
        assert len(confirmed) == 400
        assert all(outcomes[0].confirmed for outcomes in confirmed)
        assert await answer(channel.purge_queue(name)) == 500
        await answer(connection.close())

    run(scenario())


def test_call_soon_comes_from_any_thread(broker_url: str) -> None:
    """Another thread wakes a flow on the loop."""

    async def scenario() -> object:
        connection = await connect(broker_url)
        mine = connection.pending()
        threading.Thread(target=connection.call_soon, args=(lambda: mine.set_result("woken"),)).start()
        result = await answer(mine)
        await answer(connection.close())
        return result

    assert run(scenario()) == "woken"


# ------------------------------------------------------------------------------------------------------- a bad network


def proxied(broker_url: str, body: Callable[[Proxy, str], Coroutine[Any, Any, Any]], piece_bytes: int = 65536) -> Any:
    """Run a scenario through a proxy."""
    address = url.parse(broker_url)
    with Proxy(address.host, address.port, piece_bytes=piece_bytes) as proxy:
        return run(body(proxy, through(proxy, broker_url)))


@pytest.mark.parametrize("piece_bytes", [1, 7])
def test_frames_split_anywhere_still_parse(broker_url: str, piece_bytes: int) -> None:
    """The handshake, answers and deliveries arrive byte by byte."""

    async def body(_: Proxy, broker: str) -> None:
        connection = await connect(broker)
        channel = connection.channel()
        name = await queue(channel)
        texts = [b"", b"a", bytes(range(256)) * 4]
        got: list[bytes] = []
        await answer(channel.consume(name, lambda delivery: got.append(delivery.body), no_ack=True))
        await answer(channel.publish([post(name, text) for text in texts]))
        while len(got) < len(texts):
            await answer(channel.declare_queue(QueueSpec(name), passive=True))
        assert got == texts
        await answer(connection.close())

    proxied(broker_url, body, piece_bytes)


def test_a_cut_while_connecting_is_told(broker_url: str) -> None:
    """A peer that takes the connection and hangs up is no broker that is up."""

    async def body(proxy: Proxy, broker: str) -> None:
        proxy.refuse()
        with pytest.raises(BrokerUnreachable, match="closed it at once"):
            await connect(broker)

    proxied(broker_url, body)


def test_publications_wait_while_the_network_is_stalled(broker_url: str) -> None:
    """The buffer stays bounded, what waits keeps its order, and all is confirmed in the end."""

    async def body(proxy: Proxy, broker: str) -> None:
        connection = await connect(broker)
        assert isinstance(connection, aio.Connection)
        channel = connection.channel()
        name = await queue(channel)
        proxy.stall()
        big = bytes(1024 * 1024)
        pendings = [channel.publish([post(name, b"%04d" % number + big)]) for number in range(64)]
        behind = channel.declare_queue(QueueSpec(name), passive=True)
        await asyncio.sleep(0)
        assert connection.waiting > 32
        proxy.resume()
        for pending in pendings:
            assert (await answer(pending))[0].fate is Fate.CONFIRMED
        await answer(behind)
        assert connection.waiting == 0
        order = [(await answer(channel.get(name, no_ack=True))).body[:4] for _ in pendings]
        assert order == [b"%04d" % number for number in range(64)]
        await answer(connection.close())

    proxied(broker_url, body)


def test_a_goodbye_that_is_not_answered_ends_in_time(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing over a dead network does not wait for ever, and everything under way is answered."""
    monkeypatch.setattr(aio, "GOODBYE_SECONDS", 0.2)

    async def body(proxy: Proxy, broker: str) -> None:
        connection = await connect(broker)
        channel = connection.channel()
        name = await queue(channel)
        proxy.stall()
        published = channel.publish([post(name)])
        await answer(connection.close())
        assert (await answer(published))[0].fate is Fate.UNKNOWN
        assert await answer(connection.closed) is None

    proxied(broker_url, body)


@pytest.mark.slow
def test_a_silent_network_is_noticed_by_heartbeats(broker_url: str) -> None:
    """A connection over which nothing comes any more is lost, and says so."""

    async def body(proxy: Proxy, broker: str) -> None:
        connection = await connect(broker, heartbeat_seconds=1)
        channel = connection.channel()
        await queue(channel)
        proxy.stall()
        reason = await answer(connection.closed)
        assert isinstance(reason, ConnectionLost)
        assert "heartbeats" in str(reason)
        proxy.resume()

    proxied(broker_url, body)


def test_a_link_heals(broker_url: str) -> None:
    """After a cut the link finds the broker again; after a refusal it goes on looking."""

    async def body(proxy: Proxy, broker: str) -> None:
        link = AsyncLink([url.parse(broker)], aio.connect, name="aio link")
        first = await link.connection(DEADLINE_SECONDS)
        proxy.refuse()
        proxy.cut()
        await answer(first.closed)
        search = asyncio.create_task(link.connection(DEADLINE_SECONDS))
        await asyncio.sleep(0.2)
        assert not search.done()
        proxy.refuse(refusing=False)
        second = await search
        assert second is not first
        channel = await link.channel(DEADLINE_SECONDS)
        assert (await answer(channel.publish([post(await queue(channel))])))[0].confirmed
        await link.close()

    proxied(broker_url, body)


# ------------------------------------------------------------------------------------------------------ a broker in need


def test_a_broker_that_blocks_publishers_says_why(private_vhost_url: str, rabbitmqctl: Callable[..., str]) -> None:
    """Under a memory alarm `blocked` has the reason, the publication waits, and is confirmed when the alarm ends."""

    async def scenario() -> None:
        connection = await connect(private_vhost_url)
        channel = connection.channel()
        name = await queue(channel)
        await asyncio.to_thread(rabbitmqctl, "set_vm_memory_high_watermark", "0")
        published = channel.publish([post(name)])
        await until(lambda: connection.blocked is not None)
        assert "memory" in str(connection.blocked)
        with pytest.raises(OperationTimeout):
            await answer(published, 0.1)
        await asyncio.to_thread(rabbitmqctl, "set_vm_memory_high_watermark", "0.4")
        assert (await answer(published))[0].confirmed
        await until(lambda: connection.blocked is None)
        await answer(connection.close())

    run(scenario())


def test_the_brokers_last_words_are_in_the_error(private_vhost_url: str, rabbitmqctl: Callable[..., str]) -> None:
    """A connection that an operator closes ends with the operator's reason."""

    async def scenario() -> None:
        connection = await connect(private_vhost_url)
        await queue(connection.channel())
        await asyncio.to_thread(rabbitmqctl, "close_all_connections", "--global", "for a good reason")
        reason = await answer(connection.closed)
        assert isinstance(reason, ConnectionLost)
        assert "for a good reason" in str(reason)

    run(scenario())
