"""The blocking transport against a real broker and against a bad network."""

from __future__ import annotations

import os
import queue
import signal
import socket
import ssl
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from amqpq import errors
from amqpq.testing.proxy import Proxy, open_gate
from amqpq.transport import blocking, reactor
from amqpq.transport.blocking import BlockingConnection
from amqpq.transport.interface import Channel
from amqpq.transport.management_node import Answer, ManagementNode, queue_path
from amqpq.transport.url import Address, Tls, parse
from amqpq.types import Delivery, Fate, Outcome, Properties, Publication, QueueSpec

DEADLINE_SECONDS = 20.0


class Server(Protocol):
    """The fixture `broker_server`."""

    def request(self, method: str, path: str, body: object = None) -> object:
        """Call the management API."""


class RunningNode(Protocol):
    """The fixture `private_node`."""

    url: str

    def start(self) -> object:
        """Start it."""

    def stop(self) -> object:
        """Stop it."""


def wait(pending: Future[Any]) -> Any:
    """Wait for an answer."""
    return pending.result(DEADLINE_SECONDS)


def open_at(address: Address, *, heartbeat_seconds: int = 30, name: str = "") -> BlockingConnection:
    """Open a connection."""
    return blocking.connect(address, heartbeat_seconds=heartbeat_seconds, timeout_seconds=10, name=name)


@pytest.fixture
def address(vhost_url: str) -> Address:
    """The address of a fresh virtual host."""
    return parse(vhost_url)


@pytest.fixture
def connection(address: Address) -> Iterator[BlockingConnection]:
    """An open connection; closed at the end."""
    connection = open_at(address)
    yield connection
    wait(connection.close())


def to_queue(name: str, *bodies: bytes) -> list[Publication]:
    """Persistent messages straight to a queue."""
    return [Publication("", name, body, Properties(delivery_mode=2)) for body in bodies]


def fates(outcomes: list[Outcome]) -> list[Fate]:
    """The fates alone."""
    return [outcome.fate for outcome in outcomes]


# ------------------------------------------------------------------------------------------------ doors that stay shut


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on a free port of this machine that treats every connection with `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # closed: the end of the test
                    return
                with client:
                    client.settimeout(DEADLINE_SECONDS)
                    try:
                        answer(client)
                    except OSError:  # the other side left, or TLS failed, which is the point
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def speak(words: bytes) -> Callable[[socket.socket], None]:
    """Answer the first bytes with these, and hang up."""

    def answer(client: socket.socket) -> None:
        client.recv(64)
        client.sendall(words)

    return answer


def test_a_wrong_password_is_told(address: Address) -> None:
    """The user is named, the password is not."""
    with pytest.raises(errors.AuthenticationRefused, match="refused the user 'guest' or the password") as caught:
        open_at(replace(address, password="open-sesame"))
    assert "open-sesame" not in str(caught.value)
    assert address.place in str(caught.value)


def test_a_missing_virtual_host_is_told(address: Address) -> None:
    """The command that creates it stands in the message."""
    with pytest.raises(errors.AccessRefused, match="vhost nowhere not found; create it with: rabbitmqctl add_vhost"):
        open_at(replace(address, vhost="nowhere"))


def test_a_virtual_host_without_permission_is_told(address: Address, user: Address) -> None:
    """A user without any permission there is told who grants it."""
    assert user.vhost == address.vhost
    with pytest.raises(errors.AccessRefused, match="grant access with: rabbitmqctl set_permissions -p"):
        open_at(user)


def test_a_port_without_a_listener_is_told() -> None:
    """Nobody there: host and port are named."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(errors.BrokerUnreachable, match=rf"nothing listens at 127\.0\.0\.1:{port}"):
        open_at(Address("127.0.0.1", port))


def test_tls_to_a_plain_port_is_told(address: Address) -> None:
    """amqps:// to RabbitMQ's plain port names the mistake and the remedy, and is not retried."""
    with pytest.raises(errors.TlsMismatch, match="does not speak TLS, and the URL says amqps://; write amqp://"):
        open_at(replace(address, tls=Tls()))


def test_plain_to_a_tls_port_is_told() -> None:
    """amqp:// to a TLS port: the alert of the broker's TLS library (recorded from Erlang's) is recognised."""
    alert = b"\x15\x03\x03\x00\x02\x02\n"
    with listener(speak(alert)) as port, pytest.raises(errors.TlsMismatch, match=r"speaks TLS.*write amqps://"):
        open_at(Address("127.0.0.1", port))


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (b"AMQP\x00\x01\x00\x00", errors.TransportError, "does not speak AMQP 0-9-1, it offers 1.0.0"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            errors.TransportError,
            "is not an AMQP broker: it answered b'HTTP/1.1 400",
        ),
        (b"", errors.BrokerUnreachable, "took the connection and closed it at once: the broker is starting"),
        (b"\x01\x00\x00\x00\x00", errors.BrokerUnreachable, "took the connection and closed it"),
    ],
)
def test_who_is_no_broker_is_told(words: bytes, kind: type[Exception], message: str) -> None:
    """Another protocol, another version, and a proxy without a broker behind it have their own sentences."""
    with listener(speak(words)) as port, pytest.raises(kind, match=message):
        open_at(Address("127.0.0.1", port))


def test_a_server_that_says_nothing_is_left_in_time() -> None:
    """The time to connect is for the whole handshake, and the URL's own limit wins."""

    def listen(client: socket.socket) -> None:
        while client.recv(64):
            pass

    with listener(listen) as port:
        begin = time.monotonic()
        with pytest.raises(errors.BrokerUnreachable, match="did not answer in time"):
            open_at(Address("127.0.0.1", port, connection_timeout_seconds=0.2))
        assert time.monotonic() - begin < DEADLINE_SECONDS / 2


# --------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `localhost`, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls_port(address: Address, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS and hands on to the broker."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def hand_on(client: socket.socket) -> None:
        client.settimeout(None)
        with (
            context.wrap_socket(client, server_side=True) as inside,
            socket.create_connection((address.host, address.port)) as outside,
        ):
            back = threading.Thread(target=pump, args=(outside, inside), daemon=True)
            back.start()
            pump(inside, outside)
            back.join(DEADLINE_SECONDS)

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # one side is gone, and so is the talk
            return

    with listener(hand_on) as port:
        yield port


def test_messages_travel_over_tls(address: Address, tls_port: int, certificate: Path) -> None:
    """Verified TLS carries the handshake, large bodies both ways, and many small ones."""
    through = replace(address, host="localhost", port=tls_port, tls=Tls(ca=str(certificate)))
    connection = open_at(through)
    channel = connection.channel()
    got: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    wait(channel.declare_queue(QueueSpec("q")))
    wait(channel.consume("q", lambda delivery: (got.put(delivery.body), channel.ack(delivery.tag))))
    bodies = [os.urandom(3_000_000), b"", *[b"%d" % number for number in range(2000)], os.urandom(1_000_000)]
    outcomes = wait(channel.publish(to_queue("q", *bodies)))
    assert set(fates(outcomes)) == {Fate.CONFIRMED}
    assert [got.get(timeout=DEADLINE_SECONDS) for _ in bodies] == bodies
    wait(connection.close())


def test_a_certificate_of_an_unknown_authority_is_refused(address: Address, tls_port: int) -> None:
    """Verification is on by default, and the message says how to name the authority."""
    with pytest.raises(errors.TlsMismatch, match=r"certificate of localhost:\d+ is not accepted: .*broker\.tls\.ca"):
        open_at(replace(address, host="localhost", port=tls_port, tls=Tls()))


def test_the_management_node_is_asked_over_tls(address: Address, tls_port: int, certificate: Path) -> None:
    """With the same options; a certificate of an unknown authority is refused there, too."""
    through = replace(address, host="localhost", port=tls_port, tls=Tls(ca=str(certificate)))
    with pytest.raises(errors.TlsMismatch, match=r"certificate of localhost:\d+ is not accepted"):
        ManagementNode(replace(through, tls=Tls()), timeout_seconds=DEADLINE_SECONDS)
    opened = open_at(address)
    version = opened.server.version_tuple
    wait(opened.close())
    if version < (4, 0, 0):
        pytest.skip("AMQP 1.0 management came with RabbitMQ 4.0")
    with ManagementNode(through, timeout_seconds=DEADLINE_SECONDS) as node:
        statuses = [each.status for each in node.ask([queue_path("missing")] * 20) if isinstance(each, Answer)]
    assert statuses == [404] * 20


def test_a_tls_file_that_is_not_there_is_told_before_connecting() -> None:
    """A missing authority file is a mistake in the configuration, not a broker that does not answer."""
    with pytest.raises(
        errors.ConfigurationError, match=r"TLS files cannot be used \(/nowhere/ca\.pem\): .*No such file"
    ):
        open_at(Address("127.0.0.1", 1, tls=Tls(ca="/nowhere/ca.pem")))


def test_a_certificate_for_another_name_is_refused(address: Address, tls_port: int, certificate: Path) -> None:
    """The name is checked: a certificate for localhost does not make 127.0.0.1 trustworthy; `server_name` can."""
    by_number = replace(address, host="127.0.0.1", port=tls_port, tls=Tls(ca=str(certificate)))
    with pytest.raises(errors.TlsMismatch, match="is not accepted"):
        open_at(by_number)
    wait(open_at(replace(by_number, tls=Tls(ca=str(certificate), server_name="localhost"))).close())


# ----------------------------------------------------------------------------------------------------- one connection


def test_the_broker_knows_who_is_there(address: Address, broker_server: Server) -> None:
    """Name, product and capabilities of the client stand in the broker's list; ours of the broker are filled."""
    name = f"who-{uuid.uuid4().hex[:8]}"
    with closing_connection(open_at(address, name=name)) as connection:
        seen = seen_by_broker(broker_server, name)
        assert seen["client_properties"]["product"] == "amqpq"
        assert seen["client_properties"]["capabilities"]["connection.blocked"] is True
        assert connection.server.product == "RabbitMQ"
        assert connection.server.version_tuple >= (3, 10, 0)
        assert connection.server.capabilities["publisher_confirms"] is True
        assert connection.server.heartbeat_seconds == 30


@contextmanager
def closing_connection(connection: BlockingConnection) -> Iterator[BlockingConnection]:
    """Close it at the end."""
    try:
        yield connection
    finally:
        wait(connection.close())


def seen_by_broker(server: Server, name: str) -> Any:
    """The broker's entry for the connection of this name; its list lags a little."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        for entry in server.request("GET", "connections"):  # type: ignore[attr-defined] # a list of dicts
            if (
                entry.get("user_provided_name") == name
                or entry.get("client_properties", {}).get("connection_name") == name
            ):
                return entry
        time.sleep(0.05)  # nothing signals a change in the broker's list
    raise AssertionError("the broker does not list the connection")


def test_a_connection_closed_by_an_administrator_says_so(address: Address, broker_server: Server) -> None:
    """The administrator's words are the reason of the end, and every pending has it."""
    name = f"victim-{uuid.uuid4().hex[:8]}"
    connection = open_at(address, name=name)
    channel = connection.channel()
    wait(channel.declare_queue(QueueSpec("q")))
    heard: list[object] = []
    wait(channel.consume("q", heard.append, on_cancel=heard.append))
    broker_server.request("DELETE", f"connections/{quote(seen_by_broker(broker_server, name)['name'], safe='')}")
    reason = wait(connection.closed)
    assert isinstance(reason, errors.ConnectionLost)
    assert "CONNECTION_FORCED" in str(reason)
    assert str(wait(channel.closed)) == str(reason)
    assert heard == []


@pytest.fixture
def user(address: Address, broker_server: Server) -> Iterator[Address]:
    """A user without permissions, deleted at the end."""
    name = f"stranger-{uuid.uuid4().hex[:8]}"
    broker_server.request("PUT", f"users/{name}", {"password": "pw", "tags": ""})
    yield replace(address, user=name, password="pw")
    broker_server.request("DELETE", f"users/{name}")


def test_a_missing_permission_is_told_with_the_words_of_the_broker(user: Address, broker_server: Server) -> None:
    """Declaring fails with AccessRefused, publishing is NACKED: the broker refused it; the connection lives on."""
    broker_server.request(
        "PUT", f"permissions/{user.vhost}/{user.user}", {"configure": "^mine$", "write": "^mine$", "read": "^mine$"}
    )
    with closing_connection(open_at(user)) as connection:
        with pytest.raises(errors.AccessRefused, match=r"access to queue 'theirs'.*rabbitmqctl set_permissions"):
            wait(connection.channel().declare_queue(QueueSpec("theirs")))
        channel = connection.channel()
        (outcome,) = wait(channel.publish([Publication("amq.topic", "x", b"", Properties())]))
        assert outcome.fate is Fate.NACKED
        assert "access to exchange 'amq.topic'" in outcome.reason
        assert isinstance(wait(channel.closed), errors.AccessRefused)
        wait(connection.channel().declare_queue(QueueSpec("mine")))


def test_a_full_queue_refuses_and_the_others_are_confirmed(connection: BlockingConnection) -> None:
    """reject-publish on a full queue: NACKED for what did not fit, among confirmed ones for another queue."""
    channel = connection.channel()
    wait(channel.declare_queue(QueueSpec("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})))
    wait(channel.declare_queue(QueueSpec("free")))
    wait(channel.publish(to_queue("full", b"1")))
    outcomes = wait(channel.publish([*to_queue("free", b"a"), *to_queue("full", b"2"), *to_queue("free", b"b")]))
    assert fates(outcomes) == [Fate.CONFIRMED, Fate.NACKED, Fate.CONFIRMED]


def test_of_many_only_the_unroutable_come_back(connection: BlockingConnection) -> None:
    """Among three thousand publications, persistent and not, exactly those without a queue are RETURNED."""
    channel = connection.channel()
    wait(channel.declare_queue(QueueSpec("q")))
    publications = [
        Publication("", "nowhere" if number % 3 == 0 else "q", b"same body", Properties(delivery_mode=1 + number % 2))
        for number in range(3000)
    ]
    outcomes = wait(channel.publish(publications))
    assert fates(outcomes) == [Fate.RETURNED if number % 3 == 0 else Fate.CONFIRMED for number in range(3000)]
    assert outcomes[0].reason == "312 NO_ROUTE"


def test_a_message_larger_than_a_frame_travels_whole(connection: BlockingConnection) -> None:
    """Bodies around the frame size, and of several megabytes, arrive as they were sent."""
    channel = connection.channel()
    wait(channel.declare_queue(QueueSpec("q")))
    piece = connection.server.frame_max - 8
    bodies = [os.urandom(size) for size in (piece - 1, piece, piece + 1, 2 * piece, 5_000_000)]
    wait(channel.publish(to_queue("q", *bodies)))
    assert [wait(channel.get("q", no_ack=True)).body for _ in bodies] == bodies


def test_channel_numbers_do_not_run_out(connection: BlockingConnection) -> None:
    """More channels than a connection may have, one after the other: closed ones and those the broker closed are reused."""
    for round_number in range(30):
        channels = [connection.channel() for _ in range(80)]
        for number, channel in enumerate(channels):
            if number % 2:
                channel.close()
            else:
                channel.get("no such queue")
        for channel in channels:
            wait(channel.closed)
        assert max(channel.number for channel in channels) <= 160, round_number


def test_eight_threads_share_one_channel(connection: BlockingConnection) -> None:
    """Eight threads publish 500 messages each on one channel: all confirmed, none twice, each thread's in its order."""
    channel = connection.channel()
    wait(channel.declare_queue(QueueSpec("q")))

    def publish(thread: int) -> list[Outcome]:
        pendings = [channel.publish(to_queue("q", b"%d %d" % (thread, number))) for number in range(500)]
        return [wait(pending)[0] for pending in pendings]

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(publish, range(8)))
    assert all(outcome.confirmed for of_thread in outcomes for outcome in of_thread)
    got: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    wait(channel.consume("q", got.put, prefetch=200))
    by_thread: defaultdict[int, list[int]] = defaultdict(list)
    for _ in range(4000):
        delivery = got.get(timeout=DEADLINE_SECONDS)
        channel.ack(delivery.tag)
        thread, number = map(int, delivery.body.split())
        by_thread[thread].append(number)
    assert dict(by_thread) == {thread: list(range(500)) for thread in range(8)}


def test_prefetch_bounds_what_is_under_way(connection: BlockingConnection) -> None:
    """With a prefetch of 5 the sixth delivery comes after an ack."""
    channel = connection.channel()
    wait(channel.declare_queue(QueueSpec("q")))
    wait(channel.publish(to_queue("q", *[b"%d" % number for number in range(8)])))
    got: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    wait(channel.consume("q", got.put, prefetch=5))
    first = [got.get(timeout=DEADLINE_SECONDS) for _ in range(5)]
    wait(connection.channel().declare_queue(QueueSpec("q"), passive=True))
    assert got.empty()
    channel.ack(first[-1].tag, multiple=True)
    assert [got.get(timeout=DEADLINE_SECONDS).body for _ in range(3)] == [b"5", b"6", b"7"]


# ------------------------------------------------------------------------------------------------------- a bad network


class CuttingProxy(Proxy):
    """Lets so many bytes pass, counted in both directions or in one, and then breaks the connection."""

    def __init__(self, host: str, port: int) -> None:
        self.left = 1 << 40
        self.passed = 0
        self.towards_client = True
        super().__init__(
            host,
            port,
            gates=lambda: (open_gate, self._count) if self.towards_client else (self._count, open_gate),
        )

    def _count(self, data: bytes, /) -> tuple[bytes, bool]:
        passing = data[: self.left]
        self.passed += len(data)
        self.left -= len(data)
        return passing, self.left <= 0


def converse(address: Address) -> tuple[int, bool]:
    """A small conversation; every pending must be answered, and every failure must be one of ours.

    Returns:
        How many steps were answered, and whether the goodbye came through.
    """
    try:
        connection = open_at(address)
        channel = connection.channel()
    except errors.TransportError:
        return 0, False
    got: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    name = f"q-{uuid.uuid4().hex}"
    pendings: list[Future[Any]] = [
        channel.declare_queue(QueueSpec(name, durable=False, exclusive=True)),
        channel.publish(to_queue(name, b"one", b"two")),
        channel.publish(to_queue("nowhere", b"back")),
        channel.get(name, no_ack=True),
        channel.consume(name, got.put, no_ack=True),
        channel.publish(to_queue("nowhere", b"again")),
    ]
    answered = 0
    for pending in pendings:
        with suppress(errors.ConnectionLost):
            wait(pending)
        answered += 1
    wait(connection.close())
    return answered, wait(connection.closed) is None


@pytest.mark.parametrize("towards_client", [True, False])
def test_a_cut_at_any_byte_leaves_nothing_waiting(address: Address, towards_client: bool) -> None:
    """Wherever in a conversation the network breaks, each pending is answered, and with our errors only."""
    with CuttingProxy(address.host, address.port) as proxy:
        proxy.towards_client = towards_client
        through = replace(address, host=proxy.host, port=proxy.port)
        assert converse(through) == (6, True)
        total = proxy.passed
        assert 300 < total < 3000
        results = []
        for count in range(1, total):
            proxy.left = count
            results.append(converse(through))
    assert {answered for answered, _ in results} == {0, 6}


def test_frames_that_come_byte_by_byte_are_put_together(address: Address) -> None:
    """A network that delivers single bytes changes nothing but the time it takes."""
    with Proxy(address.host, address.port, piece_bytes=1) as proxy:
        assert converse(replace(address, host=proxy.host, port=proxy.port)) == (6, True)


def test_a_silent_network_is_noticed_by_missing_heartbeats(address: Address) -> None:
    """A half-open socket, with no byte and no error, ends the connection after two intervals of one second."""
    with Proxy(address.host, address.port) as proxy:
        connection = open_at(replace(address, host=proxy.host, port=proxy.port), heartbeat_seconds=1)
        assert connection.server.heartbeat_seconds == 1
        proxy.stall()
        reason = wait(connection.closed)
        assert "nothing was heard from the broker" in str(reason)


def test_heartbeats_keep_an_idle_connection(address: Address) -> None:
    """Three idle intervals of one second later the connection still answers; the broker would have closed it otherwise."""
    with closing_connection(open_at(address, heartbeat_seconds=1)) as connection:
        with pytest.raises(TimeoutError):
            connection.closed.result(3.5)
        wait(connection.channel().declare_queue(QueueSpec("q")))


def test_closing_into_a_silent_network_ends_in_time(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """A goodbye that nobody answers is not waited for for ever."""
    monkeypatch.setattr(blocking, "GOODBYE_SECONDS", 0.2)
    with Proxy(address.host, address.port) as proxy:
        connection = open_at(replace(address, host=proxy.host, port=proxy.port))
        proxy.stall()
        assert wait(connection.close()) is None
        assert wait(connection.closed) is None


def test_a_network_that_takes_nothing_refuses_publishers_in_time(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the buffer full and nothing moving, publishing fails with Blocked; after the jam what was sent is confirmed."""
    monkeypatch.setattr(reactor, "BUFFER_LIMIT_BYTES", 1_000_000)
    monkeypatch.setattr(reactor, "STALL_SECONDS", 0.2)
    with Proxy(address.host, address.port) as proxy:
        connection = open_at(replace(address, host=proxy.host, port=proxy.port))
        channel = connection.channel()
        wait(channel.declare_queue(QueueSpec("q")))
        proxy.stall()
        accepted: list[Future[list[Outcome]]] = []
        body = b"x" * 300_000
        while True:
            pending = channel.publish(to_queue("q", body))
            if pending.done():
                break
            accepted.append(pending)
            assert len(accepted) < 500
        with pytest.raises(errors.Blocked, match="takes nothing more at the moment; nothing was sent"):
            wait(pending)
        proxy.resume()
        assert {outcome.fate for pending in accepted for outcome in wait(pending)} == {Fate.CONFIRMED}
        wait(connection.close())


# ------------------------------------------------------------------------------------------------------------- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("tls", [False, True])
def test_a_forked_child_cannot_use_and_cannot_harm_the_connection(
    address: Address, tls_port: int, certificate: Path, tls: bool
) -> None:
    """In the child every verb fails with ConnectionLost; the parent's connection goes on as if nothing had happened."""
    if tls:
        address = replace(address, host="localhost", port=tls_port, tls=Tls(ca=str(certificate)))
    with closing_connection(open_at(address)) as connection:
        channel = connection.channel()
        wait(channel.declare_queue(QueueSpec("q")))
        child = os.fork()
        if child == 0:
            os._exit(in_child(connection, channel))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        (outcome,) = wait(channel.publish(to_queue("q", b"still here")))
        assert outcome.confirmed


def in_child(connection: BlockingConnection, channel: Channel) -> int:
    """What a child may see of its parent's connection; 0 where all is well."""
    signal.alarm(int(DEADLINE_SECONDS))  # a deadlock here must not hang the tests
    refused = 0
    for verb in (
        lambda: channel.publish(to_queue("q", b"from the child")).result(),
        lambda: channel.declare_queue(QueueSpec("q")).result(),
        connection.channel,
    ):
        try:
            verb()
        except errors.ConnectionLost as error:
            refused += "forked" in str(error)
    channel.ack(1)
    return 0 if refused == 3 else refused + 1


# ------------------------------------------------------------------------------------------- brokers that may be broken


@pytest.mark.slow
def test_a_memory_alarm_is_seen_and_survived(
    private_vhost_url: str, rabbitmqctl: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a memory alarm `blocked` says why, publications wait, a full buffer refuses; afterwards all are confirmed."""
    monkeypatch.setattr(reactor, "BUFFER_LIMIT_BYTES", 1_000_000)
    monkeypatch.setattr(reactor, "STALL_SECONDS", 0.5)
    with closing_connection(open_at(parse(private_vhost_url), heartbeat_seconds=1)) as connection:
        channel = connection.channel()
        wait(channel.declare_queue(QueueSpec("q")))
        rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            accepted: list[Future[list[Outcome]]] = []
            deadline = time.monotonic() + DEADLINE_SECONDS
            refused: BaseException | None = None
            while refused is None and time.monotonic() < deadline:
                pending = channel.publish(to_queue("q", b"x" * 200_000))
                if pending.done() and pending.exception() is not None:
                    refused = pending.exception()
                else:
                    accepted.append(pending)
            assert isinstance(refused, errors.Blocked)
            assert connection.blocked is not None
            assert not connection.closed.done()
            with pytest.raises(TimeoutError):
                connection.closed.result(3)  # several heartbeats long: being blocked is not being dead
        finally:
            rabbitmqctl("set_vm_memory_high_watermark", "0.4")
        assert {outcome.fate for pending in accepted for outcome in wait(pending)} == {Fate.CONFIRMED}
        assert connection.blocked is None


@pytest.mark.slow
def test_a_broker_that_stops_says_goodbye(private_node: RunningNode) -> None:
    """An orderly stop of the broker is CONNECTION_FORCED, not a torn socket, and every pending has the words."""
    connection = open_at(parse(private_node.url))
    channel = connection.channel()
    name = f"stop-{uuid.uuid4().hex}"
    wait(channel.declare_queue(QueueSpec(name, durable=False, exclusive=True)))
    wait(channel.consume(name, lambda _: None))
    private_node.stop()
    try:
        reason = wait(connection.closed)
        assert isinstance(reason, errors.ConnectionLost)
        assert "CONNECTION_FORCED" in str(reason)
        with pytest.raises(errors.ConnectionLost):
            wait(channel.get(name))
    finally:
        private_node.start()
