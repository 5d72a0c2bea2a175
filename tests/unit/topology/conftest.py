"""Fixtures of the topology's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from amqpq.cli.main import main

Command = Callable[..., Result]


@pytest.fixture
def topology_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Command]:
    """`topology_command(text)` runs `amqpq topology ...` in a folder with that topology file."""

    def begin(text: str) -> Command:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)
        monkeypatch.delenv("AMQPQ_BROKER_URL", raising=False)
        monkeypatch.setenv("SHOP_URL", "amqp://shop:hunter2@localhost:5672/")
        Path("topology.yaml").write_text(text, encoding="utf-8")
        return lambda *arguments: CliRunner().invoke(main, ["topology", *arguments])

    return begin
