"""`amqpq topology graph`: formats, files, mistakes; and the pictures in the docs, which it makes. No broker."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from amqpq.cli.graph import depth_of
from amqpq.cli.main import main
from amqpq.graph.build import graph
from amqpq.graph.live import Depth
from amqpq.graph.svg import svg
from amqpq.management.values import queue
from amqpq.topology import library, load

ROOT = Path(__file__).resolve().parents[3]
PICTURES = ROOT / "docs" / "pictures"

TOPOLOGY = """\
amqpq: 1
project: shop
variables: {URL: {type: secret, from: "env:SHOP_URL", default: "amqp://guest:guest@localhost:5672/"}}
broker: {url: "${URL}"}
exchanges: {web: {type: topic, unrouted: lost}, lost: {type: fanout}}
queues: {high: {}, lost: {dead_letter: none}}
bindings: ["web[web.#] -> high", "lost -> lost"]
routes:
  "web.*": {exchange: web, key: "web.{task}"}
  file.scan: {exchange: web, key: "{kind}.file"}
security: {signing: off}
"""

Amqpq = Callable[..., Result]


@pytest.fixture
def amqpq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Amqpq:
    """Run `amqpq topology graph ...` in a folder with a topology file."""
    monkeypatch.chdir(tmp_path)
    for name in ("AMQPQ_TOPOLOGY", "AMQPQ_BROKER_URL", "AMQPQ_MANAGEMENT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHOP_URL", "amqp://shop:hunter2@localhost:5672/")
    Path("topology.yaml").write_text(TOPOLOGY, encoding="utf-8")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(main, ["topology", "graph", *arguments])


def test_a_pipe_gets_the_svg(amqpq: Amqpq) -> None:
    """Without a terminal and without a word about the format it is a picture, and nothing else is printed."""
    result = amqpq()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("<svg ")
    assert result.stdout == svg(graph(load("topology.yaml")))


@pytest.mark.parametrize(
    "form, begin", [("svg", "<svg "), ("mermaid", "flowchart LR\n"), ("dot", 'digraph "shop" {\n'), ("tree", "shop\n")]
)
def test_each_format_can_be_asked_for(amqpq: Amqpq, form: str, begin: str) -> None:
    """`--format` decides what is printed."""
    assert amqpq("--format", form).stdout.startswith(begin)


@pytest.mark.parametrize(
    "name, begin",
    [("a.svg", "<svg "), ("a.mmd", "flowchart"), ("a.gv", "digraph"), ("a.DOT", "digraph"), ("a.txt", "shop\n")],
)
def test_the_name_of_the_file_decides_the_format(amqpq: Amqpq, name: str, begin: str) -> None:
    """`-o` writes a file, prints nothing, and needs no `--format` for a known ending."""
    result = amqpq("-o", name)
    assert (result.exit_code, result.output) == (0, "")
    assert Path(name).read_text(encoding="utf-8").startswith(begin)


def test_an_unknown_ending_needs_a_format(amqpq: Amqpq) -> None:
    """A name that tells no format is refused with the names that do, and accepted with `--format`."""
    result = amqpq("-o", "picture")
    assert result.exit_code == 1
    assert "-o picture: say --format, or end the name with one of .svg" in result.stderr
    assert amqpq("-o", "picture", "--format", "svg").exit_code == 0


def test_a_file_that_cannot_be_written_is_an_error(amqpq: Amqpq) -> None:
    """The folder is missing: one line says so."""
    result = amqpq("-o", "nowhere/a.svg")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: -o nowhere/a.svg: No such file or directory; name a file in a folder")


def test_the_file_may_be_an_argument(amqpq: Amqpq, monkeypatch: pytest.MonkeyPatch) -> None:
    """FILE goes before $AMQPQ_TOPOLOGY; FILE and `-t` together are a mistake."""
    Path("other.yaml").write_text(TOPOLOGY.replace("project: shop", "project: other"), encoding="utf-8")
    monkeypatch.setenv("AMQPQ_TOPOLOGY", "topology.yaml")
    assert amqpq("other.yaml", "--format", "tree").stdout.startswith("other\n")
    assert amqpq("-t", "other.yaml", "--format", "tree").stdout.startswith("other\n")
    result = amqpq("other.yaml", "-t", "topology.yaml")
    assert result.exit_code == 1
    assert "name the topology once" in result.stderr


def test_one_tasks_way_is_marked(amqpq: Amqpq) -> None:
    """`--task` marks the lines of its way; the arguments of a key come by `-k`."""
    lines = amqpq("--task", "web.resize", "--format", "tree").stdout.splitlines()
    assert "* ├─ web.# ─▶ high  classic queue" in lines
    assert "  └┄ unrouted ┄▶ lost  fanout exchange" in lines
    lines = amqpq("--task", "file.scan", "-k", "kind=py", "--format", "tree").stdout.splitlines()
    assert "  ├─ web.# ─▶ high  classic queue" in lines
    assert "* └┄ unrouted ┄▶ lost  fanout exchange" in lines
    assert "  file.scan is published to exchange web, key py.file: reaches lost" in lines


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-k", "kind=py"], "-k goes with --task"),
        (["--task", "web.resize", "-k", "kind"], "-k 'kind': expected NAME=VALUE"),
        (["--task", "mail.send"], "no route matches the task 'mail.send'"),
        (["--task", "file.scan"], "needs a keyword argument 'kind'"),
        (["--json", "--format", "svg"], "--json is printed, and a format of its own"),
        (["--json", "-o", "a.svg"], "--json is printed, and a format of its own"),
        (["missing.yaml"], "no topology file at missing.yaml"),
    ],
)
def test_mistakes_are_said(amqpq: Amqpq, arguments: list[str], message: str) -> None:
    """What cannot be done is one error with exit code 1, and nothing is drawn."""
    result = amqpq(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_machines_get_nodes_and_edges(amqpq: Amqpq) -> None:
    """`--json` is the graph as data."""
    found = json.loads(amqpq("--json").stdout)
    assert found.keys() == {"title", "nodes", "edges", "notes"}
    high = next(node for node in found["nodes"] if node["name"] == "queue high")
    assert (high["kind"], high["title"], high["shape"]) == ("queue", "high", "classic")
    assert {"source": "exchange web", "target": "queue high"}.items() <= next(
        edge.items() for edge in found["edges"] if edge["labels"] == ["web.#"]
    )


@pytest.mark.parametrize("arguments", [["--format", form] for form in ("svg", "mermaid", "dot", "tree")] + [["--json"]])
def test_no_format_shows_a_secret(amqpq: Amqpq, arguments: list[str]) -> None:
    """The broker's password is in no picture."""
    assert "hunter2" not in amqpq(*arguments, "--generated").output


def test_the_statistics_of_the_http_api_are_read() -> None:
    """Depths and rates come from where the API has them; what it does not tell is not made up."""
    told = {
        "name": "q",
        "messages_ready": 7,
        "messages_unacknowledged": 2,
        "consumers": 1,
        "message_stats": {"publish_details": {"rate": 4.5}, "deliver_get_details": {"rate": 0}},
    }
    assert depth_of(queue(told)) == Depth(7, 2, 1, 4.5, 0.0)
    assert depth_of(queue({"name": "q"})) == Depth()


# ----------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("name", library.names())
def test_the_pictures_in_the_docs_are_current(name: str) -> None:
    """`make pictures` was run after the last change of a ready-made topology, or of the drawing."""
    text = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    assert text == svg(graph(load(library.find(name)))), "run `make pictures`"


def test_every_picture_is_shown() -> None:
    """The page of ready-made topologies shows each of them, and there is no picture too many."""
    page = (ROOT / "docs" / "reference" / "ready-made.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[[^\]]+\]\(\.\./pictures/([\w-]+)\.svg\)", page))
    assert shown == set(library.names()) == {path.stem for path in PICTURES.glob("*.svg")}
