"""The simulator's rules one by one; the integration ring holds them against a broker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.errors import LocalError
from amqpq.topology import Router, load, reach
from amqpq.topology.routing import headers_match, topic_matches
from amqpq.types import BindingSpec, ExchangeSpec, QueueSpec


def bind(source: str, target: str, key: str = "", *, to_exchange: bool = False, **arguments: object) -> BindingSpec:
    """Make a binding; `x_match` stands for `x-match`."""
    return BindingSpec(source, target, key, to_exchange, {name.replace("_", "-"): v for name, v in arguments.items()})


def queues(*names: str) -> list[QueueSpec]:
    """Make queues."""
    return [QueueSpec(name) for name in names]


@pytest.mark.parametrize(
    "pattern,key,matches",
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.", True),  # an empty word is a word
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "", True),
        ("*", "", False),  # the empty key has no word
        ("", "", True),
        ("*.*", ".", True),
        ("#.b", "b", True),
        ("#.b.#", "a.b.c", True),
        ("#.b.*", "a.b", False),
        ("#.b.*", "a.b.b.c", True),
        ("ab*", "abc", False),  # wildcards are whole words
        ("ab*", "ab*", True),
        ("*", "#", True),  # wildcards in a routing key are plain words
    ],
)
def test_topic_keys_match_word_by_word(pattern: str, key: str, matches: bool) -> None:
    """`*` is one word, `#` any number of words, anything else itself."""
    assert topic_matches(pattern, key) is matches


words = st.lists(st.sampled_from(["a", "b", ""]), max_size=6)


@given(st.lists(st.sampled_from(["a", "b", "*", "#", ""]), max_size=5), words)
def test_topic_matching_agrees_with_its_definition(pattern: list[str], key: list[str]) -> None:
    """The linear matcher and the recursive definition say the same."""

    def defined(left: list[str], right: list[str]) -> bool:
        if not left:
            return not right
        if left[0] == "#":
            return defined(left[1:], right) or (bool(right) and defined(left, right[1:]))
        return bool(right) and left[0] in {"*", right[0]} and defined(left[1:], right[1:])

    joined, spelled = ".".join(pattern), ".".join(key)
    split = [text.split(".") if text else [] for text in (joined, spelled)]
    assert topic_matches(joined, spelled) is defined(*split)


def test_topic_matching_of_a_hostile_key_is_quick() -> None:
    """Many `#` against a long key take no exponential time."""
    assert topic_matches(".".join(["#", "a"] * 100) + ".b", ".".join(["a"] * 5000)) is False


@pytest.mark.parametrize(
    "arguments,headers,matches",
    [
        ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 0}, True),
        ({"x-match": "all", "a": 1, "b": "x"}, {"a": 1}, False),
        ({"a": 1}, {"a": 1}, True),  # all is the default
        ({"x-match": "any", "a": 1, "b": "x"}, {"b": "x"}, True),
        ({"x-match": "any", "a": 1}, {"a": 2}, False),
        ({"x-match": "all"}, {}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"x-match": "all", "a": None}, {"a": "whatever"}, True),
        ({"x-match": "all", "a": None}, {}, False),
        ({"x-match": "all", "a": 1}, {"a": "1"}, False),
        ({"x-match": "all", "a": 1}, {"a": True}, False),
        ({"x-match": "all", "a": 1}, {"a": 1.0}, False),
        ({"x-match": "all", "a": "x"}, {"a": b"x"}, True),
        ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
        ({"x-match": "all", "x-a": 1}, {}, True),
        ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({"x-match": "all-with-x", "x-a": 1}, {}, False),
    ],
)
def test_headers_match_by_kind_and_type(
    arguments: dict[str, object], headers: dict[str, object], matches: bool
) -> None:
    """Headers bindings combine by `x-match`, and values compare with their type."""
    assert headers_match(arguments, headers) is matches


def test_older_brokers_take_1_and_1_0_for_the_same() -> None:
    """RabbitMQ 3.10 compares numbers loosely, later ones do not; booleans are never numbers."""
    router = {
        version: Router([ExchangeSpec("h", "headers")], queues("q"), [bind("h", "q", a=1)], version=version)
        for version in ((3, 10, 8), (4, 0, 5))
    }
    assert router[3, 10, 8].route("h", "", {"a": 1.0}).queues == {"q"}
    assert router[4, 0, 5].route("h", "", {"a": 1.0}).queues == frozenset()
    assert router[3, 10, 8].route("h", "", {"a": True}).queues == frozenset()


def test_the_default_exchange_goes_by_queue_name() -> None:
    """The default exchange delivers to the queue of that name, and CC and BCC name further ones."""
    router = Router([], queues("a", "b", "c"), [])
    assert router.route("", "a").queues == {"a"}
    assert router.route("", "nobody").queues == frozenset()
    assert router.route("", "a", {"CC": ["b"], "BCC": ["c", "nobody"]}).queues == {"a", "b", "c"}
    assert router.route("", "a", {}, ["b"]).queues == {"a", "b"}


def test_a_queue_gets_one_copy_over_many_ways() -> None:
    """However many bindings and exchanges lead to a queue, it is named once."""
    exchanges = [ExchangeSpec("d"), ExchangeSpec("t", "topic")]
    bindings = [bind("d", "q", "k"), bind("d", "t", "k", to_exchange=True), bind("t", "q", "#"), bind("t", "q", "k")]
    found = Router(exchanges, queues("q"), bindings).route("d", "k")
    assert found.queues == {"q"}
    assert found.exchanges == ("d", "t")


def test_circles_of_exchanges_end() -> None:
    """Each exchange is visited once, bound in a circle or being its own alternate."""
    exchanges = [
        ExchangeSpec("a", "fanout"),
        ExchangeSpec("b", "fanout"),
        ExchangeSpec("c", arguments={"alternate-exchange": "c"}),
    ]
    bindings = [bind("a", "b", to_exchange=True), bind("b", "a", to_exchange=True), bind("b", "q")]
    router = Router(exchanges, queues("q"), bindings)
    assert router.route("a", "").queues == {"q"}
    assert router.route("c", "k").queues == frozenset()


def test_an_alternate_exchange_takes_only_what_matched_no_binding() -> None:
    """A match that leads to a dead end keeps the alternate exchange from being used."""
    exchanges = [
        ExchangeSpec("d", arguments={"alternate-exchange": "lost"}),
        ExchangeSpec("dead-end", "fanout"),
        ExchangeSpec("lost", "fanout"),
    ]
    bindings = [bind("d", "dead-end", "k", to_exchange=True), bind("lost", "q")]
    router = Router(exchanges, queues("q"), bindings)
    assert router.route("d", "other").queues == {"q"}
    assert router.route("d", "k").queues == frozenset()


def test_a_missing_alternate_exchange_drops() -> None:
    """An alternate exchange that does not exist takes nothing."""
    router = Router([ExchangeSpec("d", arguments={"alternate-exchange": "nowhere"})], queues("q"), [])
    found = router.route("d", "k", trace=True)
    assert found.queues == frozenset()
    assert "does not exist" in found.steps[0]


def test_an_unknown_exchange_is_an_error_with_a_suggestion() -> None:
    """Publishing to an exchange that is not there is what the broker answers with 404."""
    with pytest.raises(LocalError, match=r"no exchange 'wbe' \(did you mean 'web'\?\)"):
        Router([ExchangeSpec("web")], [], []).route("wbe", "k")


def test_reach_tells_the_way() -> None:
    """The steps name exchange, match and target of every hop."""
    topology = load(
        {
            "amqpq": 1,
            "project": "p",
            "exchanges": {"web": {"type": "topic", "unrouted": "lost"}, "lost": {"type": "fanout"}},
            "queues": {"q": {}, "lost": {}},
            "bindings": ["web[web.#] -> q", "lost -> lost"],
        },
        environ={},
    )
    assert reach(topology, "web", "web.x").steps == ("topic exchange 'web': binding 'web.#' matches -> queue 'q'",)
    assert reach(topology, "web", "nothing").steps == (
        "topic exchange 'web': no binding matches 'nothing'; its alternate exchange 'lost' takes it",
        "fanout exchange 'lost': sends everything -> queue 'lost'",
    )
