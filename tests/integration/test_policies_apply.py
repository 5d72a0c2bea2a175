"""Generated policies on a real broker: what was an argument is tightened in place, seen, put right, and taken away again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amqpq.errors import PreconditionFailed, TransportError
from amqpq.management import Management, PolicyInfo
from amqpq.provision import apply, journal
from amqpq.topology import load
from amqpq.transport.interface import Connection
from amqpq.types import Delivery, Properties, Publication, QueueSpec
from amqpq.worker.plan import WorkerPlan
from amqpq.worker.run import prepare
from tests.conftest import BrokerServer
from tests.support.lab import answer, do, stranger, until, until_counted
from tests.support.project import Project

pytestmark = pytest.mark.integration

HOUR = 3600000

QUEUES: dict[str, Any] = {
    "mail": {"ttl": "2h"},
    "post": {"ttl": "2h"},
    "orders": {"type": "quorum", "limits": {"max_length": 1000, "overflow": "drop-head"}},
    "trail": {"type": "stream", "retention": {"max_age": "7D"}},
}
TIGHTER: dict[str, Any] = {
    "mail": {"ttl": "1h"},
    "post": {"ttl": "1h"},
    "orders": {"type": "quorum", "limits": {"max_length": 500, "overflow": "reject-publish"}},
    "trail": {"type": "stream", "retention": {"max_age": "9D"}},
}
"""All of it can be done by policies: lower limits, an overflow of a quorum queue, the retention of a stream."""


def document(queues: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """Return a topology with these queues."""
    return {
        "amqpq": 1,
        "project": "shop",
        "exchanges": {"events": {"type": "topic"}},
        "queues": queues,
        "bindings": [f"events[{name}] -> {name}" for name in queues],
        "routes": {"*": {"exchange": "events", "key": "orders"}},
        "checks": [{"publish": {"task": "t"}, "reaches": ["orders"], "exactly": True}],
        **sections,
    }


def write(amqpq: Project, queues: dict[str, Any], **sections: Any) -> None:
    """Write the file with these queues."""
    amqpq.write(**document(queues, **sections))


@pytest.fixture
def amqpq(topology_folder: Path) -> Project:
    """The project with `QUEUES`, whose plan was carried out on a fresh virtual host."""
    project = Project(topology_folder, document(QUEUES))
    project.carried_out()
    return project


def holding(api: Management, vhost: str, queue: str) -> dict[str, Any]:
    """Return what policies make of a queue."""
    return dict(api.queue(vhost, queue).effective_policy or {})


def test_what_is_tightened_holds_at_once_and_the_arguments_stay(amqpq: Project, api: Management, vhost: str) -> None:
    """Two queues that need the same share a policy; each policy is for one type where the broker knows types."""
    write(amqpq, TIGHTER)
    planned = amqpq("plan")
    assert "by policy amqpq.shop.1" in planned.stdout, planned.stdout
    told = amqpq.carried_out()
    assert (told["error"], {change["action"] for change in told["left"]}) == (None, {"info"})
    assert holding(api, vhost, "mail") == holding(api, vhost, "post") == {"message-ttl": HOUR}
    assert holding(api, vhost, "orders") == {"max-length": 500, "overflow": "reject-publish"}
    assert holding(api, vhost, "trail") == {"max-age": "9D"}
    found = {policy.pattern: policy for policy in api.policies(vhost)}
    assert set(found) == {"^(mail|post)$", "^orders$", "^trail$"}
    typed = not api.overview().version.startswith(("3.10.", "3.11."))
    assert found["^orders$"].apply_to == ("quorum_queues" if typed else "queues")
    assert found["^trail$"].apply_to == ("streams" if typed else "queues")
    assert api.queue(vhost, "mail").arguments["x-message-ttl"] == 2 * HOUR
    assert amqpq("drift").exit_code == 0


def test_a_queue_does_what_its_policy_says(amqpq: Project, api: Management, vhost: str, connection: Connection) -> None:
    """Behaviour, not display: the messages beyond the new length are refused."""
    write(amqpq, {**QUEUES, "orders": {"type": "quorum", "limits": {"max_length": 2, "overflow": "reject-publish"}}})
    amqpq.carried_out()
    channel = connection.channel()

    def refused() -> bool | None:
        (outcome,) = answer(channel.publish((Publication("events", "orders", b"x", Properties(delivery_mode=2)),)))
        return True if not outcome.confirmed else None

    until(refused, "a publication that is refused")
    assert holding(api, vhost, "orders")["max-length"] == 2


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_queue_that_refuses_when_it_is_full_keeps_what_it_has(
    amqpq: Project, api: Management, vhost: str, connection: Connection, kind: str
) -> None:
    """A policy makes it shorter than it is: the plan counts no loss, and nothing is dropped."""
    full = {"type": kind, "dead_letter": "none", "limits": {"max_length": 9, "overflow": "reject-publish"}}
    write(amqpq, {**QUEUES, "full": full})
    amqpq.carried_out()
    messages = tuple(Publication("", "full", b"x", Properties(delivery_mode=2)) for _ in range(8))
    do(connection, lambda channel: channel.publish(messages))
    until_counted(api, vhost, "full", 8)
    write(amqpq, {**QUEUES, "full": {**full, "limits": {"max_length": 5, "overflow": "reject-publish"}}})
    assert json.loads(amqpq("plan", "--json").stdout)["loss_budget"] == 0
    amqpq.carried_out()
    (refused,) = do(connection, lambda channel: channel.publish(messages[:1]))[0]
    (state,) = do(connection, lambda channel: channel.declare_queue(QueueSpec("full"), passive=True))
    assert (refused.confirmed, state.messages) == (False, 8)


def test_a_first_dead_letter_comes_by_policy(amqpq: Project, connection: Connection) -> None:
    """The queue has no argument for it; what is rejected there lands where the file says."""
    write(amqpq, {**QUEUES, "plain": {"dead_letter": "none"}})
    amqpq.carried_out()
    write(amqpq, {**QUEUES, "plain": {}})
    assert ("change", "queue plain") in amqpq.changes()
    amqpq.carried_out()
    channel = connection.channel()
    answer(channel.publish((Publication("", "plain", b"x", Properties()),)))
    taken = until(lambda: answer(channel.get("plain")), "the message")
    channel.reject(taken.tag, requeue=False)
    letter = until(lambda: answer(channel.get("shop.dead", no_ack=True)), "the dead letter")
    assert letter.body == b"x"


def test_a_delivery_limit_is_a_policys_from_4_3_on(amqpq: Project, connection: Connection) -> None:
    """Before, a queue reads it when it is declared: a migration. On 4.3 it holds at once: the third rejection is the last."""
    write(amqpq, {**QUEUES, "orders": {**QUEUES["orders"], "delivery_limit": 2}})
    if connection.server.version_tuple < (4, 3, 0):
        assert ("migrate", "queue orders") in amqpq.changes()
        return
    amqpq.carried_out()
    channel = connection.channel()
    answer(channel.publish((Publication("events", "orders", b"x", Properties(delivery_mode=2)),)))
    rejected = 0

    def dead() -> Delivery | None:
        nonlocal rejected
        taken = answer(channel.get("orders"))
        if taken is not None:
            channel.reject(taken.tag, requeue=True)
            rejected += 1
        return answer(channel.get("shop.dead", no_ack=True))

    letter = until(dead, "the dead letter")
    assert (letter.body, rejected) == (b"x", 3)


def test_a_worker_takes_what_a_policy_makes_hold_and_nothing_else(amqpq: Project, connection: Connection) -> None:
    """It cannot see policies: it goes by what the project's last apply has noted."""
    plan = WorkerPlan("shop:app", tuple(QUEUES))
    tighter = load(document(TIGHTER), environ={})
    prepare(plan, load(document(QUEUES), environ={}), connection)
    with pytest.raises(PreconditionFailed, match="x-message-ttl = 7200000"):
        prepare(plan, tighter, connection)
    write(amqpq, TIGHTER)
    refused_apply = amqpq("apply")
    assert (refused_apply.exit_code, refused_apply.stderr.count("x-message-ttl = 7200000")) == (3, 2)
    amqpq.carried_out()
    assert journal.read(connection, "shop").carried["mail"] == {"x-message-ttl": HOUR}
    prepare(plan, tighter, connection)
    prepare(replace(plan, apply=True), tighter, connection)
    applied = amqpq("apply")
    assert (applied.exit_code, "mail  already there" in applied.stdout) == (0, True), applied.output
    write(amqpq, {**TIGHTER, "more": {}})
    assert amqpq("apply").exit_code == 0
    prepare(plan, tighter, connection)
    other = load(document({**TIGHTER, "mail": {"ttl": "3h"}}), environ={})
    with pytest.raises(PreconditionFailed, match="queue 'mail' exists with x-message-ttl = 7200000") as refused:
        prepare(plan, other, connection)
    assert "post" not in str(refused.value)


def test_an_apply_that_is_cut_off_between_policies_is_finished_by_the_next(
    amqpq: Project, api: Management, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there holds, under the name it keeps; the plan shows the rest."""
    write(amqpq, TIGHTER)
    written, put = [], Management.put_policy

    def first_only(client: Management, where: str, policy: PolicyInfo) -> None:
        written.append(policy)
        if len(written) > 1:
            raise TransportError("the API went away")
        put(client, where, policy)

    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Management, "put_policy", first_only)
        result = amqpq("apply", "kept.plan")
    assert (result.exit_code, "the API went away" in result.stderr) == (3, True)
    assert api.policies(vhost) == (written[0],)
    assert [address for action, address in amqpq.changes() if action == "create"] == [
        "policy amqpq.shop.2",
        "policy amqpq.shop.3",
    ]
    assert {change["action"] for change in amqpq.carried_out()["left"]} == {"info"}
    assert len(api.policies(vhost)) == 3


def test_a_policy_that_does_not_come_to_hold_is_an_error(amqpq: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The apply ends there, and says which object has which policy."""
    write(amqpq, {**QUEUES, "mail": {"ttl": "1h"}})
    monkeypatch.setattr(apply, "POLICY_SECONDS", 0.2)
    monkeypatch.setattr(Management, "put_policy", lambda *_: None)
    assert amqpq("plan", "--out", "kept.plan").exit_code == 0
    result = amqpq("apply", "kept.plan")
    assert result.exit_code == 3
    assert "policy 'amqpq.shop.1' was written, and no policy holds for queue mail; plan again" in result.stderr


def test_what_somebody_does_to_a_generated_policy_is_drift(amqpq: Project, api: Management, vhost: str) -> None:
    """Changed, bent or deleted: the next apply puts it right, under the same name."""
    write(amqpq, {**QUEUES, "mail": {"ttl": "1h"}})
    amqpq.carried_out()
    (ours,) = api.policies(vhost)
    assert ours.name == "amqpq.shop.1"
    for bent in (
        PolicyInfo(ours.name, ours.pattern, ours.apply_to, ours.priority, {"message-ttl": 5 * HOUR}),
        PolicyInfo(ours.name, "^nothing$", "queues", 1, {"max-length": 1}),
    ):
        api.put_policy(vhost, bent)
        assert amqpq("drift").exit_code == 2
        assert amqpq.changes() == [("change", "queue mail"), ("change", "policy amqpq.shop.1")]
        amqpq.carried_out()
        assert api.policies(vhost) == (ours,)
        assert holding(api, vhost, "mail") == {"message-ttl": HOUR}
    api.delete_policy(vhost, ours.name)
    assert amqpq.changes() == [("create", f"policy {ours.name}"), ("change", "queue mail")]
    assert amqpq.carried_out()["done"] == [{"operation": "policy", "name": ours.name}]
    assert api.policies(vhost) == (ours,)


def test_a_policy_that_is_needed_no_more_is_taken_away(amqpq: Project, api: Management, vhost: str) -> None:
    """The file says again what the argument says. A queue that needs another value gets it before the old policy lets it go."""
    write(amqpq, {**QUEUES, "mail": {"ttl": "1h"}, "post": {"ttl": "1h"}})
    amqpq.carried_out()
    write(amqpq, {**QUEUES, "mail": {"ttl": "1h"}, "post": {"ttl": "30m"}})
    told = amqpq.carried_out()
    assert [step["name"] for step in told["done"]] == ["amqpq.shop.2", "amqpq.shop.1"]
    assert (holding(api, vhost, "mail"), holding(api, vhost, "post")) == (
        {"message-ttl": HOUR},
        {"message-ttl": HOUR // 2},
    )
    write(amqpq, QUEUES)
    assert sorted(amqpq.changes()) == [("delete", "policy amqpq.shop.1"), ("delete", "policy amqpq.shop.2")]
    amqpq.carried_out()
    assert (api.policies(vhost), amqpq("drift").exit_code) == ((), 0)


def test_a_policy_of_others_is_hidden_only_by_their_leave(amqpq: Project, api: Management, vhost: str) -> None:
    """Refused; with `inherit` what it says goes on holding beside ours."""
    api.put_policy(vhost, PolicyInfo("theirs", "^mail", "queues", 7, {"max-length": 9}))
    tighter = {**QUEUES, "mail": {"ttl": "1h"}}
    write(amqpq, tighter)
    assert ("forbidden", "queue mail") in amqpq.changes()
    assert amqpq.carried_out()["done"] == []
    until(lambda: holding(api, vhost, "mail") == {"max-length": 9} or None, "the policy of others to hold")
    write(amqpq, tighter, policy_band={"inherit": True})
    amqpq.carried_out()
    assert holding(api, vhost, "mail") == {"max-length": 9, "message-ttl": HOUR}


def test_without_the_tag_the_command_of_the_plan_does_it(
    amqpq: Project,
    broker_server: BrokerServer,
    api: Management,
    vhost: str,
    vhost_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is done for a user that may only look; what the plan proposes, done by an administrator, is what it wants."""
    with stranger(broker_server, vhost_url, "management") as theirs:
        monkeypatch.setenv("AMQPQ_BROKER_URL", theirs)
        write(amqpq, {**QUEUES, "mail": {"ttl": "1h"}})
        result = amqpq("plan", "--detailed-exitcode")
        assert result.exit_code == 4, result.output
        assert f"`rabbitmqctl set_policy -p {vhost} --priority 500 --apply-to " in result.stdout
        assert "amqpq.shop.1 '^mail$' '{\"message-ttl\": 3600000}'`" in result.stdout
        assert amqpq.carried_out()["done"] == []
        kind = "queues" if "--apply-to queues" in result.stdout else "classic_queues"
        api.put_policy(vhost, PolicyInfo("amqpq.shop.1", "^mail$", kind, 500, {"message-ttl": HOUR}))  # type: ignore[arg-type]
        assert amqpq("drift").exit_code == 0
