"""Thirty changes behind the back of a topology file, on a real broker: each has its class and remedy where it can be seen.

At the other levels it is `?` or not told at all, and then the outcome is never "clean". AMQP 1.0 sees the arguments of queues and
the bindings of the file as the HTTP API does, the rest as AMQP 0-9-1; RabbitMQ has it from 4.0 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypedDict
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pika
import pytest

from amqpq.management import Management, PolicyInfo
from amqpq.provision import plan as plans
from amqpq.provision import text
from amqpq.provision.changes import Change
from amqpq.provision.look import Choice, Eyes, look
from amqpq.provision.plan import Plan
from amqpq.provision.wanted import wanted
from amqpq.topology import Topology, load
from amqpq.topology.declarations import declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.transport.interface import Channel, Connection, Pending
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec
from tests.conftest import BrokerServer
from tests.support.lab import STATISTICS_SECONDS, administrator, answer, do, until

pytestmark = pytest.mark.integration

SECONDS = 60


@dataclass(frozen=True, slots=True)
class Scene:
    """One project in a virtual host that several share; all names begin with its own prefix."""

    project: str
    topology: Topology
    connection: Connection
    api: Management
    server: BrokerServer
    vhost: str
    address: url.Address
    stranger: pika.BlockingConnection
    """A connection that is not amqpq's."""

    def name(self, short: str) -> str:
        """Return the full name of an object."""
        return f"{self.project}.{short}"

    def do(self, *calls: Callable[[Channel], Pending[Any]]) -> None:
        """Make calls over AMQP, each on a channel of its own."""
        do(self.connection, *calls)

    def remake(self, short: str, **changed: Any) -> None:
        """Delete a queue of the file, and declare it otherwise; bindings are made again."""
        spec = wanted(self.topology).queues[self.name(short)]
        arguments = {**spec.arguments, **changed.pop("arguments", {})}
        arguments = {name: value for name, value in arguments.items() if value is not None}
        self.do(
            lambda channel: channel.delete_queue(spec.name),
            lambda channel: channel.declare_queue(replace(spec, arguments=arguments, **changed)),
        )
        self.rebind()

    def remake_exchange(self, short: str, **changed: Any) -> None:
        """Delete an exchange of the file, and declare it otherwise; bindings are made again."""
        spec = wanted(self.topology).exchanges[self.name(short)]
        self.do(
            lambda channel: channel.delete_exchange(spec.name),
            lambda channel: channel.declare_exchange(replace(spec, **changed)),
        )
        self.rebind()

    def rebind(self) -> None:
        """Make the bindings of the file."""
        for binding in declarations(self.topology).bindings:
            self.do(lambda channel, binding=binding: channel.bind(binding))  # type: ignore[misc]

    def policy(self, short: str, **definition: Any) -> None:
        """Make somebody else's policy for one object."""
        pattern = "^" + self.name(short).replace(".", "\\.") + "$"
        self.api.put_policy(self.vhost, PolicyInfo(self.name(f"their-{short}"), pattern, "all", 50, definition))

    @property
    def levels(self) -> tuple[Choice, ...]:
        """The levels at which this broker can be looked at."""
        ten: tuple[Choice, ...] = ("amqp1.0",) if self.connection.server.version_tuple >= (4, 0, 0) else ()
        return ("http", *ten, "amqp")

    def plan(self, level: Choice) -> Plan:
        """Look, and plan."""
        target = wanted(self.topology)
        eyes = Eyes(self.connection, self.vhost, self.api, level, SECONDS, (self.address,))
        return plans.plan(self.topology, target, look(eyes, target).observed)


def topology_of(project: str) -> Topology:
    """Return a topology with something of each kind."""
    name = {
        short: f"{project}.{short}" for short in ("x", "lost", "h", "theirs", "q", "c", "s", "plain", "dead", "wanted")
    }
    return load(
        {
            "amqpq": 1,
            "project": project,
            "exchanges": {
                name["x"]: {"type": "topic", "unrouted": name["lost"]},
                name["lost"]: {"type": "fanout"},
                name["h"]: {"type": "headers"},
                name["theirs"]: {"type": "direct", "manage": "verify"},
            },
            "queues": {
                name["q"]: {"type": "quorum", "limits": {"max_length": 1000}, "delivery_limit": 10},
                name["c"]: {"max_priority": 5, "ttl": "1h"},
                name["s"]: {"type": "stream", "retention": {"max_age": "7D"}},
                name["plain"]: {},
                name["wanted"]: {"manage": "verify"},
            },
            "bindings": [
                f"{name['x']}[order.#] -> {name['q']}",
                f"{name['x']}[mail.*] -> {name['c']}",
                f"{name['lost']} -> {name['plain']}",
                {"from": name["h"], "to": name["s"], "headers": {"level": 3}},
                {"from": name["x"], "to": name["h"], "keys": ["all.#"], "as": "exchange"},
            ],
            "routes": {"*": {"exchange": name["x"], "key": "order.{task}"}},
            "policies": {
                f"{project}.cap": {
                    "pattern": f"^{project}\\.plain$",
                    "apply_to": "queues",
                    "priority": 5,
                    "definition": {"max-length": 100},
                }
            },
            "checks": [{"publish": {"task": "t"}, "reaches": [name["q"]], "exactly": True}],
        },
        environ={},
    )


@pytest.fixture(scope="module")
def shared(broker_server: BrokerServer) -> Iterator[tuple[Connection, Management, str]]:
    """A virtual host for all cases, a connection and a client."""
    with broker_server.vhost() as address:
        vhost = unquote(urlsplit(address).path[1:])
        connection = blocking.connect(url.parse(address), heartbeat_seconds=0, timeout_seconds=10)
        with administrator(broker_server) as api:
            yield connection, api, vhost
        answer(connection.close())


@pytest.fixture(scope="module")
def stranger(
    broker_server: BrokerServer, shared: tuple[Connection, Management, str]
) -> Iterator[pika.BlockingConnection]:
    """Somebody else's connection."""
    address = urlsplit(broker_server.url)._replace(path=f"/{shared[2]}").geturl()
    with pika.BlockingConnection(pika.URLParameters(address)) as opened:
        yield opened


@pytest.fixture
def scene(
    shared: tuple[Connection, Management, str], stranger: pika.BlockingConnection, broker_server: BrokerServer
) -> Scene:
    """A project that is on the broker as its file says."""
    connection, api, vhost = shared
    project = f"p{uuid4().hex[:8]}"
    topology = topology_of(project)
    address = replace(url.parse(broker_server.url), vhost=vhost)
    made = Scene(project, topology, connection, api, broker_server, vhost, address, stranger)
    made.do(
        lambda channel: channel.declare_exchange(ExchangeSpec(made.name("theirs"))),
        lambda channel: channel.declare_queue(QueueSpec(made.name("wanted"))),
    )
    declare.demand(flow.run(declare.apply(connection.channel, declarations(topology)), SECONDS))
    for policy in wanted(topology).policies.values():
        api.put_policy(vhost, PolicyInfo(policy.name, policy.pattern, "queues", policy.priority, policy.definition))
    return made


Expected: TypeAlias = tuple[str, str, str] | None
"""Action, address without the project's prefix, words; None: this level cannot see it."""


class Told(TypedDict):
    """What is expected at the levels that every broker has."""

    http: Expected
    amqp: Expected


CASES: dict[str, tuple[Callable[[Scene], object], Mapping[str, Expected]]] = {}


def everywhere(action: str, address: str, words: str) -> Told:
    """Expect the same at each level."""
    return {"http": (action, address, words), "amqp": (action, address, words)}


def by_policy(address: str, words: str) -> Told:
    """Expect that a generated policy puts it right, where policies can be seen."""
    return {"http": ("change", address, f"{words}  (by policy amqpq.1)"), "amqp": ("policy", address, words)}


def add(
    name: str,
    act: Callable[[Scene], object],
    *,
    http: Expected,
    amqp: Expected,
    amqp10: Literal["as http", "as amqp"] = "as amqp",
) -> None:
    """Note a case that is one line."""
    CASES[name] = (act, {"http": http, "amqp": amqp, "amqp1.0": http if amqp10 == "as http" else amqp})


# ------------------------------------------------------------------------------------------------------------- queues

add(
    "a queue is deleted",
    lambda s: s.do(lambda c: c.delete_queue(s.name("plain"))),
    **everywhere("create", "queue plain", ""),
)
add(
    "another type: classic for quorum",
    lambda s: s.remake("q", arguments={"x-queue-type": "classic", "x-delivery-limit": None}),
    **everywhere("migrate", "queue q", "x-queue-type classic -> quorum"),
)
add(
    "another type: quorum for classic",
    lambda s: s.remake("plain", arguments={"x-queue-type": "quorum"}),
    **everywhere("migrate", "queue plain", "x-queue-type quorum -> classic"),
)
add(
    "max_priority is gone",
    lambda s: s.remake("c", arguments={"x-max-priority": None}),
    **everywhere("migrate", "queue c", "x-max-priority none -> 5"),
)
add(
    "max_priority is another",
    lambda s: s.remake("c", arguments={"x-max-priority": 9}),
    **everywhere("migrate", "queue c", "x-max-priority 9 -> 5"),
)
add(
    "single active consumer",
    lambda s: s.remake("plain", arguments={"x-single-active-consumer": True}),
    **everywhere("migrate", "queue plain", "x-single-active-consumer True -> none"),
)
add(
    "auto-delete",
    lambda s: s.remake("plain", auto_delete=True),
    **everywhere("migrate", "queue plain", "auto_delete True -> False"),
)
add(
    "a shorter time to live, which an argument blocks",
    lambda s: s.remake("c", arguments={"x-message-ttl": 1000}),
    **everywhere("migrate", "queue c", "x-message-ttl 1000 -> 3600000"),
)
add(
    "a longer time to live, which a policy can tighten",
    lambda s: s.remake("c", arguments={"x-message-ttl": 7200000}),
    **by_policy("queue c", "x-message-ttl 7200000 -> 3600000"),
)
add(
    "no time to live",
    lambda s: s.remake("c", arguments={"x-message-ttl": None}),
    **by_policy("queue c", "x-message-ttl none -> 3600000"),
)
add(
    "a length that the file does not have",
    lambda s: s.remake("c", arguments={"x-max-length": 7}),
    **everywhere("migrate", "queue c", "x-max-length 7 -> none"),
)
add(
    "a greater length",
    lambda s: s.remake("q", arguments={"x-max-length": 2000}),
    **by_policy("queue q", "x-max-length 2000 -> 1000"),
)
add(
    "overflow on a quorum queue, where the policy wins",
    lambda s: s.remake("q", arguments={"x-overflow": "reject-publish"}),
    **everywhere("migrate", "queue q", "x-overflow reject-publish -> none"),
)
add(
    "dead letters go elsewhere",
    lambda s: s.remake("c", arguments={"x-dead-letter-routing-key": "elsewhere"}),
    **everywhere("migrate", "queue c", "x-dead-letter-routing-key elsewhere -> "),
)
add(
    "dead letters go nowhere",
    lambda s: s.remake("c", arguments={"x-dead-letter-exchange": None, "x-dead-letter-routing-key": None}),
    **by_policy("queue c", "x-dead-letter-exchange none -> ''"),
)
add(
    "expires",
    lambda s: s.remake("plain", arguments={"x-expires": 60000}),
    **everywhere("migrate", "queue plain", "x-expires 60000 -> none"),
)
add(
    "retention of a stream, where the policy wins",
    lambda s: s.remake("s", arguments={"x-max-age": "1D"}),
    **by_policy("queue s", "x-max-age 1D -> 7D"),
)
add(
    "an argument nobody knows",
    lambda s: s.remake("plain", arguments={"x-team": "blue"}),
    http=("info", "queue plain", "x-team blue -> none  (the broker keeps it and never looks at it)"),
    amqp=None,
    amqp10="as http",
)
add(
    "a queue of others has another type",
    lambda s: s.do(
        lambda c: c.delete_queue(s.name("wanted")),
        lambda c: c.declare_queue(QueueSpec(s.name("wanted"), arguments={"x-queue-type": "quorum"})),
    ),
    http=("missing", "queue wanted", "type quorum -> classic"),
    amqp=None,
    amqp10="as http",
)
add(
    "a queue of others that must be there is gone",
    lambda s: s.do(lambda c: c.delete_queue(s.name("wanted"))),
    **everywhere("missing", "queue wanted", "whoever owns it must create it"),
)

# --------------------------------------------------------------------------------------------- exchanges and bindings

add(
    "an exchange is deleted",
    lambda s: s.do(lambda c: c.delete_exchange(s.name("h"))),
    **everywhere("create", "exchange h", "headers"),
)
add(
    "an exchange has another type",
    lambda s: s.remake_exchange("x", type="direct"),
    **everywhere("replace", "exchange x", "type direct -> topic"),
)
add(
    "an exchange is internal",
    lambda s: s.remake_exchange("x", internal=True),
    **everywhere("replace", "exchange x", "internal True -> False"),
)
add(
    "the alternate exchange is gone",
    lambda s: s.remake_exchange("x", arguments={}),
    **by_policy("exchange x", "alternate-exchange none -> lost"),
)
add(
    "the alternate exchange is another",
    lambda s: s.remake_exchange("x", arguments={"alternate-exchange": "amq.fanout"}),
    **everywhere("replace", "exchange x", "alternate-exchange amq.fanout -> "),
)
add(
    "an exchange of others that must be there is gone",
    lambda s: s.do(lambda c: c.delete_exchange(s.name("theirs"))),
    **everywhere("missing", "exchange theirs", "whoever owns it must create it"),
)
add(
    "an exchange of others has another type",
    lambda s: s.do(
        lambda c: c.delete_exchange(s.name("theirs")),
        lambda c: c.declare_exchange(ExchangeSpec(s.name("theirs"), "fanout")),
    ),
    http=("missing", "exchange theirs", "type fanout -> direct"),
    amqp=None,
)
add(
    "a binding is gone",
    lambda s: s.do(lambda c: c.unbind(BindingSpec(s.name("x"), s.name("c"), "mail.*"))),
    http=("create", "binding x[mail.*] -> c", ""),
    amqp=("unknown", "broker bindings", "may be there or not"),
    amqp10="as http",
)
add(
    "a binding with headers is gone",
    lambda s: s.do(lambda c: c.unbind(BindingSpec(s.name("h"), s.name("s"), arguments={"x-match": "all", "level": 3}))),
    http=("create", "binding h[x-match='all', level=3] -> s", ""),
    amqp=("unknown", "broker bindings", "may be there or not"),
    amqp10="as http",
)
add(
    "a binding to an exchange is gone",
    lambda s: s.do(lambda c: c.unbind(BindingSpec(s.name("x"), s.name("h"), "all.#", to_exchange=True))),
    http=("create", "binding x[all.#] -> h (exchange)", ""),
    amqp=("unknown", "broker bindings", "may be there or not"),
    amqp10="as http",
)
add(
    "a binding of others beside ours, with other headers",
    lambda s: s.do(lambda c: c.bind(BindingSpec(s.name("h"), s.name("s"), arguments={"x-match": "all", "level": 4}))),
    http=("foreign", "binding h[x-match='all', level=4] -> s", "not made by this project"),
    amqp=("unknown", "broker everything else", "bindings"),
    amqp10="as http",
)
add(
    "a binding of others leads into our queue",
    lambda s: s.do(lambda c: c.bind(BindingSpec(s.name("x"), s.name("plain"), "order.#"))),
    http=("foreign", "binding x[order.#] -> plain", "not made by this project"),
    amqp=("unknown", "broker everything else", "bindings"),
)

# --------------------------------------------------------------------------------------------- policies and consumers

add(
    "our policy is gone",
    lambda s: s.api.delete_policy(s.vhost, s.name("cap")),
    http=("create", "policy cap", ""),
    amqp=("unknown", "policy cap", "set broker.management"),
)
add(
    "our policy says something else",
    lambda s: s.api.put_policy(
        s.vhost, PolicyInfo(s.name("cap"), f"^{s.project}\\.plain$", "queues", 5, {"max-length": 1})
    ),
    http=("change", "policy cap", "max-length 1 -> 100"),
    amqp=("unknown", "policy cap", "set broker.management"),
)
add(
    "a policy of others shadows ours",
    lambda s: s.policy("plain", expires=3600000),
    http=("foreign", "queue plain", "makes max-length nothing (the file: 100)"),
    amqp=("unknown", "broker everything else", "policies"),
)
add(
    "a policy of others tightens an argument",
    lambda s: s.policy("q", **{"max-length": 5}),
    http=("foreign", "queue q", "makes max-length 5 (the file: 1000)"),
    amqp=("unknown", "broker everything else", "policies"),
)
add(
    "a policy of the same priority as ours",
    lambda s: s.api.put_policy(
        s.vhost, PolicyInfo(s.name("zzz"), f"^{s.project}\\.plain$", "queues", 5, {"max-length": 100})
    ),
    http=("foreign", "queue plain", "equal priority"),
    amqp=("unknown", "broker everything else", "policies"),
)
add(
    "an operator policy",
    lambda s: s.server.request(
        "PUT",
        f"operator-policies/{s.vhost}/{s.name('guard')}",
        {"pattern": f"^{s.project}\\.q$", "apply-to": "queues", "definition": {"max-length": 50}},
    ),
    http=("admin", "queue q", "makes max-length 50 (the file: 1000)"),
    amqp=("unknown", "broker everything else", "policies"),
)


def a_foreign_consumer(scene: Scene) -> None:
    """Consume, and wait until the API tells of it: it learns of consumers by its statistics, every five seconds."""
    scene.stranger.channel().basic_consume(scene.name("plain"), lambda *_: None, consumer_tag="bi-tool")

    def told() -> bool:
        return any(found["queue"]["name"] == scene.name("plain") for found in scene.api.consumers(scene.vhost))

    until(told, "the API tells of the consumer", STATISTICS_SECONDS)


add(
    "a foreign consumer",
    a_foreign_consumer,
    http=("foreign", "consumer plain", "'bi-tool'"),
    amqp=("unknown", "broker everything else", "consumers"),
)


@pytest.mark.parametrize("name", CASES)
def test_what_was_changed_is_told_at_each_level(scene: Scene, name: str) -> None:
    """Each change has its class and remedy over HTTP, and over AMQP the same, or a question mark."""
    act, expected = CASES[name]
    assert scene.plan("http").outcome == "clean", list(text.lines(scene.plan("http")))
    act(scene)
    for level in scene.levels:
        plan = scene.plan(level)
        assert plan.level == level
        if level != "http":
            assert plan.outcome != "clean"
        told = expected[level]
        if told is None:
            continue
        assert any(_tells(scene, plan, change, told) for change in plan.changes), (level, list(text.lines(plan)))


def test_what_is_as_the_file_says_is_known_over_amqp_1_0(scene: Scene) -> None:
    """Every binding is seen, so none is made again; policies and what others made stay unknown."""
    if "amqp1.0" not in scene.levels:
        pytest.skip("AMQP 1.0 management came with RabbitMQ 4.0")
    plan = scene.plan("amqp1.0")
    assert [(change.action, change.address) for change in plan.changes] == [
        ("unknown", f"policy {scene.name('cap')}"),
        ("unknown", "broker everything else"),
    ]
    assert (plan.steps, plan.outcome) == ((), "unknown")


def _tells(scene: Scene, plan: Plan, change: Change, expected: tuple[str, str, str]) -> bool:
    action, address, words = expected
    lines = "\n".join(text.lines(replace(plan, changes=(change,)))).replace(f"{scene.project}.", "")
    return (change.action, change.address.replace(f"{scene.project}.", "")) == (action, address) and words in lines
