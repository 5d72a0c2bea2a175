"""Adding a key to the text of a topology file."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from amqpq import errors
from amqpq.security.trust_entry import entry_text, lines_to_add, with_entry

ENTRY = entry_text("keys/new.pub", ("web.*", "results"))
NEW = {"key": "keys/new.pub", "may": ["web.*", "results"]}

FULL = """\
amqpq: 1     # the format
project: shop

security:    # who may say what
  require: signed
  trust:
    # the producers
    a: {key: keys/a.pub, may: ["web.*"]}   # first
    b:
      key: keys/b.pub    # second
      may:
        - results
  # how long
  replay_window: 10m
# the end
queues: {}
"""


def test_an_entry_joins_the_others_and_nothing_else_changes() -> None:
    """One line is added, at the end of the block, indented like its neighbours."""
    edited = with_entry(FULL, "new", ENTRY)
    assert edited == FULL.replace("        - results\n", f"        - results\n    new: {ENTRY}\n")


@pytest.mark.parametrize(
    "text",
    [
        "amqpq: 1\n",
        "amqpq: 1",
        "amqpq: 1\nsecurity:\n",
        "amqpq: 1\nsecurity:   # nothing yet\nqueues: {}\n",
        "security:\n  require: signed\nqueues: {}\n",
        "security:\n    require: signed\n\n\n# comment\nqueues: {}\n",
        "security:\n  trust:\n  require: signed\n",
        "security:\n  trust: {}\n",
        "security:\n  trust: {a: {key: a.pub}}  # flow\nqueues: {}\n",
        "security:\n  trust:\n        a: {key: a.pub}\n",
        "security:\n  trust:\n    a:\n      key: |\n        text\n\nqueues: {}\n",
        "security:\r\n  trust:\r\n    a: {key: a.pub}\r\nqueues: {}\r\n",
        "queues: {}\nsecurity:\n  trust:\n    a: {key: a.pub}",
        "x: ${VARIABLE}\nsecurity: &s\n  trust:\n    a: &a {key: a.pub}\n    b: *a\n",
        FULL,
    ],
)
def test_the_new_text_means_the_old_data_plus_the_entry(text: str) -> None:
    """Whatever the layout, comments stay and the meaning is exactly as wanted."""
    edited = with_entry(text, "new", ENTRY)
    assert edited is not None
    expected: dict[str, Any] = yaml.safe_load(text)
    expected["security"] = expected.get("security") or {}
    expected["security"]["trust"] = {**(expected["security"].get("trust") or {}), "new": NEW}
    assert yaml.safe_load(edited) == expected
    for comment in ("# the format", "# first", "# how long", "# comment", "# flow", "# nothing yet"):
        assert (comment in text) == (comment in edited)
    assert ("\r\n" in text) == (edited.count("\r\n") == edited.count("\n"))


@pytest.mark.parametrize(
    "text",
    ["{amqpq: 1}", "amqpq: 1\nsecurity: {require: signed}\n", "- a\n", "", "security: 5\n", "security:\n  trust: x\n"],
)
def test_where_the_text_is_not_plain_there_is_no_edit(text: str) -> None:
    """The caller shows the lines instead."""
    assert with_entry(text, "new", ENTRY) is None
    assert yaml.safe_load(lines_to_add("new", ENTRY)) == {"security": {"trust": {"new": NEW}}}


def test_an_existing_id_is_replaced_only_when_asked() -> None:
    """Whether it is written in one line or in several."""
    for name in ("a", "b"):
        with pytest.raises(errors.KeyProblem, match=f"'{name}' already.*--force"):
            with_entry(FULL, name, ENTRY)
        edited = with_entry(FULL, name, ENTRY, replace=True)
        assert edited is not None
        trust = yaml.safe_load(edited)["security"]["trust"]
        assert trust[name] == NEW
        assert list(trust) == ["a", "b"]
        assert "# the producers" in edited
        assert "# how long" in edited


def test_broken_yaml_is_an_error_with_its_line() -> None:
    """A file that cannot be read is not edited."""
    with pytest.raises(errors.KeyProblem, match="no YAML, line 3"):
        with_entry("a: 1\nb: [\n", "new", ENTRY)


@pytest.mark.parametrize("key_id", ["null", "true", "1", "1.5", "1e3", "0x1F", "on", "2026-11-21", "a.b-c_d"])
@pytest.mark.parametrize(
    "text", ["amqpq: 1\n", "security:\n  trust: {}\n", "security:\n  trust:\n    a: {key: a.pub}\n"]
)
def test_an_id_that_looks_like_something_else_stays_text(key_id: str, text: str) -> None:
    """YAML would read a bare `null` or `1e3` as no text."""
    edited = with_entry(text, key_id, ENTRY)
    assert edited is not None
    assert key_id in yaml.safe_load(edited)["security"]["trust"]


@given(st.text(min_size=1), st.none() | st.lists(st.text(max_size=8), max_size=3).map(tuple))
def test_paths_and_patterns_are_written_so_that_they_read_back(path: str, may: tuple[str, ...] | None) -> None:
    """Quoting holds for any text that a path or pattern can be."""
    read = yaml.safe_load(entry_text(path, may))
    assert read == ({"key": path} if may is None else {"key": path, "may": list(may)})
