"""`${NAME}` and `${NAME:default}`: values from outside, with their types, and secrets that stay out of sight.

A variable may be declared under `variables:` with a type and a source; one that is not is text from the environment
variable of its name. A value that is nothing but `${NAME}` gets the variable's type; inside other text it is written
out. `$${` is a `${` that stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from amqpq.topology import units
from amqpq.topology.document import VariablePart
from amqpq.topology.model import did_you_mean
from amqpq.topology.problems import Findings
from amqpq.topology.problems import Path as TreePath
from amqpq.yamlfile import Node, Scalar

_USE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")
_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})


class _NoValueError(Exception):
    """The variable has no value, or one of the wrong type; the text says why."""


@dataclass(slots=True)
class Variables:
    """The variables of a file, looked up when they are used."""

    parts: Mapping[str, VariablePart]
    environ: Mapping[str, str]
    base: Path

    def substitute(self, findings: Findings) -> None:
        """Replace every use in the tree; note what cannot be."""
        for path, node in list(findings.root.scalars()):
            if isinstance(node.value, str) and "${" in node.value and path[:1] != ("variables",):
                self._replace(findings, path, node)

    def _replace(self, findings: Findings, path: TreePath, node: Node) -> None:
        text = str(node.value)
        rest = _USE.sub("", text)
        if "${" in rest:
            findings.error(
                path, "TOP004", f"'{rest}' holds a '${{' that is no variable", "write ${NAME} or ${NAME:default}"
            )
            findings.unknown.add(path)
            return
        try:
            whole = _USE.fullmatch(text)
            if whole is not None and whole.group(1) is None:
                node.value = self._value(whole.group(2), whole.group(3))
            else:
                node.value = _USE.sub(self._written_out, text)
        except _NoValueError as error:
            findings.error(path, "TOP004", str(error))
            findings.unknown.add(path)
            return
        node.plain = None
        names = [match.group(2) for match in _USE.finditer(text) if match.group(2)]
        if any(name in self.parts and self.parts[name].type == "secret" for name in names):
            findings.secret.add(path)

    def _written_out(self, match: re.Match[str]) -> str:
        if match.group(1) is not None:
            return match.group(1)
        value = self._value(match.group(2), match.group(3))
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _value(self, name: str, inline: str | None) -> Scalar:
        part = self.parts.get(name)
        if part is None:
            if name in self.environ:
                return self.environ[name]
            if inline is not None:
                return inline
            near = did_you_mean(name, self.parts)
            msg = (
                f"the variable '{name}'{near} is neither declared under `variables:` nor set in the environment; "
                f"set ${name}, or write ${{{name}:default}}"
            )
            raise _NoValueError(msg)
        text = self._source_text(name, part)
        if text is None and inline is not None:
            text = inline
        if text is not None:
            return _typed(name, part, text)
        if part.default is None:
            msg = f"the variable '{name}' has no value: {_source(name, part)} is not there, and it has no default"
            raise _NoValueError(msg)
        return _checked_default(name, part)

    def _source_text(self, name: str, part: VariablePart) -> str | None:
        kind, _, where = _source(name, part).partition(":")
        if kind == "env":
            return self.environ.get(where)
        try:
            return (self.base / where).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            msg = f"the variable '{name}' cannot be read from file:{where}: {error}"
            raise _NoValueError(msg) from None


def check_declarations(parts: Mapping[str, VariablePart], findings: Findings) -> None:
    """Note sources that are no references, and defaults that are not of their type."""
    for name, part in parts.items():
        if part.from_ is not None and not re.fullmatch(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)", part.from_):
            message = f"'{part.from_}' says not where the variable '{name}' comes from"
            findings.error(("variables", name, "from"), "TOP004", message, "write env:NAME or file:PATH")
            findings.unknown.add(("variables", name, "from"))
        if part.default is not None:
            try:
                _checked_default(name, part)
            except _NoValueError as error:
                findings.error(("variables", name, "default"), "TOP004", str(error))


def _source(name: str, part: VariablePart) -> str:
    return part.from_ or f"env:{name}"


def _typed(name: str, part: VariablePart, text: str) -> Scalar:
    """Give the text from a source the variable's type; a secret's text is never repeated."""
    kind = part.type
    try:
        if kind == "int":
            return int(text, 10)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return _boolean(text)
        if kind == "duration":
            units.seconds(text)
        if kind == "size":
            units.size_bytes(text)
    except ValueError:
        msg = f"the variable '{name}' is declared as {kind}, and {_source(name, part)} holds '{text[:40]}'"
        raise _NoValueError(msg) from None
    return text


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def _checked_default(name: str, part: VariablePart) -> Scalar:
    value: Any = part.default
    kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool}
    if not isinstance(value, kinds.get(part.type, str)) or (isinstance(value, bool) and part.type != "bool"):
        shown = "a secret" if part.type == "secret" else repr(value)
        msg = f"the variable '{name}' is declared as {part.type}, and its default is {shown} of another type"
        raise _NoValueError(msg)
    try:
        if part.type == "duration":
            units.seconds(str(value))
        elif part.type == "size":
            units.size_bytes(str(value))
    except ValueError as error:
        msg = f"the default of the variable '{name}': {error}"
        raise _NoValueError(msg) from None
    result: Scalar = value
    return result
