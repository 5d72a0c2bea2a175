"""A worker's pid file: processes that have it, lose it and leave it behind. No broker is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from amqpq.errors import ConfigurationError
from amqpq.worker import files
from amqpq.worker.files import PidFile, running

HOLD = """
import sys
from amqpq.worker.files import PidFile
file = PidFile(sys.argv[1])
file.take()
print("taken", flush=True)
sys.stdin.read()
file.release()
"""


@pytest.fixture
def hold(tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    """Start a process that has the pid file."""

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "w1.pid")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        return process

    return start


def end(process: subprocess.Popen[str]) -> None:
    """Let it release the file."""
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_the_file_says_who_runs_and_goes_with_it(tmp_path: Path, hold: Callable[[], subprocess.Popen[str]]) -> None:
    """While the worker runs its id is there; afterwards nothing is."""
    path = tmp_path / "w1.pid"
    process = hold()
    assert running(path) == process.pid == int(path.read_text())
    end(process)
    assert running(path) is None
    assert not path.exists()


def test_one_file_is_for_one_worker(
    tmp_path: Path, hold: Callable[[], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one is told who has it, and does the first no harm."""
    monkeypatch.setattr(files, "TRY_SECONDS", 0.05)
    process = hold()
    with pytest.raises(ConfigurationError, match=f"runs, with process id {process.pid}"):
        PidFile(tmp_path / "w1.pid").take()
    assert running(tmp_path / "w1.pid") == process.pid
    end(process)


def test_a_killed_worker_leaves_a_stale_file(tmp_path: Path, hold: Callable[[], subprocess.Popen[str]]) -> None:
    """It names nobody, even where its number is a living process's by now; the next worker takes it over."""
    path = tmp_path / "w1.pid"
    process = hold()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    path.write_text(f"{os.getppid()}\n")
    assert running(path) is None
    process = hold()
    assert running(path) == process.pid
    end(process)
