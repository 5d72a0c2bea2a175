"""Routes, key templates, units, versions, and passwords that stay out of sight."""

from __future__ import annotations

import pickle

import pytest

from amqpq.errors import LocalError, NoRoute
from amqpq.topology import Route, Topology, load, shorthand, units, versions
from amqpq.topology.address import masked


def topology(**routes: object) -> Topology:
    """Load a topology with these routes."""
    return load(
        {
            "amqpq": 1,
            "project": "p",
            "exchanges": {"x": {"type": "topic"}},
            "queues": {"q": {}, "other": {}},
            "bindings": ["x[#] -> q"],
            "routes": {name.replace("__", ".").replace("_any", "*"): route for name, route in routes.items()},
        },
        environ={},
    )


def test_the_exact_route_wins_then_the_first_pattern() -> None:
    """An exact name goes before patterns; among patterns the file's order decides."""
    loaded = topology(web___any={"queue": "q"}, _any={"exchange": "x", "key": "k"}, web__resize={"queue": "other"})
    assert loaded.route_for("web.resize").key == "other"
    assert loaded.route_for("web.crop").key == "q"
    assert loaded.route_for("mail").exchange == "x"


def test_a_task_without_a_route_is_an_error_with_a_suggestion() -> None:
    """A name that nothing matches is refused, naming the nearest route and all of them."""
    with pytest.raises(
        NoRoute, match=r"no route matches the task 'web.resise' \(did you mean 'web.resize'\?\).*`routes:`"
    ):
        topology(web__resize={"queue": "q"}).route_for("web.resise")


@pytest.mark.parametrize(
    "queues,key",
    [
        ({"default": {}, "more": {}}, "default"),
        ({"only": {}}, "only"),
        ({"only": {"dead_letter": "d"}, "parked": {}}, "only"),
        ({"only": {}, "log": {"type": "stream", "retention": {"max_age": "1D"}}}, "only"),
    ],
)
def test_without_routes_every_task_goes_to_the_obvious_queue(queues: dict[str, object], key: str) -> None:
    """No `routes:` at all means the queue `default`, else the only queue that is no dead letter and no stream."""
    source = {"amqpq": 1, "project": "p", "queues": queues, "dead_letters": {"d": {"queue": "parked"}}}
    assert load(source, environ={}).route_for("any.task") == Route(pattern="*", key=key)


def test_without_routes_and_an_obvious_queue_there_is_none() -> None:
    """Two queues and no routes leave nothing to guess."""
    with pytest.raises(NoRoute, match="routes of project 'p': none"):
        load({"amqpq": 1, "project": "p", "queues": {"a": {}, "b": {}}}, environ={}).route_for("t")


@pytest.mark.parametrize(
    "pattern,key,task,kwargs,expected",
    [
        ("web.*", "web.{task}", "web.resize", {}, "web.resize"),
        ("web.*", "w.{task}", "web.a.b", {}, "w.a.b"),
        ("resize", "{task}", "resize", {}, "resize"),
        ("*.scan", "file.{kind}.{task}", "disk.scan", {"kind": "py"}, "file.py.disk"),
        ("*", "n.{number}", "t", {"number": 7}, "n.7"),
        ("*", "plain", "t", {}, "plain"),
    ],
)
def test_key_templates_are_filled_from_the_name_and_the_arguments(
    pattern: str, key: str, task: str, kwargs: dict[str, object], expected: str
) -> None:
    """`{task}` is what the pattern's star matched, any other field a keyword argument of the call."""
    assert Route(pattern, "x", key).routing_key(task, kwargs) == expected


@pytest.mark.parametrize(
    "kwargs,words",
    [
        ({}, "needs a keyword argument 'kind'"),
        ({"kinds": "x"}, "did you mean 'kinds'"),
        ({"kind": True}, "text or a whole number, not True"),
        ({"kind": 1.5}, "not 1.5"),
        ({"kind": ""}, "not ''"),
        ({"kind": "x" * 300}, "more than 255 bytes"),
    ],
)
def test_a_key_that_cannot_be_filled_is_an_error(kwargs: dict[str, object], words: str) -> None:
    """A missing field, a value that is no word, and a key too long are refused by name."""
    with pytest.raises(LocalError, match=words):
        Route("*", "x", "file.{kind}").routing_key("t", kwargs)


def test_passwords_never_show() -> None:
    """No repr of a topology holds a password, wherever its URL came from."""
    loaded = load(
        {"amqpq": 1, "project": "p", "queues": {"q": {}}},
        environ={"AMQPQ_BROKER_URL": "amqp://shop:hunter2@h1/v amqps://shop:p%40ss:w@h2/v"},
    )
    assert loaded.broker.urls == ("amqp://shop:hunter2@h1/v", "amqps://shop:p%40ss:w@h2/v")
    for text in (repr(loaded), str(loaded.broker), f"{loaded}"):
        assert "hunter2" not in text
        assert "p%40ss" not in text
    assert "amqp://shop:***@h1/v" in repr(loaded)


@pytest.mark.parametrize("url", ["amqp://u:p@h", "amqp://u:p@x@h", "amqps://u:p:q@h/v", "AMQP://u:p@h"])
def test_masking_finds_odd_passwords(url: str) -> None:
    """A password with a colon or an at sign in it is masked as well."""
    text = masked(url)
    assert ":p" not in text
    assert "***" in text


def test_a_topology_can_be_pickled() -> None:
    """Worker processes get the topology by pickle."""
    loaded = topology(web___any={"exchange": "x", "key": "web.{task}"})
    assert pickle.loads(pickle.dumps(loaded)) == loaded


@pytest.mark.parametrize(
    "text,value",
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("10m", 600),
        ("1h30m", 5400),
        ("1d", 86400),
        ("2w", 1209600),
        ("1.5h", 5400),
        ("0s", 0),
    ],
)
def test_durations(text: str, value: float) -> None:
    """Durations are numbers with units, alone or in a row."""
    assert units.seconds(text) == value


@pytest.mark.parametrize("text", ["", "10", "m", "10x", "10 minutes", "-5s", "1h 30"])
def test_wrong_durations(text: str) -> None:
    """What is no duration says how one is written."""
    with pytest.raises(ValueError, match="write a number and a unit"):
        units.seconds(text)


@pytest.mark.parametrize(
    "text,value", [("4KiB", 4096), ("16MiB", 16777216), ("1kb", 1000), ("2GB", 2 * 10**9), ("0.5KiB", 512)]
)
def test_sizes(text: str, value: int) -> None:
    """Sizes are numbers with units of 1000 or 1024."""
    assert units.size_bytes(text) == value


@pytest.mark.parametrize(
    "value,text", [(0.5, "500ms"), (90, "90s"), (600, "10m"), (86400, "1d"), (604800, "1w"), (1.5, "1.5s")]
)
def test_durations_are_written_as_they_are_read(value: float, text: str) -> None:
    """Writing a duration and reading it again gives the same."""
    assert units.duration_text(value) == text
    assert units.seconds(text) == value


@pytest.mark.parametrize(
    "text,lowest",
    [
        (">=3.10", (3, 10, 0)),
        (">=4.1,<5", (4, 1, 0)),
        (">3.13.7", (3, 13, 7)),
        ("==4.3.6", (4, 3, 6)),
        ("<5", (3, 10, 0)),
    ],
)
def test_version_requirements(text: str, lowest: tuple[int, int, int]) -> None:
    """The lowest version a requirement allows decides what lint looks for."""
    assert versions.lowest(text) == lowest


@pytest.mark.parametrize("text", ["4.1", "~=4.1", "", ">=four", "<3.10", ">=4,<3"])
def test_wrong_version_requirements(text: str) -> None:
    """What is no requirement, or one that nothing meets, is refused."""
    with pytest.raises(ValueError, match=r"requirement|allows no"):
        versions.lowest(text)


@pytest.mark.parametrize(
    "text,long",
    [
        ("a -> b", {"from": "a", "to": "b"}),
        ("a[k] -> b", {"from": "a", "to": "b", "keys": ["k"]}),
        ("a[k.*, #]->b", {"from": "a", "to": "b", "keys": ["k.*", "#"]}),
        ("  a.b-c [ x ]  ->  d.e ", {"from": "a.b-c", "to": "d.e", "keys": ["x"]}),
    ],
)
def test_short_bindings(text: str, long: dict[str, object]) -> None:
    """The short form is the long one in a line."""
    assert shorthand.parse(text) == long


@pytest.mark.parametrize(
    "text,words",
    [
        ("a b", "no '->'"),
        ("a -> b -> c", "more than one"),
        ("a[k ->", "no target"),
        ("-> b", "no source"),
        ("[k] -> b", "no source"),
        ("a[] -> b", "no key in them"),
        ("a[x,] -> b", "empty key"),
        ("web[a,", "'#' after a space begins a comment"),
    ],
)
def test_wrong_short_bindings(text: str, words: str) -> None:
    """What is no binding says why, and how one is written."""
    with pytest.raises(ValueError, match=words.replace("[", r"\[")):
        shorthand.parse(text)
