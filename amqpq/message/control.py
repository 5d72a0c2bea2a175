"""Remote control on the wire: requests to workers, their answers, revocations. Celery's protocol, with our signature on it.

A request goes to the fanout exchange `celery.pidbox`; every worker has a queue there. It is JSON::

    {"method": "ping", "arguments": {}, "destination": ["w1@host"], "pattern": None, "matcher": None,
     "ticket": "...", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "<the caller's id>"}}

An answer goes to the direct exchange `reply.celery.pidbox` with the caller's id as its key and the ticket in a header::

    {"w1@host": {"ok": "pong"}}

Both exchanges are declared by whoever comes first, Celery or us, so their properties must be Celery's (kombu/pidbox.py).

Verify before parse holds here with one exception, because Celery's tools sign nothing: an unsigned request is read where
the file allows it (`security.control`), and, for `ping`, which is always answered, where it is short. The reader is
Python's JSON, with a ceiling; nothing here is ever decompressed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from amqpq.errors import (
    ContentRefused,
    LocalError,
    MessageTooLarge,
    OversizeMessage,
    Replayed,
    SignatureInvalid,
    SignatureMissing,
    Undecodable,
)
from amqpq.message.canonical import UNENCODABLE, control_bytes
from amqpq.message.parsing import short
from amqpq.message.wire import KEY_ID, ROUTE, SIGNATURE, SIGNED_AT, route_text
from amqpq.security.replay import SeenIds
from amqpq.security.signing import CONTROL, RESULTS, Signer, Stamp, Verifier, signature_text
from amqpq.types import PERSISTENT, ExchangeSpec, Properties, QueueSpec, Table

REQUESTS: Final = ExchangeSpec("celery.pidbox", "fanout", durable=False)
REPLIES: Final = ExchangeSpec("reply.celery.pidbox", "direct", durable=False)

QUEUE_EXPIRES_MS: Final = 10_000
"""Celery's `control_queue_expires`; how long a queue may be without a consumer."""
QUEUE_TTL_MS: Final = 300_000
"""Celery's `control_queue_ttl`."""

MAX_BYTES: Final = 2**18
"""Of a request or an answer: room for some thousand ids."""
UNSIGNED_BYTES: Final = 4096
"""Of an unsigned request where requests must be signed: more than enough for a ping."""

TICKET: Final = "ticket"
CLOCK: Final = "clock"

REQUEST: Final = "control"
REPLY: Final = "control-reply"
_TRANSIENT: Final = 1


def mailbox_queue(worker: str) -> QueueSpec:
    """Describe the queue in which a worker receives requests.

    Exclusive, so that it goes with the connection, and RabbitMQ 4.3, which refuses transient queues that are not, takes it.
    """
    return QueueSpec(
        f"{worker}.{REQUESTS.name}", durable=False, exclusive=True, auto_delete=True, arguments=_fleeting()
    )


def reply_queue(caller: str) -> QueueSpec:
    """Describe the queue in which a caller receives answers."""
    return QueueSpec(f"{caller}.{REPLIES.name}", durable=False, exclusive=True, auto_delete=True, arguments=_fleeting())


def _fleeting() -> dict[str, Any]:
    # The type is stated because a virtual host's default may be another, which knows no exclusive queues.
    return {"x-queue-type": "classic", "x-expires": QUEUE_EXPIRES_MS, "x-message-ttl": QUEUE_TTL_MS}


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of workers. `destination` None and `pattern` None: of all.

    `reply_to` is the routing key of the answers, None where none is wanted.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    destination: tuple[str, ...] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: str | None = None
    reply_to: str | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """A decoded message, and who signed it (None: nobody, or nobody here can tell)."""

    value: dict[str, Any]
    key_id: str | None


class Keys(Protocol):
    """The keys of a project, as `amqpq.message.Codec` has them."""

    @property
    def signer(self) -> Signer | None:
        """Signs what goes out; None where nothing is signed."""

    @property
    def verifier(self) -> Verifier:
        """Checks what comes in."""


class ControlCodec:
    """Writes and reads control messages with the keys of a codec.

    Args:
        codec: Its signer and its verifier count.
        required: Whether requests must be signed. A request that is not is then read only if it is as short as a ping;
            who may answer what is decided by the caller.
        clock: Seconds since the epoch.
        seen: The memory against replays; for workers.
    """

    def __init__(
        self,
        codec: Keys,
        *,
        required: bool,
        clock: Callable[[], float] = time.time,
        seen: SeenIds | None = None,
    ) -> None:
        self._codec = codec
        self._required = required
        self._clock = clock
        self._seen = seen

    # --------------------------------------------------------------------------------------------------------- writing

    def encode_request(self, request: Request, *, clock: int = 1) -> tuple[bytes, Properties]:
        """Write a request for the mailboxes of workers.

        Args:
            request: It; a ticket makes it one of its kind.
            clock: Celery's logical clock.

        Raises:
            KeyProblem: It has to be signed and the key is not there.
            MessageTooLarge: It takes more than `MAX_BYTES`.
        """
        value = {
            "method": request.method,
            "arguments": dict(request.arguments),
            "destination": None if request.destination is None else list(request.destination),
            "pattern": request.pattern,
            "matcher": request.matcher,
            "ticket": request.ticket,
        }
        if request.reply_to is not None:
            value["reply_to"] = {"exchange": REPLIES.name, "routing_key": request.reply_to}
        return self._encode(REQUEST, value, route_text(REQUESTS.name, ""), {CLOCK: clock})

    def encode_reply(
        self, worker: str, answer: object, request: Request, *, clock: int = 1
    ) -> tuple[bytes, Properties]:
        """Write a worker's answer; what JSON cannot hold is written as its repr.

        Raises:
            MessageTooLarge: It takes more than `MAX_BYTES`.
        """
        route = route_text(REPLIES.name, request.reply_to or "")
        return self._encode(REPLY, {worker: answer}, route, {TICKET: request.ticket, CLOCK: clock})

    def encode_revocation(self, queue: str, value: Mapping[str, Any]) -> tuple[bytes, Properties]:
        """Write an entry for the queue of revocations."""
        return self._encode(REQUEST, dict(value), route_text("", queue), {}, persistent=True)

    def _encode(
        self, kind: str, value: Mapping[str, Any], route: str, headers: dict[str, Any], *, persistent: bool = False
    ) -> tuple[bytes, Properties]:
        body = json.dumps(value, default=repr, separators=(",", ":")).encode()
        if len(body) > MAX_BYTES:
            raise MessageTooLarge(
                f"a control message takes {len(body)} bytes, {MAX_BYTES} are allowed; ask for less at once"
            )
        now = self._clock()
        properties = Properties(
            "application/json", "utf-8", headers, PERSISTENT if persistent else _TRANSIENT, timestamp=int(now)
        )
        signer = self._codec.signer
        if signer is not None:
            headers[KEY_ID] = signer.key_id
            headers[SIGNED_AT] = int(now * 1000)
            headers[ROUTE] = route
            headers[SIGNATURE] = signature_text(signer.sign(control_bytes(kind, properties, body)))
        return body, properties

    # --------------------------------------------------------------------------------------------------------- reading

    def decode_request(self, body: bytes, properties: Properties) -> Incoming:
        """Read a request: size, signature, replay, content type, JSON; in this order.

        Raises:
            RemoteMessageError: One of its subclasses; nothing else, whatever the message is.
        """
        _bound(body, MAX_BYTES)
        stamp = self._verify(REQUEST, body, properties, route_text(REQUESTS.name, ""), CONTROL)
        if stamp is None and self._required and len(body) > UNSIGNED_BYTES:
            raise SignatureMissing(
                f"a control message of {len(body)} bytes is unsigned, and security.control is 'signed'"
            )
        if stamp is not None:
            self._admit(stamp)
        return Incoming(_load(body, properties), None if stamp is None else stamp.key_id)

    def decode_reply(self, body: bytes, properties: Properties, caller: str) -> dict[str, Any]:
        """Read an answer; where results must be signed, answers must be.

        Raises:
            RemoteMessageError: One of its subclasses.
        """
        _bound(body, MAX_BYTES)
        stamp = self._verify(REPLY, body, properties, route_text(REPLIES.name, caller), RESULTS)
        if stamp is None and self._codec.verifier.required:
            raise SignatureMissing("an answer is unsigned, and security.require is 'signed'")
        return _load(body, properties)

    def decode_revocation(self, body: bytes, properties: Properties, queue: str) -> dict[str, Any]:
        """Read an entry of the queue of revocations, however old. It must be signed where messages must be.

        Raises:
            RemoteMessageError: One of its subclasses.
        """
        _bound(body, MAX_BYTES)
        stamp = self._verify(REQUEST, body, properties, route_text("", queue), CONTROL)
        if stamp is None and self._codec.verifier.required:
            raise SignatureMissing("a revocation is unsigned, and security.require is 'signed'")
        return _load(body, properties)

    def _verify(self, kind: str, body: bytes, properties: Properties, route: str, word: str) -> Stamp | None:
        """Check the signature; None where there is none that counts."""
        headers: Table = properties.headers
        signature = headers.get(SIGNATURE)
        verifier = self._codec.verifier
        if signature is None or not verifier.looks:
            return None
        key_id, signed_at = headers.get(KEY_ID), headers.get(SIGNED_AT)
        if not (isinstance(signature, str) and isinstance(key_id, str) and type(signed_at) is int):
            raise SignatureInvalid("the headers amqpq-sig, amqpq-kid and amqpq-ts do not have the types of a signature")
        stamp = Stamp(key_id, signed_at, signature)
        try:
            data = control_bytes(kind, properties, body)
        except UNENCODABLE as error:
            raise SignatureInvalid(f"a signed field holds what no signature can cover: {short(error)}") from error
        verifier.verify(stamp, data, task=None, now=self._clock(), word=word)
        if headers.get(ROUTE) != route:
            raise Replayed(
                f"the message was signed for {headers.get(ROUTE)!r} and came by {route!r}: somebody moved it"
            )
        return stamp

    def _admit(self, stamp: Stamp) -> None:
        """Refuse an old request, and one that came before: orders are for now, unlike tasks."""
        window = self._codec.verifier.replay_window_seconds
        age = self._clock() - stamp.signed_at_ms / 1000
        if age > window:
            raise Replayed(
                f"the control message was signed {age:.0f} s ago; security.replay_window allows {window:.0f} s "
                "(are the clocks of both hosts right?)"
            )
        if self._seen is not None and not self._seen.admit(
            "control", stamp.signed_at_ms, stamp.signature, redelivered=False
        ):
            raise Replayed("the control message came before: somebody published it again")


def _bound(body: bytes, limit: int) -> None:
    if len(body) > limit:
        raise OversizeMessage(f"a control message has {len(body)} bytes, {limit} are allowed")


def _load(body: bytes, properties: Properties) -> dict[str, Any]:
    if properties.content_type != "application/json" or properties.headers.get("compression"):
        raise ContentRefused(f"control messages are plain JSON, not {properties.content_type!r}")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"a control message is no JSON: {short(error)}") from error
    if not isinstance(value, dict):
        raise Undecodable(f"a control message is not a mapping but {type(value).__name__}")
    return value


def read_request(value: Mapping[str, Any]) -> Request:
    """Return the request that a decoded message describes.

    Raises:
        Undecodable: It describes none; the message names the field.
    """
    method = value.get("method")
    if not isinstance(method, str) or not method:
        raise _wrong("method", "a name", method)
    arguments = value.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise _wrong("arguments", "a mapping", arguments)
    destination = value.get("destination")
    if destination is not None and not _texts(destination):
        raise _wrong("destination", "a list of names", destination)
    reply_to = value.get("reply_to")
    key: str | None = None
    if reply_to is not None:
        if not isinstance(reply_to, dict) or not isinstance(reply_to.get("routing_key"), str):
            raise _wrong("reply_to", "an exchange and a key", reply_to)
        if reply_to.get("exchange") != REPLIES.name:
            # Answers would go wherever the sender likes, with our permissions.
            raise Undecodable(
                f"the control message's reply_to: answers go through {REPLIES.name!r} only, not {reply_to.get('exchange')!r:.60}"
            )
        key = reply_to["routing_key"]
    return Request(
        method,
        arguments or {},
        tuple(destination) if destination else None,
        _text(value, "pattern"),
        _text(value, "matcher"),
        _text(value, "ticket"),
        key,
    )


def write_revocation(ids: Sequence[str], until: float) -> dict[str, Any]:
    """Return the entry for these ids; they count until then, seconds since the epoch."""
    if not ids:
        raise LocalError("no task id to revoke")
    return {"method": "revoke", "ids": list(ids), "until": until}


def read_revocation(entry: Mapping[str, Any]) -> tuple[list[str], float] | None:
    """Return ids and until when they count; None for an entry of another kind, such as a mark."""
    ids, until = entry.get("ids"), entry.get("until")
    if entry.get("method") != "revoke" or not isinstance(ids, list) or isinstance(until, bool):
        return None
    if not isinstance(until, int | float) or not all(isinstance(each, str) for each in ids):
        return None
    return ids, float(until)


def _text(value: Mapping[str, Any], name: str) -> str | None:
    found = value.get(name)
    if found is None or isinstance(found, str):
        return found
    raise _wrong(name, "text", found)


def _texts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(each, str) for each in value)


def _wrong(name: str, wanted: str, got: object) -> Undecodable:
    return Undecodable(f"the control message's {name} is not {wanted} but {type(got).__name__}")
