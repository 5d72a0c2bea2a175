from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from amqpq.config import codec
from amqpq.errors import ConfigurationError, LocalError, MessageTooLarge, NoRoute, NotSerializable
from amqpq.message.codec import Codec
from amqpq.producer.options import read_options
from amqpq.producer.planning import Call, Plan, Planner
from amqpq.task import Request, task_options
from amqpq.topology import Topology, load

NOW = 1_800_000_000.0
MOMENT = datetime.fromtimestamp(NOW, UTC)

SOURCE: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "exchanges": {"tasks": {"type": "direct"}, "web": {"type": "topic"}, "news": {"type": "fanout"}},
    "queues": {"default": {"max_priority": 10}, "web.high": {}, "audit": {}},
    "bindings": ["tasks[default] -> default", "web[web.#] -> web.high", "web[file.*] -> web.high", "news -> audit"],
    "routes": {
        "tasks.*": {"exchange": "tasks", "key": "default"},
        "web.*": {"exchange": "web", "key": "web.{task}", "priority": 5, "expires": "10m", "compression": "zlib"},
        "file.*": {"exchange": "web", "key": "file.{kind}"},
        "news.post": {"exchange": "news", "reply": "none"},
        "raw.*": {"queue": "audit", "compression": "none"},
    },
    "messages": {"max_size": "64KiB", "compression": {"algorithm": "bzip2", "above": "1KiB"}},
    "replies": {"expires": "1h"},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}


@pytest.fixture(scope="module")
def topology() -> Topology:
    """A topology with every kind of route."""
    return load(SOURCE, environ={})


@pytest.fixture(scope="module")
def reader(topology: Topology) -> Codec:
    """The codec of the project."""
    return codec(topology, environ={"SIGN_KEY": "5a" * 32})


@pytest.fixture(scope="module")
def planner(topology: Topology, reader: Codec) -> Planner:
    """A planner whose clock stands still and whose ids are known."""
    return Planner(topology, reader, clock=lambda: NOW, new_id=lambda: "id-1")


def plan(planner: Planner, task: str, *args: Any, parent: Request | None = None, **options: Any) -> Plan:
    """Plan a call of `task` with positional arguments and options."""
    return planner.plan(Call(task, args, options.pop("kwargs", {}), read_options(options)), parent)


def test_a_route_gives_exchange_and_key(planner: Planner) -> None:
    """The task goes where its route says."""
    publication = plan(planner, "tasks.add", 2, 3).publication
    assert (publication.exchange, publication.routing_key, publication.mandatory) == ("tasks", "default", True)


def test_a_key_template_takes_what_the_star_matched(planner: Planner) -> None:
    """`{task}` is the part of the name that the pattern's star stands for."""
    assert plan(planner, "web.resize").publication.routing_key == "web.resize"


def test_a_key_template_takes_keyword_arguments(planner: Planner) -> None:
    """Any other field comes from the call."""
    assert plan(planner, "file.count", kwargs={"kind": "py"}).publication.routing_key == "file.py"


def test_a_missing_template_field_is_named(planner: Planner) -> None:
    """A call without the keyword its key needs is refused, and told which."""
    with pytest.raises(LocalError, match="needs a keyword argument 'kind'"):
        plan(planner, "file.count", "py")


def test_a_task_without_route_says_what_was_meant(planner: Planner) -> None:
    """A name that nobody routes is refused with the routes there are."""
    with pytest.raises(NoRoute, match=r"no route matches the task 'task\.add'.*did you mean.*routes:"):
        plan(planner, "task.add")


def test_queue_publishes_past_the_routes(planner: Planner) -> None:
    """`queue=` is the default exchange with the queue's name, for a task without a route too."""
    publication = plan(planner, "other.add", queue="default").publication
    assert (publication.exchange, publication.routing_key) == ("", "default")


def test_queue_keeps_the_defaults_of_the_route(planner: Planner) -> None:
    """Another queue changes where a task goes, not what its route says of its message."""
    assert plan(planner, "web.resize", queue="default").publication.properties.priority == 5


def test_an_undeclared_queue_says_what_was_meant(planner: Planner) -> None:
    """A queue that the topology does not have is refused before anything is sent."""
    with pytest.raises(LocalError, match=r"queue='defualt'.*no such queue \(did you mean 'default'\?\)"):
        plan(planner, "tasks.add", queue="defualt")


def test_an_undeclared_exchange_says_what_was_meant(planner: Planner) -> None:
    """An exchange that the topology does not have is refused."""
    with pytest.raises(LocalError, match=r"exchange='wep'.*did you mean 'web'"):
        plan(planner, "tasks.add", exchange="wep", routing_key="x")


def test_an_exchange_that_routes_by_key_needs_one(planner: Planner) -> None:
    """Only fanout and headers exchanges do without a key."""
    with pytest.raises(LocalError, match="needs a routing_key="):
        plan(planner, "tasks.add", exchange="web")
    assert plan(planner, "tasks.add", exchange="news").publication.routing_key == ""


def test_a_routing_key_replaces_that_of_the_route(planner: Planner) -> None:
    """`routing_key=` alone keeps the route's exchange."""
    publication = plan(planner, "tasks.add", routing_key="other").publication
    assert (publication.exchange, publication.routing_key) == ("tasks", "other")


def test_the_reply_queue_is_named_after_the_task(planner: Planner) -> None:
    """A call in reply mode `task` brings the queue that holds its newest state."""
    made = plan(planner, "tasks.add")
    assert made.reply_queue is not None
    assert made.reply_queue.name == made.publication.properties.reply_to == "amqpq.reply.id-1"
    assert made.reply_queue.durable
    assert made.reply_queue.arguments == {
        "x-queue-type": "classic", "x-expires": 3_600_000, "x-max-length": 1, "x-overflow": "drop-head"
    }  # fmt: skip


def test_a_reply_queue_outlives_the_wait_of_its_task(planner: Planner) -> None:
    """A queue that waits is idle, so it lives for the task's expiry and `replies.expires` more."""
    made = plan(planner, "tasks.add", expires=60)
    assert made.reply_queue is not None
    assert made.reply_queue.arguments["x-expires"] == 3_660_000


@pytest.mark.parametrize(
    "task, options, mode, reply_to",
    [
        ("tasks.add", {}, "task", "amqpq.reply.id-1"),
        ("tasks.add", {"reply": "direct"}, "direct", "amq.rabbitmq.reply-to"),
        ("tasks.add", {"reply": "none"}, "none", None),
        ("tasks.add", {"ignore_result": True}, "none", None),
        ("news.post", {}, "none", None),
        ("news.post", {"reply": "task"}, "task", "amqpq.reply.id-1"),
    ],
)
def test_the_call_decides_the_reply_before_the_route(
    planner: Planner, task: str, options: dict[str, Any], mode: str, reply_to: str | None
) -> None:
    """Reply mode: the call's word counts before the route's, the route's before the project's."""
    made = plan(planner, task, **options)
    assert (made.mode, made.publication.properties.reply_to) == (mode, reply_to)
    assert (made.reply_queue is not None) == (mode == "task")


def test_a_result_that_is_asked_for_and_routed_away_is_refused(planner: Planner) -> None:
    """`ignore_result=False` on a route without replies is a contradiction, and said to be one."""
    with pytest.raises(LocalError, match="ignore_result=False asks for a result"):
        plan(planner, "news.post", ignore_result=False)


def test_task_options_count_between_call_and_route(planner: Planner, reader: Codec) -> None:
    """A task's own options count before its route's and after the call's."""
    options = task_options({"priority": 7, "expires": 30, "serializer": "json", "ignore_result": True})
    made = planner.plan(Call("web.resize", task_options=options))
    properties = made.publication.properties
    assert (made.mode, properties.priority, properties.content_type) == ("none", 7, "application/json")
    made = planner.plan(Call("web.resize", options=read_options({"priority": 1}), task_options=options))
    assert made.publication.properties.priority == 1
    assert reader.task_facts(properties).expires == (MOMENT + timedelta(seconds=30)).isoformat()


@pytest.mark.parametrize(
    "expires, seconds",
    [
        (60, 60),
        (0.5, 0.5),
        (timedelta(minutes=2), 120),
        (MOMENT + timedelta(hours=1), 3600),
        ((MOMENT + timedelta(hours=1)).astimezone(timezone(timedelta(hours=5))), 3600),
    ],
)
def test_expiry_travels_as_moment_and_as_ttl(planner: Planner, reader: Codec, expires: Any, seconds: float) -> None:
    """Seconds, a timedelta and a datetime all become an ISO moment in UTC and the message's TTL."""
    properties = plan(planner, "tasks.add", expires=expires, reply="none").publication.properties
    assert reader.task_facts(properties).expires == (MOMENT + timedelta(seconds=seconds)).isoformat()
    assert properties.expiration == seconds * 1000


def test_the_ttl_is_longer_where_a_reply_is_expected(planner: Planner) -> None:
    """A worker that comes too late still finds the message, and answers EXPIRED."""
    assert plan(planner, "tasks.add", expires=60).publication.properties.expiration == 3_660_000


def test_an_expiry_beyond_the_brokers_range_travels_in_the_header_alone(planner: Planner, reader: Codec) -> None:
    """A TTL the broker cannot take is left out rather than cut short: the header decides."""
    properties = plan(planner, "tasks.add", expires=timedelta(days=100)).publication.properties
    assert properties.expiration is None
    assert reader.task_facts(properties).expires == (MOMENT + timedelta(days=100)).isoformat()


@pytest.mark.parametrize(
    "expires, text",
    [
        (0, "already past"),
        (-5, "already past"),
        (MOMENT - timedelta(seconds=1), "already past"),
        (datetime(2030, 1, 1), "has no time zone"),  # noqa: DTZ001 - that is the mistake
        ("60", "neither seconds nor a timedelta nor a datetime"),
        (True, "neither seconds nor"),
        (1e300, "beyond what a date can hold"),
    ],
)
def test_an_expiry_that_means_nothing_is_refused(planner: Planner, expires: Any, text: str) -> None:
    """Past, ambiguous and absurd expiries are refused with the reason."""
    with pytest.raises(LocalError, match=text):
        plan(planner, "tasks.add", expires=expires)


@pytest.mark.parametrize(
    "task, options, compression",
    [
        ("tasks.add", {}, "application/x-bz2"),
        ("web.resize", {}, "application/x-gzip"),
        ("raw.add", {}, None),
        ("raw.add", {"compression": "zlib"}, "application/x-gzip"),
        ("web.resize", {"compression": "none"}, None),
    ],
)
def test_compression_of_call_route_and_project(
    planner: Planner, task: str, options: dict[str, Any], compression: str | None
) -> None:
    """A large body is packed as the call says, else the route, else the project."""
    headers = plan(planner, task, "x" * 5000, **options).publication.properties.headers
    assert headers.get("compression") == compression


def test_arguments_that_cannot_be_written_are_named(planner: Planner) -> None:
    """The person sees which argument it was, and of which type."""
    with pytest.raises(
        NotSerializable, match=r"(?s)tasks\.add.*(second|args\[1\]|argument 2|position 2|\b1\b).*object"
    ):
        plan(planner, "tasks.add", 1, object())


def test_a_message_over_the_limit_is_refused_with_both_numbers(planner: Planner) -> None:
    """A body over `messages.max_size` never leaves, and the person sees its size and the limit."""
    with pytest.raises(
        MessageTooLarge, match=r"tasks\.add: the message takes 7\d+ bytes, messages\.max_size allows 65536"
    ):
        plan(planner, "tasks.add", "x" * 70_000)


def test_headers_of_the_protocol_cannot_be_overwritten(planner: Planner) -> None:
    """The user's headers travel beside the protocol's, never instead."""
    assert plan(planner, "tasks.add", headers={"tenant": "a"}).publication.properties.headers["tenant"] == "a"
    with pytest.raises(ConfigurationError, match="the header 'task' is the protocol's own"):
        plan(planner, "tasks.add", headers={"task": "other"})


@pytest.mark.parametrize(
    "call, text",
    [
        (Call("tasks.add", "ab"), r"args='ab' is not a list or tuple; a single argument is written args=\[value\]"),
        (Call("tasks.add", (), [1]), r"kwargs=\[1\] is not a mapping"),  # type: ignore[arg-type]
        (Call("tasks.add", (), {1: 2}), "is not a mapping from names"),  # type: ignore[dict-item]
        (Call(""), "named by a non-empty text"),
    ],
)
def test_arguments_of_the_wrong_shape_are_refused(planner: Planner, call: Call, text: str) -> None:
    """A text in place of a list of arguments is the commonest slip, and is not taken apart into letters."""
    with pytest.raises(LocalError, match=text):
        planner.plan(call)


def test_a_call_from_a_task_names_its_parent(planner: Planner, reader: Codec) -> None:
    """What a running task sends carries its id as parent, and the root of the tree."""
    facts = reader.task_facts(plan(planner, "tasks.add", parent=Request(id="p", root_id="r")).publication.properties)
    assert (facts.parent_id, facts.root_id) == ("p", "r")
    facts = reader.task_facts(plan(planner, "tasks.add", parent=Request(id="p")).publication.properties)
    assert (facts.parent_id, facts.root_id) == ("p", "p")


def test_a_call_of_its_own_is_its_own_root(planner: Planner, reader: Codec) -> None:
    """Outside a task a call begins a tree; that goes without saying."""
    properties = plan(planner, "tasks.add", task_id="mine").publication.properties
    assert "root_id" not in properties.headers
    facts = reader.task_facts(properties)
    assert (facts.id, facts.root_id, facts.parent_id) == ("mine", "mine", None)
    assert facts.origin.startswith("gen")


def test_the_message_is_signed_for_its_target(planner: Planner, reader: Codec) -> None:
    """What a plan publishes is accepted by the project's own codec, for the exchange and key it goes to."""
    publication = plan(planner, "tasks.add", 2, 3).publication
    envelope = reader.decode_task(publication.body, publication.properties, arrived=("tasks", "default"))
    assert (envelope.task, tuple(envelope.args)) == ("tasks.add", (2, 3))
