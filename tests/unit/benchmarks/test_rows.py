"""Which rows of the benchmark run, and what they are made of."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Callable

import pytest

from benchmarks import needs, targets
from benchmarks.__main__ import able, chosen
from benchmarks.catalogue import ENTRIES
from benchmarks.contender import payload
from benchmarks.contenders import librabbitmq
from benchmarks.contenders.bare_replies import Confirms
from benchmarks.start import steady

BY_NAME = {entry.name: entry for entry in ENTRIES}


def names(only: str | None = None, *, quick: bool = False, check: bool = False) -> list[str]:
    """Return the names of the rows that would run."""
    return [entry.name for entry in chosen(only, quick=quick, check=check)]


def test_rows_are_chosen_by_name_in_the_order_given() -> None:
    """`--only` takes names, and nothing else decides then."""
    assert names("taskiq; py-amqp", quick=True, check=True) == ["taskiq", "py-amqp"]


def test_check_takes_the_rows_that_the_targets_need() -> None:
    """No more, and none less."""
    assert set(names(check=True)) == targets.needed()
    assert "pika" not in names(check=True)


def test_without_a_choice_all_rows_run() -> None:
    """`--quick` takes those marked."""
    assert names() == list(BY_NAME)
    assert names(quick=True) == [entry.name for entry in ENTRIES if entry.quick]


def test_a_missing_compiler_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is skipped, and the others are not."""
    monkeypatch.setenv("CC", "no-such-compiler")
    entries, skipped = able([BY_NAME["librabbitmq (C)"], BY_NAME["py-amqp"]])
    assert entries == [BY_NAME["py-amqp"]]
    (sentence,) = skipped
    assert sentence.startswith("SKIPPED: librabbitmq (C). no-such-compiler, the C compiler, is not installed: ")
    assert sentence.endswith("apt-get install gcc libc6-dev librabbitmq-dev")
    assert librabbitmq.version() == "(absent)"


def test_a_compiler_that_fails_means_that_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that always fails stands for one that does not find the header."""
    monkeypatch.setenv("CC", "false")
    assert librabbitmq.missing() == (
        "librabbitmq's headers or library are not installed: apt-get install gcc libc6-dev librabbitmq-dev"
    )


def test_a_missing_library_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rivals come with `amqpq[bench]`."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert needs.missing("faststream") == "faststream is not installed: pip install 'amqpq[bench]'"
    assert needs.missing("ours") is None


def test_large_payloads_are_text_of_the_size_asked_for() -> None:
    """200 bytes stay the letters of all earlier runs; more is text that a codec can do something with."""
    assert payload(200) == "x" * 200
    large = payload(65_536)
    assert len(large) == 65_536
    assert len(set(large)) > 5


class _Channel:
    def __init__(self) -> None:
        self.events: defaultdict[str, set[Callable[[int, bool], None]]] = defaultdict(set)

    def confirm_select(self) -> None:
        """Agree."""

    def confirmed(self, number: int, *, multiple: bool) -> None:
        for listener in self.events["basic_ack"]:
            listener(number, multiple)


def test_confirms_are_taken_singly_and_by_range() -> None:
    """A range confirms what is not confirmed yet, in order, and each only once."""
    channel, done = _Channel(), list[str]()
    confirms = Confirms[str](channel, done.append)
    for value in "abcd":
        confirms.sent(value)
    channel.confirmed(2, multiple=False)
    assert done == ["b"]
    channel.confirmed(3, multiple=True)
    assert done == ["b", "a", "c"]
    channel.confirmed(4, multiple=False)
    assert done == ["b", "a", "c", "d"]


def test_memory_is_read_until_two_looks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that still grows has not started."""
    monkeypatch.setattr("benchmarks.start.STEADY_SECONDS", 0.0)
    looks = iter([1000, 5000, 9000, 9010, 20_000])
    assert steady(lambda: next(looks)) == 9010
