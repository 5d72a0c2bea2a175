from __future__ import annotations

import re
from pathlib import Path

import pytest

from amqpq.types import Fate
from amqpq.worker.loop import Stage
from amqpq.worker.settle import REVIEWS, Review, Step
from amqpq.worker.states import (
    CONNECTION,
    PUBLICATION,
    STAGE,
    SUBSCRIPTION,
    TABLES,
    ImpossibleEvent,
    Position,
    Table,
    diagram,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "states.md"

OUR_END = {
    "worker": {"stop", "stop now"},
    "connection": {"close", "hopeless"},
    "subscription": {"stop", "starved"},
    "publication": {"given back"},
}
"""Events that only the end of the worker brings."""


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_from_every_state_a_way_leads_to_good_and_a_way_leads_out(table: Table) -> None:
    """From every state a way leads to a good one, and a way leads to the end."""
    assert table.good | table.last <= set(table.states)
    for state in table.reachable(table.first):
        if state in table.last:
            continue
        onward = table.reachable(state)
        assert onward & table.last, f"{state}: the process could not end"
        if state != "draining":  # a worker that stops does not come back
            assert onward & table.good, f"{state}: deaf for ever"


@pytest.mark.parametrize("table", [CONNECTION, SUBSCRIPTION], ids=lambda table: table.name)
def test_while_the_worker_goes_on_every_state_leads_back_to_good(table: Table) -> None:
    """Without any event that ends the worker, every state leads back to consuming: no deaf worker."""
    ends = OUR_END[table.name]
    for state in table.reachable(table.first, without=ends):
        assert table.reachable(state, without=ends) & table.good, f"{state}: deaf for ever"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_state_can_come_about(table: Table) -> None:
    """No state of a table is out of reach."""
    assert table.reachable(table.first) == set(table.states)


def test_an_event_that_the_table_does_not_have_raises_and_changes_nothing() -> None:
    """An impossible event is an error, and the position stays."""
    position = Position(CONNECTION)
    with pytest.raises(ImpossibleEvent, match="'lost' happened in state 'new'"):
        position.move("lost")
    assert position.state == "new"
    assert position.move("close") == "closed"
    assert position.over
    with pytest.raises(ImpossibleEvent):
        position.move("close")


def test_the_stages_of_the_loop_are_those_of_the_table() -> None:
    """The loop's words are the table's."""
    assert {str(stage) for stage in Stage} == set(STAGE.states)


@pytest.mark.parametrize(("step", "fate"), list(REVIEWS), ids=str)
def test_a_publication_goes_where_settle_says(step: Step, fate: Fate) -> None:
    """The picture of a publication in flight agrees with the decision table of `settle`."""
    event = "returned reply" if (step, fate) == (Step.REPLY, Fate.RETURNED) else str(fate)
    expected = "waiting" if REVIEWS[step, fate] is Review.AGAIN else "done"
    assert PUBLICATION.after("under way", event) == expected


def test_the_page_shows_the_tables_as_they_are() -> None:
    """The diagrams of the reference page are drawn from the tables."""
    drawn = re.findall(r"```mermaid\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert drawn == [diagram(table) for table in TABLES]
