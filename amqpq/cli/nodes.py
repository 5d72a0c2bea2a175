"""The workers that an `amqpq multi` line names, and what each of them is started with. Pure: words in, values out.

The words are names and options of `amqpq worker`, in any order. An option may say whom it is for, in Celery's way:
`-c 4` is for all, `-c:w1 8` for w1, `-Q:1-3,w5 images` for the first three and w5. What is said for some counts before what
is said for all, wherever it stands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from amqpq.errors import ConfigurationError
from amqpq.task import did_you_mean
from amqpq.worker.files import expand
from amqpq.worker.plan import worker_name

PREFIX: Final = "amqpq"
"""`amqpq multi start 3` makes amqpq1, amqpq2 and amqpq3."""
PIDFILE: Final = "%n.pid"
LOGFILE: Final = "%n.log"
MOST: Final = 1000
"""More workers than that on one host are a slip of the finger."""


@dataclass(frozen=True, slots=True)
class Node:
    """One worker: its full name, the options it gets, and its two files."""

    name: str
    options: tuple[str, ...]
    pidfile: Path
    logfile: Path

    @property
    def command(self) -> tuple[str, ...]:
        """The command line that starts it."""
        files = ("--pidfile", str(self.pidfile), "--logfile", str(self.logfile))
        return (sys.executable, "-m", "amqpq", "worker", "-n", self.name, *self.options, *files)


@dataclass(frozen=True, slots=True)
class _Given:
    """One option of the line: its longest spelling, its value (None: a flag), and for whom (None: for all)."""

    option: str
    value: str | None
    whom: str | None


def read_nodes(words: Sequence[str], known: Sequence[click.Parameter], folder: Path) -> tuple[Node, ...]:
    """Return the workers that the words name.

    Args:
        words: Of the command line.
        known: The parameters of `amqpq worker`.
        folder: What relative names of files are relative to.

    Raises:
        ConfigurationError: No name, an unknown option, a missing value, or an option for a worker that is not named.
    """
    spellings = {word: each for each in known if isinstance(each, click.Option) for word in each.opts}
    names: list[str] = []
    given: list[_Given] = []
    rest = iter(words)
    for word in rest:
        if word.startswith("-") and word != "-":
            given.append(_read_option(word, rest, spellings))
        else:
            names.append(word)
    full = [worker_name(name, 0) for name in _counted(names)]
    twice = {name for name in full if full.count(name) > 1}
    if twice:
        raise ConfigurationError(f"{', '.join(sorted(twice))}: a name is for one worker")
    for_whom = [(each, _meant(each, full)) for each in given]
    return tuple(_node(name, for_whom, folder) for name in full)


def _read_option(word: str, rest: Iterator[str], spellings: Mapping[str, click.Option]) -> _Given:
    head, equals, attached = word.partition("=")
    spelling, colon, whom = head.partition(":")
    value = attached if equals else None
    if not spelling.startswith("--") and len(spelling) > len("-c"):  # -c4, as click reads it
        spelling, value = spelling[:2], spelling[2:] + (equals + attached)
    option = spellings.get(spelling)
    if option is None:
        raise ConfigurationError(f"amqpq worker has no option {spelling}{did_you_mean(spelling, tuple(spellings))}")
    name = max(option.opts, key=len)
    if name == "--hostname":
        raise ConfigurationError(f"{word}: the names of the workers are the words without a dash, as in `start w1 w2`")
    if colon and not whom:
        raise ConfigurationError(f"{word}: after the colon come names or numbers of workers, as in -c:w1,2 4")
    if option.is_flag:
        if value is not None:
            raise ConfigurationError(f"{word}: {name} takes no value")
        return _Given(name, None, whom or None)
    if value is None:
        value = next(rest, None)
    if value is None:
        raise ConfigurationError(f"{word}: {name} needs a value")
    return _Given(name, value, whom or None)


def _counted(names: Sequence[str]) -> list[str]:
    if not names:
        raise ConfigurationError("name the workers, as in `amqpq multi start w1 w2`, or say how many: `start 3`")
    if len(names) == 1 and names[0].isdigit():
        if not 1 <= int(names[0]) <= MOST:
            raise ConfigurationError(f"{names[0]} workers: from 1 to {MOST}")
        return [f"{PREFIX}{number}" for number in range(1, int(names[0]) + 1)]
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][\w.-]*(@[\w.%-]+)?", name):
            raise ConfigurationError(f"{name!r} is no name of a worker; use letters, digits, `_`, `-` and `.`")
    return list(names)


def _meant(given: _Given, full: Sequence[str]) -> frozenset[str]:
    """Return the full names of the workers that an option is for."""
    if given.whom is None:
        return frozenset(full)
    short = {name.partition("@")[0]: name for name in full}
    found: set[str] = set()
    for word in given.whom.split(","):
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if word in short or word in full:
            found.add(short.get(word, word))
        elif numbers and 1 <= int(numbers[1]) <= int(numbers[2] or numbers[1]) <= len(full):
            found.update(full[int(numbers[1]) - 1 : int(numbers[2] or numbers[1])])
        else:
            listed = ", ".join(f"{number} {name}" for number, name in enumerate(short, 1))
            raise ConfigurationError(
                f"{given.option}:{given.whom}: there is no worker {word!r} here; there are {listed}"
            )
    return frozenset(found)


def _node(name: str, given: Sequence[tuple[_Given, frozenset[str]]], folder: Path) -> Node:
    chosen: dict[str, str | None] = {}
    for some in (False, True):  # what is said for some last, so that it counts
        chosen.update(
            {each.option: each.value for each, whom in given if name in whom and (each.whom is not None) is some}
        )
    pidfile, logfile = chosen.pop("--pidfile", None) or PIDFILE, chosen.pop("--logfile", None) or LOGFILE
    options = tuple(
        word for option, value in chosen.items() for word in ((option,) if value is None else (option, value))
    )
    return Node(name, options, folder / expand(pidfile, name), folder / expand(logfile, name))
