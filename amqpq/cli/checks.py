"""`amqpq topology check`: run the checks of a topology, and say which of its ways they walk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from amqpq.cli import output
from amqpq.cli.options import json_option, load_topology, topology_option
from amqpq.topology import Topology, checks, versions
from amqpq.topology.address import Requires
from amqpq.topology.checks import CheckResult
from amqpq.topology.coverage import Coverage, coverage
from amqpq.topology.expected import PublishCheck
from amqpq.topology.fates import Ending, Step, time_text

FIRST_STEPS: Final = 12
LAST_STEPS: Final = 6
"""Steps of a long way that are shown; --json has them all."""

_NOUNS: Final = {
    "route": "routes",
    "binding": "bindings",
    "unrouted": "alternate exchanges",
    "dead letter": "dead letters",
}


@click.command()
@topology_option
@json_option
@click.option("--coverage", "covering", is_flag=True, help="Also say which ways no check walks.")
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Fail where less of all ways is walked; shows the coverage, too.",
)
@click.option(
    "--rabbitmq",
    metavar="VERSION",
    help="Follow messages as this version does; default: the lowest one in `requires`.",
)
def check(
    topology_file: Path | None,
    environment: str | None,
    as_json: bool,
    covering: bool,
    fail_under: float | None,
    rabbitmq: str | None,
) -> None:
    """Run the `checks:` of the file, without a broker. The exit code is 1 where one fails.

    \b
    Examples:
      amqpq topology check
      amqpq topology check --coverage                which routes, bindings and dead letters no check walks
      amqpq topology check --fail-under 90
      amqpq topology check --rabbitmq 4.3 --json
    """
    topology = _for_version(load_topology(topology_file, environment), rabbitmq)
    results = checks.run(topology)
    covered = coverage(topology, results) if covering or fail_under is not None else None
    if as_json:
        output.print_json(
            {
                "checks": [_facts(result) for result in results],
                **({} if covered is None else {"coverage": _coverage_facts(covered)}),
            }
        )
    else:
        for result in results:
            _print(result)
        if covered is not None:
            _print_coverage(covered)
        click.echo(_summary(results), err=True)
    short = covered is not None and fail_under is not None and covered.percent < fail_under
    if short and covered is not None and not as_json:
        click.echo(f"checks walk {covered.percent:.1f} % of all ways, less than {fail_under:g} %", err=True)
    if short or not all(result.passed for result in results):
        raise click.exceptions.Exit(output.ExitCode.ERROR)


def _for_version(topology: Topology, text: str | None) -> Topology:
    if text is None:
        return topology
    try:
        version = versions.lowest(f"=={text}")
    except ValueError as error:
        raise click.UsageError(f"--rabbitmq {text}: write one version from 3.10 on, as in 4.3") from error
    return replace(topology, requires=Requires(f"=={text}", version))


def _summary(results: Sequence[CheckResult]) -> str:
    if not results:
        return "the file has no checks"
    failed = sum(not result.passed for result in results)
    return f"{len(results)} check{'' if len(results) == 1 else 's'}, {failed} failed"


# ---------------------------------------------------------------------------------------------------------- for people


def _print(result: CheckResult) -> None:
    word = click.style("pass", fg="green") if result.passed else click.style("FAIL", fg="red", bold=True)
    faults = f": {' and '.join(result.faults)}" if result.faults else ""
    click.echo(f"{word} {result.message} -> {result.outcome}{faults}")
    if not result.passed:
        click.echo(f"     {result.check.place}")
        for line in _trace(result.steps):
            click.echo(f"     {line}")


def _trace(steps: Sequence[Step]) -> Iterator[str]:
    """Write the way as lines, each with the time when it happens at the latest; a long one is cut in the middle."""
    timed = any(step.seconds for step in steps)
    width = max((len(time_text(step.seconds)) for step in steps), default=0)
    for number, step in enumerate(steps):
        if len(steps) > FIRST_STEPS + LAST_STEPS and FIRST_STEPS <= number < len(steps) - LAST_STEPS:
            if number == FIRST_STEPS:
                yield f"... {len(steps) - FIRST_STEPS - LAST_STEPS} more ..."
            continue
        when = f"{time_text(step.seconds):>{width}}  " if timed else ""
        yield f"{when}{step.text}"


def _print_coverage(covered: Coverage) -> None:
    counts = ", ".join(f"{walked} of {total} {_NOUNS[kind]}" for kind, (walked, total) in covered.counts().items())
    for path in covered.missing:
        click.echo(f"{click.style('no check', fg='yellow')} {path.kind} {path.name}")
    click.echo(f"coverage {covered.percent:.1f} %{f': {counts}' if counts else ''}")


# ------------------------------------------------------------------------------------------------------- for machines


def _facts(result: CheckResult) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "place": result.check.place,
        "kind": result.kind,
        "message": result.message,
        "passed": result.passed,
        "outcome": result.outcome,
        "faults": result.faults,
        "steps": [{"seconds": step.seconds, "text": step.text} for step in result.steps],
    }
    if isinstance(result.check, PublishCheck):
        facts |= {"queues": result.reach.queues, "missing": result.missing, "extra": result.extra}
    elif result.answers:
        facts["granted"] = [answer.operation for answer in result.answers if answer.granted]
    else:
        facts["ends"] = [_ending_facts(ending) for ending in result.endings]
    return facts


def _ending_facts(ending: Ending) -> dict[str, Any]:
    seconds = {"min": ending.seconds[0], "max": ending.seconds[1]}
    return {
        "in": ending.where,
        "end": ending.end,
        "reason": ending.reason,
        "seconds": None if ending.seconds[1] == float("inf") else seconds,
    }


def _coverage_facts(covered: Coverage) -> dict[str, Any]:
    return {
        "percent": round(covered.percent, 1),
        **{_NOUNS[kind]: {"walked": walked, "all": total} for kind, (walked, total) in covered.counts().items()},
        "missing": [{"kind": path.kind, "name": path.name} for path in covered.missing],
    }
