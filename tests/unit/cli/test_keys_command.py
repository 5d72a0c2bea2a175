"""`amqpq keys` as a person sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from amqpq.cli.main import main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMQPQ_TOPOLOGY", raising=False)


def run(*arguments: str) -> Result:
    """Run `amqpq keys ...` in this process."""
    return CliRunner().invoke(main, ["keys", *arguments])


def private_lines(*files: str) -> list[str]:
    """Return the lines of key files that nobody may see."""
    return [line for file in files for line in Path(file).read_text().splitlines() if not line.startswith("-----")]


def test_new_says_what_it_wrote_and_what_to_do_next_and_never_the_key() -> None:
    """The files, the fingerprint, the lines for the topology."""
    result = run("new", "shop")
    assert result.exit_code == 0
    assert "keys/shop.pem  ed25519 private key" in result.stdout
    assert "key_id: shop" in result.stdout
    assert "amqpq keys trust shop shop.pub" in result.stdout
    for line in private_lines("keys/shop.pem"):
        assert line not in result.output


def test_new_makes_a_shared_secret_on_request() -> None:
    """In a folder of one's choice, as JSON for machines."""
    result = run("new", "shop", "--algorithm", "hmac-sha256", "--dir", "etc/keys", "--json")
    (info,) = json.loads(result.stdout)
    assert info["path"] == "etc/keys/shop.key"
    assert info["mode"] == "0600"
    for line in private_lines("etc/keys/shop.key"):
        assert line not in result.output


def test_new_does_not_replace_a_key() -> None:
    """Exit code 1 and the remedy on standard error."""
    run("new", "shop")
    result = run("new", "shop")
    assert result.exit_code == 1
    assert "error: keys/shop.pem exists" in result.stderr
    assert run("new", "shop", "--force").exit_code == 0


def test_list_shows_every_key_and_warns_of_readable_ones() -> None:
    """By name, kind and fingerprint; never the key."""
    run("new", "shop")
    run("new", "audit", "--algorithm", "hmac-sha256")
    Path("keys/shop.pem").chmod(0o644)
    result = run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["audit.key", "shop.pem", "shop.pub"]
    assert "chmod 600 keys/shop.pem" in lines[1]
    for line in private_lines("keys/shop.pem", "keys/audit.key"):
        assert line not in result.output
    listed = json.loads(run("list", "--json").stdout)
    assert [key["exposed"] for key in listed] == [False, True, False]


def test_list_without_keys_says_how_to_make_one() -> None:
    """No folder is an error, an empty one is not."""
    missing = run("list")
    assert missing.exit_code == 1
    assert "amqpq keys new NAME --dir keys" in missing.stderr
    Path("keys").mkdir()
    empty = run("list")
    assert empty.exit_code == 0
    assert "no keys in keys" in empty.stderr


def test_show_describes_the_files_of_one_key() -> None:
    """Both halves, with mode and fingerprint."""
    run("new", "shop")
    result = run("show", "shop")
    assert "ed25519 private key, mode 0600" in result.stdout
    assert result.stdout.count("fingerprint SHA256:") == 2
    for line in private_lines("keys/shop.pem"):
        assert line not in result.output
    assert [info["kind"] for info in json.loads(run("show", "shop", "--json").stdout)] == ["private", "public"]
    unknown = run("show", "stop")
    assert unknown.exit_code == 1
    assert "amqpq keys new stop" in unknown.stderr


def test_trust_adds_the_entry_and_keeps_the_rest_of_the_file() -> None:
    """The path is written as the topology file sees it; permissions stay."""
    run("new", "worker-1")
    text = "amqpq: 1   # format\nsecurity:\n  require: signed   # always\n"
    Path("topology.yaml").write_text(text)
    Path("topology.yaml").chmod(0o640)
    result = run("trust", "worker-1", "keys/worker-1.pub", "--may", "results", "--may", "web.*")
    assert result.exit_code == 0, result.output
    edited = Path("topology.yaml").read_text()
    assert edited.startswith(text)
    assert yaml.safe_load(edited)["security"]["trust"] == {
        "worker-1": {"key": "keys/worker-1.pub", "may": ["results", "web.*"]}
    }
    assert Path("topology.yaml").stat().st_mode & 0o777 == 0o640
    assert "fingerprint SHA256:" in result.stdout


def test_trust_finds_the_topology_by_option_and_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key outside the topology's folder is named by its whole path."""
    run("new", "a")
    for name in ("one", "two"):
        Path(name).mkdir()
        Path(name, "t.yaml").write_text("amqpq: 1\n")
    assert run("trust", "a", "keys/a.pub", "-t", "one/t.yaml").exit_code == 0
    monkeypatch.setenv("AMQPQ_TOPOLOGY", "two/t.yaml")
    assert run("trust", "a", "keys/a.pub").exit_code == 0
    for name in ("one", "two"):
        trust = yaml.safe_load(Path(name, "t.yaml").read_text())["security"]["trust"]
        assert trust == {"a": {"key": str(tmp_path / "keys" / "a.pub")}}


def test_trust_does_not_replace_an_entry_unless_forced() -> None:
    """Nothing is changed, and the exit code says so."""
    run("new", "a")
    Path("topology.yaml").write_text("security:\n  trust:\n    a: {key: old.pub}\n")
    result = run("trust", "a", "keys/a.pub")
    assert result.exit_code == 1
    assert "entry 'a' already (--force replaces it)" in result.stderr
    assert "old.pub" in Path("topology.yaml").read_text()
    assert run("trust", "a", "keys/a.pub", "--force").exit_code == 0
    assert "old.pub" not in Path("topology.yaml").read_text()


def test_trust_prints_the_lines_where_it_cannot_edit_safely() -> None:
    """The file stays as it was."""
    run("new", "a")
    Path("topology.yaml").write_text("{amqpq: 1}\n")
    result = run("trust", "a", "keys/a.pub")
    assert result.exit_code == 1
    assert "nothing was changed" in result.stderr
    assert "security:\n  trust:\n    a: {key: keys/a.pub}" in result.stderr
    assert Path("topology.yaml").read_text() == "{amqpq: 1}\n"


@pytest.mark.parametrize(
    "file,words",
    [
        ("keys/a.pem", "holds the private key; trust takes the public half (a.pub)"),
        ("keys/b.pub", "there is no key file"),
        ("topology.yaml", "holds no shared secret"),
    ],
)
def test_trust_refuses_what_is_no_public_key(file: str, words: str) -> None:
    """A private key never gets into a topology by mistake."""
    run("new", "a")
    Path("topology.yaml").write_text("amqpq: 1\n")
    result = run("trust", "a", file)
    assert result.exit_code == 1
    assert words in result.stderr
    assert Path("topology.yaml").read_text() == "amqpq: 1\n"


def test_trust_without_a_topology_says_how_to_name_one() -> None:
    """The default file is named."""
    run("new", "a")
    result = run("trust", "a", "keys/a.pub")
    assert result.exit_code == 1
    assert "no topology file at topology.yaml; name one with -t FILE" in result.stderr


@pytest.mark.parametrize("command", ["new", "list", "show", "trust"])
def test_every_command_has_examples_in_its_help(command: str) -> None:
    """People copy examples."""
    assert "Examples:\n" in run(command, "--help").stdout
