"""One dead letter in full: who signed it, and what it asks for. Nothing of it is run, and no pickle is loaded."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from amqpq.deadletters.letter import Letter, signed
from amqpq.errors import RemoteMessageError
from amqpq.message import Codec
from amqpq.message.serializers import PICKLE_TYPE

VALUE_CHARACTERS: Final = 2_000
"""Of one argument, as text."""
VALUES: Final = 50
"""Arguments that are shown."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What a look inside says.

    `verdict` is one of `verified`, `refused` (signed, and not to be believed), `unsigned`, `unchecked` (there is no key to
    check with), `why` the sentence to it. `args` and `kwargs` are shown values; None where the body was not read, and
    `body` then says why.
    """

    verdict: str
    why: str
    args: tuple[str, ...] | None = None
    kwargs: Mapping[str, str] | None = None
    body: str = ""


def examine(letter: Letter, codec: Codec | None, without_codec: str = "") -> Examined:
    """Check the signature, and read the arguments where a worker would believe them.

    Args:
        letter: It.
        codec: The project's; None where its keys cannot be loaded.
        without_codec: Why there is none.
    """
    if codec is None:
        return Examined("unchecked", without_codec, body="not read, as its signature could not be checked")
    body, properties = letter.delivery.body, letter.delivery.properties
    is_signed = signed(properties)
    try:
        # A signature that is there is looked at, whatever the project requires.
        stamp = codec.verify_task(body, properties, required=is_signed or None)
    except RemoteMessageError as error:
        return Examined("refused" if is_signed else "unsigned", str(error), body="not read: a worker would refuse it")
    if stamp is None:
        verdict, why = "unsigned", "this project accepts unsigned messages"
    else:
        verdict, why = "verified", f"signed with key {stamp.key_id!r}"
    if properties.content_type == PICKLE_TYPE:
        return Examined(verdict, why, body="not read: loading a pickle runs code of the sender")
    try:
        envelope = codec.decode_task(body, properties, required=stamp is not None)
    except RemoteMessageError as error:
        return Examined(verdict, why, body=f"not readable: {error}")
    kwargs = {name: _shown(value) for name, value in list(envelope.kwargs.items())[:VALUES]}
    return Examined(verdict, why, tuple(_shown(value) for value in envelope.args[:VALUES]), kwargs)


class _Bounded(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = VALUE_CHARACTERS // 4
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = VALUES


_bounded = _Bounded()


def _shown(value: Any) -> str:
    text = _bounded.repr(value)
    return text if len(text) <= VALUE_CHARACTERS else text[:VALUE_CHARACTERS] + "..."
