"""From files and mappings to one tree: reading, joining several files, laying an environment over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from amqpq import yamlfile
from amqpq.topology.model import did_you_mean
from amqpq.topology.problems import Findings, Problem
from amqpq.yamlfile import Entry, Node, Place

RULES = {"syntax": "TOP001", "duplicate": "TOP001", "swallowed": "TOP002", "ambiguous": "TOP003"}
"""The rule of each kind of fault in the text."""

LISTS = ("bindings", "checks", "moved")
"""Lists that grow when several files are joined."""

NOTHING = Place("<nothing>")


def gather(source: str | Path | Mapping[str, object] | Sequence[str | Path]) -> tuple[Findings, Path | None]:
    """Read the source(s) into one tree.

    Returns:
        The tree with what was wrong in the texts, and the (first) file, None for a mapping.
    """
    if isinstance(source, Mapping):
        try:
            return Findings(yamlfile.wrap(source, "<mapping>")), None
        except TypeError as error:
            place, _, message = str(error).partition(": ")
            empty = Node({}, Place("<mapping>"))
            return Findings(empty, [Problem(Place(place), "TOP001", "error", message)]), None
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(item) for item in source]
    if not paths:
        return Findings(Node({}, NOTHING), [Problem(NOTHING, "TOP001", "error", "no topology file was given")]), None
    findings = _read(paths[0])
    for path in paths[1:]:
        other = _read(path)
        findings.problems.extend(other.problems)
        _join(findings, findings.root, other.root, ())
    return findings, paths[0]


def environments(root: Node) -> dict[str, Node]:
    """Return the overlays under `environments`, those that are mappings."""
    node = root.at(("environments",))
    entries = node.value if node is not None and isinstance(node.value, dict) else {}
    return {name: entry.node for name, entry in entries.items() if isinstance(entry.node.value, dict)}


def overlay(findings: Findings, environment: str | None) -> None:
    """Take `environments` out of the tree, and lay the chosen one over the rest."""
    root = findings.root
    if not isinstance(root.value, dict):
        return
    entry = root.value.pop("environments", None)
    known = entry.node.value if entry is not None and isinstance(entry.node.value, dict) else {}
    if entry is not None and not isinstance(entry.node.value, dict | None):
        findings.problems.append(
            Problem(entry.node.place, "TOP001", "error", "`environments` must be a mapping of names to overlays")
        )
    for name, item in known.items():
        if not isinstance(item.node.value, dict | None):
            message = f"the environment '{name}' must be a mapping"
            findings.problems.append(Problem(item.node.place, "TOP001", "error", message))
    if environment is None:
        return
    if environment not in known:
        names = ", ".join(known) or "none"
        message = f"there is no environment '{environment}'{did_you_mean(environment, known)}; the file has: {names}"
        place = entry.node.place if entry is not None else root.place
        findings.problems.append(Problem(place, "TOP001", "error", message))
    elif isinstance(known[environment].node.value, dict):
        _lay(root, known[environment].node)


def _read(path: Path) -> Findings:
    start = Place(str(path), 1, 1)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        message, remedy = "there is no such file", "name the topology file with -t, or set $AMQPQ_TOPOLOGY"
        return Findings(Node({}, start), [Problem(start, "TOP001", "error", message, remedy)])
    except UnicodeDecodeError as error:
        return Findings(Node({}, start), [Problem(start, "TOP001", "error", f"the file is not UTF-8 text: {error}")])
    except OSError as error:
        return Findings(Node({}, start), [Problem(start, "TOP001", "error", f"cannot read it: {error.strerror}")])
    document = yamlfile.read(text, str(path))
    problems = [
        Problem(fault.place, RULES[fault.kind], "error", fault.message, fault.remedy) for fault in document.faults
    ]
    root = document.root
    if not isinstance(root.value, dict):
        problems.append(
            Problem(root.place, "TOP001", "error", "a topology file is a mapping: `amqpq: 1`, `project: ...`")
        )
        root = Node({}, root.place)
    if not problems and not root.value:
        problems.append(
            Problem(start, "TOP001", "error", "the file is empty", "begin with `amqpq: 1` and `project: ...`")
        )
    return Findings(root, problems)


def _join(findings: Findings, into: Node, other: Node, path: tuple[str, ...]) -> None:
    """Join another file: mappings unite, lists of the top level grow, and no file may overrule another."""
    if not isinstance(into.value, dict) or not isinstance(other.value, dict):
        return
    for name, entry in other.value.items():
        here = into.value.get(name)
        if here is None:
            into.value[name] = entry
        elif isinstance(here.node.value, dict) and isinstance(entry.node.value, dict):
            _join(findings, here.node, entry.node, (*path, name))
        elif not path and name in LISTS and isinstance(here.node.value, list) and isinstance(entry.node.value, list):
            here.node.value.extend(entry.node.value)
        elif here.node.data() != entry.node.data():
            message = f"'{name}' is already said differently at {here.place}"
            remedy = "say it in one file; what differs between places of use belongs into `environments`"
            findings.problems.append(Problem(entry.place, "TOP001", "error", message, remedy))


def _lay(into: Node, over: Node) -> None:
    """Deep-merge: mappings unite, null removes, everything else replaces."""
    if not isinstance(into.value, dict) or not isinstance(over.value, dict):
        return
    for name, entry in over.value.items():
        here = into.value.get(name)
        if entry.node.value is None and not entry.node.swallowed:
            into.value.pop(name, None)
        elif here is not None and isinstance(here.node.value, dict) and isinstance(entry.node.value, dict):
            merged = Node(dict(here.node.value), here.node.place)
            _lay(merged, entry.node)
            into.value[name] = Entry(here.place, merged)
        else:
            into.value[name] = entry
