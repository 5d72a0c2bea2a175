"""Real Celery in both directions: a Celery producer with an amqpq worker, an amqpq producer with a Celery worker.

Neither side knows of the other. The Celery programs use Celery's own defaults (queue `celery`, exchange `celery`,
rpc://), and each runs in a process of its own. The topology describes what Celery declares: `dead_letter: none`,
because Celery's queue has no arguments and a queue's arguments cannot change.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from amqpq import App
from amqpq.errors import RemoteError

pytestmark = pytest.mark.acceptance

PROGRAMS = Path(__file__).with_name("celery_programs")
ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0

TOPOLOGY = """\
amqpq: 1
project: interop
exchanges:
  celery: {{type: direct}}
queues:
  celery: {{dead_letter: none}}
bindings:
  - celery[celery] -> celery
routes:
  "shop.*": {{exchange: celery, key: celery}}
messages:
  serializer: {serializer}
  accept: [{serializer}]
  compression: {{algorithm: {compression}, above: 64B}}
replies: {{mode: {reply}}}
security: {{signing: off, require: optional}}
"""


@pytest.fixture
def url(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A vhost of this test's own, which is also what `$AMQPQ_BROKER_URL` says to everything that the test starts."""
    monkeypatch.setenv("AMQPQ_BROKER_URL", vhost_url)
    return vhost_url


SERIALIZERS = ("json", "msgpack")
COMPRESSIONS = ("zlib", "bzip2")
LABEL = "x" * 2000


def _topology(folder: Path, serializer: str, compression: str, reply: str = "task") -> Path:
    file = folder / "topology.yaml"
    file.write_text(TOPOLOGY.format(serializer=serializer, compression=compression, reply=reply))
    return file


def _environment(topology: Path, serializer: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(PROGRAMS)]),
        "AMQPQ_TOPOLOGY": str(topology),
        "SERIALIZER": serializer,
    }


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run a worker until the block ends; where the block fails, the worker's log is part of the failure."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), cwd=log.parent, stdout=output, stderr=output)
    try:
        yield
    except BaseException as error:
        error.add_note(f"{command}:\n{log.read_text(errors='replace')[-6000:]}")
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _amqpq(environment: Mapping[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "amqpq", *arguments], env=dict(environment), check=True, timeout=WAIT_SECONDS)


def _celery_worker(pool: str) -> list[str]:
    """Return Celery's own command. Nothing is switched off that would be needed on any supported RabbitMQ."""
    options = ["worker", f"--pool={pool}", "--concurrency=1", "--loglevel=INFO"]
    return [sys.executable, "-m", "celery", "-A", "celery_server", *options]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_celery_producer_gets_results_and_failures_from_an_amqpq_worker(
    url: str, tmp_path: Path, serializer: str, compression: str
) -> None:
    """A Celery producer reads result, failure, traceback and the end at a time limit through its own rpc:// backend."""
    environment = _environment(_topology(tmp_path, serializer, compression), serializer)
    _amqpq(environment, "topology", "apply")
    worker = [sys.executable, "-m", "amqpq", "worker", "-A", "amqpq_server", "-Q", "celery", "-P", "prefork", "-c", "1"]
    client = [sys.executable, str(PROGRAMS / "celery_client.py"), url, serializer, compression]
    with _running(worker, environment, tmp_path / "worker.log"):
        done = subprocess.run(
            client, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        came_back: dict[str, Any] = json.loads(done.stdout)
    assert came_back["value"] == {"sum": 5, "label": LABEL}
    assert (came_back["state"], came_back["failed_state"]) == ("SUCCESS", "FAILURE")
    assert came_back["error_is_value_error"], came_back
    assert came_back["error_text"] == "on purpose"
    assert (came_back["overran_state"], came_back["overran_type"]) == ("FAILURE", "TimeLimitExceeded")
    assert "amqpq_server.py" in came_back["traceback"]
    assert "ValueError: on purpose" in came_back["traceback"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.usefixtures("url")
def test_amqpq_producer_gets_results_and_failures_from_a_celery_worker(
    tmp_path: Path, serializer: str, compression: str
) -> None:
    """An amqpq producer gets result, failure and traceback of a Celery worker through its reply queues."""
    came_back = _call_celery(tmp_path, (serializer, compression, "task"), pool="solo")
    assert came_back == {"value": {"sum": 5, "label": LABEL}, "error": "on purpose", "traceback": True}


@pytest.mark.usefixtures("url")
def test_amqpq_producer_calls_a_prefork_celery_worker(tmp_path: Path) -> None:
    """Celery's default pool answers as the solo one does."""
    came_back = _call_celery(tmp_path, ("json", "zlib", "task"), pool="prefork")
    assert came_back == {"value": {"sum": 5, "label": LABEL}, "error": "on purpose", "traceback": True}


@pytest.mark.usefixtures("url")
def test_celery_worker_answers_direct_replies(tmp_path: Path) -> None:
    """A Celery worker's answer also finds its way through the broker's direct reply-to."""
    came_back = _call_celery(tmp_path, ("json", "zlib", "direct"), pool="solo")
    assert came_back == {"value": {"sum": 5, "label": LABEL}, "error": "on purpose", "traceback": True}


def _call_celery(folder: Path, wire: tuple[str, str, str], *, pool: str) -> dict[str, object]:
    """Call a Celery worker from this process; return what came back."""
    serializer, compression, reply = wire
    topology = _topology(folder, serializer, compression, reply)
    environment = _environment(topology, serializer)
    _amqpq(environment, "topology", "apply")
    app = App(topology)  # finds the address in $AMQPQ_BROKER_URL, as its users do
    try:
        with _running(_celery_worker(pool), environment, folder / "celery.log"):
            answered = app.send_task("shop.add", args=[2, 3], kwargs={"label": LABEL})
            failed = app.send_task("shop.fail", args=["on purpose"])
            value = answered.get(timeout=WAIT_SECONDS)
            with pytest.raises((ValueError, RemoteError)) as caught:
                failed.get(timeout=WAIT_SECONDS)
            assert isinstance(caught.value, ValueError)
            return {
                "value": value,
                "error": str(caught.value),
                "traceback": "ValueError: on purpose" in str(failed.traceback),
            }
    finally:
        app.close()


def test_celery_producer_delays_a_task_and_sees_it_retried(url: str, tmp_path: Path) -> None:
    """Celery sends a countdown straight to the queue; it waits in the broker, and Celery's AsyncResult shows RETRY."""
    topology = _topology(tmp_path, "json", "zlib")
    topology.write_text(topology.read_text() + "delays: {max: 1h}\n")
    environment = _environment(topology, "json")
    _amqpq(environment, "topology", "apply")
    worker = [sys.executable, "-m", "amqpq", "worker", "-A", "amqpq_server", "-Q", "celery", "-P", "prefork", "-c", "1"]
    client = [sys.executable, str(PROGRAMS / "celery_later.py"), url, "json"]
    with _running(worker, environment, tmp_path / "worker.log"):
        done = subprocess.run(
            client, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
    came_back = json.loads(done.stdout)
    assert came_back["value"] == {"retries": 1, "early": False}
    # The client may ask once more between the end of the task and its look at the result.
    assert came_back["states"] in (["PENDING", "RETRY"], ["PENDING", "RETRY", "SUCCESS"])
