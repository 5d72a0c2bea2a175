"""The layout: nothing overlaps, no wire crosses a box, whatever the topology."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqpq.graph.build import graph
from amqpq.graph.layered import Cell, grid
from amqpq.graph.model import Edge, Graph, Node, NodeKind
from amqpq.graph.ordering import _crossings, order
from amqpq.graph.placing import Layout, Place, Size, lay_out
from amqpq.topology import library, load

KINDS: tuple[NodeKind, ...] = ("tasks", "exchange", "queue", "delays", "unknown")


def measure(cell: Cell) -> Size:
    """Sizes that differ from name to name."""
    return Size(60.0 + 7 * len(cell.text), 19.0 if cell.kind == "label" else 34.0 + 15 * (len(cell.text) % 3))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any graph: with cycles, loops, parallel edges, nodes that nothing leads to."""
    kinds = draw(st.lists(st.sampled_from(KINDS), max_size=14))
    nodes = [
        Node(f"{kind} {index}", kind, f"{index}", dead_letters=kind == "queue" and draw(st.booleans()))
        for index, kind in enumerate(kinds)
    ]
    if not nodes:
        return Graph("empty")
    names = st.sampled_from([node.name for node in nodes])
    edges = draw(
        st.lists(
            st.builds(
                Edge,
                names,
                names,
                st.sampled_from(["publish", "binding", "unrouted", "dead", "delay"]),
                st.lists(st.sampled_from(["a", "b.c", "long.key.#"]), max_size=2).map(tuple),
                st.booleans(),
                st.sampled_from(["lit", "plain", "dim"]),
            ),
            max_size=30,
        )
    )
    return Graph("any", tuple(nodes), tuple(edges))


def sound(drawn: Graph, layout: Layout) -> None:
    """Check everything that a reader would stumble over."""
    boxes = list(layout.boxes.items())
    labels = [(cell.text, place) for cell, place in layout.labels]
    for (one, here), (other, there) in combinations([*boxes, *labels], 2):
        assert not here.overlaps(there), f"{one} and {other}"
    assert layout.boxes.keys() == drawn.by_name.keys()
    assert layout.wires.keys() == {i for i, edge in enumerate(drawn.edges) if edge.source != edge.target}
    for wire in layout.wires.values():
        for piece in wire.pieces:
            assert piece.x1 <= piece.x2
            around = Place(piece.x1, min(piece.y1, piece.y2), piece.x2 - piece.x1, abs(piece.y2 - piece.y1))
            for name, place in [*boxes, *labels]:
                inside = Place(place.x + 0.2, place.y + 0.2, place.width - 0.4, place.height - 0.4)
                assert not around.overlaps(inside), f"a wire crosses {name}"
    for _, place in [*boxes, *labels]:
        assert place.x >= 0
        assert place.y >= -0.1
        assert place.x + place.width <= layout.size.width + 0.2
        assert place.y + place.height <= layout.size.height + 0.2


@given(graphs())
def test_no_two_boxes_overlap_and_no_wire_crosses_one(drawn: Graph) -> None:
    """Whatever the graph: boxes and labels stand apart, wires pass between them, and all is within the page."""
    sound(drawn, lay_out(drawn, measure))


@pytest.mark.parametrize("name", library.names())
@pytest.mark.parametrize("generated", [False, True])
def test_the_ready_made_topologies_are_laid_out_soundly(name: str, generated: bool) -> None:
    """The same for each file that ships, with the ladder folded and unfolded."""
    drawn = graph(load(library.find(name)), generated=generated)
    sound(drawn, lay_out(drawn, measure))


@given(graphs())
@settings(max_examples=10)
def test_a_layout_is_always_the_same(drawn: Graph) -> None:
    """Twice the same graph, twice the same picture."""
    assert lay_out(drawn, measure) == lay_out(drawn, measure)


def test_queues_stand_in_one_column_and_dead_letters_behind(drawn: Graph) -> None:
    """All queues that messages come to first are in line, however long the way; their dead letters are right of them."""
    cells = grid(drawn)
    column = {cell.text: cell.column for cell in cells.cells if cell.kind == "box"}
    first = {column[f"queue {name}"] for name in ("mail", "pages", "alarms", "journal", "quick", "legacy", "lost")}
    assert len(first) == 1
    assert column["queue shop.dead"] == column["queue parked"] > first.pop()
    assert column["tasks mail.*"] == 0


def test_a_crossing_that_can_be_avoided_is_avoided() -> None:
    """Two exchanges whose queues stand in the other order change places."""
    nodes = [Node(name, kind, name) for kind in ("exchange", "queue") for name in (f"{kind} a", f"{kind} b")]
    edges = (Edge("exchange a", "queue b", "binding"), Edge("exchange b", "queue a", "binding"))
    columns = order(grid(Graph("crossed", tuple(nodes), edges)))
    assert columns[0] != columns[-1]
    names = {0: "exchange a", 1: "exchange b", 2: "queue a", 3: "queue b"}
    pairs = [(names[left], names[right]) for left, right in zip(columns[0], columns[-1], strict=True)]
    assert set(pairs) == {("exchange a", "queue b"), ("exchange b", "queue a")}


def tangled(seed: int) -> Graph:
    """Return eight exchanges, twelve queues and three dead-letter queues, connected at random."""
    dice = random.Random(seed)
    exchanges = [Node(f"exchange {index}", "exchange", str(index)) for index in range(8)]
    queues = [Node(f"queue {index}", "queue", str(index)) for index in range(12)]
    dead = [Node(f"queue d{index}", "queue", str(index), dead_letters=True) for index in range(3)]
    edges = [
        Edge(dice.choice(exchanges).name, queue.name, "binding", ("k",))
        for queue in queues
        for _ in range(dice.choice([1, 1, 2]))
    ]
    edges += [Edge(queue.name, dice.choice(dead).name, "dead") for queue in queues]
    return Graph("tangled", (*exchanges, *queues, *dead), tuple(dict.fromkeys(edges)))


def test_tangles_have_few_crossings() -> None:
    """Seven tangles have 76 crossings together; 394 as they stand in the file, 82 without swaps of neighbours."""
    total = 0
    for seed in range(1, 8):
        cells = grid(tangled(seed))
        right: list[list[int]] = [[] for _ in cells.cells]
        for source, target in cells.segments():
            right[source].append(target)
        total += _crossings(order(cells), right)
    assert total <= 78


def test_what_closes_a_cycle_leads_back_not_forth() -> None:
    """Dead letters that wait and come back: tasks stay left, however the file is ordered, and the way back is from the right."""
    nodes = (
        Node("queue wait", "queue", "wait"),
        Node("exchange in", "exchange", "in"),
        Node("queue work", "queue", "work"),
        Node("tasks *", "tasks", "*"),
    )
    edges = (
        Edge("queue wait", "exchange in", "dead", ("expired",)),
        Edge("queue work", "queue wait", "dead", ("failed",)),
        Edge("exchange in", "queue work", "binding", ("k",)),
        Edge("tasks *", "exchange in", "publish", ("k",)),
    )
    layout = lay_out(Graph("again", nodes, edges), measure)
    assert sorted(layout.boxes, key=lambda name: layout.boxes[name].x) == [
        "tasks *",
        "exchange in",
        "queue work",
        "queue wait",
    ]
    assert [wire.backward for _, wire in sorted(layout.wires.items())] == [True, False, False, False]


def test_dead_letters_with_the_same_reasons_share_one_label() -> None:
    """Forty queues that dead-letter alike need one label and one wire on from it."""
    queues = tuple(Node(f"queue {index}", "queue", str(index)) for index in range(40))
    dead = Node("queue dead", "queue", "dead", dead_letters=True)
    edges = tuple(Edge(queue.name, dead.name, "dead", ("failed",)) for queue in queues)
    drawn = Graph("many", (*queues, dead), edges)
    layout = lay_out(drawn, measure)
    assert len(layout.labels) == 1
    assert sum(wire.at_right for wire in layout.wires.values()) == 1
    assert all(wire.at_left for wire in layout.wires.values())
    sound(drawn, layout)


def test_a_busy_box_grows_with_its_wires() -> None:
    """The wires of a hub can be told apart at its side; the box does not grow without end."""

    def hub(count: int) -> float:
        queues = tuple(Node(f"queue {index}", "queue", str(index)) for index in range(count))
        node = Node("exchange x", "exchange", "x")
        edges = tuple(Edge(node.name, queue.name, "binding", (queue.title,)) for queue in queues)
        layout = lay_out(Graph("hub", (node, *queues), edges), measure)
        sides = sorted(wire.pieces[0].y1 for wire in layout.wires.values())
        assert sides[-1] - sides[0] <= layout.boxes[node.name].height
        if count == 12:
            assert min(lower - upper for upper, lower in pairwise(sides)) >= 5.9
        return layout.boxes[node.name].height

    assert hub(2) < hub(12) < hub(100) == hub(200)


def test_a_chain_longer_than_pythons_stack_is_drawn() -> None:
    """Eleven hundred exchanges in a row are no recursion."""
    nodes = tuple(Node(f"exchange {index}", "exchange", str(index)) for index in range(1100))
    edges = tuple(
        Edge(one.name, other.name, "unrouted") for one, other in zip(nodes, (*nodes[1:], nodes[0]), strict=True)
    )
    assert len({cell.column for cell in grid(Graph("chain", nodes, edges)).cells if cell.kind == "box"}) == 1100
