"""Against a web server in a thread of this process."""

import contextlib
import hashlib
import http.server
import logging
import re
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from ssl_transfer import models
from ssl_transfer.system import claims, downloads
from ssl_transfer.system.downloads import fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TINY = {
    "_target_": "ssl_transfer.models.small_resnet.small_resnet", "name": "tiny", "width": 2,
    "preprocessing": {"size": 32, "resize": None},
}  # fmt: skip
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one file in the way that a test asks for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.break_after: list[int] = []  # bytes sent before each of the first connections breaks
        self.statuses: list[int] = []  # of the first answers, in place of the file
        self.seen: list[tuple[str | None, int]] = []  # the range asked for, the status given
        self.length = True
        self.delay = 0.0
        self.wrong_start = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        time.sleep(server.delay)
        if server.statuses:
            status = server.statuses.pop(0)
            server.seen.append((asked, status))
            self.send_error(status)
            return
        start, status = 0, 200
        if asked and self.headers.get("If-Range") == server.headers.get("ETag"):
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            assert found is not None
            start, status = int(found[1]), 206
        server.seen.append((asked, status))
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        if status == 206:
            first = start - 1 if server.wrong_start else start
            server.wrong_start = False
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/*")
        if server.length:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        stop = server.break_after.pop(0) if server.break_after else len(server.content)
        self.wfile.write(server.content[start:][:stop])

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSES_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(downloads, "CHUNK", 1 << 14)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "weights.pth"


def _refusal(error: type[Exception], server: Server, target: Path, **sums: str) -> str:
    with pytest.raises(error) as caught:
        fetch(server.url, target, **sums)
    assert not target.exists()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_file_is_fetched_once_and_nothing_else_is_left(server: Server, target: Path) -> None:
    for _ in range(2):
        fetch(server.url, target, sha256=SHA256, md5=MD5[:8])
        assert target.read_bytes() == CONTENT
    assert server.seen == [(None, 200)]
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server, target: Path) -> None:
    server.break_after = [100_000, 50_000, 25_000, 12_500]  # more often than it may fail in a row
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert [asked for asked, _ in server.seen] == [
        None, "bytes=100000-", "bytes=150000-", "bytes=175000-", "bytes=187500-",
    ]  # fmt: skip
    assert {status for _, status in server.seen[1:]} == {206}


def test_a_download_that_was_given_up_goes_on_with_the_next_call(
    server: Server, target: Path
) -> None:
    server.break_after = [100_000, 0, 0]
    sentence = _refusal(OSError, server, target)
    assert "the same command goes on from the 0.1 MB already downloaded" in sentence
    fetch(server.url, target, sha256=SHA256)
    assert server.seen[-1] == ("bytes=100000-", 206)
    assert target.read_bytes() == CONTENT


def test_halves_of_two_versions_never_meet(server: Server, target: Path) -> None:
    server.break_after = [100_000, 0, 0]
    _refusal(OSError, server, target)
    server.content, server.headers = CONTENT[::-1], {"ETag": '"two"'}
    fetch(server.url, target)
    assert server.seen[-1] == ("bytes=100000-", 200)
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_name_of_the_version_the_download_starts_anew(
    server: Server, target: Path, headers: dict[str, str]
) -> None:
    server.headers, server.break_after = headers, [100_000]
    fetch(server.url, target, sha256=SHA256)
    assert server.seen == [(None, 200), (None, 200)]


def test_an_answer_that_starts_elsewhere_is_not_appended(server: Server, target: Path) -> None:
    server.break_after, server.wrong_start = [100_000], True
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_what_arrived_whole_before_a_kill_is_not_fetched_again(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(downloads, "_check", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url, target)
    assert not target.exists()
    fetch(server.url, target, sha256=SHA256)
    assert server.seen == [(None, 200), (f"bytes={len(CONTENT)}-", 206)]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_another_checksum_is_refused_and_the_file_removed(
    server: Server, target: Path, kind: str
) -> None:
    right = {"sha256": SHA256, "md5": MD5}[kind]
    sentence = _refusal(ValueError, server, target, **{kind: "0" * 8})
    assert f"The {kind} of {server.url} must be 00000000, but is {right}" in sentence
    assert not list(target.parent.rglob("part"))


def test_a_file_without_known_checksum_tells_its_own(
    server: Server, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "ssl_transfer"):
        fetch(server.url, target)
    assert f"its sha256 is {SHA256}" in caplog.text


@pytest.mark.parametrize("status", [404, 403])
def test_a_missing_file_is_one_sentence_after_one_attempt(
    server: Server, target: Path, status: int
) -> None:
    server.statuses = [status] * 9
    assert f"the server answers {status} " in _refusal(ValueError, server, target)
    assert len(server.seen) == 1


def test_a_busy_server_is_asked_again(server: Server, target: Path) -> None:
    server.statuses = [503, 429]
    fetch(server.url, target, sha256=SHA256)
    assert [status for _, status in server.seen] == [503, 429, 200]
    target.unlink()
    server.statuses = [500] * 9
    assert "cannot be fetched now (Internal Server Error)" in _refusal(OSError, server, target)


def test_a_web_page_is_not_taken_for_weights(server: Server, target: Path) -> None:
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    assert "but there is a web page" in _refusal(ValueError, server, target)


def test_a_file_of_unknown_length_is_refused(server: Server, target: Path) -> None:
    server.length = False
    assert "must say how long the file is" in _refusal(ValueError, server, target)


def test_no_connection_is_one_sentence(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match=r"it cannot be fetched now \(.*refused\); run") as caught:
        fetch(f"http://127.0.0.1:{port}/x.pth", target)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="must start with http"):
        fetch("file:///etc/hostname", target)


def test_too_little_space_is_told_before_anything_is_written(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    sentence = _refusal(OSError, server, target)
    assert "needs 0.3 MB of free space on its disk" in sentence
    assert "there are 0.0 MB" in sentence
    assert not list(target.parent.rglob("part"))


def test_a_disk_that_fills_up_is_one_sentence_and_nothing_is_lost(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as filled:
        filled.setattr("os.fsync", full)
        assert "No space left on device" in _refusal(OSError, server, target)
    fetch(server.url, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_two_processes_fetch_once(server: Server, target: Path) -> None:
    server.delay = 0.3
    other = threading.Thread(target=fetch, args=(server.url, target))
    other.start()
    folder = target.parent / ".downloads" / target.name
    while claims.read(folder) is None:
        time.sleep(0.005)
    fetch(server.url, target, sha256=SHA256)
    other.join()
    assert server.seen == [(None, 200)]
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_model_s_weights_are_fetched_when_asked_and_found_ever_after(
    server: Server, tmp_path: Path
) -> None:
    donor = models.build(TINY, seed=1)
    server.content = safetensors.torch.save(dict(donor.backbone.state_dict()))
    file = tmp_path / "published.safetensors"
    sha256 = hashlib.sha256(server.content).hexdigest()
    weights = {"path": str(file), "url": server.url, "layout": "plain", "sha256": sha256}
    with pytest.raises(ValueError, match=r"model\.weights\.download=true to fetch them from http"):
        models.build({**TINY, "weights": weights})
    assert server.seen == []
    for download in (True, False):
        built = models.build({**TINY, "weights": {**weights, "download": download}})
        assert models.fingerprint(built) == models.fingerprint(donor)
    assert server.seen == [(None, 200)]
    file.write_bytes(server.content[::-1])
    with pytest.raises(ValueError, match=r"The sha256 of .* the file is damaged or another one"):
        models.build({**TINY, "weights": {**weights, "download": True}})


# ---- servers that do not play by the rules ------------------------------------------------------


@contextlib.contextmanager
def raw(*answers: bytes, drip: float | None = None) -> Iterator[str]:
    """Serve fixed bytes, one answer per connection, the last again and again; yield the address.

    Args:
        answers: whole answers with their heads.
        drip: seconds between the bytes of a body (``None``: all at once). A body without end is
            sent as long as the client listens.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    left, stop = list(answers), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    connection.recv(65536)
                    answer = left.pop(0) if len(left) > 1 else left[0]
                    head, end, body = answer.partition(b"\r\n\r\n")
                    connection.sendall(head + end)
                    if drip is not None:
                        for byte in body:
                            time.sleep(drip)
                            connection.sendall(bytes([byte]))
                        continue
                    connection.sendall(body)
                    while body.endswith(ENDLESS) and not stop.is_set():
                        connection.sendall(ENDLESS)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/weights.pth"
    finally:
        stop.set()
        thread.join()
        listener.close()


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
ENDLESS = b"4000\r\n" + bytes(0x4000) + b"\r\n"


def refused(url: str, target: Path, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        fetch(url, target)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert not target.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("head", "kind", "said"),
    [(b"Content-Length: many\r\n", ValueError, "must say how long the file is, but says 'many'"),
     (b"Content-Length: -5\r\n", ValueError, "must say how long the file is"),
     (b"Content-Length: 1000000000000000\r\n", ValueError, "is longer or has no end"),
     (b"Content-Length: 5\r\n", OSError, "the connection broke off"),
     (b"Content-Length: 4\r\nContent-Encoding: gzip\r\n", ValueError,
      "the server packs it (gzip)")],
)  # fmt: skip
def test_false_heads_end_in_one_sentence(
    target: Path, head: bytes, kind: type[Exception], said: str
) -> None:
    with raw(OK + head + b"\r\nbody") as url:
        assert said in refused(url, target, kind)


def test_a_download_without_end_ends(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "LARGEST", 1 << 20)
    with raw(OK + b"Transfer-Encoding: chunked\r\n\r\n" + ENDLESS) as url:
        assert "is longer or has no end" in refused(url, target, ValueError)
    assert not list(target.parent.rglob("part"))


def test_a_server_that_sends_a_byte_at_a_time_is_given_up(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(downloads, "MOST_ATTEMPTS", 2)
    with raw(OK + b"Content-Length: 200\r\n\r\n" + bytes(200), drip=0.02) as url:
        assert "less than 1000 bytes per second came" in refused(url, target, OSError)


def test_a_server_that_always_breaks_off_is_given_up_though_something_came(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MOST_ATTEMPTS", 5)
    server.break_after = [10] * 50
    assert "broke off again and again" in refused(server.url, target, OSError)
    assert len(server.seen) == 5


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x",
                                   "gopher://x", "file:///\x1b[2J"])  # fmt: skip
def test_a_redirect_leads_to_web_servers_alone(target: Path, place: str) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
    with raw(answer.encode()) as url:
        refused(url, target, ValueError)


def test_redirects_in_a_circle_are_one_sentence(target: Path) -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: /weights.pth\r\nContent-Length: 0\r\n\r\n"
    with raw(answer) as url:
        assert "infinite loop" in refused(url, target, ValueError)


def test_encryption_is_not_given_up_on_the_way() -> None:
    request = urllib.request.Request("https://a.example/x")
    follow = downloads._Redirects().redirect_request
    with pytest.raises(ValueError, match="as safe as itself, but leads to http"):
        follow(request, None, 302, "", {}, "http://b.example/x")
    assert follow(request, None, 302, "", {}, "https://b.example/x") is not None
