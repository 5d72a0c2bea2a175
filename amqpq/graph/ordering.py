"""The order of the cells in each column: few crossings, found by barycentres. Deterministic."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from amqpq.graph.layered import Grid

SWEEPS: Final = 24
"""From left to right and back; graphs of the size that people look at stop improving well before."""
MANY: Final = 4_000
"""Pairs of wires; two hubs with more than that are not asked whether they should change places."""


def order(grid: Grid) -> list[list[int]]:
    """Return the cells of each column from top to bottom."""
    left: list[list[int]] = [[] for _ in grid.cells]
    right: list[list[int]] = [[] for _ in grid.cells]
    segments = grid.segments()
    for source, target in segments:
        right[source].append(target)
        left[target].append(source)
    columns = _first(grid, left, right)
    best, fewest = columns, _crossings(columns, right)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        forward = sweep % 2 == 0
        columns = _swept(columns, left if forward else right, forward=forward)
        columns = _swapped(columns, left, right)
        count = _crossings(columns, right)
        if count < fewest:
            best, fewest = columns, count
    # What is connected to nothing stands at the foot of its column, where it parts nobody.
    return [sorted(column, key=lambda cell: not (left[cell] or right[cell])) for column in best]


def _first(grid: Grid, left: list[list[int]], right: list[list[int]]) -> list[list[int]]:
    """Order each column by when a walk along the edges comes to a cell: neighbours stay near each other."""
    seen: dict[int, None] = {}
    for start in (cell for column in grid.columns for cell in column if not left[cell]):
        stack = [start]
        while stack:
            cell = stack.pop()
            if cell not in seen:
                seen[cell] = None
                stack.extend(reversed(right[cell]))
    place = {cell: index for index, cell in enumerate(seen)}
    return [sorted(column, key=lambda cell: place.get(cell, cell)) for column in grid.columns]


def _swept(columns: list[list[int]], neighbours: list[list[int]], *, forward: bool) -> list[list[int]]:
    """Sort each column by the mean place of its neighbours in the column before; cells without any stay where they are."""
    found = [list(column) for column in columns]
    numbers = range(len(found)) if forward else range(len(found) - 1, -1, -1)
    place: dict[int, float] = {}
    for number in numbers:
        wanted = {}
        for index, cell in enumerate(found[number]):
            near = [place[other] for other in neighbours[cell]]
            wanted[cell] = sum(near) / len(near) if near else (index + 0.5) / len(found[number])
        found[number].sort(key=wanted.__getitem__)
        place = {cell: (index + 0.5) / len(found[number]) for index, cell in enumerate(found[number])}
    return found


def _swapped(columns: list[list[int]], left: list[list[int]], right: list[list[int]]) -> list[list[int]]:
    """Exchange neighbours in a column where that saves crossings."""
    found = [list(column) for column in columns]
    places = {cell: index for column in found for index, cell in enumerate(column)}
    for column in found:
        for index in range(len(column) - 1):
            upper, lower = column[index], column[index + 1]
            kept = turned = 0
            for sides in (left, right):
                if len(sides[upper]) * len(sides[lower]) > MANY:
                    continue
                above, below = [[places[c] for c in sides[cell]] for cell in (upper, lower)]
                kept += sum(a > b for a in above for b in below)
                turned += sum(b > a for a in above for b in below)
            if turned < kept:
                column[index], column[index + 1] = lower, upper
                places[upper], places[lower] = index + 1, index
    return found


def _crossings(columns: Sequence[Sequence[int]], right: list[list[int]]) -> int:
    """Count the crossings of all pieces between neighbouring columns."""
    total = 0
    for column, following in pairwise(columns):
        place = {cell: index for index, cell in enumerate(following)}
        ends: list[int] = []
        for cell in column:
            targets = [place[target] for target in right[cell]]
            total += sum(len(ends) - bisect_right(ends, target) for target in targets)
            for target in targets:
                insort(ends, target)
    return total
