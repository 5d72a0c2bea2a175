"""What counts as broken in a cell of the fault matrix."""

from __future__ import annotations

from tests.faults.tally import Tally, broken, missing, repeated


def test_a_cell_that_lost_nothing_holds() -> None:
    """Second runs within what was in flight, and dead letters made on purpose, are no fault."""
    tally = Tally(confirmed=10, twice=3, bound=3, parked={"failed": 2}, allowed={"failed": 2}, strikes=1)
    assert broken(tally) == []


def test_each_rule_is_told_by_a_sentence_of_its_own() -> None:
    """Loss, too many second runs, unexpected dead letters, deaf workers and exits all break a cell."""
    tally = Tally(
        confirmed=10,
        lost=("t1 (no result)",),
        twice=4,
        bound=3,
        parked={"crashed": 1},
        deaf=("w1 runs and answers no probe",),
        exits=("worker w2 stopped with 1",),
        strikes=1,
    )
    said = broken(tally)
    assert len(said) == 5
    assert said[0] == "1 lost: t1 (no result)"
    assert said[1] == "4 ran twice, and only 3 were in flight"
    assert said[2] == "1 parked as 'crashed', and 0 may be"


def test_a_cell_where_nothing_happened_proves_nothing() -> None:
    """Without tasks, or without the fault, a cell is broken."""
    assert broken(Tally(confirmed=0)) == ["nothing was published", "the fault did not happen"]


def test_runs_beyond_the_first_are_counted() -> None:
    """Three runs of one task are two too many."""
    assert repeated(["a", "b", "a", "a", "c"]) == 2


def test_a_wrong_answer_is_a_loss() -> None:
    """A task answers with its own id; another answer, an exception or none is a loss."""
    assert missing(["a", "b", "c"], {"a": "a", "b": "a"}) == ["b ('a')", "c (no result)"]
