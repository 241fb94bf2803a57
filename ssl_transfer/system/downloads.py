"""Download of a published file: resumable, verified by checksum, stored atomically.

<folder>/<name>                          the file; gets this name when it is complete and verified
<folder>/.downloads/<name>/part          the bytes received so far
                           version       the file's version (ETag or date) as the server names it
                           claim.json    exists while a process downloads; others wait
"""

import hashlib
import http.client
import logging
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ssl_transfer.system import claims
from ssl_transfer.system.plain_text import printable

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT_SECONDS = 60.0
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Pause before each further attempt; an attempt that received bytes resets the count."""
MOST_ATTEMPTS = 100
"""Limit on all attempts, including those that received bytes."""
LARGEST = 100 << 30
"""Largest size of a file, in bytes; a longer reply is taken for endless."""
SLOWEST = 1000
"""Lowest accepted rate in bytes per second, averaged over ``TIMEOUT_SECONDS``."""
_SPARE = 64 << 20  # bytes that stay free on the disk
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_BROKEN = (
    http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError, urllib.error.URLError,
)  # fmt: skip


class _BrokenOff(ConnectionError):
    """The reply differs from what its headers announced, or was too slow."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def redirect_request(  # urllib's names
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request for the redirect's target.

        Raises:
            ValueError: in one sentence, if the target has another scheme.
        """
        kinds = ("https://",) if req.full_url.startswith("https://") else ("https://", "http://")
        if not newurl.lower().startswith(kinds):
            if fp is not None:
                fp.close()
            raise ValueError(
                f"{req.full_url} must lead to a file on a web server as safe as itself, but leads "
                f"to {_said(newurl)}; fetch the file elsewhere."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


def fetch(url: str, path: Path, *, sha256: str | None = None, md5: str | None = None) -> None:
    """Download a file unless it exists; wait if another process is downloading it.

    Args:
        url: http or https; redirects are followed.
        path: the file; it appears only when it is complete.
        sha256: expected checksum in hexadecimal digits, or its first digits.
        md5: likewise, for publishers that give no sha256.

    Raises:
        ValueError: in one sentence, if the server does not have the file or has another one.
        OSError: in one sentence, if there is no connection or no space; the received part is kept
            and the next call resumes from it.
    """
    if not re.match(r"https?://", url):
        raise ValueError(f"`url` must start with http:// or https://, but is {url!r}.")
    folder = path.parent / ".downloads" / path.name

    def say_waiting(owner: dict[str, object]) -> None:
        log.info("waiting for %s, which downloads `%s`", claims.describe(owner), path)

    if path.exists():
        return
    try:
        with claims.claimed(folder, finished=path.exists, waiting=say_waiting, alone=True) as ours:
            if ours:
                _arrive(url, folder, path)
                _check(folder / "part", url, {"sha256": sha256, "md5": md5})
                (folder / "part").replace(path)
                (folder / "version").unlink(missing_ok=True)
        _remove_if_empty(folder)
    except FileNotFoundError:
        if not path.exists():  # otherwise another process finished and removed the folder
            raise
    except PermissionError as error:
        raise OSError(
            f"`{path.parent}` must be writable for a download, but is not ({error}); set "
            "paths.weights, or ask the folder's owner to put the file there."
        ) from error


def _arrive(url: str, folder: Path, path: Path) -> None:
    """Complete ``folder/part``, retrying after transient failures."""
    part, failures = folder / "part", 0
    for attempt in range(1, MOST_ATTEMPTS + 1):
        before = _size(part)
        try:
            _attempt(url, folder, path)
            return
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                    if error.headers.get("Content-Range") == f"bytes */{before}":
                        return  # the part was already complete when the last call stopped
                    part.unlink()
                    continue
                if error.code not in _TRANSIENT:
                    raise ValueError(
                        f"`{path.name}` must be at {url}, but the server answers {error.code} "
                        f"{_said(error.reason)}; fetch it elsewhere and put it at `{path}`."
                    ) from error
            reason: Exception = error
        except _BROKEN as error:
            reason = error
        failures = 0 if _size(part) > before else failures
        # Without any connection, waiting rarely helps.
        refused = type(reason) is urllib.error.URLError and not _size(part)
        if failures == (1 if refused else len(PAUSES_SECONDS)) or attempt == MOST_ATTEMPTS:
            raise OSError(_unreachable(url, path, _size(part), reason)) from reason
        log.info("the download of %s broke off at %s (%s); going on", path.name,
                 _megabytes(_size(part)), reason)  # fmt: skip
        time.sleep(PAUSES_SECONDS[failures])
        failures += 1


def _attempt(url: str, folder: Path, path: Path) -> None:
    """Append the bytes of one connection to ``folder/part``."""
    part, version = folder / "part", folder / "version"
    headers = {"User-Agent": "ssl_transfer", "Accept-Encoding": "identity"}
    # Without a version, the two parts might come from different files.
    if _size(part) and version.exists():
        headers |= {"Range": f"bytes={_size(part)}-", "If-Range": version.read_text()}
    with _OPENER.open(  # `fetch` checked the scheme
        urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS
    ) as reply:
        if reply.headers.get_content_type() == "text/html":
            raise ValueError(
                f"`{path.name}` must be at {url}, but there is a web page; open it in a browser, "
                f"fetch the file and put it at `{path}`."
            )
        packed = reply.headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in ("identity", ""):
            raise ValueError(
                f"{url} must be sent uncompressed, but the server packs it ({_said(packed)}); "
                f"fetch it otherwise and put it at `{path}`."
            )
        start = _size(part) if reply.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if start and not reply.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _BrokenOff("another part than the missing one came")
        length = reply.headers.get("Content-Length")
        chunked = "chunked" in reply.headers.get("Transfer-Encoding", "").lower()
        if length is None and not chunked:
            raise ValueError(
                f"{url} must say how long the file is, but does not, so that half of it could "
                f"pass for the whole; fetch it otherwise and put it at `{path}`."
            )
        total = None if length is None else start + _length(length, url)
        if (total or 0) > LARGEST:
            raise ValueError(_endless(url))
        _check_space(folder, path, 0 if total is None else total - start)
        if start == 0:
            part.unlink(missing_ok=True)
            _note_version(version, reply.headers.get("ETag"), reply.headers.get("Last-Modified"))
        _receive(reply, part, path, start, total)
        if _size(part) > LARGEST:
            part.unlink()
            raise ValueError(_endless(url))


def _length(text: str, url: str) -> int:
    """Return the length that a server states.

    Raises:
        ValueError: in one sentence, if it is not a number.
    """
    if re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) is None:
        raise ValueError(
            f"{url} must say how long the file is, but says {_said(text)!r}; fetch it otherwise."
        )
    return int(text)


def _endless(url: str) -> str:
    return (
        f"{url} must be a file of at most {LARGEST >> 30} GB, but is longer or has no end; check "
        "the address."
    )


def _said(text: object) -> str:
    """Return a server's text on one short line, without control characters."""
    return printable(" ".join(str(text).split()))[:200]


def _note_version(version: Path, etag: str | None, modified: str | None) -> None:
    """Save the file's version for ``If-Range``, which takes no weak tags (RFC 9110, 13.1.5)."""
    name = etag if etag and not etag.startswith("W/") else modified
    if name:
        version.write_text(name)
    else:
        version.unlink(missing_ok=True)


def _receive(
    reply: http.client.HTTPResponse, part: Path, path: Path, start: int, total: int | None
) -> None:
    # `disable=None`: no progress bar in a log file.
    with (
        part.open("ab") as file,
        tqdm(total=total, initial=start, desc=path.name, unit="B", unit_scale=True,
             disable=None, leave=False) as bar,
    ):  # fmt: skip
        arrived, since, window = start, time.monotonic(), 0
        while arrived <= LARGEST and (total is None or arrived < total):
            content = reply.read1(min(CHUNK, (total or LARGEST + CHUNK) - arrived))
            if not content:
                break
            if total is None:  # the length is unknown
                _check_space(part.parent, path, len(content))
            _append(file, content, path)
            bar.update(len(content))
            arrived, window = arrived + len(content), window + len(content)
            if (passed := time.monotonic() - since) > TIMEOUT_SECONDS:
                if window < SLOWEST * passed:
                    raise _BrokenOff(f"less than {SLOWEST} bytes per second came")
                since, window = time.monotonic(), 0
        _append(file, b"", path)
    if total is not None and _size(part) != total:
        raise _BrokenOff(f"{_megabytes(_size(part))} of {_megabytes(total)} came")


def _append(file: IO[bytes], content: bytes, path: Path) -> None:
    """Write a piece; an empty piece flushes the file to the disk."""
    try:
        file.write(content)
        if not content:
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(
            f"`{path}` must be writable with space left on its disk, but saving failed ({error}); "
            "free some space and start again: it goes on where it stopped."
        ) from error


def _check_space(folder: Path, path: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing and free < missing + _SPARE:
        raise OSError(
            f"`{path}` needs {_megabytes(missing)} of free space on its disk, and "
            f"{_megabytes(_SPARE)} to spare, but there are {_megabytes(free)}; free some, or set "
            "paths.weights."
        )


def _check(part: Path, url: str, expected: dict[str, str | None]) -> None:
    """Compare the checksums; remove a file with a wrong one."""
    for kind, digits in expected.items():
        if digits is None:
            continue
        actual = checksum(part, kind)
        if not actual.startswith(digits.lower()):
            part.unlink()
            raise ValueError(
                f"The {kind} of {url} must be {digits}, but is {actual}; what was downloaded is "
                "removed: try again, and if it stays so the published file has changed."
            )
    if not any(expected.values()):
        log.info("%s: no checksum is published; its sha256 is %s", url, checksum(part, "sha256"))


def checksum(path: Path, kind: str) -> str:
    """Return a file's ``sha256`` or ``md5`` in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _unreachable(url: str, path: Path, arrived: int, reason: Exception) -> str:
    why = getattr(reason, "reason", None) or reason
    if arrived:
        return (
            f"`{path.name}` must arrive whole from {url}, but the connection broke off again and "
            f"again ({why}); the same command goes on from the {_megabytes(arrived)} "
            "already downloaded."
        )
    return (
        f"`{path.name}` must be fetched from {url}, but it cannot be fetched now ({why}); run the "
        f"same command later or where there is a connection, or put the file at `{path}`."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _remove_if_empty(folder: Path) -> None:
    for empty in (folder, folder.parent):
        try:
            empty.rmdir()
        except OSError:  # another download, or another process, still uses it
            return
