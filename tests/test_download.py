"""Downloads against a host on this machine that cuts, forgets, lies and holds its breath."""

import contextlib
import hashlib
import http.server
import io
import os
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from styleinv import InputError, download, encoder, load_encoder
from styleinv.files import alone
from tests.test_encoder import torchvision_state

DATE = "Sat, 01 Jun 2019 12:00:00 GMT"
CONTENT = np.random.default_rng(0).bytes(300_000)


def prefix(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


@dataclass
class Host:
    """What the host has, how it misbehaves, and what it was asked."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    modified: str | None = None
    knows_ranges: bool = True
    sends: int | None = None  # bytes of an answer after which it cuts the connection
    holds: threading.Event | None = None  # ... or, with this, waits before it does
    status: int = 200
    location: str = ""
    length: int | None = None  # what it says the length is
    speaks_http: bool = True
    address: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for headers in self.asked]

    def answer(self, headers: dict[str, str]) -> tuple[int, int]:
        """The status and where in the content the answer starts."""
        start = int(headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if self.status != 200 or not self.knows_ranges or "Range" not in headers:
            return self.status, 0
        if headers.get("If-Range") not in (None, self.etag, self.modified):
            return 200, 0
        return (206, start) if start < len(self.content) else (416, len(self.content))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        host: Host = self.server.host
        asked = dict(self.headers)
        host.asked.append(asked)
        if not host.speaks_http:
            self.wfile.write(b"good morning\r\n\r\n")
            return
        status, start = host.answer(asked)
        body = host.content[start:] if status < 300 else b""
        self.send_response(status)
        if host.etag is not None:
            self.send_header("ETag", host.etag)
        if host.modified is not None:
            self.send_header("Last-Modified", host.modified)
        if host.location:
            self.send_header("Location", host.location)
        self.send_header("Content-Length", str(len(body) if host.length is None else host.length))
        self.end_headers()
        self.wfile.write(body[: host.sends])
        if host.holds is not None:
            host.holds.wait(60)
            self.wfile.write(body[host.sends :])

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle is what is asked for here."""


@contextlib.contextmanager
def listening(host: Host, context: ssl.SSLContext | None = None) -> Iterator[Host]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.host = host
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        host.address = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}/weights.pth"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield host
        if host.holds is not None:
            host.holds.set()
        server.shutdown()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key with a certificate for this machine that nobody knows yet."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "openssl.cnf").write_text(
        "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n"
        "[name]\nCN = test\n[extensions]\nsubjectAltName = IP:127.0.0.1\n"
    )
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-config", "openssl.cnf", "-keyout", "both.pem", "-out", "certificate.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    with (folder / "both.pem").open("a") as both:
        both.write((folder / "certificate.pem").read_text())
    return folder / "both.pem"


@pytest.fixture(scope="module")
def context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(scope="module")
def trusted(certificate: Path) -> Iterator[pytest.MonkeyPatch]:
    """This process and its children believe the certificate and use no proxy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate.with_name("certificate.pem")))
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        yield patch


@pytest.fixture
def host(trusted: pytest.MonkeyPatch, context: ssl.SSLContext) -> Iterator[Host]:
    with listening(Host(), context) as host:
        yield host


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "weights.pth"


def fetch(host: Host, target: Path) -> None:
    download.download(host.address, target, prefix(host.content))


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def part(target: Path) -> Path:
    return target.with_name("weights.pth.part")


def cut_short(host: Host, target: Path, sends: int = 100_000) -> None:
    """A download that the host cuts."""
    host.sends = sends
    with pytest.raises(InputError, match=r"what came is kept, the next try goes on from there$"):
        fetch(host, target)
    host.sends = None


def test_a_download(host: Host, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(host, target)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]
    assert host.ranges == [None]
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(host: Host, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(download, "console", Console(file=screen, force_terminal=True))
    fetch(host, target)
    assert "293.0/293.0 KiB" in screen.getvalue()


@pytest.mark.parametrize(
    ("etag", "modified", "condition"),
    [
        ('"one"', None, '"one"'),
        ('"one"', DATE, '"one"'),
        ('W/"weak"', DATE, DATE),
        ('W/"weak"', None, None),
        (None, DATE, DATE),
        (None, None, None),
    ],
)
def test_after_a_cut_only_the_rest_is_asked_for(
    host: Host, target: Path, etag: str | None, modified: str | None, condition: str | None
) -> None:
    """Under the condition that the file is the same still, if the host has one that counts."""
    host.etag, host.modified = etag, modified
    cut_short(host, target)
    assert not target.exists()
    there = part(target).stat().st_size
    assert part(target).read_bytes() == CONTENT[:there]
    assert there > 0
    fetch(host, target)
    assert host.ranges == [None, f"bytes={there}-"]
    assert host.asked[1].get("If-Range") == condition
    assert target.read_bytes() == CONTENT
    assert left(target) == ["weights.pth"]


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(1, 150_000),
    cuts=st.lists(st.integers(0, 70_000), max_size=4),
)
def test_any_cuts_give_the_same_file(
    size: int,
    cuts: list[int],
    trusted: pytest.MonkeyPatch,
    context: ssl.SSLContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    target = tmp_path_factory.mktemp("cuts") / "weights.pth"
    with listening(Host(CONTENT[:size]), context) as host:
        for host.sends in [*cuts, None]:
            there = part(target).stat().st_size if part(target).exists() else 0
            with contextlib.suppress(InputError):
                fetch(host, target)
            if target.exists():
                break
            assert host.ranges[-1] == (f"bytes={there}-" if there else None)
            assert part(target).read_bytes() == CONTENT[: part(target).stat().st_size]
    assert target.read_bytes() == CONTENT[:size]
    assert left(target) == ["weights.pth"]


@pytest.mark.parametrize("change", [{"etag": '"two"'}, {"knows_ranges": False}])
def test_starts_over_and_says_so(
    host: Host, target: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a host whose file is another one by now, or that knows no ranges."""
    cut_short(host, target)
    host.content = CONTENT[::-1]
    for name, value in change.items():
        setattr(host, name, value)
    fetch(host, target)
    assert target.read_bytes() == CONTENT[::-1]
    assert capsys.readouterr().err.startswith("Starting over: the server does not go on")


def test_a_part_that_is_the_whole_already(host: Host, target: Path) -> None:
    part(target).write_bytes(CONTENT)
    fetch(host, target)
    assert host.ranges == [f"bytes={len(CONTENT)}-"]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT + b"more", b"x" * 1000])
def test_a_wrong_part_is_thrown_away(host: Host, target: Path, wrong: bytes) -> None:
    part(target).write_bytes(wrong)
    with pytest.raises(InputError, match=r"expected SHA-256 prefix .* thrown away"):
        fetch(host, target)
    assert left(target) == []
    fetch(host, target)
    assert target.read_bytes() == CONTENT


def test_another_content_is_thrown_away(host: Host, target: Path) -> None:
    with pytest.raises(InputError, match=r"expected SHA-256 prefix 01234567 .* starts over$"):
        download.download(host.address, target, "01234567")
    assert left(target) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"status": 404}, "HTTP Error 404: Not Found$"),
        ({"status": 416}, "HTTP Error 416: .*Range Not Satisfiable$"),
        ({"status": 500}, "HTTP Error 500: Internal Server Error$"),
        ({"speaks_http": False}, "good morning"),
        ({"length": 10**15}, "1,000,000,000,000,000 bytes are to come, but only .* are free there"),
        ({"status": 302, "location": "ftp://127.0.0.1/"}, "ftp is refused, only https is allowed$"),
        ({"status": 302, "location": "file:///etc/hosts"}, "not allowed$"),
    ],
)
def test_what_a_host_may_say_instead(
    host: Host, target: Path, change: dict[str, object], match: str
) -> None:
    for name, value in change.items():
        setattr(host, name, value)
    with pytest.raises(InputError, match=f"^{host.address} cannot be downloaded .*{match}"):
        fetch(host, target)
    assert left(target) == []


def test_a_length_that_is_promised_but_not_sent(host: Host, target: Path) -> None:
    host.length = len(CONTENT) + 1
    with pytest.raises(InputError, match="the connection broke; what came is kept"):
        fetch(host, target)


def test_a_host_that_falls_silent(
    host: Host, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SILENCE", 0.3)
    host.sends, host.holds = 100_000, threading.Event()
    with pytest.raises(InputError, match="timed out; what came is kept"):
        fetch(host, target)
    assert part(target).stat().st_size > 0


def test_nobody_there(host: Host, target: Path) -> None:
    with pytest.raises(InputError, match="refused"):
        download.download("https://127.0.0.1:1/weights.pth", target, "01234567")
    assert left(target) == []


def test_plain_http_is_refused_before_anything_is_sent(host: Host, target: Path) -> None:
    with listening(Host()) as plain:
        host.status, host.location = 302, plain.address
        for address in (plain.address, host.address):
            with pytest.raises(InputError, match="http is refused, only https is allowed"):
                download.download(address, target, prefix(CONTENT))
        assert plain.asked == []
    assert len(host.asked) == 1
    assert left(target) == []


def test_a_redirect_to_another_https_host(
    host: Host, target: Path, context: ssl.SSLContext
) -> None:
    cut_short(host, target)
    with listening(Host(), context) as mirror:
        host.status, host.location = 302, mirror.address
        fetch(host, target)
        assert mirror.ranges == host.ranges[1:] != [None]
    assert target.read_bytes() == CONTENT


def test_certificates_are_checked(
    host: Host, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_another_name = host.address.replace("127.0.0.1", "localhost")
    with pytest.raises(InputError, match="not valid for 'localhost'"):
        download.download(for_another_name, target, prefix(CONTENT))
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(InputError, match="certificate verify failed"):
        fetch(host, target)
    assert (host.asked, left(target)) == ([], [])


def test_a_disk_that_takes_no_more(host: Host, target: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, before[1]))
    try:
        with pytest.raises(InputError, match="File too large; what came is kept"):
            fetch(host, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fetch(host, target)
    assert host.ranges == [None, "bytes=120000-"]
    assert target.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written(host: Host, target: Path) -> None:
    part(target).mkdir()
    with pytest.raises(InputError, match=r"cannot be downloaded to .*directory"):
        fetch(host, target)
    (target.parent / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"folder '.*file' cannot be written"),
        alone(target.parent / "file" / "lock", "waiting"),
    ):
        pass


class TestVgg19:
    """torchvision's file cannot be had everywhere; one of its layout stands in for it."""

    @pytest.fixture
    def weights(self, tmp_path: Path) -> bytes:
        state = torchvision_state() | {"classifier.6.bias": torch.zeros(1000)}
        otherwise_laid_out = state["features.2.weight"].to(memory_format=torch.channels_last)
        state["features.2.weight"] = otherwise_laid_out
        torch.save(state, tmp_path / "served.pth")
        return (tmp_path / "served.pth").read_bytes()

    @pytest.fixture
    def cache(
        self, host: Host, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        host.content = weights
        monkeypatch.setattr(encoder, "VGG19_URL", host.address)
        monkeypatch.setattr(encoder, "VGG19_HASH_PREFIX", prefix(weights))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
        return Path(encoder.platformdirs.user_cache_dir("styleinv"))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command line in its own process, whose `vgg19` comes from the host as well."""
        code = (
            "import sys; from styleinv import cli, encoder; "
            "encoder.VGG19_URL, encoder.VGG19_HASH_PREFIX = sys.argv[1:3]; "
            "del sys.argv[1:3]; cli.main()"
        )
        source = [encoder.VGG19_URL, encoder.VGG19_HASH_PREFIX]
        return subprocess.Popen(
            [sys.executable, "-c", code, *source, *arguments, "--encoder", "vgg19"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_keeps_only_what_is_needed(
        self, cache: Path, host: Host, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = load_encoder("vgg19")
        assert capsys.readouterr().err == (
            f"Downloading {host.address} (548 MB, once; 1 MB of it is kept)\n"
        )
        (kept,) = cache.iterdir()
        assert kept.stat().st_size < 1_100_000
        assert load_encoder("vgg19").sha256 == first.sha256
        assert len(host.asked) == 1
        assert capsys.readouterr().err == ""

    def test_what_is_downloaded_but_not_cut_yet_is_not_asked_for_again(
        self, cache: Path, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise InputError("file 'x' cannot be written: No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(encoder, "write_atomically", full)
            with pytest.raises(InputError, match=r"^encoder 'vgg19': file 'x' cannot be written"):
                load_encoder("vgg19")
        load_encoder("vgg19")
        assert len(host.asked) == 1
        assert len(list(cache.iterdir())) == 1

    def test_errors_name_the_alternatives(self, cache: Path, host: Host) -> None:
        host.status = 404
        with pytest.raises(InputError, match=r"^encoder 'vgg19': .*404.*'bundled', 'random' and"):
            load_encoder("vgg19")
        assert list(cache.iterdir()) == []

    def test_a_cache_that_cannot_be_made(self, cache: Path, host: Host) -> None:
        cache.parent.mkdir(parents=True)
        cache.write_text("a file where the folder should be")
        with pytest.raises(InputError, match=r"^encoder 'vgg19': folder .* cannot be written"):
            load_encoder("vgg19")
        assert host.asked == []

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
    def test_goes_on_after_a_signal(
        self, cache: Path, host: Host, tmp_path: Path, number: int, code: int
    ) -> None:
        host.sends, host.holds = 500_000, threading.Event()
        process = self.start("invert", "bundled:dots", "--out", str(tmp_path / "out"))
        half = cache / f"vgg19-{prefix(host.content)}.pth.part"
        deadline = time.monotonic() + 60
        while not half.exists() or half.stat().st_size < 400_000:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (code, "")
        assert len(err.splitlines()) == 1, err
        there = half.stat().st_size
        host.holds.set()
        load_encoder("vgg19")
        assert host.ranges == [None, f"bytes={there}-"]
        (kept,) = cache.iterdir()
        assert not (tmp_path / "out").exists()
        expected = encoder.Encoder("expected", encoder.TORCHVISION, torchvision_state())
        assert load_encoder(kept).sha256 == expected.sha256

    def test_two_at_once_download_once(self, cache: Path, host: Host, tmp_path: Path) -> None:
        host.sends, host.holds = 500_000, threading.Event()
        options = ("invert", "bundled:dots", "--size", "16", "--iterations", "1", "--out")
        both = [self.start(*options, str(tmp_path / name)) for name in ("one", "two")]
        said = [process.stderr.readline() for process in both]
        assert sorted(line.split()[0] for line in said) == ["Downloading", "Note:"]
        host.holds.set()
        for process in both:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
        assert len(host.asked) == 1
        assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
