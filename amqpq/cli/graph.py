"""`amqpq topology graph`: the topology as a picture."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from amqpq import config
from amqpq.cli import output
from amqpq.cli.addressing import pairs
from amqpq.cli.options import duration, json_option, load_topology, topology_option
from amqpq.errors import ConfigurationError, ObjectNotFound
from amqpq.graph import build, dot, live, mermaid, path, svg, tree
from amqpq.graph.live import Depth
from amqpq.graph.model import Graph
from amqpq.management import Management, QueueInfo
from amqpq.topology import Topology
from amqpq.transport import blocking, flow
from amqpq.transport.interface import Channel, Flow
from amqpq.transport.link import Link
from amqpq.types import QueueSpec, QueueState

FORMATS: Final = {"svg": svg.svg, "mermaid": mermaid.mermaid, "dot": dot.dot, "tree": tree.text}

SUFFIXES: Final = {
    ".svg": "svg",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".txt": "tree",
}

_TONES: Final[Mapping[tree.Tone, Mapping[str, Any]]] = {
    "plain": {},
    "faint": {"dim": True},
    "name": {"bold": True},
    "tasks": {"fg": "magenta"},
    "exchange": {"fg": "blue", "bold": True},
    "queue": {"fg": "green", "bold": True},
    "dead": {"fg": "red"},
    "delays": {"fg": "yellow"},
    "unknown": {"fg": "red", "bold": True},
    "live": {"fg": "cyan"},
}


@click.command()
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(dir_okay=False, path_type=Path))
@topology_option
@json_option
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    help="What to draw. [default: by the name after -o; tree on a terminal, else svg]",
)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it to this file.",
)
@click.option("--task", metavar="NAME", help="Light the way of this task, and dim the rest.")
@click.option(
    "-k", "--kwarg", "kwargs", multiple=True, metavar="NAME=VALUE", help="Keyword argument for the route's key."
)
@click.option("--generated", is_flag=True, help="Unfold the delay ladder, and show permit queues.")
@click.option("--live", "alive", is_flag=True, help="Ask the broker for depths, consumers and rates of the queues.")
@click.option(
    "--timeout", type=duration, default="30s", show_default=True, metavar="DURATION", help="For the answers to --live."
)
def graph(
    file: Path | None,
    topology_file: Path | None,
    environment: str | None,
    as_json: bool,
    **drawing: Any,
) -> None:
    """Draw the topology: as a tree, an SVG, Mermaid or Graphviz text.

    \b
    Examples:
      amqpq topology graph                                     a tree, on a terminal
      amqpq topology graph -o topology.svg                     a picture; needs nothing else
      amqpq topology graph --task web.resize -o resize.svg     with the way of one task
      amqpq topology graph --live                              with depths, and rates where the HTTP API tells them
      amqpq topology graph --format mermaid                    for a page on GitHub
    """  # fmt: skip
    form: str | None = drawing["form"]
    target: Path | None = drawing["target"]
    if file is not None and _given("topology_file"):
        raise click.UsageError("name the topology once: as FILE, or with -t")
    if as_json and (form is not None or target is not None):
        raise click.UsageError("--json is printed, and a format of its own: leave --format and -o out")
    if drawing["kwargs"] and drawing["task"] is None:
        raise click.UsageError("-k goes with --task")
    form = form or _form(target)
    loaded = load_topology(file or topology_file, environment)
    drawn = build.graph(loaded, generated=drawing["generated"])
    if drawing["task"] is not None:
        drawn = path.lit(drawn, loaded, path.message(loaded, drawing["task"], pairs(drawing["kwargs"], "-k")))
    if drawing["alive"]:
        drawn = _observed(drawn, loaded, drawing["timeout"])
    if as_json:
        output.print_json(_facts(drawn))
    elif target is not None:
        _write(target, FORMATS[form](drawn))
    elif form == "tree":
        _print_tree(drawn)
    else:
        click.echo(FORMATS[form](drawn), nl=False)


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        remedy = "name a file in a folder that is there and can be written"
        raise ConfigurationError(f"-o {target}: {error.strerror}; {remedy}") from error


def _given(parameter: str) -> bool:
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.COMMANDLINE


def _form(target: Path | None) -> str:
    """Return the format that nobody chose."""
    if target is None:
        return "tree" if sys.stdout.isatty() else "svg"
    if target.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise click.UsageError(f"-o {target}: say --format, or end the name with one of {known}")
    return SUFFIXES[target.suffix.lower()]


def _facts(drawn: Graph) -> dict[str, object]:
    return {field.name: getattr(drawn, field.name) for field in dataclasses.fields(drawn) if field.init}


def _print_tree(drawn: Graph) -> None:
    """Print the tree in colours; the way that was asked for is marked, too, for terminals without any."""
    asked = any(node.light == "lit" for node in drawn.nodes)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for line in tree.tree(drawn):
        mark = tree.mark(line) if asked else ""
        click.echo((mark + "".join(_styled(span, encoding) for span in line)).rstrip())


def _styled(span: tree.Span, encoding: str) -> str:
    looks = {"plain": _TONES[span.tone], "dim": {"dim": True}, "lit": {**_TONES[span.tone], "bold": True, "dim": None}}
    return click.style(_shown(span.text, encoding), **looks[span.light])


def _shown(text: str, encoding: str) -> str:
    """Return a text as the terminal can show it."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return tree.as_ascii(text)
    return text


# --------------------------------------------------------------------------------------------------------------- live


def _observed(drawn: Graph, loaded: Topology, timeout: float) -> Graph:
    """Return the graph with what the broker says: over the HTTP API where the file names one, else over AMQP."""
    names = live.queues_of(drawn)
    client = config.management(loaded, timeout_seconds=timeout)
    if client is None:
        note = "Depths over AMQP; `broker.management` in the file, or $AMQPQ_MANAGEMENT_URL, adds rates"
        return live.annotated(drawn, _over_amqp(loaded, names, timeout), note)
    with client:
        return live.annotated(drawn, _over_http(client, loaded, names), "Depths and rates over the HTTP API")


def _over_http(client: Management, loaded: Topology, names: Iterable[str]) -> dict[str, Depth | None]:
    vhost = config.addresses(loaded)[0].vhost
    found: dict[str, Depth | None] = {}
    for name in names:
        try:
            found[name] = depth_of(client.queue(vhost, name))
        except ObjectNotFound:
            found[name] = None
    return found


def depth_of(queue: QueueInfo) -> Depth:
    """Return how a queue is, from the broker's statistics."""
    statistics = queue.raw.get("message_stats") or {}
    rates = [(statistics.get(f"{name}_details") or {}).get("rate") for name in ("publish", "deliver_get")]
    published, delivered = (float(rate) if isinstance(rate, int | float) else None for rate in rates)
    return Depth(queue.ready, queue.unacknowledged, queue.consumers, published, delivered)


def _over_amqp(loaded: Topology, names: Iterable[str], timeout: float) -> dict[str, Depth | None]:
    link = Link(
        config.addresses(loaded),
        blocking.connect,
        name=f"amqpq topology graph {loaded.project}",
        heartbeat_seconds=loaded.broker.heartbeat_seconds,
    )
    found: dict[str, Depth | None] = {}
    try:
        connection = link.connection(timeout)
        channel = connection.channel()
        for name in names:
            try:
                state = flow.run(_state(channel, name), timeout)
            except ObjectNotFound:
                found[name] = None
                channel = connection.channel()  # the broker closes the one on which it found nothing
            else:
                found[name] = Depth(ready=state.messages, consumers=state.consumers)
    finally:
        link.close()
    return found


def _state(channel: Channel, name: str) -> Flow[QueueState]:
    state: QueueState = yield channel.declare_queue(QueueSpec(name), passive=True)
    return state
