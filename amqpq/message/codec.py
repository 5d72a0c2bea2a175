"""Envelopes to messages and back. Verification comes first: see `Codec.decode_task` for the order.

    codec = Codec(rules, signer=signer, verifier=verifier)
    body, properties = codec.encode_task(TaskEnvelope("1f0c", "tasks.add", (2, 3)), exchange="tasks", key="default")
    envelope = codec.decode_task(body, properties)

A codec holds no connection and, apart from the replay memory that it may be given, no state; it is safe in any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from amqpq.errors import (
    ConfigurationError,
    ContentRefused,
    MessageTooLarge,
    NotSerializable,
    OversizeMessage,
    Replayed,
    SignatureInvalid,
    SignatureMissing,
    Undecodable,
)
from amqpq.message import parsing
from amqpq.message.canonical import UNENCODABLE, result_bytes, task_bytes, user_headers
from amqpq.message.compression import PACKERS, check_algorithm, unpack
from amqpq.message.envelope import ResultEnvelope, TaskEnvelope, TaskFacts
from amqpq.message.serializers import CONTENT_ENCODINGS, PICKLE_TYPE, Serializer, serializer_named
from amqpq.message.wire import OUR_PREFIX, RESERVED, route_text
from amqpq.security.replay import SeenIds
from amqpq.security.signing import Signer, Stamp, Verifier, signature_text
from amqpq.types import PERSISTENT, Properties

_TRANSIENT: Final = 1
_SHORT_TEXT_BYTES: Final = 255
"""AMQP 0-9-1 writes the length of a short string in one byte."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How this project writes its messages, and what it accepts: `messages:` of the topology.

    `compress_above` and `max_size` are bytes of the serialized body, before it is packed.
    """

    serializer: str = "msgpack"
    accept: tuple[str, ...] = ("msgpack", "json")
    compression: str | None = None
    compress_above: int = 4096
    max_size: int = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one message is written, where it differs from the rules.

    `serializer` None and `compression` "default" are the rules'. `compression` None or "none" is none. What is below
    `compress_above`, or would not become smaller, is sent as it is. `ttl_ms` is the broker's per-message TTL.
    """

    serializer: str | None = None
    compression: str | None = "default"
    persistent: bool = True
    ttl_ms: int | None = None


_AS_RULED: Final = Encoding()


class Codec:
    """Writes and reads the messages of one project.

    Args:
        rules: Serializer, compression, sizes, and what is accepted.
        signer: Signs what goes out; None sends unsigned.
        verifier: Checks what comes in.
        clock: Seconds since the epoch.
        app_id: Goes into the property of that name: the project.
        seen: The memory against replays, for a process that takes deliveries.

    Raises:
        ConfigurationError: The rules name a serializer or compression that does not exist, or pickle without its conditions.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        signer: Signer | None,
        verifier: Verifier,
        clock: Callable[[], float] = time.time,
        app_id: str = "",
        seen: SeenIds | None = None,
    ) -> None:
        self.rules = rules
        self.signer = signer
        self.verifier = verifier
        self.seen = seen
        self._clock = clock
        self._app_id = app_id or None
        self._accepted = {each.content_type: each for each in map(serializer_named, rules.accept)}
        self._serializer = self._writer(rules.serializer)
        self._compression = check_algorithm(rules.compression)

    def __repr__(self) -> str:
        """Show how it writes and whom it believes."""
        return f"Codec({self.rules.serializer}, signer={self.signer!r}, verifier={self.verifier!r})"

    # --------------------------------------------------------------------------------------------------------- writing

    def encode_task(
        self, envelope: TaskEnvelope, *, exchange: str, key: str, encoding: Encoding = _AS_RULED
    ) -> tuple[bytes, Properties]:
        """Write a task.

        Args:
            envelope: The task.
            exchange: Where it is meant to be published; signed.
            key: The routing key; signed.
            encoding: What differs from the rules.

        Raises:
            NotSerializable: An argument or header cannot be written; the message says which.
            MessageTooLarge: It takes more than `max_size`.
            ConfigurationError: The serializer, compression or name of a header cannot be used.
        """
        serializer = self._serializer if encoding.serializer is None else self._writer(encoding.serializer)
        args, kwargs = envelope.args, envelope.kwargs
        try:
            body = serializer.dumps(
                (
                    args if isinstance(args, (tuple, list)) else tuple(args),
                    kwargs if isinstance(kwargs, dict) else dict(kwargs),
                    envelope.embed,
                )
            )
        except Exception as error:
            raise NotSerializable(parsing.blame_argument(envelope, serializer, error)) from error
        headers = _task_headers(envelope)
        body = self._fit(body, headers, encoding, envelope.task)
        user = envelope.headers
        if user:
            _check_headers(user)
            headers.update(user)
            user = user_headers(user)
        task_id = envelope.id
        if len(task_id) > _SHORT_TEXT_BYTES:
            raise NotSerializable(
                f"{envelope.task}: a task id has at most {_SHORT_TEXT_BYTES} characters, this one {len(task_id)}"
            )
        now = self._clock()
        properties = Properties(
            serializer.content_type,
            serializer.content_encoding,
            headers,
            PERSISTENT if encoding.persistent else _TRANSIENT,
            envelope.priority,
            envelope.correlation_id or task_id,
            envelope.reply_to,
            encoding.ttl_ms,
            task_id,
            int(now),
            None,
            None,
            self._app_id,
        )
        signer = self.signer
        if signer is not None:
            headers["amqpq-kid"] = signer.key_id
            headers["amqpq-ts"] = int(now * 1000)
            headers["amqpq-route"] = route_text(exchange, key)
            try:
                data = task_bytes(properties, user, body)
            except UNENCODABLE as error:
                raise NotSerializable(f"{envelope.task}: a header cannot be signed: {error}") from error
            headers["amqpq-sig"] = signature_text(signer.sign(data))
        return body, properties

    def encode_result(
        self,
        envelope: ResultEnvelope,
        *,
        reply_to: str,
        encoding: Encoding = _AS_RULED,
        correlation_id: str | None = None,
    ) -> tuple[bytes, Properties]:
        """Write a result or a state, meant for the queue `reply_to` through the default exchange.

        Args:
            envelope: The result.
            reply_to: The name of the queue; signed.
            encoding: What differs from the rules. Answer in the serializer of the request (`TaskFacts.serializer`): its
                sender can read it.
            correlation_id: Of the request; None is the task's id.

        Raises:
            NotSerializable: The result cannot be written.
            MessageTooLarge: It takes more than `max_size`.
            ConfigurationError: The serializer or compression cannot be used.
        """
        serializer = self._serializer if encoding.serializer is None else self._writer(encoding.serializer)
        try:
            body = serializer.dumps(
                {
                    "task_id": envelope.task_id,
                    "status": envelope.status,
                    "result": envelope.result,
                    "traceback": envelope.traceback,
                    "children": envelope.children,
                }
            )
        except Exception as error:
            raise NotSerializable(
                f"the result of task {envelope.task_id} cannot be written as {serializer.name}: {parsing.short(error)}"
            ) from error
        headers: dict[str, Any] = {}
        body = self._fit(body, headers, encoding, f"the result of task {envelope.task_id}")
        now = self._clock()
        properties = Properties(
            serializer.content_type,
            serializer.content_encoding,
            headers,
            PERSISTENT if encoding.persistent else _TRANSIENT,
            None,
            correlation_id or envelope.task_id,
            None,
            encoding.ttl_ms,
            None,
            int(now),
            None,
            None,
            self._app_id,
        )
        signer = self.signer
        if signer is not None:
            headers["amqpq-kid"] = signer.key_id
            headers["amqpq-ts"] = int(now * 1000)
            headers["amqpq-route"] = route_text("", reply_to)
            headers["amqpq-sig"] = signature_text(signer.sign(result_bytes(properties, {}, body)))
        return body, properties

    def _writer(self, name: str) -> Serializer:
        """Return a serializer to write with; pickle only where it could be read again."""
        serializer = serializer_named(name)
        if serializer.content_type == PICKLE_TYPE and (self.signer is None or PICKLE_TYPE not in self._accepted):
            raise ConfigurationError(
                "pickle is sent only signed, and only where messages.accept has it: loading it runs code of the sender"
            )
        return serializer

    def _fit(self, body: bytes, headers: dict[str, Any], encoding: Encoding, what: str) -> bytes:
        """Refuse a body that is too large, pack one that is worth it."""
        size = len(body)
        rules = self.rules
        if size > rules.max_size:
            raise MessageTooLarge(
                f"{what}: the message takes {size} bytes, messages.max_size allows {rules.max_size}; "
                "send a reference to the data, or raise the limit"
            )
        algorithm = encoding.compression
        algorithm = self._compression if algorithm == "default" else check_algorithm(algorithm)
        if algorithm is None or size <= rules.compress_above:
            return body
        wire_name, pack = PACKERS[algorithm]
        packed = pack(body)
        if len(packed) >= size:
            return body
        headers["compression"] = wire_name
        return packed

    # --------------------------------------------------------------------------------------------------------- reading

    def decode_task(
        self,
        body: bytes,
        properties: Properties,
        *,
        redelivered: bool = False,
        queue: str = "",
        arrived: tuple[str, str] | None = None,
        required: bool | None = None,
    ) -> TaskEnvelope:
        """Read a task: size, signature, replay, content type, unpacking with a ceiling, decoding, shape; in this order.

        Args:
            body: As received.
            properties: As received.
            redelivered: The broker's flag of the delivery.
            queue: Where it arrived; for the replay memory.
            arrived: The exchange and key of the delivery, to be compared with those it was signed for. Leave it None
                for a queue that the broker dead-letters into, since it rewrites both.
            required: Whether it must be signed, where this queue differs from the verifier's rule.

        Raises:
            RemoteMessageError: One of its subclasses; nothing else, whatever the message is.
        """
        self._bound(body)
        user = user_headers(properties.headers)
        stamp = self._verify(body, properties, user, kind=_TASK, required=required)
        if stamp is not None:
            self._admit(stamp, properties, redelivered=redelivered, queue=queue, arrived=arrived)
        return parsing.task(self._load(body, properties, signed=stamp is not None), properties, user)

    def decode_result(self, body: bytes, properties: Properties, *, required: bool | None = None) -> ResultEnvelope:
        """Read a result or a state, in the same order.

        The caller compares `task_id` with the one it waits for.

        Args:
            body: As received.
            properties: As received.
            required: Whether it must be signed, where this differs from the verifier's rule.

        Raises:
            RemoteMessageError: One of its subclasses; nothing else, whatever the message is.
        """
        self._bound(body)
        user = user_headers(properties.headers)
        stamp = self._verify(body, properties, user, kind=_RESULT, required=required)
        return parsing.result(self._load(body, properties, signed=stamp is not None))

    def verify_task(self, body: bytes, properties: Properties, *, required: bool | None = None) -> Stamp | None:
        """Check the size and the signature of a task, and nothing else: no replay, no expiry; the body is not decoded.

        Args:
            body: As received.
            properties: As received.
            required: Whether it must be signed, where this differs from the verifier's rule.

        Returns:
            Who signed it and when; None where there is no signature that counts.

        Raises:
            RemoteMessageError: One of its subclasses.
        """
        self._bound(body)
        return self._verify(body, properties, user_headers(properties.headers), kind=_TASK, required=required)

    def now_ms(self) -> int:
        """Return the time that a signature made now says, milliseconds since the epoch."""
        return int(self._clock() * 1000)

    def task_facts(self, properties: Properties) -> TaskFacts:
        """Say what a message claims to be, unverified. Never raises."""
        return parsing.facts(properties)

    def _bound(self, body: bytes) -> None:
        if len(body) > self.rules.max_size:
            raise OversizeMessage(f"the body has {len(body)} bytes, messages.max_size allows {self.rules.max_size}")

    def _verify(
        self, body: bytes, properties: Properties, user: Mapping[str, Any], *, kind: str, required: bool | None
    ) -> Stamp | None:
        """Check the signature; None where there is none that counts."""
        headers = properties.headers
        verifier = self.verifier
        required = verifier.required if required is None else required
        signature = headers.get("amqpq-sig")
        if signature is None and not required:
            return None
        if signature is None:
            raise SignatureMissing(
                f"the {kind} is unsigned, and security.require is 'signed'; give its sender a key "
                "(`amqpq keys new NAME`) and trust it here"
            )
        if not verifier.looks and not required:
            return None
        key_id, signed_at = headers.get("amqpq-kid"), headers.get("amqpq-ts")
        if not (isinstance(signature, str) and isinstance(key_id, str) and type(signed_at) is int):
            raise SignatureInvalid("the headers amqpq-sig, amqpq-kid and amqpq-ts do not have the types of a signature")
        stamp = Stamp(key_id, signed_at, signature)
        try:
            data = (task_bytes if kind is _TASK else result_bytes)(properties, user, body)
        except UNENCODABLE as error:
            raise SignatureInvalid(
                f"a signed field holds what no signature can cover: {parsing.short(error)}"
            ) from error
        task = str(headers.get("task")) if kind is _TASK else None
        verifier.verify(stamp, data, task=task, now=self._clock())
        return stamp

    def _admit(
        self, stamp: Stamp, properties: Properties, *, redelivered: bool, queue: str, arrived: tuple[str, str] | None
    ) -> None:
        """Refuse what is genuine but in the wrong place, or here for the second time."""
        headers = properties.headers
        if arrived is not None and headers.get("amqpq-route") != route_text(*arrived):
            raise Replayed(
                f"the message was signed for {headers.get('amqpq-route')!r} (exchange/key) and came by "
                f"{route_text(*arrived)!r}: somebody moved or copied it"
            )
        if self.seen is not None and not self.seen.admit(
            str(headers.get("id")), stamp.signed_at_ms, stamp.signature, redelivered=redelivered, queue=queue
        ):
            raise Replayed(
                f"task {headers.get('id')} was delivered here before, and this is no redelivery: it was published again"
            )

    def _load(self, body: bytes, properties: Properties, *, signed: bool) -> object:
        """Unpack and decode a body whose signature was checked."""
        content_type = properties.content_type
        serializer = self._accepted.get(content_type or "")
        if serializer is None:
            raise ContentRefused(
                f"content type {content_type!r} is not accepted; messages.accept is {list(self.rules.accept)}"
            )
        if content_type == PICKLE_TYPE and not signed:
            raise ContentRefused("a pickle is read only from a signed message: loading it runs code of the sender")
        encoding = properties.content_encoding
        if encoding and encoding != serializer.content_encoding and encoding.lower() not in CONTENT_ENCODINGS:
            raise Undecodable(f"content encoding {encoding!r} is not known")
        compression = properties.headers.get("compression")
        if compression:
            body = unpack(body, compression, self.rules.max_size)
        try:
            return serializer.loads(body)
        except Exception as error:
            raise Undecodable(
                f"the body is not {serializer.name}, as its content type says: {parsing.short(error)}"
            ) from error


_TASK: Final = "task"
_RESULT: Final = "result"


def _task_headers(envelope: TaskEnvelope) -> dict[str, Any]:
    """Return the protocol's headers; what has its default is left out."""
    headers: dict[str, Any] = {"lang": "py", "task": envelope.task, "id": envelope.id}
    if envelope.root_id is not None and envelope.root_id != envelope.id:
        headers["root_id"] = envelope.root_id
    if envelope.parent_id is not None:
        headers["parent_id"] = envelope.parent_id
    if envelope.group is not None:
        headers["group"] = envelope.group
    if envelope.retries:
        headers["retries"] = envelope.retries
    if envelope.eta is not None:
        headers["eta"] = envelope.eta
    if envelope.expires is not None:
        headers["expires"] = envelope.expires
    hard, soft = envelope.timelimit
    if hard is not None or soft is not None:
        headers["timelimit"] = [hard, soft]
    if envelope.origin:
        headers["origin"] = envelope.origin
    if envelope.shadow is not None:
        headers["shadow"] = envelope.shadow
    if envelope.ignore_result:
        headers["ignore_result"] = True
    return headers


def _check_headers(user: Mapping[str, Any]) -> None:
    """Refuse names that would change the meaning of the message, or that AMQP cannot carry."""
    for name in user:
        if name in RESERVED or name.startswith(OUR_PREFIX):
            raise ConfigurationError(f"the header {name!r} is the protocol's own; give yours another name")
        if len(name.encode()) > _SHORT_TEXT_BYTES:
            raise NotSerializable(f"the name of the header {name[:40]!r}... is longer than {_SHORT_TEXT_BYTES} bytes")
