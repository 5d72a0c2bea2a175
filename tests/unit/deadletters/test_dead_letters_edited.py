"""An edited dead letter: what may be changed, who may sign it, what stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from amqpq import App
from amqpq.cli import drafting
from amqpq.deadletters import editing
from amqpq.deadletters.editing import Draft
from amqpq.deadletters.letter import Letter, read
from amqpq.deadletters.planning import Stays
from amqpq.errors import LocalError
from amqpq.message import Codec, Encoding, TaskEnvelope
from amqpq.types import Delivery

TOPOLOGY: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "queues": {"default": {}},
    "routes": {"*": {"queue": "default"}},
    "messages": {"accept": ["msgpack", "json", "yaml"]},
    "security": {"signing": {"algorithm": "hmac-sha256", "key": "env:SIGN_KEY", "key_id": "shop"}},
}
ENVELOPE = TaskEnvelope("1f0c", "shop.charge", (1, "two"), {"who": "Zoe"}, reply_to="amqpq.reply.1f0c", priority=3)


@pytest.fixture
def codec() -> Codec:
    """The project's codec."""
    return App(TOPOLOGY, environ={"SIGN_KEY": "5a" * 32}).codec


def dead(
    codec: Codec, serializer: str = "msgpack", body: bytes | None = None, headers: dict[str, Any] | None = None
) -> Letter:
    """A dead letter of a genuine task; with another `body` it is not."""
    own, properties = codec.encode_task(ENVELOPE, exchange="", key="default", encoding=Encoding(serializer=serializer))
    marked = {"amqpq-cause": "failed", "amqpq-queue": "default", "amqpq-first-failed": "2026-01-01T00:00:00+00:00"}
    properties = properties._replace(headers={**properties.headers, **marked, **(headers or {})})
    return read(Delivery(own if body is None else body, properties, "", "shop.dead", False, 1), "shop.dead")


def options(**given: Any) -> dict[str, Any]:
    """The options of the command."""
    return {"args_json": None, "kwargs_json": None, "sets": (), "to": None, **given}


@pytest.mark.parametrize("serializer", ["msgpack", "json", "yaml"])
def test_an_edited_message_is_a_new_attempt_of_the_same_task(codec: Codec, serializer: str) -> None:
    """Same id, reply address, priority, serializer and history; new arguments, signed anew, and it says by whom."""
    log = [{"at": "x", "worker": "w", "error": "e"}]
    letter = dead(codec, serializer, headers={"amqpq-attempt-log": log})
    envelope, before = editing.open_letter(letter, codec)
    after = drafting.changed(letter, before, options(sets=("who=Ann", "amount=12")))
    publication = editing.edited(letter, envelope, after, codec, "desk-1")
    properties = publication.properties
    assert publication.routing_key == "default"
    assert properties.content_type == letter.delivery.properties.content_type
    again = codec.decode_task(publication.body, properties, arrived=("", "default"))
    assert (again.id, again.reply_to, again.priority) == ("1f0c", "amqpq.reply.1f0c", 3)
    assert (tuple(again.args), dict(again.kwargs)) == ((1, "two"), {"who": "Ann", "amount": 12})
    assert properties.headers["amqpq-edited-by"] == "shop@desk-1"
    assert properties.headers["amqpq-attempt-log"] == log
    assert properties.headers["amqpq-requeues"] == 1
    assert "amqpq-cause" not in properties.headers


def test_what_a_worker_would_not_believe_cannot_be_edited(codec: Codec) -> None:
    """Signing it would make it genuine."""
    with pytest.raises(LocalError, match="a worker would refuse it"):
        editing.open_letter(dead(codec, body=b"\x93\x90\x80\x80"), codec)


def test_a_pickle_is_not_opened(codec: Codec) -> None:
    """Loading it would run code."""
    letter = dead(codec)
    properties = letter.delivery.properties._replace(content_type="application/x-python-serialize")
    with pytest.raises(LocalError, match="pickle"):
        editing.open_letter(replace(letter, delivery=letter.delivery._replace(properties=properties)), codec)


def test_a_key_that_may_not_sign_the_task_is_refused(codec: Codec) -> None:
    """Better now than as a dead letter again."""
    letter = dead(codec)
    envelope, draft = editing.open_letter(letter, codec)
    narrow = {"shop": {"key": "env:SIGN_KEY", "may": ["other.*"]}}
    strict = {**TOPOLOGY, "security": {**TOPOLOGY["security"], "trust": narrow}}
    with (
        App(strict, environ={"SIGN_KEY": "5a" * 32}) as app,
        pytest.raises(LocalError, match="may not sign shop.charge"),
    ):
        editing.edited(letter, envelope, draft, app.codec, "desk-1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("args: [", "not YAML"),
        ("- 1", "not a mapping with"),
        ("arg: [1]", "did you mean 'args'"),
        ("args: 1", "args is not a list"),
        ("queue: q\nkwargs: [1]", "kwargs is not a mapping"),
        ("queue: q\nkwargs: {1: 2}", "names as keys"),
        ("args: []", "queue is missing"),
        ("queue: q\nexpires: soon", "ISO 8601"),
        ("queue: q\nexpires: 2026-01-01T00:00:00Z", "quoted"),
    ],
)
def test_a_bad_edit_says_what_is_wrong(text: str, words: str) -> None:
    """With the place where YAML knows one."""
    with pytest.raises(LocalError, match=words):
        editing.from_text(text, Draft((), {}, "default"))


def test_a_bad_edit_comes_back_to_the_editor(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error on top, until it is right; the error of before is gone."""
    shown: list[str] = []
    typed = iter(["args: 1\nqueue: default\n", "# error: old\nargs: [\n", "args: [7]\nqueue: default\n"])

    def edit(text: str, extension: str) -> str:
        assert extension == ".yaml"
        shown.append(text)
        return next(typed)

    monkeypatch.setattr("click.edit", edit)
    letter = dead(codec)
    _, draft = editing.open_letter(letter, codec)
    after = drafting.changed(letter, draft, options())
    assert (after.args, after.kwargs) == ((7,), {})
    assert shown[0].startswith("# shop.charge[1f0c]\n# failed")
    assert shown[1].startswith("# error: args is not a list\nargs: 1\n")
    assert "old" not in shown[2]
    assert "+- 7" in editing.difference(draft, after)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"args_json": "{"}, "--args: this is not JSON"),
        ({"args_json": "{}"}, "a JSON list"),
        ({"kwargs_json": "[]"}, "a JSON object"),
        ({"sets": ("x",)}, "NAME=VALUE"),
    ],
)
def test_a_bad_option_is_named(codec: Codec, given: dict[str, Any], words: str) -> None:
    """Nothing is opened."""
    letter = dead(codec)
    _, draft = editing.open_letter(letter, codec)
    with pytest.raises(LocalError, match=words):
        drafting.changed(letter, draft, options(**given))


def test_only_the_letter_that_was_edited_is_replaced(codec: Codec) -> None:
    """One that came meanwhile under the same id stays."""
    letter = dead(codec)
    envelope, draft = editing.open_letter(letter, codec)
    edit = editing.Edit(letter, editing.edited(letter, envelope, draft, codec, "desk-1"))
    assert edit.plan(letter, 0.0) is edit.publication
    assert isinstance(edit.plan(dead(codec, headers={"amqpq-reason": "other"}), 0.0), Stays)
