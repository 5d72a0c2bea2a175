"""The wire, in one table: every header and property amqpq writes or reads, with type and meaning.

It is Celery's message protocol 2 in its minimal form, plus headers of ours that begin with `amqpq-` and that Celery
ignores. An absent header means its default; None means absent.

`signed` says whether a field is under the signature. What is not:

* what the broker may rewrite on the way (`expiration`, which dead-lettering removes; the exchange and key of the
  delivery; every `x-*` header; CC, BCC; headers its interceptors add). The intended route is signed in `amqpq-route`
  instead;
* what says the same as a signed field (`timestamp`, `message_id`), or is for the eye only (`app_id`, `lang`);
* what a worker adds to a message that it hands on as it is (`amqpq-cause`, `amqpq-crashes` and their kin): a dead
  letter can be checked by the signature it came with.

All other headers are the user's own. They are signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Field:
    """One header or property: `kind` is its type on the wire, `on` where it occurs (both: task and result)."""

    name: str
    kind: str
    on: str
    signed: bool
    meaning: str


SIGNED: Final = True
OPEN: Final = False

PROPERTIES: Final = (
    Field("content_type", "short text", "both", SIGNED, "what the body is, unpacked: see amqpq.message.serializers"),
    Field("content_encoding", "short text", "both", SIGNED, "utf-8 for JSON and YAML, else binary"),
    Field("correlation_id", "short text", "both", SIGNED, "the task's id; a caller matches replies by it"),
    Field("reply_to", "short text", "task", SIGNED, "the queue of the result; absent where none is wanted"),
    Field("priority", "0-255", "task", SIGNED, "absent is the queue's lowest"),
    Field("expiration", "milliseconds", "both", OPEN, "per-message TTL of the broker; `expires` is the signed truth"),
    Field("delivery_mode", "1 or 2", "both", OPEN, "2 survives a restart of the broker"),
    Field("message_id", "short text", "task", OPEN, "the task's id again, for tools that look there"),
    Field("timestamp", "seconds", "both", OPEN, "when it was encoded; `amqpq-ts` is the signed one"),
    Field("app_id", "short text", "both", OPEN, "the project that published it"),
)

HEADERS: Final = (
    # Celery's, of a task
    Field("lang", "text", "task", OPEN, "the language of the sender: py"),
    Field("task", "text", "task", SIGNED, "the task's name"),
    Field("id", "text", "task", SIGNED, "the task's id"),
    Field("root_id", "text", "task", SIGNED, "the first task of the tree; absent: this one"),
    Field("parent_id", "text", "task", SIGNED, "the task that sent this one"),
    Field("group", "text", "task", SIGNED, "the group it belongs to"),
    Field("retries", "int", "task", SIGNED, "how often it was tried before; absent: 0"),
    Field("eta", "text", "task", SIGNED, "not before: ISO 8601 with offset"),
    Field("expires", "text", "task", SIGNED, "not after: ISO 8601 with offset"),
    Field("timelimit", "array of 2", "task", SIGNED, "hard and soft limit, seconds or void"),
    Field("origin", "text", "task", SIGNED, "who sent it: name@host"),
    Field("shadow", "text", "task", SIGNED, "the name to show instead of the task's"),
    Field("ignore_result", "bool", "task", SIGNED, "no result is wanted"),
    # Celery's, of any message (kombu writes it)
    Field("compression", "text", "both", SIGNED, "application/x-gzip (zlib format) or application/x-bz2"),
    # ours
    Field("amqpq-sig", "text", "both", OPEN, "the signature, base64"),
    Field("amqpq-kid", "text", "both", SIGNED, "the id of the key that signed"),
    Field("amqpq-ts", "int", "both", SIGNED, "when it was signed, milliseconds since the epoch"),
    Field(
        "amqpq-route",
        "text",
        "both",
        SIGNED,
        "exchange/key it was meant for; see route_text",
    ),
    # ours, added by a worker that hands a message on as it is
    Field("amqpq-crashes", "int", "task", OPEN, "how many worker processes died of it"),
    Field("amqpq-retries", "int", "task", OPEN, "how often a worker sent it again; added to the signed `retries`"),
    Field(
        "amqpq-attempt-log", "array", "task", OPEN, "the latest attempts that failed: tables of at, host, worker, error"
    ),
    Field("amqpq-suspicions", "int", "task", OPEN, "how often it was marked as one that may kill workers"),
    Field("amqpq-suspect", "bool", "task", OPEN, "this copy has that mark: if it comes back, it counts"),
    Field("amqpq-requeues", "int", "task", OPEN, "how often it was sent back from the dead letters"),
    Field("amqpq-returned", "text", "task", OPEN, "which dead letter it was sent back from: digest and queue"),
    Field("amqpq-edited-by", "text", "task", OPEN, "who edited it among the dead letters: key id@host"),
    # ours, the delay ladder's: where a message that waits is to go; what it may do is under the signature
    Field("amqpq-due", "int", "task", OPEN, "when it is due, milliseconds since the epoch; `eta` is the signed truth"),
    Field("amqpq-delay-<level>", "int", "task", OPEN, "it waits on that rung of the level: see amqpq.topology.delays"),
    Field("amqpq-to-<queue>", "bool", "task", OPEN, "and goes to that queue then"),
    Field("amqpq-cause", "text", "dead letter", OPEN, "why: the `cause` of an error in amqpq.errors"),
    Field("amqpq-reason", "text", "dead letter", OPEN, "the same in a sentence"),
    Field("amqpq-traceback", "text", "dead letter", OPEN, "the traceback of the last attempt"),
    Field("amqpq-host", "text", "dead letter", OPEN, "the host of the worker"),
    Field("amqpq-worker", "text", "dead letter", OPEN, "the worker's name"),
    Field("amqpq-queue", "text", "dead letter", OPEN, "the queue it was taken from"),
    Field("amqpq-exchange", "text", "dead letter", OPEN, "the exchange it had come through"),
    Field("amqpq-key", "text", "dead letter", OPEN, "and the routing key"),
    Field("amqpq-attempts", "int", "dead letter", OPEN, "how often it was tried"),
    Field("amqpq-exit-code", "int", "dead letter", OPEN, "of the worker process that died of it"),
    Field("amqpq-signal", "text", "dead letter", OPEN, "the signal that killed that process"),
    Field("amqpq-peak-memory", "int", "dead letter", OPEN, "the most memory that process held, bytes"),
    Field("amqpq-last-logs", "text", "dead letter", OPEN, "the last lines of its log"),
    Field("amqpq-delivery-count", "int", "dead letter", OPEN, "how often a quorum queue had handed it out before"),
    Field("amqpq-first-failed", "text", "dead letter", OPEN, "ISO 8601, UTC"),
    Field("amqpq-last-failed", "text", "dead letter", OPEN, "ISO 8601, UTC"),
    # Celery's that are read past: nothing here acts on them, and no message of ours carries them
    Field("argsrepr", "text", "task", OPEN, "the arguments in clear, for Celery's logs"),
    Field("kwargsrepr", "text", "task", OPEN, "the same"),
    Field("group_index", "int", "task", OPEN, "position in the group"),
    Field("replaced_task_nesting", "int", "task", OPEN, "depth of Task.replace"),
    Field("stamped_headers", "array", "task", OPEN, "names of stamps"),
    Field("stamps", "table", "task", OPEN, "stamps"),
    # the broker's
    Field("CC", "array", "both", OPEN, "further routing keys"),
    Field("BCC", "array", "both", OPEN, "further routing keys, removed by the broker"),
    Field("timestamp_in_ms", "int", "both", OPEN, "added by RabbitMQ's timestamp interceptor"),
)

RESERVED: Final = frozenset(header.name for header in HEADERS)
"""Header names that are not the user's. So are those beginning with `OUR_PREFIX` or `BROKER_PREFIX`."""

OUR_PREFIX: Final = "amqpq-"
BROKER_PREFIX: Final = "x-"

SIGNATURE: Final = "amqpq-sig"
KEY_ID: Final = "amqpq-kid"
SIGNED_AT: Final = "amqpq-ts"
ROUTE: Final = "amqpq-route"
COMPRESSION: Final = "compression"
REQUEUES: Final = "amqpq-requeues"
RETRIES: Final = "amqpq-retries"
ATTEMPT_LOG: Final = "amqpq-attempt-log"
RETURNED: Final = "amqpq-returned"


@lru_cache(maxsize=512)
def route_text(exchange: str, key: str) -> str:
    """Return the intended route as one text: `exchange/key`, with `%` and `/` in the exchange's name escaped.

    The same object each time: what writes the headers knows it again (`amqpq.transport.fields`).
    """
    if "/" in exchange or "%" in exchange:
        exchange = exchange.replace("%", "%25").replace("/", "%2F")
    return f"{exchange}/{key}"
