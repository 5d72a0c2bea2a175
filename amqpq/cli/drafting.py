"""How somebody edits a dead letter: by options, or in an editor that gets it back until it is right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from amqpq.deadletters import editing
from amqpq.deadletters.editing import Draft
from amqpq.deadletters.letter import Letter
from amqpq.errors import LocalError


def changed(letter: Letter, draft: Draft, values: Mapping[str, Any]) -> Draft:
    """Return the draft as it is wanted: by `--args`, `--kwargs`, `--set` and `--to`, or else by an editor.

    Raises:
        LocalError: What the options say cannot be.
    """
    draft = replace(draft, queue=values["to"] or draft.queue)
    if values["args_json"] is None and values["kwargs_json"] is None and not values["sets"]:
        return _in_editor(letter, draft)
    args = draft.args if values["args_json"] is None else tuple(_json("--args", values["args_json"], list))
    kwargs = dict(draft.kwargs) if values["kwargs_json"] is None else _json("--kwargs", values["kwargs_json"], dict)
    for text in values["sets"]:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise LocalError(f"--set {text}: write NAME=VALUE")
        kwargs[name] = _value(value)
    return editing.check(replace(draft, args=args, kwargs=kwargs))


def _in_editor(letter: Letter, draft: Draft) -> Draft:
    remarks = f"{letter.task}[{letter.id}]\n{letter.cause}: {letter.reason}\nAn unchanged file changes nothing."
    text = editing.as_text(draft, remarks)
    while True:
        written = click.edit(text, extension=".yaml")
        if written is None:
            return draft
        try:
            return editing.from_text(written, draft)
        except LocalError as error:
            without = "".join(line for line in written.splitlines(keepends=True) if not line.startswith("# error: "))
            text = "".join(f"# error: {line}\n" for line in str(error).splitlines()) + without


def _json(option: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise LocalError(f"{option}: this is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise LocalError(f"{option}: a JSON {'list' if kind is list else 'object'} is wanted")
    return value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
