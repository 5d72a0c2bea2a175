"""YAML for people: every value knows its line and column, and what YAML silently turns into something else is an error.

The theory. YAML has four traps that a topology falls into, because routing keys are made of its special characters:

* `key: #` is empty, the rest is a comment. `key: *.created` is an alias, `&x` an anchor, `!x` a tag.
* YAML 1.1 (which PyYAML speaks) reads `on`, `no` and `yes` as booleans; `0123` is octal, `1_000` a thousand, `1:30` ninety;
  YAML 1.2 and people disagree. Booleans are kept with their text, so that whoever needs text can say "quote it"; numbers
  that the two versions read differently are errors at once.
* A key written twice: the last one wins, silently.
* Keys that are not text.

So the text is composed into `Node`s here, with the scalars resolved by rules of our own. No tag of the document ever makes
an object. Anchors, aliases and `<<` work as YAML says, within a ceiling on the number of nodes.

This is the only module that imports `yaml` for files. It imports nothing of ours.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeAlias, cast

import yaml
from yaml.composer import Composer

Scalar: TypeAlias = "None | bool | int | float | str"

NODE_LIMIT: Final = 200_000
"""Nodes in one document, aliases counted as often as they are used: a ceiling against the "billion laughs"."""

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN: Final = {
    text: value
    for words, value in (("true yes on", True), ("false no off", False))
    for word in words.split()
    for text in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+([eE][-+]?[0-9]+)?")
# What YAML 1.1 or 1.2 reads as a number and a person may not: octal, hexadecimal, binary, underscores, base 60, exponents
# without a point, bare points, infinities.
_ODD_NUMBER = re.compile(
    r"""[-+]?( 0[0-7_]+ | 0o[0-7_]+ | 0x[0-9a-fA-F_]+ | 0b[01_]+ | 0[0-9]+
             | [0-9][0-9_]*_[0-9_]* (\.[0-9_]*)? | [0-9][0-9_]* (:[0-5]?[0-9])+ (\.[0-9_]*)?
             | [0-9]+ [eE][-+]?[0-9]+ | [0-9]+\. ([eE][-+]?[0-9]+)? | \.[0-9][0-9_]* ([eE][-+]?[0-9]+)?
             | \.(inf|Inf|INF) ) | \.(nan|NaN|NAN)""",
    re.VERBOSE,
)
_NUMBERS_BEGIN: Final = frozenset("+-.0123456789")
_STANDARD: Final = "tag:yaml.org,2002:"
_TEXT: Final = f"{_STANDARD}str"
_SCALARS: Final = frozenset(
    _STANDARD + tag for tag in ("str", "null", "bool", "int", "float", "timestamp", "merge", "value")
)
_MERGE_KEY: Final = "<<"
_PARSERS_DIFFER: Final = re.compile(r"[\t!?\x85\u2028\u2029\ufeff]|[|>]#|\r(?!\n)")
"""What PyYAML's two parsers do not agree about in some place or other; the one in C does not get to see it."""
_STAND_INS: Final = {"*": "\ue000", "#": "\ue001"}  # of the private use area: no text of a person's has them
_MEANT: Final = {ord(letter): character for character, letter in _STAND_INS.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands. Line and column count from 1; both are 0 for a value that came from no file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Write `file:line:column`, as editors and compilers do."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(slots=True)
class Node:
    """A value with its place. `value` is a scalar, a dict of `Entry` or a list of `Node`.

    `plain` is the text of an unquoted scalar as it stands in the file, None for every other value. `swallowed` is the
    special character that took the value's place away, where one did.
    """

    value: Scalar | dict[str, Entry] | list[Node]
    place: Place
    plain: str | None = None
    swallowed: str = ""

    def data(self) -> Any:
        """Return the plain Python value."""
        if isinstance(self.value, dict):
            return {name: entry.node.data() for name, entry in self.value.items()}
        if isinstance(self.value, list):
            return [node.data() for node in self.value]
        return self.value

    def at(self, path: tuple[str | int, ...]) -> Node | None:
        """Return the node under `path`, or None."""
        node = self
        for step in path:
            if isinstance(node.value, dict) and isinstance(step, str) and step in node.value:
                node = node.value[step].node
            elif isinstance(node.value, list) and isinstance(step, int) and 0 <= step < len(node.value):
                node = node.value[step]
            else:
                return None
        return node

    def places(self) -> set[Place]:
        """Return the places of this value, and of every key and value below."""
        found = {self.place}
        if isinstance(self.value, dict):
            for entry in self.value.values():
                found |= {entry.place} | entry.node.places()
        elif isinstance(self.value, list):
            for node in self.value:
                found |= node.places()
        return found

    def scalars(self, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Node]]:
        """Walk every scalar below, with its path."""
        if isinstance(self.value, dict):
            for name, entry in self.value.items():
                yield from entry.node.scalars((*path, name))
        elif isinstance(self.value, list):
            for index, node in enumerate(self.value):
                yield from node.scalars((*path, index))
        else:
            yield path, self


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a mapping: the place of its key, and its value."""

    place: Place
    node: Node


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in the text. `kind` is syntax, duplicate, swallowed or ambiguous."""

    place: Place
    kind: str
    message: str
    remedy: str = ""


@dataclass(slots=True)
class Document:
    """What was read: the root (an empty mapping where nothing could be read) and everything wrong with the text."""

    root: Node
    faults: list[Fault] = field(default_factory=list)


def read(text: str, file: str) -> Document:
    """Read one YAML document.

    Args:
        text: The document.
        file: The name that places show.

    Returns:
        The nodes with their places, and the faults; never raises for what the text holds.
    """
    start = Place(file, 1, 1)
    faults: list[Fault] = []
    composed: yaml.Node | None = None
    unread: str | None = text
    while unread is not None:
        text, unread = unread, None
        try:
            composed = _composed(text)
        except yaml.YAMLError as error:
            fault = _syntax_fault(error, text, file)
            faults.append(fault)
            # Where the character can be mended, go on: all faults are reported at once.
            unread = _mended(text, fault.place) if fault.kind == "swallowed" else None
            if unread is None:
                return Document(Node({}, start), faults)
        except RecursionError:
            return Document(Node({}, start), [Fault(start, "syntax", "the document is nested too deep")])
    if composed is None:
        return Document(Node({}, start), faults)
    reader = _Reader(file, text.splitlines(), faults)
    try:
        root = reader.node(composed)
    except RecursionError:
        message = "the document is nested too deep, or contains itself"
        return Document(Node({}, start), [*reader.faults, Fault(start, "syntax", message)])
    except _TooManyNodes:
        message = f"the document unfolds to more than {NODE_LIMIT} values"
        return Document(Node({}, start), [*reader.faults, Fault(start, "syntax", message, "use fewer aliases")])
    return Document(root, reader.faults)


def _composed(text: str) -> yaml.Node | None:
    """Parse in C where PyYAML comes with that: several times as fast, and the same nodes.

    What the parser in C stumbles over is read again by the one in Python, whose words and places the faults are made of.

    Raises:
        yaml.YAMLError: It is not YAML.
        RecursionError: It is nested too deep.
    """
    if yaml.__with_libyaml__ and not _PARSERS_DIFFER.search(text):
        with suppress(yaml.YAMLError, UnicodeError):
            return yaml.compose(text, Loader=_fast_loader())
    return yaml.compose(text, Loader=yaml.SafeLoader)


@cache
def _fast_loader() -> Any:
    """Return a loader that parses in C and composes in Python: the composer in C ends the process where nesting is deep."""

    class Loader(Composer, yaml.CSafeLoader):
        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)
            # A text that gets here has no tags, and what a scalar without one is, the reader below decides.
            self.yaml_implicit_resolvers = {}

    return Loader


def wrap(value: object, file: str) -> Node:
    """Give a value that came from Python the shape of one that was read.

    Raises:
        TypeError: It holds something a YAML file could not.
    """
    return _wrap(value, file, "")


def _wrap(value: object, file: str, path: str) -> Node:
    place = Place(f"{file}{path and ':' + path}")
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value, place)
    if isinstance(value, Mapping):
        entries: dict[str, Entry] = {}
        for name, item in value.items():
            if not isinstance(name, str):
                msg = f"{place}: the key {name!r} is not text"
                raise TypeError(msg)
            node = _wrap(item, file, f"{path}.{name}" if path else name)
            entries[name] = Entry(node.place, node)
        return Node(entries, place)
    if isinstance(value, list | tuple):
        return Node([_wrap(item, file, f"{path}[{index}]") for index, item in enumerate(value)], place)
    msg = f"{place}: {type(value).__name__} is not something a topology file can hold"
    raise TypeError(msg)


class _TooManyNodes(Exception):
    pass


class _Reader:
    """Turns PyYAML's nodes into ours and collects what is wrong on the way."""

    def __init__(self, file: str, lines: list[str], faults: list[Fault]) -> None:
        self._file = file
        self._lines = lines
        self._count = 0
        self._mended = bool(faults)
        self.faults = faults

    def node(self, node: yaml.Node) -> Node:
        self._count += 1
        if self._count > NODE_LIMIT:
            raise _TooManyNodes
        place = self._place(node)
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, place, "map")
            return Node(self._mapping(node), place)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, place, "seq")
            return Node([self.node(item) for item in node.value], place)
        return self._scalar(cast("yaml.ScalarNode", node), place)

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _check_tag(self, node: yaml.Node, place: Place, expected: str) -> None:
        if node.tag != _STANDARD + expected:
            self._swallowed(place, "!", f"the tag {node.tag.removeprefix(_STANDARD)!r} has no meaning here")

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            value = self.node(value_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(Fault(place, "syntax", "a key must be text"))
                continue
            if not key_node.style and key_node.value == _MERGE_KEY:
                merged.update(self._merge(value))
                continue
            name = self._key(key_node, place)
            if name in entries:
                first = entries[name].place
                message = f"the key '{name}' is written twice; the first is at line {first.line}"
                self.faults.append(Fault(place, "duplicate", message, "remove one of them"))
                continue
            entries[name] = Entry(place, value)
        return {**{name: entry for name, entry in merged.items() if name not in entries}, **entries}

    def _key(self, node: yaml.ScalarNode, place: Place) -> str:
        text = self._text(node)
        key = self._scalar(node, place)
        if not isinstance(key.value, str) and not key.swallowed:
            shown = "empty" if key.value is None else _reading(key.value)
            self.faults.append(
                Fault(place, "ambiguous", f"YAML reads the key {text or 'here'} as {shown}", f'quote it: "{text}"')
            )
        return text

    def _merge(self, value: Node) -> dict[str, Entry]:
        if isinstance(value.value, dict):
            return copy.deepcopy(value.value)  # the places of use are changed separately later
        if isinstance(value.value, list):
            merged: dict[str, Entry] = {}
            for item in reversed(value.value):
                merged.update(self._merge(item))
            return merged
        self.faults.append(Fault(value.place, "syntax", "'<<' takes a mapping or a list of mappings"))
        return {}

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Node:
        text = self._text(node)
        if node.tag not in _SCALARS:
            word = _word(self._source(node))[:40]
            return self._swallowed(place, "!", f"'{word}' begins with '!', which YAML takes as a tag")
        if node.style or (node.tag == _TEXT and self._source(node).startswith("!!str")):
            return Node(text, place)
        if text == "":
            return self._empty(node, place)
        if text in _NULL:
            return Node(None, place, text)
        if text in _BOOLEAN:
            return Node(_BOOLEAN[text], place, text)
        return self._number(text, place) or Node(text, place, text, "#" if self._comment_follows(node) else "")

    def _empty(self, node: yaml.ScalarNode, place: Place) -> Node:
        source = self._source(node)
        if source.startswith("&"):
            return self._swallowed(place, "&", f"'{_word(source)[:40]}' begins with '&', which YAML takes as an anchor")
        # `key: # text` is how a comment is written, too; so only who needs a value there calls it an error.
        return Node(None, place, "", "#" if "#" in source else "")

    def _number(self, text: str, place: Place) -> Node | None:
        if text[0] not in _NUMBERS_BEGIN:
            return None
        if _INTEGER.fullmatch(text):
            return Node(int(text), place, text)
        if _FLOAT.fullmatch(text):
            return Node(float(text), place, text)
        if _ODD_NUMBER.fullmatch(text):
            message = f"{text} is a number to some readers of YAML and text to others"
            self.faults.append(
                Fault(place, "ambiguous", message, f'quote it if it is text: "{text}"; else write plain digits')
            )
        return None

    def _text(self, node: yaml.ScalarNode) -> str:
        return str(node.value).translate(_MEANT) if self._mended else str(node.value)

    def _swallowed(self, place: Place, character: str, message: str) -> Node:
        rest = _word(self._lines[place.line - 1][place.column - 1 :]) if place.line <= len(self._lines) else ""
        self.faults.append(Fault(place, "swallowed", message, f'quote it: "{rest}"'))
        return Node(None, place, "", character)

    def _source(self, node: yaml.Node) -> str:
        """Return the rest of the line the node begins on, as it stands in the file."""
        mark = node.start_mark
        return self._lines[mark.line][mark.column :].strip() if mark.line < len(self._lines) else ""

    def _comment_follows(self, node: yaml.Node) -> bool:
        mark = node.end_mark
        rest = self._lines[mark.line][mark.column :] if mark.line < len(self._lines) else ""
        return rest.lstrip().startswith("#")


def _reading(value: object) -> str:
    return f"the boolean {str(value).lower()}" if isinstance(value, bool) else f"the number {value}"


def _syntax_fault(error: yaml.YAMLError, text: str, file: str) -> Fault:
    """Say what the parser stumbled over, and name the special character where it was one."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return Fault(Place(file, 1, 1), "syntax", " ".join(str(error).split()), "save the file as UTF-8 text")
    mark = error.problem_mark or error.context_mark
    place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
    about = " ".join(part for part in (error.context, error.problem) if part)
    lines = text.splitlines()
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "alias" in about:
        start = max(line.rfind("*", 0, place.column), 0)
        word = _word(line[start:])
        place = Place(file, place.line, start + 1)
        message = f"'{word[:40]}' begins with '*', which YAML takes as an alias"
        return Fault(place, "swallowed", message, f'quote it: "{word}"')
    if "anchor" in about or "tag" in about:
        message = f"{line[place.column - 1 :].strip()[:40]!r}: '&' and '!' have a meaning of their own in YAML"
        return Fault(place, "swallowed", message, "quote the value")
    if "\t" in about or "'\\t'" in about:
        return Fault(place, "syntax", "a tab cannot indent YAML", "use spaces")
    if "flow mapping" in about and "${" in line[: place.column + 1]:
        start = line.rfind("${", 0, place.column + 1)
        variable = line[start : line.find("}", start) + 1]
        message = f"inside {{...}} YAML takes the braces of {variable} for a mapping"
        return Fault(Place(file, place.line, start + 1), "syntax", message, f'quote it: "{variable}"')
    comment = _comment_in_flow(lines, place.line) if "flow" in about else None
    if comment is not None:
        message = "a '#' after a space begins a comment, and swallowed the end of the list or mapping"
        return Fault(Place(file, *comment), "swallowed", message, 'quote it: "#"')
    return Fault(place, "syntax", about or "this is not YAML")


def _word(text: str) -> str:
    """Return the scalar at the beginning of `text`, up to what ends one in YAML."""
    return re.split(r"[,\]}]|:(?=\s|$)|\s#", text, maxsplit=1)[0].strip()


def _mended(text: str, place: Place) -> str | None:
    """Put a letter in the place of the character that stopped the parser, so that what stands behind it is looked at, too.

    A `#` is mended where it swallowed a closing bracket; elsewhere it may well begin a comment, and something else is wrong.
    """
    lines = text.splitlines(keepends=True)
    line, column = (lines[place.line - 1] if place.line <= len(lines) else ""), place.column - 1
    character, rest = line[column : column + 1], line[column + 1 :]
    if character == "*" or (character == "#" and re.search(r"[\]}]", rest)):
        lines[place.line - 1] = f"{line[:column]}{_STAND_INS[character]}{rest}"
        return "".join(lines)
    return None


def _comment_in_flow(lines: list[str], last: int) -> tuple[int, int] | None:
    """Find the comment that cut off a `[` or `{` which the parser saw no end of, as line and column."""
    for number in range(min(last, len(lines)), 0, -1):
        line, at = lines[number - 1], lines[number - 1].find(" #")
        before = line[:at] if at >= 0 else ""
        if before.count("[") > before.count("]") or before.count("{") > before.count("}"):
            return number, at + 2
    return None
