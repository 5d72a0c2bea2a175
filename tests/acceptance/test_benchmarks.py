"""The benchmark's smoke test: it runs, prints its tables and writes its files. The figures are not looked at."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contenders import librabbitmq

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
ROWS = ["py-amqp, confirms", "pika", "amqpq, Ed25519", "amqpq, HMAC, stream", "Celery prefork", "dramatiq"]


def test_quick_benchmark_measures_every_library(vhost_url: str, tmp_path: Path) -> None:
    """`--quick` measures one row or more of every library and says what each has switched on."""
    pytest.importorskip("dramatiq")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "AMQPQ_BROKER_URL": vhost_url},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (summary,) = tmp_path.glob("*-summary.csv")
    with summary.open(newline="") as file:
        rows = {row["contender"]: row for row in csv.DictReader(file)}
    assert list(rows) == ROWS
    for name, row in rows.items():
        assert float(row["publish_per_s"]) > 0, name
        assert float(row["end_to_end_per_s"]) > 0, name
        assert row["late_ack"].startswith("yes"), name
        assert bool(row["results_per_s"]) == (name != "dramatiq"), name
    assert "Switched on" in done.stdout
    assert "Measured" in done.stdout
    assert "Must show" in done.stdout
    (verdicts,) = tmp_path.glob("*-targets.csv")
    with verdicts.open(newline="") as file:
        rates = {row["what"]: row["verdict"] for row in csv.DictReader(file)}
    assert rates["of Celery prefork's rate"] in {"holds", "DOES NOT HOLD"}
    assert rates["of the C client's rate"] == "not measured"
    (chart,) = tmp_path.glob("*-chart.svg")
    assert chart.read_text().startswith("<svg ")


@pytest.mark.parametrize("row", ["librabbitmq (C)", "librabbitmq (C), confirms"])
def test_the_c_client_is_built_and_measured(row: str, vhost_url: str, tmp_path: Path) -> None:
    """Its client and its worker are compiled, every task is counted, and every call is answered."""
    lack = librabbitmq.missing()
    if lack is not None:
        pytest.skip(lack)
    rows = measured(row, vhost_url, tmp_path)
    assert all(float(rows[row][figure]) > 0 for figure in ("publish_per_s", "end_to_end_per_s", "results_per_s"))


@pytest.mark.parametrize("row", ["py-amqp, direct", "py-amqp, queue per task"])
def test_the_floors_of_the_reply_modes_are_measured(row: str, vhost_url: str, tmp_path: Path) -> None:
    """Calls and round trips through direct reply-to and through a queue per task, by the bare driver."""
    rows = measured(row, vhost_url, tmp_path)
    assert float(rows[row]["results_per_s"]) > 0
    assert float(rows[row]["round_trip_p50_ms"]) > 0


@pytest.mark.parametrize(("row", "package"), [("taskiq", "taskiq_aio_pika"), ("FastStream", "faststream")])
def test_the_asyncio_rivals_are_measured(row: str, package: str, vhost_url: str, tmp_path: Path) -> None:
    """Every task is counted; FastStream answers calls, and taskiq has no results on RabbitMQ."""
    pytest.importorskip(package)
    rows = measured(row, vhost_url, tmp_path)
    assert float(rows[row]["end_to_end_per_s"]) > 0
    assert bool(rows[row]["results_per_s"]) == (row == "FastStream")


def measured(row: str, url: str, folder: Path) -> dict[str, dict[str, str]]:
    """Measure one row, quickly and strictly; return the lines of the summary."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--strict", "--only", row, "--output", str(folder)]
    environment = {**os.environ, "AMQPQ_BROKER_URL": url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (summary,) = folder.glob("*-summary.csv")
    with summary.open(newline="") as file:
        return {line["contender"]: line for line in csv.DictReader(file)}


def test_benchmark_names_its_contenders_where_one_is_unknown() -> None:
    """A row that does not exist is refused, with the rows there are."""
    command = [sys.executable, "-m", "benchmarks", "--only", "rabbits"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no contender 'rabbits'; there are: librabbitmq (C); " in done.stderr
