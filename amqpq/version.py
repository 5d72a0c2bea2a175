"""The version of amqpq that is installed, without what it takes to read any package's metadata.

`importlib.metadata` loads the email and zip modules: 15 ms and 2.5 MB, for the three words that the broker is told.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

PACKAGE: Final = "amqpq"
_SUFFIX: Final = ".dist-info"
NOT_INSTALLED: Final = "(run from its source, not installed)"


@cache
def installed() -> str | None:
    """Return the version; None where amqpq is not installed, but run from its source."""
    for folder in sys.path:
        for found in Path(folder).glob(f"{PACKAGE}-*{_SUFFIX}"):
            return found.name.removeprefix(f"{PACKAGE}-").removesuffix(_SUFFIX)
    metadata: Any = importlib.import_module("importlib.metadata")  # installed in a way of its own: an egg, a zip file
    try:
        version: str = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    return version
