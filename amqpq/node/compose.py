"""A private RabbitMQ in a container, for machines where Docker is and RabbitMQ is not."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amqpq.errors import BrokerSetupError
from amqpq.node import options as node_options
from amqpq.node import readiness, state
from amqpq.node.options import NodeOptions
from amqpq.node.state import State

IMAGE = "rabbitmq:4-management"
START_SECONDS = 300.0
"""The first start pulls the image."""

_HANDSHAKE_INTERVAL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Docker:
    """A Docker with a running engine and a way to run compose files.

    Args:
        compose: `("docker", "compose")` or `("docker-compose",)`.
    """

    compose: Sequence[str]


def find_docker() -> Docker | None:
    """Find Docker with an engine that answers and with compose; None where one of them is missing."""
    if not shutil.which("docker") or not _succeeds("docker", "info"):
        return None
    if _succeeds("docker", "compose", "version"):
        return Docker(("docker", "compose"))
    return Docker(("docker-compose",)) if shutil.which("docker-compose") else None


class ComposeNode:
    """A private RabbitMQ run by docker compose, with its ports on the loopback address only.

    Args:
        folder: where its compose file and its state are; the data is in a volume of the compose project.
        options: `ports`, `plugins` and `listen` are honoured; the others are not possible here.
        docker: found by `find_docker`.
    """

    kind = "compose"

    def __init__(self, folder: Path | str, options: NodeOptions | None = None, *, docker: Docker) -> None:
        self.folder = Path(folder).absolute()
        self.options = options or NodeOptions()
        self._docker = docker
        if self.options.config or self.options.prefix or self.options.dies_with_caller:
            raise BrokerSetupError(
                "a node of docker compose takes no further configuration; install rabbitmq-server for that"
            )

    @property
    def running(self) -> bool:
        """Whether its container is up."""
        if state.read(self.folder) is None:
            return False
        return bool(self._compose("ps", "-q", "rabbitmq").strip())

    @property
    def pid(self) -> int | None:
        """Always None: the process belongs to the container engine."""
        return None

    @property
    def version(self) -> str:
        """The image's tag."""
        return self._known().version

    @property
    def url(self) -> str:
        """AMQP URL with user and password, into the vhost `/`."""
        known = self._known()
        return f"amqp://{known.user}:{known.password}@{node_options.LOOPBACK}:{known.ports.amqp}/"

    @property
    def management_url(self) -> str:
        """Root of the HTTP API and management page."""
        return f"http://{node_options.LOOPBACK}:{self._known().ports.management}"

    @property
    def log(self) -> Path:
        """The compose file; the log itself is with `docker compose logs`."""
        return self._file

    def start(
        self, *, timeout_seconds: float = START_SECONDS, on_progress: Callable[[str], object] | None = None
    ) -> None:
        """Start the container and wait until it takes connections; nothing happens where it runs already.

        Raises:
            BrokerSetupError: docker compose failed, or the broker was not ready in time.
        """
        if self.running:
            return
        tell = on_progress or (lambda _: None)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        known = state.read(self.folder)
        ports = self.options.ports or (known.ports if known else node_options.free_ports())
        fresh = State(self.kind, ports, "guest", "guest", self.options.listen, IMAGE)
        node_options.write_if_changed(self.folder / "enabled_plugins", node_options.render_plugins(self.options))
        node_options.write_if_changed(self._file, self._render(fresh))
        state.write(self.folder, fresh)
        tell(f"starting {IMAGE} with {' '.join(self._docker.compose)} on port {ports.amqp}")
        deadline = time.monotonic() + timeout_seconds
        self._compose("up", "-d", timeout_seconds=timeout_seconds)
        while not readiness.speaks_amqp(node_options.LOOPBACK, ports.amqp):
            if time.monotonic() > deadline:
                raise BrokerSetupError(
                    f"the container was not ready in time; it said:\n{self._compose('logs', '--tail', '20')}"
                )
            time.sleep(_HANDSHAKE_INTERVAL_SECONDS)
        tell("ready")

    def stop(self, *, timeout_seconds: float = 60.0) -> None:
        """Stop the container; its data stays in the volume. Nothing happens where it does not run."""
        if state.read(self.folder) is not None:
            self._compose("stop", "-t", str(int(timeout_seconds)), timeout_seconds=timeout_seconds + 30)

    def ctl(self, *arguments: str, timeout_seconds: float = 60.0) -> str:
        """Run `rabbitmqctl -q` in the container and return what it prints.

        Raises:
            BrokerSetupError: it ended with an error.
        """
        return self._compose("exec", "-T", "rabbitmq", "rabbitmqctl", "-q", *arguments, timeout_seconds=timeout_seconds)

    @property
    def _file(self) -> Path:
        return self.folder / "compose.yaml"

    def _known(self) -> State:
        known = state.read(self.folder)
        if known is None:
            raise BrokerSetupError(f"no node was ever started in {self.folder}; `amqpq broker start` does that")
        return known

    def _render(self, known: State) -> str:
        listen = self.options.listen
        service = {
            "image": IMAGE,
            "hostname": "amqpq",  # the data folder in the volume is named after it
            "ports": [f"{listen}:{known.ports.amqp}:5672", f"{listen}:{known.ports.management}:15672"],
            "volumes": ["./enabled_plugins:/etc/rabbitmq/enabled_plugins:ro", "data:/var/lib/rabbitmq"],
            "ulimits": {"nofile": {"soft": 65536, "hard": 65536}},
        }
        # JSON is YAML, and writing it needs no library.
        return json.dumps({"services": {"rabbitmq": service}, "volumes": {"data": {}}}, indent=1) + "\n"

    def _compose(self, *arguments: str, timeout_seconds: float = 60.0) -> str:
        project = "amqpq-" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:10]
        command = [*self._docker.compose, "-p", project, "-f", str(self._file), *arguments]
        try:
            answer = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_seconds
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerSetupError(f"`{' '.join(command)}` did not end within {timeout_seconds:g} s") from error
        if answer.returncode != 0:
            raise BrokerSetupError(f"`{' '.join(command)}` ended with {answer.returncode}: {answer.stderr.strip()}")
        return answer.stdout


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
