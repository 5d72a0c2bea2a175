"""How a topology becomes what an application works with: addresses, keys, a codec, a link.

The only bridge between `amqpq.topology`, which says what is wanted, and `amqpq.security`, `amqpq.message` and
`amqpq.transport`, which know how. Nothing here is loaded or opened before it is asked for: a module full of tasks imports
in milliseconds, and a host without the private key can do all that needs no signature.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from amqpq import topology as topologies
from amqpq.errors import ConfigurationError, KeyProblem
from amqpq.message.codec import Codec, Rules
from amqpq.security.keys import load_signer, load_trusted
from amqpq.security.signing import Algorithm, Signer, TrustedKey, Verifier
from amqpq.topology.model import Topology
from amqpq.transport import url
from amqpq.transport.interface import Connection
from amqpq.transport.link import Link

if TYPE_CHECKING:
    from amqpq.management import Management
    from amqpq.transport.aiolink import AsyncLink

TopologySource: TypeAlias = Topology | str | Path | Mapping[str, Any] | None

TOPOLOGY_VARIABLE = "AMQPQ_TOPOLOGY"
DEFAULT_TOPOLOGY = "topology.yaml"


def load_topology(source: TopologySource, *, environment: str | None, environ: Mapping[str, str]) -> Topology:
    """Load what an application was given.

    Args:
        source: A topology, a path, a mapping; None for `$AMQPQ_TOPOLOGY`, else `./topology.yaml`.
        environment: The entry of `environments:` to merge over the file.
        environ: Where variables are looked up.

    Raises:
        ConfigurationError: There is no such file.
        TopologyError: It has errors.
    """
    if isinstance(source, Topology):
        if environment is not None:
            message = (
                f"environment={environment!r} cannot be merged over a topology that is loaded already; pass its file"
            )
            raise ConfigurationError(message)
        return source
    if isinstance(source, Mapping):
        return topologies.load(source, environment=environment, environ=environ)
    path = Path(source) if source is not None else Path(environ.get(TOPOLOGY_VARIABLE) or DEFAULT_TOPOLOGY)
    if not path.is_file():
        remedy = "" if source is not None else f"; name one in App('...') or ${TOPOLOGY_VARIABLE}"
        message = f"no topology file at {path}{remedy}"
        raise ConfigurationError(message)
    return topologies.load(path, environment=environment, environ=environ)


def addresses(topology: Topology) -> tuple[url.Address, ...]:
    """Return the broker's nodes, with the file's TLS settings on those that speak TLS."""
    settings = _tls(topology)
    return tuple(
        url.parse(address, tls=settings if address.startswith("amqps:") else None) for address in topology.broker.urls
    )


def management(topology: Topology, *, timeout_seconds: float = 30.0) -> Management | None:
    """Return a client of the broker's HTTP API, with the file's TLS settings; None where the file names none.

    Raises:
        ConfigurationError: `broker.management` cannot be used.
    """
    if topology.broker.management is None:
        return None
    # http.client and what it loads cost 20 ms, and neither producers nor workers ask the API.
    module = importlib.import_module("amqpq.management")
    first = addresses(topology)[0]
    where = module.endpoint(topology.broker.management, tls_options=_tls(topology), login=(first.user, first.password))
    return cast("Management", module.Management(where, timeout_seconds=timeout_seconds))


def _tls(topology: Topology) -> url.Tls | None:
    tls = topology.broker.tls
    if tls is None:
        return None
    return url.Tls(verify=tls.verify == "peer", ca=_text(tls.ca), certificate=_text(tls.cert), key=_text(tls.key))


def rules(topology: Topology) -> Rules:
    """Return the message defaults and limits as the codec takes them."""
    messages = topology.messages
    return Rules(
        serializer=messages.serializer,
        accept=messages.accept,
        compression=messages.compression,
        compress_above=messages.compress_above,
        max_size=messages.max_size,
    )


def codec(topology: Topology, *, environ: Mapping[str, str] = os.environ, app_id: str = "") -> Codec:
    """Load the keys and return the codec that signs and verifies with them.

    A host whose own private key is missing can still verify, if it trusts somebody; signing then fails with the reason.

    Raises:
        KeyProblem: A trusted key is missing, or the own one is and nobody is trusted.
    """
    security = topology.security
    trusted = {
        key_id: load_trusted(key_id, trust.key, trust.may, base=topology.base, environ=environ)
        for key_id, trust in security.trust.items()
    }
    signer: Signer | None = None
    if security.signing is not None:
        signing = security.signing
        try:
            signer = load_signer(signing.algorithm, signing.key, signing.key_id, base=topology.base, environ=environ)
        except KeyProblem as error:
            if not trusted:
                raise
            signer = MissingSigner(signing.key_id, signing.algorithm, error)
        else:
            trusted.setdefault(signing.key_id, signer.own_trust())
    verifier = Verifier(
        trusted, required=security.require == "signed", replay_window_seconds=security.replay_window_seconds
    )
    return Codec(rules(topology), signer=signer, verifier=verifier, app_id=app_id or topology.project)


def link(topology: Topology, *, name: str = "") -> Link:
    """Return a blocking link to the topology's broker; it connects when it is used."""
    return Link(
        addresses(topology), _open, name=name or topology.project, heartbeat_seconds=topology.broker.heartbeat_seconds
    )


def _open(address: url.Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = "") -> Connection:
    # The driver is loaded with the first connection: a module full of tasks, and `amqpq --help`, do without it.
    blocking = importlib.import_module("amqpq.transport.blocking")
    connection: Connection = blocking.connect(
        address, heartbeat_seconds=heartbeat_seconds, timeout_seconds=timeout_seconds, name=name
    )
    return connection


def async_link(topology: Topology, *, name: str = "") -> AsyncLink:
    """Return an asyncio link to the topology's broker; it connects when it is used."""
    # asyncio takes time to load, and a megabyte, and a blocking program has no use for it.
    aiolink = importlib.import_module("amqpq.transport.aiolink")
    made: AsyncLink = aiolink.AsyncLink(
        addresses(topology),
        _open_async,
        name=name or topology.project,
        heartbeat_seconds=topology.broker.heartbeat_seconds,
    )
    return made


async def _open_async(
    address: url.Address, *, heartbeat_seconds: int, timeout_seconds: float, name: str = ""
) -> Connection:
    aio = importlib.import_module("amqpq.transport.aio")
    connection: Connection = await aio.connect(
        address, heartbeat_seconds=heartbeat_seconds, timeout_seconds=timeout_seconds, name=name
    )
    return connection


class MissingSigner:
    """Stands where the private key is missing, on a host that only verifies; to sign with it is the error."""

    def __init__(self, key_id: str, algorithm: Algorithm, problem: KeyProblem) -> None:
        self.key_id = key_id
        self.algorithm = algorithm
        self._problem = problem

    def __repr__(self) -> str:
        """Show the id of the key that is not there."""
        return f"MissingSigner({self.key_id!r})"

    def sign(self, data: bytes, /) -> NoReturn:
        """Raise why the key could not be loaded."""
        del data
        raise KeyProblem(str(self._problem)) from self._problem

    def own_trust(self) -> TrustedKey:
        """Raise why the key could not be loaded."""
        raise KeyProblem(str(self._problem)) from self._problem


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
