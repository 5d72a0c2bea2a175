"""Remote control of a worker on the in-memory broker: what may be asked, what may be told, and by whom."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import TaskRevoked
from amqpq.message.control import REQUESTS, ControlCodec, Request
from amqpq.testing.memory import MemoryBroker
from amqpq.transport import flow
from amqpq.transport.interface import Channel, Flow, Pending
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Properties, Publication, QueueSpec

DEADLINE_SECONDS = 20.0
WORKER = ["w1@test"]
JSON = Properties("application/json", "utf-8")


def wait(pending: Pending[Any]) -> Any:
    """Wait for an answer of the broker."""

    def protocol() -> Flow[Any]:
        return (yield pending)

    return flow.run(protocol(), DEADLINE_SECONDS)


def told(app: App, command: str, **arguments: Any) -> Any:
    """What the worker answers to a signed command."""
    (answer,) = app.control.broadcast(command, arguments, destination=WORKER, reply=True, timeout=DEADLINE_SECONDS)
    return answer["w1@test"]


class Listener:
    """A queue of a test's own, with answers or events in it."""

    def __init__(self, broker: MemoryBroker, exchange: ExchangeSpec, key: str) -> None:
        self.channel: Channel = broker.connect().channel()
        wait(self.channel.declare_exchange(exchange))
        wait(self.channel.declare_queue(QueueSpec("listener")))
        wait(self.channel.bind(BindingSpec(exchange.name, "listener", key)))

    def next(self) -> Any:
        """What is in the next message, if there is one."""
        delivery: Delivery | None = wait(self.channel.get("listener", no_ack=True))
        return None if delivery is None else json.loads(delivery.body)

    def ask(self, body: object, properties: Properties = JSON) -> None:
        """Publish a control message as it is."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        wait(self.channel.publish((Publication(REQUESTS.name, "", data, properties),)))


@pytest.fixture
def answers(broker: MemoryBroker) -> Listener:
    """Where answers to messages published by hand come."""
    return Listener(broker, ExchangeSpec("reply.celery.pidbox", "direct", durable=False), "me")


def by_hand(method: str, **arguments: Any) -> dict[str, Any]:
    """A control message as Celery's tools write it."""
    reply_to = {"exchange": "reply.celery.pidbox", "routing_key": "me"}
    return {"method": method, "arguments": arguments, "destination": None, "ticket": "t", "reply_to": reply_to}


def heard(listener: Listener, until: Callable[..., None]) -> Any:
    """Wait for the next message of a listener."""
    found: list[Any] = []
    until(lambda: found or [found.append(each) for each in [listener.next()] if each is not None])
    return found[0]


# ------------------------------------------------------------------------------------------------------------- looking


def test_a_worker_answers_and_shows_what_it_runs_and_holds(app: App, start: Any, gate: Any, until: Any) -> None:
    """Ping, active, reserved, registered and active_queues tell of this worker."""
    start(concurrency=1)
    first = app.send_task("shop.hold", ["first"])
    until(lambda: gate.begun)
    second = app.send_task("shop.hold", ["second"])
    asked = app.control.inspect(WORKER, timeout=DEADLINE_SECONDS)
    assert asked.ping() == {"w1@test": {"ok": "pong"}}
    until(lambda: [task["id"] for task in asked.reserved()["w1@test"]] == [second.id])
    (active,) = asked.active()["w1@test"]
    assert (active["id"], active["name"]) == (first.id, "shop.hold")
    assert active["time_start"] > 0
    assert asked.query_task(second.id)["w1@test"][second.id][0] == "reserved"
    assert "shop.add" in asked.registered()["w1@test"]
    assert {queue["name"] for queue in asked.active_queues()["w1@test"]} == {"default", "forgetful"}
    assert asked.scheduled()["w1@test"] == []


def test_statistics_count_the_tasks_by_name(app: App, start: Any) -> None:
    """`total` is what Celery's tools and Flower show as processed."""
    start()
    assert app.send_task("shop.add", [2, 3]).get(timeout=DEADLINE_SECONDS) == 5
    stats = told(app, "stats")
    assert stats["total"] == {"shop.add": 1}
    assert stats["amqpq"]["succeeded"] == 1
    assert stats["broker"]["transport"] == "amqp"
    assert "guest" not in json.dumps(stats["broker"]["hostname"])


def test_who_is_not_meant_does_not_answer(app: App, start: Any) -> None:
    """A destination of another name, and a pattern that does not match, are for others."""
    start()
    assert app.control.broadcast("ping", destination=["w2@test"], reply=True, timeout=0.1) == []
    assert app.control.broadcast("ping", pattern="w2@*", reply=True, timeout=0.1) == []
    found = app.control.broadcast("ping", pattern="w*@test", reply=True, timeout=DEADLINE_SECONDS, limit=1)
    assert found == [{"w1@test": {"ok": "pong"}}]


def test_without_any_worker_nobody_answers_at_once(app: App) -> None:
    """Nothing is bound to the exchange, and the broker says so: there is nothing to wait for."""
    assert app.control.ping(timeout=DEADLINE_SECONDS * 100) == []


# -------------------------------------------------------------------------------------------------------------- revoke


def test_a_task_that_waits_at_a_worker_is_revoked(app: App, start: Any, gate: Any, until: Any, broker: Any) -> None:
    """It does not begin, its caller hears it, and it is no dead letter; what runs beside it is not touched."""
    start(concurrency=1)
    first = app.send_task("shop.hold", ["first"])
    until(lambda: gate.begun)
    second = app.send_task("shop.hold", ["second"])
    until(lambda: app.control.inspect(WORKER, timeout=DEADLINE_SECONDS).reserved()["w1@test"])
    second.revoke()
    with pytest.raises(TaskRevoked, match=second.id):
        second.get(timeout=DEADLINE_SECONDS)
    assert second.state == "REVOKED"
    gate.opened.set()
    assert first.get(timeout=DEADLINE_SECONDS) == "first"
    assert gate.begun == ["first"]
    assert broker.queues()["shop.dead"].messages == 0


def test_a_task_that_the_pool_has_not_taken_is_revoked(app: App, start: Any, gate: Any, until: Any) -> None:
    """It waits in the loop behind what the pool holds; its caller hears it at once, not when its turn comes."""
    start(concurrency=1, prefetch=50)
    results = [app.send_task("shop.hold", [number]) for number in range(20)]
    until(lambda: len(app.control.inspect(WORKER, timeout=DEADLINE_SECONDS).reserved()["w1@test"]) == 19)
    results[-1].revoke()
    with pytest.raises(TaskRevoked):
        results[-1].get(timeout=DEADLINE_SECONDS)
    assert gate.begun == [0]
    gate.opened.set()
    assert [result.get(timeout=DEADLINE_SECONDS) for result in results[:-1]] == list(range(19))


def test_a_task_that_comes_later_is_revoked(app: App, start: Any) -> None:
    """The id is remembered; `revoked` lists it."""
    start()
    assert "flagged as revoked" in told(app, "revoke", task_id=["later"])["ok"]
    assert told(app, "revoked") == ["later"]
    with pytest.raises(TaskRevoked):
        app.send_task("shop.add", [1, 2], task_id="later").get(timeout=DEADLINE_SECONDS)
    assert app.send_task("shop.add", [1, 2]).get(timeout=DEADLINE_SECONDS) == 3


def test_a_forged_message_with_a_revoked_id_is_refused_and_not_answered(
    app: App, start: Any, broker: MemoryBroker, until: Any
) -> None:
    """Its reply address is not to be believed; it becomes a dead letter like every forged message."""
    start()
    told(app, "revoke", task_id=["later"])
    channel = broker.connect().channel()
    headers = {"task": "shop.add", "id": "later", "lang": "py"}
    body = json.dumps([[1, 2], {}, None]).encode()
    forged = Properties("application/json", "utf-8", headers, reply_to="victim", correlation_id="later")
    wait(channel.declare_queue(QueueSpec("victim")))
    wait(channel.publish((Publication("", "default", body, forged),)))
    until(lambda: broker.queues()["shop.dead"].messages == 1)
    assert broker.queues()["victim"].messages == 0


def test_a_thread_cannot_be_ended_and_the_answer_says_so(app: App, start: Any, gate: Any, until: Any) -> None:
    """`terminate` is refused where it cannot be kept; the task ends as it would have."""
    start(concurrency=1)
    running = app.send_task("shop.hold", ["first"])
    until(lambda: gate.begun)
    assert "cannot end a running task" in told(app, "revoke", task_id=[running.id], terminate=True)["error"]
    assert told(app, "revoke", task_id=["nobody"], terminate=True) == {"ok": "terminate: tasks unknown"}
    gate.opened.set()
    assert running.get(timeout=DEADLINE_SECONDS) == "first"


def test_without_a_stream_a_revoke_says_once_that_it_is_not_remembered(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers that start later will not know, and whoever revokes has to know that."""
    app.control.revoke("a")
    app.control.revoke("b")
    assert [record.message for record in caplog.records if "revocations" in record.message] == [
        "a revoke reaches only the workers that run now: the topology has no `control: {revocations: 7d}`"
    ]


# -------------------------------------------------------------------------------------------------------------- acting


def test_a_paused_worker_takes_nothing_until_it_resumes(app: App, start: Any, broker: Any, until: Any) -> None:
    """What comes meanwhile waits in the queue, and runs after `resume`."""
    start()
    assert told(app, "pause") == {"ok": "consuming paused"}
    until(lambda: not broker.queues()["default"].consumers)
    result = app.send_task("shop.add", [1, 2])
    assert told(app, "active_queues") == []
    assert broker.queues()["default"].messages == 1
    assert told(app, "resume") == {"ok": "consuming again"}
    assert result.get(timeout=DEADLINE_SECONDS) == 3


def test_what_runs_when_a_worker_is_paused_is_finished_once(app: App, start: Any, gate: Any, until: Any) -> None:
    """Its delivery is still its own: it is not given back and run again."""
    worker = start()
    result = app.send_task("shop.hold", ["first"])
    until(lambda: gate.begun)
    told(app, "pause")
    gate.opened.set()
    assert result.get(timeout=DEADLINE_SECONDS) == "first"
    told(app, "resume")
    assert app.send_task("shop.add", [1, 2]).get(timeout=DEADLINE_SECONDS) == 3
    assert gate.begun == ["first"]
    assert worker.loop.counts["handed over"] == 0
    assert worker.stop() == 0


def test_queues_are_added_and_cancelled_while_it_runs(app: App, start: Any, broker: Any, until: Any) -> None:
    """Only queues of the topology; a wrong name is answered with the right one."""
    start(queues=("default",))
    assert told(app, "add_consumer", queue="forgetful") == {"ok": "add consumer forgetful"}
    until(lambda: broker.queues()["forgetful"].consumers == 1)
    assert told(app, "add_consumer", queue="forgetful") == {"ok": "already consuming from forgetful"}
    assert "did you mean 'forgetful'?" in told(app, "add_consumer", queue="forgetfull")["error"]
    assert "topology file" in told(app, "add_consumer", queue="forgetful", exchange="x")["error"]
    assert told(app, "cancel_consumer", queue="forgetful") == {"ok": "no longer consuming from forgetful"}
    until(lambda: broker.queues()["forgetful"].consumers == 0)
    assert "is not consumed" in told(app, "cancel_consumer", queue="forgetful")["error"]


def test_shutdown_stops_warm(app: App, start: Any, gate: Any, until: Any) -> None:
    """What runs is finished, and its answer goes out."""
    worker = start()
    result = app.send_task("shop.hold", ["first"])
    until(lambda: gate.begun)
    assert told(app, "shutdown") == {"ok": "warm shutdown"}
    gate.opened.set()
    assert worker.wait() == 0
    assert result.get(timeout=DEADLINE_SECONDS) == "first"


# ------------------------------------------------------------------------------------------------------------ security


def test_an_unsigned_command_is_refused_logged_and_answered(
    start: Any, answers: Listener, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Where messages must be signed, ping is all that everybody may ask."""
    worker = start()
    answers.ask(by_hand("ping"))
    assert heard(answers, until) == {"w1@test": {"ok": "pong"}}
    for method in ("shutdown", "stats", "revoke"):
        answers.ask(by_hand(method))
        assert "must be signed" in heard(answers, until)["w1@test"]["error"]
    assert worker.running
    refused = [record.message for record in caplog.records if record.name == "amqpq.security"]
    assert any("shutdown must be signed" in message for message in refused)


def test_a_long_unsigned_message_is_not_even_read(
    start: Any, answers: Listener, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Verify before parse: only what is as short as a ping is looked into without a signature."""
    start()
    answers.ask({**by_hand("ping"), "pattern": "x" * 5000})
    until(lambda: any("unsigned" in record.message for record in caplog.records))
    assert answers.next() is None


def test_a_command_that_was_altered_is_not_carried_out(
    app: App, start: Any, answers: Listener, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The signature covers the body."""
    worker = start()
    body, properties = ControlCodec(app.codec, required=True).encode_request(Request("pause", reply_to="me"))
    answers.ask(body.replace(b"pause", b"shutdown"), properties)
    until(lambda: any("does not match the message" in record.message for record in caplog.records))
    assert worker.running
    assert answers.next() is None


def test_a_command_counts_once(
    app: App, start: Any, answers: Listener, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reads a signed command from the broker and publishes it again is refused."""
    start()
    body, properties = ControlCodec(app.codec, required=True).encode_request(Request("stats", reply_to="me"))
    answers.ask(body, properties)
    assert "total" in heard(answers, until)["w1@test"]
    answers.ask(body, properties)
    until(lambda: any("came before" in record.message for record in caplog.records))
    assert answers.next() is None


def test_an_old_command_is_refused(
    app: App, start: Any, answers: Listener, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Orders are for now: one from before the replay window may be a recording."""
    start()
    codec = ControlCodec(app.codec, required=True, clock=lambda: 1_000_000.0)
    answers.ask(*codec.encode_request(Request("shutdown", reply_to="me")))
    until(lambda: any("was signed" in record.message and "ago" in record.message for record in caplog.records))
    assert answers.next() is None


def test_answers_go_through_the_exchange_of_answers_only(
    start: Any, answers: Listener, until: Any, caplog: pytest.LogCaptureFixture, broker: MemoryBroker
) -> None:
    """A worker is not talked into publishing anywhere else."""
    start()
    answers.ask({**by_hand("ping"), "reply_to": {"exchange": "", "routing_key": "default"}})
    until(lambda: any("answers go through" in record.message for record in caplog.records))
    assert broker.queues()["default"].messages == 0


def test_the_same_refusal_is_logged_once_a_minute(
    start: Any, answers: Listener, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A tool that asks all the time does not fill the log."""
    caplog.set_level(logging.INFO)
    start()
    for _ in range(5):
        answers.ask(by_hand("shutdown"))
        heard(answers, until)
    assert sum("shutdown must be signed" in record.message for record in caplog.records) == 1


def test_an_unsigned_answer_is_not_believed(app: App, broker: MemoryBroker, start: Any) -> None:
    """Where results must be signed, a worker's answer must be; here a stranger answers faster."""
    start()
    codec = ControlCodec(app.codec, required=True)
    request = Request("ping", ticket="t", reply_to="me")
    body, properties = codec.encode_reply("w1@test", {"ok": "pong"}, request)
    assert codec.decode_reply(body, properties, "me") == {"w1@test": {"ok": "pong"}}
    unsigned = properties._replace(headers={"ticket": "t"})
    with pytest.raises(Exception, match="unsigned"):
        codec.decode_reply(body, unsigned, "me")
    with pytest.raises(Exception, match="moved it"):
        codec.decode_reply(body, properties, "somebody else")
    del broker


# -------------------------------------------------------------------------------------------------------------- events


def _events(listener: Listener, until: Any, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def gather() -> bool:
        while (batch := listener.next()) is not None:
            found.extend(batch if isinstance(batch, list) else [batch])
        return enough(found)

    until(gather)
    return found


def test_events_tell_of_a_task_from_its_arrival_to_its_end(app: App, start: Any, broker: Any, until: Any) -> None:
    """Switched on while it runs: received, started, succeeded and failed, with Celery's fields."""
    listener = Listener(broker, ExchangeSpec("celeryev", "topic"), "#")
    worker = start()
    assert told(app, "enable_events") == {"ok": "task events enabled"}
    assert told(app, "enable_events") == {"ok": "task events already enabled"}
    good, bad = app.send_task("shop.add", [1, 2]), app.send_task("shop.fail", ["boom"])
    found = _events(listener, until, lambda found: {"task-succeeded", "task-failed"} <= {e["type"] for e in found})
    of_good = [event for event in found if event.get("uuid") == good.id]
    assert [event["type"] for event in of_good] == ["task-received", "task-started", "task-succeeded"]
    assert of_good[0]["name"] == "shop.add"
    assert of_good[2]["runtime"] >= 0
    assert of_good[0]["timestamp"] <= of_good[1]["timestamp"] <= of_good[2]["timestamp"]
    assert {"hostname", "utcoffset", "pid", "clock", "timestamp"} <= of_good[1].keys()
    (failed,) = [event for event in found if event["type"] == "task-failed"]
    assert (failed["uuid"], failed["exception"]) == (bad.id, "ValueError: boom")
    assert found[0]["type"] == "worker-online"
    assert worker.stop() == 0
    assert _events(listener, until, bool)[-1]["type"] == "worker-offline"


def test_what_runs_is_told_before_it_ends(app: App, start: Any, broker: Any, gate: Any, until: Any) -> None:
    """A long task is shown as started while it runs."""
    listener = Listener(broker, ExchangeSpec("celeryev", "topic"), "#")
    start()
    told(app, "enable_events")
    app.send_task("shop.hold", ["first"])
    _events(listener, until, lambda found: any(event["type"] == "task-started" for event in found))
    assert not gate.opened.is_set()


def test_nothing_is_sent_unless_asked_for(app: App, start: Any, broker: Any) -> None:
    """No events, and nothing in the loop that would make them."""
    listener = Listener(broker, ExchangeSpec("celeryev", "topic"), "#")
    worker = start()
    assert app.send_task("shop.add", [1, 2]).get(timeout=DEADLINE_SECONDS) == 3
    told(app, "heartbeat")
    assert worker.stop() == 0
    assert listener.next() is None


def test_a_revoked_task_has_its_event(app: App, start: Any, broker: Any, until: Any) -> None:
    """So that Flower does not show it as waiting for ever."""
    listener = Listener(broker, ExchangeSpec("celeryev", "topic"), "task.#")
    start()
    told(app, "enable_events")
    told(app, "revoke", task_id=["later"])
    app.send_task("shop.add", [1, 2], task_id="later")
    found = _events(listener, until, lambda found: len(found) == 2)
    assert [event["type"] for event in found] == ["task-received", "task-revoked"]
    assert (found[1]["terminated"], found[1]["expired"]) == (False, False)
