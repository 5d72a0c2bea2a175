"""Envelopes to messages and back."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import pytest

from amqpq import errors
from amqpq.message import Codec, Encoding, ResultEnvelope, Rules, TaskEnvelope
from amqpq.message import codec as codec_module
from amqpq.message.compression import unpack
from amqpq.message.serializers import SERIALIZERS, Serializer
from amqpq.security.replay import SeenIds
from amqpq.security.signing import HmacKey, Verifier
from amqpq.types import Properties

FULL = TaskEnvelope(
    id="5a1e",
    task="web.resize",
    args=[1, "two", None, 2.5],
    kwargs={"size": [640, 480], "name": "größe"},
    root_id="root-1",
    parent_id="parent-1",
    group="group-1",
    retries=2,
    eta="2026-11-21T10:00:00+00:00",
    expires="2026-11-22T10:00:00+00:00",
    timelimit=(300, 290.5),
    origin="web@host-1",
    shadow="resize of one picture",
    ignore_result=True,
    reply_to="amqpq.reply.5a1e",
    correlation_id="5a1e",
    priority=7,
    embed={"callbacks": [{"task": "web.done"}]},
    headers={"tenant": "acme", "attempt": 3},
)
SMALL = TaskEnvelope("5a1e", "web.resize", [1])


def encode(codec: Codec, envelope: TaskEnvelope = SMALL, **options: Any) -> tuple[bytes, Properties]:
    """Write a task meant for exchange web, key web.resize."""
    return codec.encode_task(envelope, exchange="web", key="web.resize", **options)


def with_headers(properties: Properties, **changed: Any) -> Properties:
    """Return the properties with headers replaced; `__` in a name is `-`."""
    names = {name.replace("__", "-"): value for name, value in changed.items()}
    return properties._replace(headers={**properties.headers, **names})


# ----------------------------------------------------------------------------------------------------------- both ways


@pytest.mark.parametrize("serializer", ["msgpack", "json", "yaml", "pickle"])
@pytest.mark.parametrize("compression", [None, "zlib", "bzip2"])
def test_a_full_task_comes_back_as_it_was(make_codec: Any, serializer: str, compression: str | None) -> None:
    """Every field of a task survives every serializer and compression."""
    codec = make_codec(Rules(serializer=serializer, accept=(serializer,), compression=compression, compress_above=0))
    body, properties = encode(codec, FULL._replace(kwargs={**FULL.kwargs, "pad": "x" * 500}))
    assert (properties.headers.get("compression") is None) == (compression is None)
    assert codec.decode_task(body, properties) == FULL._replace(kwargs={**FULL.kwargs, "pad": "x" * 500})


def test_a_minimal_task_carries_only_what_differs_from_the_default(codec: Codec) -> None:
    """The minimal form of the protocol: absent headers mean the default."""
    _, properties = encode(codec)
    assert set(properties.headers) == {"lang", "task", "id", "amqpq-kid", "amqpq-ts", "amqpq-route", "amqpq-sig"}
    assert properties.headers["amqpq-route"] == "web/web.resize"
    assert properties.headers["amqpq-ts"] == 1_795_000_000_250


def test_the_properties_of_a_task_say_who_what_and_when(codec: Codec) -> None:
    """The basic properties are those that RabbitMQ's tools and Celery look at."""
    _, properties = encode(codec, FULL, encoding=Encoding(persistent=False, ttl_ms=1500))
    assert properties._replace(headers={}) == Properties(
        content_type="application/x-msgpack",
        content_encoding="binary",
        headers={},
        delivery_mode=1,
        priority=7,
        correlation_id="5a1e",
        reply_to="amqpq.reply.5a1e",
        expiration=1500,
        message_id="5a1e",
        timestamp=1_795_000_000,
        app_id="shop",
    )


@pytest.mark.parametrize("serializer", ["msgpack", "json", "yaml", "pickle"])
def test_a_result_comes_back_as_it_was(make_codec: Any, serializer: str) -> None:
    """Results take the same way as tasks."""
    codec = make_codec(Rules(serializer=serializer, accept=(serializer,)))
    envelope = ResultEnvelope("5a1e", "SUCCESS", {"sum": 5}, "Traceback ...", [["id", None]])
    body, properties = codec.encode_result(envelope, reply_to="amqpq.reply.5a1e")
    assert properties.correlation_id == "5a1e"
    assert properties.headers["amqpq-route"] == "/amqpq.reply.5a1e"
    assert codec.decode_result(body, properties) == envelope


def test_a_call_may_choose_its_own_serializer_and_compression(codec: Codec) -> None:
    """What one call asks for goes before the rules."""
    envelope = SMALL._replace(args=["x" * 5000])
    body, properties = encode(codec, envelope, encoding=Encoding(serializer="json", compression="bzip2"))
    assert properties.content_type == "application/json"
    assert properties.headers["compression"] == "application/x-bz2"
    assert len(body) < 200
    assert codec.decode_task(body, properties).args == ["x" * 5000]


def test_what_is_below_the_threshold_or_would_grow_is_sent_as_it_is(make_codec: Any) -> None:
    """Compression that does not pay is left out."""
    codec = make_codec(Rules(compression="zlib", compress_above=100))
    _, small = encode(codec, SMALL._replace(args=["x" * 50]))
    _, noise = encode(codec, SMALL._replace(args=[bytes(i * i * 7 % 251 for i in range(150))]))
    assert "compression" not in small.headers
    assert "compression" not in noise.headers


# ------------------------------------------------------------------------------------------------ what cannot be sent


class Opaque:
    """Nothing can write this."""


@pytest.mark.parametrize(
    "envelope,place",
    [
        (SMALL._replace(args=[1, Opaque()]), "argument 2, a Opaque"),
        (SMALL._replace(kwargs={"when": Opaque()}), "argument 'when', a Opaque"),
        (SMALL._replace(embed={"chain": [Opaque()]}), "'chain', a list"),
        (SMALL._replace(args=[{"deep": [1, Opaque()]}]), "argument 1, a dict"),
    ],
)
@pytest.mark.parametrize("serializer", ["msgpack", "json", "yaml"])
def test_an_argument_that_cannot_be_written_is_named(
    make_codec: Any, envelope: TaskEnvelope, place: str, serializer: str
) -> None:
    """The error says which argument of which task, and the serializer."""
    with pytest.raises(errors.NotSerializable, match="web.resize") as caught:
        encode(make_codec(Rules(serializer=serializer)), envelope)
    assert place in str(caught.value)
    assert serializer in str(caught.value)


def test_a_value_that_contains_itself_is_refused(make_codec: Any) -> None:
    """Endless data is an error of the caller, not a crash."""
    endless: list[Any] = []
    endless.append(endless)
    for serializer in ("msgpack", "json", "yaml"):
        with pytest.raises(errors.NotSerializable):
            encode(make_codec(Rules(serializer=serializer)), SMALL._replace(args=endless))


def test_a_message_over_the_limit_tells_both_sizes(make_codec: Any) -> None:
    """The limit counts before compression, and the error says what to do."""
    codec = make_codec(Rules(max_size=1000, compression="zlib", compress_above=0))
    with pytest.raises(errors.MessageTooLarge) as caught:
        encode(codec, SMALL._replace(args=["x" * 2000]))
    text = str(caught.value)
    assert "2007 bytes" in text
    assert "1000" in text
    assert "messages.max_size" in text
    with pytest.raises(errors.MessageTooLarge, match="the result of task 5a1e"):
        codec.encode_result(ResultEnvelope("5a1e", "SUCCESS", "x" * 2000), reply_to="q")


@pytest.mark.parametrize("name", ["task", "id", "compression", "amqpq-sig", "amqpq-anything", "retries"])
def test_a_header_of_the_protocol_cannot_be_set_by_the_user(codec: Codec, name: str) -> None:
    """User headers cannot steer execution."""
    with pytest.raises(errors.ConfigurationError, match="protocol's own"):
        encode(codec, SMALL._replace(headers={name: "x"}))


def test_a_header_that_cannot_be_signed_is_refused(codec: Codec) -> None:
    """A header is signed or not sent."""
    with pytest.raises(errors.NotSerializable, match="header"):
        encode(codec, SMALL._replace(headers={"thing": Opaque()}))


def test_names_longer_than_amqp_allows_are_refused_before_the_driver_sees_them(codec: Codec) -> None:
    """AMQP's short strings hold 255 bytes."""
    with pytest.raises(errors.NotSerializable, match="255"):
        encode(codec, SMALL._replace(headers={"n" * 256: 1}))
    with pytest.raises(errors.NotSerializable, match="255"):
        encode(codec, SMALL._replace(id="i" * 256))


def test_unknown_serializers_and_compressions_are_refused_at_once() -> None:
    """A codec with rules that cannot work is never made."""
    verifier = Verifier({}, required=False, replay_window_seconds=1)
    for rules in (Rules(serializer="xml"), Rules(accept=("xml",)), Rules(compression="lzma")):
        with pytest.raises(errors.ConfigurationError, match="unknown"):
            Codec(rules, signer=None, verifier=verifier)


# --------------------------------------------------------------------------------------------------------- signatures


def test_an_unsigned_task_is_refused_where_signatures_are_required(make_codec: Any) -> None:
    """Missing is its own cause, with the remedy."""
    body, properties = encode(make_codec(unsigned=True))
    with pytest.raises(errors.SignatureMissing, match="amqpq keys new") as caught:
        make_codec().decode_task(body, properties)
    assert caught.value.cause == "unsigned"


def test_an_unsigned_task_is_read_where_signatures_are_optional(make_codec: Any) -> None:
    """Optional means that nothing is asked of an unsigned message; one queue may ask all the same."""
    codec = make_codec(unsigned=True, required=False)
    body, properties = encode(codec)
    assert codec.decode_task(body, properties).args == [1]
    with pytest.raises(errors.SignatureMissing):
        codec.decode_task(body, properties, required=True)


def test_a_bad_signature_is_refused_even_where_signatures_are_optional(make_codec: Any) -> None:
    """Optional does not mean that a forgery passes."""
    codec = make_codec(required=False)
    body, properties = encode(codec)
    with pytest.raises(errors.SignatureInvalid):
        codec.decode_task(body + b"\0", properties)


def test_where_nobody_is_trusted_and_nothing_required_signatures_are_not_looked_at(make_codec: Any) -> None:
    """A host without keys reads what a signing producer sends, if its file says that signatures are optional."""
    body, properties = encode(make_codec())
    assert make_codec(unsigned=True, trusted={}, required=False).decode_task(body, properties).id == "5a1e"


def test_a_key_nobody_trusts_is_named_with_the_remedy(make_codec: Any) -> None:
    """The error names the key id and the command."""
    body, properties = encode(make_codec(signer=HmacKey("stranger", b"s" * 32)))
    with pytest.raises(errors.KeyUntrusted, match="'stranger'.*amqpq keys trust stranger") as caught:
        make_codec().decode_task(body, properties)
    assert caught.value.cause == "untrusted"


def test_a_key_may_sign_only_what_it_is_trusted_for(make_codec: Any) -> None:
    """`may` limits a key to task patterns and to results."""
    writer = make_codec()
    task, result = encode(writer), writer.encode_result(ResultEnvelope("5a1e", "SUCCESS"), reply_to="q")
    make_codec(may=("web.*",)).decode_task(*task)
    make_codec(may=("results",)).decode_result(*result)
    with pytest.raises(errors.KeyUntrusted, match=r"not for task 'web.resize'.*\['tasks.\*'\]"):
        make_codec(may=("tasks.*",)).decode_task(*task)
    with pytest.raises(errors.KeyUntrusted, match="not for results"):
        make_codec(may=("*",)).decode_result(*result)
    with pytest.raises(errors.KeyUntrusted):
        make_codec(may=("results",)).decode_task(*task)
    with pytest.raises(errors.KeyUntrusted):
        make_codec(may=()).decode_task(*task)


def test_a_task_named_results_is_not_meant_by_the_word(make_codec: Any) -> None:
    """The word `results` allows results, never a task of that name."""
    task = encode(make_codec(), SMALL._replace(task="results"))
    with pytest.raises(errors.KeyUntrusted):
        make_codec(may=("results",)).decode_task(*task)


def test_a_task_cannot_pass_for_a_result_nor_the_other_way_round(codec: Codec) -> None:
    """What kind of message it is lies under the signature."""
    task, result = encode(codec), codec.encode_result(ResultEnvelope("5a1e", "SUCCESS"), reply_to="q")
    with pytest.raises(errors.SignatureInvalid):
        codec.decode_result(*task)
    with pytest.raises(errors.SignatureInvalid):
        codec.decode_task(*result)


def test_a_signature_from_the_future_is_refused_and_an_old_one_is_not(make_codec: Any) -> None:
    """A task may wait for days in its queue; one from tomorrow is a lie, or a wrong clock."""
    body, properties = encode(make_codec(now=1_795_000_000))
    make_codec(now=1_795_000_000 - 599).decode_task(body, properties)
    make_codec(now=1_795_000_000 + 30 * 86400).decode_task(body, properties)
    with pytest.raises(errors.Replayed, match="601 s in the future.*clocks"):
        make_codec(now=1_795_000_000 - 601).decode_task(body, properties)


def test_the_same_message_twice_is_a_replay_and_redelivered_it_is_not(make_codec: Any) -> None:
    """The broker's flag tells a redelivery from a second publish."""
    codec = make_codec(seen=SeenIds(600, lambda: 0.0))
    body, properties = encode(codec)
    codec.decode_task(body, properties, queue="web.high")
    codec.decode_task(body, properties, queue="web.high", redelivered=True)
    codec.decode_task(body, properties, queue="audit")
    with pytest.raises(errors.Replayed, match="5a1e was delivered here before") as caught:
        codec.decode_task(body, properties, queue="web.high")
    assert caught.value.cause == "replayed"


def test_a_forgery_leaves_no_trace_in_the_replay_memory(make_codec: Any) -> None:
    """Only what is genuine is remembered."""
    seen = SeenIds(600, lambda: 0.0)
    codec = make_codec(seen=seen)
    body, properties = encode(codec)
    with pytest.raises(errors.SignatureInvalid):
        codec.decode_task(body + b"\0", properties)
    assert len(seen) == 0


def test_a_message_moved_to_another_route_is_refused(codec: Codec) -> None:
    """Where the delivery's exchange and key are known, they must be those it was signed for."""
    body, properties = encode(codec)
    codec.decode_task(body, properties, arrived=("web", "web.resize"))
    with pytest.raises(errors.Replayed, match="'web/web.resize'.*'/payments'"):
        codec.decode_task(body, properties, arrived=("", "payments"))


# ------------------------------------------------------------------------------------------------ verify before parse


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every unpacking and decoding leave a note."""
    notes: list[str] = []

    def noted(what: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            notes.append(what)
            return function(*args)

        return call

    monkeypatch.setattr(codec_module, "unpack", noted("unpack", unpack))
    for name, serializer in SERIALIZERS.items():
        monkeypatch.setitem(
            SERIALIZERS,
            name,
            Serializer(
                name,
                serializer.content_type,
                serializer.content_encoding,
                serializer.dumps,
                noted(name, serializer.loads),
            ),
        )
    return notes


@pytest.mark.parametrize("serializer", ["msgpack", "json", "yaml", "pickle"])
def test_nothing_is_unpacked_or_decoded_before_the_signature_was_checked(
    make_codec: Any, monkeypatch: pytest.MonkeyPatch, serializer: str
) -> None:
    """A forged body reaches neither a decompressor nor a decoder; a genuine one reaches both."""
    notes = spied(monkeypatch)
    rules = Rules(serializer=serializer, accept=(serializer,), compression="zlib", compress_above=0)
    codec = make_codec(rules)
    body, properties = encode(codec, SMALL._replace(args=["x" * 1000]))
    attempts = [
        (body[:-1] + bytes([body[-1] ^ 1]), properties),
        (body, with_headers(properties, amqpq__kid="stranger")),
        (body, with_headers(properties, amqpq__sig=None)),
        (body, with_headers(properties, compression="application/x-bz2")),
    ]
    for attempt in attempts:
        with pytest.raises(errors.RemoteMessageError):
            codec.decode_task(*attempt)
    assert notes == []
    codec.decode_task(body, properties)
    assert notes == ["unpack", serializer]


class Bang:
    """Leaves a mark when it is unpickled."""

    loaded: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.loaded.append, ("bang",)


def test_a_pickle_is_never_loaded_unsigned(make_codec: Any) -> None:
    """Loading a pickle runs code: unsigned ones are refused, whatever the rules say."""
    codec = make_codec(Rules(accept=("pickle", "json")), required=False)
    body = pickle.dumps(([Bang()], {}, {}))
    properties = Properties("application/x-python-serialize", "binary", {"task": "t", "id": "1"})
    with pytest.raises(errors.ContentRefused, match="pickle is read only from a signed message"):
        codec.decode_task(body, properties)
    blind = make_codec(Rules(accept=("pickle",)), unsigned=True, trusted={}, required=False)
    signed_by_somebody = with_headers(properties, amqpq__sig="AAAA", amqpq__kid="x", amqpq__ts=1)
    with pytest.raises(errors.ContentRefused, match="pickle"):
        blind.decode_task(body, signed_by_somebody)
    assert Bang.loaded == []


def test_a_pickle_is_never_loaded_where_it_is_not_accepted(make_codec: Any) -> None:
    """Signed is not enough: `messages.accept` must have it."""
    body, properties = encode(make_codec(Rules(serializer="pickle", accept=("pickle",))))
    with pytest.raises(errors.ContentRefused, match="python-serialize.*not accepted") as caught:
        make_codec().decode_task(body, properties)
    assert caught.value.cause == "content-refused"


def test_a_pickle_is_not_sent_unsigned_or_where_it_is_not_accepted(make_codec: Any) -> None:
    """The sender hears of it first."""
    for codec in (make_codec(), make_codec(Rules(accept=("pickle",)), unsigned=True)):
        with pytest.raises(errors.ConfigurationError, match="pickle"):
            encode(codec, encoding=Encoding(serializer="pickle"))
    with pytest.raises(errors.ConfigurationError, match="pickle"):
        make_codec(Rules(serializer="pickle", accept=("pickle",)), unsigned=True)
    with pytest.raises(errors.ConfigurationError, match="pickle"):
        make_codec(Rules(serializer="pickle"))


# ----------------------------------------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    "body,properties,error,words",
    [
        (b"\xc1", {}, errors.Undecodable, "not msgpack"),
        (b"", {}, errors.Undecodable, "not msgpack"),
        (b"{", {"content_type": "application/json"}, errors.Undecodable, "not json"),
        (b'{"__type__":"os.system","__value__":1}', {"content_type": "application/json"}, errors.Undecodable, "mark"),
        (b"[" * 100_000, {"content_type": "application/json"}, errors.Undecodable, "not json"),
        (b"\x93\x90\x80\x80", {"content_type": "text/plain"}, errors.ContentRefused, "'text/plain' is not accepted"),
        (b"\x93\x90\x80\x80", {"content_type": None}, errors.ContentRefused, "None is not accepted"),
        (b"\x93\x90\x80\x80", {"content_encoding": "koi8-r"}, errors.Undecodable, "koi8-r"),
        (b"\x93\x90\x80\x80", {"headers": {"compression": "application/zstd"}}, errors.ContentRefused, "zstd"),
        (b"\x05", {}, errors.Undecodable, "not \\[args, kwargs, embed\\] but int"),
        (b"\x92\x90\x80", {}, errors.Undecodable, "args, kwargs"),
        (b"\x93\x80\x80\x80", {}, errors.Undecodable, "args is not a list but dict"),
        (b"\x93\x90\x90\x80", {}, errors.Undecodable, "kwargs is not a mapping but list"),
        (b"\x93\x90\x81\x01\x02\x80", {}, errors.Undecodable, "kwargs is not a mapping with text"),
        (b"\x93\x90\x80\x90", {}, errors.Undecodable, "embed"),
        (b'{"task":"x","args":[]}', {"content_type": "application/json"}, errors.Undecodable, "protocol 1"),
    ],
)
def test_a_body_that_is_no_task_is_refused_with_the_reason(
    make_codec: Any, body: bytes, properties: dict[str, Any], error: type[errors.RemoteMessageError], words: str
) -> None:
    """Every way a body can be wrong has its error and its words."""
    codec = make_codec(required=False)
    base = Properties("application/x-msgpack", "binary", {"task": "t", "id": "1"})
    headers = {**base.headers, **properties.pop("headers", {})}
    with pytest.raises(error, match=words):
        codec.decode_task(body, base._replace(headers=headers, **properties))


@pytest.mark.parametrize(
    "headers,words",
    [
        ({"task": None}, "header task"),
        ({"task": ""}, "header task"),
        ({"task": 5}, "header task"),
        ({"id": None}, "header id"),
        ({"id": b"x"}, "header id"),
        ({"retries": "2"}, "header retries"),
        ({"retries": -1}, "header retries"),
        ({"retries": True}, "header retries"),
        ({"eta": "tomorrow"}, "header eta is not an ISO 8601 moment"),
        ({"expires": 17}, "header expires"),
        ({"timelimit": 5}, "header timelimit"),
        ({"timelimit": [1, 2, 3]}, "header timelimit"),
        ({"timelimit": ["1", None]}, "header timelimit"),
        ({"root_id": 5}, "header root_id"),
        ({"group": []}, "header group"),
        ({"shadow": {}}, "header shadow"),
    ],
)
def test_a_header_of_the_wrong_shape_is_named(make_codec: Any, headers: dict[str, Any], words: str) -> None:
    """What steers execution is checked before anything acts on it."""
    codec = make_codec(required=False)
    properties = Properties("application/x-msgpack", "binary", {"task": "t", "id": "1", **headers})
    with pytest.raises(errors.Undecodable, match=words):
        codec.decode_task(b"\x93\x90\x80\x80", properties)


@pytest.mark.parametrize(
    "body,words",
    [
        (b"\x90", "not a result but list"),
        (b"\x80", "task_id"),
        (b"\x81\xa7task_id\xa11", "status"),
        (b"\x83\xa7task_id\xa11\xa6status\xa1S\xa9traceback\x01", "traceback"),
        (b"\x83\xa7task_id\xa11\xa6status\xa1S\xa8children\x01", "children"),
    ],
)
def test_a_body_that_is_no_result_is_refused_with_the_reason(make_codec: Any, body: bytes, words: str) -> None:
    """Results are checked for their shape too."""
    with pytest.raises(errors.Undecodable, match=words):
        make_codec(required=False).decode_result(body, Properties("application/x-msgpack"))


def test_a_body_over_the_limit_is_refused_on_receipt(make_codec: Any) -> None:
    """The ceiling holds for what arrives as it is, before anything is computed over it."""
    with pytest.raises(errors.OversizeMessage, match="1001 bytes.*1000") as caught:
        make_codec(Rules(max_size=1000)).decode_task(b"x" * 1001, Properties())
    assert caught.value.cause == "oversize"


def test_the_words_of_a_decoder_are_bounded(make_codec: Any) -> None:
    """A decoder that quotes the body must not fill the dead letter's headers with it."""
    with pytest.raises(errors.Undecodable) as caught:
        make_codec(Rules(accept=("yaml",)), required=False).decode_task(
            b"!!" + b"x" * 10_000 + b" 1", Properties("application/x-yaml", headers={"task": "t", "id": "1"})
        )
    assert len(str(caught.value)) < 500


# --------------------------------------------------------------------------------------------------------------- facts


def test_facts_say_what_a_message_claims(codec: Codec) -> None:
    """Logs and dead letters can speak of a message that cannot be believed."""
    _, properties = encode(codec, FULL)
    facts = codec.task_facts(properties)
    assert (facts.id, facts.task, facts.retries, facts.reply_to) == ("5a1e", "web.resize", 2, "amqpq.reply.5a1e")
    assert (facts.serializer, facts.key_id, facts.route) == ("msgpack", "producer-a", "web/web.resize")


def test_facts_of_nonsense_are_empty(codec: Codec) -> None:
    """Nothing in a message can make them raise."""
    facts = codec.task_facts(Properties(headers={"task": 5, "id": [], "retries": "x", "expires": {}, "amqpq-ts": True}))
    assert (facts.id, facts.task, facts.retries, facts.expires, facts.signed_at_ms) == ("", "", 0, None, None)


def test_an_envelope_travels_between_processes(codec: Codec) -> None:
    """Envelopes are handed to child processes."""
    assert pickle.loads(pickle.dumps(FULL)) == FULL
    assert (
        repr(codec) == "Codec(msgpack, signer=HmacKey('producer-a'), verifier=Verifier(['producer-a'], required=True))"
    )
