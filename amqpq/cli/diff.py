"""`amqpq topology diff`: what separates two topology files, or the broker and a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from amqpq.cli import output
from amqpq.cli.options import json_option, load_topology
from amqpq.cli.plan import eyes, looking_options, planned, print_plan
from amqpq.provision import plan as plans
from amqpq.provision.as_if import as_if
from amqpq.provision.wanted import wanted, wanted_there
from amqpq.topology.generations import NOTHING_MOVED
from amqpq.topology.renames import placed

LIVE = "live"
"""The word for the broker in place of a file; `./live` is a file of this name."""


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-e", "--environment", metavar="ENV", default=None, help="Merge this entry of `environments:` over the files."
)
@json_option
@looking_options
def diff(before: str, after: Path, environment: str | None, as_json: bool, observe: str, timeout: float) -> None:
    """Say what a broker that is as A says needs in order to be as B says. A is a file, or the word live for B's broker.

    Exit codes: 0 nothing, 2 something, 5 that cannot be seen.

    \b
    Examples:
      amqpq topology diff old.yaml topology.yaml             no broker is asked
      amqpq topology diff live topology.yaml -e prod         as `drift` does
    """
    topology = load_topology(after, environment)
    if before == LIVE:
        with eyes(topology, observe, timeout) as seeing:
            made = planned(topology, seeing)
    else:
        other = load_topology(Path(before), environment)
        observed, manifest = as_if(wanted(other), topology.requires.lowest)
        target = wanted_there(topology, placed(topology, NOTHING_MOVED, other.queues))
        made = plans.plan(topology, replace(target, may_delete=True), observed, manifest)
    print_plan(made, as_json=as_json, infos=True)
    if made.outcome != "clean":
        unknown = made.outcome == "unknown"
        raise click.exceptions.Exit(output.ExitCode.UNDECIDABLE if unknown else output.ExitCode.CHANGES)
