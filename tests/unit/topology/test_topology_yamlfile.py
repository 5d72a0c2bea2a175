"""What YAML silently turns into something else, and where every value stands."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from amqpq import yamlfile


def faults(text: str) -> list[tuple[str, str, str, str]]:
    """Return place, kind, message and remedy of everything wrong with `text`."""
    return [(str(f.place), f.kind, f.message, f.remedy) for f in yamlfile.read(text, "t.yaml").faults]


def data(text: str) -> object:
    """Return the plain value of `text`, which must have no fault."""
    document = yamlfile.read(text, "t.yaml")
    assert document.faults == []
    return document.root.data()


@pytest.mark.parametrize(
    "text,value",
    [
        ("a: 1", {"a": 1}),
        ("a: -3", {"a": -3}),
        ("a: 1.5", {"a": 1.5}),
        ("a: yes", {"a": True}),
        ("a: 10m", {"a": "10m"}),
        ("a: 2027-06-30", {"a": "2027-06-30"}),
        ("a: '1'", {"a": "1"}),
        ("a: ~", {"a": None}),
        ("a:", {"a": None}),
        ("a: !!str 5", {"a": "5"}),
        ("- web[web.#] -> web.high", ["web[web.#] -> web.high"]),
        ("x: &a {p: 1}\ny: {<<: *a, q: 2}", {"x": {"p": 1}, "y": {"p": 1, "q": 2}}),
        ("x: &a {p: 1}\ny: {<<: [*a, {r: 3}], p: 2}", {"x": {"p": 1}, "y": {"p": 2, "r": 3}}),
        ("", {}),
    ],
)
def test_plain_values_are_what_a_person_expects(text: str, value: object) -> None:
    """Scalars, lists, mappings, anchors and merge keys are read as YAML means them."""
    assert data(text) == value


@pytest.mark.parametrize(
    "text", ["0123", "0x1F", "0b1", "1_000", "1e3", "1:30", ".5", "5.", ".inf", "-.inf", ".nan", "0o17"]
)
def test_numbers_that_readers_disagree_about_are_faults(text: str) -> None:
    """A number that YAML 1.1, YAML 1.2 and people read differently is refused, with the remedy."""
    ((place, kind, message, remedy),) = faults(f"a: {text}")
    assert (place, kind) == ("t.yaml:1:4", "ambiguous")
    assert text in message
    assert f'"{text}"' in remedy


@pytest.mark.parametrize(
    "text,place,character,remedy",
    [
        ("key: *.created", "t.yaml:1:6", "*", 'quote it: "*.created"'),
        ("key: *", "t.yaml:1:6", "*", 'quote it: "*"'),
        ("keys: [*.a, b]", "t.yaml:1:8", "*", 'quote it: "*.a"'),
        ("*.x: 1", "t.yaml:1:1", "*", 'quote it: "*.x"'),
        ("key: &foo\nb: 1", "t.yaml:1:6", "&", 'quote it: "&foo"'),
        ("key: !foo x", "t.yaml:1:6", "!", 'quote it: "!foo x"'),
        ("a: !!python/object:os.system x", "t.yaml:1:4", "!", 'quote it: "!!python/object:os.system x"'),
        ("keys: [a, #]\nb: 1", "t.yaml:1:11", "#", 'quote it: "#"'),
    ],
)
def test_special_characters_that_swallow_a_value_are_faults(text: str, place: str, character: str, remedy: str) -> None:
    """A `*`, `&`, `!` or `#` that YAML takes for itself is named with its place, and the quotes are offered."""
    found = faults(text)
    assert found[0][:2] == (place, "swallowed")
    assert character in found[0][2]
    assert found[0][3] == remedy


def test_every_swallowed_star_is_found_at_once() -> None:
    """The parser's first stumble does not hide the faults behind it."""
    found = faults("a: *.x\nb: *.y\nc: 0123\n")
    assert [place for place, *_ in found] == ["t.yaml:1:4", "t.yaml:2:4", "t.yaml:3:4"]


def test_an_empty_value_before_a_comment_remembers_the_hash() -> None:
    """`key: #` is an empty value, and whoever needs one there can tell why it is empty."""
    node = yamlfile.read("key: #", "t.yaml").root.at(("key",))
    assert node is not None
    assert (node.value, node.swallowed) == (None, "#")


def test_a_key_written_twice_names_both_places() -> None:
    """The second of two equal keys is a fault that names the first."""
    ((place, kind, message, _),) = faults("a: 1\nb: 2\na: 3\n")
    assert (place, kind) == ("t.yaml:3:1", "duplicate")
    assert "line 1" in message


@pytest.mark.parametrize("text,word", [("on: 1", "boolean true"), ("1: x", "number 1"), ("~: x", "empty")])
def test_keys_that_are_not_text_are_faults(text: str, word: str) -> None:
    """A key that YAML reads as a boolean, a number or nothing is refused with the quotes."""
    ((place, kind, message, remedy),) = faults(text)
    assert (place, kind) == ("t.yaml:1:1", "ambiguous")
    assert word in message
    assert remedy.startswith("quote it")


@pytest.mark.parametrize(
    "text,place",
    [
        ("a:\n\tb: 1", "t.yaml:2:1"),
        ("a: b: c", "t.yaml:1:5"),
        ('a: "open', "t.yaml:1:9"),
        ("{a: 1", "t.yaml:1:6"),
        ("? [a]\n: b", "t.yaml:1:3"),
        ("a: 1\n---\nb: 2", "t.yaml:2:1"),
    ],
)
def test_text_that_is_not_yaml_has_its_place(text: str, place: str) -> None:
    """A syntax error is one fault with line and column, not an exception."""
    assert faults(text)[0][:2] == (place, "syntax")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
        "[" * 100_000,
        "&a [*a]",
    ],
    ids=["laughs", "deep", "itself"],
)
def test_a_document_that_unfolds_without_end_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aliases of aliases, nesting without end and a value that contains itself end in a fault."""
    monkeypatch.setattr(yamlfile, "NODE_LIMIT", 2000)  # the real one is reached in a second
    assert faults(text)[-1][1] == "syntax"


def test_no_text_makes_an_object() -> None:
    """A tag that other readers turn into a Python object is refused and yields nothing."""
    document = yamlfile.read("a: !!python/object/apply:os.getcwd []", "t.yaml")
    assert document.faults
    assert document.root.data() == {"a": []}


def test_every_value_knows_its_place() -> None:
    """Keys, values and list items carry line and column, counted from 1."""
    root = yamlfile.read("queues:\n  a: {ttl: 10s}\nlist:\n  - x\n", "t.yaml").root
    ttl = root.at(("queues", "a", "ttl"))
    item = root.at(("list", 0))
    assert ttl is not None
    assert item is not None
    assert (str(ttl.place), str(item.place)) == ("t.yaml:2:12", "t.yaml:4:5")


def test_python_values_are_named_by_their_path() -> None:
    """A value from Python has no line, so its place is the way to it."""
    root = yamlfile.wrap({"queues": {"a": {"ttl": [1]}}}, "<mapping>")
    node = root.at(("queues", "a", "ttl", 0))
    assert node is not None
    assert str(node.place) == "<mapping>:queues.a.ttl[0]"


def test_python_values_that_no_file_could_hold_are_refused() -> None:
    """A value that YAML has no word for is named with its path."""
    with pytest.raises(TypeError, match=r"<mapping>:a\.b: object"):
        yamlfile.wrap({"a": {"b": object()}}, "<mapping>")


PIECES = [
    *("a", "key", "1.5", "0123", "yes", "~", "<<", "ü", "\U0001f600", "->", "web[#]", "${X}"),
    *(" ", "\n", "\n  ", "\n- ", "- ", ": ", ",", "[", "]", "{", "}", " #", "'", '"', "|\n  ", ">", "%", "---\n"),
    *("*", "&a ", "? ", "!x ", "\t", "\r\n", "\u2028"),
]


def shown(node: yamlfile.Node) -> object:
    """A node with all that is known of it; where nothing stands, the two parsers place it differently."""
    value: object = node.value
    if isinstance(node.value, dict):
        value = {name: (entry.place, shown(entry.node)) for name, entry in node.value.items()}
    elif isinstance(node.value, list):
        value = [shown(item) for item in node.value]
    return (value, node.place if node.value is not None else None, node.plain, node.swallowed)


@example("a: b\t")
@example("k: [!, a]")
@example("k: [a?b]")
@example("a: |#x\n")
@example("k: {a: #\r\r}")
@example("---\n\ufeff a")
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_both_parsers_read_the_same(text: str) -> None:
    """Where PyYAML came without its parser in C, a file means the same: values, places and faults."""
    fast = yamlfile.read(text, "t.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "__with_libyaml__", False)
        slow = yamlfile.read(text, "t.yaml")
    assert shown(fast.root) == shown(slow.root)
    assert [(fault.kind, fault.message) for fault in fast.faults] == [(f.kind, f.message) for f in slow.faults]


@pytest.mark.parametrize("text", ["a: 1\u2028b: *x", "a: 1\x85b: *x", "a: 1\rb: *x"])
def test_lines_end_where_yaml_says(text: str) -> None:
    """The place of a fault is in the line that editors show, and looking for it never fails."""
    assert [fault[:2] for fault in faults(text)] == [("t.yaml:2:4", "swallowed")]
