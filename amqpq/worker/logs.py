"""Logging of a worker process: one handler on standard error, one line per event. Only the command line asks for it."""

from __future__ import annotations

import logging
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error", "critical")


def configure(level: str) -> None:
    """Send the log of this process to standard error, from `level` on; a program that set up logging keeps its own."""
    logging.basicConfig(level=level.upper(), format="[%(asctime)s %(levelname)s %(process)d] %(name)s: %(message)s")
