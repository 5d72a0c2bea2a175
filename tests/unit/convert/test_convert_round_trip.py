"""Export and import are each other's inverse, for every topology there can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from amqpq import yamlfile
from amqpq.convert import definitions, importing
from amqpq.convert.objects import Objects, binding_name
from amqpq.topology import inspect, library, load
from amqpq.topology.declarations import Declarations, declarations
from amqpq.types import BindingSpec, QueueSpec

# Letters that YAML, the short form of bindings and variables each take for something else.
NAMES = st.text(
    st.sampled_from("ab9._-/ ü[]{},:#*&!%@'\"\\$>|~\u00a0\u2028😀"), min_size=1, max_size=8
) | st.sampled_from(
    [
        "yes",
        "null",
        "none",
        "1",
        "1.5",
        "1e3",
        "0x1",
        "${HOME}",
        "$${x}",
        "a -> b",
        "<<",
        "1:30",
        "true",
        "n",
        "=",
        "?",
        "- a",
    ]
)
KEYS = st.text(st.sampled_from("ab.*#, []{}$-"), max_size=8) | NAMES
MILLISECONDS = st.integers(1, 10**9)
SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=6) | st.floats(-1e25, 1e25)


def _milliseconds(value: int) -> str:
    return f"{value}ms"


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_length": st.integers(0, 10**6),
        "max_length_bytes": st.integers(0, 10**6),
        "overflow": st.sampled_from(["drop-head", "reject-publish"]),
    },
)
COMMON: dict[str, Any] = {
    "ttl": MILLISECONDS.map(_milliseconds),
    "expires": MILLISECONDS.map(_milliseconds),
    "limits": LIMITS,
    "single_active": st.booleans(),
    "extra_arguments": st.dictionaries(
        st.sampled_from(["x-own", "x-other"]), SCALARS | st.lists(st.integers()), max_size=2
    ),
}
CLASSIC = st.fixed_dictionaries(
    {}, optional={**COMMON, "max_priority": st.integers(1, 255), "auto_delete": st.booleans()}
)
QUORUM = st.fixed_dictionaries({"type": st.just("quorum")}, optional={**COMMON, "delivery_limit": st.integers(0, 99)})
STREAM = st.fixed_dictionaries(
    {
        "type": st.just("stream"),
        "retention": st.fixed_dictionaries({"max_age": st.just("7D")}, optional={"max_bytes": st.integers(1, 10**9)}),
    }
)
TYPES = st.sampled_from(["direct", "topic", "fanout", "headers"])


@st.composite
def topologies(draw: st.DrawFn) -> dict[str, Any]:
    """A file of exchanges, queues with dead letters, bindings of all kinds, and generated parts."""
    names = draw(st.lists(NAMES, min_size=2, max_size=8, unique=True))
    exchanges = names[: len(names) // 2]
    queues = draw(st.lists(st.sampled_from(names), min_size=1, max_size=5, unique=True))
    file: dict[str, Any] = {"amqpq": 1, "project": "shop"}
    file["exchanges"] = {name: {"type": draw(TYPES), "durable": draw(st.booleans())} for name in exchanges}
    for name in exchanges[1:]:
        if draw(st.booleans()):  # backwards only, so without a circle
            file["exchanges"][name]["unrouted"] = exchanges[0].replace("${", "$${")
    file["queues"] = {name: draw(CLASSIC | QUORUM | STREAM) for name in queues}
    resting = [name for name in queues if file["queues"][name].get("type") != "stream" and draw(st.booleans())]
    file["dead_letters"] = {f"to {name}": {"queue": name.replace("${", "$${")} for name in resting}
    for name, queue in file["queues"].items():
        if queue.get("type") != "stream" and name not in resting:
            choices = ["none", *(f"to {name}".replace("${", "$${") for name in resting)]
            choice = draw(st.none() | st.sampled_from(choices))
            queue.update({} if choice is None else {"dead_letter": choice})
    drawn = draw(st.lists(_binding(file, exchanges, queues), max_size=8))
    file["bindings"] = list({(entry["from"], entry["to"], entry["as"]): entry for entry in drawn}.values())
    if draw(st.booleans()):
        file["delays"] = draw(
            st.sampled_from([{}, {"max": "1h"}, {"unit": "1s", "max": "200d"}, {"unit": "3ms", "max": "9ms"}])
        )
    if draw(st.booleans()):
        file["limits"] = draw(
            st.sampled_from([{"*": {"rate": "90/m"}}, {"a.*": {"concurrency": 3, "key": "k", "slots": 2}}])
        )
    if draw(st.booleans()):
        file["control"] = {"revocations": "7d"}
    return file


@st.composite
def _binding(draw: st.DrawFn, file: dict[str, Any], exchanges: list[str], queues: list[str]) -> dict[str, Any]:
    source = draw(st.sampled_from(exchanges))
    later = exchanges[exchanges.index(source) + 1 :]
    to_exchange = bool(later) and draw(st.booleans())
    target = draw(st.sampled_from(later if to_exchange else queues))
    entry: dict[str, Any] = {"from": source, "to": target, "as": "exchange" if to_exchange else "queue"}
    if file["exchanges"][source]["type"] == "headers":
        entry["headers"] = draw(st.dictionaries(st.sampled_from(["kind", "n", "a b"]), SCALARS, min_size=1, max_size=3))
        entry["match"] = draw(st.sampled_from(["all", "any"]))
    else:
        entry["keys"] = draw(st.lists(KEYS, min_size=1, max_size=3, unique=True))
    return json.loads(json.dumps(entry).replace("${", "$${"))


def what(found: Declarations) -> dict[str, Any]:
    """Return declarations for comparison: the broker knows no order."""
    return {
        "exchanges": {spec.name: spec for spec in found.exchanges},
        "queues": {spec.name: spec for spec in found.queues},
        "bindings": sorted(map(repr, found.bindings)),
    }


def objects(found: Declarations) -> Objects:
    """Return declarations as what a broker would hold."""
    return Objects("/", found.exchanges, found.queues, found.bindings)


# Without shrinking: each attempt loads a topology, and a failure says what is different anyway.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
EXAMPLES = settings(
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@EXAMPLES
@given(topologies())
def test_what_a_file_declares_is_imported_as_the_same(file: dict[str, Any]) -> None:
    """Whatever is in a file, the file made of what it declares declares the same, and its text says what its values do."""
    topology = inspect(file, environ={}).topology
    assume(topology is not None)
    assert topology is not None
    wanted = declarations(topology)
    imported = importing.from_objects(objects(wanted), source="a test", project="shop")
    assert what(declarations(imported.topology)) == what(wanted)
    assert what(declarations(_read(imported.text, Path("topology.yaml")))) == what(wanted)
    assert [remark for remark in imported.remarks if remark.kind != "note"] == []


@EXAMPLES
@given(topologies())
def test_definitions_say_what_a_file_declares(file: dict[str, Any]) -> None:
    """But for what RabbitMQ cannot import: permits, which are messages, and arguments that are null; each is said."""
    topology = inspect(file, environ={}).topology
    assume(topology is not None)
    assert topology is not None
    built, remarks = definitions.build(topology)
    found, wanted = definitions.parse(json.dumps(built)), declarations(topology)
    queues = [spec for spec in wanted.queues if not spec.name.startswith("shop.permits.")]
    assert list(found.exchanges) == list(wanted.exchanges)
    assert list(found.queues) == [spec for spec in queues if _importable(spec)]
    assert list(found.bindings) == [spec for spec in wanted.bindings if _importable(spec)]
    gone = {(remark.what, remark.name) for remark in remarks if "is null" in remark.why}
    assert gone == {("queue", spec.name) for spec in queues if not _importable(spec)} | {
        ("binding", binding_name(spec)) for spec in wanted.bindings if not _importable(spec)
    }


def _importable(spec: QueueSpec | BindingSpec) -> bool:
    return None not in spec.arguments.values()


def _read(text: str, path: Path) -> Any:
    document = yamlfile.read(text, str(path))
    assert document.faults == []
    return load(document.root.data(), environ={})


@pytest.mark.parametrize("name", library.names())
def test_a_ready_made_topology_comes_back(name: str) -> None:
    """Definitions of a ready-made topology, imported, give definitions that are the same to the last argument."""
    topology = load(library.find(name), environ={})
    exported, _ = definitions.build(topology)
    found = definitions.parse(json.dumps(exported))
    imported = importing.from_objects(found, source="a test", project=topology.project)
    again, _ = definitions.build(imported.topology)
    assert again == exported


def test_policies_of_the_file_are_in_its_definitions() -> None:
    """In the words of the broker; reading them back gives the same."""
    policy = {"pattern": "^q$", "apply_to": "queues", "priority": 3, "definition": {"max-length": 5}}
    topology = load({"amqpq": 1, "project": "shop", "queues": {"q": {}}, "policies": {"cap": policy}}, environ={})
    (found,) = definitions.parse(json.dumps(definitions.build(topology)[0])).policies
    assert (found.name, found.pattern, found.apply_to, found.priority) == ("cap", "^q$", "queues", 3)
    assert found.definition == {"max-length": 5}
