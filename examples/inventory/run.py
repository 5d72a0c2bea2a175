"""The inventory of a folder, by two workers: `python -m examples.inventory.run [FOLDER]`.

Ends with exit code 0 only if every check held. See README.md beside this file for what it shows.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amqpq import App
from amqpq.errors import AmqpqError
from amqpq.topology.routing import reach
from examples.inventory import stage, wire
from examples.inventory.files import SourceFile, choose
from examples.inventory.report import Report

TOPOLOGY = Path(__file__).with_name("topology.yaml")
DEAD = "inventory.dead"
KEY_IDS = ("producer", "worker-one", "worker-two")
WORKERS = {
    "worker-one": ("inventory.source", "inventory.text", "inventory.audit.log", "inventory.control.one"),
    "worker-two": ("inventory.source", "inventory.other", "inventory.audit.count", "inventory.control.two"),
}
TIMEOUT_SECONDS = 60.0
URGENT, ORDINARY = 9, 2
WORTH_COMPRESSING_BYTES = 4096


def main() -> int:
    """Run the demo; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.inventory.run", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--limit", type=int, default=1000, help="files at most, spread over the folder (default: 1000)")
    options = parser.parse_args()
    files = choose(options.folder, options.limit)
    if not files:
        parser.error(f"no files in {options.folder}")
    files.sort(
        key=lambda file: file.path.stat().st_size < WORTH_COMPRESSING_BYTES
    )  # the first one is shown on the wire
    report = Report()
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="amqpq-inventory-") as folder:
            inventory(report, Path(folder), options.folder, files)
    except (AmqpqError, RuntimeError, TimeoutError, LookupError) as error:
        report.check(f"{type(error).__name__}: {error}", holds=False)
    report.step(f"{time.monotonic() - started:.0f} s, {len(report.failures)} checks failed")
    return 1 if report.failures else 0


def inventory(report: Report, scratch: Path, folder: Path, files: Sequence[SourceFile]) -> None:
    """Go through the demo, step by step."""
    report.step("A broker, keys for three hosts, the topology")
    with stage.broker(scratch / "broker") as broker:
        os.environ |= {
            "AMQPQ_BROKER_URL": broker.url,
            "INVENTORY_KEYS": str(scratch / "keys"),
            "INVENTORY_AUDIT": str(scratch / "audit.log"),
        }
        for key_id in KEY_IDS:
            stage.amqpq("keys", "new", key_id, "--dir", str(scratch / "keys"))
        stage.amqpq("topology", "check", "-t", str(TOPOLOGY))
        stage.amqpq("topology", "apply", "-t", str(TOPOLOGY))
        with producer(broker) as app:
            report.say(
                f"{'private node' if broker.node else 'broker of $AMQPQ_BROKER_URL'}; {len(files)} files of {folder}"
            )
            sample, sample_result = on_the_wire(report, app, broker, folder, files[0])
            with workers(report, scratch):
                who(report, app)
                found = examine(report, app, broker, folder, files, sample_result)
                conclude(report, app, folder, files, found)
                forgery(report, broker, sample)
                audit(report, app, scratch / "audit.log", files)


@contextmanager
def producer(broker: stage.Broker) -> Iterator[App]:
    """The producer's application: it has the topology and no task code."""
    app = App(TOPOLOGY)
    try:
        yield app
    finally:
        app.close()
        if broker.node is None:
            wire.clear(broker.url, app.topology.queues, app.topology.exchanges)


@contextmanager
def workers(report: Report, scratch: Path) -> Iterator[None]:
    """Two worker processes until the block ends; both have to end by themselves when asked."""
    started = [stage.Worker(name, queues, topology=TOPOLOGY, folder=scratch) for name, queues in WORKERS.items()]
    try:
        yield
        for worker in started:
            worker.check()
    except BaseException:
        for worker in started:
            report.say(f"{worker.name}:\n{worker.tail()}")
        raise
    finally:
        codes = {worker.name: worker.stop() for worker in started}
    report.check(f"both workers stopped when asked: {codes}", holds=not any(codes.values()))


def send(app: App, folder: Path, file: SourceFile) -> Any:
    """Publish the task of one file: library code before its tests, and no longer than ten minutes (the route's)."""
    path = file.path.relative_to(folder)
    return app.send_task(
        "inventory.examine",
        kwargs={"path": str(path), "kind": file.kind, "content": file.path.read_bytes()},
        priority=ORDINARY if "test" in path.parts or "tests" in path.parts else URGENT,
        expires=600,
    )


def on_the_wire(
    report: Report, app: App, broker: stage.Broker, folder: Path, file: SourceFile
) -> tuple[wire.RawMessage, Any]:
    """Publish the first task while no worker runs, and look at it with a plain AMQP client."""
    report.step("One message on the wire")
    result = send(app, folder, file)
    (queue,) = reach(app.topology, "inventory.files", f"file.{file.kind}").queues
    message = wire.look(broker.url, queue)
    report.message(message)
    original = file.path.stat().st_size
    report.check(
        f"signed, compressed ({original} bytes in {len(message.body)}), with priority and expiry",
        holds="amqpq-sig" in message.headers
        and (
            original < app.topology.messages.compress_above
            or message.headers.get("compression") == "application/x-gzip"
        )
        and "priority" in message.properties
        and "expiration" in message.properties,
    )
    return message, result


def who(report: Report, app: App) -> None:
    """Ask each worker for its name, over the direct exchange."""
    report.step("Control work through the direct exchange")
    for key, name in (("one", "worker-one"), ("two", "worker-two")):
        answer = app.send_task("inventory.whoami", kwargs={"worker": key}).get(timeout=TIMEOUT_SECONDS)
        report.check(f"{key}: {answer['hostname']}, pid {answer['pid']}", holds=answer["hostname"].startswith(name))


def examine(
    report: Report, app: App, broker: stage.Broker, folder: Path, files: Sequence[SourceFile], first: Any
) -> list[dict[str, Any]]:
    """One task per file through the topic exchange; results through reply queues."""
    report.step("One task per file through the topic exchange, results through reply queues")
    app.send_task("inventory.audit", args=["started"])
    results = [first, *(send(app, folder, file) for file in report.progress(files[1:], "published"))]
    before, how = wire.count_reply_queues(broker, [result.id for result in results])
    report.check(f"before retrieval: {before} reply queues ({how})", holds=before == len(results))
    found = [result.get(timeout=TIMEOUT_SECONDS) for result in report.progress(results, "retrieved")]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:  # `get` has the queue deleted and does not wait for it; the broker has no signal for its end
        after, how = wire.count_reply_queues(broker, [result.id for result in results])
        if not after or time.monotonic() > deadline:
            break
    report.check(f"after retrieval: {after} reply queues ({how})", holds=after == 0)
    return found


def conclude(
    report: Report, app: App, folder: Path, files: Sequence[SourceFile], found: Sequence[dict[str, Any]]
) -> None:
    """Let a worker find the duplicates, print the table, and compare everything with the files themselves."""
    digests = {result["path"]: result["digest"] for result in found}
    twins = app.send_task("inventory.duplicates", args=[digests]).get(timeout=TIMEOUT_SECONDS)
    for kind in sorted({file.kind for file in files}):
        app.send_task("inventory.audit", args=[f"counted {kind}"])
    report.closing([(file.kind, result) for file, result in zip(files, found, strict=True)], twins)
    here = {str(file.path.relative_to(folder)): file.path.read_bytes() for file in files}
    report.check(
        f"all {len(here)} sizes and digests are those of the files",
        holds={(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in here.items()}
        == {(result["path"], result["size"], result["digest"]) for result in found},
    )
    repeated = sum(len(group) - 1 for group in twins)
    report.check(f"{repeated} duplicates found", holds=repeated == len(here) - len(set(here.values())))


def forgery(report: Report, broker: stage.Broker, sample: wire.RawMessage) -> None:
    """Publish the first message again with one bit turned over: no worker may open it."""
    report.step("A forged message")
    wire.forge(broker.url, sample)
    dead = wire.await_dead_letter(broker.url, DEAD, TIMEOUT_SECONDS)
    for name in sorted(dead.headers):
        if name.startswith("amqpq-") and name not in {"amqpq-sig", "amqpq-traceback"}:
            report.say(f"{name}: {dead.headers[name]}")
    report.check("it is in the dead letter, with its cause", holds=dead.headers.get("amqpq-cause") == "forged")


def audit(report: Report, app: App, log: Path, files: Sequence[SourceFile]) -> None:
    """Each audit event must have come through both queues of the fanout exchange."""
    report.step("Audit events through the fanout exchange")
    app.send_task("inventory.audit", args=["finished"])
    events = {"started", "finished", *(f"counted {file.kind}" for file in files)}
    wanted = {(queue, event) for queue in ("inventory.audit.log", "inventory.audit.count") for event in events}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    seen: set[tuple[str, str]] = set()
    while not wanted <= seen and time.monotonic() < deadline:
        time.sleep(0.05)  # two other processes write the file
        lines = log.read_text().splitlines() if log.exists() else []
        seen = {(queue, event) for queue, _, event in (line.partition("\t") for line in lines)}
    report.check(f"{len(events)} events, each through both queues", holds=seen == wanted)


if __name__ == "__main__":
    sys.exit(main())
