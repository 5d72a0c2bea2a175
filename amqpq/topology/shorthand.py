"""The short form of a binding: `source[key, key] -> target`."""

from __future__ import annotations

import re
from typing import Any

_SHORT = re.compile(r"(?P<source>[^\[\]]+?)\s*(?:\[(?P<keys>[^\[\]]*)\])?\s*->\s*(?P<target>[^\[\]]+)")


def parse(text: str) -> dict[str, Any]:
    """Read the short form into the long one.

    Raises:
        ValueError: It is not one; the text is `what; remedy`.
    """
    compact = text.strip()
    match = _SHORT.fullmatch(compact)
    if match is None or "->" in match["target"] or "->" in match["source"]:
        raise ValueError(_explain(compact))
    long: dict[str, Any] = {"from": match["source"].strip(), "to": match["target"].strip()}
    if match["keys"] is not None:
        keys = [key.strip() for key in match["keys"].split(",")]
        if "" in keys:
            what = "has an empty key" if match["keys"].strip() else "has brackets with no key in them"
            msg = f"the binding '{compact}' {what}; leave the brackets out where there is no key"
            raise ValueError(msg)
        long["keys"] = keys
    return long


def _explain(text: str) -> str:
    form = "write `source[key, key] -> target`"
    if "->" not in text and "[" in text and "]" not in text:
        return (
            f"the binding '{text}' ends inside its keys: a '#' after a space begins a comment in YAML; quote all of it"
        )
    if text.count("->") != 1:
        return f"the binding '{text}' has {'no' if '->' not in text else 'more than one'} '->'; {form}"
    if text.endswith("->"):
        return f"the binding '{text}' has no target; {form}"
    if text.startswith(("->", "[")):
        return f"the binding '{text}' has no source; {form}, or publish straight into a queue with `queue:` in a route"
    return f"'{text}' is not a binding; {form}"
