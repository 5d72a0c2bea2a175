"""The wire, read by the other side: what Celery's own code writes is read here, and what is written here Celery's own code runs.

No broker is needed for that. Celery publishes into a channel that keeps the message as its AMQP transport would hand it over,
and reads messages that were put together from our properties.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import celery
import kombu
import kombu.message
import kombu.serialization
import pytest
from celery import states
from celery.worker.request import Request

from amqpq.errors import RemoteError
from amqpq.message import Codec, Encoding, ResultEnvelope, Rules, TaskEnvelope
from amqpq.message.failure import describe, rebuild
from amqpq.security.signing import HmacKey, Verifier
from amqpq.types import Properties

FORMATS = [
    ("json", None),
    ("json", "zlib"),
    ("json", "bzip2"),
    ("msgpack", None),
    ("msgpack", "zlib"),
    ("msgpack", "bzip2"),
]
SERIALIZERS = ["json", "msgpack", "yaml", "pickle"]


class StockError(Exception):
    """An application's own exception, known on both sides."""


@dataclass
class Sent:
    """One message as Celery's transport would write it."""

    body: bytes
    properties: Properties
    exchange: str
    routing_key: str


class Wire:
    """A channel that keeps what is published, and nods to everything else."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.connection = SimpleNamespace(client=kombu.Connection("memory://"))
        self.is_evented = False
        self.channel_id = 1

    def prepare_message(
        self, body: Any, priority: Any, content_type: Any, content_encoding: Any, headers: Any, properties: Any
    ) -> Sent:
        """Make a message of what kombu has encoded, as kombu's AMQP transport does."""
        kept = Properties(
            content_type=content_type,
            content_encoding=content_encoding,
            headers=dict(headers or {}),
            priority=priority,
            delivery_mode=properties.get("delivery_mode"),
            correlation_id=properties.get("correlation_id"),
            reply_to=properties.get("reply_to"),
            expiration=int(properties["expiration"]) if properties.get("expiration") else None,
        )
        return Sent(body.encode() if isinstance(body, str) else bytes(body), kept, "", "")

    def basic_publish(self, message: Sent, exchange: str = "", routing_key: str = "", **_options: Any) -> None:
        """Keep it."""
        self.sent.append(replace(message, exchange=exchange, routing_key=routing_key))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: None


@pytest.fixture
def app() -> Iterator[Any]:
    """Return a Celery application with three tasks, that accepts every format."""
    application = celery.Celery("shop", broker="memory://", backend="rpc://", set_as_current=False)
    application.conf.update(accept_content=SERIALIZERS, task_serializer="json", worker_hijack_root_logger=False)

    @application.task(name="tasks.add", shared=False)
    def add(x: Any, y: Any = 1) -> Any:
        return x + y

    @application.task(name="tasks.fail", shared=False)
    def fail(text: str) -> None:
        raise StockError(text, 5)

    @application.task(name="tasks.context", bind=True, shared=False)
    def context(self: Any) -> dict[str, Any]:
        names = ("id", "root_id", "parent_id", "group", "retries", "expires", "reply_to", "correlation_id", "shadow")
        return {
            **{name: getattr(self.request, name) for name in names},
            "timelimit": self.request.timelimit,
            "tenant": self.request.get("tenant"),
            "callbacks": self.request.callbacks,
        }

    yield application
    application.close()


def codec(*, signed: bool = True, serializer: str = "msgpack", compression: str | None = None) -> Codec:
    """Return a codec with a key; it reads unsigned messages too, as one that has Celery peers must."""
    key = HmacKey("producer-a", b"k" * 32)
    return Codec(
        Rules(serializer, ("msgpack", "json", "yaml", "pickle"), compression, compress_above=0),
        signer=key if signed else None,
        verifier=Verifier({"producer-a": key.own_trust()}, required=False, replay_window_seconds=600),
    )


def celery_sends(app: Any, name: str, args: Any = (), kwargs: Any = None, **options: Any) -> Sent:
    """Return what `send_task` publishes."""
    wire = Wire()
    app.send_task(name, args, kwargs or {}, producer=kombu.Producer(wire), declare=[], exchange="x", **options)
    (sent,) = wire.sent
    return sent


def celery_message(body: bytes, properties: Properties) -> kombu.message.Message:
    """Return what kombu makes of a message of ours."""
    return kombu.message.Message(
        body=body,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=dict(properties.headers),
        properties={
            "correlation_id": properties.correlation_id,
            "reply_to": properties.reply_to,
            "priority": properties.priority,
        },
        delivery_info={"exchange": "x", "routing_key": "k", "redelivered": False},
        accept=[kombu.serialization.registry.name_to_type[name] for name in SERIALIZERS],
    )


def celery_runs(app: Any, body: bytes, properties: Properties) -> Any:
    """Let Celery's worker code run a message of ours, and return what the task returned or raised."""
    message = celery_message(body, properties)
    request = Request(message, app=app, task=app.tasks[message.headers["task"]])
    return request.execute()


# ---------------------------------------------------------------------------------------------------- Celery -> amqpq


@pytest.mark.parametrize("serializer,compression", FORMATS)
def test_a_task_that_celery_sends_is_read(app: Any, serializer: str, compression: str | None) -> None:
    """Arguments, ids, reply address, priority and expiry arrive, in every format."""
    sent = celery_sends(
        app,
        "tasks.add",
        (2, "größe"),
        {"y": [1, None, {"a": 2.5}], "pad": "x" * 300},
        task_id="5a1e",
        serializer=serializer,
        compression=compression,
        priority=7,
        expires=60,
        countdown=5,
        time_limit=30,
        soft_time_limit=20,
        retries=2,
        shadow="nice",
        headers={"tenant": "acme"},
        link=app.signature("tasks.add", (5,)),
        reply_to="answers",
    )
    assert ("compression" in sent.properties.headers) == (compression is not None)
    envelope = codec().decode_task(sent.body, sent.properties)
    assert (envelope.task, envelope.id, envelope.root_id) == ("tasks.add", "5a1e", "5a1e")
    assert envelope.args == [2, "größe"]
    assert envelope.kwargs == {"y": [1, None, {"a": 2.5}], "pad": "x" * 300}
    assert (envelope.priority, envelope.retries, envelope.shadow, envelope.timelimit) == (7, 2, "nice", (30, 20))
    assert envelope.reply_to == "answers"
    assert envelope.correlation_id == "5a1e"
    assert "@" in envelope.origin
    assert envelope.headers == {"tenant": "acme"}
    assert list(envelope.embed) == ["callbacks"]
    assert envelope.embed["callbacks"][0]["task"] == "tasks.add"
    eta, expires = (datetime.fromisoformat(each or "") for each in (envelope.eta, envelope.expires))
    assert expires - eta == pytest.approx(timedelta(seconds=55), abs=timedelta(seconds=5))


@pytest.mark.parametrize("serializer", ["yaml", "pickle"])
def test_a_task_in_celerys_other_formats_is_read_as_far_as_is_safe(app: Any, serializer: str) -> None:
    """YAML is read; an unsigned pickle never."""
    sent = celery_sends(app, "tasks.add", (2, 3), serializer=serializer)
    if serializer == "yaml":
        assert codec().decode_task(sent.body, sent.properties).args == [2, 3]
    else:
        with pytest.raises(Exception, match="pickle is read only from a signed message"):
            codec().decode_task(sent.body, sent.properties)


def test_a_task_of_celerys_old_protocol_is_refused_with_the_setting_to_change(app: Any) -> None:
    """Protocol 1 went out of use with Celery 4."""
    app.conf.task_protocol = 1
    sent = celery_sends(app, "tasks.add", (2, 3))
    with pytest.raises(Exception, match="task_protocol = 2"):
        codec().decode_task(sent.body, sent.properties)


def test_dates_decimals_and_ids_that_celery_sends_keep_their_type(app: Any) -> None:
    """kombu's JSON marks are read."""
    rich = [datetime(2026, 11, 21, tzinfo=UTC), date(2026, 11, 21), Decimal("1.10"), uuid.UUID(int=5), b"ab", b"\xff"]
    sent = celery_sends(app, "tasks.add", rich)
    assert codec().decode_task(sent.body, sent.properties).args == rich


def celery_result(app: Any, result: Any, state: str, *, serializer: str, traceback: str | None = None) -> Sent:
    """Return the result message that Celery's rpc backend publishes."""
    wire = Wire()
    backend = app.backend
    backend.serializer = serializer
    meta = backend._to_result("5a1e", state, backend.encode_result(result, state), traceback, None)
    kombu.Producer(wire).publish(meta, routing_key="answers", correlation_id="5a1e", serializer=serializer)
    return wire.sent[0]


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml"])
def test_a_result_that_celery_sends_is_read(app: Any, serializer: str) -> None:
    """Value and state."""
    sent = celery_result(app, {"sum": 5}, states.SUCCESS, serializer=serializer)
    envelope = codec().decode_result(sent.body, sent.properties)
    assert envelope == ResultEnvelope("5a1e", "SUCCESS", {"sum": 5})


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_failure_that_celery_sends_becomes_the_same_exception(app: Any, serializer: str) -> None:
    """Class, arguments and traceback."""
    sent = celery_result(
        app, StockError("sold out", 5), states.FAILURE, serializer=serializer, traceback="Traceback: x"
    )
    envelope = codec().decode_result(sent.body, sent.properties)
    error = rebuild(envelope.result, envelope.traceback)
    assert type(error) is StockError
    assert error.args == ("sold out", 5)
    assert "Traceback: x" in str(error.__cause__)


# ---------------------------------------------------------------------------------------------------- amqpq -> Celery


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("serializer,compression", FORMATS)
def test_a_task_of_ours_runs_in_celery(app: Any, serializer: str, compression: str | None, signed: bool) -> None:
    """Celery's worker code reads and runs it, signed or not."""
    writer = codec(signed=signed, serializer=serializer, compression=compression)
    body, properties = writer.encode_task(
        TaskEnvelope("5a1e", "tasks.add", ("ab" * 300,), {"y": "größe"}), exchange="x", key="k"
    )
    assert ("compression" in properties.headers) == (compression is not None)
    assert celery_runs(app, body, properties) == "ab" * 300 + "größe"


def test_the_context_of_a_task_of_ours_is_what_celery_shows_the_task(app: Any) -> None:
    """Every header arrives in the request, and absent ones are Celery's defaults."""
    full = TaskEnvelope(
        "5a1e",
        "tasks.context",
        root_id="r",
        parent_id="p",
        group="g",
        retries=2,
        expires="2096-11-21T10:00:00+00:00",
        timelimit=(30, 20.5),
        shadow="nice",
        reply_to="answers",
        embed={"callbacks": []},
        headers={"tenant": "acme"},
    )
    seen = celery_runs(app, *codec(serializer="json").encode_task(full, exchange="x", key="k"))
    assert seen == {
        "id": "5a1e",
        "root_id": "r",
        "parent_id": "p",
        "group": "g",
        "retries": 2,
        "expires": "2096-11-21T10:00:00+00:00",
        "reply_to": "answers",
        "correlation_id": "5a1e",
        "shadow": "nice",
        "timelimit": [30, 20.5],
        "tenant": "acme",
        "callbacks": [],
    }
    least = celery_runs(
        app, *codec(serializer="json").encode_task(TaskEnvelope("1", "tasks.context"), exchange="", key="")
    )
    assert (least["retries"], least["timelimit"], least["callbacks"], least["tenant"]) == (0, None, None, None)


def test_dates_decimals_and_ids_that_we_send_keep_their_type_in_celery(app: Any) -> None:
    """Our JSON is kombu's."""
    rich = [datetime(2026, 11, 21, tzinfo=UTC), date(2026, 11, 21), Decimal("1.10"), uuid.UUID(int=5), b"ab", b"\xff"]
    body, properties = codec(serializer="json").encode_task(
        TaskEnvelope("1", "tasks.add", [rich], {"y": []}), exchange="x", key="k"
    )
    assert celery_runs(app, body, properties) == rich


def read_by_celery(app: Any, body: bytes, properties: Properties) -> dict[str, Any]:
    """Return what Celery's rpc backend makes of a result of ours."""
    meta: dict[str, Any] = app.backend.meta_from_decoded(celery_message(body, properties).payload)
    return meta


@pytest.mark.parametrize("serializer,compression", FORMATS)
def test_a_result_of_ours_is_read_by_celerys_rpc_backend(app: Any, serializer: str, compression: str | None) -> None:
    """State, value, and that it is final."""
    body, properties = codec().encode_result(
        ResultEnvelope("5a1e", "SUCCESS", {"sum": 5, "pad": "x" * 300}),
        reply_to="answers",
        encoding=Encoding(serializer=serializer, compression=compression),
    )
    meta = read_by_celery(app, body, properties)
    assert (meta["task_id"], meta["status"], meta["result"]["sum"]) == ("5a1e", "SUCCESS", 5)
    result = app.AsyncResult("5a1e")
    result._maybe_set_cache(meta)
    assert result.get(disable_sync_subtasks=False) == {"sum": 5, "pad": "x" * 300}
    assert result.successful()


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_failure_of_ours_is_raised_by_celery_as_the_same_exception(app: Any, serializer: str) -> None:
    """Class, arguments and traceback, through `AsyncResult.get`."""
    body, properties = codec().encode_result(
        ResultEnvelope("5a1e", "FAILURE", describe(StockError("sold out", 5)), "Traceback: x"),
        reply_to="answers",
        encoding=Encoding(serializer=serializer),
    )
    result = app.AsyncResult("5a1e")
    result._maybe_set_cache(read_by_celery(app, body, properties))
    with pytest.raises(StockError) as caught:
        result.get(disable_sync_subtasks=False)
    assert caught.value.args == ("sold out", 5)
    assert result.traceback == "Traceback: x"


def test_a_failure_of_a_class_that_celery_does_not_know_keeps_its_name(app: Any) -> None:
    """Celery makes up a class of that name."""
    description = describe(RemoteError("OddError", ["odd"], "somewhere.else"))
    body, properties = codec().encode_result(
        ResultEnvelope("5a1e", "FAILURE", description), reply_to="answers", encoding=Encoding(serializer="json")
    )
    error = read_by_celery(app, body, properties)["result"]
    assert type(error).__name__ == "OddError"
    assert error.args == ("odd",)


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_failing_task_of_ours_fails_in_celery_with_its_own_exception(app: Any, serializer: str) -> None:
    """The whole way round: our task, Celery's failure, our exception."""
    body, properties = codec(serializer=serializer).encode_task(
        TaskEnvelope("5a1e", "tasks.fail", ("sold out",)), exchange="x", key="k"
    )
    failure = celery_runs(app, body, properties)
    sent = celery_result(app, failure.exception, states.FAILURE, serializer=serializer)
    envelope = codec().decode_result(sent.body, sent.properties)
    assert rebuild(envelope.result).args == ("sold out", 5)
