"""The shape of the section `lint`: when lint fails, and which of its findings are meant so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from amqpq.topology.document_part import Part
from amqpq.topology.values import Date


class SuppressPart(Part):
    """A finding of lint that is meant so."""

    rule: str = Field(description="The rule, e.g. TOP037.")
    at: str = Field(description="The part of the file it is about, e.g. queues.lost; what is below is in it.")
    reason: str = Field(pattern=r"\S", description="Why this is as it should be.")
    until: Date = Field(description="The last day on which the finding is left out.")


class LintPart(Part):
    """What `amqpq topology lint` makes of its findings."""

    fail_on: Literal["warning", "error"] = Field(
        default="error", description="The least severity that lets `amqpq topology lint` fail."
    )
    suppress: list[SuppressPart] = Field(default_factory=list, description="Warnings that are meant so.")
