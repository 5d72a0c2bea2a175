"""`amqpq topology apply` without a plan: creates what the file declares, under the project's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

import click

from amqpq import config
from amqpq.cli import output
from amqpq.cli.applying import create_policies
from amqpq.errors import AmqpqError, ResourceLocked, TransportError
from amqpq.provision import held, observe_http
from amqpq.provision.noting import note
from amqpq.provision.ownership import Tenure, holder, owned
from amqpq.provision.renaming import said
from amqpq.topology import renames
from amqpq.topology.declarations import Declarations, declarations
from amqpq.topology.generations import resolve
from amqpq.topology.model import Topology
from amqpq.transport import blocking, declare, flow, register
from amqpq.transport.interface import Connection
from amqpq.transport.link import Link
from amqpq.transport.questions import CHANNELS
from amqpq.types import ExchangeSpec, QueueSpec

There: TypeAlias = Callable[[ExchangeSpec | QueueSpec], bool]
"""Tells whether an object exists."""

_MARKS = {"created": "+", "present": "=", "bound": "=", "failed": "!"}


def apply_file(loaded: Topology, *, as_json: bool, timeout: float) -> None:
    """Create what is missing; print what became of each object.

    Raises:
        ResourceLocked: Somebody else is changing the topology of this project.
    """
    link = Link(
        config.addresses(loaded),
        blocking.connect,
        name=f"amqpq topology apply {loaded.project}",
        heartbeat_seconds=loaded.broker.heartbeat_seconds,
    )
    try:
        connection = link.connection(timeout)
        tenure = Tenure(connection, loaded.project, timeout)
        _take(tenure, loaded, timeout)
        generations = register.where_now(connection, loaded)
        renames.check_current(loaded, generations)
        for name in generations.to_note:
            click.echo(f"queue {name} is {said(name, generations.homes[name])}", err=True)
        wanted = resolve(declarations(loaded), generations)
        note(connection, loaded.project, generations, wanted.queues, timeout)
        for name in [name for name, home in generations.homes.items() if home.moving]:
            click.echo(f"queue {name} is being migrated, and left as it is", err=True)
        there = _existing(loaded, wanted, connection, timeout)
        applied = _declared(connection, wanted, there, as_json=as_json, timeout=timeout)
        told = {(step.kind, step.name) for step in applied if step.error is None}
        applied = held.settled(applied, wanted, connection, loaded.project)
        for step in () if as_json else applied:
            if (step.kind, step.name) not in told:
                print_step(step)
        policies = create_policies(loaded, timeout)
        if not as_json:
            for step in policies:
                print_step(step)
        tenure.note(owned(wanted, [*applied, *policies], loaded.policies))
    finally:
        link.close()
    for remark in tenure.remarks:
        click.echo(remark, err=True)
    _report((*applied, *policies), as_json=as_json)


def _declared(
    connection: Connection, wanted: Declarations, there: There | None, *, as_json: bool, timeout: float
) -> tuple[declare.Applied, ...]:
    """Declare; what is done is printed at once. Where the connection is lost the exit code says whether anything is."""
    done: list[declare.Applied] = []

    def settled(step: declare.Applied) -> None:
        done.append(step)
        if not as_json:
            _print_done(step)

    try:
        return flow.run(declare.apply(connection.channel, wanted, there=there, on_step=settled), timeout)
    except TransportError as error:
        if all(step.result not in {"created", "bound"} for step in done):
            raise
        if as_json:
            output.print_json({"applied": [_facts(step) for step in done], "error": str(error)})
        output.fail(error, output.ExitCode.PARTLY)


def _existing(loaded: Topology, wanted: Declarations, connection: Connection, timeout: float) -> There | None:
    """Ask the management API what exists, where there is one; a few objects are sooner looked for over AMQP."""
    if len(wanted.queues) + len(wanted.exchanges) <= CHANNELS:
        return None
    with suppress(AmqpqError):
        api = config.management(loaded, timeout_seconds=timeout)
        if api is not None:
            with api:
                return observe_http.existing(api, config.addresses(loaded)[0].vhost, connection.server)
    return None


def _take(tenure: Tenure, loaded: Topology, timeout: float) -> None:
    """Take the lock; who holds it is said where the management API tells."""
    try:
        tenure.take()
    except ResourceLocked as error:
        api = None
        with suppress(AmqpqError):
            api = config.management(loaded, timeout_seconds=timeout)
        if api is None:
            raise
        with api:
            who = holder(api, config.addresses(loaded)[0].vhost, loaded.project)
        raise (ResourceLocked(f"{error}; held by {who}") if who else error) from error


def _report(applied: tuple[declare.Applied, ...], *, as_json: bool) -> None:
    failed = [step for step in applied if step.result == "failed"]
    if as_json:
        output.print_json({"applied": [_facts(step) for step in applied]})
    else:
        created = sum(step.result == "created" for step in applied)
        objects = f"{len(applied)} object{'' if len(applied) == 1 else 's'}"
        click.echo(f"{objects}: {created} created, {len(failed)} failed", err=True)
    if failed:
        nothing_done = len(failed) == len(applied)
        raise click.exceptions.Exit(output.ExitCode.ERROR if nothing_done else output.ExitCode.PARTLY)


def _print_done(step: declare.Applied) -> None:
    """Print what is done at once; what failed may be as it should be all the same, by a policy."""
    if step.error is None:
        print_step(step)


def print_step(step: declare.Applied) -> None:
    """Print what became of one object."""
    if step.error is not None:
        click.echo(f"{click.style('!', fg='red', bold=True)} {step.error}", err=True)
        return
    words = {"created": "created", "present": "already there", "bound": "bound"}
    colour = "green" if step.result == "created" else None
    click.echo(f"{click.style(_MARKS[step.result], fg=colour)} {step.kind:<8} {step.name}  {words[step.result]}")


def print_dry(wanted: Declarations, policies: Iterable[str], *, as_json: bool) -> None:
    """Print what would be declared."""
    if as_json:
        output.print_json(wanted)
        return
    for exchange in wanted.exchanges:
        click.echo(f"exchange  {exchange.name}  {exchange.type}{_arguments(exchange.arguments)}")
    for queue in wanted.queues:
        click.echo(f"queue     {queue.name}{_arguments(queue.arguments)}")
    for binding in wanted.bindings:
        click.echo(f"binding   {declare.describe_binding(binding)}")
    for policy in policies:
        click.echo(f"policy    {policy}")
    for name in [*(x.name for x in wanted.expected_exchanges), *(queue.name for queue in wanted.expected_queues)]:
        click.echo(f"expected  {name}  (must exist)")


def _arguments(arguments: Any) -> str:
    return "".join(f"  {name}={value!r}" for name, value in arguments.items())


def _facts(step: declare.Applied) -> dict[str, object]:
    return {
        "kind": step.kind,
        "name": step.name,
        "result": step.result,
        "error": None if step.error is None else str(step.error),
        "differences": step.differences,
    }
