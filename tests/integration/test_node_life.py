"""A node with a stand-in for RabbitMQ: a script that listens, or one that fails. `amqpq broker` has the real one."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqpq.errors import BrokerSetupError
from amqpq.node import Installation, Node, NodeOptions, state

ROOT = Path(__file__).resolve().parents[2]

# Answers a handshake with the first byte of a method frame, as RabbitMQ's listener does, until it is ended.
LISTENS = f"""#!{sys.executable}
import os, socket
config = dict(line.split(" = ") for line in open(os.environ["RABBITMQ_CONFIG_FILE"]).read().splitlines())
host, port = config["listeners.tcp.1"].split(":")
listener = socket.create_server((host, int(port)))
while True:
    connection, _ = listener.accept()
    connection.recv(8)
    connection.sendall(b"\\x01")
    connection.close()
"""
FAILS = "#!/bin/sh\necho BOOT FAILED: no entropy left\nexit 1\n"
TELLS = '#!/bin/sh\necho "$@"\necho "node $RABBITMQ_NODENAME"\nenv | sort\n'


def install(folder: Path, server: str, ctl: str = TELLS) -> Installation:
    """Make an installation out of two scripts."""
    folder.mkdir(exist_ok=True)
    for name, text in (("rabbitmq-server", server), ("rabbitmqctl", ctl)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return Installation(folder)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that runs the listening script."""
    node = Node(tmp_path / "data", installation=install(tmp_path / "bin", LISTENS))
    yield node
    node.stop()


def test_a_started_node_takes_connections(node: Node) -> None:
    """`start` returns when the node answers a handshake; then it has an URL and a process."""
    node.start()
    assert node.running
    assert node.url == f"amqp://guest:guest@127.0.0.1:{node.ports.amqp}/"
    assert "running" in repr(node)


def test_starting_twice_is_starting_once(node: Node) -> None:
    """A second start leaves the running process alone."""
    node.start()
    pid = node.pid
    node.start()
    assert node.pid == pid


def test_another_object_on_the_same_folder_is_the_same_node(node: Node) -> None:
    """What one program started, another one finds by the folder and stops."""
    node.start()
    other = Node(node.folder)
    assert (other.pid, other.url) == (node.pid, node.url)
    other.stop()
    assert not node.running


def test_ports_survive_a_kill_and_a_restart(node: Node) -> None:
    """A killed node comes back on its old ports, so that clients find it again."""
    node.start()
    ports, pid = node.ports, node.pid
    node.kill()
    assert not node.running
    node.start()
    assert node.ports == ports
    assert node.pid != pid


def test_stopping_ends_the_name_service_too(node: Node) -> None:
    """After `stop` nothing that `start` started is left."""
    node.start()
    before = (node.folder / "node.json").read_text()
    node.stop()
    assert '"epmd": null' in (node.folder / "node.json").read_text()
    assert '"server": null' not in before


def test_stopping_what_never_ran_does_nothing(tmp_path: Path) -> None:
    """`stop` on a folder without a node makes no folder and no fuss."""
    Node(tmp_path / "nowhere").stop()
    assert not (tmp_path / "nowhere").exists()


def test_a_failing_start_tells_the_last_words(tmp_path: Path) -> None:
    """Where RabbitMQ ends while it boots, the error holds what it said, and nothing is left running."""
    node = Node(tmp_path / "data", installation=install(tmp_path / "bin", FAILS))
    with pytest.raises(BrokerSetupError, match=r"ended while starting[\s\S]*BOOT FAILED: no entropy left"):
        node.start()
    assert not node.running


def test_a_node_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    """A boot that takes longer than the timeout is an error, and the process is ended."""
    node = Node(tmp_path / "data", installation=install(tmp_path / "bin", "#!/bin/sh\nexec sleep 600\n"))
    with pytest.raises(BrokerSetupError, match="not ready in time"):
        node.start(timeout_seconds=0.2)
    assert not node.running


def test_control_commands_speak_to_this_node_only(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ctl` passes its arguments on, and nothing of the caller's RabbitMQ environment."""
    monkeypatch.setenv("RABBITMQ_NODENAME", "rabbit@production")
    monkeypatch.setenv("RABBITMQ_NODE_IP_ADDRESS", "10.0.0.1")
    node.start()
    said = node.ctl("list_queues", "name").splitlines()
    assert said[:2] == ["-q list_queues name", "node amqpq@localhost"]
    assert f"HOME={node.folder}" in said
    assert not any(line.startswith("RABBITMQ_NODE_IP_ADDRESS") for line in said)


def test_a_failing_control_command_is_an_error(tmp_path: Path) -> None:
    """What rabbitmqctl complains about is in the error."""
    broken = "#!/bin/sh\necho 'Error: no such vhost' >&2\nexit 65\n"
    node = Node(tmp_path / "data", installation=install(tmp_path / "bin", LISTENS, broken))
    with node, pytest.raises(BrokerSetupError, match="`rabbitmqctl list_queues` ended with 65: Error: no such vhost"):
        node.ctl("list_queues")


def test_asking_a_node_that_never_ran_says_so(tmp_path: Path) -> None:
    """A folder without a node has no URL, and the error says how to get one."""
    with pytest.raises(BrokerSetupError, match="ever started in .*amqpq broker start"):
        _ = Node(tmp_path).url


def test_the_data_folder_is_private(node: Node) -> None:
    """Cookie and passwords in the data folder are the owner's alone."""
    node.start()
    assert node.folder.stat().st_mode & 0o077 == 0
    assert (node.folder / ".erlang.cookie").stat().st_mode & 0o377 == 0


def test_off_the_loopback_address_the_password_is_random(tmp_path: Path) -> None:
    """A node that others can reach gets a user with a password nobody can guess, not guest."""
    options = NodeOptions(listen="0.0.0.0")  # noqa: S104 - what the test is about
    with Node(tmp_path / "data", options, installation=install(tmp_path / "bin", LISTENS)) as node:
        user, _, password = node.url.removeprefix("amqp://").partition("@")[0].partition(":")
        assert user == "amqpq"
        assert len(password) >= 20


def test_a_node_with_the_password_guest_is_not_opened_to_others(node: Node) -> None:
    """A data folder made for this machine only cannot be started on another address."""
    node.start()
    node.stop()
    opened = Node(node.folder, NodeOptions(listen="0.0.0.0"), installation=node.installation)  # noqa: S104 - as above
    with pytest.raises(BrokerSetupError, match="with the password `guest`"):
        opened.start()


def test_a_port_that_was_taken_meanwhile_is_named(node: Node) -> None:
    """Where another program took the port of a stopped node, the error says which and what to do."""
    node.start()
    port = node.ports.amqp
    node.stop()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(BrokerSetupError, match=f"port {port} of the node"):
        node.start()


def test_files_are_limited_as_high_as_the_system_allows(node: Node) -> None:
    """The node's limit of open files is the wanted one, or the hard limit where that is lower."""
    node.start()
    limits = Path(f"/proc/{node.pid}/limits").read_text(encoding="ascii")
    soft = next(line.split()[3] for line in limits.splitlines() if line.startswith("Max open files"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(soft) >= min(65_536, hard)


def test_too_few_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard limit at which RabbitMQ loses messages is an error that says where to raise it."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BrokerSetupError, match=r"open files is 256.*limits\.conf"):
        Node(tmp_path / "data", installation=install(tmp_path / "bin", LISTENS)).start()


def test_a_machine_without_localhost_is_told_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the name localhost is unknown, the error says what to write into /etc/hosts."""

    def unknown(*_: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(BrokerSetupError, match="add the line `127.0.0.1 localhost`"):
        Node(tmp_path / "data", installation=install(tmp_path / "bin", LISTENS)).start()


def test_a_node_on_a_leash_ends_with_its_caller(tmp_path: Path) -> None:
    """A node that dies with its caller is gone, name service included, when the caller is killed."""
    install(tmp_path / "bin", LISTENS)
    program = f"""
import os, signal, pathlib
from amqpq.node import Installation, Node, NodeOptions
Node({str(tmp_path / "data")!r}, NodeOptions(dies_with_caller=True),
     installation=Installation(pathlib.Path({str(tmp_path / "bin")!r}))).start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60)
    left = state.read(tmp_path / "data")
    assert left is not None
    assert left.server is not None
    assert left.server.wait(30)
    assert left.epmd is None or left.epmd.wait(30)


def test_a_leash_is_the_programs_and_not_the_threads(tmp_path: Path) -> None:
    """A node that a thread starts goes on when that thread ends."""
    node = Node(tmp_path / "data", NodeOptions(dies_with_caller=True), installation=install(tmp_path / "bin", LISTENS))
    starter = threading.Thread(target=node.start)
    starter.start()
    starter.join()
    try:
        assert node.process is not None
        assert not node.process.wait(0.2)
    finally:
        node.stop()
