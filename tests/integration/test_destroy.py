"""`amqpq topology destroy` on a real broker: what is ours goes, what others made and what holds messages stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amqpq.cli import destroy
from amqpq.management import Management
from amqpq.provision import destroying, journal
from amqpq.provision.steps import Step
from amqpq.transport import flow
from amqpq.transport.blocking import BlockingConnection
from amqpq.transport.interface import Channel, Connection, Flow
from amqpq.types import BindingSpec, Delivery, ExchangeSpec, Properties, Publication, QueueSpec
from tests.support.lab import do, until_counted
from tests.support.project import Project

pytestmark = pytest.mark.integration

SECONDS = 60

FILE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "allow": {"delete": True},
    "exchanges": {"events": {"type": "topic", "unrouted": "lost"}, "lost": {"type": "fanout"}},
    "queues": {
        "orders": {"type": "quorum"},
        "single": {"type": "quorum", "single_active": True},
        "mail": {},
        "lost": {"dead_letter": "none"},
    },
    "bindings": ["events[order.#] -> orders", "events[one] -> single", "events[mail.*] -> mail", "lost -> lost"],
    "routes": {"*": {"exchange": "events", "key": "order.{task}"}},
    "delays": {"unit": "1s", "max": "4s"},
    "limits": {"mail.*": {"concurrency": 2}},
    "control": {"revocations": "1h"},
}


@pytest.fixture
def amqpq(topology_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project of `FILE`, applied to a fresh virtual host."""
    monkeypatch.setattr(destroying, "SAMPLE_SECONDS", 0.2)
    project = Project(topology_folder, FILE)
    assert project("apply").exit_code == 0
    return project


def there(api: Management, vhost: str) -> set[str]:
    """Return the addresses of what is there, but the broker's own exchanges, and the lock, which goes with its connection."""
    names = {f"queue {queue.name}" for queue in api.queues(vhost) if queue.name != journal.lock_name("shop")}
    own = {f"exchange {each.name}" for each in api.exchanges(vhost) if each.name and not each.name.startswith("amq.")}
    return names | own | {f"policy {policy.name}" for policy in api.policies(vhost)}


def put(connection: Connection, queue: str) -> None:
    """Put a message into a queue."""
    do(connection, lambda channel: channel.publish((Publication("", queue, b"x", Properties(delivery_mode=2)),)))


def test_what_the_project_owns_goes_and_nothing_else(
    amqpq: Project, api: Management, vhost: str, connection: Connection
) -> None:
    """Ladder, permits, revocations, journal and all; a foreign queue and exchange stay as they were."""
    do(
        connection,
        lambda channel: channel.declare_queue(QueueSpec("theirs")),
        lambda channel: channel.declare_exchange(ExchangeSpec("crm")),
        lambda channel: channel.bind(BindingSpec("crm", "theirs", "k")),
    )
    put(connection, "theirs")
    result = amqpq("destroy", "--yes", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["error"], told["refusals"], told["done"]) == (None, [], told["steps"])
    assert told["done"][-1] == {"operation": "delete queue", "name": "amqpq.journal.shop"}
    assert there(api, vhost) == {"queue theirs", "exchange crm"}
    again = amqpq("destroy", "--yes")
    assert again.exit_code == 0
    assert "Destroy: 0 to delete, 0 in the way." in again.stdout
    assert amqpq("apply").exit_code == 0


def test_however_much_goes_it_takes_a_handful_of_channels(amqpq: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection has two thousand at most, and a project may have more objects than that."""
    opened: list[Channel] = []
    under_way: list[int] = []
    channel = BlockingConnection.channel

    def noted(connection: BlockingConnection) -> Channel:
        opened.append(channel(connection))
        return opened[-1]

    def counted(_: Step) -> None:
        under_way.append(sum(not each.closed.done() for each in opened))

    monkeypatch.setattr(BlockingConnection, "channel", noted)
    monkeypatch.setattr(destroy, "_print_step", counted)
    assert amqpq("destroy", "--yes").exit_code == 0
    assert len(under_way) > 20
    assert max(under_way) - under_way[0] < 3


def test_policies_go_too(amqpq: Project, api: Management, vhost: str) -> None:
    """After the queues that they act on."""
    amqpq.write(policies={"short": {"pattern": "^mail$", "apply_to": "queues", "definition": {"max-length": 5}}})
    assert amqpq("apply").exit_code == 0
    assert "policy short" in there(api, vhost)
    assert amqpq("destroy", "--yes").exit_code == 0
    assert there(api, vhost) == set()


@pytest.mark.parametrize("queue", ["mail", "orders"])
def test_a_queue_that_holds_a_message_keeps_everything(
    amqpq: Project, api: Management, vhost: str, connection: Connection, queue: str
) -> None:
    """Nothing at all is done; by name and with the word for it, it goes."""
    put(connection, queue)
    until_counted(api, vhost, queue, 1)
    before = there(api, vhost)
    result = amqpq("destroy", "--yes")
    assert result.exit_code == 1
    assert f"  ! queue      {queue}  it holds 1 messages" in result.stdout.splitlines()
    assert f"`--only {queue} --with-messages`" in result.stdout
    assert there(api, vhost) == before
    assert amqpq("destroy", "--yes", "--only", queue).exit_code == 1
    gone = amqpq("destroy", "--yes", "--only", queue, "--with-messages")
    assert gone.exit_code == 0, gone.output
    assert there(api, vhost) == before - {f"queue {queue}"}
    assert f"queue {queue}" not in journal.read(connection, "shop").owned
    assert journal.read(connection, "shop").stage == "done"


@pytest.mark.parametrize("queue", ["mail", "orders", "single"])
def test_a_queue_that_fills_after_the_look_is_not_deleted(
    amqpq: Project, connection: Connection, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics lag: the broker itself is asked in the moment of the deletion. The next run finishes."""
    monkeypatch.setattr(destroying.Destroyer, "_until_unheld", lambda *_: put(connection, queue))
    result = amqpq("destroy", "--yes")
    assert result.exit_code == 3, result.output
    assert f"queue '{queue}' is in use again (1 messages, 0 consumers); it was not deleted" in result.stderr
    (state,) = do(connection, lambda channel: channel.declare_queue(QueueSpec(queue), passive=True))
    assert state.messages == 1
    assert journal.read(connection, "shop").stage == "destroying"


def test_a_message_that_somebody_holds_without_consuming_keeps_its_queue(
    amqpq: Project, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither `if-empty` nor the count of consumers sees it; the statistics do, when they have caught up."""
    channel = connection.channel()

    def take() -> Flow[Delivery]:
        return (yield channel.get("mail"))

    def after_the_look(step: Step) -> None:
        if step.name == "lost -> lost":
            put(connection, "mail")
            flow.run(take(), SECONDS)

    monkeypatch.setattr(destroy, "_print_step", after_the_look)
    monkeypatch.setattr(destroying, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(destroying, "SAMPLE_SECONDS", 6.0)
    result = amqpq("destroy", "--yes")
    assert result.exit_code == 3, result.output
    assert "somebody holds messages: 1 of 'mail'; when they are done, destroy again" in result.stderr


def test_a_consumer_keeps_its_queue(amqpq: Project, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of which the API does not know yet."""
    channel = connection.channel()

    def consume() -> Flow[Any]:
        yield channel.consume("mail", lambda _: None)

    flow.run(consume(), SECONDS)
    monkeypatch.setattr(destroying.Destroyer, "_until_unheld", lambda *_: None)
    result = amqpq("destroy", "--yes")
    assert result.exit_code in {1, 3}
    assert "it has 1 consumers" in result.output or "(0 messages, 1 consumers); it was not deleted" in result.output


def test_a_file_that_does_not_allow_it_is_obeyed(amqpq: Project, api: Management, vhost: str) -> None:
    """With the exit code for what is forbidden; looking is allowed."""
    amqpq.write(allow={"delete": False})
    before = there(api, vhost)
    result = amqpq("destroy", "--yes")
    assert result.exit_code == 4
    assert "the file does not allow deletions: write `allow: {delete: true}`" in result.stderr
    dry = amqpq("destroy", "--dry-run")
    assert dry.exit_code == 0
    assert "  - queue      orders" in dry.stdout.splitlines()
    assert there(api, vhost) == before


def test_it_asks_for_the_name_of_the_project(
    amqpq: Project, api: Management, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another word, and nothing is done; without a terminal there is nobody to ask."""
    before = there(api, vhost)
    result = amqpq("destroy")
    assert result.exit_code == 1
    assert "give --yes where there is no terminal to ask on" in result.stderr
    monkeypatch.setattr("amqpq.cli.destroy._on_terminal", lambda: True)
    wrong = amqpq("destroy", input="yes\n")
    assert wrong.exit_code == 1
    assert "'yes' is not 'shop'; nothing was done" in wrong.stderr
    assert there(api, vhost) == before
    assert amqpq("destroy", input="shop\n").exit_code == 0
    assert there(api, vhost) == set()


def test_messages_go_only_where_a_queue_is_named(amqpq: Project) -> None:
    """`--with-messages` alone is a mistake on the command line."""
    result = amqpq("destroy", "--yes", "--with-messages")
    assert result.exit_code != 0
    assert "--with-messages needs --only" in result.stderr


def test_another_project_keeps_what_it_shares(amqpq: Project, api: Management, vhost: str) -> None:
    """An exchange in both manifests stays, and is said to."""
    amqpq.write(
        project="crm", queues={"calls": {"dead_letter": "none"}}, bindings=["lost -> calls"], routes={}, limits={}
    )
    assert amqpq("apply").exit_code == 0
    amqpq.write(bindings=[each for each in FILE["bindings"] if "lost" not in each])
    result = amqpq("destroy", "--yes")
    assert result.exit_code == 0, result.output
    assert "    stays: exchange lost: also the project crm's" in result.stdout.splitlines()
    assert {"exchange lost", "queue calls"} <= there(api, vhost)
    assert "queue orders" not in there(api, vhost)


@pytest.mark.parametrize("level", ["amqp1.0", "amqp"])
def test_without_the_api_what_cannot_be_proven_stays(amqpq: Project, api: Management, vhost: str, level: str) -> None:
    """Quorum queues; a classic queue goes, because the broker itself looks."""
    if level == "amqp1.0" and api.overview().version < "4":
        pytest.skip("AMQP 1.0 management came with RabbitMQ 4.0")
    before = there(api, vhost)
    result = amqpq("destroy", "--yes", "--observe", level)
    assert result.exit_code == 5
    assert "whether it is empty cannot be proven without the HTTP API" in result.stdout
    assert there(api, vhost) == before
    assert amqpq("destroy", "--yes", "--observe", level, "--only", "mail").exit_code == 0
    assert there(api, vhost) == before - {"queue mail"}


KILLED = """
import os, signal, sys
from amqpq.cli import destroy
from amqpq.cli.main import main
from amqpq.provision import destroying
destroying.SAMPLE_SECONDS = 0.2
destroy._print_step = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step.address == sys.argv[1] else None
main(["topology", "destroy", "--yes"])
"""


@pytest.mark.parametrize("last", ["binding lost -> lost", "queue mail", "exchange lost", "queue shop.revocations"])
def test_who_is_killed_runs_it_again(amqpq: Project, api: Management, vhost: str, last: str) -> None:
    """Whatever was done by then."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, last], env=dict(os.environ), check=False, timeout=60, capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert there(api, vhost) != set()
    deadline = time.monotonic() + SECONDS
    while (result := amqpq("destroy", "--yes")).exit_code and "another apply" in result.stderr:
        assert time.monotonic() < deadline
    assert result.exit_code == 0, result.output
    assert there(api, vhost) == set()
