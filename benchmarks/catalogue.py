"""The rows of the benchmark, and what each of them has switched on.

Everybody publishes persistent messages to a durable classic queue and acknowledges after the task ran. What a library
does not do, or not by default, is said in words; where its default is the weaker one, the stronger has its own row.
No worker writes a line per task, but for the row "logged", which has amqpq's default log.
"""

from __future__ import annotations

from benchmarks.contender import Entry, Facts

BARE_SCALE = 10
"""Bare drivers and batches publish 10,000 to 40,000 a second: ten times the messages keep the measured time above 0.2 s."""

C_SCALE = 30


def _bare(confirm: str, replies: str = "1 exclusive queue per client", persistent: str = "tasks, results") -> Facts:
    return Facts(
        confirm=confirm,
        late_ack="yes",
        signing="no",
        persistent=persistent,
        replies=replies,
        worker="1 process",
    )


def _celery(confirm: str, worker: str) -> Facts:
    return Facts(
        confirm=confirm,
        late_ack="yes (set)",
        signing="no",
        persistent="tasks",
        replies="rpc://, 1 queue per client",
        worker=worker,
    )


def _dramatiq(confirm: str) -> Facts:
    return Facts(
        confirm=confirm,
        late_ack="yes",
        signing="no",
        persistent="tasks",
        replies="none on RabbitMQ",
        worker="2 processes x 4 threads",
    )


def _ours(signing: str, replies: str = "1 durable queue per task", confirm: str = "each") -> Facts:
    return Facts(
        confirm=confirm,
        late_ack="yes",
        signing=signing,
        persistent="tasks, results",
        replies=replies,
        worker="prefork, 2 processes",
    )


def _many(
    name: str, signing: str, *, calls: int = 2, quick: bool = False, direct: bool = False, **options: str
) -> Entry:
    """Return a row of ours that publishes many messages together; `options` say how, see `contenders.ours`."""
    if direct:
        options["reply"] = "direct"
    facts = _ours(
        {"hmac-sha256": "HMAC-SHA256", "ed25519": "Ed25519"}[signing],
        "direct reply-to" if direct else "1 durable queue per task",
        confirm="each, gathered",
    )
    return Entry(name, "ours", facts, {"signing": signing, **options}, scale=BARE_SCALE, calls=calls, quick=quick)


def _asyncio(replies: str) -> Facts:
    return Facts(
        confirm="each (default)",
        late_ack="yes (default)",
        signing="no",
        persistent="tasks",
        replies=replies,
        worker="2 processes",
    )


FLOORS: tuple[Entry, ...] = (
    Entry(
        "librabbitmq (C)",
        "librabbitmq",
        _bare("none; 1 per batch", "direct reply-to", "tasks"),
        {"confirm": "no"},
        scale=C_SCALE,
        calls=BARE_SCALE,
    ),
    Entry(
        "librabbitmq (C), confirms",
        "librabbitmq",
        _bare("each, gathered", "direct reply-to", "tasks"),
        {"confirm": "yes"},
        scale=C_SCALE,
        calls=BARE_SCALE,
    ),
    Entry("py-amqp", "bare_amqp", _bare("none"), {"confirm": "no"}, scale=BARE_SCALE, calls=BARE_SCALE),
    Entry("py-amqp, confirms", "bare_amqp", _bare("each"), {"confirm": "yes"}, scale=2, calls=2, quick=True),
    Entry(
        "py-amqp, direct",
        "bare_replies",
        _bare("each, gathered", "direct reply-to", "tasks"),
        {"reply": "direct"},
        scale=BARE_SCALE,
        calls=BARE_SCALE,
    ),
    Entry(
        "py-amqp, queue per task",
        "bare_replies",
        _bare("each, gathered", "1 durable queue per task"),
        {"reply": "task"},
        scale=BARE_SCALE,
        calls=2,
    ),
    Entry("pika", "bare_pika", _bare("none"), {"confirm": "no"}, scale=BARE_SCALE, calls=BARE_SCALE, quick=True),
    Entry("pika, confirms", "bare_pika", _bare("each"), {"confirm": "yes"}, scale=2, calls=2),
)

OURS: tuple[Entry, ...] = (
    Entry("amqpq, Ed25519", "ours", _ours("Ed25519"), {"signing": "ed25519"}, quick=True),
    Entry("amqpq, HMAC", "ours", _ours("HMAC-SHA256"), {"signing": "hmac-sha256"}),
    Entry("amqpq, unsigned", "ours", _ours("no"), {"signing": "off"}),
    Entry(
        "amqpq, HMAC, direct",
        "ours",
        _ours("HMAC-SHA256", "direct reply-to"),
        {"signing": "hmac-sha256", "reply": "direct"},
    ),
    _many("amqpq, HMAC, batch", "hmac-sha256", batch="yes"),
    _many("amqpq, HMAC, stream", "hmac-sha256", batch="stream", quick=True),
    _many("amqpq, HMAC, stream, JSON", "hmac-sha256", batch="stream", serializer="json"),
    _many("amqpq, HMAC, batch, logged", "hmac-sha256", batch="yes", log="info"),
    _many("amqpq, Ed25519, batch", "ed25519", batch="yes"),
    _many("amqpq, Ed25519, stream", "ed25519", batch="stream"),
    _many("amqpq, HMAC, direct, batch", "hmac-sha256", calls=BARE_SCALE, direct=True, batch="yes"),
)

RIVALS: tuple[Entry, ...] = (
    Entry(
        "Celery prefork", "celery", _celery("none (default)", "prefork, 2 processes"), {"pool": "prefork"}, quick=True
    ),
    Entry(
        "Celery prefork, confirms",
        "celery",
        _celery("each task", "prefork, 2 processes"),
        {"pool": "prefork", "confirm": "yes"},
    ),
    Entry("Celery solo", "celery", _celery("none (default)", "solo, 1 process"), {"pool": "solo"}),
    Entry("dramatiq", "dramatiq", _dramatiq("none (default)"), {"confirm": "no"}, scale=5, results=False, quick=True),
    Entry("dramatiq, confirms", "dramatiq", _dramatiq("each"), {"confirm": "yes"}, results=False),
    Entry("taskiq", "taskiq", _asyncio("none on RabbitMQ"), results=False),
    Entry("FastStream", "faststream", _asyncio("direct reply-to, one at a time")),
)

ENTRIES: tuple[Entry, ...] = (*FLOORS, *OURS, *RIVALS)
