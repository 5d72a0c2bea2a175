from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from amqpq.cli import main as frame
from amqpq.cli import output
from amqpq.errors import BrokerUnreachable

# Those whose module is part of this installation; each is checked as it is.
NAMES = list(frame.COMMANDS)


@pytest.fixture
def run() -> CliRunner:
    """Runs the command line in this process."""
    return CliRunner()


def test_help_lists_every_command(run: CliRunner) -> None:
    """`amqpq --help` shows each command with a line about it."""
    shown = run.invoke(frame.main, ["--help"]).output
    assert all(name in shown and entry.summary in shown for name, entry in frame.COMMANDS.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_command_loads_and_has_examples(name: str, run: CliRunner) -> None:
    """Each entry of the table is a click command whose help ends well and shows an example."""
    answer = run.invoke(frame.main, [name, "--help"])
    assert answer.exit_code == 0, answer.output
    assert "Example" in answer.output


def test_a_mistyped_command_gets_a_suggestion(run: CliRunner) -> None:
    """A command that is nearly right is answered with the right one, and exit code 1."""
    answer = run.invoke(frame.main, ["brokr", "start"])
    assert answer.exit_code == 1
    assert "No such command 'brokr'. Did you mean 'broker'?" in answer.output


def test_an_unknown_option_is_an_error_of_code_1(run: CliRunner) -> None:
    """A usage error ends with 1; 2 is for changes found."""
    answer = run.invoke(frame.main, ["broker", "start", "--nonsense"])
    assert answer.exit_code == 1
    assert "No such option" in answer.output


def test_our_errors_are_one_line_and_code_1(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AmqpqError ends as `error: ...` on standard error, without a traceback."""

    @click.command()
    def breaks() -> None:
        raise BrokerUnreachable("no broker at localhost:1")

    monkeypatch.setattr(frame.LazyGroup, "get_command", lambda *_: breaks)
    answer = run.invoke(frame.main, ["broker"])
    assert answer.exit_code == 1
    assert answer.stderr == "error: no broker at localhost:1\n"
    assert answer.stdout == ""


def test_a_bug_keeps_its_traceback(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not ours is not dressed up as one."""

    @click.command()
    def breaks() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(frame.LazyGroup, "get_command", lambda *_: breaks)
    assert isinstance(run.invoke(frame.main, ["broker"]).exception, ZeroDivisionError)


def test_version_is_printed(run: CliRunner) -> None:
    """`amqpq --version` prints the installed version."""
    answer = run.invoke(frame.main, ["--version"])
    assert answer.exit_code == 0
    assert answer.output.startswith("amqpq 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(shell: str, run: CliRunner) -> None:
    """The completion script calls amqpq back for the words of this shell."""
    answer = run.invoke(frame.main, ["completion", shell])
    assert answer.exit_code == 0
    assert f"_AMQPQ_COMPLETE={shell}_complete" in answer.output


def test_completion_offers_the_commands() -> None:
    """What the script calls answers with the commands that begin with the word."""
    program = [sys.executable, "-m", "amqpq"]
    words = {"COMP_WORDS": "amqpq com", "COMP_CWORD": "1", "_AMQPQ_COMPLETE": "bash_complete"}
    root = Path(__file__).resolve().parents[3]
    # The name of the variable follows from the program's name, `amqpq`, however it was started.
    answer = subprocess.run(program, env=words, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert answer.stdout.split() == ["plain,completion"], answer.stderr


def test_exit_codes_are_the_documented_ones() -> None:
    """The numbers are part of the interface: scripts rely on them."""
    assert [(code.name, code.value) for code in output.ExitCode] == [
        ("FINE", 0),
        ("ERROR", 1),
        ("CHANGES", 2),
        ("PARTLY", 3),
        ("FORBIDDEN", 4),
        ("UNDECIDABLE", 5),
    ]
