"""`amqpq keys`: make, list, show and trust signing keys. Private key material is never printed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from amqpq.cli.options import DEFAULT_TOPOLOGY, json_option
from amqpq.cli.output import fail, print_json
from amqpq.errors import ConfigurationError, KeyProblem
from amqpq.security import keys as store
from amqpq.security import trust_entry
from amqpq.security.signing import ALGORITHMS, Algorithm

DEFAULT_FOLDER = Path("keys")

_folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="The folder with the key files.",
)


@click.group()
def keys() -> None:
    """Make, list and trust signing keys.

    \b
    Examples:
      amqpq keys new producer-a                      keys/producer-a.pem (private) and keys/producer-a.pub
      amqpq keys list                                what is in keys/
      amqpq keys trust producer-a producer-a.pub     believe its signatures: an entry in ./topology.yaml
    """


@keys.command("new")
@click.argument("name")
@click.option(
    "--algorithm", type=click.Choice(ALGORITHMS), default="ed25519", show_default=True, help="Of the new key."
)
@click.option("--force", is_flag=True, help="Replace existing files; what the old key signed can then not be checked.")
@_folder_option
@json_option
def new(name: str, algorithm: Algorithm, force: bool, folder: Path, as_json: bool) -> None:
    """Make a key: a pair of files for ed25519, a shared secret for hmac-sha256.

    \b
    Examples:
      amqpq keys new shop                            the default key of the project `shop`
      amqpq keys new worker-1 --dir /etc/shop/keys
      amqpq keys new shop --algorithm hmac-sha256    one secret that signs and checks
    """
    made = store.generate(name, algorithm, folder, force=force)
    if as_json:
        print_json([_public_facts(info) for info in made])
        return
    for info in made:
        click.echo(f"{info.path}  {_described(info)}")
    click.echo(f"fingerprint {made[0].fingerprint}")
    click.echo("")
    click.echo("In the topology of the host that signs with it:")
    click.echo(
        f"  security: {{signing: {{algorithm: {algorithm}, key: {_signing_reference(made[0])}, key_id: {name}}}}}"
    )
    if algorithm == "ed25519":
        click.echo(f"On hosts that are to believe it: copy {made[-1].path.name} there, then")
        click.echo(f"  amqpq keys trust {name} {made[-1].path.name}")
    else:
        click.echo("The same secret checks: copy it, in secret, to every host that signs or checks with it.")


@keys.command("list")
@_folder_option
@json_option
def list_(folder: Path, as_json: bool) -> None:
    """List the keys of a folder.

    \b
    Examples:
      amqpq keys list
      amqpq keys list --dir /etc/shop/keys --json
    """
    found = store.describe_folder(folder)
    if as_json:
        print_json([_public_facts(info) for info in found])
        return
    if not found:
        click.echo(f"no keys in {folder}; `amqpq keys new NAME` makes one", err=True)
        return
    width = max(len(info.path.name) for info in found)
    for info in found:
        click.echo(f"{info.path.name:{width}}  {_described(info):24}  {info.fingerprint}{_warning(info)}")


@keys.command("show")
@click.argument("name")
@_folder_option
@json_option
def show(name: str, folder: Path, as_json: bool) -> None:
    """Show what the files of one key are: algorithm, kind, fingerprint; never the key.

    \b
    Examples:
      amqpq keys show producer-a
      amqpq keys show producer-a --json
    """
    store.check_name(name)
    paths = [folder / (name + suffix) for suffix in (store.PRIVATE_SUFFIX, store.PUBLIC_SUFFIX, store.SECRET_SUFFIX)]
    found = [store.describe(path) for path in paths if path.exists()]
    if not found:
        raise KeyProblem(f"there is no key {name!r} in {folder}; `amqpq keys new {name}` makes one")
    if as_json:
        print_json([_public_facts(info) for info in found])
        return
    for info in found:
        click.echo(f"{info.path}")
        click.echo(f"  {_described(info)}, mode {info.mode:04o}{_warning(info)}")
        click.echo(f"  fingerprint {info.fingerprint}")


@keys.command("trust")
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "-t",
    "--topology",
    "topology_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="AMQPQ_TOPOLOGY",
    default=DEFAULT_TOPOLOGY,
    help="Topology file to edit. [default: $AMQPQ_TOPOLOGY, else ./topology.yaml]",
)
@click.option(
    "--may", multiple=True, metavar="PATTERN", help="What it may sign: a task pattern, or `results`; repeatable."
)
@click.option("--force", is_flag=True, help="Replace an existing entry of this name.")
def trust(name: str, file: Path, topology_file: Path, may: tuple[str, ...], force: bool) -> None:
    """Believe the signatures of a key: adds NAME to `security.trust` of the topology file.

    FILE is the public half. Comments and layout of the topology stay; where the file cannot be edited safely, the lines
    to add are printed and nothing is changed. Without --may the key may sign everything.

    \b
    Examples:
      amqpq keys trust producer-a keys/producer-a.pub --may "web.*" --may "tasks.*"
      amqpq keys trust worker-1 keys/worker-1.pub --may results -t prod/topology.yaml
    """
    store.check_name(name)
    info = store.describe(file)
    if info.kind == "private":
        remedy = file.with_suffix(store.PUBLIC_SUFFIX)
        raise KeyProblem(f"{file} holds the private key; trust takes the public half ({remedy.name})")
    if not topology_file.is_file():
        raise ConfigurationError(f"no topology file at {topology_file}; name one with -t FILE or $AMQPQ_TOPOLOGY")
    entry = trust_entry.entry_text(_reference(file, topology_file), may or None)
    with topology_file.open(encoding="utf-8", newline="") as opened:
        text = opened.read()
    edited = trust_entry.with_entry(text, name, entry, replace=force)
    if edited is None:
        fail(
            f"{topology_file} cannot be edited safely; nothing was changed. Add this to it:\n\n"
            + trust_entry.lines_to_add(name, entry)
        )
    _replace(topology_file, edited)
    click.echo(f"{topology_file}: security.trust.{name}: {entry}")
    click.echo(f"fingerprint {info.fingerprint}")


def _public_facts(info: store.KeyInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "algorithm": info.algorithm,
        "kind": info.kind,
        "path": str(info.path),
        "fingerprint": info.fingerprint,
        "mode": f"{info.mode:04o}",
        "exposed": info.exposed,
    }


def _described(info: store.KeyInfo) -> str:
    return f"{info.algorithm} {info.kind} key" if info.kind != "secret" else f"{info.algorithm} secret"


def _warning(info: store.KeyInfo) -> str:
    return f"  others can read it: chmod 600 {info.path}" if info.exposed else ""


def _signing_reference(info: store.KeyInfo) -> str:
    # A bare path would do for both, but the file format asks for an explicit reference where the key is a secret.
    return f'"file:{info.path}"' if info.kind == "secret" else str(info.path)


def _reference(file: Path, topology_file: Path) -> str:
    """Return the key's path as the topology file says it: relative where the key lies beside or below it."""
    base = topology_file.resolve().parent
    path = file.resolve()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


def _replace(path: Path, text: str) -> None:
    """Write the file whole or not at all; a link stays a link, and the permissions stay."""
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8", newline="") as opened:
            opened.write(text)
        shutil.copymode(target, draft)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
