"""The signals of publishing, for both worlds: before a call is planned, and when the broker has confirmed it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from uuid import uuid4

from amqpq import signals
from amqpq.producer.options import check_headers
from amqpq.producer.planning import Call
from amqpq.producer.publishing import Sending


def announced(call: Call) -> Call:
    """Tell the receivers of `before_task_publish`; return the call with the headers as they left them.

    Raises:
        LocalError: A receiver has made something of the headers that is no header.
    """
    options = call.options
    task_id = options.task_id or str(uuid4())
    headers = dict(options.headers)
    signals.before_task_publish.send(
        call.task,
        body=(call.args, call.kwargs),
        headers=headers,
        task_id=task_id,
        exchange=options.exchange,
        routing_key=options.routing_key,
    )
    check_headers(headers)
    return call._replace(options=replace(options, headers=headers, task_id=task_id))


def published(sendings: Iterable[Sending]) -> None:
    """Tell the receivers of `after_task_publish` of those that the broker has confirmed."""
    if not signals.after_task_publish.receivers:
        return
    for sending in sendings:
        if sending.done:
            plan, publication = sending.plan, sending.plan.publication
            signals.after_task_publish.send(
                plan.task,
                body=publication.body,
                headers=dict(publication.properties.headers),
                task_id=plan.task_id,
                exchange=publication.exchange,
                routing_key=publication.routing_key,
            )
