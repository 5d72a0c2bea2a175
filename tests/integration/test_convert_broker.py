"""Import from a broker, and what RabbitMQ itself makes of an export."""

from __future__ import annotations

import json
import random
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from click.testing import CliRunner

from amqpq import yamlfile
from amqpq.cli.main import main
from amqpq.convert import definitions, importing, live
from amqpq.management import Management
from amqpq.provision import plan as plans
from amqpq.provision.look import Eyes, look
from amqpq.provision.wanted import wanted as wanted_of
from amqpq.topology import Topology, inspect, library, load
from amqpq.topology.declarations import Declarations, declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Connection, Flow
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec
from tests.conftest import BrokerServer
from tests.support.lab import administrator, answer, stranger

pytestmark = pytest.mark.integration

SECONDS = 120


def name_of(vhost_url: str) -> str:
    """The name of the virtual host a URL leads into."""
    return unquote(urlsplit(vhost_url).path[1:])


def declared(connection: Connection, wanted: Declarations) -> None:
    """Declare everything, as an apply does."""
    steps = flow.run(declare.apply(connection.channel, wanted), SECONDS)
    assert [step for step in steps if step.result == "failed"] == []


def what(server: BrokerServer, vhost_url: str) -> dict[str, Any]:
    """What is in a virtual host, of all that can be declared."""
    vhost = quote(name_of(vhost_url), safe="")

    def rows(kind: str, *keys: str) -> list[str]:
        found = server.request("GET", f"{kind}/{vhost}")
        assert isinstance(found, list)
        shown = [json.dumps({key: row[key] for key in keys}, sort_keys=True) for row in found if _ours(row)]
        return sorted(shown)

    return {
        "exchanges": rows("exchanges", "name", "type", "durable", "auto_delete", "internal", "arguments"),
        "queues": rows("queues", "name", "durable", "auto_delete", "exclusive", "arguments"),
        "bindings": rows("bindings", "source", "destination", "destination_type", "routing_key", "arguments"),
    }


def _ours(row: dict[str, Any]) -> bool:
    return bool(row.get("source", row.get("name"))) and not str(row.get("name", "")).startswith("amq.")


TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {
        "web": {"type": "topic", "unrouted": "lost"},
        "lost": {"type": "fanout", "internal": True},
        "kinds": {"type": "headers"},
    },
    "queues": {
        "default": {"max_priority": 5, "limits": {"max_length": 10**6, "overflow": "reject-publish"}},
        "audit": {"type": "quorum", "delivery_limit": 5, "ttl": "1d"},
        "log": {"type": "stream", "retention": {"max_age": "7D"}},
    },
    "bindings": [
        "web[web.#, shop.*] -> default",
        "lost -> log",
        {"from": "kinds", "to": "audit", "headers": {"pii": True, "n": 5}, "match": "any"},
        "web[all.#] -> kinds",
        {"from": "web", "to": "audit", "keys": ["x"], "extra_arguments": {"note": ["a", 1]}},
    ],
    "routes": {"web.*": {"exchange": "web", "key": "web.{task}"}, "*": {"queue": "default"}},
    "delays": {"max": "1h"},
    "control": {"revocations": "7d"},
}


@pytest.mark.parametrize("name", ["a bit of everything", "topic-routing", "retries", "high-availability"])
def test_rabbitmq_imports_what_an_apply_declares(
    broker_server: BrokerServer, connection: Connection, vhost_url: str, name: str
) -> None:
    """An export of definitions, imported by the broker into an empty virtual host, is what an apply makes."""
    topology = load(TOPOLOGY if name == "a bit of everything" else library.find(name), environ={})
    declared(connection, declarations(topology))
    with broker_server.vhost() as other:
        built, _ = definitions.build(topology)
        broker_server.request("POST", f"definitions/{quote(name_of(other), safe='')}", built)
        assert what(broker_server, other) == what(broker_server, vhost_url)


@pytest.fixture
def reader(broker_server: BrokerServer, vhost_url: str) -> Iterator[Management]:
    """The management API, as a user who may look and nothing else."""
    nothing = {"configure": "", "write": "", "read": ""}
    with (
        stranger(broker_server, vhost_url, "management", **nothing) as theirs,
        administrator(replace(broker_server, url=theirs)) as client,
    ):
        yield client


def same(found: Declarations, wanted: Declarations) -> None:
    """Compare declarations; a classic queue need not say that it is one, and the broker knows no order."""
    for section in ("exchanges", "queues", "bindings"):
        left, right = (sorted(_plain(spec) for spec in getattr(each, section)) for each in (found, wanted))
        assert left == right, section


def _plain(spec: Any) -> str:
    arguments = dict(spec.arguments)
    if isinstance(spec, QueueSpec):
        arguments.setdefault("x-queue-type", "classic")
    rest = [getattr(spec, name) for name in spec.__dataclass_fields__ if name != "arguments"]
    return repr((rest, sorted(arguments.items(), key=repr)))


def test_a_live_import_declares_what_is_there(connection: Connection, vhost_url: str, reader: Management) -> None:
    """Everything of a topology comes back from the broker, generated parts as their sections, for a user without rights."""
    wanted = declarations(load(TOPOLOGY, environ={}))
    declared(connection, wanted)
    imported = importing.from_objects(live.read(reader, name_of(vhost_url)), source="a test")
    assert imported.topology.project == "shop"
    assert {"delays", "control"} <= imported.tree.keys()
    same(declarations(imported.topology), wanted)


def test_a_header_that_must_only_be_there_comes_back(
    connection: Connection, vhost_url: str, reader: Management
) -> None:
    """The management API shows no value as a text, which is read as no value again, and said."""
    file = {**TOPOLOGY, "bindings": [{"from": "kinds", "to": "audit", "headers": {"pii": None}, "match": "any"}]}
    wanted = declarations(load(file, environ={}))
    declared(connection, wanted)
    imported = importing.from_objects(live.read(reader, name_of(vhost_url)), source="a test")
    same(declarations(imported.topology), wanted)
    assert [remark.name for remark in imported.remarks if remark.what == "binding"] == ["kinds -> audit"]


def test_rabbitmq_refuses_a_null_in_definitions(broker_server: BrokerServer, vhost_url: str) -> None:
    """The reason why an export leaves such a binding out: all the rest would be refused with it."""
    row = {
        "source": "amq.headers",
        "destination": "q",
        "destination_type": "queue",
        "routing_key": "",
        "arguments": {"pii": None},
    }
    rows = {"queues": [{"name": "q", "durable": True, "auto_delete": False, "arguments": {}}], "bindings": [row]}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        broker_server.request("POST", f"definitions/{quote(name_of(vhost_url), safe='')}", rows)


ENDS = (BindingSpec("dead", "parked"), BindingSpec("topic.4", "parked", "dead.#"))
"""Of the ways of dead letters."""


def crowd(seed: int) -> Declarations:
    """Declarations of 300 queues, 40 exchanges and 900 bindings, of all kinds that people have."""
    chance = random.Random(seed)
    exchanges = [ExchangeSpec("dead", "fanout"), ExchangeSpec("lost", "fanout", arguments={"x-own": "text"})]
    for number in range(38):
        kind = ("topic", "direct", "fanout", "headers")[number % 4]
        unrouted = {"alternate-exchange": "lost"} if number % 5 == 0 else {}
        name = f"{kind}.{number}" if number % 3 else f"Ünïcode {kind} [{number}]"
        exchanges.append(
            ExchangeSpec(name, kind, durable=number % 7 != 0, internal=number % 11 == 0, arguments=unrouted)
        )
    queues = [QueueSpec("parked"), QueueSpec("lost"), QueueSpec("no", arguments={"x-max-length": 5})]
    queues += [
        QueueSpec(f"queue {number}" if number % 10 == 0 else f"q.{number}", arguments=_kind(number, chance))
        for number in range(3, 300)
    ]
    sources = [spec for spec in exchanges if spec.name not in {"dead", "lost"}]
    bindings = {repr(each): each for each in (*ENDS, BindingSpec("lost", "lost"))}
    while len(bindings) < 900:
        number, source = len(bindings), chance.choice(sources)
        arguments = _headers(number, chance) if source.type == "headers" else {}
        key = "" if source.type in {"headers", "fanout"} else _key(source.type, chance)
        later = sources[sources.index(source) + 1 :]
        if number % 9 == 0 and later:
            each = BindingSpec(source.name, chance.choice(later).name, key, to_exchange=True, arguments=arguments)
        else:
            each = BindingSpec(source.name, chance.choice(queues).name, key, arguments=arguments)
        bindings[repr(each)] = each
    return Declarations(tuple(exchanges), tuple(queues), tuple(bindings.values()))


def _kind(number: int, chance: random.Random) -> dict[str, Any]:
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "parked"}
    kinds: list[dict[str, Any]] = [
        {},
        {"x-queue-type": "classic", "x-max-priority": chance.randint(1, 10)},
        {"x-message-ttl": chance.randint(1, 10**8), **dead},
        {"x-expires": chance.randint(10**7, 10**9)},
        {"x-max-length": chance.randint(1, 10**6), "x-overflow": "reject-publish", **dead},
        {"x-max-length-bytes": 10**7, "x-dead-letter-exchange": "dead"},
        {"x-single-active-consumer": True, "x-own": number},
        {"x-dead-letter-exchange": "topic.4", "x-dead-letter-routing-key": f"dead.{number}"},
        {"x-message-ttl": 5000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"q.{number + 1}"},
    ]
    if number % 60 == 0:
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": 7,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        } | dead
    if number % 97 == 0:
        return {"x-queue-type": "stream", "x-max-age": "7D", "x-max-length-bytes": 10**9}
    return kinds[number % len(kinds)]


def _headers(number: int, chance: random.Random) -> dict[str, Any]:
    headers: dict[str, Any] = {"kind": f"k{number}", "n": chance.randint(-5, 5), "yes": True}
    return headers if number % 3 == 0 else {"x-match": chance.choice(["all", "any"]), **headers}


def _key(kind: str, chance: random.Random) -> str:
    words = (
        ["order", "*", "#", "1", "no", "ü", "a b", "x,y", "${HOME}"] if kind == "topic" else ["order", "1", "no", "a b"]
    )
    # From 4.3.5 on the broker takes two '#' in a key at most.
    return ".".join(chance.choice(words) for _ in range(chance.randint(1, 3))).replace("#.#.#", "#.a.#")


def planned(topology: Topology, vhost_url: str, server: BrokerServer) -> list[tuple[str, str]]:
    """What a plan would change there, or cannot see: action and address."""
    opened = blocking.connect(url.parse(vhost_url), heartbeat_seconds=0, timeout_seconds=10)
    try:
        with administrator(server) as api:
            target = wanted_of(topology)
            seen = look(Eyes(opened, name_of(vhost_url), api, "http", SECONDS), target)
    finally:
        answer(opened.close())
    made = plans.plan(topology, target, seen.observed)
    return [(change.action.value, change.address) for change in made.changes]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_broker_full_of_everything_comes_back(
    connection: Connection, vhost_url: str, reader: Management, tmp_path: Path, broker_server: BrokerServer
) -> None:
    """300 queues, 40 exchanges, 900 bindings: read from the broker, written as YAML, read again, and nothing is different.

    A plan finds no change there, nor in an empty virtual host into which RabbitMQ has imported the export.
    """
    wanted = crowd(7)
    assert (len(wanted.queues), len(wanted.exchanges), len(wanted.bindings)) == (300, 40, 900)
    declared(connection, wanted)
    imported = importing.from_objects(live.read(reader, name_of(vhost_url)), source="a test", project="crowd")
    assert [remark for remark in imported.remarks if remark.kind != "note"] == []
    path = tmp_path / "topology.yaml"
    path.write_text(imported.text)
    inspection = inspect(path, environ={})
    assert inspection.errors == ()
    assert inspection.topology is not None
    same(declarations(inspection.topology), wanted)
    assert planned(inspection.topology, vhost_url, broker_server) == []
    with broker_server.vhost() as other:
        built, _ = definitions.build(inspection.topology)
        broker_server.request("POST", f"definitions/{quote(name_of(other), safe='')}", built)
        assert planned(inspection.topology, other, broker_server) == []


def test_the_command_reads_the_broker_of_the_environment(
    broker_server: BrokerServer, connection: Connection, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User and virtual host are those of $AMQPQ_BROKER_URL; exclusive queues are left out, and said."""
    flow.run(_exclusive(connection), SECONDS)
    declared(connection, Declarations((), (QueueSpec("q"),), ()))
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    monkeypatch.setenv("AMQPQ_MANAGEMENT_URL", broker_server.management_url)
    result = CliRunner().invoke(main, ["topology", "import", "live", "--project", "shop"])
    assert result.exit_code == 0, result.output
    assert load(_data(result.stdout), environ={}).queues.keys() == {"q"}
    assert "left out: queue 'mine': exclusive" in result.stderr


def _exclusive(connection: Connection) -> Flow[None]:
    yield connection.channel().declare_queue(QueueSpec("mine", durable=False, exclusive=True))


def _data(text: str) -> dict[str, Any]:

    data: dict[str, Any] = yamlfile.read(text, "output").root.data()
    return data
