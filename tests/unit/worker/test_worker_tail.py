"""The last words of a child, in memory that it shares with its parent."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq.worker.pools import tail


@pytest.fixture
def board() -> Iterator[mmap.mmap]:
    """Shared memory, as a child gets it."""
    with mmap.mmap(-1, tail.SHARED_BYTES) as made:
        yield made


def write(board: mmap.mmap, lines: list[str]) -> None:
    """Log lines."""
    handler = tail.Tail(board)
    for line in lines:
        handler.handle(logging.LogRecord("shop", logging.INFO, __file__, 1, line, None, None))


def test_the_last_lines_are_kept_in_order(board: mmap.mmap) -> None:
    """Twenty of them, whatever came before."""
    assert tail.last_lines(board) == ""
    write(board, [f"line {number}" for number in range(3000)])
    assert tail.last_lines(board).splitlines() == [f"line {number}" for number in range(2980, 3000)]


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=3000), max_size=30))
def test_every_kept_line_is_one_that_was_written(lines: list[str]) -> None:
    """However long they are and wherever the ring ends: whole lines, the newest ones."""
    with mmap.mmap(-1, tail.SHARED_BYTES) as board:
        write(board, lines)
        kept = tail.last_lines(board).split("\n")
        expected = [line.encode()[-tail.RING_BYTES // 2 :].decode(errors="replace") for line in lines]
        assert kept == ([""] if not lines else expected[len(expected) - len(kept) :])
        assert board[tail.FAULT_AT :] == bytes(tail.FAULT_BYTES)


def test_a_line_that_was_cut_off_by_death_is_not_shown(board: mmap.mmap) -> None:
    """Its bytes are in the ring, its count is not."""
    write(board, ["whole"])
    (count,) = tail.COUNT.unpack_from(board, tail.TAIL_AT)
    board[tail.RING_AT + count : tail.RING_AT + count + 4] = b"torn"
    assert tail.last_lines(board) == "whole"
    assert tail.fault(board) == ""


def test_a_line_that_cannot_be_formatted_harms_nobody(board: mmap.mmap) -> None:
    """The usual handler complains; this one goes on."""
    handler = tail.Tail(board)
    handler.handle(logging.LogRecord("shop", logging.INFO, __file__, 1, "%d", ("x",), None))
    write(board, ["next"])
    assert tail.last_lines(board) == "next"
