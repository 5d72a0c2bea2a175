"""`amqpq bench` against a real broker: what it answers, what it leaves, and what it says where it may not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import BrokerServer
from tests.support.commands import WAIT_SECONDS, amqpq, environment
from tests.support.lab import until

LATENCY = {"p50_ms", "p99_ms", "samples"}
RATE = {"per_second", "slowest_per_second", "fastest_per_second", "cpu_us", "busy", "messages", "seconds"}


def vhost_of(url: str) -> str:
    """The name of the virtual host that a URL leads into."""
    return unquote(urlsplit(url).path.removeprefix("/"))


def queues(server: BrokerServer, url: str) -> list[str]:
    """The names of the queues there."""
    found: Any = server.request("GET", f"queues/{vhost_of(url)}?disable_stats=true")
    return [queue["name"] for queue in found]


@pytest.fixture
def limited_url(broker_server: BrokerServer, vhost_url: str) -> Iterator[str]:
    """As a user who may not write to the default exchange."""
    name = f"{vhost_of(vhost_url)}-limited"
    broker_server.request("PUT", f"users/{name}", {"password": "secret", "tags": ""})
    patterns = {"configure": r"^amqpq\.bench\.", "write": r"^amqpq\.bench\.", "read": r"^amqpq\.bench\."}
    broker_server.request("PUT", f"permissions/{vhost_of(vhost_url)}/{name}", patterns)
    parts = urlsplit(vhost_url)
    yield parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}").geturl()
    broker_server.request("DELETE", f"users/{name}")


def test_everything_is_measured_and_nothing_is_left(
    broker_server: BrokerServer, vhost_url: str, tmp_path: Path
) -> None:
    """Each figure has its unit in its name and something was counted for it; the queues are gone when the command ends."""
    data = json.loads(amqpq(tmp_path, "bench", "--broker", vhost_url, "--seconds", "1", "--json").done())
    figures = data["figures"]
    assert data["broker"]["product"] == "RabbitMQ"
    for kind in ("classic", "quorum"):
        assert set(figures["publish"][kind]["batch"]) == set(figures["throughput"][kind]) == RATE
        assert set(figures["publish"][kind]["single"]) == LATENCY
    for latency in (figures["network"], figures["round_trip"], figures["publish"]["classic"]["single"]):
        assert set(latency) == LATENCY
        assert 0 < latency["p50_ms"] <= latency["p99_ms"]
        assert latency["samples"] >= 1
    rates = [*figures["throughput"].values(), figures["replies"]["queue_per_task"], figures["replies"]["direct"]]
    for rate in rates:
        assert set(rate) == RATE
        assert rate["messages"] >= 1
        assert rate["per_second"] > 0
        assert rate["cpu_us"] > 0
    assert set(figures["signing"]) == {"off", "hmac-sha256", "ed25519"}
    assert 1 <= len(data["verdict"]) <= 5
    assert queues(broker_server, vhost_url) == []


def test_what_the_help_says_is_needed_is_enough(
    broker_server: BrokerServer, limited_url: str, vhost_url: str, tmp_path: Path
) -> None:
    """Without the default exchange it is refused, with the patterns; with these patterns it runs. Nothing is left either way."""
    said = amqpq(tmp_path, "bench", "--broker", limited_url, "--seconds", "0.2").refused()
    assert "write on '^(amqpq\\.bench\\.|amq\\.default$)'" in said
    assert queues(broker_server, vhost_url) == []
    patterns = {
        "configure": r"^amqpq\.bench\.",
        "write": r"^(amqpq\.bench\.|amq\.default$)",
        "read": r"^amqpq\.bench\.",
    }
    user = urlsplit(limited_url).username
    broker_server.request("PUT", f"permissions/{vhost_of(vhost_url)}/{user}", patterns)
    amqpq(tmp_path, "bench", "--broker", limited_url, "--seconds", "0.2").done()
    assert queues(broker_server, vhost_url) == []


def test_an_interrupt_leaves_no_queue(broker_server: BrokerServer, vhost_url: str, tmp_path: Path) -> None:
    """^C in the middle ends the command, and deletes what it made."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests ignore it, their children would
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "amqpq", "bench", "--broker", vhost_url, "--seconds", "300", "--only", "throughput"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        until(
            lambda: any(name.endswith(".classic") for name in queues(broker_server, vhost_url)), "a queue to measure in"
        )
        os.kill(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=WAIT_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert queues(broker_server, vhost_url) == [], said


def test_a_broker_under_an_alarm_is_said_and_left_clean(
    private_server: BrokerServer, private_vhost_url: str, rabbitmqctl: Callable[..., str], tmp_path: Path
) -> None:
    """It answers no publish: the error has its reason and the remedy, and the queue of the attempt is gone."""
    rabbitmqctl("set_vm_memory_high_watermark", "0.00001")
    try:
        said = amqpq(tmp_path, "bench", "--broker", private_vhost_url, "--seconds", "0.2").refused()
        assert "the broker takes no messages at the moment: low on memory; free memory or disk on it" in said
        assert queues(private_server, private_vhost_url) == []
    finally:
        rabbitmqctl("set_vm_memory_high_watermark", "0.4")


def test_a_virtual_host_that_does_not_exist_is_named(vhost_url: str, tmp_path: Path) -> None:
    """A URL that leads nowhere is one line with the remedy."""
    wrong = urlsplit(vhost_url)._replace(path="/no-such-vhost").geturl()
    said = amqpq(tmp_path, "bench", "--broker", wrong, "--seconds", "0.2").refused()
    assert "rabbitmqctl add_vhost no-such-vhost" in said


def test_a_closed_port_is_named(tmp_path: Path) -> None:
    """Nobody listens on the discard port of this machine."""
    said = amqpq(
        tmp_path, "bench", "--broker", "amqp://localhost:9/?connection_timeout=500", "--seconds", "0.2"
    ).refused()
    assert "nothing listens at localhost:9" in said
