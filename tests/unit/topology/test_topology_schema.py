"""The JSON Schema: current on disk, described throughout, and of one mind with the loader."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amqpq.topology import library, schema

ROOT = Path(__file__).resolve().parents[3]


def test_the_schema_on_disk_is_current() -> None:
    """`make schema` was run after the last change of the model."""
    assert (ROOT / "topology" / "schema" / schema.FILE_NAME).read_text(encoding="utf-8") == schema.text()


def parts(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Return every property of the schema with its path."""
    found: list[tuple[str, dict[str, Any]]] = []
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            found += [(f"{path}.{name}", value), *parts(value, f"{path}.{name}")]
        for name, value in node.get("$defs", {}).items():
            found += parts(value, name)
    return found


def test_every_key_is_described() -> None:
    """An editor has a sentence for every key of the format."""
    found = parts(schema.schema())
    undescribed = [path for path, value in found if "description" not in value and "$ref" not in json.dumps(value)]
    assert undescribed == []


def test_no_mapping_takes_unknown_keys() -> None:
    """The schema refuses what the loader refuses."""
    document = schema.schema()
    mappings = {name: value for name, value in document["$defs"].items() if name.endswith("Part")}
    loose = [name for name, value in mappings.items() if value.get("additionalProperties") is not False]
    assert mappings
    assert loose == []
    assert document["additionalProperties"] is False


@pytest.mark.parametrize("name", library.names())
def test_ready_made_files_point_at_the_schema(name: str) -> None:
    """Editors check the ready-made files by their first line."""
    first = library.find(name).read_text(encoding="utf-8").split("\n")[0]
    match = re.fullmatch(r"# yaml-language-server: \$schema=(.+)", first)
    assert match is not None
    assert (library.folder() / match.group(1)).is_file()


def test_the_module_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m amqpq.topology.schema FOLDER` writes the schema there."""
    monkeypatch.setattr(sys, "argv", ["schema", str(tmp_path)])
    assert schema.main() == 0
    assert json.loads((tmp_path / schema.FILE_NAME).read_text(encoding="utf-8")) == json.loads(schema.text())


def test_values_alone_load_neither_yaml_nor_pydantic() -> None:
    """The values and the simulator stay light for hosts that get their topology handed over."""
    code = (
        "import sys; from amqpq.topology import Topology, Router, reach; import amqpq.topology.declarations\n"
        "heavy = {'yaml', 'pydantic', 'click', 'rich', 'amqp', 'pika'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
