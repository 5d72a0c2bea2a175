"""`amqpq topology migrate`: move a queue to a new generation while producers publish and workers consume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click

from amqpq import config
from amqpq.cli import output
from amqpq.cli.options import duration, json_option, load_topology, topology_option
from amqpq.provision import preflight
from amqpq.provision.broker_facts import ManagementFacts
from amqpq.provision.migrating import Migrator, NotYet, Patience, Undecided
from amqpq.provision.migration import Migration, Step, abort, journal, restored
from amqpq.provision.observed import fingerprint
from amqpq.provision.preflight import Findings, Wish
from amqpq.topology import Topology
from amqpq.topology.generations import Generations
from amqpq.transport import blocking, register
from amqpq.transport.link import Link

CONNECT_SECONDS = 30.0

WORDS = {
    Step.ADOPT: "put an ingress before it",
    Step.FEED: "bind its sources to the ingress",
    Step.CUT: "unbind its sources from it",
    Step.CREATE: "declare the new queue",
    Step.FOLLOW: "wait until workers consume both",
    Step.ARM: "bind the alternate exchange to the new queue",
    Step.SWITCH: "switch: unbind the ingress from the old queue",
    Step.SETTLE: "bind the ingress to the new queue",
    Step.DISARM: "unbind the alternate exchange",
    Step.DRAIN: "wait until the old queue is drained",
    Step.LEAVE: "wait until workers have left the old queue",
    Step.PROVE: "prove that the old queue is empty",
    Step.DELETE: "delete the old queue",
    Step.DONE: "write down where it lives",
    Step.UNDO: "let go of the new queue",
}

ABSENCE = """\
  the name: {queue} is deleted and declared anew. In between the broker returns what is published to it by name, or drops it where
    it is not mandatory; whoever does so has to publish again what is returned, and to pause while the queue is proven empty"""
"""What a swap asks of those who publish to a queue by its name."""
BY_FORMER_NAME = "(workers with a file in which {queue} is {former} do not follow: start them anew with this one)"


class _Migrate(click.Group):
    """A group whose first word is a subcommand or the name of a queue."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `migrate QUEUE` for `migrate start QUEUE`; a queue called like a subcommand needs the long form."""
        if args and args[0] not in self.commands and args[0] not in {"-h", "--help"}:
            args = ["start", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Migrate)
def migrate() -> None:
    """Move a queue to a new one with other properties, without losing or doubling a message.

    `migrate QUEUE` begins, and stops when the old queue is drained; `finish` deletes it. In between `abort` goes back.

    \b
    Examples:
      amqpq topology migrate orders                  make it what the file says, under load
      amqpq topology migrate orders --dry            what would be done, and why
      amqpq topology migrate status
      amqpq topology migrate finish orders           prove that the old queue is empty, and delete it
      amqpq topology migrate abort orders            go back, from any step before that
    """


def _waiting(command: Any) -> Any:
    """Add the options that say how long to wait."""
    for option in (
        click.option(
            "--quiet", type=duration, default="10s", show_default=True, metavar="DURATION",
            help="How long nothing may come to a queue before it is deleted.",
        ),
        click.option(
            "--drain-timeout", type=duration, default="1h", show_default=True, metavar="DURATION",
            help="How long to wait until the old queue is drained.",
        ),
        click.option(
            "--workers-timeout", type=duration, default="2m", show_default=True, metavar="DURATION",
            help="How long to wait for workers to follow.",
        ),
        click.option("--without-workers", is_flag=True, help="Do not wait until workers consume the new queue."),
        click.option(
            "--unproven", is_flag=True,
            help="Delete the old queue although, without the management API, nobody knows what consumers hold of it.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@migrate.command("start", short_help="Begin (`migrate QUEUE` does the same).")
@click.argument("queue")
@topology_option
@json_option
@click.option("--to", type=click.Choice(["classic", "quorum"]), help="A queue type that counts before the file's.")
@click.option(
    "--strategy", type=click.Choice(["drain", "move", "swap"]), default="drain", show_default=True,
    help="drain: workers empty the old queue. move: it has none, and amqpq moves what it holds. swap: drain, and once more, so "
    "that the queue keeps its name.",
)  # fmt: skip
@click.option("--adopt", is_flag=True, help="Take bindings along that the file does not have.")
@click.option("--trust-file", is_flag=True, help="Without the management API: there are no bindings but the file's.")
@click.option("--dry", is_flag=True, help="Only say what would be done.")
@click.option("--reviewed", metavar="CODE", help="What --dry printed; needed with `allow: {migrate: reviewed}`.")
@click.option(
    "--finish", "finishing", is_flag=True, help="Go on to the end: delete the old queue when it is proven empty."
)
@_waiting
def start(queue: str, topology_file: Path | None, environment: str | None, as_json: bool, **given: Any) -> None:
    """Begin to migrate a queue: to what the file says, or to another queue type.

    Exit codes: 0 done, or nothing to do; 1 it cannot be begun; 3 begun and not through; 4 the file does not allow it;
    5 something needed cannot be read.

    \b
    Examples:
      amqpq topology migrate orders
      amqpq topology migrate orders --to quorum --dry
      amqpq topology migrate archive --strategy move --finish      a queue that nobody consumes
      amqpq topology migrate orders --strategy swap --dry          others publish to it by its name
    """
    loaded = load_topology(topology_file, environment)
    wish = Wish(queue, given["to"], given["strategy"], given["adopt"], given["trust_file"])
    preflight.wanted(loaded, wish)
    with _at_work(loaded, given, as_json=as_json) as (migrator, ask):
        findings = ask(wish)
        if findings.migration is None:
            _print(as_json, {"queue": queue, "differences": [], "step": None}, f"queue {queue} is as it should be")
            return
        if given["dry"]:
            _print_dry(findings, as_json=as_json)
            return
        _check_released(loaded, findings, given["reviewed"])
        migrator.begin(findings.migration)
        _advance(migrator, findings.migration, loaded, as_json=as_json, through=given["finishing"])


@migrate.command()
@click.argument("queue", required=False)
@topology_option
@json_option
@_waiting
def resume(queue: str | None, topology_file: Path | None, environment: str | None, as_json: bool, **given: Any) -> None:
    """Go on with a migration that was cut off or had to wait.

    \b
    Example:
      amqpq topology migrate resume
    """
    loaded = load_topology(topology_file, environment)
    with _at_work(loaded, given, as_json=as_json) as (migrator, _):
        migration = _under_way(migrator, queue)
        past = migration.step in {Step.LEAVE, Step.PROVE, Step.DELETE, Step.DONE}
        through = past or migration.back or migration.returning
        _advance(migrator, migration, loaded, as_json=as_json, through=through)


@migrate.command()
@click.argument("queue", required=False)
@topology_option
@json_option
@_waiting
def finish(queue: str | None, topology_file: Path | None, environment: str | None, as_json: bool, **given: Any) -> None:
    """Finish a migration: let workers leave the old queue, prove that it is empty, delete it.

    \b
    Examples:
      amqpq topology migrate finish orders
      amqpq topology migrate finish orders --unproven        without the management API
    """
    loaded = load_topology(topology_file, environment)
    with _at_work(loaded, given, as_json=as_json) as (migrator, _):
        _advance(migrator, _under_way(migrator, queue), loaded, as_json=as_json, through=True)


@migrate.command("abort")
@click.argument("queue", required=False)
@topology_option
@json_option
@_waiting
def abort_(queue: str | None, topology_file: Path | None, environment: str | None, as_json: bool, **given: Any) -> None:
    """Go back: messages reach the old queue again, and the new one is drained and deleted.

    The ingress stays; it costs next to nothing, and the next migration needs it.

    \b
    Example:
      amqpq topology migrate abort orders
    """
    loaded = load_topology(topology_file, environment)
    with _at_work(loaded, given, as_json=as_json) as (migrator, _):
        _advance(migrator, abort(_under_way(migrator, queue)), loaded, as_json=as_json, through=True)


@migrate.command()
@topology_option
@json_option
def status(topology_file: Path | None, environment: str | None, as_json: bool) -> None:
    """Show which queues have moved, and the migration that is under way.

    \b
    Examples:
      amqpq topology migrate status
      amqpq topology migrate status --json | jq .queues
    """
    loaded = load_topology(topology_file, environment)
    with _linked(loaded) as link:
        found = register.where_now(link.connection(CONNECT_SECONDS), loaded)
    if as_json:
        output.print_json({"serial": found.serial, "queues": {name: _facts(found, name) for name in found.homes}})
        return
    if not found.homes:
        click.echo("no queue has ever moved")
    for name, home in found.homes.items():
        migration = None if home.journal is None else restored(home.journal)
        line = f"{name}  in {home.current}"
        if home.lead is not None:
            line += f", the queue of its former name; `amqpq topology migrate {name}` gives it one of its own"
        if migration is not None:
            way = "back" if migration.back or migration.aborting else "on its way"
            line += f"  {way}: {migration.old} -> {migration.new}, step {migration.step} ({WORDS[migration.step]})"
            if migration.returns:
                line += f", and then back to the name {name}"
        click.echo(line)


def _facts(found: Generations, name: str) -> dict[str, object]:
    home = found.homes[name]
    return {
        "current": home.current,
        "consumed": home.consumed,
        "types": home.types,
        "ingress": home.ingress,
        "former": home.former,
        "migration": home.journal,
    }


# ---------------------------------------------------------------------------------------------------------- the work


@contextmanager
def _linked(loaded: Topology) -> Iterator[Link]:
    link = Link(
        config.addresses(loaded),
        blocking.connect,
        name=f"amqpq topology migrate {loaded.project}",
        heartbeat_seconds=loaded.broker.heartbeat_seconds,
    )
    try:
        yield link
    finally:
        link.close()


@contextmanager
def _facts_of(loaded: Topology) -> Iterator[ManagementFacts | None]:
    management = config.management(loaded)
    if management is None:
        yield None
        return
    with management:
        yield ManagementFacts(management, config.addresses(loaded)[0].vhost)


@contextmanager
def _at_work(loaded: Topology, given: dict[str, Any], *, as_json: bool) -> Iterator[tuple[Migrator, Any]]:
    """Connect, take the lock, and turn the ways in which it cannot go on into exit codes."""
    patience = Patience(workers=given["workers_timeout"], drain=given["drain_timeout"], quiet=given["quiet"])

    def report(migration: Migration) -> None:
        if not as_json:
            way = "back  " if migration.back else "      " if not migration.aborting else "abort "
            click.echo(f"{way}{migration.old} -> {migration.new}  {migration.step:<7} {WORDS[migration.step]}")
            if migration.step is Step.FOLLOW and migration.renames and not migration.back:
                click.echo(f"      {BY_FORMER_NAME.format(queue=migration.queue, former=migration.former)}")

    with _linked(loaded) as link, _facts_of(loaded) as facts:
        connection = link.connection(CONNECT_SECONDS)
        migrator = Migrator(connection, loaded.project, facts, patience, report)
        migrator.followed = not given["without_workers"]
        migrator.unproven = given["unproven"]
        migrator.lock()

        def ask(wish: Wish) -> Findings:
            return preflight.examine(loaded, wish, migrator, connection, facts)

        try:
            yield migrator, ask
        except NotYet as error:
            output.fail(error, output.ExitCode.PARTLY)
        except Undecided as error:
            output.fail(error, output.ExitCode.UNDECIDABLE)


def _under_way(migrator: Migrator, queue: str | None) -> Migration:
    migration = migrator.find(queue)
    if migration is None:
        output.fail(f"no migration of {queue} is under way" if queue else "no migration is under way")
    return migration


def _advance(migrator: Migrator, migration: Migration, loaded: Topology, *, as_json: bool, through: bool) -> None:
    last = migrator.go(migration, None if through else Step.DRAIN)
    facts = {"queue": last.queue, "step": str(last.step), "old": last.old, "new": last.new, "moved": migrator.moved}
    if last.step is not Step.DONE:
        then = f"deletes it, and brings {last.queue} back under its name" if last.returns else "deletes it"
        _print(
            as_json, facts,
            f"{last.queue}: every message reaches {last.new}, and {last.old} is drained. `amqpq topology migrate finish "
            f"{last.queue}` {then}, `abort` goes back",
        )  # fmt: skip
        return
    words = f"{last.queue} lives in {last.new}"
    if migrator.moved:
        words += f"; {migrator.moved} messages were moved there"
    written = loaded.queues[last.queue].type if last.queue in loaded.queues else last.new_type
    if written != last.new_type:
        words += f"; write `type: {last.new_type}` into the file"
    _print(as_json, facts, words)


def _print(as_json: bool, facts: dict[str, object], words: str) -> None:
    if as_json:
        output.print_json(facts)
    else:
        click.echo(words)


def _check_released(loaded: Topology, findings: Findings, reviewed: str | None) -> None:
    """End the command where the file does not release this migration."""
    if loaded.allow.migrate == "never":
        output.fail(
            "the file allows no migrations: write `allow: {migrate: reviewed}`, in the environment that may",
            output.ExitCode.FORBIDDEN,
        )
    if loaded.allow.migrate == "reviewed" and reviewed != _code(findings):
        words = "what was reviewed is not what would be done now" if reviewed else "the file asks for a review"
        output.fail(
            f"{words}: look at `--dry`, and say `--reviewed` with the code that it prints", output.ExitCode.FORBIDDEN
        )


def _code(findings: Findings) -> str:
    """Return a code that is the same for the same migration."""
    migration = cast("Migration", findings.migration)
    told = journal(migration)
    told.pop("adopted_at")
    return fingerprint([told, [[each.key, each.broker, each.file] for each in findings.differences]])[:12]


def _print_dry(findings: Findings, *, as_json: bool) -> None:
    migration = cast("Migration", findings.migration)
    if as_json:
        facts = {"queue": migration.queue, "migration": migration, "differences": findings.differences}
        output.print_json({**facts, "name_absent": migration.returns, "code": _code(findings)})
        return
    click.echo(
        f"{migration.queue}: {migration.old} -> {migration.new}{f' -> {migration.queue}' if migration.returns else ''}"
    )
    for difference in findings.differences:
        click.echo(f"  {difference.key}: {difference.broker} -> {difference.file}")
    for binding in migration.bindings:
        click.echo(f"  binding of {binding.source}[{binding.key}] goes over to the ingress")
    if migration.returns:
        click.echo(ABSENCE.format(queue=migration.old))
    click.echo(f"  reviewed: --reviewed {_code(findings)}")
