"""RabbitMQ rewrites a direct reply address on the way, and the signature has to bear that and nothing more."""

from __future__ import annotations

import pytest

from amqpq.errors import SignatureInvalid
from amqpq.message import Codec, TaskEnvelope
from amqpq.types import Properties

DIRECT = "amq.rabbitmq.reply-to"
TOKEN = f"{DIRECT}.g1h2AA5yZXBseUAxMjM0NTY3OAAAB9oAAAAAZzqXRA==.TqPzxrdQvLbSTRvlYBWHSw=="


def _encoded(codec: Codec, reply_to: str) -> tuple[bytes, Properties]:
    return codec.encode_task(TaskEnvelope("1", "shop.add", (2, 3), reply_to=reply_to), exchange="", key="default")


def test_a_direct_reply_address_may_carry_the_brokers_token(codec: Codec) -> None:
    """A task signed with the direct address is genuine with the token that the broker put behind it."""
    body, properties = _encoded(codec, DIRECT)
    assert codec.decode_task(body, properties._replace(reply_to=TOKEN)).reply_to == TOKEN


@pytest.mark.parametrize(
    "signed,arrived",
    [
        (DIRECT, "somebody.else"),
        (DIRECT, None),
        (DIRECT, "amq.rabbitmq.reply-toto"),
        ("amqpq.reply.1", TOKEN),
        ("amqpq.reply.1", DIRECT),
        ("amqpq.reply.1", "amqpq.reply.2"),
    ],
)
def test_any_other_change_of_the_reply_address_is_a_forgery(codec: Codec, signed: str, arrived: str | None) -> None:
    """Nobody can send a task's result elsewhere, nor turn a queue's address into a direct one."""
    body, properties = _encoded(codec, signed)
    with pytest.raises(SignatureInvalid):
        codec.decode_task(body, properties._replace(reply_to=arrived))
