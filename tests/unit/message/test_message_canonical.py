"""The bytes that are signed: nothing covered can change, nothing else is covered, and no two messages share them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqpq import errors
from amqpq.message import Codec, ResultEnvelope, TaskEnvelope
from amqpq.message.canonical import result_bytes, task_bytes, user_headers
from amqpq.message.wire import HEADERS, PROPERTIES, Field, route_text
from amqpq.types import Properties

TASK = TaskEnvelope(
    "5a1e",
    "web.resize",
    ["x" * 300],
    root_id="root",
    parent_id="parent",
    group="group",
    retries=1,
    eta="2026-11-21T10:00:00+00:00",
    expires="2026-11-22T10:00:00+00:00",
    timelimit=(300, 290.5),
    origin="web@host",
    shadow="nice",
    ignore_result=True,
    reply_to="amqpq.reply.5a1e",
    correlation_id="5a1e",
    priority=7,
    headers={"tenant": "acme", "limits": {"a": [1, 2.5, None, True]}},
)


def signed_task(make_codec: Any) -> tuple[Codec, bytes, Properties]:
    """Return a codec, and a task that has every signed field."""
    codec = make_codec(replace(make_codec().rules, compression="zlib", compress_above=0))
    return codec, *codec.encode_task(TASK, exchange="web", key="web.resize")


def other(value: Any) -> list[Any]:
    """Return values that differ from `value` as little as they can, and one that is missing."""
    if isinstance(value, bool):
        return [not value, int(value), None]
    if isinstance(value, int):
        return [value + 1, value ^ 1 << 3, str(value), None]
    if isinstance(value, str):
        flipped = [value[:i] + chr(ord(value[i]) ^ 1) + value[i + 1 :] for i in range(len(value))]
        return [*flipped, value + " ", value.encode(), None]
    if isinstance(value, list):
        return [value[::-1], value[:-1], [str(each) for each in value], None]
    raise AssertionError(value)


def changed(properties: Properties, field: Field, value: Any) -> Properties:
    """Return the properties with one field replaced."""
    if field in PROPERTIES:
        return properties._replace(**{field.name: value})
    return properties._replace(headers={**properties.headers, field.name: value})


def current(properties: Properties, field: Field) -> Any:
    """Return the value of one field."""
    return getattr(properties, field.name) if field in PROPERTIES else properties.headers.get(field.name)


FIELDS = [field for field in (*PROPERTIES, *HEADERS) if field.on in {"task", "both"}]


@pytest.mark.parametrize("field", [f for f in FIELDS if f.signed], ids=lambda f: f.name)
def test_changing_a_signed_field_of_a_task_breaks_the_signature(make_codec: Any, field: Field) -> None:
    """Every field that the table calls signed is covered, to the bit, the type and its presence."""
    codec, body, properties = signed_task(make_codec)
    value = current(properties, field)
    assert value is not None, "the sample must have every signed field"
    for tampered in other(value):
        with pytest.raises((errors.SignatureInvalid, errors.KeyUntrusted)) as caught:
            codec.decode_task(body, changed(properties, field, tampered))
        if field.name != "amqpq-kid":
            assert caught.type is errors.SignatureInvalid


@pytest.mark.parametrize("field", [f for f in FIELDS if not f.signed and f.name != "amqpq-sig"], ids=lambda f: f.name)
def test_what_the_broker_may_rewrite_is_not_signed(make_codec: Any, field: Field) -> None:
    """Fields outside the signature can change or go, and the message is still genuine and the same task."""
    codec, body, properties = signed_task(make_codec)
    expected = codec.decode_task(body, properties)
    for value in ("something", 5, None):
        assert codec.decode_task(body, changed(properties, field, value)) == expected


def test_headers_that_broker_and_worker_add_do_not_break_the_signature(make_codec: Any) -> None:
    """A dead letter, or a message that was dead-lettered by the broker, can still be checked."""
    codec, body, properties = signed_task(make_codec)
    added = {"x-death": [{"count": 1}], "x-first-death-queue": "q", "amqpq-cause": "failed", "CC": ["a"]}
    assert codec.decode_task(body, properties._replace(headers={**properties.headers, **added})).headers == TASK.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"tenant": "acmf"},
        {"tenant": None},
        {"added": 1},
        {"limits": {"a": [1, 2.5, None, 1]}},
        {"limits": {"a": [1, 2.5, None]}},
        {"limits": [["a", [1, 2.5, None, True]]]},
    ],
)
def test_changing_adding_or_removing_a_user_header_breaks_the_signature(
    make_codec: Any, headers: dict[str, Any]
) -> None:
    """The user's headers are signed, values and types and all."""
    codec, body, properties = signed_task(make_codec)
    with pytest.raises(errors.SignatureInvalid):
        codec.decode_task(body, properties._replace(headers={**properties.headers, **headers}))
    without = {name: value for name, value in properties.headers.items() if name != "tenant"}
    with pytest.raises(errors.SignatureInvalid):
        codec.decode_task(body, properties._replace(headers=without))


def test_the_order_of_headers_does_not_matter(make_codec: Any) -> None:
    """Tables have no order on the wire."""
    codec, body, properties = signed_task(make_codec)
    backwards = dict(reversed(list(properties.headers.items())))
    assert codec.decode_task(body, properties._replace(headers=backwards)).headers == TASK.headers


def test_a_date_header_is_signed_by_the_second_it_names(codec: Codec) -> None:
    """AMQP timestamps lose fraction and zone on the wire; the signature does not notice."""
    moment = datetime(2026, 11, 21, 12, 0, 0, 5, tzinfo=UTC)
    body, properties = codec.encode_task(TASK._replace(headers={"at": moment}), exchange="", key="q")
    arrived = properties._replace(headers={**properties.headers, "at": datetime(2026, 11, 21, 12)})  # noqa: DTZ001 - as py-amqp reads it
    assert codec.decode_task(body, arrived).id == "5a1e"


def test_every_flipped_bit_of_a_body_breaks_the_signature(codec: Codec) -> None:
    """Tasks and results, every bit of a body."""
    task = codec.encode_task(TaskEnvelope("5a1e", "t", [1, "x"]), exchange="", key="q")
    result = codec.encode_result(ResultEnvelope("5a1e", "SUCCESS", 5), reply_to="q")
    for decode, (body, properties) in ((codec.decode_task, task), (codec.decode_result, result)):
        for bit in range(len(body) * 8):
            flipped = bytearray(body)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(errors.SignatureInvalid):
                decode(bytes(flipped), properties)


def test_every_flipped_bit_of_a_signature_breaks_it(codec: Codec) -> None:
    """Also the bits of base64 text that carry nothing: a signature has one spelling."""
    body, properties = codec.encode_task(TaskEnvelope("5a1e", "t"), exchange="", key="q")
    text = properties.headers["amqpq-sig"]
    for place in range(len(text)):
        for bit in range(8):
            tampered = text[:place] + chr(ord(text[place]) ^ 1 << bit) + text[place + 1 :]
            with pytest.raises(errors.SignatureInvalid):
                codec.decode_task(body, properties._replace(headers={**properties.headers, "amqpq-sig": tampered}))


@pytest.mark.parametrize(
    "field", [f for f in (*PROPERTIES, *HEADERS) if f.on == "both" and f.signed], ids=lambda f: f.name
)
def test_changing_a_signed_field_of_a_result_breaks_the_signature(make_codec: Any, field: Field) -> None:
    """Results are signed by the same rule; task id and status lie in the body."""
    codec = make_codec(replace(make_codec().rules, compression="zlib", compress_above=0))
    body, properties = codec.encode_result(ResultEnvelope("5a1e", "SUCCESS", "x" * 300), reply_to="amqpq.reply.5a1e")
    for tampered in other(current(properties, field)):
        with pytest.raises((errors.SignatureInvalid, errors.KeyUntrusted)):
            codec.decode_result(body, changed(properties, field, tampered))


# ------------------------------------------------------------------------------------------------------- unambiguous

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
texts = st.none() | st.text(max_size=6)
messages = st.builds(
    lambda names, props, user, body: (
        Properties(**props, headers={**user, **{name: value for name, value in names.items() if value is not None}}),
        body,
    ),
    st.dictionaries(
        st.sampled_from([field.name for field in HEADERS if field.signed]), scalars | st.lists(scalars, max_size=2)
    ),
    st.fixed_dictionaries(
        dict.fromkeys(("content_type", "content_encoding", "correlation_id", "reply_to"), texts)
        | {"priority": st.none() | st.integers(0, 255)}
    ),
    st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=2),
    st.binary(max_size=8),
)


def covered(properties: Properties, body: bytes, *, on: set[str]) -> Any:
    """Return the covered fields themselves, types and all."""

    def typed(value: Any) -> Any:
        if isinstance(value, dict):
            return "dict", sorted((name, typed(each)) for name, each in value.items())
        if isinstance(value, (list, tuple)):
            return "list", [typed(each) for each in value]
        return type(value).__name__, repr(value)

    fields = [field for field in (*PROPERTIES, *HEADERS) if field.signed and field.on in on]
    return [typed(current(properties, field)) for field in fields], typed(user_headers(properties.headers)), body


@given(messages, messages)
def test_two_different_tasks_never_have_the_same_bytes(
    one: tuple[Properties, bytes], two: tuple[Properties, bytes]
) -> None:
    """Equal bytes mean equal fields, and equal fields equal bytes, wherever the boundaries lie."""
    same_bytes = task_bytes(one[0], user_headers(one[0].headers), one[1]) == task_bytes(
        two[0], user_headers(two[0].headers), two[1]
    )
    both = {"task", "both"}
    assert same_bytes == (covered(*one, on=both) == covered(*two, on=both))


@given(messages)
def test_the_bytes_give_the_fields_back(message: tuple[Properties, bytes]) -> None:
    """The encoding is decodable, so no two field sequences can share one."""
    properties, body = message
    data = msgpack.unpackb(task_bytes(properties, {}, body), raw=False, strict_map_key=False)
    assert data[:2] == [1, "task"]
    assert len(data) == 25
    assert data[-1] == body
    assert data[17:19] == [properties.reply_to, properties.correlation_id]
    shorter = msgpack.unpackb(result_bytes(properties, {}, body), raw=False, strict_map_key=False)
    assert shorter[:2] == [1, "result"]
    assert len(shorter) == 11


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_two_routes_never_have_the_same_text(exchange: str, key: str, other_exchange: str, other_key: str) -> None:
    """Neither a slash nor a percent sign in a name can move the boundary."""
    same = route_text(exchange, key) == route_text(other_exchange, other_key)
    assert same == ((exchange, key) == (other_exchange, other_key))


def test_shifting_text_from_one_field_to_the_next_changes_the_bytes() -> None:
    """The classic attack on signatures over joined fields."""
    one = Properties(headers={"task": "ab", "id": "c"})
    two = Properties(headers={"task": "a", "id": "bc"})
    assert task_bytes(one, {}, b"") != task_bytes(two, {}, b"")


@pytest.mark.parametrize("value", ["\ud800", 2**65, object(), {1: object()}])
def test_what_cannot_be_encoded_cannot_have_been_signed(codec: Codec, value: Any) -> None:
    """Odd header values are a bad signature, not a crash."""
    body, properties = codec.encode_task(TaskEnvelope("5a1e", "t"), exchange="", key="q")
    for name in ("root_id", "mine"):
        with pytest.raises(errors.SignatureInvalid):
            codec.decode_task(body, properties._replace(headers={**properties.headers, name: value}))
