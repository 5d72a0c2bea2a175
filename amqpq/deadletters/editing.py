"""A dead letter, edited: what of it may be changed, and the message that goes back instead of it. Pure.

An edited message is a new attempt of the same task: it keeps id, reply address, priority, headers of its own, what is to
follow it, and its history; it is signed anew, with this host's key. So that nobody launders a forged message by editing it,
only a message that a worker here would believe can be edited, and only with a key that a worker here would believe for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import yaml

from amqpq.deadletters.letter import FIRST_FAILED, Letter, sent_back, signed
from amqpq.deadletters.planning import Stays
from amqpq.deadletters.returning import token
from amqpq.errors import LocalError, RemoteMessageError
from amqpq.message import Codec, Encoding, TaskEnvelope, parsing
from amqpq.message.serializers import PICKLE_TYPE
from amqpq.message.wire import ATTEMPT_LOG, REQUEUES
from amqpq.types import Publication

EDITED_BY: Final = "amqpq-edited-by"
HISTORY: Final = frozenset({FIRST_FAILED, ATTEMPT_LOG, REQUEUES})
"""What stays of the attempts before."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What may be changed. `expires` is ISO 8601 with an offset, None for never; `queue` is where it goes."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    queue: str
    expires: str | None = None


def open_letter(letter: Letter, codec: Codec) -> tuple[TaskEnvelope, Draft]:
    """Return what a dead letter asks for, and what of it may be changed.

    Raises:
        LocalError: A worker would not believe it, or it cannot be read; a pickle is not.
    """
    body, properties = letter.delivery.body, letter.delivery.properties
    if properties.content_type == PICKLE_TYPE:
        raise LocalError("it is a pickle, and loading that runs code of its sender; send the task anew instead")
    try:
        is_signed = signed(properties)
        stamp = codec.verify_task(body, properties, required=is_signed or None)
        envelope = codec.decode_task(body, properties, required=stamp is not None)
    except RemoteMessageError as error:
        raise LocalError(f"a worker would refuse it, so that it cannot be edited: {error}") from error
    return envelope, Draft(tuple(envelope.args), dict(envelope.kwargs), letter.origin, envelope.expires)


def as_text(draft: Draft, remarks: str = "") -> str:
    """Return a draft as YAML to edit, with remarks on top.

    Raises:
        LocalError: An argument has no form in YAML.
    """
    values = {"queue": draft.queue, "expires": draft.expires, "args": list(draft.args), "kwargs": dict(draft.kwargs)}
    try:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    except yaml.YAMLError as error:
        raise LocalError(
            f"its arguments cannot be written as YAML ({parsing.short(error)}); use --args and --kwargs"
        ) from error
    return "".join(f"# {line}\n" for line in remarks.splitlines()) + text


def from_text(text: str, origin: Draft) -> Draft:
    """Read an edited draft.

    Raises:
        LocalError: It is no draft; with the place.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LocalError(f"this is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise LocalError("this is not a mapping with queue, expires, args and kwargs")
    known = ("queue", "expires", "args", "kwargs")
    for name in values:
        if name not in known:
            meant = difflib.get_close_matches(str(name), known, n=1)
            raise LocalError(f"{name!r} is not known" + (f" (did you mean {meant[0]!r}?)" if meant else ""))
    args, kwargs = values.get("args") or [], values.get("kwargs") or {}
    if not isinstance(args, list):
        raise LocalError("args is not a list")
    return check(
        replace(
            origin,
            args=tuple(args),
            kwargs=kwargs,
            queue=values.get("queue") or "",
            expires=values.get("expires"),
        )
    )


def check(draft: Draft) -> Draft:
    """Return a draft that can be sent.

    Raises:
        LocalError: It cannot.
    """
    kwargs: Any = draft.kwargs
    queue: Any = draft.queue
    expires: Any = draft.expires
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise LocalError("kwargs is not a mapping with names as keys")
    if not isinstance(queue, str) or not queue:
        raise LocalError("queue is missing: where is it to go?")
    if expires is not None and not (isinstance(expires, str) and _is_moment(expires)):
        raise LocalError(f"expires: {str(expires)!r} is not a quoted ISO 8601 time with an offset")
    return draft


def difference(before: Draft, after: Draft) -> str:
    """Return what was changed, as a unified diff; empty where nothing was."""
    old, new = (as_text(each).splitlines() for each in (before, after))
    return "\n".join(difflib.unified_diff(old, new, "as it was", "as edited", lineterm=""))


@dataclass(frozen=True, slots=True)
class Edit:
    """How one dead letter is sent back, edited; a `planning.Plan`. The others stay.

    Args:
        letter: As it was when it was edited.
        publication: The new message.
    """

    letter: Letter
    publication: Publication

    def plan(self, letter: Letter, now: float) -> Publication | Stays:
        """Decide about one."""
        del now
        if token(letter) != token(self.letter):
            return Stays("it is another message with the same id than the one that was edited")
        return self.publication


def edited(letter: Letter, envelope: TaskEnvelope, draft: Draft, codec: Codec, host: str) -> Publication:
    """Return the message that goes back instead of a dead letter.

    Args:
        letter: It.
        envelope: What it asks for.
        draft: What is to be changed.
        codec: Signs it.
        host: This host.

    Raises:
        LocalError: It cannot be written, or the key here is not allowed to sign it.
    """
    plain = sent_back(letter, draft.queue)
    changed = envelope._replace(args=draft.args, kwargs=draft.kwargs, expires=draft.expires)
    facts = codec.task_facts(letter.delivery.properties)
    body, properties = codec.encode_task(
        changed, exchange="", key=draft.queue, encoding=Encoding(serializer=facts.serializer)
    )
    if codec.signer is not None:
        try:
            codec.verify_task(body, properties, required=True)
        except RemoteMessageError as error:
            raise LocalError(
                f"the key of this host, {codec.signer.key_id!r}, may not sign {envelope.task}: {error}; "
                "security.trust says which key may"
            ) from error
    history = {name: value for name, value in plain.properties.headers.items() if name in HISTORY}
    who = f"{codec.signer.key_id if codec.signer is not None else 'unsigned'}@{host}"
    headers = {**properties.headers, **history, EDITED_BY: who}
    return plain._replace(body=body, properties=properties._replace(headers=headers))


def _is_moment(text: str) -> bool:
    try:
        parsing.epoch_seconds(text)
    except (ValueError, OverflowError):
        return False
    return True
