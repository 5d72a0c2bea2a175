"""Values to bytes and back, under Celery's content types.

| name | content type | encoding | dates, times, Decimal, UUID | bytes |
|---|---|---|---|---|
| msgpack | application/x-msgpack | binary | MessagePack extension types 1 to 5 | yes |
| json | application/json | utf-8 | kombu's `{"__type__": ..., "__value__": ...}` | the same |
| yaml | application/x-yaml | utf-8 | dates and date-times, as YAML has them | yes |
| pickle | application/x-python-serialize | binary | yes | yes |

JSON is what Celery 5 reads and writes, both ways. Celery reads our MessagePack too, but knows no extension types:
towards a Celery worker send dates as JSON. Tuples become lists everywhere but in pickle.

YAML is loaded with the safe loader only, and its aliases are counted before anything is built: a few hundred bytes of
nested aliases stand for billions of values. Pickle runs code while it loads, so the codec allows it for signed messages
only.

Decoding is bounded by the size of the body. The worst case is 72 bytes of Python objects per byte (a MessagePack list
of empty lists).
"""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgpack

from amqpq.errors import ConfigurationError
from amqpq.message.packing import reusing

PICKLE_TYPE: Final = "application/x-python-serialize"

YAML_MAX_NODES: Final = 1_000_000
"""Values a YAML document may stand for once its aliases are counted out."""

_YAML_MAX_DEPTH: Final = 100

_YAML_MAX_NUMBER: Final = 4300
"""Characters of a number, Python's own limit for int(): YAML's base-60 numbers take quadratic time to read."""


@dataclass(frozen=True, slots=True)
class Serializer:
    """One way to write values. `loads` may raise anything but BaseException; the codec names the place."""

    name: str
    content_type: str
    content_encoding: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


# ------------------------------------------------------------------------------------------------------------- msgpack

_EXT_DATETIME, _EXT_DATE, _EXT_TIME, _EXT_DECIMAL, _EXT_UUID = range(1, 6)


def _to_ext(value: object) -> msgpack.ExtType:
    """Write what MessagePack has no type for. A datetime is a date, so it comes first."""
    if isinstance(value, datetime):
        return msgpack.ExtType(_EXT_DATETIME, value.isoformat().encode())
    if isinstance(value, date):
        return msgpack.ExtType(_EXT_DATE, value.isoformat().encode())
    if isinstance(value, time):
        return msgpack.ExtType(_EXT_TIME, value.isoformat().encode())
    if isinstance(value, Decimal):
        return msgpack.ExtType(_EXT_DECIMAL, str(value).encode())
    if isinstance(value, UUID):
        return msgpack.ExtType(_EXT_UUID, value.bytes)
    if isinstance(value, int):
        raise OverflowError("a whole number of more than 64 bits")
    raise TypeError(f"an object of type {type(value).__name__!r}")


_FROM_EXT: Final[Mapping[int, Callable[[bytes], object]]] = {
    _EXT_DATETIME: lambda data: datetime.fromisoformat(data.decode()),
    _EXT_DATE: lambda data: date.fromisoformat(data.decode()),
    _EXT_TIME: lambda data: time.fromisoformat(data.decode()),
    _EXT_DECIMAL: lambda data: Decimal(data.decode()),
    _EXT_UUID: lambda data: UUID(bytes=data),
}


def _from_ext(code: int, data: bytes) -> object:
    build = _FROM_EXT.get(code)
    if build is None:
        raise ValueError(f"MessagePack extension type {code} is not known")
    return build(data)


_dump_msgpack = reusing(_to_ext)


def _load_msgpack(body: bytes) -> object:
    # timestamp=3: MessagePack's own timestamps (other languages write them) become aware datetimes.
    return msgpack.unpackb(body, raw=False, strict_map_key=False, ext_hook=_from_ext, timestamp=3)


# ---------------------------------------------------------------------------------------------------------------- json


def _to_marked(value: object) -> dict[str, object]:
    """Write what JSON has no type for as kombu does, so that Celery reads it."""
    if isinstance(value, datetime):
        return {"__type__": "datetime", "__value__": value.isoformat()}
    if isinstance(value, date):
        return {"__type__": "date", "__value__": value.isoformat()}
    if isinstance(value, time):
        return {"__type__": "time", "__value__": value.isoformat()}
    if isinstance(value, Decimal):
        return {"__type__": "decimal", "__value__": str(value)}
    if isinstance(value, UUID):
        return {"__type__": "uuid", "__value__": {"hex": value.hex}}
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode()}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"an object of type {type(value).__name__!r}")


_FROM_MARK: Final[Mapping[object, Callable[[Any], object]]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda parts: UUID(hex=parts["hex"]),
    "bytes": str.encode,
    "base64": lambda text: base64.b64decode(text, validate=True),
}


def _from_marked(value: dict[str, Any]) -> object:
    if len(value) != 2 or "__type__" not in value or "__value__" not in value:  # noqa: PLR2004 - the two keys tested for
        return value
    mark = value["__type__"]
    if not isinstance(mark, str) or mark not in _FROM_MARK:
        raise ValueError(f"JSON type mark {mark!r} is not known")
    return _FROM_MARK[mark](value["__value__"])


_encode_json = json.JSONEncoder(separators=(",", ":"), default=_to_marked).encode
_decode_plain_json = json.JSONDecoder().decode
_decode_marked_json = json.JSONDecoder(object_hook=_from_marked).decode


def _dump_json(value: object) -> bytes:
    return _encode_json(value).encode()


def _load_json(body: bytes) -> object:
    text = body.decode()
    # A hook costs a call per object, and most bodies have no mark. One spelled with an escape (`"__type\\u005f_"`) is
    # kept as data.
    return _decode_marked_json(text) if '"__type__"' in text else _decode_plain_json(text)


# ---------------------------------------------------------------------------------------------------------------- yaml


def _dump_yaml(value: object) -> bytes:
    import yaml  # noqa: PLC0415 - `import amqpq` must stay light; few projects send YAML

    class Dumper(yaml.SafeDumper):
        """Writes tuples as lists, and no aliases."""

        def ignore_aliases(self, _data: object) -> bool:
            return True

    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return text.encode()


def _load_yaml(body: bytes) -> object:
    import yaml  # noqa: PLC0415 - as above

    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = body.decode()
    # libyaml's composer recurses in C without a limit: fifty thousand brackets end the process. Its parser does not.
    depth = 0
    for event in yaml.parse(text, Loader=kind):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _YAML_MAX_DEPTH:
                raise ValueError(f"the YAML document is nested more than {_YAML_MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    loader = kind(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_yaml(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_yaml(root: Any) -> None:
    """Refuse a document that stands for more than `YAML_MAX_NODES` values, or contains itself."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        key = id(node)
        if key in sizes:
            return sizes[key]
        if key in open_nodes:
            raise ValueError("the YAML document contains itself")
        open_nodes.add(key)
        total = 1
        if isinstance(node.value, str):
            if len(node.value) > _YAML_MAX_NUMBER and node.tag.endswith((":int", ":float")):
                raise ValueError("a number in the YAML document is too long")
        else:
            for child in node.value:
                total += sum(map(size, child)) if isinstance(child, tuple) else size(child)
        open_nodes.discard(key)
        if total > YAML_MAX_NODES:
            raise ValueError(f"the YAML document stands for more than {YAML_MAX_NODES} values")
        sizes[key] = total
        return total

    size(root)


# -------------------------------------------------------------------------------------------------------------- pickle


def _dump_pickle(value: object) -> bytes:
    return pickle.dumps(value, protocol=4)


# ---------------------------------------------------------------------------------------------------------- all of them

SERIALIZERS: Final[Mapping[str, Serializer]] = {
    serializer.name: serializer
    for serializer in (
        Serializer("msgpack", "application/x-msgpack", "binary", _dump_msgpack, _load_msgpack),
        Serializer("json", "application/json", "utf-8", _dump_json, _load_json),
        Serializer("yaml", "application/x-yaml", "utf-8", _dump_yaml, _load_yaml),
        # The codec loads a pickle only from a message whose signature was checked.
        Serializer("pickle", PICKLE_TYPE, "binary", _dump_pickle, pickle.loads),
    )
}
BY_CONTENT_TYPE: Final[Mapping[str, Serializer]] = {each.content_type: each for each in SERIALIZERS.values()}

CONTENT_ENCODINGS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "binary", "ascii-8bit"})
"""What `content_encoding` may say, in lower case: none of them changes how the formats above are read."""


def serializer_named(name: str) -> Serializer:
    """Return the serializer.

    Raises:
        ConfigurationError: There is none of that name.
    """
    found = SERIALIZERS.get(name)
    if found is None:
        raise ConfigurationError(f"unknown serializer {name!r}; there are {', '.join(SERIALIZERS)}")
    return found
