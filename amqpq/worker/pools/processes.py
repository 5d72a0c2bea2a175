"""The prefork pool: children that run tasks, each on a socket of its own; the parent owns them and never waits for them.

A child is never a fork of the parent, which has threads and a TLS connection, and neither survives a fork. It is a fork of the
template (see `forked`), with which it shares the memory of what the application has loaded; where there can be none, it is
a fresh interpreter (`python -c`). Without `multiprocessing`, which would run the program's main module once more in each
child, and whose children may not have children of their own.

How works are spread (`shares` is the pure part). Each idle child gets one before any gets two. A child gets more than one
only if tasks have been short lately: as many as it should finish in `PIPELINE_SECONDS`, at most `PIPELINE_COUNT`. So ten
waiting no-op tasks cost one write, and a task that takes a second has nobody behind it. Averages err; a child that has not
been heard of for `SILENCE_SECONDS` while works wait behind the running one is asked for them back, and they go to others.

A task with a hard time limit has its deadline on the board of its child. The parent looks at the boards of busy children
every `LOOK_SECONDS`, or sooner where it knows of a deadline, and kills the child that is over one: only that work is
reported for it. A child that ended the task in the same moment, and died during the next one, is nobody's fault: that
work runs again.

Children do not live for ever where `Recycling` says so. One that has had its number of tasks was never given more; one that
has grown too large hands back what it has not begun. Either is let go when it holds nothing: its replacement starts while it
runs its exit handlers. So there are never more tasks at a time than there are children.

The pool grows by starting children and shrinks by letting some go, idle ones first: a child that is to go gets nothing more,
hands back what it has not begun, and ends when it holds nothing.

A work that has killed a child before runs alone: nothing else is with its child, so nothing else dies with it.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from amqpq.log import WORKER
from amqpq.worker.pools import wire
from amqpq.worker.pools.childprocess import Child, ChildPlan, Start, death, execute, ignores
from amqpq.worker.pools.interface import Crash, Listener, check_resize
from amqpq.worker.reactor import Reactor, Timer
from amqpq.worker.vitals import Member
from amqpq.worker.work import RUNNING, Finished, Remains, Work

logger = logging.getLogger(WORKER)

PIPELINE_COUNT: Final = 32
PIPELINE_SECONDS: Final = 0.005
OVERHEAD_SECONDS: Final = 0.0002
"""What a task costs besides its function: checking, decoding, encoding, signing (Ed25519: 120 us of it)."""
SILENCE_SECONDS: Final = 0.02
AVERAGE_WEIGHT: Final = 0.1
"""Of the newest run time in the moving average."""
STOP_SECONDS: Final = 3.0
"""For idle children to run their exit handlers."""
WATCH_SECONDS: Final = 1.0
"""How often children are looked after that died without closing their socket (a grandchild may hold it open)."""
LOOK_SECONDS: Final = 0.1
"""How often the boards are looked at: a hard limit is kept to this."""
YOUNG_SECONDS: Final = 5.0
"""A child that dies sooner counts as one that cannot live."""
FAILED_STARTS: Final = 5
"""Children in a row that cannot live before the pool gives up."""


def shares(loads: Sequence[int], waiting: int, depths: Sequence[int]) -> list[int]:
    """Spread `waiting` works over children.

    Args:
        loads: How many works each child has.
        waiting: How many there are to give.
        depths: How many each child may have.

    Returns:
        How many each child gets: always to the least loaded first, so nobody gets a second before all have one.
    """
    given = [0] * len(loads)
    for level in range(max(depths, default=0)):
        for child, load in enumerate(loads):
            if waiting == 0:
                return given
            if load + given[child] == level and level < depths[child]:
                given[child] += 1
                waiting -= 1
    return given


class ProcessPool:
    """`prefork`: a number of child processes.

    Args:
        plan: What the children are told.
        count: How many.
        reactor: The loop's.
        start_process: Starts the process of a child.
    """

    name = "prefork"

    def __init__(self, plan: ChildPlan, count: int, reactor: Reactor, start_process: Start = execute) -> None:
        self._plan = plan
        self._start_process = start_process
        self._count = count
        self._reactor = reactor
        self._children: list[Child] = []
        self._leaving: list[tuple[Child, float]] = []
        self._average_seconds = PIPELINE_SECONDS
        self._failures = 0
        self._announced = False
        self._over = False
        self._silence: Timer | None = None
        self._look: Timer | None = None
        self._listener: Listener

    def describe(self) -> str:
        """Name the pool and its size."""
        return f"prefork, {self._count} process{'es' if self._count != 1 else ''}"

    @property
    def size(self) -> int:
        """How many children there are to be."""
        return self._count

    def grow(self, count: int) -> None:
        """Start so many more children; those that were to go and have not gone yet stay instead."""
        self._count += count
        going = [child for child in self._children if child.surplus][:count]
        for child in going:
            child.surplus = False
        for _ in range(count - len(going)):
            self._spawn()

    def shrink(self, count: int) -> None:
        """Let so many children go, idle ones first."""
        check_resize(self, -count)
        self._count -= count
        staying = [child for child in self._children if not child.surplus]
        # What is not ready has begun nothing, and what is about to be replaced goes anyway.
        staying.sort(key=lambda child: (child.ready and not child.retiring, len(child.held)))
        for child in staying[: max(0, len(staying) - self._count)]:
            child.surplus = True
            if len(child.held) > 1 or (child.held and child.unsent):
                child.recall()
            elif not child.held:
                self._let_go(child)
        self._announce()

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the children."""
        return tuple(child.process.pid for child in self._children)

    def census(self) -> tuple[Member, ...]:
        """Return how the children are: what this side knows of each, and what its board says."""
        return tuple(
            Member(
                f"child {child.process.pid}",
                child.process.pid,
                child.process.returncode is None,
                child.ready,
                *(wire.read_running(child.board) if child.held else (None, None)),
                child.done,
            )
            for child in self._children
        )

    def start(self, listener: Listener) -> None:
        """Start every child; they load the application at the same time."""
        self._listener = listener
        for _ in range(self._count):
            self._spawn()
        self._reactor.call_later(WATCH_SECONDS, self._watch)

    def offer(self, waiting: deque[Work]) -> None:
        """Give waiting works to children."""
        if not waiting or self._over:
            return
        now = self._reactor.monotonic()
        while waiting and waiting[0].alone:
            idle = next((child for child in self._children if self._takes_more(child, now) and not child.held), None)
            if idle is None:
                return
            self._give(idle, [waiting.popleft()], now)
        able = [child for child in self._children if self._takes_more(child, now)]
        several = next((index for index, work in enumerate(waiting) if work.alone), len(waiting))
        given = shares([len(child.held) for child in able], several, [self._room(child) for child in able])
        for child, share in zip(able, given, strict=True):
            if share:
                self._give(child, [waiting.popleft() for _ in range(share)], now)

    @property
    def room(self) -> int:
        """How many children have nothing to do."""
        now = self._reactor.monotonic()
        return 0 if self._over else sum(not child.held and self._takes_more(child, now) for child in self._children)

    @property
    def depth(self) -> int:
        """How many works a child may hold, by how long tasks have taken lately."""
        expected = int(PIPELINE_SECONDS / (self._average_seconds + OVERHEAD_SECONDS))
        return max(1, min(PIPELINE_COUNT, expected))

    def recall(self) -> None:
        """Ask every child for what it has not begun."""
        for child in self._children:
            if len(child.held) > 1 or (child.held and child.unsent):
                child.recall()

    def terminate(self, number: int, signal_number: int) -> bool:
        """Signal the child that runs this work; if it dies of it, only this work is revoked."""
        for child in self._children:
            if wire.BOARD.unpack_from(child.board, 0) == (number, RUNNING) and number in child.held:
                # Children ignore SIGTERM and SIGINT, which a terminal or a service manager sends to the whole group. So a
                # signal that this child still ignores, since its task has no handler for it, would end nothing.
                if ignores(child.process.pid, signal_number):
                    signal_number = signal.SIGKILL
                child.terminated = (number, signal.Signals(signal_number).name)
                child.process.send_signal(signal_number)
                return True
        return False

    def kill(self) -> None:
        """Kill every child, and what its tasks started."""
        self._over = True
        everyone = [*self._children, *(child for child, _ in self._leaving)]
        for child in everyone:
            self._kill(child)
        for child in everyone:
            child.process.wait()
            self._release(child)
        self._children.clear()
        self._leaving.clear()

    def stop(self) -> None:
        """Hang up; children run their exit handlers, and are killed if that takes too long."""
        self._over = True
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children:
            self._reactor.unwatch(child.works)
            child.works.shutdown(socket.SHUT_WR)
        for child in [*self._children, *(child for child, _ in self._leaving)]:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("child %d did not end within %g s; killing it", child.process.pid, STOP_SECONDS)
                self._kill(child)
                child.process.wait()
            child.close()
        self._children.clear()
        self._leaving.clear()

    # -------------------------------------------------------------------------------------------------------- children

    def _spawn(self) -> None:
        child = Child(self._plan, self._reactor.monotonic(), self._start_process)
        self._children.append(child)
        self._flush(child)

    def _room(self, child: Child) -> int:
        """How many works a child may hold now: no more than it will live to run."""
        tasks = self._plan.recycling.tasks
        return self.depth if tasks is None else min(self.depth, tasks - child.done)

    def _takes_more(self, child: Child, now: float) -> bool:
        if not child.ready or child.alone or child.recalling or child.retiring or child.surplus:
            return False
        return not child.held or now - child.heard < SILENCE_SECONDS

    def _give(self, child: Child, works: list[Work], now: float) -> None:
        child.give(works, now)
        self._flush(child)
        if self._look is None:
            self._look = self._reactor.call_later(LOOK_SECONDS, self._look_at_boards)
        if len(child.held) > 1 and self._silence is None:
            self._silence = self._reactor.call_later(SILENCE_SECONDS, self._break_silence)

    def _flush(self, child: Child) -> None:
        """Write what the socket takes; the rest goes when it can."""
        try:
            sent = child.works.send(child.unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            child.unsent.clear()  # it is dying; reading says so next
            sent = 0
        del child.unsent[:sent]
        if child.watched_for_room is not bool(child.unsent):
            child.watched_for_room = bool(child.unsent)
            self._reactor.watch(child.works, lambda events: self._heard(child, events), write=child.watched_for_room)

    def _break_silence(self) -> None:
        self._silence = None
        now = self._reactor.monotonic()
        piled_up = [child for child in self._children if len(child.held) > 1]
        for child in piled_up:
            if now - child.heard >= SILENCE_SECONDS:
                child.recall()
        if piled_up:
            self._silence = self._reactor.call_later(SILENCE_SECONDS, self._break_silence)

    def _look_at_boards(self) -> None:
        """Kill children that are over a deadline; look again while any is busy."""
        self._look = None
        if self._over:
            return
        now = self._reactor.monotonic()
        pause = LOOK_SECONDS
        for child in self._children:
            posted = wire.read_deadline(child.board) if child.held and child.overran is None else None
            if posted is None:
                continue
            number, due, limit = posted
            if due > now:
                pause = min(pause, due - now)
            elif number in child.held:
                child.overran = (number, limit)
                self._kill(child)
        if any(child.held for child in self._children):
            self._look = self._reactor.call_later(pause, self._look_at_boards)

    def _heard(self, child: Child, _events: int) -> None:
        if child.unsent:
            self._flush(child)
        try:
            data = child.works.recv(wire.READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._died(child)
            return
        child.heard = self._reactor.monotonic()
        outcomes: list[Finished] = []
        for message in child.unframer.feed(data):
            if isinstance(message, (wire.Ready, wire.Unfit, wire.HandedBack, wire.Full)):
                self._told(child, message)
            elif wire.is_report(message):
                self._listener.reported(wire.unpack_report(message))
            else:
                outcomes.append(wire.unpack_finished(message))
        if outcomes:
            self._finished(child, outcomes)
        if (child.retiring or child.surplus) and not child.held and child in self._children:
            self._let_go(child)

    def _finished(self, child: Child, outcomes: list[Finished]) -> None:
        for outcome in outcomes:
            child.held.pop(outcome.number, None)
            self._average_seconds += AVERAGE_WEIGHT * (outcome.seconds - self._average_seconds)
        child.done += len(outcomes)
        if child.done == self._plan.recycling.tasks:
            child.retiring = True
            logger.info("child %d has done its %d tasks; replacing it", child.process.pid, child.done)
        if not child.held:
            child.alone = False
        self._listener.finished(outcomes)

    def _told(self, child: Child, message: wire.Ready | wire.Unfit | wire.HandedBack | wire.Full) -> None:
        if isinstance(message, wire.HandedBack):
            child.recalling = child.recalling and not message.recalled
            numbers = [number for number in message.numbers if child.held.pop(number, None) is not None]
            if numbers:
                self._listener.handed_back(numbers)
        elif isinstance(message, wire.Full):
            child.retiring = True
            mebibytes = message.resident_bytes / 2**20
            logger.info("child %d has grown to %.1f MiB; replacing it", child.process.pid, mebibytes)
        elif isinstance(message, wire.Unfit):
            child.why_unfit = message.reason
        else:
            child.ready = True
            self._announce()

    def _announce(self) -> None:
        if not self._announced and all(each.ready for each in self._children):
            self._announced = True
            self._listener.pool_ready()

    # ----------------------------------------------------------------------------------------------------------- death

    def _let_go(self, child: Child) -> None:
        """Hang up on a child that holds nothing and gets nothing more; start another in its place, if there is to be one."""
        self._children.remove(child)
        self._reactor.unwatch(child.works)
        child.works.shutdown(socket.SHUT_WR)
        self._leaving.append((child, self._reactor.monotonic() + STOP_SECONDS))
        self._replace()

    def _see_off(self) -> None:
        """Bury those that have left; kill what does not want to."""
        now = self._reactor.monotonic()
        for entry in list(self._leaving):
            child, deadline = entry
            if child.process.poll() is None and now >= deadline:
                logger.warning("child %d did not end within %g s; killing it", child.process.pid, STOP_SECONDS)
                self._kill(child)
                child.process.wait()
            if child.process.poll() is not None:
                # Only now: a child takes the end of its control socket for the end of its parent.
                child.close()
                self._leaving.remove(entry)

    def _watch(self) -> None:
        if self._over:
            return
        self._see_off()
        for child in list(self._children):
            if child.process.poll() is not None:
                self._drain(child)
        self._reactor.call_later(WATCH_SECONDS, self._watch)

    def _drain(self, child: Child) -> None:
        """Read the last words of a dead child whose socket somebody still holds open, then bury it."""
        while child in self._children:
            before = len(child.held), child.heard
            self._heard(child, 0)
            if (len(child.held), child.heard) == before:
                break
        if child in self._children:
            self._died(child)

    def _died(self, child: Child) -> None:
        self._reactor.unwatch(child.works)
        self._children.remove(child)
        self._kill(child)
        how = death(child.process.wait())
        number, stage = wire.BOARD.unpack_from(child.board, 0)
        remains = child.remains()
        self._release(child)
        if self._over:
            return
        lived = self._reactor.monotonic() - child.born
        stillborn = not child.ready or (lived < YOUNG_SECONDS and not child.held)
        self._failures = self._failures + 1 if stillborn else 0
        if not self._announced or self._failures >= FAILED_STARTS:
            reason = child.why_unfit or f"child {child.process.pid} {how} before it could work"
            self._listener.pool_failed(reason)
            return
        self._report_death(child, remains, number, stage)
        # The first replacement comes at once; ones that cannot live come slower and slower.
        pause = 0.0 if not self._failures else random.uniform(0.5, 1.0) * 2.0 ** (self._failures - 1)  # noqa: S311
        self._reactor.call_later(pause, self._replace)

    def _report_death(self, child: Child, remains: Remains, number: int, stage: int) -> None:
        """Tell the loop what a dead child held; `number` and `stage` are what its board says."""
        overran = None
        how = death(child.process.returncode)
        terminated = ""
        guilty = number if number in child.held else None
        if child.overran is not None:
            # Killed by us: if it was at another work by then, that one is as innocent as those that waited.
            guilty = guilty if child.overran[0] == number else None
            overran = child.overran[1]
            logger.warning("killed child %d: its task was over its time limit of %g s", child.process.pid, overran)
        elif child.terminated is not None and child.terminated[1] in how:
            guilty = guilty if child.terminated[0] == number else None
            terminated = child.terminated[1]
            logger.warning("ended child %d by %s: its task was revoked", child.process.pid, terminated)
        else:
            self._log_death(child, how)
        others = tuple(held for held in child.held if held != guilty)
        if guilty is not None or others:
            self._listener.crashed(
                Crash(guilty, stage, f"child {child.process.pid} {how}", others, overran, remains, terminated)
            )

    def _log_death(self, child: Child, how: str) -> None:
        logger.error("child %d %s%s", child.process.pid, how, f": {child.why_unfit}" if child.why_unfit else "")

    def _replace(self) -> None:
        if not self._over and sum(not child.surplus for child in self._children) < self._count:
            self._spawn()

    def _kill(self, child: Child) -> None:
        """Kill a child and its process group: what its task started must not go on without it."""
        try:
            os.killpg(child.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            if child.process.poll() is None:
                child.process.kill()

    def _release(self, child: Child) -> None:
        self._reactor.unwatch(child.works)
        child.close()
