"""Values of the topology file, written so that reading them gives exactly what was meant."""

from __future__ import annotations

from typing import Any, Final

_UNITS_MS: Final = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}


def duration(milliseconds: int) -> str:
    """Write milliseconds in the largest unit that fits evenly: `90s`, `1500ms`."""
    if milliseconds:
        for unit, size in _UNITS_MS.items():
            if milliseconds % size == 0:
                return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def escaped(value: Any) -> Any:
    """Write the text in a file's values so that no variable is read in it; names stay as they are."""
    if isinstance(value, dict):
        return {name: escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return value.replace("${", "$${") if isinstance(value, str) else value
