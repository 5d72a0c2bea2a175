"""Direct replies end to end: signed, through a real worker process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amqpq import App

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0

TOPOLOGY = """\
amqpq: 1
project: direct
queues:
  default: {}
replies: {mode: direct}
security: {signing: {algorithm: hmac-sha256, key: "env:DIRECT_SECRET", key_id: direct}}
"""

TASKS = """\
from amqpq import App
app = App("topology.yaml")

@app.task
def double(x):
    return 2 * x
"""


def test_signed_tasks_are_answered_through_the_direct_reply_address(
    vhost_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's token in the reply address breaks no signature, and an answer that arrives is not reported as lost."""
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    monkeypatch.setenv("DIRECT_SECRET", "5a" * 32)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    (tmp_path / "tasks.py").write_text(TASKS)
    amqpq = [sys.executable, "-m", "amqpq"]
    subprocess.run([*amqpq, "topology", "apply"], cwd=tmp_path, check=True, timeout=WAIT_SECONDS)
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen([*amqpq, "worker", "-A", "tasks"], cwd=tmp_path, stdout=output, stderr=output)
    try:
        with App(tmp_path / "topology.yaml") as app:
            sent = [app.send_task("tasks.double", [number]) for number in range(20)]
            assert [result.get(timeout=WAIT_SECONDS) for result in sent] == [2 * number for number in range(20)]
    finally:
        worker.send_signal(signal.SIGTERM)
        code = worker.wait(WAIT_SECONDS)
    assert code == 0
    assert "found no reply queue" not in log.read_text()
