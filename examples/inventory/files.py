"""Which files the inventory is about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LARGEST_BYTES = 2 * 1024 * 1024
"""Larger files are left out; `messages.max_size` in the topology is well above it."""

SKIPPED = frozenset({"__pycache__", "site-packages", "node_modules", ".git"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file: where it is, and the type that its message is routed by."""

    path: Path
    kind: str


def choose(folder: Path, limit: int) -> list[SourceFile]:
    """Return at most `limit` files of `folder`, spread evenly over all of it so that every type has its share."""
    found = sorted(_walk(folder), key=lambda file: file.path)
    if len(found) <= limit:
        return found
    return [found[index * len(found) // limit] for index in range(limit)]


def _walk(folder: Path) -> Iterator[SourceFile]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST_BYTES:
                yield SourceFile(path, kind_of(path))


def kind_of(path: Path) -> str:
    """Return the suffix as a word that can stand in a routing key; `none` where there is no usable one."""
    suffix = path.suffix[1:].lower()
    return suffix if suffix.isalnum() else "none"
