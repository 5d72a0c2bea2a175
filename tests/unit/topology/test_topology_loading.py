"""From files and mappings to a topology: defaults, dead letters, variables, environments, several files."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from amqpq.errors import TopologyError
from amqpq.topology import Topology, inspect, load
from amqpq.topology.declarations import declarations
from amqpq.topology.expected import PublishCheck

HEAD: dict[str, Any] = {"amqpq": 1, "project": "shop"}

DESIGN = """\
amqpq: 1
project: shop
requires: {rabbitmq: ">=3.10"}

variables:
  AMQP_URL: {type: secret, from: "env:AMQPQ_BROKER_URL", default: "amqp://guest:guest@localhost:5672/"}
environments:
  prod: {allow: {delete: false, migrate: reviewed}}

broker:
  url: ${AMQP_URL}
  management: null
  tls: {verify: peer, ca: ca.pem}
  heartbeat: 30s

exchanges:
  tasks:  {type: direct}
  web:    {type: topic, unrouted: lost}
  news:   {type: fanout}
  lost:   {type: fanout}

queues:
  default:  {max_priority: 10}
  web.high: {type: quorum, delivery_limit: 20, dead_letter: parked}
  audit:    {type: quorum, limits: {max_length: 100000, overflow: reject-publish}}
  search:   {}
  lost:     {limits: {max_length: 10000, overflow: drop-head}}
  clicks:   {partitions: 8}
  legacy:   {manage: verify}

bindings:
  - tasks[default] -> default
  - web[web.#] -> web.high
  - news -> audit
  - news -> search
  - lost -> lost

routes:
  "tasks.*":   {exchange: tasks, key: default}
  "web.*":     {exchange: web, key: "web.{task}", priority: 5, expires: 10m, compression: zlib, reply: task}
  "news.post": {exchange: news, reply: none}

messages:
  serializer: msgpack
  accept: [msgpack, json]
  compression: {algorithm: zlib, above: 4KiB}
  max_size: 16MiB
  persistent: true
  confirm: true
  mandatory: true

replies: {mode: task, expires: 1d, persistent: true}
retries: {max: 3, backoff: {min: 1s, max: 10m, factor: 2, jitter: true}, then: dead}
dead_letters: {parked: {queue: parked}}
delays: {unit: 1s, max: 30d}

security:
  signing: {algorithm: ed25519, key: "${SIGN_KEY:keys/producer-a.pem}", key_id: "${SIGN_KEY_ID:producer-a}"}
  trust:
    producer-a: {key: keys/producer-a.pub, may: ["tasks.*", "web.*"]}
    worker-1:   {key: keys/worker-1.pub,   may: [results]}
  require: signed
  replay_window: 10m
  encryption: {profile: pii, algorithm: aes-256-gcm, key: "env:PII_KEY", tasks: ["crm.*"]}

schedule:
  nightly: {task: tasks.report, cron: "15 2 * * *", zone: Europe/Berlin, misfire: run-once}
  pulse:   {task: tasks.ping, every: 10s}

policies: {}
checks:
  - {publish: {task: web.resize}, reaches: [web.high], exactly: true}
  - {publish: {exchange: web, key: nothing}, reaches: [lost]}
"""
"""The annotated example of the format, whole."""

UNBUILT = ("  encryption:", "  nightly:", "  pulse:")
"""Beginnings of the example's lines whose machinery does not exist yet."""


def written(folder: Path, text: str, name: str = "topology.yaml") -> Path:
    """Write a topology file."""
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def built(text: str) -> str:
    """Return the example without what is not built yet."""
    return "\n".join(line for line in text.split("\n") if not line.startswith(UNBUILT))


def made(**sections: Any) -> Topology:
    """Load a mapping."""
    return load({**HEAD, **sections}, environ={})


def test_the_whole_format_is_read_and_only_what_is_not_built_is_refused(tmp_path: Path) -> None:
    """Of the complete example, exactly the parts whose machinery is missing are refused, each with its place."""
    with pytest.raises(TopologyError) as caught:
        load(written(tmp_path, DESIGN), environ={})
    lines = DESIGN.split("\n")
    for problem in caught.value.problems:
        assert "not built yet" in problem
        assert lines[int(problem.split(":")[1]) - 1].startswith(UNBUILT)
    assert len(caught.value.problems) == len(UNBUILT)


def test_the_example_without_the_unbuilt_parts_loads(tmp_path: Path) -> None:
    """Everything else of the example becomes the topology it describes."""
    topology = load(written(tmp_path, built(DESIGN)), environ={})
    assert topology.project == "shop"
    assert topology.base == tmp_path
    assert topology.broker.tls is not None
    assert topology.broker.tls.ca == tmp_path / "ca.pem"
    assert topology.exchanges["web"].unrouted == "lost"
    assert topology.queues["default"].max_priority == 10
    assert topology.queues["web.high"].dead_letter == "parked"
    assert topology.queues["audit"].limits.overflow == "reject-publish"
    assert topology.queues["legacy"].manage == "verify"
    assert [(b.source, b.key, b.target, b.to_exchange) for b in topology.bindings] == [
        ("tasks", "default", "default", False),
        ("web", "web.#", "web.high", False),
        ("news", "", "audit", False),
        ("news", "", "search", False),
        ("lost", "", "lost", False),
    ]
    web = topology.route_for("web.resize")
    assert (web.exchange, web.priority, web.expires_seconds, web.compression, web.reply) == (
        "web",
        5,
        600,
        "zlib",
        "task",
    )
    assert topology.messages.compression == "zlib"
    assert topology.messages.max_size == 16 * 1024 * 1024
    assert topology.replies.expires_seconds == 86400
    assert topology.security.signing is not None
    assert topology.security.signing.key == "keys/producer-a.pem"
    assert topology.security.trust["worker-1"].may == ("results",)
    assert [check.reaches for check in topology.checks if isinstance(check, PublishCheck)] == [("web.high",), ("lost",)]


def test_a_minimal_file_has_defaults_for_everything() -> None:
    """Format, project and a queue are enough; the rest is persistent, confirmed and signed."""
    topology = made(queues={"default": None})
    assert topology.broker.urls == ("amqp://guest:guest@localhost:5672/",)
    assert topology.messages.serializer == "msgpack"
    assert topology.messages.accept == ("msgpack", "json")
    assert topology.messages.confirm
    assert topology.messages.mandatory
    assert topology.replies.mode == "task"
    assert topology.security.require == "signed"
    assert topology.security.signing is not None
    assert (topology.security.signing.algorithm, topology.security.signing.key) == ("ed25519", "keys/shop.pem")
    assert topology.security.signing.key_id == "shop"


def test_signing_can_be_switched_off_explicitly(tmp_path: Path) -> None:
    """`signing: off` (which YAML reads as false) means unsigned messages are accepted."""
    topology = load(written(tmp_path, "amqpq: 1\nproject: p\nqueues: {q: {}}\nsecurity: {signing: off}\n"), environ={})
    assert topology.security.signing is None
    assert topology.security.require == "optional"


# -------------------------------------------------------------------------------------------------------- dead letters


def test_a_queue_that_says_nothing_gets_the_projects_dead_letter_queue() -> None:
    """Silence means the generated durable queue `<project>.dead`, as arguments on the queue as well."""
    topology = made(queues={"a": {}, "b": {}})
    assert topology.dead_letter_of("a") == "shop.dead"
    assert topology.queues["shop.dead"].generated
    specs = {spec.name: spec for spec in declarations(topology).queues}
    assert list(specs) == ["shop.dead", "a", "b"]
    assert specs["a"].arguments == {
        "x-queue-type": "classic",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "shop.dead",
    }
    assert specs["shop.dead"].durable
    assert specs["shop.dead"].arguments == {"x-queue-type": "classic"}


@pytest.mark.parametrize("nothing", [None, "none"])
def test_dead_letters_can_be_dropped_on_purpose(nothing: str | None) -> None:
    """`none` and null drop; then nothing is generated."""
    topology = made(queues={"a": {"dead_letter": nothing}})
    assert topology.dead_letter_of("a") is None
    assert list(topology.queues) == ["a"]


def test_a_named_dead_letter_may_be_a_queue_of_the_file_or_a_generated_one() -> None:
    """A queue under `dead_letters` is used as written out, else generated; it has no dead letter itself."""
    topology = made(
        queues={"a": {"dead_letter": "x"}, "b": {"dead_letter": "y"}, "parked": {"type": "quorum"}},
        dead_letters={"x": {"queue": "parked"}, "y": {"queue": "bin"}},
    )
    assert topology.dead_letter_of("a") == "parked"
    assert topology.dead_letter_of("b") == "bin"
    assert topology.dead_letter_of("parked") is None
    assert topology.queues["parked"].type == "quorum"
    assert topology.queues["bin"].generated
    assert "shop.dead" not in topology.queues


# ------------------------------------------------------------------------------------------------------- declarations


def test_every_key_becomes_its_argument() -> None:
    """Limits, lifetimes and types are arguments with the broker's names and units."""
    topology = made(
        exchanges={"x": {"unrouted": "y", "extra_arguments": {"x-own": 1}}, "y": {"type": "fanout"}},
        queues={
            "classic": {
                "max_priority": 5,
                "ttl": "10m",
                "expires": "1h",
                "single_active": True,
                "dead_letter": "none",
                "limits": {"max_length": 10, "max_length_bytes": "1MiB", "overflow": "reject-publish"},
                "extra_arguments": {"x-own": "v"},
            },
            "quorum": {"type": "quorum", "delivery_limit": 3, "dead_letter": "none"},
            "stream": {"type": "stream", "retention": {"max_age": "7D", "max_bytes": "1GiB", "segment": "10MiB"}},
        },
        bindings=["x[k] -> classic", "y -> classic"],
    )
    found = declarations(topology)
    assert [(spec.name, spec.arguments) for spec in found.exchanges] == [
        ("y", {}),
        ("x", {"x-own": 1, "alternate-exchange": "y"}),
    ]
    arguments = {spec.name: spec.arguments for spec in found.queues}
    assert arguments["classic"] == {
        "x-queue-type": "classic",
        "x-max-priority": 5,
        "x-single-active-consumer": True,
        "x-message-ttl": 600000,
        "x-expires": 3600000,
        "x-max-length": 10,
        "x-max-length-bytes": 1048576,
        "x-overflow": "reject-publish",
        "x-own": "v",
    }
    assert arguments["quorum"] == {"x-queue-type": "quorum", "x-delivery-limit": 3}
    assert arguments["stream"] == {
        "x-queue-type": "stream",
        "x-max-age": "7D",
        "x-max-length-bytes": 1073741824,
        "x-stream-max-segment-size-bytes": 10485760,
    }


def test_other_peoples_objects_are_expected_or_ignored() -> None:
    """`verify` is looked for and never declared; `external` is left out, and so are its bindings."""
    topology = made(
        exchanges={
            "theirs": {"manage": "verify"},
            "far": {"manage": "external"},
            "amq.topic": {"type": "topic", "manage": "verify"},
        },
        queues={"mine": {}, "legacy": {"manage": "verify"}, "away": {"manage": "external"}},
        bindings=["theirs[k] -> mine", "theirs[k] -> legacy", "far[k] -> mine", "theirs[k] -> away"],
    )
    found = declarations(topology)
    assert [spec.name for spec in found.exchanges] == []
    assert [spec.name for spec in found.expected_exchanges] == ["theirs", "amq.topic"]
    assert [spec.name for spec in found.queues] == ["shop.dead", "mine"]
    assert [spec.name for spec in found.expected_queues] == ["legacy"]
    assert [(b.source, b.target) for b in found.bindings] == [("theirs", "mine"), ("theirs", "legacy")]


def test_a_target_that_is_an_exchange_binds_exchange_to_exchange() -> None:
    """Where a queue and an exchange have the name, the queue is meant, unless `as` says otherwise."""
    topology = made(
        exchanges={"a": {"type": "fanout"}, "b": {"type": "fanout"}},
        queues={"b": {}, "q": {}},
        bindings=["a -> b", {"from": "a", "to": "b", "as": "exchange"}, "b -> q"],
    )
    assert [binding.to_exchange for binding in topology.bindings] == [False, True, False]


def test_headers_bindings_carry_their_match() -> None:
    """Headers become binding arguments, with `x-match` spelled out, and keep their types."""
    topology = made(
        exchanges={"h": {"type": "headers"}},
        queues={"q": {}},
        bindings=[{"from": "h", "to": "q", "headers": {"n": 1, "s": "1", "b": True, "p": None}}],
    )
    assert topology.bindings[0].arguments == {"x-match": "all", "n": 1, "s": "1", "b": True, "p": None}


# ----------------------------------------------------------------------------------------------------------- variables


def test_variables_have_types() -> None:
    """A number from the environment becomes a number where the variable says int."""
    topology = load(
        {
            **HEAD,
            "variables": {
                "N": {"type": "int", "from": "env:QUEUE_LENGTH"},
                "D": {"type": "duration", "default": "2h"},
                "B": {"type": "bool", "default": True},
                "S": {"type": "size", "default": "1KiB"},
            },
            "queues": {
                "q": {"limits": {"max_length": "${N}", "max_length_bytes": "${S}"}, "ttl": "${D}", "durable": "${B}"}
            },
        },
        environ={"QUEUE_LENGTH": "500"},
    )
    queue = topology.queues["q"]
    assert (queue.limits.max_length, queue.limits.max_length_bytes, queue.ttl_seconds) == (500, 1024, 7200)
    assert queue.durable is True


def test_a_variable_may_come_from_a_file(tmp_path: Path) -> None:
    """`file:` reads a file beside the topology, without its last line break."""
    (tmp_path / "url").write_text("amqp://u:secret@h/\n")
    text = 'amqpq: 1\nproject: p\nvariables: {U: {type: secret, from: "file:url"}}\nbroker: {url: "${U}"}\nqueues: {q: {}}\n'
    assert load(written(tmp_path, text), environ={}).broker.urls == ("amqp://u:secret@h/",)


def test_undeclared_variables_come_from_the_environment_or_their_default() -> None:
    """`${NAME:default}` needs no declaration; `$${` stays as it is; text around a variable is kept."""
    source = {
        **HEAD,
        "queues": {"q": {}},
        "security": {"signing": {"key": "${KEYS:keys}/${HOST:a}.pem", "key_id": "$${x}"}},
    }
    signing = load(source, environ={"HOST": "web-1"}).security.signing
    assert signing is not None
    assert (signing.key, signing.key_id) == ("keys/web-1.pem", "${x}")


def test_the_environments_url_overrides_the_files() -> None:
    """`AMQPQ_BROKER_URL` replaces `broker.url`, whose own variable need not be there then."""
    source = {**HEAD, "queues": {"q": {}}, "broker": {"url": "${NOT_THERE}", "heartbeat": "10s"}}
    broker = load(source, environ={"AMQPQ_BROKER_URL": "amqp://a:b@h1/ amqp://a:b@h2/"}).broker
    assert broker.urls == ("amqp://a:b@h1/", "amqp://a:b@h2/")
    assert broker.heartbeat_seconds == 10


def test_the_environments_management_url_overrides_the_files() -> None:
    """`AMQPQ_MANAGEMENT_URL` replaces `broker.management`, or is the only one; without either there is none."""
    source = {**HEAD, "queues": {"q": {}}, "broker": {"management": "${NOT_THERE}"}}
    environ = {"AMQPQ_MANAGEMENT_URL": "http://a:hunter2@h1"}
    broker = load(source, environ=environ).broker
    assert broker.management == "http://a:hunter2@h1"
    assert "hunter2" not in repr(broker)
    assert load({**HEAD, "queues": {"q": {}}}, environ=environ).broker.management == "http://a:hunter2@h1"
    assert load({**HEAD, "queues": {"q": {}}}, environ={}).broker.management is None


# -------------------------------------------------------------------------------------------------------- environments


def test_an_environment_is_laid_over_the_file() -> None:
    """Mappings merge deeply, lists and values replace, null removes a key."""
    source = {
        **HEAD,
        "queues": {"q": {"ttl": "1h", "max_priority": 5}, "debug": {}},
        "messages": {"accept": ["json", "msgpack"]},
        "environments": {
            "prod": {
                "queues": {"q": {"max_priority": None, "type": "quorum"}, "debug": None},
                "messages": {"accept": ["msgpack"]},
            }
        },
    }
    topology = load(source, environment="prod", environ={})
    assert topology.environment == "prod"
    assert topology.queues["q"].type == "quorum"
    assert topology.queues["q"].max_priority is None
    assert topology.queues["q"].ttl_seconds == 3600
    assert "debug" not in topology.queues
    assert topology.messages.accept == ("msgpack",)
    assert load(source, environ={}).queues["q"].max_priority == 5


def test_an_unknown_environment_is_an_error_with_a_suggestion() -> None:
    """A misspelt environment names the nearest and all of them."""
    with pytest.raises(TopologyError, match=r"no environment 'prd' \(did you mean 'prod'\?\); the file has: dev, prod"):
        load({**HEAD, "environments": {"dev": {}, "prod": {}}}, environment="prd", environ={})


def test_an_environment_that_is_not_used_is_checked_for_shape() -> None:
    """A typo in production's overlay is found on the laptop; values only production has are no error there."""
    source = {
        **HEAD,
        "queues": {"q": {}},
        "environments": {"prod": {"queues": {"q": {"typ": "quorum"}}, "broker": {"url": "${PROD_URL}"}}},
    }
    problems = [str(problem) for problem in inspect(source, environ={}).errors]
    assert problems == [
        "<mapping>:environments.prod.queues.q.typ: TOP001 unknown key 'typ' in 'queues.q' (did you mean 'type'?)"
    ]


# -------------------------------------------------------------------------------------------------------- several files


def test_several_files_make_one_topology(tmp_path: Path) -> None:
    """Mappings of several files unite and their bindings add up; paths resolve from the first."""
    first = written(
        tmp_path, "amqpq: 1\nproject: p\nexchanges: {x: {}}\nqueues: {a: {}}\nbindings: ['x[a] -> a']\n", "a.yaml"
    )
    second = written(tmp_path, "amqpq: 1\nqueues: {b: {}}\nbindings: ['x[b] -> b']\n", "b.yaml")
    topology = load([first, second], environ={})
    assert list(topology.queues)[:2] == ["a", "b"]
    assert [binding.target for binding in topology.bindings] == ["a", "b"]
    assert topology.path == first


def test_two_files_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    """No file overrules another silently; the error names both places."""
    first = written(tmp_path, "amqpq: 1\nproject: p\nqueues: {a: {ttl: 1s}}\n", "a.yaml")
    second = written(tmp_path, "queues:\n  a: {ttl: 2s}\n", "b.yaml")
    with pytest.raises(TopologyError) as caught:
        load([first, second], environ={})
    assert str(second) + ":2:7" in caught.value.problems[0]
    assert str(first) + ":3:14" in caught.value.problems[0]
