"""`amqpq topology lock`: keeps what the topology file resolves to beside it, for git."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import amqpq
from amqpq.cli import output
from amqpq.cli.linting import inspected
from amqpq.cli.options import json_option, topology_option
from amqpq.errors import ConfigurationError, TopologyError
from amqpq.topology import lockfile
from amqpq.topology.loading import read_lock
from amqpq.topology.lockfile import Difference, Lock, Locked
from amqpq.topology.model import Topology


@dataclass(frozen=True, slots=True)
class _Now:
    """A topology as it is now, and what was kept of it; `before` None: nothing."""

    topology: Topology
    path: Path
    lock: Lock
    before: Locked | None
    after: Locked

    @property
    def differences(self) -> tuple[Difference, ...]:
        return () if self.before is None else tuple(lockfile.differences(self.before.objects, self.after.objects))

    @property
    def is_current(self) -> bool:
        # Also who says a value is part of it: of what the file says no default can change.
        return self.before is not None and self.before.objects == self.after.objects


@click.command()
@topology_option
@json_option
@click.option(
    "--check", is_flag=True, help="Write nothing; exit code 1 where the lock is not what the file resolves to."
)
def lock(topology_file: Path | None, environment: str | None, as_json: bool, check: bool) -> None:
    """Keep what the file resolves to in amqpq.lock beside it: type, durability and arguments of every exchange and queue.

    It goes into git. When a newer amqpq fills in something else than is kept there, `amqpq topology lint` says so (TOP064).
    Each environment is locked for itself.

    \b
    Examples:
      amqpq topology lock
      amqpq topology lock -e prod
      amqpq topology lock -e prod --check        in continuous integration
    """
    now = _look(topology_file, environment)
    if not check and not now.is_current:
        _write(now)
    if as_json:
        output.print_json(_facts(now, check=check))
    else:
        for difference in now.differences:
            click.echo(_line(difference))
        click.echo(_summary(now, check=check), err=True)
    if check and not now.is_current:
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def remark(topology: Topology) -> None:
    """Say on standard error that a lock is stale, where there is one."""
    if topology.path is None:
        return
    path = lockfile.beside(topology.path)
    try:
        locked = read_lock(path).entries.get((topology.project, topology.environment))
    except ConfigurationError as error:
        click.echo(f"{path}: {error}", err=True)
        return
    if locked is not None and lockfile.is_stale(locked, topology):
        command = f"amqpq topology lock{_with(topology)} --check"
        click.echo(f"{path} is not what the file resolves to now: `{command}` says in what", err=True)


def _look(file: Path | None, environment: str | None) -> _Now:
    inspection = inspected(file, environment)
    topology = inspection.topology
    if topology is None or inspection.file is None or topology.path is None:
        raise TopologyError([str(problem) for problem in inspection.errors])
    path = lockfile.beside(topology.path)
    try:
        kept = read_lock(path)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    after = Locked(amqpq.__version__, lockfile.resolve(inspection.file, topology))
    return _Now(topology, path, kept, kept.entries.get((topology.project, topology.environment)), after)


def _write(now: _Now) -> None:
    entries = {**now.lock.entries, (now.topology.project, now.topology.environment): now.after}
    try:
        now.path.write_text(lockfile.render(Lock(entries)), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{now.path}: it cannot be written: {error.strerror}") from error


def _line(difference: Difference) -> str:
    if not difference.key:
        return f"{difference.address}: {'new' if difference.before is None else 'not in the file any more'}"
    change = f"{_shown(difference.before)} -> {_shown(difference.after)}"
    return f"{difference.address}: {difference.key} {change}{'' if difference.meant else '  (amqpq fills it in)'}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _summary(now: _Now, *, check: bool) -> str:
    whose = f"project {now.topology.project}{_environment(now.topology)}"
    if now.before is None:
        remedy = f"`amqpq topology lock{_with(now.topology)}` writes it"
        return f"{now.path} has nothing of {whose}; {remedy}" if check else f"{now.path}: {whose} locked"
    if now.is_current:
        return f"{now.path} is what the file resolves to, {whose}"
    number = _counted(now.differences)
    if check:
        return f"{now.path} is stale, {whose}: {number}; `amqpq topology lock{_with(now.topology)}` accepts what is now"
    return f"{now.path}: {whose} locked, {number}"


def _counted(differences: Iterable[Difference]) -> str:
    number = len(tuple(differences))
    if not number:
        return "only who says a value differs, the file or amqpq"
    return f"{number} difference{'' if number == 1 else 's'}"


def _environment(topology: Topology) -> str:
    return f", environment {topology.environment}" if topology.environment else ""


def _with(topology: Topology) -> str:
    return f" -e {topology.environment}" if topology.environment else ""


def _facts(now: _Now, *, check: bool) -> dict[str, Any]:
    return {
        "lock": now.path,
        "project": now.topology.project,
        "environment": now.topology.environment,
        "locked": now.before is not None,
        "current": now.is_current,
        "written": not check and not now.is_current,
        "objects": len(now.after.objects),
        "differences": now.differences,
    }
