"""The example `two_hosts`: producer, broker and worker in three network namespaces."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
NOT_POSSIBLE = 77


def _namespaces() -> set[str]:
    """Those of the example; tests beside this one have others (amqpq-faults-...)."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if re.match(r"amqpq-(\d+|probe)-", line)}


def test_two_hosts_work_over_three_network_namespaces() -> None:
    """Tasks, results and failures travel between hosts that share neither private keys nor code; nothing is left."""
    environment = {name: value for name, value in os.environ.items() if name != "AMQPQ_BROKER_URL"}
    command = [sys.executable, "-m", "examples.two_hosts.run"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False)
    if done.returncode == NOT_POSSIBLE:
        if os.environ.get("CI") == "true" and os.geteuid() == 0:  # who is not root may not make namespaces
            pytest.fail(done.stderr, pytrace=False)
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "  NO  " not in done.stdout
    assert "ok  the task ran on the worker's host" in done.stdout
    assert not _namespaces(), "namespaces are left"
