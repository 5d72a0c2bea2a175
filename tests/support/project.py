"""A project in a folder, the current one, and somebody who types `amqpq topology ...` there.

    amqpq = Project(topology_folder, FILE)
    assert amqpq("apply").exit_code == 0
    amqpq.write(allow={"delete": True})
    assert amqpq.changes() == [("delete", "queue old")]

The fixture `topology_folder` of the integration tests makes the folder, on a fresh virtual host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from amqpq.cli.main import main


class Project:
    """The file of a project, and its commands."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        self._file = folder / "topology.yaml"
        self._document = document
        self._runner = CliRunner()
        self.write()

    def __call__(self, *arguments: str, **given: Any) -> Result:
        """Run `amqpq topology ARGUMENTS`; `given` goes to the runner."""
        return self._runner.invoke(main, ["topology", *arguments], **given)

    def write(self, **sections: Any) -> None:
        """Write the file, with some sections of the document replaced."""
        self._file.write_text(yaml.safe_dump({**self._document, **sections}), encoding="utf-8")

    def carried_out(self, *options: str) -> dict[str, Any]:
        """Plan, keep, apply; return what the apply told."""
        planned = self("plan", "--out", "kept.plan", *options)
        assert planned.exit_code == 0, planned.output
        result = self("apply", "kept.plan", "--json")
        assert result.exit_code == 0, result.output
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    def done(self) -> list[tuple[str, str]]:
        """Plan, keep, apply; return operation and name of what was done."""
        return [(step["operation"], step["name"]) for step in self.carried_out()["done"]]

    def changes(self, *options: str) -> list[tuple[str, str]]:
        """Return action and address of what a plan finds."""
        document = json.loads(self("plan", "--json", *options).stdout)
        return [(change["action"], change["address"]) for change in document["changes"]]
