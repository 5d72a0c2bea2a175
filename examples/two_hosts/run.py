"""Producer, broker and worker, each on a host of its own: `sudo python -m examples.two_hosts.run`.

Three network namespaces stand for three hosts. Each host has a folder with what that host needs and nothing else; what
is in them is printed and checked. Exit code 0 only if every check held.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amqpq.node import Node, NodeOptions
from examples.two_hosts import network
from examples.two_hosts.network import BROKER, PRODUCER, WORKER, Host

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TIMEOUT_SECONDS = 90.0
STOP_SECONDS = 30.0
ACCEPTED = re.compile(r"accepting AMQP connection .*?(\d+\.\d+\.\d+\.\d+):\d+ -> ")
"""What RabbitMQ logs of a client that connects: its address."""
TEXT = ("the", "quick", "brown", "fox")
NOT_POSSIBLE = 77
"""Exit code where namespaces cannot be made: neither a success nor a failure (automake's word for skipped)."""


class Checks:
    """What was checked, said aloud, and what did not hold."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, what: str, *, holds: bool) -> None:
        """Print a check and count it where it does not hold."""
        print(f"  {'ok' if holds else 'NO'}  {what}")
        self.failed += not holds


def main() -> int:
    """Build the hosts, run one program on each, check what came back; return the exit code."""
    obstacle = network.missing()
    if obstacle:
        print(f"two_hosts: {obstacle}", file=sys.stderr)
        return NOT_POSSIBLE
    check = Checks()
    with tempfile.TemporaryDirectory(prefix="amqpq-two-hosts-") as scratch, network.three_hosts() as hosts:
        folders = furnish(Path(scratch))
        options = NodeOptions(listen=hosts[BROKER].address, prefix=hosts[BROKER].prefix)
        with Node(Path(scratch) / BROKER, options) as node:
            show(hosts, folders, node)
            strangers(check, folders)
            answer = work(hosts, folders, node.url)
            verdict(check, hosts, node, answer)
        witnesses(check, hosts, node)
    return 1 if check.failed else 0


def furnish(scratch: Path) -> dict[str, Path]:
    """Make the folders of the two hosts. A private key is made on its own host; only the public one is carried over."""
    folders = {name: scratch / name for name in (PRODUCER, WORKER)}
    for name, program in ((PRODUCER, "call.py"), (WORKER, "tasks.py")):
        folders[name].mkdir()
        for file in ("topology.yaml", program):
            shutil.copy(HERE / file, folders[name])
        amqpq = [sys.executable, "-m", "amqpq", "keys", "new", name]
        subprocess.run(amqpq, cwd=folders[name], env=environment(name, ""), check=True, stdout=subprocess.DEVNULL)
    for name, other in ((PRODUCER, WORKER), (WORKER, PRODUCER)):
        shutil.copy(folders[name] / "keys" / f"{name}.pub", folders[other] / "keys")
    return folders


def environment(name: str, url: str) -> dict[str, str]:
    """Return a host's environment: its name, the broker's address, and where amqpq is."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path, "TWO_HOSTS_NAME": name, "AMQPQ_BROKER_URL": url}


def show(hosts: dict[str, Host], folders: dict[str, Path], node: Node) -> None:
    """Print what each host has."""
    for host in hosts.values():
        print(f"{host.name}: {host.address}, namespace {host.namespace}")
        if host.name in folders:
            for file in files_of(folders[host.name]):
                print(f"    {file}")
        else:
            print(f"    RabbitMQ {node.version}, port {node.ports.amqp}")


def files_of(folder: Path) -> list[str]:
    """Return the files of a host, as relative paths."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def strangers(check: Checks, folders: dict[str, Path]) -> None:
    """Check that no host has what is not its own."""
    producer, worker = files_of(folders[PRODUCER]), files_of(folders[WORKER])
    check("the worker's host has no private key of the producer", holds="keys/producer.pem" not in worker)
    check("the producer's host has no private key of the worker", holds="keys/worker.pem" not in producer)
    check("the producer's host has no task code", holds="tasks.py" not in producer)


def work(hosts: dict[str, Host], folders: dict[str, Path], url: str) -> dict[str, Any]:
    """Declare, run the worker on its host and the caller on its own; return the caller's answer."""
    run_on(hosts[PRODUCER], folders[PRODUCER], url, "-m", "amqpq", "topology", "apply")
    with worker(hosts[WORKER], folders[WORKER], url) as log:
        try:
            answer: dict[str, Any] = json.loads(run_on(hosts[PRODUCER], folders[PRODUCER], url, "call.py"))
        except subprocess.CalledProcessError:
            print(log.read_text(errors="replace"), file=sys.stderr)
            raise
    return answer


def run_on(host: Host, folder: Path, url: str, *arguments: str) -> str:
    """Run Python on a host to its end and return what it printed.

    Raises:
        subprocess.CalledProcessError: It did not end well.
    """
    command = [*host.prefix, sys.executable, *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(host.name, url),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    return done.stdout


@contextmanager
def worker(host: Host, folder: Path, url: str) -> Iterator[Path]:
    """Run the worker on its host until the block ends; yields its log, which lies outside the host's folder."""
    log = folder.with_suffix(".log")
    command = [*host.prefix, sys.executable, "-m", "amqpq", "worker", "-A", "tasks", "-Q", "work", "-c", "1"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment(host.name, url), stdout=output, stderr=output)
    try:
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def verdict(check: Checks, hosts: dict[str, Host], node: Node, answer: dict[str, Any]) -> None:
    """Check what came back."""
    described = answer["describe"]
    print(f"result of {answer['id']}: {described}")
    check("the task ran on the worker's host", holds=described["addresses"] == [hosts[WORKER].address])
    check("its result came back", holds=described["words"] == len(TEXT))
    check("the failure came back as the same exception", holds=answer.get("error") == "on purpose")
    check("with the remote traceback", holds="tasks.py" in str(answer.get("traceback")))
    left = [line for line in node.ctl("list_queues", "name").split() if line.startswith("amqpq.reply.")]
    check("no reply queue is left", holds=not left)


def witnesses(check: Checks, hosts: dict[str, Host], node: Node) -> None:
    """Check that the broker saw the two hosts and no other. Its log is complete once it has stopped."""
    seen = {peer for log in (node.folder / "log").glob("*.log") for peer in ACCEPTED.findall(log.read_text())}
    check(f"the broker saw {sorted(seen)}", holds=seen == {hosts[PRODUCER].address, hosts[WORKER].address})


if __name__ == "__main__":
    sys.exit(main())
