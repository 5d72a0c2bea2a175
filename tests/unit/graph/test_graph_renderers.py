"""The renderers: what is in the graph is in the text, and no name can break out of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from amqpq.graph import tree
from amqpq.graph.build import graph
from amqpq.graph.dot import dot
from amqpq.graph.live import Depth, annotated, queues_of
from amqpq.graph.mermaid import mermaid
from amqpq.graph.model import Edge, Graph, Node
from amqpq.graph.svg import svg
from amqpq.graph.text import columns, folded, wrapped
from amqpq.topology import Topology

SVG = "{http://www.w3.org/2000/svg}"

RENDERERS: list[Callable[[Graph], str]] = [svg, mermaid, dot, tree.text]

HOSTILE = [
    "</title><script>alert(1)</script>",
    '"]; evil [label="',
    "a\\",
    "#quot; `x` <b>",
    "&lt;&#0;",
    "line\nbreak\x00\x1b[31m",
    "]]>",
    "長い名前" * 40,
    "\ud800",
    "--> n1",
    "%%{init: {}}%%",
    "end",
]


def hostile_graph() -> Graph:
    """Return a graph in which every text is hostile."""
    nodes = tuple(
        Node(f"queue {name}", "queue", name, name, (name,), live=(name,), dead_letters=index % 2 == 1)
        for index, name in enumerate(HOSTILE)
    )
    edges = tuple(Edge(one.name, other.name, "binding", (one.title, other.title)) for one, other in pairwise(nodes))
    return Graph(HOSTILE[0], nodes, edges, tuple(HOSTILE))


def parsed(drawn: Graph) -> ET.Element:
    """Return the SVG of a graph as XML."""
    return ET.fromstring(svg(drawn))  # noqa: S314 - our own text


def with_class(root: ET.Element, name: str) -> list[ET.Element]:
    """Find elements by class."""
    return [element for element in root.iter() if name in element.get("class", "").split()]


# ---------------------------------------------------------------------------------------------------------------- svg


def test_the_svg_has_every_node_and_every_edge(drawn: Graph) -> None:
    """Each node is a group with its title, each edge a group that knows its ends and has a line or shares one."""
    root = parsed(drawn)
    assert [element.get("data-node") for element in with_class(root, "node")] == [node.name for node in drawn.nodes]
    ends = [(element.get("data-from"), element.get("data-to")) for element in with_class(root, "edge")]
    assert sorted(pair for pair in ends if pair[0]) == sorted((edge.source, edge.target) for edge in drawn.edges)
    for element in with_class(root, "edge"):
        assert element.find(f"{SVG}path") is not None, element.attrib


def test_the_svg_says_all_keys_in_titles(drawn: Graph) -> None:
    """A folded list of keys is whole in the title."""
    titles = [element.text or "" for element in parsed(drawn).iter(f"{SVG}title")]
    assert "work → mail: mail, post, letters, cards" in titles
    assert "mail, post, letters, cards" in titles


def test_every_exchange_type_has_an_outline_of_its_own(drawn: Graph) -> None:
    """Direct, topic, fanout and headers are told apart by shape, not by colour."""
    root = parsed(drawn)
    outlines: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for element in with_class(root, "node"):
        node = drawn.by_name[element.get("data-node", "")]
        box, icon = (next(iter(with_class(element, kind))).get("d", "") for kind in ("box", "icon"))
        outlines.setdefault((node.kind, node.shape), set()).add((re.sub(r"[-\d. ]", "", box), icon))
    kinds = [("exchange", kind) for kind in ("direct", "topic", "fanout", "headers")]
    assert len({next(iter(outlines[kind])) for kind in kinds}) == len(kinds)


def test_the_svg_needs_nothing_else(drawn: Graph) -> None:
    """No address is loaded, no script runs, no font comes along; it has colours for dark pages."""
    text = svg(drawn)
    assert set(re.findall(r"https?://[^\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<image|<foreignObject|@import|@font-face|url\(|href", text)
    assert "@media (prefers-color-scheme: dark)" in text


def test_two_pictures_on_one_page_do_not_disturb_each_other(drawn: Graph) -> None:
    """There are no ids, and every style rule is for such pictures only."""
    root = parsed(drawn)
    assert not [element for element in root.iter() if element.get("id")]
    (style,) = root.iter(f"{SVG}style")
    rules = re.findall(r"^\s*([^\s@}][^{]*)\{", style.text or "", re.MULTILINE)
    assert rules
    assert all(part.strip().startswith(".amqpq-graph") for rule in rules for part in rule.split(","))


def test_texts_fit_into_their_boxes() -> None:
    """A name of 255 bytes is folded in its box, and whole in the title."""
    name = "a" * 120 + "z" * 135
    root = parsed(Graph("long", (Node("queue x", "queue", name, "classic", ("classic", name)),)))
    (node,) = with_class(root, "node")
    shown = [element.text or "" for element in node.iter(f"{SVG}text")]
    assert all(columns(text) <= 34 for text in shown)
    assert shown[0].startswith("aaa")
    assert shown[0].endswith("zzz")
    assert name in (node.find(f"{SVG}title").text or "")  # type: ignore[union-attr]


def test_a_way_to_itself_is_drawn() -> None:
    """A queue that dead-letters into itself has a loop, and says so."""
    node = Node("queue q", "queue", "q", "classic", ("classic",))
    root = parsed(Graph("loop", (node,), (Edge(node.name, node.name, "dead", ("expired",)),)))
    (edge,) = [element for element in with_class(root, "edge") if element.get("data-from")]
    assert edge.find(f"{SVG}path") is not None
    assert "classic · to itself: expired" in [element.text for element in root.iter(f"{SVG}text")]


def test_an_empty_topology_is_a_picture_too() -> None:
    """Nothing at all is drawn without an error, by each renderer."""
    for render in RENDERERS:
        assert "nothing" in render(Graph("nothing")) or render is mermaid


# ------------------------------------------------------------------------------------------------------------ hostile


def test_hostile_names_stay_text_in_the_svg() -> None:
    """Whatever a queue is called, the document parses, and has as many elements as with harmless names."""
    drawn = hostile_graph()
    root = parsed(drawn)
    assert len(with_class(root, "node")) == len(HOSTILE)
    assert not list(root.iter(f"{SVG}script"))
    assert with_class(root, "node")[0].get("data-node") == f"queue {HOSTILE[0]}"


def test_hostile_names_stay_text_in_mermaid() -> None:
    """Between the quotes of a label is nothing but harmless letters and entities; each line is one statement."""
    lines = mermaid(hostile_graph()).splitlines()
    labels = [label for line in lines for label in re.findall(r'"([^"]*)"', line)]
    assert len(labels) == len(HOSTILE) + (len(HOSTILE) - 1) + len(HOSTILE)
    assert all(re.fullmatch(r"(?:[A-Za-z0-9 .,_:-]|#\d+;|</?b>|<br/>)*", label) for label in labels)
    statement = re.compile(
        r"flowchart LR|n\d+[\[({>/\\]*\"[^\"]*\"[\])}/\\]*|n\d+ <?(-\.-|--)>(\|\"[^\"]*\"\|)? n\d+|note\d+\[\"[^\"]*\"\]"
        r"|(style|classDef|class|linkStyle) [\w,]+ [\w:#,. -]+"
    )
    assert [line for line in lines if not statement.fullmatch(line.strip())] == []


def test_hostile_names_stay_text_in_dot() -> None:
    """Every quoted string ends where it should: what is left without them is the skeleton of a digraph."""
    text = dot(hostile_graph())
    skeleton = re.sub(r'"(?:[^"\\]|\\.)*"', "S", text)
    line = re.compile(
        r"digraph S \{|\}|  rankdir=LR;|  label=S; labeljust=l;|  (node|edge|S|S -> S) \[(\w+=\w+(, )?)*\];"
    )
    assert [found for found in skeleton.splitlines() if not line.fullmatch(found)] == []
    assert text.count("\n") == len(skeleton.splitlines())


def test_hostile_names_cannot_write_to_the_terminal() -> None:
    """No control character of a name comes out of the tree."""
    lines = tree.text(hostile_graph())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", lines)


# ------------------------------------------------------------------------------------------------------- mermaid, dot


def test_mermaid_has_every_node_and_edge(drawn: Graph) -> None:
    """One box for each node, one arrow for each edge; dead letters are red, alternate exchanges dotted."""
    lines = [line.strip() for line in mermaid(drawn).splitlines()]
    assert len([line for line in lines if re.match(r"n\d+[\[({>]", line)]) == len(drawn.nodes)
    arrows = [line for line in lines if re.match(r"n\d+ \S+> ?\S* ?", line) and ("--" in line or "-.-" in line)]
    assert len(arrows) == len(drawn.edges)
    dead = [index for index, edge in enumerate(drawn.edges) if edge.kind == "dead"]
    assert [line for line in lines if line == f"linkStyle {dead[0]} stroke:#d0453a"]
    unrouted = next(index for index, edge in enumerate(drawn.edges) if edge.kind == "unrouted")
    assert "-.->" in arrows[unrouted]


def test_dot_has_every_node_and_edge(drawn: Graph) -> None:
    """One statement for each."""
    lines = dot(drawn).splitlines()
    assert len([line for line in lines if " -> " in line]) == len(drawn.edges)
    assert all(any(line.startswith(f'  "{node.name}" [') for line in lines) for node in drawn.nodes)
    assert '"exchange work" -> "exchange lost" [color="#77838f", fontcolor="#77838f", label="unrouted"' in dot(drawn)


# --------------------------------------------------------------------------------------------------------------- tree


def test_the_tree_tells_every_edge_once(drawn: Graph) -> None:
    """Each way is one line; what was told above is referred to."""
    text = tree.text(drawn)
    assert text.count("▶") == len([edge for edge in drawn.edges if edge.kind != "publish"])
    assert len(re.findall(r"[├└]◀─", text)) == len([edge for edge in drawn.edges if edge.kind == "publish"])
    assert "\n├─ mail, post, letters +1 ─▶ mail  classic queue · priorities to 9\n" in text
    assert "└┄ unrouted ┄▶ lost  fanout exchange" in text


def test_the_tree_of_a_cycle_ends() -> None:
    """Two queues that dead-letter into each other have no root; they are told once."""
    nodes = tuple(Node(f"queue {name}", "queue", name, "classic", ("classic",)) for name in "ab")
    edges = (Edge("queue a", "queue b", "dead", ("expired",)), Edge("queue b", "queue a", "dead", ("expired",)))
    assert tree.text(Graph("cycle", nodes, edges)) == (
        "cycle\n\na  classic queue\n└─ expired ─▶ b  classic queue\n   └─ expired ─▶ a  classic queue, above\n"
    )


def test_the_tree_can_be_ascii(drawn: Graph) -> None:
    """A terminal without box-drawing letters gets a tree, too."""
    plain = tree.as_ascii(tree.text(drawn))
    assert plain.isascii()
    assert "`. unrouted .> lost" in plain


# --------------------------------------------------------------------------------------------------------------- live


def test_depths_and_rates_stand_beside_the_queues(drawn: Graph) -> None:
    """What the broker said is in each picture; what is not there says so; what was not asked stays as it was."""
    depths = {"mail": Depth(1204, 12, 1, 40.0, 0.5), "pages": Depth(3, None, 0), "quick": None}
    seen = annotated(drawn, depths, "from a test")
    assert seen.by_name["queue mail"].live == ("1,204 ready · 12 unacked · 1 consumer", "in 40/s · out 0.5/s")
    assert seen.by_name["queue pages"].live == ("3 ready · 0 consumers",)
    assert seen.by_name["queue quick"].live == ("not on the broker",)
    assert seen.by_name["queue legacy"].live == ()
    assert seen.notes[-1] == "from a test"
    for render in (svg, dot, tree.text):
        assert "1,204 ready · 12 unacked · 1 consumer" in render(seen)


def test_all_queues_are_asked_for(shop: Topology) -> None:
    """Dead-letter queues too, and with the ladder unfolded its queues."""
    assert {"mail", "shop.dead"} <= set(queues_of(graph(shop)))
    assert "shop.delay.0.1" in queues_of(graph(shop, generated=True))


# --------------------------------------------------------------------------------------------------------------- text


def test_folding_keeps_both_ends() -> None:
    """The beginning and the end of a long name tell it from its neighbours."""
    assert folded("orders.incoming.europe.high", 13) == "orders…e.high"
    assert folded("short", 13) == "short"
    assert columns(folded("長い名前の行列", 7)) <= 7


def test_phrases_are_wrapped_whole() -> None:
    """Phrases share a line as long as they fit; what finds no room is an ellipsis."""
    assert wrapped(("classic", "ttl 1w", "priorities to 9"), 20, 3) == ("classic · ttl 1w", "priorities to 9")
    assert wrapped(("one", "two", "three"), 5, 2) == ("one", "two …")


@pytest.mark.parametrize("render", RENDERERS)
def test_rendering_is_always_the_same(render: Callable[[Graph], str], shop: Topology) -> None:
    """Twice the same topology, twice the same text."""
    assert render(graph(shop)) == render(graph(replace(shop)))
