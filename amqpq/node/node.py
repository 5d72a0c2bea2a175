"""One private RabbitMQ process.

Ending it touches nothing else: the node and its name service are found again by process id *and* start time, never by
name, so a RabbitMQ that the machine runs, or another private node, is out of reach by construction.
"""

from __future__ import annotations

import fcntl
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from amqpq.errors import BrokerSetupError
from amqpq.node import options as node_options
from amqpq.node import readiness, state
from amqpq.node.installation import Installation, find_installation
from amqpq.node.options import NodeOptions, Ports
from amqpq.node.process import Process, start_detached
from amqpq.node.state import State

NODE_NAME = "amqpq@localhost"
"""Unique within its own name service, and that is all an Erlang node name has to be."""

START_SECONDS = 120.0
"""A node boots in 4 to 10 s; a busy two-core machine with several of them needs a multiple."""

STOP_SECONDS = 60.0

WANTED_FILES = 65_536
NEEDED_FILES = 1_024
"""Below this RabbitMQ 4.0 loses persistent messages of per-task reply queues (measured; DESIGN section 6)."""

_HANDSHAKE_INTERVAL_SECONDS = 0.05
"""A listener that is not there yet announces nothing; knocking is the only way to learn of it."""

# The shell raises the soft limit (root: the hard one too) and becomes the server, which so keeps the process id.
_WITH_FILE_LIMIT = f'ulimit -n {WANTED_FILES} 2>/dev/null || ulimit -n "$(ulimit -Hn)"; exec "$@"'


class Node:
    """A private RabbitMQ node in a data folder of its own.

    The folder is all there is to it: another `Node` on the same folder, in any program, is the same node.

    Args:
        folder: data folder; created by `start`.
        options: how it differs from the default.
        installation: which RabbitMQ runs it; found when it is needed.
    """

    kind = "rabbitmq"

    def __init__(
        self, folder: Path | str, options: NodeOptions | None = None, *, installation: Installation | None = None
    ) -> None:
        self.folder = Path(folder).absolute()
        self.options = options or NodeOptions()
        self._installation = installation

    def __repr__(self) -> str:
        """Show where it is and whether it runs."""
        known = state.read(self.folder)
        where = (
            f"{known.listen}:{known.ports.amqp} {'running' if self.running else 'stopped'}"
            if known
            else "never started"
        )
        return f"<Node {self.folder} {where}>"

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    # ---------------------------------------------------------------------------------------------------- what it is

    @property
    def installation(self) -> Installation:
        """The RabbitMQ that runs it.

        Raises:
            BrokerSetupError: there is none on this machine.
        """
        if self._installation is None:
            self._installation = find_installation()
        return self._installation

    @property
    def running(self) -> bool:
        """Whether its process is there (ready or still booting)."""
        return self.process is not None

    @property
    def process(self) -> Process | None:
        """Its process while it runs: the Erlang virtual machine itself, no shell around it."""
        known = state.read(self.folder)
        return known.server if known and known.server and known.server.alive else None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process else None

    @property
    def version(self) -> str:
        """RabbitMQ's version, as far as its installation shows it."""
        return self._known().version

    @property
    def ports(self) -> Ports:
        """Its TCP ports; they stay the same when it restarts."""
        return self._known().ports

    @property
    def url(self) -> str:
        """AMQP URL with user and password, into the vhost `/`."""
        known = self._known()
        return f"amqp://{_credentials(known)}@{self._host(known)}:{known.ports.amqp}/"

    @property
    def management_url(self) -> str:
        """Root of the HTTP API and management page, without user and password (they are those of `url`)."""
        known = self._known()
        return f"http://{self._host(known)}:{known.ports.management}"

    @property
    def log(self) -> Path:
        """The file with what it printed since it was made; RabbitMQ's own log is in `log/` beside it."""
        return self.folder / "output.log"

    # ---------------------------------------------------------------------------------------------------- what it does

    def start(
        self, *, timeout_seconds: float = START_SECONDS, on_progress: Callable[[str], object] | None = None
    ) -> None:
        """Start it and wait until it takes connections; nothing happens where it runs already.

        Args:
            timeout_seconds: how long it may take to become ready.
            on_progress: called with a sentence at each step.

        Raises:
            BrokerSetupError: RabbitMQ is missing, a port is taken, or it did not become ready; with its last words.
        """
        tell = on_progress or (lambda _: None)
        with self._locked():
            if self.running:
                return
            _check_file_limit()
            _check_localhost()
            fresh = self._prepare()
            tell(f"starting RabbitMQ {fresh.version} on port {fresh.ports.amqp}")
            began = time.monotonic()
            self.log.write_bytes(b"")
            epmd = self._start_epmd(fresh)
            # The variable makes the script become the Erlang machine instead of waiting beside it, so that the process
            # id we know is the one to signal. It tells systemd nothing: that needs NOTIFY_SOCKET.
            server = self._spawn([self.installation.server], fresh.ports, {"RUNNING_UNDER_SYSTEMD": "true"})
            state.write(self.folder, replace(fresh, server=server, epmd=epmd))
            try:
                self._await_ready(server, fresh, began + timeout_seconds)
            except BaseException:
                self._end(STOP_SECONDS)
                raise
            tell(f"ready after {time.monotonic() - began:.1f} s")

    def stop(self, *, timeout_seconds: float = STOP_SECONDS) -> None:
        """Stop it in order: clients are told, queues are flushed. Nothing happens where it does not run.

        Args:
            timeout_seconds: after this it is killed.
        """
        if state.read(self.folder) is None:
            return
        with self._locked():
            self._end(timeout_seconds)

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut would; `start` brings it back on the same ports and data."""
        with self._locked():
            known = self._known()
            if known.server:
                known.server.signal(signal.SIGKILL)
                known.server.wait(STOP_SECONDS)
            state.write(self.folder, replace(known, server=None))

    def restart(self, *, timeout_seconds: float = START_SECONDS) -> None:
        """Stop it in order and start it again."""
        self.stop()
        self.start(timeout_seconds=timeout_seconds)

    def ctl(self, *arguments: str, timeout_seconds: float = 60.0) -> str:
        """Run `rabbitmqctl -q` against it and return what that prints.

        Args:
            arguments: for example `"list_queues", "name", "messages"`.
            timeout_seconds: how long the program may take; it boots an Erlang of its own, which takes about a second.

        Raises:
            BrokerSetupError: it ended with an error, or not in time.
        """
        command = self._command([self.installation.ctl, "-q", *arguments])
        words = " ".join(["rabbitmqctl", *arguments])
        try:
            answer = subprocess.run(
                command,
                env=self._environ(self._known().ports),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerSetupError(f"`{words}` did not end within {timeout_seconds:g} s") from error
        if answer.returncode != 0:
            raise BrokerSetupError(
                f"`{words}` ended with {answer.returncode}: {(answer.stderr + answer.stdout).strip()}"
            )
        return answer.stdout

    # --------------------------------------------------------------------------------------------------------- inside

    def _known(self) -> State:
        known = state.read(self.folder)
        if known is None:
            raise BrokerSetupError(f"no node was ever started in {self.folder}; `amqpq broker start` does that")
        return known

    def _host(self, known: State) -> str:
        return node_options.LOOPBACK if known.listen == "0.0.0.0" else known.listen  # noqa: S104 - compared, not bound

    def _prepare(self) -> State:
        """Choose ports and credentials where the folder has none yet, and write the node's files."""
        known = state.read(self.folder)
        if known and known.kind != self.kind:
            raise BrokerSetupError(f"{self.folder} holds a node of docker compose; choose another folder with --data")
        ports = self._choose_ports(known)
        if known and known.user == "guest" and not self.options.only_loopback:
            # The user is made at the first boot; its well-known password must not become reachable from elsewhere.
            raise BrokerSetupError(
                f"the node in {self.folder} was made for this machine only, with the password `guest`; "
                f"listen on {self.options.listen} with a new data folder"
            )
        if known:
            user, password = known.user, known.password
        elif self.options.only_loopback:
            user, password = "guest", "guest"
        else:
            user, password = "amqpq", secrets.token_urlsafe(18)
        # Passwords and the cookie live here; the cookie is all it takes to run code in the node.
        for folder in (self.folder, self.folder / "data", self.folder / "log"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write = node_options.write_if_changed
        write(self.folder / "rabbitmq.conf", node_options.render_config(self.options, ports, user, password))
        write(self.folder / "advanced.config", "[].\n")
        write(self.folder / "enabled_plugins", node_options.render_plugins(self.options))
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(16), encoding="ascii")
            cookie.chmod(0o400)  # Erlang refuses a cookie that others may read
        return State(self.kind, ports, user, password, self.options.listen, self.installation.version)

    def _choose_ports(self, known: State | None) -> Ports:
        ports = self.options.ports or (known.ports if known else None)
        if ports is None:
            return node_options.free_ports()
        if self.options.prefix:
            return ports  # another network namespace: what is free here says nothing
        epmd_runs = known is not None and known.epmd is not None and known.epmd.alive
        needed = [ports.amqp, ports.management, ports.distribution, *([] if epmd_runs else [ports.epmd])]
        taken = [port for port in needed if not node_options.is_free(port)]
        if not taken:
            return ports
        raise BrokerSetupError(
            f"port {taken[0]} of the node in {self.folder} is taken by another program now; "
            f"end that program, or delete {self.folder / state.FILE} to get new ports"
        )

    def _start_epmd(self, known: State) -> Process | None:
        former = state.read(self.folder)
        if former and former.epmd and former.epmd.alive:
            return former.epmd
        epmd = self.installation.epmd
        if epmd is None:
            return None
        # Started by us and in the foreground, because the daemon that Erlang would start stays behind for ever.
        arguments = [epmd, "-port", str(known.ports.epmd), "-address", node_options.LOOPBACK]
        return self._spawn(arguments, known.ports, {})

    def _spawn(self, arguments: list[str], ports: Ports, extra: Mapping[str, str]) -> Process:
        leash = _leash() if self.options.dies_with_caller else []
        command = ["sh", "-c", _WITH_FILE_LIMIT, "private-node", *leash, *self._command(arguments)]
        environ = {**self._environ(ports), **extra}
        start = partial(start_detached, command, environ=environ, output=self.log, folder=self.folder)
        return _launcher().submit(start).result() if leash else start()

    def _command(self, arguments: list[str]) -> list[str]:
        program, *rest = arguments
        return [*self.options.prefix, *self.installation.command(program, self.folder, rest)]

    def _environ(self, ports: Ports) -> dict[str, str]:
        """Return the environment of the node's programs: the caller's, without anything meant for another RabbitMQ."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_")) and name != "NOTIFY_SOCKET"
        }
        home = self.installation.inside(self.folder)
        return kept | {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": NODE_NAME,
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "rabbitmq.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(home / "conf.d" / "*.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_DIST_PORT": str(ports.distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(ports.epmd),
            "ERL_EPMD_ADDRESS": node_options.LOOPBACK,
        }

    def _await_ready(self, server: Process, known: State, deadline: float) -> None:
        if self.options.prefix:
            # The listener may be in another network namespace, out of our reach; rabbitmqctl runs in there.
            left = max(1.0, deadline - time.monotonic())
            self.ctl("wait", "--pid", str(server.pid), "--timeout", str(int(left)), timeout_seconds=left + 10)
            return
        while not readiness.speaks_amqp(self._host(known), known.ports.amqp):
            if server.wait(_HANDSHAKE_INTERVAL_SECONDS):
                raise BrokerSetupError(f"RabbitMQ ended while starting; {self._last_words()}")
            if time.monotonic() > deadline:
                raise BrokerSetupError(f"RabbitMQ was not ready in time; {self._last_words()}")

    def _end(self, timeout_seconds: float) -> None:
        known = self._known()
        if known.server:
            known.server.end(timeout_seconds)
        if known.epmd:
            known.epmd.end(timeout_seconds)
        state.write(self.folder, replace(known, server=None, epmd=None))

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        said = "\n  ".join(line for line in lines if line.strip())
        return (
            f"it said (all of it is in {self.log}):\n  {said}"
            if said
            else f"it said nothing; look into {self.folder / 'log'}"
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _credentials(known: State) -> str:
    return f"{quote(known.user, safe='')}:{quote(known.password, safe='')}"


@cache
def _launcher() -> ThreadPoolExecutor:
    # The signal of prctl(2) PR_SET_PDEATHSIG comes when the starting *thread* ends. This one lives as long as the program,
    # whichever thread calls `start`.
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="amqpq-node-launcher")


def _leash() -> list[str]:
    # The setting survives the execs that follow.
    program = shutil.which("setpriv")
    if program is None:
        raise BrokerSetupError("a node that dies with its caller needs setpriv (util-linux), which is not here")
    return [program, "--pdeathsig", "TERM", "--"]


def _check_localhost() -> None:
    # An Erlang node whose host name has no address does not start, and says so in two hundred lines.
    try:
        socket.getaddrinfo("localhost", None)
    except socket.gaierror as error:
        raise BrokerSetupError(
            "this machine does not know the name localhost, which RabbitMQ needs; "
            "add the line `127.0.0.1 localhost` to /etc/hosts"
        ) from error


def _check_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.geteuid() != 0 and hard != resource.RLIM_INFINITY and hard < NEEDED_FILES:
        raise BrokerSetupError(
            f"the hard limit of open files is {hard}, and RabbitMQ needs {NEEDED_FILES} or more; "
            f"raise it in /etc/security/limits.conf"
        )
