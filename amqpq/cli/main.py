"""The `amqpq` command: a table of commands, each loaded when it is used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import click
from click.shell_completion import get_completion_class

from amqpq.cli import output
from amqpq.errors import AmqpqError
from amqpq.version import NOT_INSTALLED, installed


class Entry(NamedTuple):
    """Where a command lives, and the line that `amqpq --help` shows without loading it."""

    reference: str
    summary: str


COMMANDS: Mapping[str, Entry] = {
    "topology": Entry("amqpq.cli.topology:topology", "Lint, show, route, check and apply the topology file."),
    "worker": Entry("amqpq.cli.worker:worker", "Run the tasks of an application."),
    "multi": Entry("amqpq.cli.multi:multi", "Run several workers on one host, in the background."),
    "health": Entry("amqpq.cli.health:health", "Ask a worker how it is."),
    "call": Entry("amqpq.cli.call:call", "Send a task, wait, and print its result."),
    "send": Entry("amqpq.cli.call:send", "Send a task and print its id."),
    "result": Entry("amqpq.cli.call:result", "Fetch a result by task id."),
    "inspect": Entry("amqpq.cli.control:inspect", "Ask workers how they are."),
    "control": Entry("amqpq.cli.control:control", "Tell workers what to do: revoke, pause, shut down and so on."),
    "dlq": Entry("amqpq.cli.dlq:dlq", "List, show, send back and drop dead letters."),
    "delayed": Entry("amqpq.cli.delayed:delayed", "List delayed tasks, take one back, let one go now."),
    "keys": Entry("amqpq.cli.keys:keys", "Make, list and trust signing keys."),
    "bench": Entry("amqpq.cli.bench:bench", "Measure the broker from here, and say what limits it."),
    "broker": Entry("amqpq.cli.broker:broker", "Run a private RabbitMQ for development."),
    "completion": Entry("amqpq.cli.main:completion", "Print the shell completion script."),
}

EXAMPLES = """\b
Examples:
  eval "$(amqpq broker start)"            a private RabbitMQ, and $AMQPQ_BROKER_URL for it
  amqpq topology lint                     check ./topology.yaml
  amqpq topology apply                    declare what it says
  amqpq worker -A shop.tasks -c 4         run tasks in four processes
  amqpq call shop.tasks.add 2 3           send a task and wait for its result
"""


class LazyGroup(click.Group):
    """A group that lists its commands from a table and imports one when it is called.

    It also decides, once for all commands, how errors end: an `AmqpqError` is one line on standard error and exit
    code 1, and a usage error has exit code 1 too, because 2 means "changes found" here.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        module_name, _, attribute = entry.reference.partition(":")
        command = getattr(importlib.import_module(module_name), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.reference} is a {type(command).__name__}, not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {name!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing a single command."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments; errors end as the class says."""
        with _errors_end_plainly():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors end as the class says."""
        with _errors_end_plainly():
            return super().invoke(ctx)


@contextmanager
def _errors_end_plainly() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        error.exit_code = output.ExitCode.ERROR  # type: ignore[misc] # click reads it from the instance
        raise
    except AmqpqError as error:
        output.fail(error)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    click.echo(f"amqpq {installed() or NOT_INSTALLED}")
    ctx.exit()


@click.group(cls=LazyGroup, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def main() -> None:
    """Tasks on RabbitMQ, from a topology file to results."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(amqpq completion bash)"                               in ~/.bashrc
      eval "$(amqpq completion zsh)"                                in ~/.zshrc
      amqpq completion fish > ~/.config/fish/completions/amqpq.fish
    """
    completion_class = get_completion_class(shell)
    if completion_class is None:
        output.fail(f"no completion for {shell}")
    click.echo(completion_class(main, {}, "amqpq", "_AMQPQ_COMPLETE").source())
