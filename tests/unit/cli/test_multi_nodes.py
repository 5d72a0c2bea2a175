from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from amqpq.cli.main import main
from amqpq.cli.nodes import Node, read_nodes
from amqpq.cli.worker import worker
from amqpq.errors import ConfigurationError

HOST = socket.gethostname()


def nodes(line: str) -> tuple[Node, ...]:
    """The workers of a line."""
    return read_nodes(line.split(), worker.params, Path("/work-folder"))


def options(line: str) -> dict[str, tuple[str, ...]]:
    """Which options each worker of a line gets, by its short name."""
    return {node.name.partition("@")[0]: node.options for node in nodes(line)}


def test_names_and_options_come_in_any_order() -> None:
    """What has no colon is for all."""
    wanted = ("--app", "shop", "--concurrency", "4", "--apply")
    assert options("w1 -A shop w2 -c 4 --apply") == {"w1": wanted, "w2": wanted}


@pytest.mark.parametrize(
    "spelling", ["-c:w2 8", "-c:w2=8", "--concurrency:w2=8", "--concurrency:2 8", f"-c:w2@{HOST} 8"]
)
def test_an_option_may_be_for_one(spelling: str) -> None:
    """By its name, its full name or its number; it counts before what is for all, wherever it stands."""
    expected = {"w1": ("--concurrency", "4"), "w2": ("--concurrency", "8")}
    assert options(f"w1 w2 -c 4 {spelling}") == options(f"{spelling} -c 4 w1 w2") == expected


def test_an_option_may_be_for_some() -> None:
    """Lists and ranges, as Celery has them; a flag, too."""
    assert options("5 -Q:1-2,amqpq5 images --apply:3") == {
        "amqpq1": ("--queues", "images"),
        "amqpq2": ("--queues", "images"),
        "amqpq3": ("--apply",),
        "amqpq4": (),
        "amqpq5": ("--queues", "images"),
    }


def test_short_options_may_hold_their_value() -> None:
    """`-c4`, as elsewhere."""
    assert options("w1 -c4 -ldebug") == {"w1": ("--concurrency", "4", "--loglevel", "debug")}


def test_names_are_completed_with_the_host() -> None:
    """As `-n` does it."""
    assert [node.name for node in nodes("w1 w2@elsewhere w3@%n")] == [
        f"w1@{HOST}",
        "w2@elsewhere",
        f"w3@{HOST.partition('.')[0]}",
    ]


def test_files_have_the_workers_names() -> None:
    """In the current folder, unless the line says where."""
    one, two = nodes("w1 w2 --pidfile=/run/%n.pid --logfile:w2 log/%p%I.log")
    assert (str(one.pidfile), str(one.logfile)) == ("/run/w1.pid", "/work-folder/w1.log")
    assert (str(two.pidfile), str(two.logfile)) == ("/run/w2.pid", f"/work-folder/log/w2@{HOST}.log")
    assert one.command == (
        sys.executable, "-m", "amqpq", "worker", "-n", f"w1@{HOST}",
        "--pidfile", "/run/w1.pid", "--logfile", "/work-folder/w1.log",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "name the workers"),
        ("0", "0 workers: from 1 to 1000"),
        ("w1 3", "'3' is no name of a worker"),
        ("w1 w1", "a name is for one worker"),
        ("w1 --concurency 3", r"no option --concurency \(did you mean '--concurrency'\?\)"),
        ("w1 -c", "--concurrency needs a value"),
        ("w1 --apply=yes", "--apply takes no value"),
        ("w1 -c:w2 4", "there is no worker 'w2' here; there are 1 w1"),
        ("w1 -c:0 4", "there is no worker '0' here"),
        ("w1 -c:2-1 4", "there is no worker '2-1' here"),
        ("w1 -c: 4", "after the colon come names"),
        ("w1 -n other", "the names of the workers are the words without a dash"),
        ("w1 --pidfile=%x", "%x means nothing here"),
    ],
)
def test_what_means_nothing_is_refused(line: str, sentence: str) -> None:
    """Before anything is started."""
    with pytest.raises(ConfigurationError, match=sentence):
        nodes(line)


def test_names_prints_them() -> None:
    """One per line, or as JSON, wherever `--json` stands."""
    run = CliRunner()
    assert run.invoke(main, ["multi", "names", "2", "-c:1", "4"]).output.split() == [f"amqpq1@{HOST}", f"amqpq2@{HOST}"]
    answer = run.invoke(main, ["multi", "names", "w1", "--json", "-A", "shop"])
    assert json.loads(answer.output) == [f"w1@{HOST}"]


@pytest.mark.parametrize("verb", ["stop", "show", "names"])
def test_a_timeout_is_refused_where_nobody_waits(verb: str) -> None:
    """Nothing is accepted and ignored."""
    answer = CliRunner().invoke(main, ["multi", verb, "w1", "--timeout", "3"])
    assert answer.exit_code == 1
    assert f"`{verb}` waits for nobody" in answer.output


def test_stopping_nobody_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what was wanted."""
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(main, ["multi", "stopwait", "w1"])
    assert answer.exit_code == 0
    assert "not running" in answer.output
