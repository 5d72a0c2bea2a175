"""Exports for other tools: valid in their own eyes, complete, and honest about what they leave out."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import hcl2
import jsonschema
import pytest
import yaml

from amqpq.convert import asyncapi, definitions, kubernetes, terraform
from amqpq.topology import Topology, library, load

SCHEMA = Path(__file__).resolve().parents[2] / "data" / "asyncapi-3.0.0.schema.json.gz"

ALL: dict[str, Any] = {
    "amqpq": 1,
    "project": "shop",
    "broker": {"url": ["amqp://guest:guest@localhost/shop", "amqp://guest:guest@127.0.0.1:5673/shop"]},
    "exchanges": {
        "web": {"type": "topic", "unrouted": "Web Lost"},
        "Web Lost": {"type": "fanout", "internal": True},
        "kinds": {"type": "headers", "extra_arguments": {"x-own": 5}},
    },
    "queues": {
        "default": {"max_priority": 5},
        'odd "${name}" %{x}\\': {"type": "quorum", "ttl": "1m"},
        "1e3": {},
        "gone": {"manage": "external", "dead_letter": "none"},
    },
    "bindings": [
        "web[web.#] -> default",
        {"from": "kinds", "to": "1e3", "headers": {"number": "1e3", "yes": None, "n": 5, "real": 1.5}, "match": "any"},
        {"from": "Web Lost", "to": 'odd "$${name}" %{x}\\'},
    ],
    "routes": {
        "web.*": {"exchange": "web", "key": "web.{task}", "priority": 3, "expires": "10m", "serializer": "json"},
        "shop.*": {"exchange": "web", "key": "web.{task}.{country}"},
        "*": {"queue": "default"},
    },
    "limits": {"web.*": {"concurrency": 2}},
}
TOPOLOGIES: dict[str, Any] = {"all": ALL, **{name: library.find(name) for name in library.names()}}


@pytest.fixture(params=TOPOLOGIES)
def topology(request: pytest.FixtureRequest) -> Topology:
    """One with everything odd in it, and the ready-made ones."""
    return load(TOPOLOGIES[request.param], environ={})


@pytest.fixture(scope="module")
def everything() -> Topology:
    """The one with everything odd in it."""
    return load(ALL, environ={})


# ------------------------------------------------------------------------------------------------------------ AsyncAPI


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    """The published schema of AsyncAPI 3.0."""
    return jsonschema.Draft7Validator(json.loads(gzip.decompress(SCHEMA.read_bytes())))


def test_an_asyncapi_document_is_valid(topology: Topology, schema: jsonschema.Draft7Validator) -> None:
    """By the schema that AsyncAPI publishes, AMQP bindings included."""
    document, _ = asyncapi.build(topology)
    assert [error.message for error in schema.iter_errors(document)] == []


def test_the_schema_would_notice(everything: Topology, schema: jsonschema.Draft7Validator) -> None:
    """A wrong word in an AMQP binding is an error for it, so the test above says something."""
    document, _ = asyncapi.build(everything)
    document["channels"]["queue-default"]["bindings"]["amqp"]["is"] = "pipe"
    assert not schema.is_valid(document)


def test_every_reference_of_an_asyncapi_document_leads_somewhere(topology: Topology) -> None:
    """The schema cannot see that."""
    document, _ = asyncapi.build(topology)
    for path in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        at: Any = document
        for step in path.split("/"):
            at = at[step]


def test_an_asyncapi_document_has_routes_and_queues(everything: Topology) -> None:
    """What is sent with its address and its options, what is received, and no password."""
    document, remarks = asyncapi.build(everything)
    assert document["channels"]["route-shop._"]["address"] == "web.{task}.{country}"
    assert set(document["channels"]["route-shop._"]["parameters"]) == {"task", "country"}
    send = document["operations"]["send-route-web._"]["bindings"]["amqp"]
    assert (send["priority"], send["expiration"], send["deliveryMode"]) == (3, 600_000, 2)
    assert document["channels"]["queue-default"]["bindings"]["amqp"]["queue"]["vhost"] == "shop"
    assert {server["host"] for server in document["servers"].values()} == {"localhost:5672", "127.0.0.1:5673"}
    assert "guest" not in json.dumps(document)
    assert "3 bindings: AsyncAPI has none" in "\n".join(map(str, remarks))


# ---------------------------------------------------------------------------------------------------------- Kubernetes


def test_kubernetes_resources_are_read_as_they_are_meant(topology: Topology) -> None:
    """No reader of YAML takes a name for a number, and there is one document for each object."""
    resources, _ = kubernetes.build(topology, kubernetes.Place())
    assert list(yaml.safe_load_all(kubernetes.write(resources))) == resources
    objects, _ = definitions.build(topology)
    kinds = [resource["kind"] for resource in resources]
    counts = [len(objects[section]) for section in ("exchanges", "queues", "bindings")]
    assert [kinds.count(kind) for kind in ("Exchange", "Queue", "Binding")] == counts


def test_kubernetes_names_are_allowed_and_different(topology: Topology) -> None:
    """Lower-case letters, digits and hyphens, at most 63, each once for its kind."""
    resources, _ = kubernetes.build(topology, kubernetes.Place())
    names = [(resource["kind"], resource["metadata"]["name"]) for resource in resources]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for _, name in names)


def test_a_kubernetes_queue_outlives_its_resource(everything: Topology) -> None:
    """Deleting a resource deletes no messages; the type has its own field; text that looks like a number is quoted."""
    resources, remarks = kubernetes.build(everything, kubernetes.Place("rmq", "brokers", "shop"))
    found = {resource["spec"]["name"]: resource["spec"] for resource in resources if resource["kind"] == "Queue"}
    assert found["default"] == {
        "vhost": "shop",
        "name": "default",
        "type": "classic",
        "durable": True,
        "autoDelete": False,
        "arguments": {"x-max-priority": 5, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "shop.dead"},
        "deletionPolicy": "retain",
        "rabbitmqClusterReference": {"name": "rmq", "namespace": "brokers"},
    }
    assert '"1e3"' in kubernetes.write(resources)
    text = "\n".join(map(str, remarks))
    assert "exchange 'Web Lost': `internal: true`" in text
    assert "queue 'gone': `manage: external`" in text
    assert "1 permit queue" in text


# ----------------------------------------------------------------------------------------------------------- Terraform


def test_terraform_says_the_same(topology: Topology) -> None:
    """Every object, with its name as it is; queues cannot be destroyed by a changed argument."""
    written, _ = terraform.build(topology, "shop")
    objects, _ = definitions.build(topology)
    resources = hcl2.loads(written)["resource"]
    names: dict[str, set[str]] = {"rabbitmq_exchange": set(), "rabbitmq_queue": set(), "rabbitmq_binding": set()}
    for resource in resources:
        ((kind, labelled),) = ((name.strip('"'), part) for name, part in resource.items() if not name.startswith("__"))
        ((label, body),) = ((name.strip('"'), part) for name, part in labelled.items() if not name.startswith("__"))
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", label)
        names[kind].add(label)
        assert ("lifecycle" in body) is (kind == "rabbitmq_queue")
    assert len(names["rabbitmq_exchange"]) == len(objects["exchanges"])
    assert len(names["rabbitmq_queue"]) == len(objects["queues"])
    assert len(names["rabbitmq_binding"]) == len(objects["bindings"])


def test_terraform_text_is_escaped(everything: Topology) -> None:
    """Quotes, backslashes and Terraform's own template marks stand for themselves."""
    written, remarks = terraform.build(everything, "shop")
    assert r'name  = "odd \"$${name}\" %%{x}\\"' in written
    assert r'"x-queue-type" = "quorum", "x-message-ttl" = 60000' in written
    assert "source           = rabbitmq_exchange.web.name" in written
    text = "\n".join(map(str, remarks))
    assert "exchange 'kinds': x-own: the provider writes arguments as text only" in text
    assert "exchange 'Web Lost': `internal: true`" in text
