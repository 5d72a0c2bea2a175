"""Names of a worker's files. Its pid file, which is about processes, is in the integration tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from amqpq.errors import ConfigurationError
from amqpq.worker.files import PidFile, expand


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("/run/%n.pid", "/run/w1.pid"),
        ("%n%I.log", "w1.log"),
        ("%p-%h-%d-%i%%", "w1@a.example.org-a.example.org-example.org-0%"),
        ("plain", "plain"),
    ],
)
def test_names_depend_on_the_worker(pattern: str, name: str) -> None:
    """With Celery's letters."""
    assert expand(pattern, "w1@a.example.org") == name


@pytest.mark.parametrize("pattern", ["%x.pid", "%"])
def test_a_letter_that_means_nothing_is_refused(pattern: str) -> None:
    """With those that do."""
    with pytest.raises(ConfigurationError, match="means nothing here; use %n"):
        expand(pattern, "w1@h")


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """The folder is missing, say."""
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        PidFile(tmp_path / "missing" / "w1.pid").take()
