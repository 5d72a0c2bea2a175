from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from amqpq.node import process
from amqpq.node.process import Process

DEADLINE_SECONDS = 30.0


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    """A process that does nothing."""
    started = process.start_detached(["sleep", "600"], environ=os.environ, output=tmp_path / "out", folder=tmp_path)
    yield started
    started.signal(signal.SIGKILL)
    assert started.wait(DEADLINE_SECONDS)


def test_a_process_is_alive_until_it_ends(sleeper: Process) -> None:
    """A started process is alive, and after SIGTERM it is not."""
    assert sleeper.alive
    assert sleeper.end(DEADLINE_SECONDS)
    assert not sleeper.alive


def test_another_process_with_the_same_id_is_not_ours(sleeper: Process) -> None:
    """A process id whose start time differs is somebody else's: not alive for us, and never signalled."""
    former = replace(sleeper, started="1")
    assert not former.alive
    assert former.end(DEADLINE_SECONDS)
    assert sleeper.alive


def test_waiting_ends_at_the_timeout(sleeper: Process) -> None:
    """Waiting for a process that goes on tells that it is still there."""
    assert not sleeper.wait(0.01)


def test_waiting_by_polling_sees_the_end(sleeper: Process) -> None:
    """Where the system has no pidfd, the end is seen too."""
    assert not sleeper._wait_by_polling(0.01)
    os.kill(sleeper.pid, signal.SIGKILL)
    assert sleeper._wait_by_polling(DEADLINE_SECONDS)


def test_who_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is gone after `end`, which says that asking was not enough."""
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    output = tmp_path / "out"
    deaf = process.start_detached([sys.executable, "-c", program], environ=os.environ, output=output, folder=tmp_path)
    while not output.read_bytes():
        assert not deaf.wait(0.01)
    assert not deaf.end(0.05)
    assert not deaf.alive


def test_output_is_appended_to_a_file(tmp_path: Path) -> None:
    """What the process prints, on either stream, is in its output file."""
    output = tmp_path / "out"
    output.write_text("before\n")
    script = ["sh", "-c", "echo one; echo two >&2"]
    assert process.start_detached(script, environ=os.environ, output=output, folder=tmp_path).wait(DEADLINE_SECONDS)
    assert output.read_text().splitlines() == ["before", "one", "two"]


def test_a_process_that_never_was_is_not_alive() -> None:
    """An empty start time matches no process."""
    assert not Process(2**22 + 1, "").alive
