"""Dead letters on a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from amqpq.cli import letters
from amqpq.deadletters.examining import Examined
from amqpq.deadletters.letter import Letter, read
from amqpq.types import Delivery, Properties

EXAMINED = Examined("verified", "signed with key 'shop'", ("1",), {})


def letter(**headers: Any) -> Letter:
    """A dead letter with these headers of ours."""
    named = {f"amqpq-{name.replace('_', '-')}": value for name, value in headers.items()}
    return read(
        Delivery(b"", Properties(headers={"id": "1f0c", "task": "shop.die", **named}), "", "dead", False, 1), "dead"
    )


def test_how_a_process_died_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Signal, peak memory and the last lines; a stranger's escape sequences are harmless."""
    died = letter(signal="SIGKILL", peak_memory=3 * 2**20, last_logs="one\nt\x1b[31mwo", delivery_count=4)
    letters.print_letter(died, EXAMINED)
    said = capsys.readouterr().out
    assert "process:    killed by SIGKILL, peak memory 3.0 MiB\n" in said
    assert "deliveries: 4 before" in said
    assert "  one\n  t?[31mwo\n" in said
    shown = letters.full_json(died, EXAMINED)["death"]
    assert shown == {
        "exit_code": None,
        "signal": "SIGKILL",
        "peak_memory": 3 * 2**20,
        "last_logs": "one\nt\x1b[31mwo",
        "delivery_count": 4,
    }


def test_an_exit_code_is_shown_even_if_it_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    """A task that ends its process in order has killed it all the same."""
    letters.print_letter(letter(exit_code=0), EXAMINED)
    assert "process:    exit code 0\n" in capsys.readouterr().out


def test_earlier_attempts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Oldest first, with when, who and why; what is not an attempt is left out."""
    log = [{"at": "2026-11-21T10:00:00+00:00", "worker": "w1@a", "error": "ValueError: no"}, "odd", {"error": "again"}]
    letters.print_letter(letter(attempt_log=log), EXAMINED)
    said = capsys.readouterr().out
    assert "attempt 1:  2026-11-21T10:00:00+00:00, w1@a, ValueError: no\n" in said
    assert "attempt 2:  again\n" in said
    assert letters.attempt_log(letter(attempt_log="odd")) == []
