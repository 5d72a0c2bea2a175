"""A topology as Terraform configuration for the provider cyrilgdn/rabbitmq.

Every argument forces a new object there: a changed queue is destroyed with its messages and made again. So queues are written
with `prevent_destroy` (https://developer.hashicorp.com/terraform/language/meta-arguments/lifecycle).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from amqpq.convert import definitions
from amqpq.convert.objects import Remark, left_out
from amqpq.topology.model import Topology

SOURCE: Final = "cyrilgdn/rabbitmq"
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def build(topology: Topology, vhost: str) -> tuple[str, list[Remark]]:
    """Return the configuration, and what it cannot hold."""
    objects, remarks = definitions.build(topology)
    labels = _Labels()
    blocks = [_HEAD, f"locals {{\n  vhost = {text(vhost)}\n}}\n"]
    for row in objects["exchanges"]:
        blocks.append(_exchange(labels.of("rabbitmq_exchange", row["name"]), row))
        odd = [name for name, value in row["arguments"].items() if not isinstance(value, str)]
        if odd:
            remarks.append(
                left_out("exchange", row["name"], f"{', '.join(odd)}: the provider writes arguments as text only")
            )
        if row["internal"]:
            why = "`internal: true`: the provider has no such setting, it would be public"
            remarks.append(left_out("exchange", row["name"], why))
    blocks += [_queue(labels.of("rabbitmq_queue", row["name"]), row) for row in objects["queues"]]
    for row in objects["bindings"]:
        label = labels.new("rabbitmq_binding", f"{row['source']}_{row['destination']}_{row['routing_key']}")
        blocks.append(_binding(label, row, labels))
    return "\n".join(blocks), remarks


_HEAD: Final = f"""terraform {{
  required_providers {{
    rabbitmq = {{
      source = "{SOURCE}"
    }}
  }}
}}
"""


class _Labels:
    """Names of resources: letters, digits and underscores, each once for its kind."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], str] = {}
        self._taken: set[tuple[str, str]] = set()

    def new(self, kind: str, name: str) -> str:
        """Return a label that is not in use."""
        stem = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "unnamed"
        stem = f"_{stem}" if stem[0].isdigit() else stem
        label, number = stem, 2
        while (kind, label) in self._taken:
            label, number = f"{stem}_{number}", number + 1
        self._taken.add((kind, label))
        return label

    def of(self, kind: str, name: str) -> str:
        """Return the label of an object, the same each time."""
        if (kind, name) not in self._of:
            self._of[kind, name] = self.new(kind, name)
        return self._of[kind, name]

    def name_of(self, kind: str, name: str) -> str:
        """Return how to refer to an object's name; the name itself where somebody else has the object."""
        label = self._of.get((kind, name))
        return text(name) if label is None else f"{kind}.{label}.name"


def _exchange(label: str, row: Mapping[str, Any]) -> str:
    arguments = {name: value for name, value in row["arguments"].items() if isinstance(value, str)}
    settings = f"    type        = {text(row['type'])}\n" + _flags(row)
    if arguments:
        settings += f"    arguments   = {_value(arguments)}\n"
    return _block(
        "rabbitmq_exchange", label, f"  name  = {text(row['name'])}\n  vhost = local.vhost\n" + _settings(settings)
    )


def _queue(label: str, row: Mapping[str, Any]) -> str:
    settings = _flags(row) + f"    arguments_json = jsonencode({_value(row['arguments'])})\n"
    body = f"  name  = {text(row['name'])}\n  vhost = local.vhost\n" + _settings(settings)
    return _block("rabbitmq_queue", label, body + "\n  lifecycle {\n    prevent_destroy = true\n  }\n")


def _binding(label: str, row: Mapping[str, Any], labels: _Labels) -> str:
    target = "rabbitmq_exchange" if row["destination_type"] == "exchange" else "rabbitmq_queue"
    body = (
        "  vhost            = local.vhost\n"
        f"  source           = {labels.name_of('rabbitmq_exchange', row['source'])}\n"
        f"  destination      = {labels.name_of(target, row['destination'])}\n"
        f"  destination_type = {text(row['destination_type'])}\n"
        f"  routing_key      = {text(row['routing_key'])}\n"
    )
    if row["arguments"]:
        body += f"  arguments_json   = jsonencode({_value(row['arguments'])})\n"
    return _block("rabbitmq_binding", label, body)


def _flags(row: Mapping[str, Any]) -> str:
    return f"    durable     = {_value(row['durable'])}\n    auto_delete = {_value(row['auto_delete'])}\n"


def _settings(lines: str) -> str:
    return f"\n  settings {{\n{lines}  }}\n"


def _block(kind: str, label: str, body: str) -> str:
    return f'resource "{kind}" "{label}" {{\n{body}}}\n'


def text(value: str) -> str:
    """Write text as HCL reads it: its own two template marks are escaped, too."""
    plain = "".join(_ESCAPES.get(letter, letter) for letter in value)
    plain = "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in plain)
    return '"' + plain.replace("${", "$${").replace("%{", "%%{") + '"'


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{text(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else text(str(value))
