"""`amqpq worker`: checks what was asked for, prints the banner, runs until told to stop."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from amqpq import config
from amqpq.app import App
from amqpq.cli import options
from amqpq.cli.output import fail
from amqpq.endpoint import read_address
from amqpq.errors import NotBuiltYet
from amqpq.log import WORKER
from amqpq.version import NOT_INSTALLED, installed
from amqpq.worker import logs
from amqpq.worker.aside import aside
from amqpq.worker.banner import banner
from amqpq.worker.files import PidFile, expand
from amqpq.worker.plan import (
    LONGEST_SECONDS,
    POOLS,
    SHUTDOWN_TIMEOUT_SECONDS,
    WorkerPlan,
    choose_concurrency,
    choose_limits,
    choose_pool,
    choose_prefetch,
    choose_queues,
    choose_recycling,
    choose_scale,
    worker_name,
)
from amqpq.worker.pools.forked import descriptors
from amqpq.worker.pools.hubpool import HUB_POOLS
from amqpq.worker.run import run

_LATER = {
    "-B": "beat",
    "--beat": "beat",
    "-X": "excluding queues",
    "--exclude-queues": "excluding queues",
    "-D": "detaching (use `amqpq multi start`, or a service manager)",
    "--detach": "detaching (use `amqpq multi start`, or a service manager)",
}
"""Options that people know from Celery and that are not there yet."""


_SECONDS: dict[str, Any] = {"type": click.FloatRange(min=0, min_open=True, max=LONGEST_SECONDS), "default": None}


class _WorkerCommand(click.Command):
    """Says of Celery's options that they are not built yet, instead of not knowing them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for argument in args:
            name = argument.partition("=")[0]
            if name in _LATER:
                raise NotBuiltYet(f"{name}: not built yet: {_LATER[name]}")
        return super().parse_args(ctx, args)


@click.command(cls=_WorkerCommand)
@options.app_option()
@options.topology_option
@click.option(
    "-Q",
    "--queues",
    metavar="Q1,Q2",
    default="",
    help="Queues, or partitions (clicks.3, clicks.0-3). [default: all but dead letters]",
)
@click.option("-P", "--pool", default="prefork", show_default=True, help=f"Where tasks run: {', '.join(POOLS)}.")
@click.option("-c", "--concurrency", type=int, default=None, help="Tasks at a time. [default: the number of CPUs]")
@click.option("--autoscale", metavar="MAX,MIN", default=None, help="Instead of -c: as many as the work needs.")
@click.option(
    "-n", "--hostname", "name", default=None, help="Name: %h host, %n its first part, %p pid. [default: amqpq@%h]"
)
@click.option("--prefetch", type=int, default=None, help="Deliveries held, per queue. [default: concurrency x 4]")
@click.option("--apply", is_flag=True, help="Declare the topology first; for one machine.")
@click.option("-l", "--loglevel", "log_level", default="info", show_default=True, help=f"{', '.join(logs.LEVELS)}.")
@click.option("--logformat", "log_format", default="text", show_default=True, help=f"{', '.join(logs.FORMATS)}.")
@click.option("--logfile", metavar="FILE", default=None, help="Append all output to it: %n name, %h host, %p both.")
@click.option("--pidfile", metavar="FILE", default=None, help="Keep the process id in it, and run once only.")
@click.option(
    "--health",
    metavar="ADDRESS",
    envvar="AMQPQ_HEALTH",
    default=None,
    help="Say there how the worker is: PORT, HOST:PORT or unix:/PATH. [default: $AMQPQ_HEALTH]",
)
@click.option(
    "--shutdown-timeout",
    type=options.duration,
    default=f"{SHUTDOWN_TIMEOUT_SECONDS:g}s",
    show_default=True,
    metavar="DURATION",
    help="For running tasks, after the first SIGTERM.",
)
@click.option("--time-limit", **_SECONDS, help="Seconds after which a task's process is killed. prefork only.")
@click.option("--soft-time-limit", **_SECONDS, help="Seconds after which a task gets SoftTimeLimitExceeded.")
@click.option(
    "--max-tasks-per-child", type=click.IntRange(min=1), default=None, help="Tasks before a process is replaced."
)
@click.option(
    "--max-memory-per-child", metavar="SIZE", default=None, help="Replace a process that a task leaves larger: 200MiB."
)
@click.option("-E", "--events", "--task-events", "events", is_flag=True, help="Send events, for Flower and its like.")
@click.option(
    "--no-fork",
    is_flag=True,
    help="Import the application in each process. [default: fork from one that has, where that is safe]",
)
@click.pass_context
def worker(  # noqa: PLR0913, PLR0917 - one parameter per option is click's way
    ctx: click.Context,
    app_reference: str,
    topology_file: Path | None,
    environment: str | None,
    queues: str,
    pool: str,
    concurrency: int | None,
    autoscale: str | None,
    name: str | None,
    prefetch: int | None,
    apply: bool,
    log_level: str,
    log_format: str,
    logfile: str | None,
    pidfile: str | None,
    health: str | None,
    shutdown_timeout: float,
    time_limit: float | None,
    soft_time_limit: float | None,
    max_tasks_per_child: int | None,
    max_memory_per_child: str | None,
    events: bool,
    no_fork: bool,
) -> None:
    """Run the tasks of an application.

    Stops on SIGTERM or SIGINT: finishes what runs, gives back what has not begun; a second signal stops at once.
    Exit codes: 0 everything begun was finished, 1 error, 3 work that was begun was given back.

    \b
    Examples:
      amqpq worker -A shop.tasks                        every queue, a process per CPU
      amqpq worker -A shop.tasks -Q default,web.high -c 8
      amqpq worker -A shop.tasks --apply -l debug       declare the topology first
      amqpq worker -A shop.tasks -P threads -c 20       tasks that wait for others
      amqpq worker -A shop.tasks --autoscale 10,2       from two processes to ten, as the work needs
      amqpq worker -A shop.tasks -P asyncio -c 200      async def tasks
      amqpq worker -A shop.tasks -P solo                one at a time, on the main thread: for debuggers
      amqpq worker -A shop.tasks -n images@%h --prefetch 4 -c 4    long tasks: hold no more than run
      amqpq worker -A shop.tasks --logformat json --health 8080    in a container, with probes
      amqpq worker -A shop.tasks -E                     with events, for Flower
      amqpq worker -A shop.tasks --soft-time-limit 50 --time-limit 60     for tasks that say no limits
    """
    log_level, log_format = logs.choose_log(log_level, log_format)
    name = worker_name(name)
    pool = choose_pool(pool)
    scale = choose_scale(pool, autoscale, concurrency)
    concurrency = choose_concurrency(pool, concurrency) if scale is None else scale.most
    before = descriptors()
    app = options.load_app(app_reference)
    opened = None if no_fork else descriptors() - before
    if ctx.get_parameter_source("topology_file") is ParameterSource.COMMANDLINE or environment is not None:
        app.topology = aside(lambda: options.load_topology(topology_file, environment), opened)
    elif not app.has_topology:
        app.topology = aside(lambda: app.topology, opened)
    topology = app.topology
    plan = WorkerPlan(
        reference=_exact(app, app_reference),
        queues=choose_queues(topology, [queue for queue in queues.split(",") if queue]),
        pool=pool,
        concurrency=concurrency,
        prefetch=choose_prefetch(prefetch, concurrency),
        name=name,
        shutdown_timeout_seconds=shutdown_timeout,
        logs=logs.LogPlan(log_level, log_format, name, logs.shared_lock()),
        apply=apply,
        topology=topology,
        limits=choose_limits(time_limit, soft_time_limit),
        recycling=choose_recycling(max_tasks_per_child, max_memory_per_child),
        health=None if health is None else read_address(expand(health, name)),
        scale=scale,
        events=events,
        opened=opened,
    )
    with _files(name, logfile, pidfile):
        ctx.exit(_run(plan, app))


def _run(plan: WorkerPlan, app: App) -> int:
    logs.configure(plan.logs)
    pool = _pool_words(plan)
    if plan.logs.format == "json":  # then every line is an object
        logging.getLogger(WORKER).info("%s starts: %s, queues %s", plan.name, pool, ", ".join(plan.queues))
    else:
        click.echo(banner(plan, app.topology, app.registry.names, pool, installed() or NOT_INSTALLED))
        sys.stdout.flush()
    code = run(plan, app, lambda link_name: config.link(app.topology, name=link_name))
    logging.shutdown()
    return int(code)


@contextmanager
def _files(name: str, logfile: str | None, pidfile: str | None) -> Iterator[None]:
    """Take the pid file and send the output to the log file, where there are to be such files."""
    taken = None if pidfile is None else PidFile(expand(pidfile, name))
    if taken is not None:
        taken.take()
    try:
        if logfile is not None:
            logs.to_file(expand(logfile, name))
        yield
    finally:
        if taken is not None:
            taken.release()


def _exact(app: App, reference: str) -> str:
    """Return `module:attribute` of the application, which is all that a child has to go by."""
    module_name, _, attribute = reference.partition(":")
    if not attribute:
        names = [name for name, value in vars(sys.modules[module_name]).items() if value is app]
        if not names:
            fail(f"-A {reference}: name the App, as in {module_name}:app")
        attribute = "app" if "app" in names else names[0]
    app.main_reference = f"{module_name}:{attribute}"
    return app.main_reference


def _pool_words(plan: WorkerPlan) -> str:
    unit = {"prefork": "process", "threads": "thread", "solo": "task at a time"}.get(plan.pool) or HUB_POOLS[plan.pool]
    plural = "" if plan.concurrency == 1 else "es" if unit.endswith("s") else "s"
    place = " in one process" if plan.pool in HUB_POOLS else ""
    count = plan.concurrency if plan.scale is None else f"{plan.scale.fewest} to {plan.scale.most}"
    return f"{plan.pool}, {count} {unit}{plural}{place}"
