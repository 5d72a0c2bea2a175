"""From a request to an answer: is it for this worker, may its sender ask for that, and what comes out.

Pure but for the surface that it acts on.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any, Final

from amqpq.message.control import Request
from amqpq.worker.control.commands import ALLOWED, Access, find, read_arguments
from amqpq.worker.control.surface import Refused, Surface

PATTERN_CHARACTERS: Final = 255
"""As long as a worker's name can be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to: `refused` is why it was not carried out for want of a signature, `acts`: to be logged."""

    value: Any
    refused: str = ""
    acts: bool = False


def is_for(request: Request, worker: str) -> bool:
    """Say whether a request is meant for this worker.

    Raises:
        Refused: It is meant for those that match a pattern of a kind that is not matched here.
    """
    if request.destination is not None:
        return worker in request.destination
    if not request.pattern or not request.matcher:
        return True
    if request.matcher != "glob":
        # `pcre`: a regular expression from the network can keep this thread busy for ever.
        raise Refused(f"the matcher {request.matcher[:20]!r} is not supported; use 'glob'")
    return len(request.pattern) <= PATTERN_CHARACTERS and fnmatch.fnmatchcase(worker, request.pattern)


def answer(request: Request, surface: Surface, *, signed: bool, rule: str) -> Answer:
    """Carry out a request that is for this worker.

    Args:
        request: It.
        surface: The worker.
        signed: Whether a key that may control signed it.
        rule: `security.control`.
    """
    try:
        command = find(request.method)
    except Refused as why:
        return Answer({"error": str(why)})
    if not signed and command.access > ALLOWED[rule]:
        reason = f"{command.name} must be signed (security.control is {rule!r})"
        return Answer({"error": reason}, refused=reason)
    acts = command.access is Access.ACT and not command.routine
    try:
        return Answer(command.call(surface, read_arguments(command, request.arguments)), acts=acts)
    except Refused as why:
        return Answer({"error": str(why)}, acts=acts)
