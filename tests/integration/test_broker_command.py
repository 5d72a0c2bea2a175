"""`amqpq broker` and the private node with the real RabbitMQ."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from amqpq.node import Node, installation, readiness

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(private_broker_possible: None) -> Iterator[Path]:
    """A data folder for the command; what was started in it is stopped whatever happens."""
    del private_broker_possible
    folder = Path(tempfile.mkdtemp(prefix="amqpq-broker-command-"))
    yield folder
    Node(folder).stop()
    shutil.rmtree(folder)


def amqpq(*arguments: str, environ: Mapping[str, str] | None = None, user: str | None = None) -> tuple[int, str, str]:
    """Run the command line; return its exit code and what it printed on both streams."""
    answer = subprocess.run(
        [sys.executable, "-m", "amqpq", *arguments],
        env={**(environ or os.environ), "PYTHONPATH": str(ROOT)},
        cwd="/",
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    return answer.returncode, answer.stdout, answer.stderr


def _can_run(environ: Mapping[str, str], user: str) -> bool:
    try:
        return amqpq("--help", environ=environ, user=user)[0] == 0
    except PermissionError:
        return False


def test_a_broker_is_started_found_and_stopped(data: Path) -> None:
    """Start prints export lines for eval, status the same place, stop ends it and keeps the data."""
    code, printed, said = amqpq("broker", "start", "--data", str(data))
    assert code == 0, said
    assert "starting RabbitMQ" in said
    assert "ready after" in said
    evaluated = subprocess.run(
        ["bash", "-c", f'eval "{printed}"; echo $AMQPQ_BROKER_URL'], capture_output=True, text=True, check=True
    )
    url = evaluated.stdout.strip()
    address = urlsplit(url)
    assert readiness.speaks_amqp(address.hostname or "", address.port or 0)

    code, again, _ = amqpq("broker", "start", "--data", str(data))
    assert (code, again) == (0, printed)

    code, text, _ = amqpq("broker", "status", "--json", "--data", str(data))
    facts = json.loads(text)
    assert code == 0
    assert facts["running"]
    assert facts["url"] == url

    code, text, _ = amqpq("broker", "stop", "--json", "--data", str(data))
    assert code == 0
    assert json.loads(text) == {"running": False, "was_running": True, "data": str(data)}
    code, text, _ = amqpq("broker", "status", "--data", str(data))
    assert code == 1
    assert "no broker runs in" in text
    assert not readiness.speaks_amqp(address.hostname or "", address.port or 0)
    assert (data / "data").is_dir()


def test_a_running_broker_is_not_moved_to_another_port(private_node: Node) -> None:
    """Asking a running broker for another port is refused instead of ignored."""
    code, _, said = amqpq("broker", "start", "--data", str(private_node.folder), "--port", "20999")
    assert code == 1
    assert f"it runs already, on port {private_node.ports.amqp}" in said


def test_stopping_nothing_is_fine(tmp_path: Path) -> None:
    """Stop where nothing runs says so and ends well."""
    code, _, said = amqpq("broker", "stop", "--data", str(tmp_path / "nowhere"))
    assert code == 0
    assert "no broker runs in" in said


def test_a_normal_user_can_run_a_broker(private_broker_possible: None) -> None:
    """The node runs as whoever starts it, although the distribution's wrapper insists on root or rabbitmq."""
    del private_broker_possible
    if os.geteuid() != 0:
        pytest.skip("the other tests here show it already: they do not run as root")
    if os.environ.get(installation.ROOT_VARIABLE):
        pytest.skip("a RabbitMQ in another root can be entered by root only")
    folder = Path(tempfile.mkdtemp(prefix="amqpq-nobody-"))
    try:
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        if not _can_run(environ, "nobody"):
            pytest.skip("the user nobody may not read this checkout or run this Python")
        try:
            code, _, said = amqpq("broker", "start", environ=environ, user="nobody")
            assert code == 0, said
            status = json.loads(amqpq("broker", "status", "--json", environ=environ, user="nobody")[1])
            assert status["data"] == str(folder / ".local/state/amqpq/broker/default")
            assert Path(f"/proc/{status['pid']}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        finally:
            code, _, said = amqpq("broker", "stop", environ=environ, user="nobody")
        assert code == 0, said
    finally:
        shutil.rmtree(folder)


def test_the_node_is_the_version_that_was_asked_for(private_node: Node, rabbitmqctl: Callable[..., str]) -> None:
    """What the installation's folder says is what runs."""
    assert rabbitmqctl("version").strip() == private_node.version


def test_plugins_are_enabled(private_server: Any) -> None:
    """Management and the consistent-hash exchange are there."""
    types = {exchange["name"] for exchange in private_server.request("GET", "overview")["exchange_types"]}
    assert "x-consistent-hash" in types


def test_only_this_machine_can_connect(private_node: Node) -> None:
    """Every listener but the name service's is bound to the loopback address."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    listening = {fields[1] for fields in (line.split() for line in lines) if fields[3] == "0A"}
    ports = private_node.ports
    for port in (ports.amqp, ports.management, ports.distribution):
        assert {entry for entry in listening if entry.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}


def test_durable_objects_survive_a_power_cut(private_node: Node, rabbitmqctl: Callable[..., str]) -> None:
    """A killed node comes back with what it had, at the same address."""
    url = private_node.url
    rabbitmqctl("add_vhost", "survivor")
    private_node.kill()
    assert not private_node.running
    private_node.start()
    assert private_node.url == url
    assert "survivor" in rabbitmqctl("list_vhosts", "name", "--no-table-headers").split()


def test_a_restart_ends_the_old_process(private_node: Node) -> None:
    """After a restart another process serves the same ports."""
    before = private_node.process
    private_node.restart()
    assert before is not None
    assert not before.alive
    assert private_node.running
