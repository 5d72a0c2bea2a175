"""The command line as a person uses it: type a command in a folder, read what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    def refused(self, code: int = 1) -> str:
        """Return what it said on standard error, of a command that ended with this code and without a traceback."""
        assert self.code == code, f"exit code {self.code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.out + self.err, self.err
        return self.err

    def done(self) -> str:
        """Return what it printed, of a command that ended well."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self.out


def environment(broker: str | None = None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of somebody who has this checkout and this broker."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AMQPQ_")}
    address = {} if broker is None else {"AMQPQ_BROKER_URL": broker}
    return {**clean, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **address, **(extra or {})}


def amqpq(folder: Path, *arguments: str, broker: str | None = None, extra: Mapping[str, str] | None = None) -> Said:
    """Type `amqpq ARGUMENTS` in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "amqpq", *arguments],
        cwd=folder,
        env=environment(broker, extra),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker that consumes."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def text(self) -> str:
        """Everything it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has said this."""
        deadline = time.monotonic() + WAIT_SECONDS
        while text not in self.text:
            assert self.process.poll() is None, f"the worker ended without saying {text!r}:\n{self.text[-6000:]}"
            assert time.monotonic() < deadline, f"the worker did not say {text!r} in time:\n{self.text[-6000:]}"
            time.sleep(0.02)  # another process: there is nothing to wait on


@contextmanager
def worker(folder: Path, *arguments: str, broker: str) -> Iterator[RunningWorker]:
    """Run `amqpq worker ARGUMENTS` in a folder until the block ends; it must end well then."""
    log = folder / "worker.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "amqpq", "worker", *arguments],
            cwd=folder,
            env=environment(broker),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    running = RunningWorker(process, log)
    try:
        yield running
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0, running.text[-6000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(WAIT_SECONDS)
