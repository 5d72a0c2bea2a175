"""Checks the shape of a file and says in words what is wrong with it, everything at once.

What does not fit is reported and taken out, and the rest is checked again: so that the rules which look at the file as a
whole (references, routing) still run on a file with a typo in it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from amqpq.topology.document import File
from amqpq.topology.model import did_you_mean
from amqpq.topology.problems import Findings, Path, Problem, written
from amqpq.yamlfile import Node

if typing.TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ROUNDS: Final = 8
"""Checks after which a file that still does not fit is given up; each round takes out what the last one found."""

_STAND_INS: Final[dict[str, Any]] = {
    "bindings": {"from": "", "to": ""},
    "checks": {"publish": {}, "reaches": []},
    "moved": {"from": "", "to": ""},
}
_WORDS: Final = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}


def validate(findings: Findings) -> File | None:
    """Check the tree against the format; note what does not fit.

    Returns:
        The file, without what did not fit; None where nothing useful is left.
    """
    data = findings.root.data()
    if not isinstance(data, dict):
        return None
    _swallowed_keys(findings)
    data = {name: value for name, value in data.items() if value is not None or name in {"amqpq", "project"}}
    for _ in range(ROUNDS):
        try:
            return File.model_validate(data)
        except ValidationError as error:
            found = [(_path(detail["loc"]), detail) for detail in error.errors(include_url=False)]
            for path, detail in found:
                _report(findings, path, detail)
            for path, detail in found:
                findings.unknown |= {path, _take_out(data, path, missing=detail["type"] == "missing")}
    return None


def _swallowed_keys(findings: Findings) -> None:
    """Note routing and binding keys that are empty because of a `#`: an empty one would pass for an absent one."""
    for path, node in findings.root.scalars():
        if path[-1:] in {("key",), ("keys",)} and node.value is None and node.swallowed == "#":
            message = f"{_name(path)} is empty, because '#' begins a comment"
            findings.error(path, "TOP002", message, f'quote it if it is meant: {path[-1]}: "#"')
            findings.unknown.add(path[:2])


def _path(location: tuple[int | str, ...]) -> Path:
    return tuple(step for step in location if step != "[key]")


# ---------------------------------------------------------------------------------------------------------- reporting


def _report(findings: Findings, path: Path, detail: ErrorDetails) -> None:
    kind = detail["type"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    node = findings.root.at(path)
    name = _name(path)
    if kind == "missing" and path in findings.unknown:
        return  # it was there, and did not fit: told already
    if any(path[: len(secret)] == secret for secret in findings.secret):
        findings.error(path, "TOP001", f"{name}: the secret that stands here has not the form that is needed")
    elif kind == "extra_forbidden":
        _unknown_key(findings, path)
    elif kind == "missing":
        where = f"'{_name(path[:-1])}'" if path[:-1] else "the file"
        _at_key(findings, path[:-1], f"{where} lacks the key '{path[-1]}'", _remedy(path))
    elif kind in _WORDS:
        _wrong_type(findings, path, node, _WORDS[kind])
    elif kind == "literal_error":
        _not_one_of(findings, path, detail["input"], str(context.get("expected", "")))
    elif kind.startswith("TOP"):
        message = str(context["message"])
        swallowed = node is not None and node.swallowed == "#"
        rule = "TOP002" if swallowed and kind == "TOP001" and "->" not in str(detail["input"]) else kind
        findings.error(path, rule, f"{name}: {message}", str(context["remedy"]))
    elif kind == "string_pattern_mismatch":
        findings.error(path, "TOP001", f"{name}: '{detail['input']}' is not of the form {context.get('pattern')}")
    else:
        findings.error(path, "TOP001", f"{name}: {detail['msg'][:1].lower()}{detail['msg'][1:]}")


def _unknown_key(findings: Findings, path: Path) -> None:
    known = _keys_at(path[:-1])
    near = did_you_mean(str(path[-1]), known)
    where = f" in '{_name(path[:-1])}'" if path[:-1] else ""
    remedy = "" if near else f"known here: {', '.join(known)}"
    _at_key(findings, path, f"unknown key '{path[-1]}'{where}{near}", remedy)


def _at_key(findings: Findings, path: Path, message: str, remedy: str) -> None:
    """Note an error at the key that `path` ends with, not at its value."""
    findings.problems.append(Problem(findings.key_place(path), "TOP001", "error", message, remedy))


def _wrong_type(findings: Findings, path: Path, node: Node | None, wanted: str) -> None:
    name = _name(path)
    if node is None:
        findings.error(path, "TOP001", f"{name} must be {wanted}")
        return
    if node.swallowed in {"*", "&", "!"}:
        return  # told already, as a fault of the text
    if node.swallowed == "#" and node.value is None:
        message = f"{name} is empty, because '#' begins a comment"
        findings.error(path, "TOP002", message, f'quote it if it is meant: {path[-1]}: "#"')
    elif node.value is None:
        findings.error(path, "TOP001", f"{name} is empty; it must be {wanted}")
    elif wanted == "text" and node.plain is not None and isinstance(node.value, bool | int | float):
        shown = f"the boolean {str(node.value).lower()}" if isinstance(node.value, bool) else f"the number {node.value}"
        message = f"{name} must be text, and YAML reads {node.plain} as {shown}"
        findings.error(path, "TOP003", message, f'quote it: "{node.plain}"')
    else:
        findings.error(path, "TOP001", f"{name} must be {wanted}, not {_given(node)}")


def _given(node: Node) -> str:
    if isinstance(node.value, dict):
        return "a mapping"
    if isinstance(node.value, list):
        return "a list"
    if isinstance(node.value, str):
        return f"the text '{node.value}'"
    return str(node.value).lower()


def _not_one_of(findings: Findings, path: Path, value: object, expected: str) -> None:
    choices = [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]
    node = findings.root.at(path)  # None where a short form stands for the mapping that `path` leads into
    name = _name(path)
    if path == ("amqpq",):
        findings.error(path, "TOP001", f"format version {value!r} is not known", "this amqpq reads `amqpq: 1`")
    elif node is not None and isinstance(value, bool) and node.plain is not None:
        message = (
            f"{name} must be one of {', '.join(choices)}; YAML reads {node.plain} as the boolean {str(value).lower()}"
        )
        findings.error(path, "TOP003", message, f'quote it: "{node.plain}"')
    else:
        near = did_you_mean(str(value), choices)
        findings.error(path, "TOP001", f"{name} must be one of {', '.join(choices)}, not '{value}'{near}")


def _remedy(path: Path) -> str:
    if path == ("amqpq",):
        return "begin the file with `amqpq: 1`"
    if path == ("project",):
        return "name the project: `project: shop`"
    return ""


def _name(path: Path) -> str:
    return written(path) or "the file"


# --------------------------------------------------------------------------------------------------------- taking out


def _take_out(data: dict[str, Any], path: Path, *, missing: bool) -> Path:
    """Remove what did not fit, or put something harmless in its place, so that the rest can be looked at.

    Returns:
        The path of what is not there any more.
    """
    if missing:
        path = path[:-1] if len(path) > 1 else path
    section = str(path[0])
    if path in {("amqpq",), ("project",)}:
        data[section] = 1 if section == "amqpq" else "unknown"
        return (section, "")  # nothing refers to it
    if len(path) >= 2 and section in _STAND_INS and isinstance(path[1], int):  # noqa: PLR2004  section and position
        data[section][path[1]] = _STAND_INS[section]
        return path[:2]
    if len(path) == 2 and section in {"queues", "exchanges"}:  # noqa: PLR2004  section and name
        data[section][path[1]] = {}
        return path
    first_list = next((index for index, step in enumerate(path) if isinstance(step, int)), len(path))
    _delete(data, path[:first_list])
    return path[:first_list]


def _delete(data: dict[str, Any], path: Path) -> None:
    """Delete what stands at `path`; a short form, which has nothing below itself, goes as a whole."""
    parent: Any = data
    for step in path[:-1]:
        below = parent.get(step)
        if not isinstance(below, dict):
            parent.pop(step, None)
            return
        parent = below
    parent.pop(path[-1], None)


# ------------------------------------------------------------------------------------------------------ known keys


def _keys_at(path: Path) -> list[str]:
    """Return the keys the format knows in the mapping at `path`."""
    annotation: Any = File
    for step in path:
        annotation = _below(_core(annotation), step)
    core = _core(annotation)
    if isinstance(core, type) and issubclass(core, BaseModel):
        return [field.alias or name for name, field in core.model_fields.items()]
    return []


def _below(annotation: Any, step: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if step == (field.alias or name):
                return field.annotation
        return None
    arguments = get_args(annotation)
    return arguments[-1] if arguments else None


def _core(annotation: Any) -> Any:
    """Strip `Annotated` and the `None` of an optional."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _core(get_args(annotation)[0])
    if origin in {Union, types.UnionType}:
        return _core(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation
