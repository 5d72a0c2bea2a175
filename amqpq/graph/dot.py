"""A graph in the language of Graphviz (https://graphviz.org/doc/info/lang.html), for those who lay it out themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from amqpq.graph.model import Edge, Graph, Node
from amqpq.graph.shapes import colour_of
from amqpq.graph.style import LIGHT, LIGHT_PAGE
from amqpq.graph.text import cleaned, printable

_SHAPES: Final = {
    "tasks": "box",
    "delays": "component",
    "unknown": "box",
    "direct": "cds",
    "topic": "hexagon",
    "fanout": "trapezium",
    "headers": "octagon",
    "classic": "cylinder",
    "quorum": "box3d",
    "stream": "note",
}
_FAINT: Final = "#d5dae0"


def dot(graph: Graph) -> str:
    """Return the graph as a `digraph`."""
    return "\n".join(_lines(cleaned(graph))) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    notes = "".join(f"{_escaped(note)}\\l" for note in graph.notes)
    yield f"digraph {_quoted(graph.title)} {{"
    yield "  rankdir=LR;"
    yield f'  label="{notes}"; labeljust=l;'
    yield '  node [fontname="Helvetica", fontsize=11, style=filled];'
    yield '  edge [fontname="Courier", fontsize=9];'
    for node in graph.nodes:
        yield f"  {_quoted(node.name)} [{_attributes(_of_node(node))}];"
    for edge in graph.edges:
        yield f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [{_attributes(_of_edge(edge))}];"
    yield "}"


def _of_node(node: Node) -> Mapping[str, str]:
    tint = LIGHT[colour_of(node)]
    styles = ["filled"]
    if node.kind in {"tasks", "queue"} and _SHAPES.get(node.shape, "box") == "box":
        styles.append("rounded")
    if node.manage != "full" or node.kind == "unknown":
        styles.append("dashed")
    words = "\\n".join(_escaped(line) for line in (node.title, *node.details, *node.live))
    dim, lit = node.light == "dim", node.light == "lit"
    return {
        "label": words,
        "shape": _SHAPES.get(node.shape if node.kind in {"exchange", "queue"} else node.kind, "box"),
        "style": ",".join(styles),
        "fillcolor": "#ffffff" if dim else tint.fill,
        "color": _FAINT if dim else LIGHT_PAGE.lit if lit else tint.line,
        **({"fontcolor": _FAINT} if dim else {}),
        **({"penwidth": "2.5"} if lit else {}),
    }


def _of_edge(edge: Edge) -> Mapping[str, str]:
    colours = {"publish": LIGHT["tasks"].line, "dead": LIGHT["dead"].line, "delay": LIGHT["delays"].line}
    colour = colours.get(edge.kind, LIGHT_PAGE.wire)
    if edge.light != "plain":
        colour = LIGHT_PAGE.lit if edge.light == "lit" else _FAINT
    found = {"color": colour, "fontcolor": colour}
    if edge.labels:
        found |= {"label": _escaped(edge.label), "tooltip": _escaped(", ".join(edge.labels))}
    if edge.kind in {"unrouted", "delay"}:
        found["style"] = "dotted" if edge.kind == "unrouted" else "dashed"
    if edge.both:
        found["dir"] = "both"
    if edge.kind in {"dead", "delay"}:
        found["constraint"] = "true" if edge.kind == "dead" else "false"
    if edge.light == "lit":
        found["penwidth"] = "2.5"
    return found


def _attributes(values: Mapping[str, str]) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in values.items())


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """Write a text for a quoted string: a backslash begins an escape there, such as one for the node's name."""
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
