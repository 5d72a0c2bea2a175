"""`amqpq topology destroy`: delete from the broker what a project owns, with proof."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from amqpq.cli import output
from amqpq.cli.options import json_option, load_topology, topology_option
from amqpq.cli.plan import eyes, looking_options
from amqpq.errors import ConfigurationError
from amqpq.provision import destruction, journal
from amqpq.provision.destroying import Destroyer, Outcome
from amqpq.provision.destruction import Choice, Destruction, Ground
from amqpq.provision.journal import Manifest
from amqpq.provision.look import Eyes, look
from amqpq.provision.steps import Step
from amqpq.provision.wanted import wanted_there
from amqpq.topology.model import Topology
from amqpq.transport import flow, register

FORBIDDEN = "the file does not allow deletions: write `allow: {delete: true}` (in the environment that may), or leave it as it is"


@click.command()
@topology_option
@json_option
@looking_options
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this: a name, or queue.NAME, exchange.NAME. May be repeated."
)
@click.option("--with-messages", is_flag=True, help="Also the messages in the queues that --only names.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy(topology_file: Path | None, environment: str | None, as_json: bool, **given: Any) -> None:
    """Delete from the broker what this project owns. What others made stays, and no message is lost that nobody named.

    Bindings go first, then queues, then exchanges, policies, and last what amqpq itself keeps. A queue goes when it is
    empty and nobody consumes it. Whoever was cut off runs it again.

    Exit codes: 0 it is gone; 1 something stands against it, nothing was done; 3 some of it is gone; 4 the file does not
    allow it; 5 something needed cannot be read.

    \b
    Examples:
      amqpq topology destroy --dry-run
      amqpq topology destroy -e staging
      amqpq topology destroy --only old --with-messages --yes
    """
    choice = Choice(given["only"], given["with_messages"])
    if choice.with_messages and not choice.only:
        raise click.UsageError("--with-messages needs --only: name the queues whose messages may go")
    loaded = load_topology(topology_file, environment)
    dry_run = given["dry_run"]
    if not dry_run and not loaded.allow.delete:
        output.fail(FORBIDDEN, output.ExitCode.FORBIDDEN)
    if not dry_run and not given["yes"] and not _on_terminal():
        output.fail("deleting is for good: give --yes where there is no terminal to ask on")
    with eyes(loaded, given["observe"], given["timeout"]) as seeing:
        if not dry_run:
            flow.run(journal.lock(seeing.connection.channel(), loaded.project), given["timeout"])
        found, manifest = _look(loaded, seeing, choice)
        if not as_json:
            click.echo("\n".join(_lines(found, manifest, loaded)))
        outcome = None
        if not dry_run and found.steps and not found.refusals:
            if not given["yes"]:
                _confirm(loaded.project)
            destroyer = Destroyer(seeing, loaded.project, manifest, _say_nothing if as_json else _print_step)
            outcome = destroyer.run(found)
    _report(found, outcome, as_json=as_json, dry_run=dry_run)


def _look(loaded: Topology, seeing: Eyes, choice: Choice) -> tuple[Destruction, Manifest]:
    """Look at the broker and at what is ours, and decide."""
    target = wanted_there(loaded, register.where_now(seeing.connection, loaded))
    owned = journal.read(seeing.connection, loaded.project).owned
    seen = look(seeing, destruction.looked_for(target, owned))
    if seen.manifest.problem:
        text = f"what this project owns cannot be read ({seen.manifest.problem}), so nothing is deleted"
        output.fail(text, output.ExitCode.UNDECIDABLE)
    if seen.remark:
        click.echo(seen.remark, err=True)
    others = journal.others(seeing.connection, seen.observed.queues, loaded.project)
    for project, theirs in others.items():
        if theirs.problem:
            click.echo(f"what project {project} owns cannot be read: {theirs.problem}", err=True)
    ground = Ground(
        target, seen.observed, seen.manifest.owned, {project: theirs.owned for project, theirs in others.items()}
    )
    return destruction.destruction(ground, choice), seen.manifest


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _confirm(project: str) -> None:
    typed = click.prompt(f"This is for good. Type the name of the project ({project}) to go on", err=True)
    if typed != project:
        raise ConfigurationError(f"{typed!r} is not {project!r}; nothing was done")


def _lines(found: Destruction, manifest: Manifest, loaded: Topology) -> Iterator[str]:
    environment = f" env={loaded.environment}" if loaded.environment else ""
    yield f"amqpq destroy  project={loaded.project}{environment}  serial={manifest.serial}"
    for step in found.steps:
        kind, _, name = step.address.partition(" ")
        dropped = "  with its messages" if kind == "queue" and name in found.dropped else ""
        yield f"  - {kind:<10} {name}{dropped}"
    for refusal in found.refusals:
        kind, _, name = refusal.address.partition(" ")
        yield f"  ! {kind:<10} {name}  {refusal.because}"
        yield f"      -> {refusal.remedy}"
    yield from (f"    stays: {kept}" for kept in found.kept)
    yield f"Destroy: {len(found.steps)} to delete, {len(found.refusals)} in the way."


def _print_step(step: Step) -> None:
    click.echo(f"{click.style('-', fg='red')} {step.address}  deleted", err=True)


def _say_nothing(_: Step) -> None:
    return


def _report(found: Destruction, outcome: Outcome | None, *, as_json: bool, dry_run: bool) -> None:
    done = () if outcome is None else outcome.done
    error = None if outcome is None else outcome.error
    if as_json:
        output.print_json(
            {
                "steps": [{"operation": step.operation, "name": step.name} for step in found.steps],
                "refusals": found.refusals,
                "stays": found.kept,
                "dry_run": dry_run,
                "done": [{"operation": step.operation, "name": step.name} for step in done],
                "error": None if error is None else str(error),
            }
        )
    if error is not None:
        if not as_json:
            click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
            click.echo("what is deleted is gone; run it again for the rest", err=True)
        raise click.exceptions.Exit(output.ExitCode.PARTLY if done else output.ExitCode.ERROR)
    if found.refusals and not dry_run:
        if not as_json:
            click.echo("nothing was deleted", err=True)
        undecided = all(refusal.undecided for refusal in found.refusals)
        raise click.exceptions.Exit(output.ExitCode.UNDECIDABLE if undecided else output.ExitCode.ERROR)
