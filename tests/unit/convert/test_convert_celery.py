"""Import of Celery settings, held against Celery itself: the same queues, bindings and destinations."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from amqpq.convert import celery, importing, settings
from amqpq.convert.importing import Imported
from amqpq.errors import ConfigurationError
from amqpq.topology import inspect
from amqpq.topology.declarations import declarations
from amqpq.topology.routing import router


def imported(**given: Any) -> Imported:
    """Import settings; what comes out passes lint."""
    result = importing.finished(celery.convert(given, "shop"), source="a test")
    assert inspect(result.tree, environ={}).errors == ()
    return result


def said(result: Imported, what: str) -> str:
    """The remarks on one kind of thing."""
    return "\n".join(str(remark) for remark in result.remarks if remark.what == what)


TOPICS = Exchange("feeds", "topic")
SETTINGS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "default names": {
        "task_default_queue": "work",
        "task_default_exchange": "tasks",
        "task_default_routing_key": "task",
    },
    "default type": {"task_default_queue": "work", "task_default_exchange_type": "topic"},
    "plain queues": {"task_queues": [Queue("a"), Queue("b", routing_key="bee")], "task_default_queue": "a"},
    "exchanges": {
        "task_queues": [Queue("celery"), Queue("feed", TOPICS, routing_key="feed.#", max_priority=5)],
        "task_routes": {"feed.*": {"queue": "feed", "routing_key": "feed.import"}, "other": "celery"},
    },
    "arguments": {
        "task_queues": (
            Queue(
                "celery", message_ttl=60, expires=3600, max_length=7, queue_arguments={"x-overflow": "reject-publish"}
            ),
            Queue("q", Exchange("q"), queue_arguments={"x-queue-type": "quorum"}),
        ),
        "task_queue_max_priority": None,
    },
    "priorities": {"task_queues": [Queue("celery")], "task_queue_max_priority": 9},
    "several bindings": {
        "task_queues": [Queue("celery", [binding(TOPICS, routing_key="a.*"), binding(TOPICS, routing_key="b.*")])]
    },
    "mappings": {
        "task_queues": {
            "celery": {"exchange": "celery", "binding_key": "k"},
            "feed": {
                "exchange": "feeds",
                "exchange_type": "topic",
                "routing_key": "feed.x",
                "queue_arguments": {"x-own": 1},
            },
            "bare": {},
        },
        "task_routes": ({"feed.*": {"queue": "feed"}}, {"feed.one": "celery", "x": "bare"}),
    },
    "missing queues": {"task_routes": {"new.*": "fresh", "news": {"queue": "news", "priority": 3}}},
    "patterns": {"task_routes": ([("a.*", {"queue": "a"}), (re.compile(r"^b\..*$"), {"queue": "b"})],)},
    "exact before patterns": {"task_routes": {"*": "low", "web.high": "high"}},
    "quorum": {"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"},
}
TASKS = ("web.high", "feed.import", "feed.one", "other", "new.x", "news", "a.1", "b.2", "x", "anything")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_file_declares_what_celery_declares(name: str) -> None:
    """Queues with their arguments, exchanges with their types, bindings: the same as Celery's own reading of the settings."""
    app = _celery(SETTINGS[name])
    found = declarations(imported(**SETTINGS[name]).topology)
    for route in TASKS:
        app.amqp.router.route({}, route)  # Celery adds the queues that routes name when they are asked for
    queues = {q.name: q for q in app.amqp.queues.values()}
    assert {spec.name: _arguments(spec.arguments) for spec in found.queues} == {
        q.name: _arguments(_celerys_arguments(q)) for q in queues.values()
    }
    bound = {(q.exchange.name, q.name, q.routing_key) for q in queues.values()}
    bound |= {(each.exchange.name, q.name, each.routing_key) for q in queues.values() for each in q.bindings}
    assert {(spec.source, spec.target, spec.key) for spec in found.bindings} == bound
    types = {q.exchange.name: q.exchange.type for q in queues.values()}
    types |= {each.exchange.name: each.exchange.type for q in queues.values() for each in q.bindings}
    assert {spec.name: spec.type for spec in found.exchanges} == types


@pytest.mark.parametrize("name", SETTINGS)
def test_a_task_reaches_the_queue_celery_would_send_it_to(name: str) -> None:
    """Whatever the routes are written as: exact names, patterns, pairs, several mappings one after the other."""
    topology, app = imported(**SETTINGS[name]).topology, _celery(SETTINGS[name])
    for task in TASKS:
        route = topology.route_for(task)
        reached = router(topology).route(route.exchange, route.routing_key(task)).queues
        assert app.amqp.router.route({}, task)["queue"].name in reached, task


def _celery(given: dict[str, Any]) -> Celery:
    app = Celery("held-against", set_as_current=False)
    app.conf.update(given)
    return app


def _arguments(arguments: Any) -> dict[str, Any]:
    """Arguments, with the type that classic queues need not name."""
    return {"x-queue-type": "classic", **arguments}


def _celerys_arguments(queue: Queue) -> dict[str, Any]:
    named = {
        "x-message-ttl": None if queue.message_ttl is None else int(queue.message_ttl * 1000),
        "x-expires": None if queue.expires is None else int(queue.expires * 1000),
        "x-max-length": queue.max_length,
        "x-max-priority": queue.max_priority,
    }
    return {**(queue.queue_arguments or {}), **{name: value for name, value in named.items() if value is not None}}


# ------------------------------------------------------------------------------------------------------------ messages


def test_message_defaults_are_celerys() -> None:
    """JSON, and nothing else, unless the settings say more."""
    assert imported().tree["messages"] == {"serializer": "json", "accept": ["json"]}
    more = imported(
        task_serializer="pickle",
        accept_content=["application/json", "pickle", "x-own"],
        task_compression="gzip",
        task_default_delivery_mode="transient",
    )
    assert more.tree["messages"] == {
        "serializer": "pickle",
        "accept": ["json", "pickle"],
        "compression": "zlib",
        "persistent": False,
    }
    assert "x-own: amqpq does not read that" in said(more, "setting")


def test_results_keep_their_time() -> None:
    """Numbers are seconds, as in Celery; no result stays for ever."""
    assert imported(result_expires=timedelta(hours=2)).tree["replies"] == {"expires": "2h"}
    assert imported(result_expires=90, task_ignore_result=True).tree["replies"] == {"mode": "none", "expires": "90s"}
    assert "a reply queue always does" in said(imported(result_expires=0), "setting")


def test_options_of_a_route_are_taken_along() -> None:
    """Priority, expiry, serializer and compression; the others are named."""
    options = {
        "queue": "celery",
        "priority": 4,
        "expires": 30,
        "serializer": "yaml",
        "compression": "bzip2",
        "headers": {},
    }
    result = imported(task_routes={"a": options}, accept_content=["json", "yaml"])
    assert result.tree["routes"]["a"] == {
        "queue": "celery",
        "priority": 4,
        "expires": "30s",
        "compression": "bzip2",
        "serializer": "yaml",
    }
    assert "'a': headers: say it in the call" in said(result, "route")


def test_what_no_worker_would_read_is_not_sent() -> None:
    """A route whose serializer the project does not accept loses it, and says so."""
    result = imported(task_routes={"a": {"queue": "celery", "serializer": "yaml"}})
    assert result.tree["routes"]["a"] == {"queue": "celery"}
    assert "serializer: yaml: TOP065" in said(result, "route")


# ------------------------------------------------------------------------------------------------------------- remarks


def chosen(name: str, *args: object, **kwargs: object) -> None:
    """A router that is code."""


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ([chosen], "'chosen': a router that is code"),
        (["proj.routers.Router"], "'proj.routers.Router': a router that is code"),
        ({re.compile("(a|b).*"): "q"}, "a regular expression"),
        ({"a?.*": "q"}, "no patterns here"),
        ([{"a.*": "q"}, {"a.b": "r"}], "'a.b': 'a.*' in an entry above it matches the same tasks"),
        ({"a": {"exchange": "nobody", "routing_key": "k"}}, "no queue is bound to the exchange 'nobody'"),
        ({"a": 3}, "'a': 3 is neither a queue nor options"),
    ],
)
def test_a_route_that_cannot_be_held_is_said(routes: Any, words: str) -> None:
    """With the reason; the other routes are there."""
    result = imported(task_routes=routes)
    assert words in said(result, "route")
    assert "*" in result.tree["routes"]


def test_a_route_to_a_binding_key_with_wildcards_goes_to_the_queue() -> None:
    """Celery publishes with the key `feed.#` itself; nobody means that."""
    result = imported(task_queues=[Queue("celery"), Queue("f", TOPICS, routing_key="feed.#")], task_routes={"a": "f"})
    assert result.tree["routes"]["a"] == {"queue": "f"}
    assert "Celery would publish to 'feeds' with the key 'feed.#'" in said(result, "route")


def test_a_missing_queue_is_not_made_where_celery_would_not() -> None:
    """`task_create_missing_queues = False` makes a route to it an error."""
    result = imported(task_create_missing_queues=False, task_routes={"a": "gone"})
    assert "there is no queue 'gone' in task_queues" in said(result, "route")


def test_broadcast_queues_are_left_out() -> None:
    """Their names are new for every worker."""
    result = imported(task_queues=[Queue("celery"), Broadcast("all")])
    assert "bind one queue per group of workers to a fanout" in said(result, "queue")


def test_every_other_setting_is_named() -> None:
    """With its place in amqpq, or as none of the topology's; a password is not repeated."""
    result = imported(broker_url="amqp://me:geheim@host//", task_acks_late=True, worker_prefetch_multiplier=1, beat_x=1)
    text = "\n".join(map(str, result.remarks))
    assert "broker_url': not copied" in text
    assert "task_acks_late': amqpq acknowledges late unless" in text
    assert "worker_prefetch_multiplier': `amqpq worker --prefetch" in text
    assert "left out: settings: beat_x: not a matter" in text
    assert "geheim" not in text + result.text


# ------------------------------------------------------------------------------------------------------------- reading

OLD = """
from kombu import Exchange, Queue
CELERY_QUEUES = (Queue("video", Exchange("media"), routing_key="media.video"),)
CELERY_ROUTES = {"video.*": {"queue": "video"}}
CELERY_DEFAULT_QUEUE = "video"
CELERY_ACCEPT_CONTENT = ["json"]
CELERYD_PREFETCH_MULTIPLIER = 1
BROKER_URL = "amqp://"
"""


def test_old_names_mean_the_new_ones(tmp_path: Path) -> None:
    """A file of Celery 3 is read like one of today."""
    path = tmp_path / "celeryconfig.py"
    path.write_text(OLD)
    assert {name: value for name, value in settings.load(str(path)).items() if name != "task_queues"} == {
        "task_routes": {"video.*": {"queue": "video"}},
        "task_default_queue": "video",
        "accept_content": ["json"],
        "worker_prefetch_multiplier": 1,
        "broker_url": "amqp://",
    }


def test_djangos_names_mean_the_new_ones() -> None:
    """`namespace="CELERY"` puts the new names into capitals."""
    given = {"CELERY_TASK_QUEUES": [], "CELERY_TASK_ROUTES": {}, "DEBUG": True, "CELERY_BROKER_URL": "amqp://"}
    assert settings.named(given) == {"task_queues": [], "task_routes": {}, "broker_url": "amqp://"}


@pytest.mark.parametrize(
    "text",
    ["CONF = {'task_default_queue': 'x'}", "import celery\napp = celery.Celery()\napp.conf.task_default_queue = 'x'"],
)
def test_a_mapping_and_an_application_are_found(tmp_path: Path, text: str) -> None:
    """Settings need not stand in the module itself."""
    path = tmp_path / "proj.py"
    path.write_text(text)
    assert settings.load(str(path))["task_default_queue"] == "x"


def test_a_module_is_found_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a name in it may be given, as for `-A`."""
    (tmp_path / "settings_of_a_module.py").write_text("ONE = {'task_queues': {}}\nTWO = {'task_default_queue': 'x'}")
    monkeypatch.chdir(tmp_path)
    assert settings.load("settings_of_a_module:TWO") == {"task_default_queue": "x"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import kombu.nothing", "needs kombu, which is not installed here: pip install kombu"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'; the settings are executed"),
        ("1 / 0", "failed: ZeroDivisionError"),
        ("x = 1", "has no settings of Celery"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, words: str) -> None:
    """The person's own mistakes are told as such."""
    path = tmp_path / "celeryconfig.py"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        settings.load(str(path))


def test_a_file_that_is_not_there_is_told() -> None:
    """By its name."""
    with pytest.raises(ConfigurationError, match="there is no file nowhere/celeryconfig.py"):
        settings.load("nowhere/celeryconfig.py")
