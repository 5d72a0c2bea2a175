"""`amqpq topology apply PLAN`: carries out a plan that was kept, where nothing it touches has changed since; and policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from amqpq import config
from amqpq.cli import output
from amqpq.cli.plan import eyes
from amqpq.errors import AmqpqError, ConfigurationError, PreconditionFailed, TransportError
from amqpq.management import Management, PolicyInfo
from amqpq.provision import journal, text
from amqpq.provision import plan as plans
from amqpq.provision.apply import Applier, Outcome
from amqpq.provision.look import Eyes, look
from amqpq.provision.plan import Plan
from amqpq.provision.steps import Step
from amqpq.provision.wanted import wanted_there
from amqpq.topology.model import Policy, Topology
from amqpq.transport import flow, register
from amqpq.transport.declare import Applied


def apply_plan(loaded: Topology, file: Path, *, as_json: bool, timeout: float) -> None:
    """Carry out the plan in `file`, under the project's lock.

    Raises:
        ConfigurationError: It is no plan, another project's, or not what would be planned now.
        ResourceLocked: Another apply runs.
    """
    kept = _read(file, loaded)
    with eyes(loaded, kept["observed"]["level"], timeout) as seeing:
        flow.run(journal.lock(seeing.connection.channel(), loaded.project), timeout)
        target = wanted_there(loaded, register.where_now(seeing.connection, loaded))
        seen = look(seeing, target)
        others = journal.others(seeing.connection, seen.observed.queues, loaded.project)
        now = plans.plan(loaded, target, seen.observed, seen.manifest, others)
        _refuse_stale(kept, now)
        on_step = _say_nothing if as_json else _print_step
        outcome = Applier(seeing, target, seen.manifest, on_step).run(now)
        left = _left(loaded, seeing) if outcome.error is None else None
    _report(now, outcome, left, as_json=as_json)


def create_policies(loaded: Topology, timeout: float) -> list[Applied]:
    """Create the policies of the file that are missing; one that exists otherwise is a failure with its remedy."""
    if not loaded.policies:
        return []
    api = config.management(loaded, timeout_seconds=timeout)
    if api is None:
        error = ConfigurationError("policies are written over the HTTP API; set broker.management")
        return [_failed(name, error) for name in loaded.policies]
    vhost = config.addresses(loaded)[0].vhost
    with api:
        try:
            there = {policy.name: policy for policy in api.policies(vhost)}
        except TransportError as error:
            return [_failed(name, error) for name in loaded.policies]
        return [_created(api, vhost, policy, there.get(name)) for name, policy in loaded.policies.items()]


def _created(api: Management, vhost: str, policy: Policy, seen: PolicyInfo | None) -> Applied:
    info = PolicyInfo(policy.name, policy.pattern, policy.apply_to, policy.priority, policy.definition)
    if seen == info:
        return Applied("policy", policy.name, "present")
    if seen is not None:
        remedy = "`amqpq topology plan --out FILE` and `apply FILE` change it"
        return _failed(policy.name, PreconditionFailed(f"it exists otherwise; {remedy}"))
    try:
        api.put_policy(vhost, info)
    except TransportError as error:
        return _failed(policy.name, error)
    return Applied("policy", policy.name, "created")


def _failed(name: str, error: AmqpqError) -> Applied:
    return Applied("policy", name, "failed", TransportError(f"policy '{name}': {error}"))


def _read(file: Path, loaded: Topology) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        major = str(found["format_version"]).partition(".")[0]
        project, _ = found["project"], found["observed"]["level"]
    except OSError as error:
        raise ConfigurationError(f"the plan cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is no plan; `amqpq topology plan --out {file}` makes one") from error
    if major != plans.FORMAT.partition(".")[0]:
        raise ConfigurationError(
            f"{file} is of format {found['format_version']}, this amqpq reads {plans.FORMAT}; plan again"
        )
    if (project, found.get("environment")) != (loaded.project, loaded.environment):
        raise ConfigurationError(
            f"{file} is for project '{project}', environment {found.get('environment')!r}; the topology is "
            f"'{loaded.project}', {loaded.environment!r}"
        )
    return found


def _refuse_stale(kept: dict[str, Any], now: Plan) -> None:
    """Compare what was planned with what would be planned now."""
    if kept.get("plan_hash") == now.fingerprint and kept["observed"].get("cluster") == now.cluster:
        return
    reasons = []
    if kept["observed"].get("cluster") != now.cluster:
        reasons.append("it was made for another broker")
    if kept["observed"].get("vhost") != now.vhost:
        reasons.append("it was made for another virtual host")
    if kept.get("topology_hash") != now.target:
        reasons.append("the topology file has changed")
    hashes: dict[str, str] = kept["observed"].get("hashes") or {}
    changed = sorted(
        address for address in hashes.keys() | now.hashes.keys() if hashes.get(address) != now.hashes.get(address)
    )
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""  # noqa: PLR2004 - a sentence, no list
        reasons.append(f"changed on the broker since, or not part of it: {', '.join(changed[:5])}{more}")
    raise ConfigurationError(
        f"the plan is stale: {'; '.join(reasons) or 'its steps are others now'}. Nothing was done; plan again"
    )


def _left(loaded: Topology, seeing: Eyes) -> Plan:
    """Look once more: what is different after all steps."""
    target = wanted_there(loaded, register.where_now(seeing.connection, loaded))
    seen = look(seeing, target)
    others = journal.others(seeing.connection, seen.observed.queues, loaded.project)
    return plans.plan(loaded, target, seen.observed, seen.manifest, others)


def _print_step(step: Step) -> None:
    gone = (step.spec is None and step.operation != "rename") or step.operation == "unbind"
    word = "removed" if gone else "done"
    click.echo(f"{click.style('-' if word == 'removed' else '+', fg='green')} {step.address}  {word}")


def _say_nothing(_: Step) -> None:
    return


def _report(now: Plan, outcome: Outcome, left: Plan | None, *, as_json: bool) -> None:
    done = [{"operation": step.operation, "name": step.name} for step in outcome.done]
    if as_json:
        output.print_json(
            {
                "done": done,
                "steps": len(now.steps),
                "serial": outcome.manifest.serial,
                "error": None if outcome.error is None else str(outcome.error),
                "left": None if left is None else text.document(left)["changes"],
            }
        )
    else:
        click.echo(f"{len(done)} of {len(now.steps)} steps done, serial {outcome.manifest.serial}", err=True)
        if left is not None and left.changes:
            click.echo("\n".join(text.lines(left, infos=False)), err=True)
    if outcome.error is not None:
        if not as_json:
            click.echo(f"{click.style('error:', fg='red', bold=True)} {outcome.error}", err=True)
            click.echo("what was done stays done; `amqpq topology plan` shows the rest", err=True)
        raise click.exceptions.Exit(output.ExitCode.PARTLY if outcome.done else output.ExitCode.ERROR)
