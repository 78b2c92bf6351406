"""Nothing phones out: the command line under a Python that reports and refuses every attempt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from styleinv.encoder import NORMALISED_URL, VGG19_URL
from tests.conftest import IN_TURN, PROGRAM, ROOT

# Python imports this before anything else, in child processes as well.
GUARD = """
import os, sys

NETWORK = ("socket.connect", "socket.bind", "socket.send", "socket.getaddr", "socket.gethostby",
           "urllib.Request")

def refuse(event, arguments):
    if event.startswith(NETWORK):
        print(event, *arguments[:2], file=open(os.environ["ATTEMPTS"], "a"))
        if event != "urllib.Request":
            raise PermissionError("no network here")

sys.addaudithook(refuse)
"""
TINY = ("--size", "16", "--iterations", "2", "--out", "runs")


def guarded(folder: Path, *command: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command under the guard: how it ended, and what it asked of the network.

    The command works in `folder` / work. It must leave no file in its home.
    """
    guard, home, work, log = (folder / name for name in ("guard", "home", "work", "log"))
    for made in (guard, home, work):
        made.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    log.touch()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{guard}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "HOME": str(home),
        "ATTEMPTS": str(log),
    }
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert [path for path in home.rglob("*") if not path.is_dir()] == []
    return done, log.read_text().splitlines()


def test_the_guard_sees_and_refuses(tmp_path: Path) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://localhost')"
    child = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))"
    done, attempts = guarded(tmp_path, sys.executable, "-c", child)
    assert "no network here" in done.stderr
    assert len(attempts) == 2  # urllib's request and the socket below it


def test_plain_commands_ask_nobody(tmp_path: Path) -> None:
    files = ("--results", str(ROOT / "results"), "--file", str(ROOT / "book" / "claims.yml"))
    commands = [
        ("encoders",),
        ("invert", "bundled:dots", *TINY),
        ("invert", "skimage:coffee", "--encoder", "random", *TINY),
        ("sweep", "--style", "bundled:dots", "--layer", "relu_1_1", "--loss", "gram", *TINY),
        ("verify", "runs", "--rerun", "1"),
        ("claims", *files),
    ]
    done, attempts = guarded(tmp_path, sys.executable, "-c", IN_TURN, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith("Ended")]
    assert ended == [f"Ended {command[0]}: 0" for command in commands]
    assert attempts == []


@pytest.mark.parametrize(
    ("source", "url", "host"),
    [
        ("vgg19", VGG19_URL, "download.pytorch.org"),
        ("vgg19-normalised", NORMALISED_URL, "github.com"),
    ],
)
def test_who_asks_asks_only_its_host(tmp_path: Path, source: str, url: str, host: str) -> None:
    command = (str(PROGRAM), "invert", "bundled:dots", "--encoder", source, *TINY)
    done, attempts = guarded(tmp_path, *command)
    assert attempts == [f"urllib.Request {url} None", f"socket.getaddrinfo {host} 443"]
    assert (done.returncode, done.stdout) == (2, "")
    says, error = done.stderr.splitlines()
    assert says.startswith(f'Downloading: "{url}" to ')
    assert error.startswith(f"Error: encoder '{source}' cannot be downloaded from {url} to ")
    assert "no network here>; 'bundled', 'random' and" in error
    assert list((tmp_path / "work").iterdir()) == []
