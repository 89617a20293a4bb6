"""Remote files by real servers, of the web and of S3 (rclone's): allow-list, cache, changes between attempts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.inputs.remote_files import RemoteFiles
from tapeworks_workers.inputs.upload_cache import Cache
from tapeworks_workers.remote_urls import BadUrl, allowed, normalised, patterns

CONTENT = b"n,x\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(50_000))


class Web:
    """A web server with ETags and ranges, which counts its answers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.cut: list[int] = []
        """After how many bytes the next bodies break off."""
        self.asked: list[tuple[str, str, str]] = []
        web = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def do_GET(self, *, body: bool = True) -> None:
                web.asked.append((self.command, self.path, self.headers.get("Range", "")))
                if self.path in web.redirects:
                    self.send_response(302)
                    self.send_header("Location", web.redirects[self.path])
                    self.end_headers()
                    return
                content = web.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                start = int(self.headers["Range"][6:-1]) if "Range" in self.headers else 0
                self.send_response(206 if start else 200)
                self.send_header("ETag", f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"')
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                if body:
                    rest = content[start:]
                    self.wfile.write(rest[: web.cut.pop(0)] if web.cut else rest)
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web() -> Iterator[Web]:
    one = Web()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", reserve=0)


def remote(cache: Cache, *prefixes: str, private: bool = False, most: int = 1 << 30) -> RemoteFiles:
    return RemoteFiles(list(map(normalised, prefixes)), cache, private=private, most_bytes=most, seconds=5)


def fetch(files: RemoteFiles, pattern: str, pins: Any = None) -> list[Any]:
    return asyncio.run(files.fetch("p1", pattern, pins))


def refused(files: RemoteFiles, pattern: str, message: str, pins: Any = None) -> None:
    with pytest.raises(JobFailure, match=message) as failed:
        fetch(files, pattern, pins)
    assert failed.value.code is FailureCode.INVALID_DATA
    assert failed.value.hint


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("HTTPS://Data.Example.ORG:443/a%41/b.csv", "https://data.example.org/aA/b.csv"),
        ("https://h", "https://h/"),
        ("https://h./x?v=1", "https://h/x?v=1"),
        ("s3://bucket/a%41*.csv", "s3://bucket/a%41*.csv"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
    ],
)
def test_an_address_has_one_spelling(url: str, right: str) -> None:
    assert normalised(url) == right
    assert normalised(right) == right


@pytest.mark.parametrize(
    "url",
    ["https://h/a/../b", "https://h/a/%2e%2e/b", "https://h/%2E%2e/b", "https://u:p@h/", "file:///etc/passwd", "https:///x",
     "https://h/a\\b", "https://h/a b", "https://h/#x", "s3://b/../x", "s3://b/a?versionId=1", "https://h//x", "ftp://h/x",
     "https://h:x/"],
)  # fmt: skip
def test_an_address_that_could_be_another_is_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        normalised(url)


def test_prefixes_end_at_a_segment() -> None:
    prefixes = [normalised(one) for one in ("s3://data/train", "https://h/x/")]
    assert [allowed(one, prefixes) for one in ("s3://data/train/a", "s3://data/train", "s3://data/training/a",
            "s3://data", "https://h/x/y", "https://h/xy", "https://h.evil.org/x/y")] == [
        True, True, False, False, True, False, False]  # fmt: skip


def test_addresses_are_found_in_every_source() -> None:
    data = {"source": {"component": "zip", "config": {"sources": {
        "a": {"source": {"component": "csv", "config": {"files": ["s3://b/1", "ds_1"]}}},
        "b": {"component": "images", "config": {"files": "https://h/x.png", "table": "gs://b/t.csv"}}}}},
        "validation": {"component": "csv", "config": {"files": "s3://b/1", "features": ["https://no"]}}}  # fmt: skip
    assert list(patterns(data)) == ["s3://b/1", "https://h/x.png", "gs://b/t.csv"]


def test_a_file_is_downloaded_once_and_its_digest_is_known(web: Web, cache: Cache) -> None:
    web.files["/data/country=at/a.csv"] = CONTENT
    files = remote(cache, f"{web.url}/data/")
    (one,) = fetch(files, f"{web.url}/data/country=at/a.csv")
    assert one.path.read_bytes() == CONTENT
    assert (one.path.name, one.path.parent.name) == ("a.csv", "country=at")
    assert one.pinned() == {"url": f"{web.url}/data/country=at/a.csv", "etag": one.etag, "bytes": len(CONTENT),
                            "sha256": hashlib.sha256(CONTENT).hexdigest()}  # fmt: skip
    (again,) = fetch(files, f"{web.url}/data/country=at/a.csv", [one.pinned()])
    assert again.path == one.path
    assert [method for method, _, _ in web.asked] == ["HEAD", "GET", "HEAD"]


def test_a_changed_file_is_refused_by_a_later_attempt_and_read_by_a_new_job(web: Web, cache: Cache) -> None:
    web.files["/a.csv"] = CONTENT
    files = remote(cache, web.url)
    (one,) = fetch(files, f"{web.url}/a.csv")
    web.files["/a.csv"] = CONTENT[:-1] + b"0"
    refused(files, f"{web.url}/a.csv", "changed since the job's first attempt", [one.pinned()])
    (new,) = fetch(files, f"{web.url}/a.csv")
    assert new.path.read_bytes() == web.files["/a.csv"]


def test_pins_that_a_job_made_up_open_no_other_address(web: Web, cache: Cache) -> None:
    web.files |= {"/data/a.csv": CONTENT, "/secret": b"s"}
    files = remote(cache, f"{web.url}/data/")
    made_up: list[Any] = [
        *({"url": url, "sha256": "0"} for url in (f"{web.url}/secret", "file:///etc/passwd", 7)), {}, "x",
    ]  # fmt: skip
    for one in made_up:
        refused(files, f"{web.url}/data/a.csv", "the record of the job's first attempt", [one])
    refused(files, f"{web.url}/data/a.csv", "contains no files", [])
    assert not web.asked


def test_a_broken_connection_continues_by_a_range(web: Web, cache: Cache) -> None:
    web.files["/a.csv"] = CONTENT
    web.cut += [100_000, 50_000]
    (one,) = fetch(remote(cache, web.url), f"{web.url}/a.csv")
    assert one.path.read_bytes() == CONTENT
    assert [asked for _, _, asked in web.asked] == ["", "", "bytes=100000-", "bytes=150000-"]


def test_what_is_not_allowed_missing_or_too_large_is_refused(web: Web, cache: Cache) -> None:
    web.files["/data/a.csv"] = CONTENT
    files = remote(cache, f"{web.url}/data/", most=1000)
    refused(files, f"{web.url}/other/a.csv", "is not below an address that this worker may read")
    refused(files, f"{web.url}/data/../other", "holds an empty segment")
    refused(files, f"{web.url}/data/none.csv", "it does not exist")
    refused(files, f"{web.url}/data/a.csv", f"has {len(CONTENT)} bytes or more, at most 1000 are read")
    refused(files, f"{web.url}/data/*.csv", "has no list of files")
    assert not list(cache.of_project("p1").iterdir())


def test_redirects_stay_on_their_host_and_within_the_list(web: Web, cache: Cache) -> None:
    web.files |= {"/data/b.csv": CONTENT, "/secret": b"s"}
    web.redirects |= {"/data/a.csv": "/data/b.csv", "/data/out": "/secret", "/data/loop": "/data/loop",
                      "/data/host": web.url.replace("127.0.0.1", "localhost") + "/data/b.csv",
                      "/data/file": "file:///etc/passwd"}  # fmt: skip
    files = remote(cache, f"{web.url}/data/", web.url.replace("127.0.0.1", "localhost"), private=True)
    (one,) = fetch(files, f"{web.url}/data/a.csv")
    assert one.path.read_bytes() == CONTENT
    for path, why in (
        ("out", "not allowed"),
        ("host", "another host"),
        ("file", "redirects to an address"),
        ("loop", "more than 5 times"),
    ):
        refused(files, f"{web.url}/data/{path}", why)


def test_a_name_with_a_private_address_needs_the_operators_word(web: Web, cache: Cache) -> None:
    web.files["/a.csv"] = CONTENT
    named = web.url.replace("127.0.0.1", "localhost")
    refused(remote(cache, named), f"{named}/a.csv", r"the host localhost has the private address (127\.0\.0\.1|::1)")
    (one,) = fetch(remote(cache, named, private=True), f"{named}/a.csv")
    assert one.path.read_bytes() == CONTENT


# ── S3 ──


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that rclone serves as the bucket `data`."""
    folder = tmp_path / "s3" / "data"
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["rclone", "serve", "s3", str(folder.parent), "--addr", address, "--auth-key", "reader,secret",
               "--vfs-cache-mode", "off", "--dir-cache-time", "0s"]  # fmt: skip
    path = os.pathsep.join([os.path.dirname(os.sys.executable), os.environ["PATH"]])  # type: ignore[attr-defined]
    server = subprocess.Popen(command, env={**os.environ, "PATH": path}, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"http://{address}/", timeout=1)
                break
            except httpx.TransportError:
                assert time.monotonic() < until
                assert server.poll() is None
                time.sleep(0.05)
        for name, value in {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
                            "AWS_ENDPOINT_URL": f"http://{address}", "AWS_ALLOW_HTTP": "true"}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield folder
    finally:
        server.kill()
        server.wait()


def test_objects_of_s3_are_listed_downloaded_and_pinned(bucket: Path, cache: Cache) -> None:
    for name in ("b", "a", "c"):
        path = bucket / "train" / f"part={name}" / "x.csv"
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode() + CONTENT)
    (bucket / "train" / "notes.txt").write_text("no")
    (bucket / "secret.csv").write_text("s")
    files = remote(cache, "s3://data/train/")
    found = fetch(files, "s3://data/train/*/*.csv")
    assert [one.path.read_bytes()[:1] for one in found] == [b"a", b"b", b"c"]
    assert [one.path.parent.name for one in found] == ["part=a", "part=b", "part=c"]
    refused(files, "s3://data/secret.csv", "is not below an address")
    refused(files, "s3://data/train/none.csv", "cannot be read")
    refused(files, "s3://data/train/*.parquet", "no file matches")
    pins = [one.pinned() for one in found]
    (bucket / "train" / "part=d").mkdir()
    (bucket / "train" / "part=d" / "x.csv").write_bytes(b"new")
    assert [one.pinned() for one in fetch(files, "s3://data/train/*/*.csv", pins)] == pins
    (bucket / "train" / "part=b" / "x.csv").write_bytes(b"other content")
    refused(files, "s3://data/train/*/*.csv", r"part=b/x\.csv changed since the job's first attempt", pins)
