"""Which broker a machine can have, with stand-ins for Docker: shell scripts that write down how they were called."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqpq.errors import BrokerSetupError, ConfigurationError
from amqpq.node import ComposeNode, Node, NodeOptions, Ports, default_folder, find_broker, installation
from amqpq.node.compose import Docker, find_docker

WITH_PLUGIN = (
    '#!/bin/sh\necho "$@" >> "$0.calls"\ncase "$*" in *" ps "*) cat "$0.containers" 2>/dev/null;; esac\nexit 0\n'
)
WITHOUT_PLUGIN = '#!/bin/sh\n[ "$1" = info ]\n'
WITHOUT_ENGINE = "#!/bin/sh\nexit 1\n"


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is all of PATH but for the shell's own tools, on a machine without RabbitMQ."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for tool in ("sh", "cat"):
        (programs / tool).symlink_to(f"/bin/{tool}")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(installation, "PACKAGED", tmp_path / "nowhere")
    monkeypatch.delenv(installation.ROOT_VARIABLE, raising=False)
    return programs


def put(folder: Path, name: str, text: str) -> Path:
    """Make a program."""
    program = folder / name
    program.write_text(text)
    program.chmod(0o755)
    return program


@pytest.fixture
def listener() -> Iterator[int]:
    """A port where something answers as RabbitMQ's listener does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(8)
                    connection.sendall(b"\x01")

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_docker_with_its_plugin_is_found(only: Path) -> None:
    """`docker compose` is used where the engine answers and has the plugin."""
    put(only, "docker", WITH_PLUGIN)
    assert find_docker() == Docker(("docker", "compose"))


def test_the_older_docker_compose_is_found(only: Path) -> None:
    """Without the plugin the separate program is used."""
    put(only, "docker", WITHOUT_PLUGIN)
    assert find_docker() is None
    put(only, "docker-compose", WITH_PLUGIN)
    assert find_docker() == Docker(("docker-compose",))


def test_docker_without_an_engine_is_no_docker(only: Path) -> None:
    """A client whose engine does not answer cannot run anything."""
    put(only, "docker", WITHOUT_ENGINE)
    assert find_docker() is None


def test_rabbitmq_is_preferred_to_docker(only: Path, tmp_path: Path) -> None:
    """Where both are there, the installed RabbitMQ runs the node."""
    put(only, "docker", WITH_PLUGIN)
    put(only, "rabbitmq-server", WITHOUT_ENGINE)
    assert isinstance(find_broker(tmp_path / "data"), Node)


def test_docker_is_used_where_rabbitmq_is_missing(only: Path, tmp_path: Path) -> None:
    """Where only Docker is there, the node is a container."""
    put(only, "docker", WITH_PLUGIN)
    assert isinstance(find_broker(tmp_path / "data"), ComposeNode)


def test_where_nothing_is_there_the_message_says_what_to_install(only: Path, tmp_path: Path) -> None:
    """Without RabbitMQ and Docker the error names the command that helps."""
    put(only, "apt-get", WITHOUT_ENGINE)
    with pytest.raises(BrokerSetupError, match=r"RabbitMQ is not installed here; .*apt-get install -y rabbitmq-server"):
        find_broker(tmp_path / "data")


def test_a_container_is_started_and_stopped(only: Path, tmp_path: Path, listener: int) -> None:
    """The container gets its ports on the loopback address, the plugins, and a compose project of its own."""
    docker = put(only, "docker", WITH_PLUGIN)
    options = NodeOptions(ports=Ports(listener, 15000, 0, 0))
    node = find_broker(tmp_path / "data", options)
    node.start()
    described = json.loads((tmp_path / "data/compose.yaml").read_text())["services"]["rabbitmq"]
    assert described["ports"] == [f"127.0.0.1:{listener}:5672", "127.0.0.1:15000:15672"]
    assert "consistent_hash" in (tmp_path / "data/enabled_plugins").read_text()
    assert node.url == f"amqp://guest:guest@127.0.0.1:{listener}/"
    node.stop()
    calls = Path(f"{docker}.calls").read_text()
    assert " up -d" in calls
    assert " stop -t 60" in calls


def test_a_folder_remembers_that_it_is_a_container(only: Path, tmp_path: Path, listener: int) -> None:
    """A folder whose node is a container stays one when RabbitMQ is installed later."""
    docker = put(only, "docker", WITH_PLUGIN)
    find_broker(tmp_path / "data", NodeOptions(ports=Ports(listener, 15000, 0, 0))).start()
    put(only, "rabbitmq-server", WITHOUT_ENGINE)
    Path(f"{docker}.containers").write_text("f00d\n")
    found = find_broker(tmp_path / "data")
    assert isinstance(found, ComposeNode)
    assert found.running


def test_a_failing_compose_is_an_error(only: Path, tmp_path: Path) -> None:
    """What docker compose complains about is in the error."""
    put(only, "docker-compose", "#!/bin/sh\necho 'no space left' >&2\nexit 17\n")
    node = ComposeNode(tmp_path / "data", docker=Docker(("docker-compose",)))
    with pytest.raises(BrokerSetupError, match="ended with 17: no space left"):
        node.start()


def test_what_a_container_cannot_do_is_refused(tmp_path: Path) -> None:
    """Configuration lines and a prefix are refused, not ignored."""
    with pytest.raises(BrokerSetupError, match="no further configuration"):
        ComposeNode(tmp_path, NodeOptions(config={"a": "b"}), docker=Docker(("docker",)))


def test_the_default_folder_follows_xdg() -> None:
    """Data is kept under `$XDG_STATE_HOME`, by name."""
    assert default_folder("second", {"XDG_STATE_HOME": "/state"}) == Path("/state/amqpq/broker/second")
    assert default_folder(environ={}) == Path("~/.local/state/amqpq/broker/default").expanduser()


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a b"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    """A broker's name cannot lead out of the folder of brokers."""
    with pytest.raises(ConfigurationError, match="cannot name a broker"):
        default_folder(name)
