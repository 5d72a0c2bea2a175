"""The files around the code: what they promise to other tools is checked by those tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"])


def test_compose_file_is_valid() -> None:
    """docker-compose.yml is accepted by docker compose, in either of its forms."""
    commands = [["docker", "compose"], ["docker-compose"]]
    for command in commands:
        if shutil.which(command[0]) and _run(*command, "version").returncode == 0:
            answer = _run(*command, "config", "--quiet")
            assert answer.returncode == 0, answer.stderr
            return
    pytest.skip("neither `docker compose` nor `docker-compose` is installed")


def test_compose_file_has_its_parts() -> None:
    """RabbitMQ 4 with a health check, one producer, two workers that wait for it."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert re.fullmatch(r"rabbitmq:4[.\d]*-management", services["rabbitmq"]["image"])
    assert "healthcheck" in services["rabbitmq"]
    assert len([service for service in services.values() if "worker" in service.get("command", [])]) == 2
    assert services["setup"]["depends_on"]["rabbitmq"]["condition"] == "service_healthy"
    assert "producer" in services


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_strict_and_executable(script: Path) -> None:
    """Shell scripts parse, stop at the first error, and can be run as they are."""
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o111
    assert _run("bash", "-n", str(script)).returncode == 0


def test_make_prints_its_help() -> None:
    """`make` alone lists every target that a person may call."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = _run("make", "--no-print-directory").stdout
    assert {"demo", "test", "lint", "bench"} <= targets
    assert set(re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE)) == targets


def test_actions_are_pinned_and_have_no_permissions_by_default() -> None:
    """The workflow names actions by commit, and grants nothing that a job does not ask for."""
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", use) for use in re.findall(r"uses: (.*)", text))
    versions = workflow["jobs"]["versions"]["strategy"]["matrix"]["include"]
    assert {entry["python"] for entry in versions} == {"3.11", "3.12", "3.13", "3.14"}
    assert {"3.13", "4.3"} <= {entry["rabbitmq"] for entry in versions}


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
