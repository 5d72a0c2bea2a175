"""Outlines and icons: what tells a topic exchange from a fanout, and a quorum queue from a stream, at a glance."""

from __future__ import annotations

from typing import Final

from amqpq.graph.model import Node
from amqpq.graph.placing import Place

POINT: Final = 9.0
"""How far the point of an outline stands out, pixels."""
CORNER: Final = 7.0

ICON: Final = 16
"""Icons are drawn in a square of this size, pixels."""

ICONS: Final = {
    "tasks": "M5 3 L12 8 L5 13 Z",
    "direct": "M2 8 H13 M9 4 L13 8 L9 12",
    "topic": "M2 8 H6 M6 8 L11 3.5 M6 8 L11 12.5 M6 8 H11 M13 3.5 h.01 M13 8 h.01 M13 12.5 h.01",
    "fanout": "M2 8 L13 2.5 M2 8 H14 M2 8 L13 13.5 M10 2.5 H13 V5.5 M10 13.5 H13 V10.5",
    "headers": "M3 4 H6 M9 4 H13 M3 8 H6 M9 8 H13 M3 12 H6 M9 12 H13",
    "x-consistent-hash": "M6 2.5 L4.5 13.5 M11.5 2.5 L10 13.5 M2.5 6 H13.5 M2 10.5 H13",
    "classic": "M2 4 H14 V12 H2 Z M6 4 V12 M10 4 V12",
    "quorum": "M4.5 2 H14 V9 M2 4.5 H11.5 V13.5 H2 Z M5.2 4.5 V13.5 M8.3 4.5 V13.5",
    "stream": "M2 5 Q5 2 8 5 T14 5 M2 8.5 Q5 5.5 8 8.5 T14 8.5 M2 12 Q5 9 8 12 T14 12",
    "dead": "M2 4 H14 V12 H2 Z M6 6 L10 10 M10 6 L6 10",
    "delays": "M8 2 A6 6 0 1 1 7.99 2 M8 4.5 V8 L10.5 10",
    "unknown": "M5.5 6 Q5.5 3 8 3 T10.5 6 Q10.5 7.5 8 9 V10.5 M8 13 h.01",
}


def colour_of(node: Node) -> str:
    """Return the class that colours a node."""
    if node.ladder:
        return "delays"
    return "dead" if node.dead_letters else node.kind


def icon_of(node: Node) -> str:
    """Return the path of a node's icon."""
    if node.kind in {"exchange", "queue"} and not node.dead_letters:
        return ICONS.get(node.shape, ICONS["direct" if node.kind == "exchange" else "classic"])
    return ICONS[colour_of(node)]


def inset(node: Node, place: Place, y: float, *, right: bool) -> float:
    """Return how far inside of its rectangle the outline of a node is, at this height and on this side."""
    pointed = {"direct": right, "topic": True}.get(node.shape, False) and node.kind == "exchange"
    return POINT * abs(y - place.middle) / (place.height / 2) if pointed else 0.0


def outline(node: Node, place: Place) -> str:
    """Return the outline of a node as a path."""
    x, y, width, height = place.x, place.y, place.width, place.height
    if node.kind == "exchange":
        p = POINT
        corners = {
            "direct": ((0, 0), (width - p, 0), (width, height / 2), (width - p, height), (0, height)),
            "topic": (
                *((p, 0), (width - p, 0), (width, height / 2)),
                *((width - p, height), (p, height), (0, height / 2)),
            ),
            "fanout": ((0, p - 2), (width, 0), (width, height), (0, height - p + 2)),
        }.get(
            node.shape,
            (
                *((p, 0), (width - p, 0), (width, p), (width, height - p)),
                *((width - p, height), (p, height), (0, height - p), (0, p)),
            ),
        )
        return "M" + " L".join(f"{number(x + dx)} {number(y + dy)}" for dx, dy in corners) + " Z"
    return rounded(place, min(height / 2, 2 * CORNER) if node.kind == "tasks" else CORNER)


def behind(node: Node, place: Place) -> str | None:
    """Return what shows from behind a box: the other replicas of a quorum queue."""
    if node.shape != "quorum" or node.kind != "queue":
        return None
    return rounded(Place(place.x + 4, place.y - 4, place.width - 4, place.height), CORNER)


def rounded(place: Place, radius: float) -> str:
    """Return a rectangle with round corners as a path."""
    x, y, width, height = place.x, place.y, place.width, place.height
    r = min(radius, height / 2)
    corner = f"a{number(r)} {number(r)} 0 0 1"
    return (
        f"M{number(x + r)} {number(y)} h{number(width - 2 * r)} {corner} {number(r)} {number(r)} "
        f"v{number(height - 2 * r)} {corner} {number(-r)} {number(r)} h{number(2 * r - width)} "
        f"{corner} {number(-r)} {number(-r)} v{number(2 * r - height)} {corner} {number(r)} {number(-r)} Z"
    )


def number(value: float) -> str:
    """Write a coordinate: one digit after the point, none where it is zero."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
