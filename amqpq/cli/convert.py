"""`amqpq topology import` and `amqpq topology export`: topology files from elsewhere, and for elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from amqpq import management
from amqpq.cli import output
from amqpq.cli.options import duration, json_option, load_topology, topology_option
from amqpq.convert import asyncapi, celery, definitions, importing, kubernetes, live, settings, terraform
from amqpq.convert.importing import Imported
from amqpq.convert.objects import Remark, counted
from amqpq.topology.address import DEFAULT_URL
from amqpq.topology.loading import URL_VARIABLE
from amqpq.topology.model import Topology
from amqpq.transport import url

DEFAULT_PROJECT = "celery"
"""Of a file made of Celery settings, which name no project."""

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group("import")
def import_() -> None:
    """Make a topology file from what exists: definitions, a broker, Celery settings.

    The file goes to standard output or to -o FILE, what it could not hold to standard error.

    \b
    Examples:
      amqpq topology import live --vhost shop -o topology.yaml
      amqpq topology import definitions definitions.json -o topology.yaml
      amqpq topology import celery celeryconfig.py -o topology.yaml
    """


@click.group("export")
def export() -> None:
    """Write the topology for other tools. What they cannot hold is said on standard error.

    \b
    Examples:
      amqpq topology export definitions -o definitions.json
      amqpq topology export asyncapi -o asyncapi.json
    """


def _output_option(command: Command) -> Command:
    return click.option(
        "-o",
        "--output",
        "target",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        default=None,
        help="Write to this file, not to standard output.",
    )(command)


def _project_option(command: Command) -> Command:
    return click.option("--project", metavar="NAME", default=None, help="The project's name in the new file.")(command)


def _vhost_option(command: Command) -> Command:
    return click.option("--vhost", metavar="NAME", default=None, help="The virtual host.")(command)


# ------------------------------------------------------------------------------------------------------------- import


@import_.command("definitions")
@click.argument("file", type=click.File(encoding="utf-8"))
@_vhost_option
@_project_option
@_output_option
@json_option
def import_definitions(file: Any, vhost: str | None, project: str | None, target: Path | None, as_json: bool) -> None:
    """Read the JSON of `rabbitmqctl export_definitions`, or of one virtual host from the management API.

    \b
    Examples:
      amqpq topology import definitions definitions.json --vhost shop -o topology.yaml
      curl -su guest:guest http://localhost:15672/api/definitions/shop | amqpq topology import definitions -
    """
    found = definitions.parse(file.read(), vhost)
    source = "definitions" if file.name in {"-", "<stdin>"} else Path(file.name).name
    _print_imported(importing.from_objects(found, source=source, project=project), target, as_json=as_json)


@import_.command("live")
@click.option(
    "--management",
    "address",
    metavar="URL",
    envvar="AMQPQ_MANAGEMENT_URL",
    default="http://localhost:15672/",
    help="The broker's HTTP API. [default: $AMQPQ_MANAGEMENT_URL, else http://localhost:15672/]",
)
@_vhost_option
@_project_option
@_output_option
@json_option
@click.option(
    "--timeout", type=duration, default="30s", show_default=True, metavar="DURATION", help="For each of its answers."
)
def import_live(address: str, vhost: str | None, project: str | None, target: Path | None, **values: Any) -> None:
    """Read a virtual host of a running broker. Nothing on the broker is changed.

    User and password that the URL does not have, and the virtual host that --vhost does not name, are those of
    $AMQPQ_BROKER_URL, else guest and /. The user needs the tag `management`.

    \b
    Examples:
      amqpq topology import live --vhost shop -o topology.yaml
      amqpq topology import live --management https://reader:secret@rabbit.example.com:15671 --vhost shop
    """
    broker = url.parse((os.environ.get(URL_VARIABLE, "").split() or [DEFAULT_URL])[0])
    where = management.endpoint(address, login=(broker.user, broker.password))
    name = broker.vhost if vhost is None else vhost
    with management.Management(where, timeout_seconds=values["timeout"]) as client:
        found = live.read(client, name)
    imported = importing.from_objects(found, source=f"the virtual host '{name}' at {where}", project=project)
    _print_imported(imported, target, as_json=values["as_json"])


@import_.command("celery")
@click.argument("reference", metavar="FILE.py|MODULE[:NAME]")
@_project_option
@_output_option
@json_option
def import_celery(reference: str, project: str | None, target: Path | None, as_json: bool) -> None:
    """Read Celery settings: queues, routes, message defaults, under their old and their new names.

    The file or module is executed, as Celery would. NAME is an application or a mapping in the module.

    \b
    Examples:
      amqpq topology import celery celeryconfig.py -o topology.yaml
      amqpq topology import celery proj.celery:app --project shop
    """
    folded = celery.convert(settings.load(reference), project or DEFAULT_PROJECT)
    _print_imported(importing.finished(folded, source=reference), target, as_json=as_json)


def _print_imported(imported: Imported, target: Path | None, *, as_json: bool) -> None:
    if as_json:
        _write(None, json.dumps({"topology": imported.tree, "remarks": _facts(imported.remarks)}, indent=2) + "\n")
        if target is not None:
            _write(target, imported.text)
        return
    _write(target, imported.text)
    _print_remarks(imported.remarks)
    shown = imported.topology
    counts = [
        counted(len([x for x in shown.exchanges.values() if not x.generated]), "exchange"),
        counted(len([x for x in shown.queues.values() if not x.generated]), "queue"),
        counted(len(shown.bindings), "binding"),
    ]
    click.echo(f"{', '.join(counts)}; {counted(len(imported.remarks), 'remark')}", err=True)


def _facts(remarks: Iterable[Remark]) -> list[dict[str, str]]:
    return [{"kind": each.kind, "what": each.what, "name": each.name, "why": each.why} for each in remarks]


def _print_remarks(remarks: Iterable[Remark]) -> None:
    for remark in remarks:
        click.echo(str(remark), err=True)


def _write(target: Path | None, text: str) -> None:
    if target is None:
        click.echo(text, nl=False)
        return
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        output.fail(f"cannot write {target}: {error.strerror}")


# ------------------------------------------------------------------------------------------------------------- export


@export.command("definitions")
@topology_option
@_output_option
def export_definitions(topology_file: Path | None, environment: str | None, target: Path | None) -> None:
    """Write definitions of one virtual host, as RabbitMQ itself imports them.

    RabbitMQ leaves an object that exists as it is, even where the definitions say something else.

    \b
    Examples:
      amqpq topology export definitions -o definitions.json
      rabbitmqadmin definitions import_into_vhost --vhost shop --file definitions.json
    """
    built, remarks = definitions.build(load_topology(topology_file, environment))
    _write(target, json.dumps(built, indent=2, ensure_ascii=False) + "\n")
    _print_remarks(remarks)


@export.command("asyncapi")
@topology_option
@_output_option
def export_asyncapi(topology_file: Path | None, environment: str | None, target: Path | None) -> None:
    """Write an AsyncAPI 3.0 document: routes as what is sent, queues as what is received.

    \b
    Examples:
      amqpq topology export asyncapi -o asyncapi.json
    """
    document, remarks = asyncapi.build(load_topology(topology_file, environment))
    _write(target, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    _print_remarks(remarks)


@export.command("kubernetes")
@topology_option
@click.option("--vhost", metavar="NAME", default=None, help="The virtual host. [default: that of broker.url]")
@click.option("--cluster", metavar="NAME", default="rabbitmq", show_default=True, help="Name of the RabbitmqCluster.")
@click.option("--namespace", metavar="NAME", default=None, help="Its namespace, where that is another one.")
@_output_option
def export_kubernetes(topology_file: Path | None, environment: str | None, target: Path | None, **values: Any) -> None:
    """Write resources of RabbitMQ's messaging topology operator, one document for each object.

    \b
    Examples:
      amqpq topology export kubernetes --cluster rmq | kubectl apply -f -
    """
    loaded = load_topology(topology_file, environment)
    place = kubernetes.Place(values["cluster"], values["namespace"], values["vhost"] or _vhost_of(loaded))
    resources, remarks = kubernetes.build(loaded, place)
    _write(target, kubernetes.write(resources))
    _print_remarks(remarks)


@export.command("terraform")
@topology_option
@click.option("--vhost", metavar="NAME", default=None, help="The virtual host. [default: that of broker.url]")
@_output_option
def export_terraform(
    topology_file: Path | None, environment: str | None, vhost: str | None, target: Path | None
) -> None:
    """Write Terraform configuration for the provider cyrilgdn/rabbitmq.

    \b
    Examples:
      amqpq topology export terraform -o rabbitmq.tf
    """
    loaded = load_topology(topology_file, environment)
    written, remarks = terraform.build(loaded, vhost or _vhost_of(loaded))
    _write(target, written)
    _print_remarks(remarks)


def _vhost_of(loaded: Topology) -> str:
    return url.parse(loaded.broker.urls[0]).vhost
