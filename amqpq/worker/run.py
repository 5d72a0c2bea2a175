"""Starts a worker and waits for its end: checks first, then pool, connections, loop, signals.

The loop runs on the main thread. In the solo pool user code has the main thread, and the loop runs beside it.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final, NamedTuple, TypeAlias

from amqpq import signals
from amqpq.clock import SYSTEM_CLOCK
from amqpq.errors import AccessRefused, ConfigurationError
from amqpq.lifecycle import State
from amqpq.log import WORKER
from amqpq.message import ResultEnvelope
from amqpq.provision import held
from amqpq.topology import Topology, versions
from amqpq.topology.declarations import Declarations, exchange_spec, queue_spec
from amqpq.topology.delays import ladder, no_ladder
from amqpq.topology.generations import NOTHING_MOVED, Generations, located
from amqpq.topology.partitions import hash_exchange, partitioned
from amqpq.topology.permits import permit_queues, permit_spec
from amqpq.transport import declare, flow
from amqpq.transport.interface import Connection
from amqpq.types import ServerInfo
from amqpq.worker import declaring, timeouts
from amqpq.worker.control import ControlPlan
from amqpq.worker.deadletter import Place
from amqpq.worker.execute import Executor
from amqpq.worker.herald import Herald
from amqpq.worker.host import Host
from amqpq.worker.lane import FIRST_SECONDS, ConnectionSource, Lane
from amqpq.worker.limits import Timing, check_pool, limits_of_task
from amqpq.worker.loop import ExitCode, Loop, LoopPlan, Parts
from amqpq.worker.plan import WorkerPlan, check_unpatched
from amqpq.worker.pools.alarm import Alarm
from amqpq.worker.pools.childprocess import ChildPlan, Start, execute
from amqpq.worker.pools.forked import Template, make_template, obstacle
from amqpq.worker.pools.hubpool import HUB_POOLS, HubPool
from amqpq.worker.pools.interface import Pool
from amqpq.worker.pools.processes import ProcessPool
from amqpq.worker.pools.threads import SoloPool, ThreadPool
from amqpq.worker.reactor import Reactor
from amqpq.worker.slots import check_keys
from amqpq.worker.watch import Watch

logger = logging.getLogger(WORKER)

DECLARE_SECONDS: Final = 60.0
"""For verifying or declaring everything a worker needs."""

LinkOpener: TypeAlias = Callable[[str], ConnectionSource]
"""Makes a link to the topology's broker, given the name to show beside its connection."""


def run(plan: WorkerPlan, host: Host, open_link: LinkOpener) -> ExitCode:
    """Run a worker until it is told to stop.

    Args:
        plan: What was asked for.
        host: The application.
        open_link: Called twice: a worker consumes and publishes on connections of their own.

    Returns:
        The exit code: 0 all finished, 1 error, 3 work was given back.

    Raises:
        ConfigurationError: There is no task, or the pool or the broker cannot keep a limit.
        KeyProblem: Results have to be signed and the key is not there.
        TransportError: No broker, or a queue is missing (with the remedy).
    """
    _check_signing(host)
    if not host.registry.names:
        raise ConfigurationError(
            f"-A {plan.reference}: no task is registered there; is the module with the tasks imported?"
        )
    check_unpatched()
    check_pool(plan.pool, plan.limits, plan.recycling, host.registry)
    check_retries(host)
    check_keys(host.topology, host.registry)
    template = choose_template(plan)  # while there is no thread and no connection
    start_process = execute if template is None else template.start
    signals.worker_init.send(plan.name)
    herald = Herald(plan.name)
    try:
        with Watch(plan.name, plan.health) as watch:
            return _work(plan, host, open_link, Surroundings(herald, watch, start_process))
    finally:
        herald.close()
        if template is not None:
            template.close()
        signals.worker_shutdown.send(plan.name)


class Surroundings(NamedTuple):
    """What a worker has before it has a connection."""

    herald: Herald
    watch: Watch
    start_process: Start


def choose_template(plan: WorkerPlan) -> Template | None:
    """Return a process from which children are forked; None where each is started anew, and the log says why."""
    if plan.pool != "prefork" or plan.opened is None:
        return None
    why_not = obstacle(plan.opened)
    if why_not:
        logger.info("each process of the pool loads the application for itself, and shares no memory: %s", why_not)
        return None
    return make_template()


def _work(plan: WorkerPlan, host: Host, open_link: LinkOpener, surroundings: Surroundings) -> ExitCode:
    herald, watch, start_process = surroundings
    consuming = open_link(f"{plan.name} consuming")
    connection = consuming.connection(FIRST_SECONDS)
    check_broker(plan, host, connection.server)
    generations = declaring.read_generations(host.topology, connection)
    prepare(plan, host.topology, connection, generations)
    reactor = Reactor()
    pool = make_pool(plan, host, reactor, start_process)
    loop = Loop(
        LoopPlan(
            plan.queues,
            plan.prefetch,
            Place(socket.gethostname(), plan.name),
            plan.shutdown_timeout_seconds,
            ControlPlan(plan.events),
            plan.scale,
            tuple(hard_limits(plan, host).values()),
            generations,
        ),
        Parts(
            host,
            pool,
            Lane(consuming, "consuming", reactor),
            Lane(open_link(f"{plan.name} publishing"), "publishing", reactor),
            reactor,
            SYSTEM_CLOCK,
            herald,
            watch.pulse,
            watch.beat_seconds,
        ),
    )

    def stop(number: int, _frame: FrameType | None) -> None:
        reactor.post(loop.signalled, number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _beside(loop, pool) if isinstance(pool, SoloPool) else loop.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        reactor.close()


def check_broker(plan: WorkerPlan, host: Host, server: ServerInfo) -> None:
    """See that the broker is one the file is for, and patient enough for the tasks.

    Raises:
        ConfigurationError: It is not; the message says what to change.
    """
    requirement = host.topology.requires.rabbitmq
    if not versions.allows(requirement, server.version_tuple):
        raise ConfigurationError(
            f"the file is for RabbitMQ {requirement} (`requires:`), and the broker is {server.version}; lint the file for that "
            "version by changing `requires:`, or use another broker"
        )
    waves = math.ceil(plan.prefetch / plan.concurrency)
    patience = timeouts.check(host.topology, plan.queues, hard_limits(plan, host), waves, server.version_tuple)
    if patience.refusals:
        raise ConfigurationError("\n".join(patience.refusals))
    for warning in patience.warnings:
        logger.warning("%s", warning)


def check_retries(host: Host) -> None:
    """See that tasks which are to be tried again can wait for that in the broker.

    Raises:
        ConfigurationError: There is no delay ladder.
    """
    if host.topology.delays is not None:
        return
    tasks = (host.registry.get(name) for name in host.registry.names)
    names = [task.name for task in tasks if task is not None and task.options.autoretry_for]
    if names:
        raise ConfigurationError(f"{', '.join(names)}: autoretry_for= needs delays; {no_ladder(host.topology)}")


def hard_limits(plan: WorkerPlan, host: Host) -> dict[str, float | None]:
    """Return the hard time limit of every task, seconds; None where it has none."""
    found = {name: host.registry.get(name) for name in host.registry.names}
    return {
        name: limits_of_task(task.options).or_else(plan.limits).hard for name, task in found.items() if task is not None
    }


def prepare(
    plan: WorkerPlan, topology: Topology, connection: Connection, generations: Generations = NOTHING_MOVED
) -> None:
    """Declare the topology if that was asked for; otherwise see that the queues are there, and as the file says.

    A queue that has moved only has to be there: the file may be of before the migration or of after it. Where somebody else is
    changing the topology nothing is declared, and what is there has to be enough.

    Raises:
        ObjectNotFound: A queue is missing; `amqpq topology apply` creates it.
        PreconditionFailed: A queue (or what `--apply` declares) is there with other properties, and no policy of this project
            makes the file's hold.
        ConfigurationError: `--apply` is asked for what a worker cannot write.
    """
    if plan.apply and topology.policies:
        raise ConfigurationError(
            "--apply writes no policies (a worker speaks AMQP alone); run `amqpq topology apply`, and leave --apply out"
        )
    if plan.apply and declaring.declare_topology(topology, connection, DECLARE_SECONDS):
        return
    wanted = located(needed(topology, plan.queues), generations)
    try:
        flow.run(declare.verify(connection.channel, wanted), DECLARE_SECONDS)
        held.compare(wanted, connection, topology.project, DECLARE_SECONDS)
    except AccessRefused as error:
        # Some broker versions want the configure permission even for looking; consuming will tell.
        logger.warning("cannot verify the queues before consuming: %s", error)


def needed(topology: Topology, queues: Sequence[str]) -> Declarations:
    """Return what a worker relies on: its queues, those their dead letters go to, the delay ladder, the permits.

    Of a partition that is also the exchange before it: without it the partition gets nothing.
    """
    targets = (topology.dead_letter_of(queue) for queue in queues)
    names = dict.fromkeys((*queues, *(target for target in (*targets, topology.revocations) if target is not None)))
    known = [found for name in names if (found := topology.queue(name)) is not None]
    rungs = ladder(topology)
    wholes = {queue.part_of for queue in known}
    hashing = [hash_exchange(whole) for whole in partitioned(topology) if whole.name in wholes]
    return Declarations(
        exchanges=tuple(exchange_spec(x) for x in (*rungs.exchanges, *hashing) if x.manage == "full"),
        queues=(
            *(queue_spec(queue) for queue in (*known, *rungs.queues) if queue.manage == "full"),
            *(permit_spec(name, count) for name, count in permit_queues(topology)),
        ),
        bindings=(),
        expected_queues=tuple(queue_spec(queue) for queue in known if queue.manage != "full"),
    )


def make_pool(plan: WorkerPlan, host: Host, reactor: Reactor, start_process: Start = execute) -> Pool:
    """Return the pool of the plan, not started."""
    if plan.pool == "prefork" or plan.pool in HUB_POOLS:
        child_plan = ChildPlan(
            plan.reference, plan.name, plan.logs, plan.topology, plan.limits, plan.recycling, plan.pool
        )
        kind = HubPool if plan.pool in HUB_POOLS else ProcessPool
        return kind(child_plan, plan.first_size, reactor, start_process)
    if plan.pool == "solo":
        return SoloPool(Executor(host, plan.name, timing=Timing("solo", plan.limits, Alarm())), reactor)
    return ThreadPool(Executor(host, plan.name), plan.first_size, reactor)


def _check_signing(host: Host) -> None:
    """Sign something: better now than when the first task is done and its result cannot be sent."""
    host.codec.encode_result(ResultEnvelope("probe", State.SUCCESS), reply_to="probe")


def _beside(loop: Loop, pool: SoloPool) -> ExitCode:
    """Run the loop on a thread of its own and tasks on this one."""
    codes: list[ExitCode] = []

    def run_loop() -> None:
        code = ExitCode.ERROR
        try:
            code = loop.run()
        except Exception:
            logger.exception("the worker's loop failed")
        codes.append(code)
        if pool.busy:
            # A task still has the main thread, and nothing can end it but the end of the process.
            logging.shutdown()
            os._exit(code)
        pool.kill()

    beside = threading.Thread(target=run_loop, name="amqpq-loop")
    beside.start()
    pool.serve()
    beside.join()  # it ends the pool a little before it knows its exit code
    return codes[0]
