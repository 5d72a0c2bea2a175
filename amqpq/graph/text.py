"""Texts of a picture: what they may hold, and how much room they take.

There is no font at hand. So names are set in a monospaced one, and the width of everything else is estimated generously.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Final

from amqpq.graph.model import Graph

MONO_EM: Final = 0.605
"""Width of a letter in a monospaced font by its size: Menlo, DejaVu Sans Mono and Courier have 0.60, Consolas 0.55."""
SANS_EM: Final = 0.56
"""Mean width of a letter in a wide sans-serif font (DejaVu Sans, Verdana); narrower ones leave a little room."""

BOLD_EM: Final = 0.63

_TURNS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def columns(text: str) -> int:
    """Return how many letters wide a text is: East Asian ones count twice, combining ones not at all."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def mono_width(text: str, size: float) -> float:
    """Return the width of a text in a monospaced font of this size, in the size's unit."""
    return columns(text) * size * MONO_EM


def sans_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of a text in a sans-serif font of this size, in the size's unit; an estimate."""
    return columns(text) * size * (BOLD_EM if bold else SANS_EM)


def folded(text: str, limit: int) -> str:
    """Return a text of at most so many columns; the middle of a longer one becomes an ellipsis."""
    if columns(text) <= limit:
        return text
    head, tail = "", ""
    for index in range(len(text)):
        # From both ends in turn, so that beginning and end can be read.
        letter = text[index // 2] if index % 2 == 0 else text[-(index // 2) - 1]
        if columns(head + tail + letter) > limit - 1:
            break
        if index % 2 == 0:
            head += letter
        else:
            tail = letter + tail
    return f"{head}…{tail}"


def wrapped(phrases: tuple[str, ...], limit: int, lines: int) -> tuple[str, ...]:
    """Return phrases in lines of at most so many columns; what finds no room ends in an ellipsis."""
    found: list[str] = []
    for phrase in phrases:
        joined = f"{found[-1]} · {phrase}" if found else phrase
        if found and columns(joined) <= limit:
            found[-1] = joined
        else:
            found.append(folded(phrase, limit))
    if len(found) > lines:
        return (*found[: lines - 1], folded(found[lines - 1], limit - 2) + " …")
    return tuple(found)


def printable(text: str) -> str:
    """Return a text without what no picture can hold, or would be turned round by: each such character is a question mark.

    These are control characters, lone surrogates, what XML has no place for, and marks that override the direction of writing.
    """
    return "".join(
        "?" if unicodedata.category(letter) in {"Cc", "Cs", "Cn"} or letter in _TURNS else letter for letter in text
    )


def cleaned(graph: Graph) -> Graph:
    """Return a graph all of whose texts are printable; names of nodes, which tell them apart, stay."""
    nodes = tuple(
        replace(
            node,
            title=printable(node.title),
            details=tuple(map(printable, node.details)),
            live=tuple(map(printable, node.live)),
        )
        for node in graph.nodes
    )
    edges = tuple(replace(edge, labels=tuple(map(printable, edge.labels))) for edge in graph.edges)
    return Graph(printable(graph.title), nodes, edges, tuple(map(printable, graph.notes)))
