"""What topology as code costs: a large file linted, checked, planned and applied, and 1,000 queues declared as bare drivers do.

    python -m benchmarks.provisioning --queues 2000 --bindings 5000 --declared 1000 --rounds 5

The first table times the commands as a user runs them, process start included; CPU is the command's own, not the broker's. The
second declares the same durable classic queues in turn, in one run: by py-amqp, which sends all declarations before it reads the
first answer, on one channel and on sixteen; and by amqpq, once where a plan or the HTTP API has told that they are absent, and
once where it has to look for each of them over AMQP first, to say what it created. Only the ratios within a round are worth
anything. A private node is started, or `$AMQPQ_BROKER_URL` with `$AMQPQ_MANAGEMENT_URL` names a broker; the queues are deleted
again.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from amqp import spec as methods

from amqpq.topology.declarations import Declarations
from amqpq.transport import blocking, declare, flow, url
from amqpq.types import QueueSpec
from benchmarks.broker import Place, places
from benchmarks.contenders.bare_amqp import connect

DEADLINE_SECONDS = 300.0
EXCHANGES = 50
KINDS = ("topic", "direct", "headers", "fanout")
CHANGES = 2
"""Exit code of `plan --detailed-exitcode` where there is something to do."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.provisioning", description=__doc__.splitlines()[0])
    parser.add_argument("--queues", type=int, default=2000, help="of the large file (default: %(default)s)")
    parser.add_argument("--bindings", type=int, default=5000, help="of the large file (default: %(default)s)")
    parser.add_argument("--declared", type=int, default=1000, help="queues per way and round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with places() as place, tempfile.TemporaryDirectory(prefix="amqpq-provisioning-") as folder:
        connection = connect(place.url, confirm=False)
        version = connection.server_properties["version"]
        connection.close()
        print(f"RabbitMQ {version}, {len(os.sched_getaffinity(0))} cores")
        print(f"\n{given.queues} queues, {given.bindings} bindings, {EXCHANGES} exchanges")
        large_file(given, place, Path(folder))
        print(f"\n{given.declared} durable classic queues, {given.rounds} rounds")
        declared(given, place)


# -------------------------------------------------------------------------------------------------------- the large file


def large_file(given: argparse.Namespace, place: Place, folder: Path) -> None:
    """Time the commands on a file of that size, from an empty broker to one where nothing is left to do."""
    file = folder / "large.yaml"
    file.write_text(yaml.safe_dump(document(given.queues, given.bindings)), encoding="utf-8")
    plan = str(folder / "large.plan")
    print(f"{'command':34} {'seconds':>8} {'CPU s':>8}")
    command(place, file, "lint", codes={0})
    command(place, file, "check", codes={0})
    command(place, file, "plan", "--detailed-exitcode", "--out", plan, label="plan, all to add", codes={CHANGES})
    command(place, file, "apply", plan, label="apply PLAN", codes={0})
    command(place, file, "plan", "--detailed-exitcode", label="plan, nothing to do", codes={0})
    command(place, file, "apply", label="apply, all is there", codes={0})
    command(place, file, "drift", label="drift, none", codes={0})
    delete(place, [f"large.q{number}" for number in range(given.queues)])


def document(queues: int, bindings: int) -> dict[str, Any]:
    """Return a file with that many queues and bindings, and a check for each twentieth queue."""
    exchanges = {f"large.x{number}": {"type": KINDS[number % len(KINDS)]} for number in range(EXCHANGES)}
    wired = []
    for number in range(bindings):
        at = number % EXCHANGES
        binding: dict[str, Any] = {"from": f"large.x{at}", "to": f"large.q{(number + number // queues) % queues}"}
        if KINDS[at % len(KINDS)] == "headers":
            binding |= {"match": "all", "headers": {"number": number}}
        elif KINDS[at % len(KINDS)] != "fanout":
            binding["keys"] = [f"key.{number}"]
        wired.append(binding)
    return {
        "amqpq": 1,
        "project": "large",
        "exchanges": exchanges,
        "queues": {f"large.q{number}": {"limits": {"max_length": 1000}} for number in range(queues)},
        "bindings": wired,
        "routes": {f"large.task{number}": {"queue": f"large.q{number}"} for number in range(queues)},
        "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:LARGE_KEY", "key_id": "large"}},
        "checks": [
            {"publish": {"task": f"large.task{number}"}, "reaches": [f"large.q{number}"], "exactly": True}
            for number in range(0, queues, 20)
        ],
    }


def command(place: Place, file: Path, *words: str, codes: set[int], label: str = "") -> None:
    """Run `amqpq topology ...`, and print what it took.

    Raises:
        SystemExit: It ended with another exit code.
    """
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AMQPQ_")},
        "AMQPQ_BROKER_URL": place.url,
        "AMQPQ_MANAGEMENT_URL": place.management,
        "LARGE_KEY": "5a" * 32,
    }
    before, began = cpu_of_children(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "amqpq", "topology", *words, "-t", str(file)],
        env=environ, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip
    seconds, cpu = time.perf_counter() - began, cpu_of_children() - before
    if done.returncode not in codes:
        raise SystemExit(
            f"amqpq topology {' '.join(words)} ended with {done.returncode}:\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
        )
    print(f"{label or words[0]:34} {seconds:8.2f} {cpu:8.2f}", flush=True)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# -------------------------------------------------------------------------------------------------------------- declaring


@dataclass(frozen=True, slots=True)
class Way:
    """A way to declare queues: takes an address and names; returns when the broker has answered about all of them."""

    name: str
    declare: Callable[[str, Sequence[str]], float]
    seconds: list[float] = field(default_factory=list)


def bare(channels: int) -> Callable[[str, Sequence[str]], float]:
    """Return the way of py-amqp: every declaration sent, over so many channels, before the first answer is read."""

    def send_all(place: str, names: Sequence[str]) -> float:
        connection = connect(place, confirm=False)
        opened = [connection.channel() for _ in range(channels)]
        answers: list[object] = []
        for channel in opened:
            # `wait` would drop the answers that come on other channels meanwhile.
            channel._callbacks[methods.Queue.DeclareOk] = lambda *answer: answers.append(answer)  # noqa: SLF001
        began = time.perf_counter()
        for number, name in enumerate(names):
            arguments: tuple[object, ...] = (0, name, False, True, False, False, False, {})
            opened[number % channels].send_method(methods.Queue.Declare, "BsbbbbbF", arguments)
        while len(answers) < len(names):
            connection.drain_events(timeout=DEADLINE_SECONDS)
        seconds = time.perf_counter() - began
        connection.close()
        return seconds

    return send_all


def ours(*, looks: bool) -> Callable[[str, Sequence[str]], float]:
    """Return the way of amqpq; it looks for each queue first over AMQP, or has been told that there is none."""
    there = None if looks else lambda _: False

    def apply(place: str, names: Sequence[str]) -> float:
        connection = blocking.connect(url.parse(place), heartbeat_seconds=0, timeout_seconds=DEADLINE_SECONDS)
        wanted = Declarations((), tuple(QueueSpec(name) for name in names), ())
        began = time.perf_counter()
        applied = flow.run(declare.apply(connection.channel, wanted, there=there), DEADLINE_SECONDS)
        seconds = time.perf_counter() - began
        declare.demand(applied)
        connection.close()
        return seconds

    return apply


def declared(given: argparse.Namespace, place: Place) -> None:
    """Declare in turn, backward and forward, and print the medians and the ratios to the faster bare way of each round."""
    ways = (
        Way("py-amqp, 1 channel", bare(1)),
        Way("py-amqp, 16 channels", bare(16)),
        Way("amqpq, API or PLAN", ours(looks=False)),
        Way("amqpq, AMQP alone", ours(looks=True)),
    )
    names = [f"declared.q{number}" for number in range(given.declared)]
    for number in range(given.rounds):
        for way in ways if number % 2 else reversed(ways):
            way.seconds.append(way.declare(place.url, names))
            delete(place, names)
    floor = [min(pair) for pair in zip(ways[0].seconds, ways[1].seconds, strict=True)]
    print(f"{'way':22} {'queues/s':>9} {'lowest':>8} {'highest':>8} {'time, of the faster bare one':>30}")
    for way in ways:
        rates = [given.declared / seconds for seconds in way.seconds]
        ratio = median(mine / least for mine, least in zip(way.seconds, floor, strict=True))
        print(f"{way.name:22} {median(rates):9,.0f} {min(rates):8,.0f} {max(rates):8,.0f} {ratio:30.2f}")


def delete(place: Place, names: Sequence[str]) -> None:
    connection = connect(place.url, confirm=False)
    channel = connection.channel()
    for name in names:
        channel.queue_delete(name, nowait=True)
    channel.close()  # answered after the deletions before it
    connection.close()


if __name__ == "__main__":
    main()
