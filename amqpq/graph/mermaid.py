"""A graph as Mermaid flowchart, for pages that draw such text: GitHub, GitLab, most wikis (https://mermaid.js.org)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from amqpq.graph.model import Edge, Graph, Node
from amqpq.graph.shapes import colour_of
from amqpq.graph.style import LIGHT, LIGHT_PAGE
from amqpq.graph.text import cleaned

_SHAPES: Final = {
    "tasks": ("([", "])"),
    "delays": ("[[", "]]"),
    "unknown": ("[", "]"),
    "direct": ("[", "]"),
    "topic": ("{{", "}}"),
    "fanout": ("[/", "\\]"),
    "headers": ("[/", "/]"),
    "classic": ("[(", ")]"),
    "quorum": ("[(", ")]"),
    "stream": (">", "]"),
}
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,_-:")
_COLOURED: Final = {"dead": "dead", "delay": "delays", "publish": "tasks"}


def mermaid(graph: Graph) -> str:
    """Return the flowchart of a graph."""
    return "\n".join(_lines(cleaned(graph))) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    ids = {node.name: f"n{index}" for index, node in enumerate(graph.nodes)}
    yield "flowchart LR"
    for node in graph.nodes:
        yield f"  {ids[node.name]}{_box(node)}"
    for edge in graph.edges:
        yield f"  {ids[edge.source]} {_arrow(edge)} {ids[edge.target]}"
    for index, note in enumerate(graph.notes):
        yield f'  note{index}["{_text(note)}"]'
        yield f"  style note{index} fill:none,stroke:none"
    for kind, tint in LIGHT.items():
        named = [ids[node.name] for node in graph.nodes if colour_of(node) == kind]
        if named:
            yield f"  classDef {kind} fill:{tint.fill},stroke:{tint.line},color:{LIGHT_PAGE.ink}"
            yield f"  class {','.join(named)} {kind}"
    for light, look in (("lit", f"stroke:{LIGHT_PAGE.lit},stroke-width:3px"), ("dim", "opacity:0.3")):
        named = [ids[node.name] for node in graph.nodes if node.light == light]
        if named:
            yield f"  classDef {light} {look}"
            yield f"  class {','.join(named)} {light}"
    for index, edge in enumerate(graph.edges):
        look = _look(edge)
        if look:
            yield f"  linkStyle {index} {look}"


def _box(node: Node) -> str:
    before, after = _SHAPES.get(node.shape if node.kind in {"exchange", "queue"} else node.kind, ("[", "]"))
    words = [f"<b>{_text(node.title)}</b>", *(_text(line) for line in (*node.details, *node.live))]
    return f'{before}"{"<br/>".join(words)}"{after}'


def _arrow(edge: Edge) -> str:
    label = f'|"{_text(edge.label)}"|' if edge.labels else ""
    line = "-.-" if edge.kind in {"unrouted", "delay"} else "--"
    return f"{'<' if edge.both else ''}{line}>{label}"


def _look(edge: Edge) -> str:
    if edge.light == "lit":
        return f"stroke:{LIGHT_PAGE.lit},stroke-width:3px"
    words = [f"stroke:{LIGHT[_COLOURED[edge.kind]].line}"] if edge.kind in _COLOURED else []
    if edge.light == "dim":
        words.append("opacity:0.3")
    return ",".join(words)


def _text(text: str) -> str:
    """Write a text so that nothing in it is markup: Mermaid has entities of its own, `#35;` for `#`."""
    return "".join(letter if letter in _PLAIN else f"#{ord(letter)};" for letter in text)
