"""A look inside a dead letter: signature and arguments, without running anything."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from amqpq.deadletters.examining import examine
from amqpq.deadletters.letter import Letter, read
from amqpq.message import Codec, Encoding, Rules, TaskEnvelope
from amqpq.security.signing import HmacKey, Verifier
from amqpq.types import Delivery

KEY = HmacKey("shop", bytes(range(32)))
OTHER = HmacKey("other", bytes(range(1, 33)))


def codec(signer: HmacKey | None = KEY, *, required: bool = True, trusts: bool = True) -> Codec:
    """Make a codec that trusts the project's key."""
    trusted = {KEY.key_id: KEY.own_trust()} if trusts else {}
    accept = ("msgpack", "json", "pickle")
    return Codec(
        Rules(accept=accept), signer=signer, verifier=Verifier(trusted, required=required, replay_window_seconds=600)
    )


def letter(writer: Codec, *args: Any, serializer: str | None = None, **kwargs: Any) -> Letter:
    """Write a task and read it as a dead letter."""
    body, properties = writer.encode_task(
        TaskEnvelope("a1", "shop.add", args, kwargs), exchange="", key="default", encoding=Encoding(serializer)
    )
    headers = {**properties.headers, "amqpq-cause": "failed", "amqpq-queue": "default"}
    return read(Delivery(body, properties._replace(headers=headers), "", "dead", redelivered=True, tag=1), "dead")


def test_a_genuine_letter_is_verified_and_its_arguments_are_shown() -> None:
    """The evidence of the worker does not break the signature."""
    found = examine(letter(codec(), 2, "three", size=4), codec())
    assert (found.verdict, found.args, found.kwargs) == ("verified", ("2", "'three'"), {"size": "4"})
    assert "'shop'" in found.why


def test_what_is_shown_is_bounded() -> None:
    """A megabyte of an argument does not fill the terminal."""
    found = examine(letter(codec(), "x" * 10**6, [["y" * 1000] * 1000]), codec())
    assert found.args is not None
    assert all(len(shown) < 2_100 for shown in found.args)


@pytest.mark.parametrize(
    ("altered", "why"),
    [({"id": "b2"}, "altered"), ({"amqpq-kid": "nobody"}, "nobody here trusts"), ({"mine": "x"}, "altered")],
)
def test_an_altered_letter_is_refused_and_not_read(altered: dict[str, Any], why: str) -> None:
    """Forged, moved to another key, or with a header of its own: the arguments are not read."""
    genuine = letter(codec(), 2)
    properties = genuine.delivery.properties._replace(headers={**genuine.headers, **altered})
    found = examine(read(genuine.delivery._replace(properties=properties), "dead"), codec())
    assert (found.verdict, found.args) == ("refused", None)
    assert why in found.why


def test_a_stranger_s_letter_is_refused_even_where_signing_is_optional() -> None:
    """A signature that is there is looked at."""
    found = examine(letter(codec(OTHER), 2), codec(required=False, trusts=False))
    assert found.verdict == "refused"


def test_an_unsigned_letter_is_read_only_where_the_project_accepts_it() -> None:
    """What a worker would refuse is not read here either."""
    unsigned = letter(codec(None, required=False), 2)
    assert (examine(unsigned, codec()).verdict, examine(unsigned, codec()).args) == ("unsigned", None)
    accepted = examine(unsigned, codec(required=False))
    assert (accepted.verdict, accepted.args) == ("unsigned", ("2",))


def test_without_keys_nothing_is_said_of_the_signature() -> None:
    """The reason stands where the verdict would be."""
    found = examine(letter(codec(), 2), None, "no key file")
    assert (found.verdict, found.why, found.args) == ("unchecked", "no key file", None)


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _explode, ()


def _explode() -> None:
    raise AssertionError("the desk loaded a pickle")


def test_a_pickle_is_verified_and_not_loaded() -> None:
    """Loading it would run code of the sender; a worker may do that, the desk does not."""
    found = examine(letter(codec(), _Bomb(), serializer="pickle"), codec())
    assert (found.verdict, found.args) == ("verified", None)
    assert "pickle" in found.body
    with pytest.raises(AssertionError, match="loaded a pickle"):
        pickle.loads(pickle.dumps(_Bomb()))


def test_a_body_that_is_no_task_is_not_readable() -> None:
    """The verdict about the signature stands, and the body says what is wrong with it."""
    broken = letter(codec(None, required=False), 2)
    found = examine(read(broken.delivery._replace(body=b"\xc1"), "dead"), codec(required=False))
    assert found.args is None
    assert "not readable" in found.body
