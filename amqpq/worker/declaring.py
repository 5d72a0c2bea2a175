"""`amqpq worker --apply`: declares the topology before the worker consumes, under the project's lock. Blocking."""

from __future__ import annotations

import logging
import time
from typing import Final

from amqpq.errors import AccessRefused, ConfigurationError, ResourceLocked
from amqpq.log import WORKER
from amqpq.provision import held
from amqpq.provision.noting import note, typed
from amqpq.provision.ownership import Tenure, owned
from amqpq.topology import Topology, renames
from amqpq.topology.declarations import declarations
from amqpq.topology.generations import NOTHING_MOVED, Generations, resolve
from amqpq.transport import declare, flow, register
from amqpq.transport.interface import Connection

logger = logging.getLogger(WORKER)

LOCK_SECONDS: Final = 15.0
"""How long a worker waits for the project's lock. Another worker that declares has it for less than a second, and somebody who
migrates a queue for hours."""
PAUSE_SECONDS: Final = 0.25
TYPE_SECONDS: Final = 30.0


def declare_topology(topology: Topology, connection: Connection, timeout_seconds: float) -> bool:
    """Declare everything; answer False where somebody else is changing the topology, and goes on with that.

    Raises:
        PreconditionFailed, AccessRefused, ObjectNotFound: Something could not be declared.
    """
    tenure = _taken(topology, connection, timeout_seconds)
    if tenure is None:
        return False
    generations = read_generations(topology, connection)
    try:
        renames.check_current(topology, generations)
    except ConfigurationError as error:
        logger.warning("declares nothing, and takes what is there: %s", error)
        tenure.leave()
        return False
    wanted = resolve(declarations(topology), generations)
    note(connection, topology.project, generations, wanted.queues, timeout_seconds)
    applied = flow.run(declare.apply(connection.channel, wanted), timeout_seconds)
    applied = held.settled(applied, wanted, connection, topology.project)
    tenure.note(owned(wanted, applied))
    tenure.end()
    for remark in tenure.remarks:
        logger.info("%s", remark)
    declare.demand(applied)
    logger.info("declared the topology of project %s", topology.project)
    return True


def _taken(topology: Topology, connection: Connection, timeout_seconds: float) -> Tenure | None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        tenure = Tenure(connection, topology.project, timeout_seconds)
        try:
            tenure.take()
        except ResourceLocked as error:
            if time.monotonic() > deadline:
                logger.warning("declares nothing, and takes what is there: %s", error)
                return None
            time.sleep(PAUSE_SECONDS)
        else:
            return tenure


def read_generations(topology: Topology, connection: Connection) -> Generations:
    """Read where the queues live.

    Raises:
        LocalError: The record was written by a later version, or does not go with the file.
    """
    try:
        generations = register.where_now(connection, topology)
    except AccessRefused as error:
        logger.info("cannot ask whether queues have moved, and look where the file says: %s", error)
        return NOTHING_MOVED
    if not generations.to_note:
        return generations
    try:
        return typed(connection, generations, resolve(declarations(topology), generations).queues, TYPE_SECONDS)
    except AccessRefused as error:
        logger.info("cannot ask of what type renamed queues are, and take the file's: %s", error)
        return generations
