"""Bad input, messages: what a real worker does with a message that is broken, forged, forbidden or a trap.

One worker for the whole file. Each message must be found in the dead letter with its cause, unchanged; the worker must
have said so, must not have opened what it does not trust, and must go on.
"""

from __future__ import annotations

import asyncio
import base64
import bz2
import logging
import socket
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from amqpq import App, AsyncApp, errors
from amqpq.message import ResultEnvelope, TaskEnvelope
from amqpq.message.canonical import task_bytes
from amqpq.message.codec import Codec, Encoding, Rules
from amqpq.message.compression import BZIP2, ZLIB
from amqpq.security.keys import generate, load_signer
from amqpq.security.signing import Verifier
from amqpq.transport.interface import Channel
from amqpq.types import Delivery, Fate, Properties, Publication
from tests.support.commands import RunningWorker, amqpq, worker
from tests.support.pool import pool_of

pytestmark = pytest.mark.acceptance

MIB = 2**20
WAIT_SECONDS = 60.0
LIMIT = 2 * MIB
ROOM_FOR_A_BOMB = 48 * MIB
"""What the worker may grow by while it is thrown bombs of 1 GiB: more than its limit needs, far less than a bomb would."""

TOPOLOGY = """\
amqpq: 1
project: shop
messages:
  max_size: 2MiB
  accept: [msgpack, json]
queues:
  default: {}
  idle: {}
  noise: {dead_letter: none}
routes:
  "tasks.*": {queue: default}
  "idle.*": {queue: idle}
security:
  trust:
    web-1: {key: keys/web-1.pub, may: ["web.*"]}
"""

TASKS = """\
from amqpq import App

app = App("topology.yaml")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def fail(text: str) -> None:
    raise ValueError(text)
"""


class Server(Protocol):
    """The part of the broker under test that this file uses."""

    def vhost(self) -> AbstractContextManager[str]:
        """A vhost of its own."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it goes to the broker."""

    body: bytes
    properties: Properties

    @property
    def id(self) -> str:
        """What it can be found by."""
        assert self.properties.message_id is not None
        return self.properties.message_id

    def with_headers(self, **headers: Any) -> Message:
        """The same message with other headers; `__` stands for a dash, None removes one."""
        changed = {**self.properties.headers, **{name.replace("__", "-"): value for name, value in headers.items()}}
        kept = {name: value for name, value in changed.items() if value is not None}
        return replace(self, properties=self.properties._replace(headers=kept))

    def with_properties(self, **properties: Any) -> Message:
        """The same message with other properties."""
        return replace(self, properties=self.properties._replace(**properties))

    def flipped(self) -> Message:
        """The same message with one bit of its body flipped."""
        return replace(self, body=self.body[:-1] + bytes([self.body[-1] ^ 1]))


class DeadLetters:
    """What arrives in the dead-letter queue, by the id of the message."""

    def __init__(self, channel: Channel) -> None:
        self._letters: list[Delivery] = []
        self._arrived = threading.Condition()
        subscription: Any = channel.consume("shop.dead", self._put, no_ack=True)
        subscription.result(WAIT_SECONDS)

    def _put(self, delivery: Delivery) -> None:
        with self._arrived:
            self._letters.append(delivery)
            self._arrived.notify_all()

    def _of(self, message_id: str) -> list[Delivery]:
        return [letter for letter in self._letters if letter.properties.message_id == message_id]

    def of(self, message: Message) -> Delivery:
        """Wait for the dead letter of a message."""
        with self._arrived:
            there = self._arrived.wait_for(lambda: self._of(message.id), WAIT_SECONDS)
            assert there, f"no dead letter of {message.id}; there are {self._letters}"
            return self._of(message.id)[0]


class Bench:
    """A project with a worker, and the means to send it what no producer of ours would send."""

    def __init__(self, folder: Path, app: App, running: RunningWorker) -> None:
        self.folder = folder
        self.url = app.topology.broker.urls[0]
        self.app = app
        self.worker = running
        self.channel = app.link.connection(WAIT_SECONDS).channel()
        self.dead = DeadLetters(self.channel)

    def codec(self, key_id: str, **rules: Any) -> Codec:
        """A sender's codec that signs with this key and has these rules."""
        signer = load_signer("ed25519", f"keys/{key_id}.pem", key_id, base=self.folder, environ={})
        verifier = Verifier({}, required=False, replay_window_seconds=600.0)
        return Codec(Rules(**rules), signer=signer, verifier=verifier)

    def signed(
        self,
        task: str = "tasks.add",
        args: tuple[Any, ...] = (2, 3),
        *,
        by: Codec | None = None,
        key: str = "default",
        **more: Any,
    ) -> Message:
        """A message as a producer makes it, signed."""
        envelope = TaskEnvelope(id=str(uuid.uuid4()), task=task, args=args, kwargs={}, **more)
        codec = by or self.codec("shop")
        return Message(*codec.encode_task(envelope, exchange="", key=key, encoding=Encoding()))

    def resigned(self, message: Message, body: bytes, **properties: Any) -> Message:
        """The same message with another body, and a signature that fits it: its sender is trusted, and sends rubbish."""
        signer = load_signer("ed25519", "keys/shop.pem", "shop", base=self.folder, environ={})
        changed = replace(message, body=body).with_properties(**properties)
        signature = signer.sign(task_bytes(changed.properties, {}, body))
        return changed.with_headers(amqpq__sig=base64.b64encode(signature).decode())

    def send(self, message: Message, queue: str = "default") -> None:
        """Put it into the queue."""
        publication = Publication("", queue, message.body, message.properties)
        pending: Any = self.channel.publish([publication])
        assert [outcome.fate for outcome in pending.result(WAIT_SECONDS)] == [Fate.CONFIRMED]

    def parked(self, message: Message) -> Delivery:
        """Send it and wait for its dead letter."""
        self.send(message)
        return self.dead.of(message)

    def peak_bytes(self) -> int:
        """The most memory that the worker and its children ever had, in bytes."""
        return sum(_peak_bytes(pid) for pid in [self.worker.process.pid, *self.children()])

    def children(self) -> list[int]:
        """The process ids of the worker's children."""
        return pool_of(self.worker.process.pid)


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@pytest.fixture(scope="module")
def bench(broker_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The worker of this file."""
    folder = tmp_path_factory.mktemp("messages")
    (folder / "topology.yaml").write_text(TOPOLOGY)
    (folder / "tasks.py").write_text(TASKS)
    for name in ("shop", "web-1", "stranger"):
        generate(name, "ed25519", folder / "keys")
    with broker_server.vhost() as url:
        amqpq(folder, "topology", "apply", broker=url).done()
        arguments = ("-A", "tasks", "-c", "1", "-Q", "default,noise")
        app = App(folder / "topology.yaml", environ={"AMQPQ_BROKER_URL": url})
        with worker(folder, *arguments, broker=url) as running, app:
            running.says(" ready.")
            yield Bench(folder, app, running)


# ------------------------------------------------------------------------------------------------------- what is refused


def _bad_signature(bench: Bench) -> Message:
    message = bench.signed()
    signature = bytearray(base64.b64decode(message.properties.headers["amqpq-sig"]))
    signature[0] ^= 1
    return message.with_headers(amqpq__sig=base64.b64encode(signature).decode())


def _bomb_bytes(size: int) -> bytes:
    """`size` zeros in zlib format, made in an instant: one block over and over, and the checksum from its definition."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (size % 65521) << 16 | 1
    return b"\x78\xda" + block * (size // MIB) + b"\x03\x00" + checksum.to_bytes(4, "big")


GIBIBYTE = _bomb_bytes(1024 * MIB)


class _Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.touch, (Path(self._path),)  # type: ignore[return-value]


def _pickle(bench: Bench) -> Message:
    rules = {"serializer": "pickle", "accept": ("pickle",)}
    return bench.signed(args=(_Trap(bench.folder / "trap"), 3), by=bench.codec("shop", **rules))


def _unsigned(message: Message) -> Message:
    return message.with_headers(amqpq__sig=None, amqpq__kid=None, amqpq__ts=None, amqpq__route=None)


def _twice(bench: Bench) -> Message:
    message = bench.signed()
    bench.send(message)
    return message


REFUSED: dict[str, tuple[Callable[[Bench], Message], str, str]] = {
    "a flipped bit in the body": (
        lambda bench: bench.signed().flipped(),
        "forged",
        "the signature of key 'shop' does not match the message: it was altered on the way, or forged",
    ),
    "a flipped bit in the task's name": (
        lambda bench: bench.signed().with_headers(task="tasks.ade"),
        "forged",
        "does not match the message",
    ),
    "a flipped bit in a property": (
        lambda bench: bench.signed().with_properties(reply_to="amqpq.reply.mine"),
        "forged",
        "does not match the message",
    ),
    "a flipped bit in the signature": (_bad_signature, "forged", "does not match the message"),
    "a signature that is none": (
        lambda bench: bench.signed().with_headers(amqpq__sig="?"),
        "forged",
        "the signature of key 'shop' is not base64",
    ),
    "no signature": (
        lambda bench: _unsigned(bench.signed()),
        "unsigned",
        "the task is unsigned, and security.require is 'signed'; give its sender a key",
    ),
    "a key nobody trusts": (
        lambda bench: bench.signed(by=bench.codec("stranger")),
        "untrusted",
        "signed with key 'stranger', which nobody here trusts; if it should be, `amqpq keys trust stranger PUBFILE`",
    ),
    "a key that may not ask for this": (
        lambda bench: bench.signed(by=bench.codec("web-1")),
        "untrusted",
        "key 'web-1' is trusted, but not for task 'tasks.add': security.trust.web-1.may is ['web.*']",
    ),
    "a message that was sent before": (_twice, "replayed", "was delivered here before, and this is not a redelivery"),
    "a message for another queue": (
        lambda bench: bench.signed("idle.wait", key="idle"),
        "replayed",
        "the message was signed for '/idle' (exchange/key) and came by '/default': somebody moved or copied it",
    ),
    "a pickle where it is not accepted": (_pickle, "content-refused", "messages.accept"),
    "a pickle without a signature": (lambda bench: _unsigned(_pickle(bench)), "unsigned", "the task is unsigned"),
    "a body that is no MessagePack": (
        lambda bench: bench.resigned(bench.signed(), b"\xc1 is never used"),
        "undecodable",
        "the body is not msgpack, as its content type says",
    ),
    "a body that is no task": (
        lambda bench: bench.resigned(bench.signed(), b'{"x": 1}', content_type="application/json"),
        "undecodable",
        "the body is not [args, kwargs, embed] but dict",
    ),
    "a body over the limit": (
        lambda bench: bench.resigned(bench.signed(), bytes(LIMIT + 1)),
        "oversize",
        f"the body has {LIMIT + 1} bytes, messages.max_size allows {LIMIT}",
    ),
    "a compression nobody knows": (
        lambda bench: bench.resigned(bench.signed().with_headers(compression="application/x-rar"), b"Rar!"),
        "content-refused",
        "the body is packed with 'application/x-rar'; amqpq reads application/x-gzip (zlib) and application/x-bz2",
    ),
    "a bomb, signed": (
        lambda bench: bench.resigned(bench.signed().with_headers(compression=ZLIB), GIBIBYTE),
        "oversize",
        f"the body unpacks to more than {LIMIT} bytes (messages.max_size); unpacking was stopped there",
    ),
    "a bomb of the other format": (
        lambda bench: bench.resigned(bench.signed().with_headers(compression=BZIP2), bz2.compress(bytes(32 * MIB))),
        "oversize",
        f"the body unpacks to more than {LIMIT} bytes",
    ),
    "a bomb, unsigned": (
        lambda bench: _unsigned(replace(bench.signed(), body=GIBIBYTE).with_headers(compression=ZLIB)),
        "unsigned",
        "the task is unsigned",
    ),
    "a task that is not there": (
        lambda bench: bench.signed("tasks.ad"),
        "unknown-task",
        "did you mean 'tasks.add'?",
    ),
    "a task that expired": (
        lambda bench: bench.signed(expires=(datetime.now(UTC) - timedelta(minutes=1)).isoformat()),
        "expired",
        "it expired at ",
    ),
    "a task for later": (
        lambda bench: bench.signed(eta=(datetime.now(UTC) + timedelta(hours=1)).isoformat()),
        "unsupported",
        "no delay ladder; add `delays: {}`",
    ),
    "a task that fails": (
        lambda bench: bench.signed("tasks.fail", ("on purpose",)),
        "failed",
        "ValueError: on purpose",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_lands_in_the_dead_letter_with_its_cause(bench: Bench, name: str) -> None:
    """Cause, reason, place and time stand in the headers; body and signature are as they came; the log says the same."""
    make, cause, reason = REFUSED[name]
    message = make(bench)
    letter = bench.parked(message)
    headers = letter.properties.headers
    assert headers["amqpq-cause"] == cause, headers
    assert reason in headers["amqpq-reason"]
    assert headers["amqpq-host"] == socket.gethostname()
    assert headers["amqpq-worker"].startswith("amqpq@")
    assert (headers["amqpq-queue"], headers["amqpq-exchange"], headers["amqpq-key"]) == ("default", "", "default")
    assert headers["amqpq-attempts"] == 1
    assert headers["amqpq-first-failed"] == headers["amqpq-last-failed"]
    assert letter.body == message.body
    assert headers.get("amqpq-sig") == message.properties.headers.get("amqpq-sig")
    bench.worker.says(f"[{message.properties.headers['id']}]")
    (line,) = [line for line in bench.worker.text.splitlines() if f"[{message.id}]" in line and "dead letter" in line]
    assert reason in line
    assert cause in line
    assert "dead letter: shop.dead" in line


def test_a_failure_has_its_traceback_in_the_dead_letter(bench: Bench) -> None:
    """The traceback begins with the person's own code."""
    letter = bench.parked(bench.signed("tasks.fail", ("on purpose",)))
    traceback = letter.properties.headers["amqpq-traceback"]
    assert traceback.splitlines()[1].strip().startswith(f'File "{bench.folder / "tasks.py"}"')
    assert traceback.rstrip().endswith("ValueError: on purpose")


def test_a_bomb_of_a_mebibyte_does_not_go_off(bench: Bench) -> None:
    """1 MiB that unpacks to 1 GiB is stopped at the ceiling: memory stays bounded, and the same child goes on working."""
    assert MIB < len(GIBIBYTE) < 1.1 * MIB
    assert zlib.decompressobj().decompress(GIBIBYTE, 3 * MIB) == bytes(3 * MIB)
    children, before = bench.children(), bench.peak_bytes()
    for name in ("a bomb, signed", "a bomb, unsigned", "a bomb of the other format"):
        bench.parked(REFUSED[name][0](bench))
    assert bench.peak_bytes() - before < ROOM_FOR_A_BOMB
    assert bench.app.send_task("tasks.add", [2, 3]).get(timeout=WAIT_SECONDS) == 5
    assert bench.children() == children


def test_a_pickle_is_never_loaded(bench: Bench) -> None:
    """Signed by a trusted key or not: what is not accepted is not opened."""
    for name in ("a pickle where it is not accepted", "a pickle without a signature"):
        bench.parked(REFUSED[name][0](bench))
    assert not (bench.folder / "trap").exists()


def test_a_refused_message_is_not_answered(bench: Bench) -> None:
    """Whoever forged a message chose its reply address; nothing is sent there."""
    result = bench.app.send_task("idle.wait", [1])
    forged = bench.signed(reply_to=f"amqpq.reply.{result.id}").flipped()
    bench.parked(forged)
    assert result.state == "PENDING"


def test_where_the_file_says_so_it_is_dropped_with_a_line_in_the_log(bench: Bench) -> None:
    """`dead_letter: none`: the cause is said, and nothing is kept."""
    message = bench.signed(key="noise").flipped()
    bench.send(message, queue="noise")
    bench.worker.says(f"[{message.id}] refused (forged)")
    line = next(line for line in bench.worker.text.splitlines() if message.id in line)
    assert "dropped: its queue has no dead letter" in line


# -------------------------------------------------------------------------------------------------------------- results


def test_a_reply_can_be_fetched_once(bench: Bench) -> None:
    """A second fetch says that the result is gone, and how that can be; by the command line and in Python."""
    task_id = amqpq(bench.folder, "send", "tasks.add", "2", "3", broker=bench.url).done().strip()
    assert amqpq(bench.folder, "result", task_id, "--timeout", "30", broker=bench.url).done() == "5\n"
    said = amqpq(bench.folder, "result", task_id, broker=bench.url).refused()
    assert f"task {task_id} has no reply queue" in said
    assert "its result was already fetched or has expired" in said
    result = bench.app.send_task("tasks.add", [2, 3])
    assert result.get(timeout=WAIT_SECONDS) == 5
    assert result.get() == 5  # the handle remembers
    with pytest.raises(errors.ResultNotFound, match="its result was already fetched"):
        bench.app.AsyncResult(result.id).get(timeout=WAIT_SECONDS)

    async def scenario() -> None:
        async with AsyncApp(bench.app.topology) as app:
            sent = await app.send_task("tasks.add", [2, 3])
            assert await sent.get(timeout=WAIT_SECONDS) == 5
            await app.AsyncResult(sent.id).get(timeout=WAIT_SECONDS)

    with pytest.raises(errors.ResultNotFound, match="its result was already fetched"):
        asyncio.run(scenario())


def test_an_expired_task_answers_its_caller(bench: Bench) -> None:
    """A caller does not wait for ever for a task that came too late."""
    result = bench.app.send_task("idle.wait", [1])  # for its reply queue
    late = bench.signed(
        expires=(datetime.now(UTC) - timedelta(minutes=1)).isoformat(), reply_to=f"amqpq.reply.{result.id}"
    )
    late = bench.resigned(late.with_headers(id=result.id).with_properties(correlation_id=result.id), late.body)
    bench.send(late)
    with pytest.raises(errors.TaskExpired, match=f"task {result.id} expired before a worker could run it"):
        result.get(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("key", ["shop", "stranger", "web-1"])
def test_a_forged_result_is_not_believed(bench: Bench, key: str, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit, a key nobody trusts, a key that may not answer: discarded with the reason, and the waiting goes on."""
    result = bench.app.send_task("idle.wait", [1])
    queue = f"amqpq.reply.{result.id}"
    body, properties = bench.codec(key).encode_result(ResultEnvelope(result.id, "SUCCESS", 5), reply_to=queue)
    bench.send(Message(body[:-1] + bytes([body[-1] ^ 1]) if key == "shop" else body, properties), queue=queue)
    with caplog.at_level(logging.WARNING), pytest.raises(errors.ResultTimeout, match="last state seen: PENDING"):
        result.get(timeout=0.3)
    expected = {
        "shop": "the signature of key 'shop' does not match",
        "stranger": "which nobody here trusts",
        "web-1": "key 'web-1' is trusted, but not for results",
    }
    assert f"discarded what lay in the reply queue of task {result.id}" in caplog.text
    assert expected[key] in caplog.text
