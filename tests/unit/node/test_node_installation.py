from __future__ import annotations

import os
from pathlib import Path

import pytest

from amqpq.errors import BrokerSetupError
from amqpq.node import installation
from amqpq.node.installation import Installation, find_installation


def make_root(folder: Path, version: str) -> Path:
    """Lay out a folder as Debian's package does."""
    programs = folder / f"usr/lib/rabbitmq/lib/rabbitmq_server-{version}/sbin"
    programs.mkdir(parents=True)
    (programs / "rabbitmq-server").touch()
    (folder / "usr/lib/rabbitmq/bin").mkdir()
    link = folder / "usr/lib/rabbitmq/bin/rabbitmq-server"
    link.symlink_to(f"../lib/rabbitmq_server-{version}/sbin/rabbitmq-server")
    return folder


def test_version_is_read_from_the_folder(tmp_path: Path) -> None:
    """The version comes from the installation's folder, without running anything."""
    assert Installation(installation.PACKAGED, make_root(tmp_path, "4.3.6")).version == "4.3.6"


def test_version_is_empty_where_the_folder_is_silent(tmp_path: Path) -> None:
    """An installation in a folder without a version has none."""
    assert Installation(tmp_path).version == ""


def test_programs_of_a_root_run_in_its_chroot(tmp_path: Path) -> None:
    """A program in another root gets the data folder mounted inside, in a mount namespace of its own."""
    here = Installation(installation.PACKAGED, tmp_path)
    command = here.command("/usr/bin/epmd", Path("/data"), ["-port", "1"])
    assert command[:2] == ["unshare", "--mount"]
    assert command[-5:] == [str(tmp_path), "/data", "/usr/bin/epmd", "-port", "1"]
    assert here.inside(Path("/data")) == Path("/mnt")


def test_programs_of_this_machine_run_as_they_are() -> None:
    """Without a root the command is the program itself."""
    here = Installation(installation.PACKAGED)
    assert here.command(here.ctl, Path("/data"), ["status"]) == [here.ctl, "status"]
    assert here.inside(Path("/data")) == Path("/data")


def test_a_missing_rabbitmq_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where RabbitMQ is missing, the error holds the one command that installs it."""
    monkeypatch.setattr(installation, "PACKAGED", tmp_path / "nowhere")
    tool = tmp_path / "apt-get"
    tool.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BrokerSetupError, match="not installed here; this installs it: .*apt-get install -y rabbitmq-server"
    ):
        find_installation({"PATH": str(tmp_path)})


def test_where_no_package_tool_is_known_the_download_page_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a system without a known package tool the error points at RabbitMQ's own instructions."""
    monkeypatch.setattr(installation, "PACKAGED", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerSetupError, match="rabbitmq.com/docs/download"):
        find_installation({})


def test_rabbitmq_on_path_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no package is installed, the one on PATH is taken (a tarball, Homebrew)."""
    monkeypatch.setattr(installation, "PACKAGED", tmp_path / "nowhere")
    (tmp_path / "rabbitmq-server").touch(mode=0o755)
    assert find_installation({"PATH": str(tmp_path)}).bin == tmp_path.resolve()


def test_an_empty_root_is_refused(tmp_path: Path) -> None:
    """A root without RabbitMQ is an error that names the script that makes one."""
    with pytest.raises(BrokerSetupError, match="holds no RabbitMQ; scripts/rabbitmq-from-debian.sh"):
        find_installation({installation.ROOT_VARIABLE: str(tmp_path)})


def test_a_root_needs_the_root_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another user is told that only root may enter a chroot."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BrokerSetupError, match="only root may enter"):
        find_installation({installation.ROOT_VARIABLE: str(make_root(tmp_path, "4.0.5"))})
