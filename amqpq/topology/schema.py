"""The JSON Schema of the topology file, made from the models that check it. `python -m amqpq.topology.schema` writes it.

Editors read it: `# yaml-language-server: $schema=schema/topology-1.schema.json` in the first line of a topology file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from amqpq.topology.document import File

FILE_NAME: Final = "topology-1.schema.json"


def schema() -> dict[str, Any]:
    """Return the schema."""
    generated = File.model_json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "amqpq topology",
        **_loosened(generated),
    }


def text() -> str:
    """Return the schema as it stands in the file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _loosened(generated: dict[str, Any]) -> dict[str, Any]:
    """Let a section, an exchange or a queue with nothing behind its name be null, as the loader does."""
    properties = generated["properties"]
    for name, section in properties.items():
        if name in {"amqpq", "project"}:
            continue
        properties[name] = {
            "anyOf": [
                {key: value for key, value in section.items() if key not in {"description", "default"}},
                {"type": "null"},
            ],
            **{key: section[key] for key in ("description", "default") if key in section},
        }
        items = section.get("additionalProperties")
        if name in {"exchanges", "queues"}:
            section["additionalProperties"] = {"anyOf": [items, {"type": "null"}]}
    generated.pop("title", None)
    return generated


def main() -> int:
    """Write the schema into the folder given, or into `topology/schema` of the checkout."""
    given = sys.argv[1:]
    folder = Path(given[0]) if given else Path(__file__).resolve().parents[2] / "topology" / "schema"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
