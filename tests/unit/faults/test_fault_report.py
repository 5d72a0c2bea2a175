"""The matrix on paper, and the page that shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.__main__ import arguments, cells, main
from tests.faults.lanes import GROUPS, ROWS
from tests.faults.report import Cell, entry, markdown, placed, read
from tests.faults.scene import Column
from tests.faults.tally import Tally

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference"
PAGE = REFERENCE / "fault-matrix.md"
COLUMN = Column("prefork", "classic", "4.0")


def test_a_page_keeps_its_words_around_a_new_table() -> None:
    """The table and its sum are replaced; where there is no table, it is all there is."""
    old, new = (markdown([Cell("worker-kill", COLUMN, Tally(10, twice=twice, strikes=1))], ROWS) for twice in (0, 7))
    table = new.partition("\n\n")[2]
    page = f"# Before\n\n{old.partition(chr(10) * 2)[2]}\n## After | fault |\n\n5 cells, of a prison.\n"
    assert placed(page, new) == f"# Before\n\n{table}\n## After | fault |\n\n5 cells, of a prison.\n"
    assert placed("", new) == new


def test_journals_of_several_runs_are_one_when_put_together() -> None:
    """Each line is a cell; of one that is there twice the last holds."""
    other = Column("prefork", "quorum", "4.3")
    mine = entry(Cell("worker-kill", COLUMN, Tally(10, twice=1, bound=2, strikes=1)))
    theirs = entry(Cell("worker-kill", other, Tally(10, strikes=1)))
    again = entry(Cell("worker-kill", COLUMN, Tally(10, twice=2, bound=2, strikes=1)))
    found = read(f"{mine}\n{theirs}\n{again}\n")
    assert [(cell.column, cell.tally.twice) for cell in found] == [(COLUMN, 2), (other, 0)]


def test_the_page_shows_what_is_in_the_journal(tmp_path: Path) -> None:
    """`--table` changes nothing in it, and every cell holds."""
    page = tmp_path / "page.md"
    shutil.copy(PAGE, page)
    assert main(["--table", "--journal", str(REFERENCE / "fault-matrix.jsonl"), "--markdown", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_the_page_says_how_large_the_matrix_is() -> None:
    """So many faults and so many cells."""
    count = sum(1 for group in GROUPS for _ in cells(arguments([]), group))
    words = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"({len(ROWS)} faults, " in words
    assert f"has {count} cells and" in words
