"""Where RabbitMQ's programs are: on this machine, or in a folder that holds a whole Debian (another version of it).

The programs are called directly. The `rabbitmq-server` and `rabbitmqctl` on PATH of Debian, Ubuntu and the RPMs are
wrappers that insist on root or the user rabbitmq and change to that user with `su`; the real ones are in
/usr/lib/rabbitmq/bin and run as anybody.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from amqpq.errors import BrokerSetupError

PACKAGED = Path("/usr/lib/rabbitmq/bin")
"""Where the Debian, Ubuntu and RPM packages keep the real programs."""

ROOT_VARIABLE = "AMQPQ_RABBITMQ_ROOT"
"""Names a folder made by scripts/rabbitmq-from-debian.sh; its RabbitMQ is used instead of the machine's."""

_DATA_INSIDE = Path("/mnt")

# In a mount namespace of its own, so that /proc and the data folder appear inside the root for this process alone and
# are gone with it: a bind mount left behind would make deleting the folder delete the data, or worse.
_ENTER_ROOT = (
    'root=$1 data=$2; shift 2; mount -t proc proc "$root/proc" && mount --bind "$data" "$root/mnt" && '
    'exec chroot "$root" "$@"'
)


@dataclass(frozen=True, slots=True)
class Installation:
    """A RabbitMQ that can be run.

    Args:
        bin: folder of `rabbitmq-server` and `rabbitmqctl`, as seen from inside `root`.
        root: the folder of another system that holds it; None for this system.
    """

    bin: Path
    root: Path | None = None

    @property
    def version(self) -> str:
        """The version, read from the name of the installation's folder; empty where the folder does not say."""
        server = self._outside(self.bin / "rabbitmq-server").resolve()
        found = re.search(r"rabbitmq(?:_server|-server)?[-/](\d+\.\d+\.\d+[^/]*)", str(server))
        return found.group(1) if found else ""

    def inside(self, data: Path) -> Path:
        """Return the path by which the node itself knows its data folder."""
        return data if self.root is None else _DATA_INSIDE

    def command(self, program: str, data: Path, arguments: Sequence[str] = ()) -> list[str]:
        """Return the argument list that runs a program of this installation with the given data folder."""
        if self.root is None:
            return [program, *arguments]
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER_ROOT, "enter-root"]
        return [*enter, str(self.root), str(data), program, *arguments]

    @property
    def server(self) -> str:
        """The server program."""
        return str(self.bin / "rabbitmq-server")

    @property
    def ctl(self) -> str:
        """The control program."""
        return str(self.bin / "rabbitmqctl")

    @property
    def epmd(self) -> str | None:
        """Erlang's name service, or None where it cannot be found and the node must start it by itself."""
        if self.root is not None:
            return "/usr/bin/epmd"
        found = shutil.which("epmd")
        if found:
            return found
        erl = shutil.which("erl")
        beside = sorted(Path(erl).resolve().parent.parent.glob("erts-*/bin/epmd")) if erl else []
        return str(beside[-1]) if beside else None

    def _outside(self, path: Path) -> Path:
        return path if self.root is None else self.root / path.relative_to("/")


def find_installation(environ: Mapping[str, str] | None = None) -> Installation:
    """Find the RabbitMQ to run: in `$AMQPQ_RABBITMQ_ROOT`, else the machine's.

    Raises:
        BrokerSetupError: there is none; the message holds the command that installs it.
    """
    variables = os.environ if environ is None else environ
    root = variables.get(ROOT_VARIABLE)
    if root:
        return _in_root(Path(root).resolve())
    if (PACKAGED / "rabbitmq-server").exists():
        return Installation(PACKAGED)
    found = shutil.which("rabbitmq-server", path=variables.get("PATH"))
    if found:
        return Installation(Path(found).resolve().parent)
    raise BrokerSetupError(f"RabbitMQ is not installed here; {install_hint()}")


def install_hint() -> str:
    """Return the one command that installs RabbitMQ on this machine."""
    become_root = "" if os.geteuid() == 0 else "sudo "
    commands = {
        "apt-get": f"{become_root}apt-get install -y rabbitmq-server",
        "dnf": f"{become_root}dnf install -y rabbitmq-server",
        "zypper": f"{become_root}zypper install -y rabbitmq-server",
        "pacman": f"{become_root}pacman -S rabbitmq",
        "apk": f"{become_root}apk add rabbitmq-server",
        "brew": "brew install rabbitmq",
    }
    for tool, command in commands.items():
        if shutil.which(tool):
            return f"this installs it: {command}"
    return f"see https://www.rabbitmq.com/docs/download for {sys.platform}"


def _in_root(root: Path) -> Installation:
    installation = Installation(PACKAGED, root)
    if not (root / "usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        raise BrokerSetupError(
            f"${ROOT_VARIABLE} is {root}, which holds no RabbitMQ; scripts/rabbitmq-from-debian.sh makes one"
        )
    if os.geteuid() != 0:
        raise BrokerSetupError(f"a RabbitMQ in ${ROOT_VARIABLE} runs in a chroot, which only root may enter")
    return installation
