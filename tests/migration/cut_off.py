"""Begins a migration of `orders`, or goes on with it, and stands still in a step after some of its writes, to be killed.

    python cut_off.py TOPOLOGY STEP WRITES [back] [swap]

It prints `here` when it is there. WRITES: how many of the step's writes are made; 0 is before the first, with the step in the
journal. `swap`: a step of the second half. Where the file has renamed the queue, it is the migration to its new name.
"""

from __future__ import annotations

import sys
import time

from amqpq import config, topology
from amqpq.provision import preflight
from amqpq.provision.broker_facts import ManagementFacts
from amqpq.provision.migrating import Migrator, Patience
from amqpq.provision.migration import Migration, Step, abort
from amqpq.provision.migration import actions as all_actions


class CutOff(Migrator):
    """Stands still where it is told to."""

    step = Step.DONE
    writes = 0
    back = False
    swap = False

    def perform(self, migration: Migration) -> None:
        """Do a step, or stand still in it."""
        way = migration.back or migration.aborting, migration.returning
        if migration.step is self.step and way == (self.back, self.swap):
            for action in all_actions(migration)[: self.writes]:
                self.write(action)
            sys.stdout.write("here\n")
            sys.stdout.flush()
            time.sleep(600)
        super().perform(migration)


def main() -> None:
    """Go."""
    path, step, writes = sys.argv[1:4]
    loaded = topology.load(path)
    management = config.management(loaded)
    assert management is not None
    facts = ManagementFacts(management, config.addresses(loaded)[0].vhost)
    connection = config.link(loaded).connection(30)
    migrator = CutOff(connection, loaded.project, facts, Patience(quiet=1))
    migrator.step, migrator.writes, migrator.back = Step(step), int(writes), "back" in sys.argv
    migrator.swap = "swap" in sys.argv
    migrator.lock()
    queue = "orders" if "orders" in loaded.queues else "purchases"
    migration = migrator.find(queue)
    if migration is None:
        wish = preflight.Wish(queue, strategy="swap" if migrator.swap else "drain")
        found = preflight.examine(loaded, wish, migrator, connection, facts)
        assert found.migration is not None
        migration = found.migration
        migrator.begin(migration)
    elif migrator.back and not (migration.back or migration.aborting):
        migration = abort(migration)
    migrator.go(migration)


if __name__ == "__main__":
    main()
