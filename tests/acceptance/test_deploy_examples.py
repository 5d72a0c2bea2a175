"""`examples/deploy`: the files are accepted by the tools they are for, and their workers start, say that they do, and stop."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from amqpq.topology.units import seconds
from tests.support.commands import amqpq

pytestmark = pytest.mark.acceptance

DEPLOY = Path(__file__).resolve().parents[2] / "examples" / "deploy"
UNIT = DEPLOY / "systemd" / "amqpq@.service"
WAIT_SECONDS = 60.0
SERVICE_SLACK_SECONDS = 10


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    """The unit file; keys that may come twice are not looked at."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    """The pod of the Deployment."""
    manifest = yaml.safe_load((DEPLOY / "kubernetes" / "worker.yaml").read_text(encoding="utf-8"))
    assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def folder(tmp_path: Path, vhost_url: str) -> Path:
    """The application where it was deployed, with its key and its queues."""
    copied = Path(shutil.copytree(DEPLOY, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__", "keys")))
    amqpq(copied, "keys", "new", "shop").done()
    amqpq(copied, "topology", "apply", broker=vhost_url).done()
    return copied


class Deployed:
    """A worker that was started with a deployment's command line."""

    def __init__(self, command: list[str], folder: Path, broker: str, **more: str) -> None:
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(DEPLOY.parents[1])]))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "amqpq", *command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path, "AMQPQ_BROKER_URL": broker, **more},
                stdout=log,
                stderr=log,
            )

    def ends_well(self) -> None:
        """Stop it as a service manager does."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_SECONDS) == 0, self.log.read_text()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/shop/venv/bin/amqpq", "/bin/true")
    (tmp_path / UNIT.name).write_text(text)
    answer = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
        capture_output=True, text=True, check=False, timeout=WAIT_SECONDS,
    )  # fmt: skip
    about_it = [line for line in answer.stderr.splitlines() if UNIT.name in line]
    assert not about_it


def test_service_managers_wait_longer_than_the_worker(unit: configparser.ConfigParser, pod: dict[str, Any]) -> None:
    """Both give it time to hand back what still runs at its own timeout, and take exit code 3 for what it is."""
    service = unit["Service"]
    in_unit = re.search(r"--shutdown-timeout (\S+)", service["ExecStart"])
    in_pod = re.search(r"--shutdown-timeout=(\S+)", " ".join(pod["containers"][0]["args"]))
    assert in_unit is not None
    assert in_pod is not None
    assert int(service["TimeoutStopSec"]) >= seconds(in_unit[1]) + SERVICE_SLACK_SECONDS
    assert pod["terminationGracePeriodSeconds"] >= seconds(in_pod[1]) + SERVICE_SLACK_SECONDS
    assert (service["SuccessExitStatus"], service["KillMode"], service["Type"]) == ("3", "mixed", "notify")


def test_the_units_worker_tells_systemd(
    unit: configparser.ConfigParser, folder: Path, vhost_url: str, tmp_path: Path
) -> None:
    """Its command line, as systemd would expand it: it becomes ready, and feeds the watchdog in time."""
    service = unit["Service"]
    line = service["ExecStart"].replace("%i", "w1").replace("%%", "%").replace("/run/amqpq/w1", str(tmp_path))
    for setting in service["Environment"].split():
        name, _, value = setting.partition("=")
        line = line.replace(f"${{{name}}}", value)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
        ears.bind(str(tmp_path / "notify"))
        ears.settimeout(WAIT_SECONDS)
        watchdog = str(int(service["WatchdogSec"]) * 1_000_000)
        manager = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": watchdog}
        worker = Deployed(shlex.split(line)[1:], folder, vhost_url, **manager)
        heard: list[str] = []
        while not {"READY=1", "WATCHDOG=1"} <= set(heard):
            heard += ears.recv(4096).decode().splitlines()
        assert amqpq(folder, "health", "--ready", f"unix:{tmp_path}/health.sock").code == 0
        worker.ends_well()


def test_the_pods_probes_are_answered(
    pod: dict[str, Any], folder: Path, vhost_url: str, until: Callable[..., None]
) -> None:
    """Its command line, with a port of this machine; each probe's path is asked as a kubelet asks."""
    container = pod["containers"][0]
    assert container["command"] == ["tini", "--", "amqpq", "worker"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [each.replace("$(POD_NAME)", "shop-worker-1").replace("8080", str(port)) for each in container["args"]]
    worker = Deployed(["worker", *arguments], folder, vhost_url)
    paths = [container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert {container[name]["httpGet"]["port"] for name in ("startupProbe", "livenessProbe")} == {
        container["ports"][0]["name"]
    }

    def answered(path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
            assert worker.process.poll() is None, worker.log.read_text()
            return False

    for path in paths:
        until(lambda path=path: answered(path), path)
    assert amqpq(folder, "call", "tasks.add", "2", "3", broker=vhost_url).done().strip() == "5"
    assert amqpq(folder, "call", "tasks.resize", "8", broker=vhost_url).done().strip() == "4"
    worker.ends_well()
