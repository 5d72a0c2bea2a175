"""Adding a key to `security.trust` of a topology file by an edit of its text, so that comments and layout stay.

YAML cannot be edited in general. So the edit is tried where the text is plain, and then proved: the new text must parse
to exactly the old data plus the entry. Where it does not, or where the text is of a kind not tried, there is no edit,
and the caller shows the lines instead. Pure: text in, text out.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import yaml

from amqpq.errors import KeyProblem

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_STEP: Final = "  "


def entry_text(reference: str, may: tuple[str, ...] | None) -> str:
    """Return an entry as one line of YAML."""
    if may is None:
        return f"{{key: {_scalar(reference)}}}"
    return f"{{key: {_scalar(reference)}, may: [{', '.join(map(_scalar, may))}]}}"


def lines_to_add(key_id: str, entry: str) -> str:
    """Return what a person would add by hand."""
    return f"security:\n{_STEP}trust:\n{_STEP * 2}{_scalar(key_id)}: {entry}\n"


def with_entry(text: str, key_id: str, entry: str, *, replace: bool = False) -> str | None:
    """Return the text with the entry added, or None where that cannot be done safely.

    Args:
        text: Of a topology file.
        key_id: The key's id.
        entry: Of `entry_text`.
        replace: Replace an entry of this id.

    Raises:
        KeyProblem: There is an entry of this id already and `replace` is off, or the text is no YAML.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        before = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        raise KeyProblem(f"the topology file is no YAML{place}: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return None
    security = before.get("security")
    if not isinstance(security, dict | None):
        return None
    trust = security.get("trust") if security else None
    if not isinstance(trust, dict | None):
        return None
    if trust and key_id in trust and not replace:
        raise KeyProblem(f"security.trust has an entry {key_id!r} already (--force replaces it)")
    after = {
        **before,
        "security": {**(security or {}), "trust": {**(trust or {}), key_id: yaml.safe_load(entry)}},
    }
    edited = _Editor(text).add(root, f"{_scalar(key_id)}: {entry}", key_id)
    if edited is None:
        return None
    try:
        return edited if yaml.safe_load(edited) == after else None
    except yaml.YAMLError:
        return None


class _Editor:
    """Finds the place by the marks that the parser left on its nodes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def add(self, root: yaml.MappingNode, line: str, key_id: str) -> str | None:
        security = _child(root, "security")
        if security is None:
            return self._after(self._text.count("\n"), ["", "security:", f"{_STEP}trust:", f"{_STEP * 2}{line}"])
        key, value = security
        if _is_nothing(value):
            return self._after(key.start_mark.line, [f"{_STEP}trust:", f"{_STEP * 2}{line}"])
        if not isinstance(value, yaml.MappingNode) or value.flow_style:
            return None
        indent = " " * value.start_mark.column
        trust = _child(value, "trust")
        if trust is None:
            return self._after(self._last_line(value), [f"{indent}trust:", f"{indent}{_STEP}{line}"])
        key, value = trust
        if _is_nothing(value):
            return self._after(key.start_mark.line, [f"{indent}{_STEP}{line}"])
        if not isinstance(value, yaml.MappingNode):
            return None
        return self._into(value, line, key_id)

    def _into(self, trust: yaml.MappingNode, line: str, key_id: str) -> str:
        existing = _child(trust, key_id)
        if existing is not None:
            key, value = existing
            return self._text[: key.start_mark.index] + line + self._text[self._end(value) :]
        if trust.flow_style:
            place = trust.end_mark.index - 1
            separator = ", " if trust.value else ""
            return self._text[:place].rstrip() + separator + line + self._text[place:]
        return self._after(self._last_line(trust), [" " * trust.start_mark.column + line])

    def _after(self, number: int, lines: list[str]) -> str:
        """Insert lines after the line of that number, counted from 0."""
        kept = self._text.splitlines(keepends=True)
        if kept and not kept[-1].endswith("\n"):
            kept[-1] += self._newline
        added = [line + self._newline for line in lines]
        return "".join(kept[: number + 1] + added + kept[number + 1 :])

    def _end(self, node: yaml.Node) -> int:
        """Return where a value ends: a block ends with its last line, not where the next token begins."""
        if not isinstance(node, yaml.CollectionNode) or node.flow_style:
            return int(node.end_mark.index)
        lines = self._text.splitlines(keepends=True)
        last = self._last_line(node)
        return sum(map(len, lines[:last])) + len(lines[last].rstrip("\r\n"))

    def _last_line(self, node: yaml.Node) -> int:
        """Return the number of the last line that belongs to a node."""
        if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
            return self._last_line(node.value[-1][1])
        if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
            return self._last_line(node.value[-1])
        mark = node.end_mark
        # The mark of a block scalar is the beginning of the line after it.
        return int(mark.line - 1 if mark.column == 0 and mark.line > node.start_mark.line else mark.line)


def _child(node: yaml.MappingNode, name: str) -> tuple[Any, Any] | None:
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value == name:
            return key, value
    return None


def _is_nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == ""


def _scalar(text: str) -> str:
    """Write text so that YAML reads the same text back: quoted unless it is plainly a word."""
    if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text:
        return text
    # YAML has JSON's escapes but for those in pairs, which stand for what lies beyond 16 bits.
    return '"' + "".join(json.dumps(c)[1:-1] if c <= "\uffff" else f"\\U{ord(c):08x}" for c in text) + '"'
