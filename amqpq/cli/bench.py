"""`amqpq bench`: what this broker, the way to it and this machine can do, and what limits it."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from amqpq import config
from amqpq.cli import output
from amqpq.cli.options import (
    DEFAULT_TOPOLOGY,
    app_option,
    duration,
    json_option,
    load_app,
    load_topology,
    topology_option,
)
from amqpq.log import TRANSPORT
from amqpq.measuring import surroundings
from amqpq.measuring.bench import CONNECT_SECONDS, MEASURES, Bench, Plan
from amqpq.measuring.figures import Figures, Latency, Rate
from amqpq.measuring.surroundings import Surroundings
from amqpq.measuring.verdict import Finding, Setting, judge
from amqpq.topology import Topology, load
from amqpq.transport import url
from amqpq.transport.link import Link
from amqpq.types import ServerInfo

NAME: Final = "amqpq bench"
BROKER_VARIABLE: Final = "AMQPQ_BROKER_URL"
MOST_SECONDS: Final = 600.0
MOST_PAYLOAD_BYTES: Final = 16 * 2**20
"""RabbitMQ 4 takes no more by default, nor does `messages.max_size`."""
_MANAGEMENT_SECONDS: Final = 5.0
_LINE: Final = 100
_HEADINGS: Final = ("MEASURE", "PER SECOND", "P50", "P99", "CPU EACH", "BUSY")


@dataclass(frozen=True, slots=True)
class Report:
    """What the command says; its fields are the keys of `--json`."""

    broker: Mapping[str, Any]
    plan: Plan
    setting: Setting
    figures: Figures
    remarks: tuple[str, ...]
    verdict: tuple[Finding, ...]


def _seconds(_: click.Context, __: click.Parameter, text: str) -> float:
    found = duration(text)
    if not 0 < found <= MOST_SECONDS:
        raise click.BadParameter(f"must be above 0 and at most {MOST_SECONDS:g} seconds")
    return found


def _measures(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Read names separated by commas."""
    if text is None:
        return MEASURES
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in MEASURES:
            close = difflib.get_close_matches(name, MEASURES, n=1)
            meant = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(MEASURES)}"
            raise click.BadParameter(f"there is no measure {name!r}; {meant}")
    return tuple(name for name in MEASURES if name in wanted)


@click.command()
@click.option("--broker", "broker_url", metavar="URL", default=None, help="The broker, without a topology.")
@app_option(required=False)
@topology_option
@click.option(
    "--seconds",
    metavar="DURATION",
    default="10",
    show_default=True,
    callback=_seconds,
    help="For all measures together.",
)
@click.option(
    "--payload",
    metavar="BYTES",
    type=click.IntRange(0, MOST_PAYLOAD_BYTES),
    default=200,
    show_default=True,
    help="Size of a message's body.",
)
@click.option(
    "--prefetch",
    type=click.IntRange(1, 65535),
    default=100,
    show_default=True,
    help="Deliveries that a consumer holds.",
)
@click.option(
    "--only",
    metavar="MEASURE[,MEASURE...]",
    default=None,
    callback=_measures,
    help=f"Of {', '.join(MEASURES)}.  [default: all]",
)
@json_option
def bench(  # noqa: PLR0913, PLR0917 - one parameter per option is click's way
    broker_url: str | None,
    app_reference: str | None,
    topology_file: Path | None,
    environment: str | None,
    seconds: float,
    payload: int,
    prefetch: int,
    only: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Measure the broker from here, and say what limits it.

    Publishing with confirms (in batches, and one at a time), the round trip of a call, publishing and consuming at once, reply
    queues and direct replies, and what signatures cost. Messages are persistent, consumers acknowledge late, on a classic and on
    a quorum queue.

    It works in queues of its own, named amqpq.bench.*, which are deleted at the end; nothing else is touched. But it is load:
    what shares the broker is slower meanwhile.

    \b
    Examples:
      amqpq bench                                           the broker of ./topology.yaml or $AMQPQ_BROKER_URL
      amqpq bench --broker amqp://user:secret@mq.example/   any broker
      amqpq bench --only publish,throughput --payload 65536 --seconds 30
      amqpq bench --json | jq .figures.throughput.quorum.per_second
    """
    topology, known = _topology(broker_url, app_reference, topology_file, environment)
    plan = Plan(seconds, payload, prefetch, only)
    addresses = config.addresses(topology)
    with (
        _closing(config.link(topology, name=NAME)) as publishing,
        _closing(config.link(topology, name=NAME)) as consuming,
    ):
        server = _server(publishing)
        seen = surroundings.look(addresses, config.management(topology, timeout_seconds=_MANAGEMENT_SECONDS))
        with _progress(shown=sys.stderr.isatty()) as say:
            measure = Bench(publishing, consuming, plan, on_progress=say)
            with _quiet():
                figures = measure.run()
    setting = _setting(plan, server, seen, topology if known else None)
    report = Report(
        broker=_facts(server, addresses),
        plan=plan,
        setting=setting,
        figures=figures,
        remarks=(*surroundings.remarks(seen), *measure.remarks),
        verdict=judge(figures, setting),
    )
    if as_json:
        output.print_json(report)
    else:
        _print(report)


# --------------------------------------------------------------------------------------------------------- which broker


def _topology(
    broker_url: str | None, app_reference: str | None, topology_file: Path | None, environment: str | None
) -> tuple[Topology, bool]:
    """Return the topology that says where the broker is, and whether it is one of the user's, whose settings count."""
    if sum(given is not None for given in (broker_url, app_reference, topology_file)) > 1:
        raise click.UsageError("say where the broker is by one of --broker, --app and --topology")
    if broker_url is not None:
        if environment is not None:
            raise click.UsageError("-e goes with a topology, and --broker does without")
        for each in broker_url.split():
            url.parse(each)  # its words are about a URL, not about a file that there is not
        return _bare({BROKER_VARIABLE: broker_url}), False
    if app_reference is not None:
        if environment is not None:
            raise click.UsageError("-e goes with -t; an application has chosen its environment itself")
        return load_app(app_reference).topology, True
    if topology_file is None and environment is None and not Path(DEFAULT_TOPOLOGY).is_file():
        from_environment = os.environ.get(BROKER_VARIABLE)
        if not from_environment:
            message = f"no broker to measure: give --broker URL, -t FILE or -A MODULE, or set ${BROKER_VARIABLE}"
            raise click.UsageError(message)
        for each in from_environment.split():
            url.parse(each)
        return _bare(os.environ), False
    return load_topology(topology_file, environment), True


def _bare(environ: Mapping[str, str]) -> Topology:
    """Return a topology that says where the broker is and nothing else: by the variable, since it may hold a password."""
    return load({"amqpq": 1, "project": "bench", "security": {"signing": "off"}}, environ=environ)


@contextmanager
def _closing(link: Link) -> Iterator[Link]:
    try:
        yield link
    finally:
        link.close()


def _server(link: Link) -> ServerInfo:
    return link.connection(CONNECT_SECONDS).server


def _setting(plan: Plan, server: ServerInfo, seen: Surroundings, topology: Topology | None) -> Setting:
    signing = topology.security.signing if topology is not None else None
    return Setting(
        payload_bytes=plan.payload_bytes,
        prefetch=plan.prefetch,
        frame_max=server.frame_max,
        local=seen.local,
        machine_busy=seen.busy,
        signing=None if signing is None else signing.algorithm,
        reply_mode=None if topology is None else topology.replies.mode,
    )


def _facts(server: ServerInfo, addresses: tuple[url.Address, ...]) -> Mapping[str, Any]:
    return {
        "addresses": [str(address) for address in addresses],
        "product": server.product,
        "version": server.version,
        "cluster_name": server.cluster_name,
        "frame_max": server.frame_max,
    }


# -------------------------------------------------------------------------------------------------------------- telling


@contextmanager
def _progress(*, shown: bool) -> Iterator[Any]:
    """Say on one line of a terminal what is measured now; nothing elsewhere."""

    def say(what: str) -> None:
        if shown:
            click.echo(f"\r\x1b[Kmeasuring: {what}", nl=False, err=True)

    try:
        yield say
    finally:
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the transport logs off the terminal: what ends the command is said by its error."""
    logger = logging.getLogger(TRANSPORT)
    silent = logging.NullHandler()
    logger.addHandler(silent)
    try:
        yield
    finally:
        logger.removeHandler(silent)


def _print(report: Report) -> None:
    broker, plan = report.broker, report.plan
    where = ", ".join(broker["addresses"])
    click.echo(f"{broker['product']} {broker['version']} at {where}; {plan.payload_bytes} bytes a message\n")
    table = [_HEADINGS, *_rows(report.figures)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADINGS))]
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        click.echo("  ".join(cells).rstrip())
    click.echo("\nCPU EACH and BUSY are this process's: microseconds a message, and the share of one core.")
    for remark in report.remarks:
        click.echo(_wrapped("note: ", remark))
    if report.verdict:
        click.echo("\nWhat limits:")
    for number, finding in enumerate(report.verdict, 1):
        click.echo(_wrapped(f"{number}. ", str(finding)))


def _wrapped(head: str, text: str) -> str:
    return click.wrap_text(text, width=_LINE, initial_indent=head, subsequent_indent=" " * len(head))


def _rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    yield _latency("network, there and back", figures.network)
    for kind, publishing in figures.publish.items():
        yield _rate(f"publish, in batches, {kind} queue", publishing.batch)
        yield _latency(f"publish, one at a time, {kind} queue", publishing.single)
    for kind, rate in figures.throughput.items():
        yield _rate(f"publish and consume, {kind} queue", rate)
    if figures.round_trip is not None:
        yield _latency("call and direct reply, one at a time", figures.round_trip)
    if figures.replies is not None:
        yield _rate("calls with direct replies", figures.replies.direct)
        yield _rate("reply queues: declare to delete", figures.replies.queue_per_task)
    for algorithm, cost in figures.signing.items():
        what = "write and read, unsigned" if algorithm == "off" else f"the same, signed with {algorithm}"
        yield (what, "", "", "", f"{cost.encode_us:.1f} + {cost.decode_us:.1f} us", "")


def _rate(what: str, rate: Rate) -> tuple[str, ...]:
    return (what, f"{rate.per_second:,.0f}", "", "", f"{rate.cpu_us:.1f} us", f"{rate.busy:.0%}")


def _latency(what: str, latency: Latency) -> tuple[str, ...]:
    return (what, "", f"{latency.p50_ms:.2f} ms", f"{latency.p99_ms:.2f} ms", "", "")
