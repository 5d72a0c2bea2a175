"""Makes an imported file one that lint passes: what it refuses is left to the broker, or left out, and said.

A broker holds what lint calls an error (exchanges in a circle, arguments another version refuses), and an import cannot mend it.
So the object in question is only named (`manage: verify`); where that is refused, too, it is taken out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from amqpq.convert.folding import Folded, Tree
from amqpq.convert.objects import Remark, left_out
from amqpq.convert.values import escaped
from amqpq.errors import LocalError
from amqpq.topology.loading import inspect
from amqpq.topology.model import Topology
from amqpq.topology.problems import Problem

SECTIONS: Final = frozenset({"queues", "exchanges", "dead_letters", "routes", "delays", "limits"})
"""Of which a part can go and leave a file."""

Path: TypeAlias = tuple[str | int, ...]

ROUNDS: Final = 12
"""Each takes one step for every object with an error; an object bears four."""


def fit(folded: Folded) -> Topology:
    """Change the file until lint has no errors; note what was changed.

    Raises:
        LocalError: An error concerns the file as a whole.
    """
    for _ in range(ROUNDS):
        inspection = inspect(escaped(folded.tree), environ={})
        if inspection.topology is not None:
            return inspection.topology
        _mend(folded, inspection.errors)
    raise LocalError(_sentences(inspect(escaped(folded.tree), environ={}).errors))


def _sentences(problems: Sequence[Problem]) -> str:
    return "this cannot be made a topology file: " + "; ".join(str(problem) for problem in problems[:3])


def _mend(folded: Folded, problems: Sequence[Problem]) -> None:
    paths = dict(_paths(folded.tree, "<mapping>", ()))
    bindings: dict[int, Problem] = {}
    objects: dict[Path, tuple[Path, Problem]] = {}
    for problem in problems:
        path = paths.get(problem.place.file, ())
        if path[:1] == ("bindings",) and len(path) > 1:
            bindings.setdefault(int(path[1]), problem)
        elif path[:1] and path[0] in SECTIONS and len(path) > 1:
            objects.setdefault(path[:2], (path, problem))
        else:
            raise LocalError(_sentences([problem]))
    for path, problem in objects.values():
        _mend_object(folded, path, problem)
    for index, problem in sorted(bindings.items(), reverse=True):
        entry = folded.tree["bindings"].pop(index)
        name = f"{entry['from']}{entry.get('keys', '')} -> {entry['to']}"
        folded.remarks.append(left_out("binding", name, _why(problem)))
    for section in ("bindings", "dead_letters", "delays", "limits"):
        if section != "delays" and not folded.tree.get(section, True):
            del folded.tree[section]


def _mend_object(folded: Folded, path: Path, problem: Problem) -> None:
    section, name = str(path[0]), str(path[1])
    part: Tree = folded.tree[section]
    if name not in part:
        return
    thing = part[name]
    kind = section.removesuffix("s").replace("_", " ")
    if section in {"queues", "exchanges"} and thing.get("manage") not in {"verify", "external"}:
        thing["manage"] = "verify"
        folded.remarks.append(Remark("changed", kind, name, f"only named (`manage: verify`): {_why(problem)}"))
    elif section in {"queues", "exchanges", "routes"} and len(path) > 2 and path[2] in thing:  # noqa: PLR2004 - section, name, key
        value = thing.pop(str(path[2]))
        folded.remarks.append(left_out(kind, name, f"{path[2]}: {value}: {_why(problem)}"))
    else:
        del part[name]
        folded.remarks.append(left_out(kind, name, _why(problem)))
        _take_out_references(folded, section, name)


def _take_out_references(folded: Folded, section: str, name: str) -> None:
    tree = folded.tree
    if section == "dead_letters":
        for queue, part in tree.get("queues", {}).items():
            if part.get("dead_letter") == name:
                part |= {"dead_letter": "none", "manage": "external"}
                folded.remarks.append(Remark("changed", "queue", queue, f"its dead letter '{name}' could not be held"))
        return
    queues, exchanges = tree.get("queues", {}), tree.get("exchanges", {})
    kept = []
    for entry in tree.get("bindings", []):
        target_is_queue = entry.get("as", "queue" if entry["to"] in queues else "exchange") == "queue"
        if entry["from"] in exchanges and entry["to"] in (queues if target_is_queue else exchanges):
            kept.append(entry)
        else:
            folded.remarks.append(left_out("binding", f"{entry['from']} -> {entry['to']}", f"'{name}' was left out"))
    if "bindings" in tree:
        tree["bindings"] = kept


def _why(problem: Problem) -> str:
    return f"{problem.rule} {problem.message}"


def _paths(value: Any, text: str, path: Path) -> Iterator[tuple[str, Path]]:
    """Walk the places of a tree as errors name them, with what they mean."""
    yield text, path
    joint = ":" if not path else "."
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths(item, f"{text}{joint}{name}", (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, f"{text}[{index}]", (*path, index))
