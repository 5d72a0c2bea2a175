"""A topology file as text that a person likes to read: one line for each object, short bindings, quotes where YAML needs them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from amqpq.convert.folding import Tree
from amqpq.convert.objects import Remark

WIDTH: Final = 120

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "none", "y", "n"}) - {"none"}
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_.-]*"
_KEY: Final = r"[A-Za-z0-9_.*#{}-]+"
_SHORT: Final = re.compile(rf"{_NAME}(\[{_KEY}(, {_KEY})*\])? -> {_NAME}")
_SHORTENED: Final = re.compile(r"[^\[\],\s]([^\[\],]*[^\[\],\s])?")
"""What may stand in a short binding: no brackets or commas, no space at an end."""

_NUMBER: Final = re.compile(r"\d+(\.\d+)?(ms|s|m|h|d|w|B|KiB|MiB|GiB|/[smh])")
_EACH_ON_A_LINE: Final = frozenset({"exchanges", "queues", "dead_letters", "routes", "limits"})


def write(tree: Tree, remarks: Sequence[Remark] = (), *, head: Iterable[str] = ()) -> str:
    """Return the YAML of a topology file.

    Args:
        tree: The file; bindings in the long form.
        remarks: What it does not hold: written as comments at the end.
        head: Comments for the beginning.
    """
    lines = [_comment(line) for line in head]
    apart = False
    for name, section in tree.items():
        block = name in _EACH_ON_A_LINE or name == "bindings"
        if block or apart:
            lines.append("")
        apart = block
        if block:
            lines.append(f"{name}:")
            lines += (
                _bindings(section)
                if name == "bindings"
                else [f"  {_scalar(x)}: {_flow(y)}" for x, y in section.items()]
            )
        else:
            lines.append(f"{name}: {_flow(section)}")
    if remarks:
        lines += ["", _comment("What this file does not hold as it was:")]
        lines += [_comment(f"- {remark}") for remark in remarks]
    return "\n".join(lines) + "\n"


def block(tree: Tree, indent: str = "") -> str:
    """Return YAML with one value on a line, for readers other than ours: all is quoted that any of them might misread."""
    lines = []
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{_scalar(name)}:\n{block(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{_scalar(name)}: {_flow(value)}\n")
    return "".join(lines)


def _comment(line: str) -> str:
    return "#" if not line else "# " + "".join(letter if letter.isprintable() else "?" for letter in line)


def _bindings(entries: Iterable[Tree]) -> list[str]:
    return [f"  - {_binding(entry)}" for entry in entries]


def _binding(entry: Tree) -> str:
    keys: list[str] = entry.get("keys", [])
    words = [entry["from"], entry["to"], *keys]
    arrows = any("->" in word for word in words)
    if entry.keys() <= {"from", "to", "keys"} and not arrows and all(_SHORTENED.fullmatch(word) for word in words):
        text = f"{entry['from']}{'[' + ', '.join(keys) + ']' if keys else ''} -> {entry['to']}"
        # A '#' after a space begins a comment.
        return text if _SHORT.fullmatch(text) and " #" not in text else _quoted(text)
    return _flow(entry)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(name)}: {_flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return str(value)
    text = str(value)
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return text if plain or _NUMBER.fullmatch(text) else _quoted(text)


def _float(value: float) -> str:
    """Write a float with a point in it, or YAML takes it for text (`1e+20`) or a whole number."""
    digits, exponent, power = repr(value).partition("e")
    return f"{digits if '.' in digits else digits + '.0'}{exponent}{power}"


def _quoted(text: str) -> str:
    return '"' + "".join(_letter(letter) for letter in text) + '"'


def _letter(letter: str) -> str:
    if letter in {'"', "\\"}:
        return "\\" + letter
    if letter.isprintable():
        return letter
    number = ord(letter)
    if number <= 0xFF:  # noqa: PLR2004 - two hexadecimal digits
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004 - four of them
