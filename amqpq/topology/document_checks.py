"""The shape of the section `checks`: unit tests of the wiring."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, JsonValue, WithJsonSchema

from amqpq.topology import values
from amqpq.topology.document_part import Part
from amqpq.topology.values import Duration, Scalar


class PublishPart(Part):
    """A message of a check: a task, or an exchange with key and headers."""

    task: str | None = Field(default=None, description="Publish as this task's route says.")
    with_: dict[str, JsonValue] = Field(default_factory=dict, alias="with", description="The call's keyword arguments.")
    exchange: str | None = Field(
        default=None, description="Publish to this exchange; empty text is the default exchange."
    )
    key: str = Field(default="", description="Routing key.")
    headers: dict[str, Scalar] = Field(default_factory=dict, description="Headers.")


Listed: TypeAlias = Annotated[
    list[str],
    BeforeValidator(values.listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class FailPart(Part):
    """A message that fails: of a task, or in a queue."""

    task: str | None = Field(default=None, description="A task, published as its route says.")
    with_: dict[str, JsonValue] = Field(default_factory=dict, alias="with", description="The call's keyword arguments.")
    queue: str | None = Field(default=None, description="The queue it fails in; with a task only that copy.")
    times: int | None = Field(default=None, ge=1, le=1000, description="How often it fails; without: for ever.")
    how: Literal["raise", "reject", "crash", "limit"] = Field(
        default="raise",
        description="raise: the function; reject: a consumer; crash: its process dies; limit: it comes back unacknowledged.",
    )


class ExpirePart(Part):
    """A message that nobody takes: of a task, or in a queue."""

    task: str | None = Field(default=None, description="A task, published as its route says.")
    with_: dict[str, JsonValue] = Field(default_factory=dict, alias="with", description="The call's keyword arguments.")
    queue: str | None = Field(default=None, description="The queue it waits in; with a task only that copy.")
    after: Duration = Field(description="How much time passes.")


class PermissionCheckPart(Part):
    """What a user of the broker may do."""

    user: str = Field(description="A name under `security.permissions`.")
    may: Annotated[
        list[Literal["publish", "consume", "configure"]],
        BeforeValidator(values.listed),
    ] = Field(description="publish, consume, configure; an empty list: nothing.")
    object: str = Field(description="The exchange or queue; empty text is the default exchange.")


class CheckPart(Part):
    """A unit test of the wiring: one of publish, fail, expire and permission, and what is expected of it."""

    publish: PublishPart | None = Field(default=None, description="A message.")
    reaches: list[str] | None = Field(
        default=None, description="With publish: queues it must reach; an empty list: none at all."
    )
    exactly: bool = Field(
        default=False, description="Whether it must reach no other queue; with permission: may do nothing else."
    )
    fail: FailPart | None = Field(default=None, description="A message that fails.")
    expire: ExpirePart | None = Field(default=None, description="A message that nobody takes.")
    ends_in: Listed | None = Field(
        default=None, description="With fail and expire: the queue it ends in, or a list; nowhere, done."
    )
    within: Duration | None = Field(default=None, ge=0, description="With fail: how long that may take at most.")
    permission: PermissionCheckPart | None = Field(default=None, description="What a user of the broker may do.")
