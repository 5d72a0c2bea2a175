"""Every snippet in README.md and docs/ runs, page by page, in order, in a folder of its own.

How a page is read: a fenced block whose info string is `LANGUAGE FILE` is written to that file; a `python` block without a
file is run as a script; in a `console` block each line that begins with `$ ` is run by one bash for the whole page, so that
variables live on. A command that ends in `&` runs until the page ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import BrokerServer

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"^```(?P<language>\w+)(?: (?P<file>[\w./-]+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = ("python", "console", "yaml")
PAGE_TIMEOUT_SECONDS = 240
"""The page on migrations waits a minute, until every producer has heard of one."""


def script_of(page: str, folder: Path) -> str | None:
    """Write a page's files and turn its commands into one bash script; None where it has nothing to run."""
    lines: list[str] = []
    for number, block in enumerate(BLOCK.finditer(page)):
        language, name, text = block["language"], block["file"], block["text"]
        if name is not None:
            stored = folder / f"block{number}"
            stored.write_text(text)
            lines.append(f"mkdir -p $(dirname {name}) && cp {stored} {name}")
        elif language == "python":
            stored = folder / f"block{number}.py"
            stored.write_text(text)
            lines.append(f"PYTHONPATH=.${{PYTHONPATH:+:$PYTHONPATH}} python {stored}")
        elif language == "console":
            commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
            lines.extend(f"{line[:-1]} >>background.log 2>&1 &" if line.endswith("&") else line for line in commands)
    return "\n".join(lines) if lines else None


@pytest.mark.acceptance
@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_snippets_of_a_page_run(page: Path, vhost_url: str, broker_server: BrokerServer, tmp_path: Path) -> None:
    """A reader who types what the page says gets no error."""
    blocks, work = tmp_path / "blocks", tmp_path / "work"
    blocks.mkdir()
    work.mkdir()
    script = script_of((ROOT / page).read_text(), blocks)
    if script is None:
        assert not re.search(rf"^```({'|'.join(RUNNABLE)})\b", (ROOT / page).read_text(), re.MULTILINE)
        return
    environment = {
        **os.environ,
        "AMQPQ_BROKER_URL": vhost_url,
        "AMQPQ_MANAGEMENT_URL": broker_server.management_url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=PAGE_TIMEOUT_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    background = work / "background.log"
    said = background.read_text() if background.exists() else ""
    assert process.returncode == 0, f"{output}\n--- background ---\n{said}"
