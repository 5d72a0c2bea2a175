"""The unit ring takes less than ten seconds, so its properties are tried on few examples; `tests/fuzz` tries many."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", max_examples=25, deadline=None)
settings.load_profile("unit")
