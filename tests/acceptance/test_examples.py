"""Every folder in `examples/` is run as its README says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TESTED = {"quickstart", "inventory", "two_hosts", "fastapi", "deploy"}  # two_hosts and deploy have files of their own
WAIT_SECONDS = 60.0


@pytest.fixture
def environment(vhost_url: str) -> dict[str, str]:
    """The environment of a reader with a broker: its address, and amqpq from this checkout."""
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path, "AMQPQ_BROKER_URL": vhost_url}


def _copy(name: str, folder: Path) -> Path:
    """Copy an example, so that its keys are not made in the checkout."""
    return Path(shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "keys")))


def _run(arguments: list[str], folder: Path, environment: Mapping[str, str], wait: float = WAIT_SECONDS) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=wait,
        check=False,
    )
    assert done.returncode == 0, f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def _running(
    arguments: list[str], folder: Path, environment: Mapping[str, str], *, ends_with: int = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends, and see it end well when asked; its output is part of any failure."""
    log = folder / f"{arguments[1]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=dict(environment), stdout=output, stderr=output
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == ends_with
    except BaseException as error:
        error.add_note(f"{arguments}:\n{log.read_text(errors='replace')[-6000:]}")
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_every_example_has_a_readme_and_a_test() -> None:
    """A new folder in `examples/` cannot go without README and test."""
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == TESTED
    assert all((EXAMPLES / name / "README.md").is_file() for name in folders)


def test_quickstart_is_fifteen_lines_and_works(tmp_path: Path, environment: dict[str, str]) -> None:
    """Topology, task and caller are fifteen lines, and the caller prints the sum."""
    folder = _copy("quickstart", tmp_path)
    sources = [(folder / name).read_text() for name in ("topology.yaml", "tasks.py", "call.py")]
    assert sum(1 for text in sources for line in text.splitlines() if line.strip()) <= 15
    _run(["-m", "amqpq", "keys", "new", "quickstart"], folder, environment)
    _run(["-m", "amqpq", "topology", "apply"], folder, environment)
    with _running(["-m", "amqpq", "worker", "-A", "tasks", "--apply"], folder, environment):
        assert "2 + 3 = 5" in _run(["call.py"], folder, environment)


def test_inventory_ends_with_its_table_and_exit_code_0(tmp_path: Path, environment: dict[str, str]) -> None:
    """The demo holds all its checks on the files of a folder, and leaves nothing on the broker that was given to it."""
    source = tmp_path / "source"
    (source / "tests").mkdir(parents=True)
    for number in range(30):
        (source / f"module_{number}.py").write_text(f"x = {number}\n" * (400 * (number % 3) + 1))
        (source / "tests" / f"test_{number}.txt").write_text("the same words\n")
    (source / "page.html").write_text("<p>goes through the alternate exchange</p>\n")
    output = _run(["-m", "examples.inventory.run", str(source), "--limit", "50"], ROOT, environment, wait=150)
    assert "before retrieval: 50 reply queues" in output
    assert "after retrieval: 0 reply queues" in output
    assert "amqpq-cause: forged" in output
    assert "Inventory by file type" in output
    assert "0 checks failed" in output


def test_inventory_fails_where_a_step_fails(tmp_path: Path, environment: dict[str, str]) -> None:
    """The demo's exit code is 1, with the reason, where its broker does not let it in."""
    (tmp_path / "one.py").write_text("x = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "examples.inventory.run", str(tmp_path)],
        cwd=ROOT,
        env={**environment, "AMQPQ_BROKER_URL": environment["AMQPQ_BROKER_URL"] + "-which-does-not-exist"},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert "topology apply" in done.stdout
    assert "which-does-not-exist" in done.stdout
    assert "1 checks failed" in done.stdout


def test_fastapi_awaits_results_in_request_handlers(tmp_path: Path, environment: dict[str, str]) -> None:
    """A request publishes a task and answers with its result; a job is fetched later, once, and is a 404 after that."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    folder = _copy("fastapi", tmp_path)
    _run(["-m", "amqpq", "keys", "new", "texts"], folder, environment)
    _run(["-m", "amqpq", "topology", "apply"], folder, environment)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = _running(["-m", "amqpq", "worker", "-A", "tasks"], folder, environment)
    # uvicorn hands the signal on to itself once it has shut down in order.
    server = _running(["-m", "uvicorn", "web:api", "--port", str(port)], folder, environment, ends_with=-signal.SIGTERM)
    with worker, server as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS) as client:
        _await_listener(port, process)
        counted = client.post("/count", json={"text": "to be or not to be"})
        assert (counted.status_code, counted.json()) == (200, {"to": 2, "be": 2, "or": 1, "not": 1})
        started = client.post("/jobs", json={"seconds": 2})
        job = f"/jobs/{started.json()['id']}"
        assert started.status_code == 202
        assert client.get(job, params={"wait": 0.05}).status_code == 202
        fetched = client.get(job, params={"wait": 30})
        assert (fetched.status_code, fetched.json()["result"]) == (200, 2)
        assert client.get(job).status_code == 404
        assert client.get("/jobs/0b0e0000-0000-4000-8000-000000000000").status_code == 404
    log = (folder / "uvicorn.log").read_text()
    assert "Application shutdown complete" in log
    assert "Traceback" not in log


def test_readmes_name_files_that_exist() -> None:
    """The commands in the examples' READMEs refer to what is there."""
    for name in TESTED:
        readme = (EXAMPLES / name / "README.md").read_text()
        for module in re.findall(r"python -m (examples\.[\w.]+)", readme):
            assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
        for script in re.findall(r"^\$ (?:sudo )?python (\S+\.py)", readme, re.MULTILINE):
            assert (EXAMPLES / name / script).is_file(), script


def _await_listener(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "the web server ended"
            assert time.monotonic() < deadline, "the web server does not listen"
            time.sleep(0.05)  # another process: there is nothing to wait on
        else:
            return
