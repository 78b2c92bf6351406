"""A large file from the network: over TLS, resumed where it was cut off, checked by its hash."""

import hashlib
import shutil
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import NoReturn, cast
from urllib.error import HTTPError, URLError
from urllib.request import BaseHandler, HTTPSHandler, Request, build_opener

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from styleinv.errors import InputError

SILENCE = 30  # seconds without a byte after which a connection counts as broken
CHUNK = 1 << 16

console = Console(stderr=True, soft_wrap=True, highlight=False)


def download(url: str, target: Path, sha256_prefix: str) -> None:
    """Download `url` to `target`, which appears whole and with the right hash, or not at all.

    What came before an interruption is kept beside `target`; the next call asks for the rest.

    Args:
        url: an https address; neither it nor a redirect may lead to an unencrypted one.
        target: the file to make, in a folder that exists. One process at a time, see `files.alone`.
        sha256_prefix: the first hexadecimal digits of the file's SHA-256.

    Raises:
        InputError: the address is unreachable or untrusted, the connection broke, the file cannot
            be written, or its hash is another one.
    """
    part = target.with_name(f"{target.name}.part")
    version = target.with_name(f"{target.name}.version")
    try:
        _complete(url, part, version)
        with part.open("rb") as file:
            matches = hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256_prefix)
        version.unlink(missing_ok=True)
        if matches:
            part.replace(target)
        else:
            part.unlink()
    except (OSError, HTTPException, ValueError) as error:
        kept = "; what came is kept, the next try goes on from there" if part.exists() else ""
        raise InputError(
            f"{url} cannot be downloaded to {str(target.parent)!r}: {_reason(error)}{kept}"
        ) from error
    if not matches:
        raise InputError(
            f"what came from {url} does not have the expected SHA-256 prefix {sha256_prefix} and "
            "was thrown away; the next try starts over"
        )


class _TlsOnly(BaseHandler):
    """Sees every request before it is sent, those after a redirect as well."""

    def http_request(self, request: Request) -> NoReturn:
        raise URLError(f"{request.type} is refused, only https is allowed")

    ftp_request = http_request


def _complete(url: str, part: Path, version: Path) -> None:
    """Append to `part` what it lacks; `version` holds which version of the file it is part of."""
    there = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "styleinv"})
    if there:
        request.add_header("Range", f"bytes={there}-")
        if version.exists():
            request.add_header("If-Range", version.read_text())
    opener = build_opener(_TlsOnly, HTTPSHandler(context=ssl.create_default_context()))
    try:
        opened = opener.open(request, timeout=SILENCE)
    except HTTPError as error:
        if there and error.code == 416:  # nothing is left to send; the hash tells whether it fits
            return
        raise
    with cast(HTTPResponse, opened) as response:
        if there and response.status != 206:
            console.print("Starting over: the server does not go on with the earlier download")
            there = 0
        missing, free = response.length, shutil.disk_usage(part.parent).free
        if missing is not None and missing > free:
            raise OSError(f"{missing:,} bytes are to come, but only {free:,} are free there")
        total = None if missing is None else there + missing
        with part.open("ab" if there else "wb") as file, _progress(there, total) as advance:
            if not there:
                _remember(version, response.headers)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                advance(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError("the connection broke")


def _remember(version: Path, headers: HTTPMessage) -> None:
    """Keep what a later `If-Range` header may say: a strong ETag, else a date, else nothing."""
    version.unlink(missing_ok=True)
    etag = headers.get("ETag", "")
    known = etag if etag.startswith('"') else headers.get("Last-Modified")
    if known:
        version.write_text(known)


@contextmanager
def _progress(there: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total, completed=there)
        yield lambda count: progress.advance(bar, count)


def _reason(error: Exception) -> str:
    """In the words of what failed, without those that urllib wraps around them."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        return str(error.reason)
    return str(error)
