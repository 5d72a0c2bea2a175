"""`amqpq topology lint`: everything that is wrong with the topology file, and what the rules are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from amqpq.cli import output
from amqpq.cli.options import DEFAULT_TOPOLOGY, json_option, topology_option
from amqpq.errors import ConfigurationError
from amqpq.topology import Inspection, inspect
from amqpq.topology.lint import Suppressed, catalogue, sarif
from amqpq.topology.problems import Problem

_COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}
_VERSION = re.compile(r"\d+(\.\d+){0,2}")


def _version(text: str) -> str:
    """Take `4.3` or `4.3.6`."""
    if _VERSION.fullmatch(text) is None:
        raise click.BadParameter(f"'{text}' is no version of RabbitMQ; write 4.3 or 4.3.6")
    return text


@click.command()
@topology_option
@json_option
@click.option("--sarif", "as_sarif", is_flag=True, help="Print SARIF 2.1.0, as tools for code review read it.")
@click.option("--strict", is_flag=True, help="Let warnings fail, too, as `lint: {fail_on: warning}` does.")
@click.option("--info", "infos", is_flag=True, help="Also print what is only worth knowing.")
@click.option("--rabbitmq", type=_version, metavar="VERSION", help="Instead of the lowest version of `requires:`.")
@click.option("--explain", metavar="RULE", help="Print what a rule finds, why, and a sample; reads no file.")
@click.option("--list", "as_list", is_flag=True, help="List the rules; reads no file.")
def lint(topology_file: Path | None, environment: str | None, as_json: bool, **options: Any) -> None:
    """Say everything that is wrong with the file. The exit code is 1 where there are errors.

    \b
    Examples:
      amqpq topology lint
      amqpq topology lint -t shop.yaml -e prod --strict --rabbitmq 4.3
      amqpq topology lint --explain TOP034
      amqpq topology lint --sarif > lint.sarif
      amqpq topology lint --json | jq '.problems[] | select(.severity == "error")'
    """
    if as_json and options["as_sarif"]:
        raise click.UsageError("--json and --sarif are two ways to print the same; choose one")
    if options["as_list"]:
        _list(as_json=as_json)
    elif options["explain"] is not None:
        _explain(options["explain"], as_json=as_json)
    else:
        inspection = inspected(topology_file, environment, options["rabbitmq"])
        _print(inspection, as_json=as_json, as_sarif=options["as_sarif"], infos=options["infos"])
        failing = {"error", "warning"} if options["strict"] or inspection.fail_on == "warning" else {"error"}
        if any(problem.severity in failing for problem in inspection.problems):
            raise click.exceptions.Exit(output.ExitCode.ERROR)


def inspected(file: Path | None, environment: str | None, rabbitmq: str | None = None) -> Inspection:
    """Look at the topology a command is about, with all its findings.

    Args:
        file: What `-t` named; None for `./topology.yaml`.
        environment: What `-e` named.
        rabbitmq: A version to look at it for.

    Raises:
        ConfigurationError: There is no such file.
    """
    path = file or Path(DEFAULT_TOPOLOGY)
    if not path.is_file():
        remedy = "" if file else "; name one with -t FILE or $AMQPQ_TOPOLOGY"
        raise ConfigurationError(f"no topology file at {path}{remedy}")
    return inspect(path, environment=environment, rabbitmq=rabbitmq)


# ----------------------------------------------------------------------------------------------------------- findings


def _print(inspection: Inspection, *, as_json: bool, as_sarif: bool, infos: bool) -> None:
    if as_sarif:
        output.print_json(sarif.report(inspection.problems, inspection.suppressed))
        return
    if as_json:
        problems = [_facts(problem) for problem in inspection.problems]
        suppressed = [_suppressed_facts(each) for each in inspection.suppressed]
        output.print_json({"problems": problems, "suppressed": suppressed})
        return
    for problem in inspection.problems:
        if infos or problem.severity != "info":
            click.echo(_line(problem))
    click.echo(_summary(inspection), err=True)


def _line(problem: Problem) -> str:
    severity = click.style(problem.severity, fg=_COLOURS[problem.severity])
    remedy = f"; {problem.remedy}" if problem.remedy else ""
    return f"{problem.place}: {severity} {problem.rule} {problem.message}{remedy}"


def _summary(inspection: Inspection) -> str:
    counts = _counts(inspection.problems)
    if not counts["error"] and not counts["warning"]:
        text = "no errors, no warnings"
    else:
        text = f"{_counted(counts['error'], 'error')}, {_counted(counts['warning'], 'warning')}"
    suppressed = sum(each.problem.severity != "info" for each in inspection.suppressed)
    return f"{text}, {suppressed} suppressed" if suppressed else text


def _counts(problems: Iterable[Problem]) -> dict[str, int]:
    counts = dict.fromkeys(_COLOURS, 0)
    for problem in problems:
        counts[problem.severity] += 1
    return counts


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _facts(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.place.file,
        "line": problem.place.line,
        "column": problem.place.column,
        "rule": problem.rule,
        "severity": problem.severity,
        "message": problem.message,
        "remedy": problem.remedy,
    }


def _suppressed_facts(each: Suppressed) -> dict[str, object]:
    return {**_facts(each.problem), "reason": each.reason, "until": each.until}


# -------------------------------------------------------------------------------------------------------------- rules


def _list(*, as_json: bool) -> None:
    if as_json:
        output.print_json({"rules": list(catalogue.rules().values()), "unused": list(catalogue.unused().values())})
        return
    for rule in catalogue.rules().values():
        click.echo(f"{rule.id}  {rule.severity:<22} {rule.finds}")


def _explain(text: str, *, as_json: bool) -> None:
    rule = catalogue.find(text)
    if as_json:
        output.print_json(rule)
        return
    if isinstance(rule, catalogue.Unused):
        click.echo(f"{click.style(rule.id, bold=True)} has no rule. It would find {rule.would_find}: {rule.reason}")
        return
    click.echo(f"{click.style(rule.id, bold=True)} ({rule.severity}): {rule.finds}\n\n{click.wrap_text(rule.why, 100)}")
    click.echo(f"\nThis is found:\n\n{_indented(rule.bad)}\n{click.wrap_text(rule.says, 100, '  -> ', '     ')}")
    click.echo(f"\nThis is not:\n\n{_indented(rule.good)}")
    if rule.lock:
        click.echo(f"Beside both is this amqpq.lock:\n\n{_indented(rule.lock)}")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.rstrip().split("\n"))
