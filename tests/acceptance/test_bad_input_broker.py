"""Bad input, the broker: down, refusing, speaking TLS, or holding something else than the file says."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from amqpq import App, AsyncApp, errors
from amqpq.testing.proxy import Proxy
from tests.support.commands import amqpq, worker

pytestmark = pytest.mark.acceptance

TOPOLOGY = """\
amqpq: 1
project: shop
security: {signing: off}
exchanges:
  web: {type: topic}
queues:
  default: {}
bindings:
  - web[web.#] -> default
routes:
  "web.*": {exchange: web, key: "web.{task}"}
  "*": {queue: default}
"""

OTHERWISE = """\
amqpq: 1
project: shop
security: {signing: off}
exchanges:
  web: {type: direct}
queues:
  default: {max_priority: 10, dead_letter: none, ttl: 30s}
  new: {}
bindings:
  - web[web.x] -> default
  - web[web.y] -> new
routes:
  "*": {queue: default}
"""

TASKS = 'from amqpq import App\n\napp = App("topology.yaml")\n\n\n@app.task\ndef add(x: int, y: int) -> int:\n    return x + y\n'


class Server(Protocol):
    """The part of the broker under test that these tests use."""

    url: str

    def request(self, method: str, path: str, body: object = None) -> object:
        """Call the management API."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project: topology and tasks."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def _as(url: str, *, user: str | None = None, password: str | None = None, port: int | None = None) -> str:
    """The same URL with another user, password or port."""
    parts = urlsplit(url)
    netloc = f"{user or parts.username}:{password or parts.password}@{parts.hostname}:{port or parts.port}"
    return parts._replace(netloc=netloc).geturl()


@pytest.fixture
def nowhere(vhost_url: str) -> Iterator[str]:
    """The URL of a port that is taken, and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield _as(vhost_url, port=taken.getsockname()[1])


# ---------------------------------------------------------------------------------------------------------------- down


@pytest.mark.parametrize(
    "command",
    [
        ("topology", "apply", "--timeout", "1"),
        ("call", "tasks.add", "2", "3", "--publish-timeout", "1"),
        ("send", "tasks.add", "2", "3", "--publish-timeout", "1"),
        ("result", "0f2c", "--timeout", "1"),
    ],
    ids=lambda command: command[0],
)
def test_a_broker_that_is_down_is_said_with_its_address(folder: Path, nowhere: str, command: tuple[str, ...]) -> None:
    """Every command says where it looked, for how long, and what to check; none waits for ever."""
    said = amqpq(folder, *command, broker=nowhere).refused()
    address = urlsplit(nowhere)
    assert re.search(r"no broker answered within \S+ s: ", said)
    assert f"nothing listens at {address.hostname}:{address.port} (connection refused); is the broker running?" in said


def test_several_brokers_that_are_down_are_all_listed(folder: Path, nowhere: str) -> None:
    """With several addresses each one is listed with its own reason."""
    other = nowhere.replace(urlsplit(nowhere).hostname or "", "no-such-host.invalid")
    said = amqpq(folder, "topology", "apply", "--timeout", "3", broker=f"{nowhere} {other}").refused()
    assert "at any of 2 addresses:" in said
    assert "connection refused" in said
    assert "the host name 'no-such-host.invalid' cannot be resolved" in said


def test_python_gets_a_typed_error_for_a_broker_that_is_down(folder: Path, nowhere: str) -> None:
    """`send_task` raises `BrokerUnreachable` at its deadline, blocking and asyncio alike."""
    environ = {"AMQPQ_BROKER_URL": nowhere}
    with App(folder / "topology.yaml", environ=environ) as app, pytest.raises(errors.BrokerUnreachable) as blocking:
        app.send_task("tasks.add", [2, 3], timeout=1)

    async def scenario() -> None:
        async with AsyncApp(folder / "topology.yaml", environ=environ) as app:
            await app.send_task("tasks.add", [2, 3], timeout=1)

    with pytest.raises(errors.BrokerUnreachable) as awaited:
        asyncio.run(scenario())
    for caught in (blocking, awaited):
        assert "is the broker running?" in str(caught.value)
        assert caught.value.recoverable


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("command", [("topology", "apply"), ("call", "tasks.add", "2", "3"), ("worker", "-A", "tasks")])
def test_a_refused_password_is_said_at_once(folder: Path, vhost_url: str, command: tuple[str, ...]) -> None:
    """A wrong password is not tried again; the message names the user and never the password."""
    said = amqpq(folder, *command, broker=_as(vhost_url, password="hunter2")).refused()
    address = urlsplit(vhost_url)
    assert (
        f"the broker at {address.hostname}:{address.port} refused the user '{address.username}' or the password" in said
    )
    assert "percent-encode special characters" in said
    assert "hunter2" not in said


def test_a_refused_password_is_a_typed_error_in_python(folder: Path, vhost_url: str) -> None:
    """`AuthenticationRefused`, which trying again does not mend; blocking and asyncio alike."""
    environ = {"AMQPQ_BROKER_URL": _as(vhost_url, password="hunter2")}
    with App(folder / "topology.yaml", environ=environ) as app, pytest.raises(errors.AuthenticationRefused) as blocking:
        app.send_task("tasks.add", [2, 3])

    async def scenario() -> None:
        async with AsyncApp(folder / "topology.yaml", environ=environ) as app:
            await app.send_task("tasks.add", [2, 3])

    with pytest.raises(errors.AuthenticationRefused) as awaited:
        asyncio.run(scenario())
    assert str(blocking.value) == str(awaited.value)
    assert not blocking.value.recoverable


def test_a_virtual_host_that_does_not_exist_is_said(folder: Path, vhost_url: str) -> None:
    """The vhost is named, with the command that makes it."""
    missing = urlsplit(vhost_url)._replace(path="/no-such-vhost").geturl()
    said = amqpq(folder, "topology", "apply", broker=missing).refused()
    assert "into the virtual host 'no-such-vhost'" in said
    assert "rabbitmqctl add_vhost no-such-vhost" in said


# --------------------------------------------------------------------------------------------------------- permissions


@pytest.fixture
def limited(broker_server: Server, vhost_url: str) -> Iterator[Callable[..., str]]:
    """Makes a user with these permissions in the vhost of the test; returns the URL to be that user."""
    made: list[str] = []
    vhost = urlsplit(vhost_url).path[1:]

    def make(**permissions: str) -> str:
        name = f"amqpq-test-{uuid.uuid4().hex[:12]}"
        made.append(name)
        broker_server.request("PUT", f"users/{name}", {"password": "sesame", "tags": ""})
        if permissions:
            broker_server.request(
                "PUT", f"permissions/{vhost}/{name}", {"configure": "^$", "write": "^$", "read": "^$", **permissions}
            )
        return _as(vhost_url, user=name, password="sesame")

    yield make
    for name in made:
        broker_server.request("DELETE", f"users/{name}")


def test_a_user_without_access_to_the_vhost_is_told_which_command_grants_it(
    folder: Path, limited: Callable[..., str]
) -> None:
    """The message names user, vhost and the command of the broker's administrator."""
    url = limited()
    said = amqpq(folder, "topology", "apply", broker=url).refused()
    user, vhost = urlsplit(url).username, urlsplit(url).path[1:]
    assert f"does not let '{user}' into the virtual host '{vhost}'" in said
    assert f"rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'" in said


def test_apply_without_permission_names_each_object(folder: Path, limited: Callable[..., str]) -> None:
    """Without `configure` each object says that the user lacks it, and apply ends with an error."""
    said = amqpq(folder, "topology", "apply", broker=limited(read=".*", write=".*"))
    lines = said.refused().splitlines()
    for name in ("web", "default", "shop.dead"):
        assert any(f"'{name}'" in line and "ACCESS_REFUSED" in line for line in lines), said.err
    assert "the user needs configure permission for it" in said.err


def test_calling_without_permission_says_what_is_missing(
    folder: Path, vhost_url: str, broker_server: Server, limited: Callable[..., str]
) -> None:
    """A producer that may not write to the exchange gets the broker's reason and the remedy, and leaves no queue."""
    amqpq(folder, "topology", "apply", broker=vhost_url).done()
    url = limited(configure=r"^amqpq\.reply\.", read=r"^amqpq\.reply\.", write=r"^amq\.default$")
    said = amqpq(folder, "call", "web.resize", "1", broker=url).refused()
    assert "exchange 'web'" in said
    assert "ACCESS_REFUSED" in said
    vhost, user = urlsplit(url).path[1:], urlsplit(url).username
    assert f"rabbitmqctl set_permissions -p {vhost} {user} CONFIGURE WRITE READ" in said
    assert "amqpq.reply." not in json.dumps(broker_server.request("GET", f"queues/{vhost}?disable_stats=true"))


def test_a_worker_that_may_not_read_says_so(folder: Path, vhost_url: str, limited: Callable[..., str]) -> None:
    """A worker without `read` on its queue names the queue and the permission."""
    amqpq(folder, "topology", "apply", broker=vhost_url).done()
    with worker(folder, "-A", "tasks", "-P", "solo", broker=limited(write=".*", configure=".*")) as running:
        running.says("not consuming default: ACCESS_REFUSED - ")
        assert "access to queue 'default' in vhost" in running.text  # 4.x says which access
        assert "rabbitmqctl set_permissions" in running.text


def test_the_permissions_that_the_howto_names_are_enough(
    folder: Path, vhost_url: str, limited: Callable[..., str]
) -> None:
    """A producer and a worker with just the rights of `docs/howto/several-hosts.md` do their work, failures included."""
    amqpq(folder, "topology", "apply", broker=vhost_url).done()
    producer = limited(configure=r"^amqpq\.reply\.", write=r"^(web|amq\.default)$", read=r"^amqpq\.reply\.")
    consumer = limited(configure="^$", write=r"^amq\.default$", read="^default$")
    with worker(folder, "-A", "tasks", "-P", "solo", broker=consumer) as running:
        running.says(" ready.")
        assert amqpq(folder, "call", "tasks.add", "2", "3", "--timeout", "30", broker=producer).done() == "5\n"
        failed = amqpq(folder, "call", "web.resize", "1", "--timeout", "30", broker=producer)
        assert "no task 'web.resize'" in failed.err
        running.says("dead letter: shop.dead")


# ----------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for `localhost`, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(secret + builder.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


@contextmanager
def _listener(answer: bytes) -> Iterator[int]:
    """A port that answers the first bytes of every connection with these, and closes it."""

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:  # closed: the test is over
                return
            with client:
                client.recv(8)
                client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@contextmanager
def _tls_port(url: str, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS and hands on to the broker."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    parts = urlsplit(url)
    with Proxy(parts.hostname or "", parts.port or 5672, tls=context) as proxy:
        yield proxy.port


def test_plain_to_a_tls_port_says_which_url_to_write(folder: Path, vhost_url: str) -> None:
    """amqp:// to a port that speaks TLS, as the broker's TLS library answers (recorded from Erlang's)."""
    with _listener(b"\x15\x03\x01\x00\x02\x02\x46") as port:
        said = amqpq(folder, "topology", "apply", broker=_as(vhost_url, port=port)).refused()
    assert f":{port} speaks TLS, and the URL says amqp://; write amqps:// (or use the plain port, 5672)" in said


def test_tls_to_a_plain_port_says_which_url_to_write(folder: Path, vhost_url: str) -> None:
    """amqps:// to a port that speaks plain AMQP."""
    said = amqpq(folder, "topology", "apply", broker=vhost_url.replace("amqp://", "amqps://")).refused()
    assert "does not speak TLS, and the URL says amqps://; write amqp:// (or use the TLS port, 5671)" in said


def test_a_certificate_nobody_vouches_for_says_where_to_name_its_authority(
    folder: Path, vhost_url: str, certificate: Path
) -> None:
    """amqps:// to a broker whose certificate this host does not know; with `broker.tls.ca` it works."""
    with _tls_port(vhost_url, certificate) as port:
        url = _as(vhost_url, port=port).replace("amqp://", "amqps://").replace("127.0.0.1", "localhost")
        said = amqpq(folder, "topology", "apply", broker=url).refused()
        assert f"the certificate of localhost:{port} is not accepted" in said
        assert "name its authority with broker.tls.ca" in said
        (folder / "topology.yaml").write_text(f"{TOPOLOGY}broker: {{tls: {{ca: '{certificate}'}}}}\n")
        amqpq(folder, "topology", "apply", broker=url).done()


# ----------------------------------------------------------------------------------------------- something else is there


@pytest.fixture
def occupied(folder: Path, vhost_url: str) -> Path:
    """A folder whose topology differs from what was applied to the vhost before."""
    amqpq(folder, "topology", "apply", broker=vhost_url).done()
    (folder / "topology.yaml").write_text(OTHERWISE)
    return folder


DIFFERENCES = (
    "x-message-ttl = none (the file says 30000)",
    "x-dead-letter-routing-key = shop.dead (the file says none)",
    "x-max-priority = none (the file says 10)",
)


def test_apply_explains_a_queue_that_exists_with_other_arguments(occupied: Path, vhost_url: str) -> None:
    """Each differing key is named with both values, in one go, with the two ways out; the rest is declared."""
    said = amqpq(occupied, "topology", "apply", broker=vhost_url)
    explained = said.refused(code=3)  # partly applied
    (queue,) = [line for line in explained.splitlines() if "queue 'default' exists with" in line]
    for difference in DIFFERENCES:
        assert difference in queue
    assert "write the broker's values into the file" in queue
    assert f"`rabbitmqctl delete_queue -p {urlsplit(vhost_url).path[1:]} default`" in queue
    (exchange,) = [line for line in explained.splitlines() if "exchange 'web' exists with" in line]
    assert "type = topic (the file says direct)" in exchange
    assert re.search(r"new +created", said.out)


def test_apply_explains_it_to_machines(occupied: Path, vhost_url: str) -> None:
    """`--json` holds each difference apart."""
    said = amqpq(occupied, "topology", "apply", "--json", broker=vhost_url)
    said.refused(code=3)
    steps: dict[str, Any] = {f"{step['kind']} {step['name']}": step for step in json.loads(said.out)["applied"]}
    assert steps["exchange web"]["differences"] == [{"key": "type", "broker": "topic", "file": "direct"}]
    assert {"key": "x-max-priority", "broker": "none", "file": "10"} in steps["queue default"]["differences"]
    assert steps["queue new"]["result"] == "created"


def test_a_worker_that_is_to_apply_explains_it_and_does_not_start(occupied: Path, vhost_url: str) -> None:
    """`amqpq worker --apply` gives the same explanation, and ends."""
    said = amqpq(occupied, "worker", "-A", "tasks", "--apply", broker=vhost_url).refused()
    assert "queue 'default' exists with" in said
    for difference in DIFFERENCES:
        assert difference in said
    assert "delete_queue" in said


def test_a_worker_that_is_not_to_apply_sees_it_too(occupied: Path, vhost_url: str) -> None:
    """Without `--apply` a worker compares its queues with the file before it takes anything from them."""
    said = amqpq(occupied, "worker", "-A", "tasks", "-Q", "default", broker=vhost_url).refused()
    assert "queue 'default' exists with" in said
    for difference in DIFFERENCES:
        assert difference in said
    assert "delete_queue" in said


def test_a_worker_whose_queue_is_missing_names_the_command(occupied: Path, vhost_url: str) -> None:
    """Without `--apply` a worker declares nothing: it names what is missing and the command that creates it."""
    said = amqpq(occupied, "worker", "-A", "tasks", broker=vhost_url).refused()
    assert "missing on the broker: queue 'new'; `amqpq topology apply` creates what the topology file declares" in said


def test_a_queue_of_somebody_else_that_is_missing_is_left_to_its_owner(folder: Path, vhost_url: str) -> None:
    """`manage: verify`: apply does not create it, and says whose business it is."""
    (folder / "topology.yaml").write_text(TOPOLOGY.replace("default: {}", "default: {manage: verify}"))
    said = amqpq(folder, "topology", "apply", broker=vhost_url)
    assert "'default'" in said.refused(code=3)
    assert "whoever owns it must create it (`manage: verify`)" in said.err
