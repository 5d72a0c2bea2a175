"""The reference pages against the code they describe: nothing missing, nothing invented, no test that does not exist."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from amqpq import errors, hooks, signals
from amqpq.cli.main import COMMANDS, main
from amqpq.topology import document, document_changes, document_checks, document_lint, inspect
from amqpq.topology.lint import catalogue
from amqpq.topology.units import seconds, size_bytes

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "docs" / "reference"

# ------------------------------------------------------------------------------------------------------------ tests named

NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`\]\((?P<link>[^)]+)\)")


@cache
def functions_of(path: Path) -> frozenset[str]:
    """The names of the tests in a file."""
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", REFERENCE / "guarantees.md", REFERENCE / "thirty-pains.md", REFERENCE / "broker-facts.md"],
    ids=lambda page: page.name,
)
def test_every_named_test_exists(page: Path) -> None:
    """A guarantee refers to tests that are there, and links to their file."""
    named = list(NAMED_TEST.finditer(page.read_text(encoding="utf-8")))
    assert len(named) >= 10
    for match in named:
        assert match[2] in functions_of(ROOT / match[1]), match[0]
        assert (page.parent / match["link"]).resolve() == ROOT / match[1]


def test_the_ten_guarantees_are_all_there() -> None:
    """Each promise has its section, says what holds, and names a test; the README has the same ten."""
    page = (REFERENCE / "guarantees.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\d+)\. ([^\n]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, _, _ in sections] == list(range(1, 11))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for _, title, text in sections:
        assert "**Holds" in text or "**Not built yet" in text, title
        assert NAMED_TEST.search(text), title
        assert f"| {title} |" in readme


def test_all_thirty_pains_have_a_test_or_a_reason() -> None:
    """Thirty sections in order; each names a test, or says why there is none."""
    page = (REFERENCE / "thirty-pains.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\d+)\. ([^\n]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert [int(number) for number, _, _ in sections] == list(range(1, 31))
    for _, title, text in sections:
        assert NAMED_TEST.search(text) or "not part of `make test`" in text, title


def test_every_live_test_of_the_broker_is_on_its_page() -> None:
    """What a live test shows is written down, and the fourteen questions all have an answer."""
    page = (REFERENCE / "broker-facts.md").read_text(encoding="utf-8")
    named = {(match[1], match[2]) for match in NAMED_TEST.finditer(page)}
    for path in sorted((ROOT / "tests" / "integration" / "broker_facts").glob("test_*.py")):
        for name in functions_of(path):
            assert (path.relative_to(ROOT).as_posix(), name) in named
    assert re.findall(r"^## L(\d+)\. ", page, re.MULTILINE) == [str(number) for number in range(1, 15)]


LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<file>[^)#]*)(?:#(?P<heading>[^)]+))?\)")


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("topology/*.md")], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading that it has."""
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target = (page.parent / match["file"]).resolve() if match["file"] else page
        assert target.exists(), match[0]
        if match["heading"] and target.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert match["heading"] in {re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings}


# ----------------------------------------------------------------------------------------------------------------- errors


def test_every_error_is_in_the_table_with_its_words() -> None:
    """The page says of each public error what the code says, and no error is invented."""
    page = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.AmqpqError)
    }
    for name, kind in classes.items():
        last = f"`{kind.cause}`" if issubclass(kind, errors.RemoteMessageError) else "yes" if kind.recoverable else "no"
        assert f"| `{name}` | {kind.advice()} | {last} |" in page
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", page, re.MULTILINE)) == set(classes)


# ----------------------------------------------------------------------------------------------------------- command line


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join(("amqpq", *path, name)), command


def test_every_command_and_option_is_on_the_page() -> None:
    """Each command has a section that names each of its options; no section is of a command that is not there."""
    page = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (amqpq [^\n]+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    commands = dict(_commands(main))
    assert set(sections) == set(commands)
    assert {name.split()[1] for name in commands} == set(COMMANDS)
    for name, command in commands.items():
        options = [option for option in command.params if isinstance(option, click.Option)]
        known = {word for option in options for word in option.opts}
        named = set(re.findall(r"`(-{1,2}[\w-]+)", _options_table(sections[name])))
        assert named == known, name


def _options_table(section: str) -> str:
    """The cells that name options, and those that refer to a command with the same ones."""
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return "\n".join(" ".join(row) if row[0].startswith("| all of ") else row[0] for row in rows).replace(
        "all of `call` but `--reply` and `--timeout`", ""
    )


# ---------------------------------------------------------------------------------------------------------- topology file

SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "Top level": document.File,
    "requires": document.RequiresPart,
    "variables": document.VariablePart,
    "broker": document.BrokerPart,
    "broker.tls": document.TlsPart,
    "exchanges": document.ExchangePart,
    "queues": document.QueuePart,
    "limits": document.LimitsPart,
    "partition_by": document.PartitionByPart,
    "retention": document.RetentionPart,
    "bindings": document.BindingPart,
    "routes": document.RoutePart,
    "limits of tasks": document.TaskLimitPart,
    "messages": document.MessagesPart,
    "compression": document.CompressionPart,
    "replies": document.RepliesPart,
    "retries": document.RetriesPart,
    "backoff": document.BackoffPart,
    "dead_letters": document.DeadLetterPart,
    "control": document.ControlPart,
    "delays": document.DelaysPart,
    "security": document.SecurityPart,
    "signing": document.SigningPart,
    "trust": document.TrustPart,
    "permissions": document.PermissionPart,
    "checks": document_checks.CheckPart,
    "publish": document_checks.PublishPart,
    "fail": document_checks.FailPart,
    "expire": document_checks.ExpirePart,
    "permission": document_checks.PermissionCheckPart,
    "lint": document_lint.LintPart,
    "suppress": document_lint.SuppressPart,
    "allow": document.AllowPart,
    "policies": document.PolicyPart,
    "policy_band": document.PolicyBandPart,
    "moved": document_changes.MovedPart,
    "decommission": document_changes.DecommissionPart,
}
UNBUILT: Final[dict[str, type[BaseModel]]] = {
    "`security.encryption`": document.EncryptionPart,
    "`schedule.X`": document.SchedulePart,
}


@pytest.fixture(scope="module")
def format_page() -> str:
    """The page of the topology format."""
    return (REFERENCE / "topology-file.md").read_text(encoding="utf-8")


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _parts(field.annotation)
    elif get_origin(annotation) in {Union, types.UnionType} or get_args(annotation):
        for argument in get_args(annotation):
            yield from _parts(argument)


def test_every_part_of_the_format_has_its_place() -> None:
    """A new part of the format cannot go without a section."""
    assert set(_parts(document.File)) == {*SECTIONS.values(), *UNBUILT.values()}


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_in_its_table_with_its_default(format_page: str, heading: str) -> None:
    """The tables have the keys of the format, all of them, in order, with the defaults that the code has."""
    found = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", format_page, re.MULTILINE | re.DOTALL)
    assert found is not None
    rows = re.findall(r"^\| `([\w]+)` \| (.+?) \| (.+?) \| (.+) \|$", found[1], re.MULTILINE)
    fields = {field.alias or name: field for name, field in SECTIONS[heading].model_fields.items()}
    assert [key for key, _, _, _ in rows] == list(fields)
    for key, kind, shown, _ in rows:
        assert _means(shown, kind, fields[key]), f"{heading}.{key}: {shown}"


def _means(shown: str, kind: str, field: FieldInfo) -> bool:
    """Whether what the page shows as a default is the default."""
    if field.is_required():
        return shown == "required"
    value = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    text = shown.strip("`")
    if value is None:
        return shown == "none"
    if isinstance(value, BaseModel):
        return shown == "its parts' defaults"
    if isinstance(value, bool):
        return text == str(value).lower()
    if kind == "duration":
        return seconds(text) == value
    if kind == "size":
        return size_bytes(text) == value
    if isinstance(value, list):
        return text == f"[{', '.join(value)}]"
    return (text if shown != "empty" else "") == str(value)


@pytest.mark.parametrize("part", UNBUILT)
def test_the_keys_of_parts_that_are_not_built_are_listed(format_page: str, part: str) -> None:
    """So that a file can be prepared for them."""
    keys = ", ".join(f"`{field.alias or name}`" for name, field in UNBUILT[part].model_fields.items())
    assert f"| {part} | {keys} |" in format_page


def test_what_is_refused_as_not_built_is_on_the_page(format_page: str) -> None:
    """Every refusal of the format is named where the page says what is not built."""
    inspection = inspect(
        {
            "amqpq": 1,
            "project": "shop",
            "exchanges": {"hashed": {"type": "x-consistent-hash"}},
            "queues": {
                "default": {"require": "optional"},
                "spread": {"partitions": 2},
                "log": {"type": "stream"},
                "shop.dead": {},
            },
            "routes": {"*": {"queue": "default", "reply": "client"}},
            "messages": {"confirm": False},
            "replies": {"mode": "client"},
            "security": {"signing": {"algorithm": "x509"}, "encryption": {"key": "env:K"}},
            "schedule": {"nightly": {"task": "t"}},
            "moved": [
                {"from": f"queue.{name}.before", "to": f"queue.{name}"} for name in ("spread", "log", "shop.dead")
            ],
        },
        environ={},
    )
    refused = [problem.message for problem in inspection.problems if problem.rule == "TOP000"]
    assert len(refused) == 11
    section = format_page.partition("## Not built yet\n")[2].partition("\n## ")[0]
    for message in refused:
        what = re.sub(r" \(`.*\)$", "", message.removeprefix("not built yet: "))
        assert what in section, message


def test_every_rule_of_lint_is_in_the_table(format_page: str) -> None:
    """The page says of each rule what the catalogue says, in its order, and knows no others."""
    rows = re.findall(r"^\| (TOP\d{3}) \| ([^|]+) \| (.+) \|$", format_page, re.MULTILINE)
    assert rows == [(rule.id, rule.severity, rule.finds) for rule in catalogue.rules().values()]


def test_every_number_without_a_rule_is_on_the_page_of_lint() -> None:
    """With what it would find, and why there is none."""
    page = (REFERENCE / "lint.md").read_text(encoding="utf-8").partition("## Numbers without a rule")[2]
    rows = re.findall(r"^\| (TOP\d{3}) \| (.+) \| (.+) \|$", page.partition("Some rules")[0], re.MULTILINE)
    assert rows == [(number.id, number.would_find, number.reason) for number in catalogue.unused().values()]


# ---------------------------------------------------------------------------------------------------- hooks and signals


def test_every_hook_and_signal_is_on_its_page() -> None:
    """With the arguments that the code sends; none is invented."""
    page = (ROOT / "docs" / "howto" / "task-life.md").read_text(encoding="utf-8")
    rows = {row[1]: row[3] for row in re.finditer(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*)\| [^|]+ \|$", page, re.MULTILINE)}
    assert rows.keys() == signals.SIGNALS.keys()
    for name, signal in signals.SIGNALS.items():
        assert tuple(re.findall(r"`(\w+)`", rows[name])) == signal.arguments, name
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE) == list(hooks.HOOKS)
