"""The invariant: any bytes with any properties either decode or raise a RemoteMessageError, and nothing else."""

from __future__ import annotations

import bz2
import contextlib
import zlib
from typing import Any

import msgpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amqpq.errors import RemoteMessageError
from amqpq.message import Codec, ResultEnvelope, Rules, TaskEnvelope, TaskFacts
from amqpq.message.serializers import SERIALIZERS
from amqpq.message.wire import HEADERS
from amqpq.security.signing import HmacKey, Verifier
from amqpq.types import Properties

KEY = HmacKey("k", b"k" * 32)


def codec(*, required: bool) -> Codec:
    """Return a codec that accepts everything there is."""
    return Codec(
        Rules(accept=("msgpack", "json", "yaml", "pickle"), max_size=5000),
        signer=KEY,
        verifier=Verifier({"k": KEY.own_trust()}, required=required, replay_window_seconds=600),
        clock=lambda: 1_795_000_000.0,
    )


STRICT, OPEN = codec(required=True), codec(required=False)

table_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.datetimes()
    | st.decimals()
    | st.sampled_from(["2026-11-21T10:00:00Z", "application/x-gzip", "application/x-bz2", "k", [5, None]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
header_tables = st.dictionaries(
    st.sampled_from([header.name for header in HEADERS]) | st.text(max_size=8), table_values, max_size=8
)
likely_headers = st.builds(lambda some: {"task": "t", "id": "1", **some}, header_tables)
texts = st.none() | st.text(max_size=10)
types = texts | st.sampled_from([serializer.content_type for serializer in SERIALIZERS.values()])
properties = st.builds(
    Properties,
    content_type=types,
    content_encoding=texts | st.sampled_from(["utf-8", "binary"]),
    headers=header_tables | likely_headers,
    priority=st.none() | st.integers(0, 255),
    correlation_id=texts,
    reply_to=texts,
    message_id=texts,
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(["task_id", "status", "__type__", "__value__"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
shaped = values | st.tuples(
    st.lists(values, max_size=2), st.dictionaries(st.text(max_size=3), values, max_size=2), values
)
plain_bodies = (
    st.binary(max_size=200)
    | shaped.map(msgpack.packb)
    | shaped.map(SERIALIZERS["json"].dumps)
    | shaped.map(SERIALIZERS["yaml"].dumps)
    | st.text(alphabet="[]{}&*a:- \n!<", max_size=60).map(str.encode)
)
bodies = (
    plain_bodies
    | plain_bodies.map(zlib.compress)
    | plain_bodies.map(bz2.compress)
    | st.integers(4990, 5010).map(lambda size: zlib.compress(b"x" * size))
)


def decode_all(reader: Codec, body: bytes, props: Properties) -> None:
    """Read it as a task and as a result."""
    for decode, kind in ((reader.decode_task, TaskEnvelope), (reader.decode_result, ResultEnvelope)):
        with contextlib.suppress(RemoteMessageError):
            assert isinstance(decode(body, props), kind)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(bodies, properties)
def test_any_message_decodes_or_raises_a_remote_message_error(body: bytes, props: Properties) -> None:
    """Whatever a queue holds, the worker gets an envelope or a cause; facts are always to be had."""
    decode_all(STRICT, body, props)
    # A pickle that is not signed is refused before it is loaded, so bytes at random cannot run here.
    decode_all(OPEN, body, props)
    assert isinstance(STRICT.task_facts(props), TaskFacts)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(bodies, properties.filter(lambda props: props.content_type != SERIALIZERS["pickle"].content_type))
def test_a_genuine_message_with_odd_content_decodes_or_raises_a_remote_message_error(
    body: bytes, props: Properties
) -> None:
    """A trusted sender in another language may send anything under a good signature."""
    from amqpq.message.canonical import UNENCODABLE, task_bytes, user_headers  # noqa: PLC0415 - to sign by hand
    from amqpq.security.signing import signature_text  # noqa: PLC0415 - as above

    headers = dict(props.headers) | {"amqpq-kid": "k", "amqpq-ts": 1_795_000_000_000}
    props = Properties(props.content_type, props.content_encoding, headers, reply_to=props.reply_to)
    try:
        data = task_bytes(props, user_headers(headers), body)
    except UNENCODABLE:
        return
    headers["amqpq-sig"] = signature_text(KEY.sign(data))
    decode_all(STRICT, body, props)
