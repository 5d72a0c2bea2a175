"""Carrying out a kept plan on a real broker: what can go wrong ends in a state that the next plan shows and finishes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amqpq.management import Management, PolicyInfo
from amqpq.provision import journal
from amqpq.transport import flow
from amqpq.transport.interface import Connection
from amqpq.types import BindingSpec, Delivery, Properties, Publication, QueueSpec
from tests.conftest import BrokerServer
from tests.support.lab import allow, do, lose_connection_at, stranger, until_counted
from tests.support.project import Project

pytestmark = pytest.mark.integration

SECONDS = 60

FILE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"events": {"type": "topic", "unrouted": "lost"}, "lost": {"type": "fanout"}},
    "queues": {"orders": {"type": "quorum"}, "mail": {}, "lost": {}},
    "bindings": ["events[order.#] -> orders", "events[mail.*] -> mail", "lost -> lost"],
    "routes": {"*": {"exchange": "events", "key": "order.{task}"}},
    "checks": [{"publish": {"task": "t"}, "reaches": ["orders"], "exactly": True}],
}


@pytest.fixture
def amqpq(topology_folder: Path) -> Project:
    """The project of `FILE`, of which nothing is on its fresh virtual host."""
    return Project(topology_folder, FILE)


def test_a_kept_plan_is_carried_out_and_leaves_nothing(amqpq: Project, connection: Connection) -> None:
    """All steps are done, no difference is left, and the manifest holds what was made."""
    told = amqpq.carried_out()
    assert (len(told["done"]), told["left"], told["error"]) == (told["steps"], [], None)
    assert amqpq("drift").exit_code == 0
    manifest = journal.read(connection, "shop")
    assert (manifest.serial, manifest.stage) == (1, "done")
    assert {"queue orders", "exchange events", "binding lost -> lost"} <= manifest.owned


@pytest.mark.parametrize("level", ["http", "amqp1.0", "amqp"])
def test_a_plan_is_refused_once_its_objects_have_changed(amqpq: Project, connection: Connection, level: str) -> None:
    """What appeared meanwhile is named, and nothing is done."""
    if level == "amqp1.0" and connection.server.version_tuple < (4, 0, 0):
        pytest.skip("AMQP 1.0 management came with RabbitMQ 4.0")
    assert amqpq("plan", "--out", "kept.plan", "--observe", level).exit_code == 0
    do(connection, lambda channel: channel.declare_queue(QueueSpec("mail", arguments={"x-max-length": 5})))
    result = amqpq("apply", "kept.plan")
    assert result.exit_code == 1
    stale = "the plan is stale: changed on the broker since, or not part of it: "
    changed = result.stderr.partition(stale)[2].partition(". Nothing was done")[0].split(", ")
    # Where policies can be seen, one would give that queue the dead letter that it has no argument for.
    assert changed == ["policy amqpq.shop.1", "queue mail"] if level == "http" else changed == ["queue mail"]
    assert ("create", "queue orders") in amqpq.changes()


def test_a_plan_that_was_made_over_amqp_1_0_is_carried_out(
    amqpq: Project, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves what it cannot see; a binding that was taken away is the only step of the next one."""
    if connection.server.version_tuple < (4, 0, 0):
        pytest.skip("AMQP 1.0 management came with RabbitMQ 4.0")
    monkeypatch.delenv("AMQPQ_MANAGEMENT_URL")
    told = amqpq.carried_out()
    assert (len(told["done"]), told["error"]) == (told["steps"], None)
    assert [change["address"] for change in told["left"]] == ["broker everything else"]
    assert amqpq("drift").exit_code == 5
    do(connection, lambda channel: channel.unbind(BindingSpec("events", "mail", "mail.*")))
    assert amqpq.carried_out()["done"] == [{"operation": "bind", "name": "events[mail.*] -> mail"}]
    assert "observed=amqp1.0" in amqpq("plan").stdout


def test_a_binding_that_differs_in_headers_alone_is_taken_away_over_amqp_1_0(
    amqpq: Project, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer about one of them tells of the other; what was to be added is looked for before anything goes."""
    if connection.server.version_tuple < (4, 0, 0):
        pytest.skip("AMQP 1.0 management came with RabbitMQ 4.0")
    monkeypatch.delenv("AMQPQ_MANAGEMENT_URL")
    one, two, three = ({"from": "h", "to": "mail", "headers": {"level": level}} for level in (1, 2, 3))
    exchanges = {**FILE["exchanges"], "h": {"type": "headers"}}
    amqpq.write(exchanges=exchanges, bindings=[*FILE["bindings"], one, two])
    amqpq.carried_out()
    amqpq.write(exchanges=exchanges, bindings=[*FILE["bindings"], one, three])
    told = amqpq.carried_out()
    assert [(step["operation"], step["name"]) for step in told["done"]] == [
        ("bind", "h[x-match='all', level=3] -> mail"),
        ("unbind", "h[x-match='all', level=2] -> mail"),
    ]
    assert [change["address"] for change in told["left"]] == ["broker everything else"]


def test_a_plan_is_refused_once_the_file_has_changed(amqpq: Project) -> None:
    """Also where the steps would be the same."""
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    amqpq.write(queues={"orders": {"type": "quorum", "limits": {"max_length": 5}}, "mail": {}, "lost": {}})
    result = amqpq("apply", "kept.plan")
    assert result.exit_code == 1
    assert "the topology file has changed" in result.stderr


@pytest.mark.parametrize(
    "text, words",
    [
        ("{}", "is no plan; `amqpq topology plan --out"),
        ("nonsense", "is no plan"),
        ('{"format_version": "9.0", "project": "shop", "observed": {"level": "http"}}', "of format 9.0"),
        ('{"format_version": "1.0", "project": "other", "observed": {"level": "http"}}', "is for project 'other'"),
    ],
)
def test_what_is_no_plan_of_this_project_is_refused(amqpq: Project, text: str, words: str) -> None:
    """With the remedy, before any broker is asked."""
    Path("kept.plan").write_text(text)
    result = amqpq("apply", "kept.plan")
    assert result.exit_code == 1
    assert words in result.stderr


def test_two_applies_at_once_are_one(amqpq: Project, connection: Connection) -> None:
    """The second one is told who holds the lock; when that connection is gone, so is the lock."""
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    channel = connection.channel()
    flow.run(journal.lock(channel, "shop"), SECONDS)
    result = amqpq("apply", "kept.plan")
    assert result.exit_code == 1
    assert "another apply of project 'shop' runs" in result.stderr
    do(connection, lambda other: other.delete_queue("amqpq.lock.shop"))
    assert amqpq("apply", "kept.plan").exit_code == 0


def test_what_left_the_file_goes_with_proof(
    amqpq: Project, connection: Connection, api: Management, vhost: str
) -> None:
    """Queue, exchange and bindings of ours go in order; a queue that holds a message stays until it is empty."""
    more = {**FILE["queues"], "old": {"dead_letter": "none"}, "old.quorum": {"type": "quorum", "dead_letter": "none"}}
    bindings = [*FILE["bindings"], "gone -> old", "gone -> old.quorum"]
    amqpq.write(queues=more, exchanges={**FILE["exchanges"], "gone": {"type": "fanout"}}, bindings=bindings)
    amqpq.carried_out()
    message = Publication("", "old.quorum", b"x", Properties())
    do(connection, lambda channel: channel.publish((message,)))
    until_counted(api, vhost, "old.quorum", 1)
    amqpq.write(allow={"delete": True})
    told = amqpq.carried_out()
    assert [(step["operation"], step["name"]) for step in told["done"]] == [
        ("unbind", "gone -> old"),
        ("unbind", "gone -> old.quorum"),
        ("delete queue", "old"),
        ("delete exchange", "gone"),
    ]
    assert [(change["action"], change["address"]) for change in told["left"]] == [("forbidden", "queue old.quorum")]
    do(connection, lambda channel: channel.purge_queue("old.quorum"))
    until_counted(api, vhost, "old.quorum", 0)
    told = amqpq.carried_out()
    assert (told["done"], told["left"]) == ([{"operation": "delete queue", "name": "old.quorum"}], [])


def test_a_queue_that_fills_after_the_plan_is_not_deleted(
    amqpq: Project, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is asked again in the moment of deleting: the statistics that the plan read may lag."""
    amqpq.write(queues={**FILE["queues"], "old": {"dead_letter": "none"}})
    amqpq.carried_out()
    do(connection, lambda channel: channel.publish((Publication("", "old", b"x", Properties()),)))
    amqpq.write(allow={"delete": True})
    queues, queue = Management.queues, Management.queue

    def empty(found: Any) -> Any:
        return type(found)(
            **{**{name: getattr(found, name) for name in found.__slots__}, "ready": 0, "unacknowledged": 0}
        )

    monkeypatch.setattr(Management, "queues", lambda api, v: tuple(empty(q) for q in queues(api, v)))
    monkeypatch.setattr(Management, "queue", lambda api, v, name: empty(queue(api, v, name)))
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    result = amqpq("apply", "kept.plan")
    assert result.exit_code == 1
    monkeypatch.undo()
    got: list[Delivery | None] = do(connection, lambda channel: channel.get("old", no_ack=True))
    assert got[0] is not None


def test_what_was_made_before_the_connection_was_lost_is_told(amqpq: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the plan is done then, and the exit code says so."""
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    with monkeypatch.context() as patch:
        lose_connection_at("mail", patch)
        result = amqpq("apply", "kept.plan", "--json")
    assert result.exit_code == 3, result.output
    told = json.loads(result.stdout)
    assert {step["name"] for step in told["done"] if step["operation"] == "exchange"} == {"events", "lost"}
    assert ("create", "exchange events") not in amqpq.changes()
    assert amqpq.carried_out()["left"] == []


def test_what_others_made_is_never_removed(amqpq: Project, connection: Connection) -> None:
    """A queue, a binding and an exchange that no applied plan made stay, whatever the file allows."""
    amqpq.carried_out()
    amqpq.write(allow={"delete": True})
    do(
        connection,
        lambda channel: channel.declare_queue(QueueSpec("theirs")),
        lambda channel: channel.bind(BindingSpec("events", "theirs", "order.#")),
    )
    assert amqpq.changes() == [("foreign", "binding events[order.#] -> theirs")]
    assert amqpq.carried_out()["done"] == []
    do(connection, lambda channel: channel.declare_queue(QueueSpec("theirs"), passive=True))


def test_a_plan_that_breaks_a_check_is_not_carried_out(amqpq: Project) -> None:
    """The reason is the check, and nothing is done."""
    amqpq.carried_out()
    amqpq.write(bindings=["events[mail.*] -> mail", "lost -> lost"])
    assert amqpq("plan", "--out", "kept.plan", "--detailed-exitcode").exit_code == 4
    result = amqpq("apply", "kept.plan")
    assert result.exit_code == 1
    assert "the plan breaks a check of the file:\nafter the last step, task t misses orders" in result.stderr
    assert amqpq.changes() == [("delete", "binding events[order.#] -> orders")]


def test_a_policy_is_made_and_changed(amqpq: Project, api: Management, vhost: str) -> None:
    """By plan; `apply` without one makes it where it is missing, and refuses to change it."""
    policy = {"pattern": "^mail$", "apply_to": "queues", "priority": 3, "definition": {"max-length": 5}}
    amqpq.write(policies={"cap": policy})
    assert amqpq("apply").exit_code == 0
    assert api.policies(vhost) == (PolicyInfo("cap", "^mail$", "queues", 3, {"max-length": 5}),)
    amqpq.write(policies={"cap": {**policy, "definition": {"max-length": 7}}})
    refused = amqpq("apply")
    assert refused.exit_code == 3
    assert "policy 'cap': it exists otherwise; `amqpq topology plan --out FILE`" in refused.stderr
    assert amqpq.changes() == [("change", "policy cap")]
    assert amqpq.carried_out()["left"] == []
    assert api.policies(vhost)[0].definition == {"max-length": 7}


def test_a_permission_that_is_missing_halfway_leaves_a_state_that_the_next_run_finishes(
    amqpq: Project, broker_server: BrokerServer, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queues are made, the bindings are refused: exit code 3, and the plan shows the rest."""
    with stranger(broker_server, vhost_url, "management", write="^(?!mail$).*") as theirs:
        monkeypatch.setenv("AMQPQ_BROKER_URL", theirs)
        assert amqpq("plan", "--out", "kept.plan").exit_code == 0
        result = amqpq("apply", "kept.plan")
        assert result.exit_code == 3, result.output
        assert "write on the target and read on the source as permission" in result.stderr
        left = amqpq.changes()
        assert ("create", "binding events[mail.*] -> mail") in left
        assert ("create", "queue orders") not in left
        allow(broker_server, theirs)
        assert amqpq.carried_out()["left"] == []


def test_a_management_api_that_is_down_is_told_and_amqp_goes_on(
    amqpq: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --observe http it is the error; a plan that was made with it is not carried out without it."""
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", "http://127.0.0.1:1")
    result = amqpq("plan", "--detailed-exitcode")
    assert (result.exit_code, "so the broker was looked at over AMQP" in result.stderr) == (2, True)
    assert "observed=amqp" in result.stdout
    refused = amqpq("plan", "--observe", "http")
    assert refused.exit_code == 1
    assert "127.0.0.1:1 does not answer" in refused.stderr
    assert amqpq("apply", "kept.plan").exit_code == 1


def test_the_api_of_another_broker_is_found_out(amqpq: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan must not read one broker and write to another."""
    overview = Management.overview

    def other(api: Management) -> Any:
        found = overview(api)
        return type(found)(found.version, "another", found.node, found.exchange_types)

    monkeypatch.setattr(Management, "overview", other)
    result = amqpq("plan")
    assert result.exit_code == 1
    assert "belongs to the cluster 'another'" in result.stderr


def test_a_journal_that_cannot_be_read_keeps_everything(amqpq: Project, connection: Connection) -> None:
    """Nobody knows what is ours then: the plan says so, and nothing is written."""
    amqpq.carried_out()
    message = Publication("", journal.stream_name("shop"), b"not an entry", Properties())
    do(connection, lambda channel: channel.publish((message,)))
    amqpq.write(queues={**FILE["queues"], "more": {}})
    assert ("unknown", "broker manifest") in amqpq.changes()
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    result = amqpq("apply", "kept.plan")
    assert result.exit_code == 1
    assert "what this project made cannot be read" in result.stderr
    assert ("create", "queue more") in amqpq.changes()
