"""Runs the `checks:` of a topology: unit tests of the wiring, without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from amqpq.errors import LocalError
from amqpq.topology import permissions
from amqpq.topology.expected import Check, ExpireCheck, FailCheck, PermissionCheck, PublishCheck
from amqpq.topology.fates import ENDLESS, Ending, Failure, Follower, Message, Step, Walked, span_text, time_text
from amqpq.topology.model import Route, Topology, did_you_mean
from amqpq.topology.routing import Reach, Router, router

KINDS: Final = {PublishCheck: "publish", FailCheck: "fail", ExpireCheck: "expire", PermissionCheck: "permission"}

_FAILS: Final = {
    "raise": "raises",
    "reject": "is rejected",
    "crash": "kills its process",
    "limit": "comes back unacknowledged",
}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check.

    `message` is what was tried, `outcome` what became of it, `faults` what is wrong with that, `steps` the way. `reach` and
    `address` (exchange and key) are of a message that is published, `endings` of one that fails or expires, `answers` of a
    permission.
    """

    check: Check
    message: str
    outcome: str
    faults: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    address: tuple[str, str] = ("", "")
    reach: Reach = field(default_factory=lambda: Reach(frozenset()))
    endings: tuple[Ending, ...] = ()
    answers: tuple[permissions.Answer, ...] = ()
    walked: Walked = field(default_factory=Walked)
    route: str | None = None
    """The pattern of the route that it took."""

    @property
    def kind(self) -> str:
        """publish, fail, expire or permission."""
        return KINDS[type(self.check)]

    @property
    def passed(self) -> bool:
        """Whether it is as the check says."""
        return not self.faults

    @property
    def missing(self) -> tuple[str, ...]:
        """The queues that a message should have reached, and did not."""
        wanted = self.check.reaches if isinstance(self.check, PublishCheck) else ()
        return tuple(sorted(set(wanted) - self.reach.queues))

    @property
    def extra(self) -> tuple[str, ...]:
        """The queues that a message should not have reached, and did."""
        if not isinstance(self.check, PublishCheck):
            return ()
        # Reaching nothing at all can only be meant exactly.
        exactly = self.check.exactly or not self.check.reaches
        return tuple(sorted(self.reach.queues - set(self.check.reaches))) if exactly else ()


def run(topology: Topology) -> tuple[CheckResult, ...]:
    """Run every check.

    Raises:
        LocalError: A check names a task that has no route, or an exchange, a queue or a user that does not exist.
    """
    simulator = router(topology)
    return tuple(_run(topology, simulator, check) for check in topology.checks)


def _run(topology: Topology, simulator: Router, check: Check) -> CheckResult:
    if isinstance(check, PublishCheck):
        return _publish(topology, simulator, check)
    if isinstance(check, FailCheck):
        return _fail(topology, simulator, check)
    if isinstance(check, ExpireCheck):
        return _expire(topology, simulator, check)
    return _permission(topology, check)


# ------------------------------------------------------------------------------------------------------------ publish


def _publish(topology: Topology, simulator: Router, check: PublishCheck) -> CheckResult:
    exchange, key, route = check.exchange, check.key, None
    if check.task is not None:
        route = topology.route_for(check.task)
        exchange, key = route.exchange, route.routing_key(check.task, check.arguments)
    reached = simulator.route(exchange, key, check.headers, trace=True)
    walked = Walked()
    walked.note(reached)
    tried = CheckResult(
        check,
        message=_published(check, exchange, key),
        outcome=", ".join(sorted(reached.queues)) or "no queue",
        steps=tuple(Step(0.0, text) for text in reached.steps),
        address=(exchange, key),
        reach=reached,
        walked=walked,
        route=None if route is None else route.pattern,
    )
    return _judged(tried, (_listed("misses", tried.missing), _listed("should not reach", tried.extra)))


def _published(check: PublishCheck, exchange: str, key: str) -> str:
    if check.task is not None:
        return f"task {check.task}"
    headers = ", ".join(f"{name}={value!r}" for name, value in check.headers.items())
    where = f"exchange {exchange}" if exchange else "default exchange"
    return f"{where}, key '{key}'{f', headers {headers}' if headers else ''}"


def _judged(tried: CheckResult, faults: Sequence[str]) -> CheckResult:
    return replace(tried, faults=tuple(fault for fault in faults if fault))


def _listed(words: str, names: Sequence[str]) -> str:
    return f"{words} {', '.join(names)}" if names else ""


# ----------------------------------------------------------------------------------------------------- fail and expire


@dataclass(frozen=True, slots=True)
class _Begin:
    """Where a message is at the beginning: one for each queue, and the route that it took."""

    messages: tuple[Message, ...]
    route: Route | None
    steps: tuple[Step, ...]


def _begin(
    topology: Topology, simulator: Router, check: FailCheck | ExpireCheck, walked: Walked, *, run: bool
) -> _Begin:
    """Publish the message of a check, or put it into its queue; `run`: only where tasks are run."""
    if check.task is None:
        queue = check.queue or ""
        if queue not in topology.queues:
            msg = f"the topology has no queue '{queue}'{did_you_mean(queue, topology.queues)}"
            raise LocalError(msg)
        return _Begin((Message(queue, queue),), None, ())
    route = topology.route_for(check.task)
    key = route.routing_key(check.task, check.arguments)
    reached = simulator.route(route.exchange, key, trace=True)
    walked.note(reached)
    ttl = route.expires_seconds
    if ttl is not None and (route.reply or topology.replies.mode) != "none":
        # So that a worker that comes late still has the message to answer for (`amqpq.producer.planning`).
        ttl += topology.replies.expires_seconds
    messages = [
        Message(name, key, ttl_seconds=ttl)
        for name in sorted(reached.queues)
        if check.queue in {None, name} and not (run and name in topology.queues and _is_stream(topology, name))
    ]
    return _Begin(tuple(messages), route, tuple(Step(0.0, text) for text in reached.steps))


def _is_stream(topology: Topology, queue: str) -> bool:
    return topology.queues[queue].type == "stream"


def _fail(topology: Topology, simulator: Router, check: FailCheck) -> CheckResult:
    walked = Walked()
    begin = _begin(topology, simulator, check, walked, run=True)
    route = begin.route
    failure = Failure(
        check.how,
        check.times,
        retries=topology.retries if route is None or route.retries is None else route.retries,
        priority=None if route is None else route.priority,
        expires_seconds=None if route is None else route.expires_seconds,
    )
    follower = Follower(simulator, topology, walked)
    endings = [ending for message in begin.messages for ending in follower.fail(message, failure)]
    often = "every time" if check.times is None else f"{check.times} time{'' if check.times == 1 else 's'}"
    tried = _followed(check, begin, endings, f"{_FAILS[check.how]} {often}", walked)
    longest = max((ending.seconds[1] for ending in endings), default=0.0)
    late = check.within_seconds is not None and check.within_seconds < longest < float("inf")
    slow = f"may take {time_text(longest)}, longer than {time_text(check.within_seconds or 0)}"
    return _judged(tried, (*tried.faults, slow if late else ""))


def _expire(topology: Topology, simulator: Router, check: ExpireCheck) -> CheckResult:
    walked = Walked()
    begin = _begin(topology, simulator, check, walked, run=False)
    follower = Follower(simulator, topology, walked)
    endings = [ending for message in begin.messages for ending in follower.expire(message, check.after_seconds)]
    return _followed(check, begin, endings, f"waits {time_text(check.after_seconds)}", walked)


def _followed(
    check: FailCheck | ExpireCheck, begin: _Begin, endings: Sequence[Ending], verb: str, walked: Walked
) -> CheckResult:
    """Hold where the copies of a message ended against where they should."""
    where = f" in {check.queue}" if check.queue is not None else ""
    ended = {ending.where for ending in endings if ending.end not in ENDLESS}
    faults = (
        "" if begin.messages else f"reaches no queue{where} in which it could be run or wait",
        _listed("should end in", sorted(set(check.ends_in) - ended)) if begin.messages else "",
        _listed("should not end in", sorted(ended - set(check.ends_in))),
        *dict.fromkeys(ending.reason for ending in endings if ending.end in ENDLESS),
    )
    subject = f"a message{where}" if check.task is None else f"task {check.task}{where}"
    tried = CheckResult(
        check,
        message=f"{subject} {verb}",
        outcome=", ".join(dict.fromkeys(_ended(ending) for ending in endings)) or "no queue",
        steps=(*begin.steps, *(step for ending in endings for step in ending.steps)),
        endings=tuple(endings),
        walked=walked,
        route=None if begin.route is None else begin.route.pattern,
    )
    return _judged(tried, faults)


def _ended(ending: Ending) -> str:
    timeless = ending.end in ENDLESS or ending.seconds[1] == 0
    return ending.where if timeless else f"{ending.where} after {span_text(ending.seconds)}"


# --------------------------------------------------------------------------------------------------------- permissions


def _permission(topology: Topology, check: PermissionCheck) -> CheckResult:
    if check.user not in topology.security.permissions:
        near = did_you_mean(check.user, topology.security.permissions)
        raise LocalError(f"security.permissions has no user '{check.user}'{near}")
    answers = permissions.answers(topology, check.user, check.name)
    granted = [answer.operation for answer in answers if answer.granted]
    refused = [operation for operation in check.may if operation not in granted]
    # To be allowed nothing at all can only be meant exactly.
    beyond = (
        [operation for operation in granted if operation not in check.may] if check.exactly or not check.may else []
    )
    on = f"'{check.name}'" if check.name else "the default exchange"
    asked = [answer for answer in answers if answer.operation in {*check.may, *beyond}] or answers
    tried = CheckResult(
        check,
        message=f"user {check.user} on {on}",
        outcome=f"may {', '.join(granted) or 'do nothing'}",
        steps=tuple(Step(0.0, f"{answer.operation}: {text}") for answer in asked for text in _reasons(answer)),
        answers=answers,
    )
    return _judged(tried, (_listed("should be allowed to", refused), _listed("should not be allowed to", beyond)))


def _reasons(answer: permissions.Answer) -> list[str]:
    return [answer.refusal] if answer.refusal else [str(need) for need in answer.needs]
