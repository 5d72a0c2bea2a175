"""The benchmark's smoke test: it runs, prints its tables and writes its files. The figures are not looked at."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).resolve().parents[2]
ROWS = ["py-amqp, confirms", "pika", "amqpq, Ed25519", "amqpq, HMAC, batch", "Celery prefork", "dramatiq"]


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


def test_benchmark_names_its_contenders_where_one_is_unknown() -> None:
    """A row that does not exist is refused, with the rows there are."""
    command = [sys.executable, "-m", "benchmarks", "--only", "rabbits"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no contender 'rabbits'; there are: py-amqp; " in done.stderr
