"""`amqpq dlq`: the desk for dead letters."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import click

from amqpq import config
from amqpq.cli import drafting, letters, output
from amqpq.cli.options import duration, json_option, load_topology, topology_option
from amqpq.deadletters import editing
from amqpq.deadletters.choosing import Choice
from amqpq.deadletters.desk import DEFAULT_SCAN, WINDOW, Bounds, Desk, Looked, Sending, Source, Tally
from amqpq.deadletters.examining import examine
from amqpq.deadletters.flows import look_limit
from amqpq.deadletters.planning import Return
from amqpq.errors import AmqpqError, ConfigurationError, KeyProblem, LocalError, ObjectNotFound
from amqpq.message import Codec
from amqpq.topology import Topology
from amqpq.topology.partitions import physical_queues
from amqpq.topology.renames import now_named
from amqpq.transport.interface import Connection

Command = TypeVar("Command", bound=Callable[..., Any])

CONNECT_SECONDS = 30.0
FAST_WINDOW = 200
"""Messages under way at a time where no rate is asked for."""
_RATE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def rate(text: str | float) -> float:
    """Read a rate: `10/s`, `100/m`, `1/h`; a bare number is per second."""
    if isinstance(text, int | float):
        return float(text)
    number, slash, unit = text.partition("/")
    try:
        per_second = float(number) / (_RATE_UNITS[unit] if slash else 1.0)
    except (ValueError, KeyError):
        per_second = 0.0
    if not 0 < per_second < float("inf"):
        raise click.BadParameter(f"{text!r} is not a rate above zero; write 10/s, 100/m or 1/h")
    return per_second


def queue_options(command: Command) -> Command:
    """Add which topology, and which of its dead-letter queues."""
    queue = click.option(
        "--queue", default=None, help="Look in this queue only. [default: every dead letter of the file]"
    )
    return topology_option(queue(command))


def choice_options(command: Command) -> Command:
    """Add the filters; all that are given must hold."""
    text = click.option("--text", default="", help="In reason, traceback, headers or body; in any case.")
    return other_choice_options(text(command))


def other_choice_options(command: Command) -> Command:
    """Add the filters but for the text, which is an argument of `search`."""
    decorators = (
        click.option("--task", "tasks", metavar="GLOB", multiple=True, help="Task name or pattern, as 'web.*'; repeatable."),
        click.option("--cause", "causes", multiple=True, help="failed, expired, crashed, ...; repeatable."),
        click.option("--queue-of-origin", "origins", metavar="QUEUE", multiple=True, help="Where it came from; repeatable."),
        click.option("--older-than", type=duration, metavar="DURATION", default=None, help="Failed before that: 90s, 1h, 2d."),
        click.option("--newer-than", type=duration, metavar="DURATION", default=None, help="Failed since then."),
        click.option("--scan", type=click.IntRange(1), default=DEFAULT_SCAN, show_default=True,
                     help="Messages of a queue looked at, at most; as many are held meanwhile."),
    )  # fmt: skip
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def _choice(values: Mapping[str, Any], ids: Sequence[str] = ()) -> Choice:
    return Choice(
        ids=frozenset(ids),
        tasks=tuple(values["tasks"]),
        causes=frozenset(values["causes"]),
        origins=frozenset(values["origins"]),
        older_than=values["older_than"],
        newer_than=values["newer_than"],
        text=values["text"],
    )


@click.group()
def dlq() -> None:
    """Read dead letters, send them back, or drop them.

    Looking takes messages without acknowledging them and puts them back in their places: nobody else sees them meanwhile,
    and whoever consumes the queue at the same time may change their order. A quorum queue counts each look as a delivery.

    \b
    Examples:
      amqpq dlq list --cause failed --older-than 1h
      amqpq dlq search 'connection refused'
      amqpq dlq show ID
      amqpq dlq requeue --task 'web.*' --rate 10/s
      amqpq dlq drop --cause expired
    """


@dlq.command(name="list")
@queue_options
@choice_options
@click.option("--id", "ids", multiple=True, help="Task id; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Rows per queue.")
@json_option
def list_letters(queue: str | None, ids: tuple[str, ...], limit: int, as_json: bool, **values: Any) -> None:
    """List dead letters: id, task, cause, age, the queue they came from, attempts, reason.

    \b
    Examples:
      amqpq dlq list
      amqpq dlq list --task 'shop.*' --cause failed --newer-than 1h
      amqpq dlq list --queue parked --json
    """
    _list(queue, _choice(values, ids), Bounds(limit, values["scan"]), as_json=as_json, values=values)


@dlq.command()
@click.argument("text")
@queue_options
@other_choice_options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Rows per queue.")
@json_option
def search(queue: str | None, limit: int, as_json: bool, **values: Any) -> None:
    """List the dead letters that hold TEXT in their reason, traceback, headers or body, in any case.

    \b
    Examples:
      amqpq dlq search ValueError
      amqpq dlq search 'customer-4711' --task 'shop.*'
    """
    _list(queue, _choice(values), Bounds(limit, values["scan"]), as_json=as_json, values=values)


@dlq.command()
@click.argument("task_id", metavar="ID")
@queue_options
@click.option("--scan", type=click.IntRange(1), default=DEFAULT_SCAN, show_default=True, help="Messages looked at.")
@json_option
def show(task_id: str, queue: str | None, scan: int, as_json: bool, **values: Any) -> None:
    """Show a dead letter: headers, signature, arguments, traceback. Nothing of it is run.

    The arguments are read only where a worker would believe the message.

    \b
    Examples:
      amqpq dlq show 1f0c2a7e-5d3b-4c0f-9a44-0a2b6e1c7d55
      amqpq dlq show ID --json
    """
    with _opened(values, queue) as room:
        choice = Choice(ids=frozenset({task_id}))
        looked = [room.desk.look(source, choice, Bounds(10, scan)) for source in room.present()]
    found = [letter for each in looked for letter in each.letters]
    if not found:
        seen = sum(each.seen for each in looked)
        output.fail(f"there is no dead letter with id {task_id!r} among the {seen} that were looked at")
    codec, problem = _codec(room.topology)
    examined = [(letter, examine(letter, codec, problem)) for letter in found]
    if as_json:
        output.print_json([letters.full_json(letter, inside) for letter, inside in examined])
        return
    for letter, inside in examined:
        letters.print_letter(letter, inside)


@dlq.command()
@click.argument("task_id", metavar="ID")
@queue_options
@click.option(
    "--args", "args_json", metavar="JSON", default=None, help="The positional arguments, as a list; no editor."
)
@click.option(
    "--kwargs", "kwargs_json", metavar="JSON", default=None, help="The named arguments, as an object; no editor."
)
@click.option(
    "--set", "sets", metavar="NAME=VALUE", multiple=True, help="One named argument, JSON or text; repeatable."
)
@click.option("--to", metavar="QUEUE", default=None, help="Send it to this queue instead of where it came from.")
@click.option("--scan", type=click.IntRange(1), default=DEFAULT_SCAN, show_default=True, help="Messages looked at.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show what would be changed, and change nothing.")
@json_option
def edit(task_id: str, queue: str | None, yes: bool, dry_run: bool, as_json: bool, **values: Any) -> None:
    """Edit a dead letter in $EDITOR, and send it back as a new attempt of the same task, signed with this host's key.

    Its arguments, its expiry and its queue can be changed. Only a message that a worker would believe can be edited, with a key
    that may sign its task. It is acknowledged when its copy is safe, as with requeue.

    \b
    Examples:
      amqpq dlq edit ID
      amqpq dlq edit ID --set customer=4711 --yes
      amqpq dlq edit ID --args '[1, 2]' --dry-run
    """
    if not yes and not dry_run and not sys.stdin.isatty():
        output.fail("give --yes where there is no terminal to ask on")
    with _opened(values, queue) as room:
        choice = Choice(ids=frozenset({task_id}))
        looked = [(source, room.desk.look(source, choice, Bounds(2, values["scan"]))) for source in room.present()]
        found = [(source, letter) for source, each in looked for letter in each.letters]
        if len(found) != 1:
            output.fail(
                f"there are {len(found)} dead letters with id {task_id!r}; --queue and --scan say where to look"
            )
        ((source, letter),) = found
        codec = config.codec(room.topology)
        try:
            envelope, before = editing.open_letter(letter, codec)
            after = drafting.changed(letter, before, values)
            changes = editing.difference(before, after)
            publication = editing.edited(letter, envelope, after, codec, socket.gethostname())
        except LocalError as error:
            output.fail(error)
        if not as_json:
            click.echo(letters.plain(changes) or "nothing is changed")
        if not changes or dry_run:
            sent = 0
        else:
            if not yes:
                click.confirm(f"Send it to {after.queue!r}?", abort=True, err=True)
            tally = Tally()
            room.desk.send_back(source, choice, Sending(editing.Edit(letter, publication)), tally)
            sent = tally.sent_count
            if not sent:
                output.fail("; ".join(tally.stayed) or "it is not there any more: somebody else took it meanwhile")
    if as_json:
        output.print_json({"id": letter.id, "queue": after.queue, "changes": changes, "sent": sent})
    elif sent:
        click.echo(letters.plain(f"sent 1 edited dead letter to {after.queue}", one_line=True))


@dlq.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@queue_options
@choice_options
@click.option("--all", "everything", is_flag=True, help="Every dead letter; without it, ids or filters are needed.")
@click.option("--to", metavar="QUEUE", default=None, help="Send all to this queue instead of where each came from.")
@click.option("--expired", is_flag=True, help="Also those whose expiry has passed; a worker would park them again.")
@click.option("--rate", "per_second", type=rate, metavar="N/s", default=None, help="So many at most: 10/s, 100/m.")
@click.option("--limit", type=click.IntRange(1), default=None, help="Send back so many at most, per queue.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@json_option
def requeue(
    ids: tuple[str, ...], queue: str | None, everything: bool, dry_run: bool, as_json: bool, **values: Any
) -> None:
    """Send dead letters back to the queues they came from, as their sender wrote and signed them.

    Ended at any moment, by kill -9 too, nothing is lost and nothing is doubled: the next run finishes what was under way, and
    goes on with the rest. One run at a time. Ends with exit code 3 where some of what was meant had to stay.

    \b
    Examples:
      amqpq dlq requeue ID
      amqpq dlq requeue --task 'web.*' --cause failed --rate 10/s
      amqpq dlq requeue --all --dry-run
      amqpq dlq requeue --queue-of-origin old --to new
    """
    choice = _meant(_choice(values, ids), everything=everything)
    tally = Tally()
    stop = threading.Event()
    with _opened(values, queue, stop) as room:
        plan = Return(_targets(room.topology), values["to"], values["expired"], now_named(room.topology))
        bounds = Bounds(values["limit"], values["scan"])
        with ExitStack() as stack:
            stack.enter_context(_stopping(stop))
            sources = room.present()
            progress = None if dry_run else _progress(stack, room, sources, bounds)
            window = WINDOW if values["per_second"] is not None else FAST_WINDOW
            sending = Sending(plan, bounds, values["per_second"], dry_run, window, on_progress=progress)
            try:
                for source in sources:
                    room.desk.send_back(source, choice, sending, tally)
            except AmqpqError as error:
                output.fail(f"{error}; {tally.sent_count} were sent back before")
    _print_tally(tally, choice, dry_run=dry_run, as_json=as_json, interrupted=stop.is_set())


@dlq.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@queue_options
@choice_options
@click.option("--all", "everything", is_flag=True, help="Every dead letter; without it, ids or filters are needed.")
@click.option("--limit", type=click.IntRange(1), default=None, help="Drop so many at most, per queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say how many would be dropped.")
@json_option
def drop(
    ids: tuple[str, ...], queue: str | None, everything: bool, limit: int | None, yes: bool, dry_run: bool, as_json: bool,
    **values: Any,
) -> None:  # fmt: skip
    """Drop dead letters for good; asks before, on a terminal, and elsewhere wants --yes.

    Exactly those are dropped that were counted in the question.

    \b
    Examples:
      amqpq dlq drop --cause expired --older-than 7d
      amqpq dlq drop ID --yes
    """
    choice = _meant(_choice(values, ids), everything=everything)
    if not yes and not dry_run and not sys.stdin.isatty():
        output.fail("dropping is for good: give --yes where there is no terminal to ask on")
    with _opened(values, queue) as room, ExitStack() as stack:
        bounds = Bounds(limit, values["scan"])
        held = [
            stack.enter_context(room.desk.holding(source, choice, bounds, for_good=not dry_run))
            for source in room.present()
        ]
        count = sum(len(looked.letters) for looked, _ in held)
        if not dry_run and count:
            if not yes:
                click.confirm(f"Drop {letters.many(count)} for good?", abort=True, err=True)
            for looked, drop_one in held:
                for letter in looked.letters:
                    drop_one(letter)
    _say_incomplete([looked for looked, _ in held])
    if as_json:
        output.print_json({"dropped": 0 if dry_run else count, "meant": count})
    else:
        click.echo(f"would drop {letters.many(count)}" if dry_run else f"dropped {letters.many(count)}")


# ---------------------------------------------------------------------------------------------------------- the broker


@dataclass(frozen=True, slots=True)
class _Room:
    """What a command works with."""

    topology: Topology
    connection: Connection
    desk: Desk
    queue: str | None

    def present(self) -> list[Source]:
        """Return the dead-letter queues that exist; a missing one is said, and an error where it was named."""
        names = [self.queue] if self.queue is not None else _dead_letter_queues(self.topology)
        found: list[Source] = []
        for name in names:
            source = Source(name, self._look_limit(name))
            try:
                self.desk.count(source)
            except ObjectNotFound:
                if self.queue is not None:
                    raise
                click.echo(f"queue {name!r} is not on the broker; `amqpq topology apply` creates it", err=True)
            else:
                found.append(source)
        return found

    def _look_limit(self, name: str) -> int | None:
        known = self.topology.queue(name)
        quorum = known is None or known.type == "quorum"
        limit = None if known is None else known.delivery_limit
        return look_limit(limit, quorum=quorum, version=self.connection.server.version_tuple)


@contextmanager
def _opened(values: Mapping[str, Any], queue: str | None, stop: threading.Event | None = None) -> Iterator[_Room]:
    topology = load_topology(values["topology_file"], values["environment"])
    if queue is None and not _dead_letter_queues(topology):
        raise ConfigurationError("no queue of the file has a dead letter; --queue NAME names a queue to look in")
    link = config.link(topology, name="amqpq dlq")
    try:
        connection = link.connection(CONNECT_SECONDS)
        yield _Room(topology, connection, Desk(connection, project=topology.project, stop=stop), queue)
    finally:
        link.close(5.0)


def _dead_letter_queues(topology: Topology) -> list[str]:
    return sorted({target for name in topology.queues if (target := topology.dead_letter_of(name)) is not None})


def _targets(topology: Topology) -> frozenset[str]:
    return frozenset(queue.name for queue in physical_queues(topology)) - topology.dead_letter_queues()


def _codec(topology: Topology) -> tuple[Codec | None, str]:
    try:
        return config.codec(topology), ""
    except KeyProblem as error:
        return None, str(error)


def _meant(choice: Choice, *, everything: bool) -> Choice:
    if choice.everything and not everything:
        raise click.UsageError("name what is meant: ids, filters as --task and --cause, or --all")
    if everything and not choice.everything:
        raise click.UsageError("--all means every dead letter; leave it out, or the ids and filters")
    return choice


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end it between two steps, so that nothing is left in between; the second time at once."""
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, handler)

    def stopped(_: int, __: FrameType | None) -> None:
        stop.set()
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, stopped)
    try:
        yield
    finally:
        restore()


def _progress(
    stack: ExitStack, room: _Room, sources: Sequence[Source], bounds: Bounds
) -> Callable[[Tally], object] | None:
    """Return what moves a progress bar on the terminal; None where there is no terminal."""
    if not sys.stderr.isatty():
        return None
    counts = [room.desk.count(source) for source in sources]
    length = sum(count if bounds.scan is None else min(count, bounds.scan) for count in counts)
    bar = stack.enter_context(click.progressbar(length=length, label="sending back", file=sys.stderr))
    return lambda tally: bar.update(tally.seen - bar.pos)


def _list(queue: str | None, choice: Choice, bounds: Bounds, *, as_json: bool, values: Mapping[str, Any]) -> None:
    with _opened(values, queue) as room:
        looked = [room.desk.look(source, choice, bounds) for source in room.present()]
    found = [letter for each in looked for letter in each.letters]
    now = time.time()
    if as_json:
        output.print_json([letters.row_json(letter, now) for letter in found])
    elif found:
        letters.print_rows(found, now)
    _say_incomplete(looked)
    if not found and not as_json:
        click.echo(f"no dead letters among the {sum(each.seen for each in looked)} looked at", err=True)


def _print_tally(tally: Tally, choice: Choice, *, dry_run: bool, as_json: bool, interrupted: bool) -> None:
    missing = sorted(choice.ids - tally.ids)
    if as_json:
        output.print_json(
            {
                "sent": tally.sent,
                "stayed": tally.stayed,
                "finished": tally.finished,
                "missing": missing,
                "dry_run": dry_run,
                "interrupted": interrupted,
            }
        )
    else:
        where = ", ".join(f"{count} to {queue}" for queue, count in sorted(tally.sent.items()))
        what = "would send back" if dry_run else "sent back"
        click.echo(
            letters.plain(f"{what} {letters.many(tally.sent_count)}" + (f": {where}" if where else ""), one_line=True)
        )
        if tally.finished:
            click.echo(f"finished {letters.many(tally.finished)} of a run that was cut off", err=True)
        for why, count in sorted(tally.stayed.items()):
            click.echo(letters.plain(f"{letters.many(count)} stayed: {why}", one_line=True), err=True)
        for task_id in missing:
            click.echo(f"no dead letter with id {task_id} was found", err=True)
    if tally.seen < tally.ready and not interrupted:
        click.echo(f"looked at {tally.seen} of {tally.ready} messages; --scan and --limit set how many", err=True)
    if interrupted:
        output.fail("interrupted; the rest are still dead letters, and the same command goes on with them")
    if tally.stayed:
        raise click.exceptions.Exit(output.ExitCode.PARTLY)
    if missing:
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def _say_incomplete(looked: Sequence[Looked]) -> None:
    for each in looked:
        if not each.complete:
            click.echo(f"looked at {each.seen} of {each.ready} messages; --scan and --limit set how many", err=True)
