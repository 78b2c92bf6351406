"""Nothing phones out: the command line under a Python that reports and refuses every attempt."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from styleinv.encoder import VGG19_HASH_PREFIX
from tests.conftest import IN_TURN, PROGRAM, ROOT

# Python imports this before anything else, in child processes as well.
GUARD = """
import os, sys

NETWORK = ("socket.connect", "socket.bind", "socket.send", "socket.getaddr", "socket.gethostby",
           "urllib.Request")

def refuse(event, arguments):
    if event.startswith(NETWORK):
        said = " ".join(str(argument) for argument in arguments[:2])
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(f"{event} {said}\\n")
        if event != "urllib.Request":
            raise PermissionError("no network here")

sys.addaudithook(refuse)
"""
TINY = ("--size", "16", "--iterations", "2", "--out", "runs")


class Guarded:
    """A home and a working folder of its own, and the guard in every Python started here."""

    def __init__(self, folder: Path) -> None:
        self.home, self.work, self.attempts = (folder / name for name in ("home", "work", "log"))
        for made in (self.home, self.work, folder / "guard"):
            made.mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(GUARD)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{folder / 'guard'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "ATTEMPTS": str(self.attempts),
        }

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in command]
        return subprocess.run(
            words, cwd=self.work, env=self.environment, capture_output=True, text=True, check=False
        )

    def attempted(self) -> list[str]:
        return self.attempts.read_text().splitlines() if self.attempts.exists() else []

    def left_at_home(self) -> list[Path]:
        return [path for path in self.home.rglob("*") if not path.is_dir()]


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


def test_the_guard_sees_and_refuses(guarded: Guarded) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://localhost')"
    child = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))"
    assert "no network here" in guarded.run(sys.executable, "-c", child).stderr
    assert len(guarded.attempted()) == 2  # urllib's request and the socket below it


def test_plain_commands_ask_nobody(guarded: Guarded) -> None:
    files = ("--results", str(ROOT / "results"), "--file", str(ROOT / "book" / "claims.yml"))
    commands = [
        ("--help",),
        ("styles",),
        ("encoders",),
        ("invert", "bundled:dots", *TINY),
        ("invert", "skimage:coffee", "--encoder", "random", *TINY),
        ("sweep", "--style", "bundled:dots", "--layer", "relu_1_1", "--loss", "gram", *TINY),
        ("verify", "runs", "--rerun", "1"),
        ("claims", *files),
    ]
    done = guarded.run(sys.executable, "-c", IN_TURN, json.dumps(commands))
    assert done.returncode == 0, done.stderr
    ended = [line for line in done.stdout.splitlines() if line.startswith("Ended")]
    assert ended == [f"Ended {command[0]}: 0" for command in commands]
    assert (guarded.attempted(), guarded.left_at_home()) == ([], [])


def test_vgg19_is_the_one_that_asks_and_only_its_host(guarded: Guarded) -> None:
    done = guarded.run(PROGRAM, "invert", "bundled:dots", "--encoder", "vgg19", *TINY)
    url = f"https://download.pytorch.org/models/vgg19-{VGG19_HASH_PREFIX}.pth"
    host = "socket.getaddrinfo download.pytorch.org 443"
    assert guarded.attempted() == [f"urllib.Request {url} None", host]
    assert (done.returncode, done.stdout) == (2, "")
    says, error = done.stderr.splitlines()
    assert says.startswith(f"Downloading {url} (548 MB, once")
    assert error.startswith(f"Error: encoder 'vgg19': {url} cannot be downloaded to ")
    assert ": no network here; 'bundled', 'random' and" in error
    assert guarded.left_at_home() == list(guarded.work.iterdir()) == []


def test_runs_where_there_is_no_network_at_all(guarded: Guarded) -> None:
    """The guard sees Python's own sockets only, so it cannot be sure of this."""
    unshare = shutil.which("unshare")
    alone = (unshare, "--net", "--map-root-user")
    if unshare is None or guarded.run(*alone, "true").returncode != 0:
        pytest.skip("this system lets nobody but root take the network away (unshare)")
    done = guarded.run(*alone, PROGRAM, "invert", "bundled:dots", *TINY)
    assert done.returncode == 0, done.stderr
