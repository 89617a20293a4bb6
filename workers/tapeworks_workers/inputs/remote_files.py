"""Remote files that jobs read: the agent downloads them into its cache before the runner starts.

`RemoteFiles.fetch` lists what an address names (`*` in object stores), downloads what the cache lacks by its ETag, and
returns path, size and SHA-256 of each file. An address outside of the operator's allow-list is refused; HTTP redirects
to other hosts are not followed, and a name that resolves to a private address is refused unless the operator allows it.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.inputs.upload_cache import Cache, CachedUpload
from tapeworks_workers.remote_urls import BadUrl, allowed, normalised

REDIRECTS = 5
TRIES = 4
MOST_OBJECTS = 10_000
_HINT = "The worker's operator names what may be read by --remote-files (TAPEWORKS_WORKER_REMOTE_FILES)."


@dataclass(frozen=True)
class Fetched:
    """One remote file in the cache."""

    url: str
    etag: str
    bytes: int
    sha256: str
    kept: CachedUpload

    @property
    def path(self) -> Path:
        """The file; the folders above it are those of its address."""
        (path,) = (one for one in self.kept.folder.rglob("*") if one.is_file())
        return path

    def pinned(self) -> dict[str, Any]:
        """The facts that the lineage holds and that a later attempt compares."""
        return {"url": self.url, "etag": self.etag, "bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class _Object:
    """What a server says of a file before it is downloaded."""

    url: str
    etag: str
    """Empty where the server gives none."""
    bytes: int | None


class Changed(ConnectionError):
    """The file changed during the download."""


class RemoteFiles:
    """The files that the operator allows.

    Args:
        prefixes: normalised addresses.
        private: whether names may resolve to private addresses; an address that the allow-list itself holds may be.
        most_bytes: of one file.
    """

    def __init__(
        self, prefixes: Sequence[str], cache: Cache, *, private: bool, most_bytes: int, seconds: float
    ) -> None:
        self._prefixes = list(prefixes)
        self._cache = cache
        self._private = private
        self._most = most_bytes
        self._timeout = httpx.Timeout(seconds, connect=min(seconds, 10.0))

    async def fetch(self, project: str, pattern: str, pins: Sequence[dict[str, Any]] | None) -> list[Fetched]:
        """The files that an address names, in order of address, held in the cache. Raises JobFailure.

        `pins`: the files of an earlier attempt; these are fetched, and each must have the digest that it had.
        """
        try:
            url = normalised(pattern)
        except BadUrl as error:
            raise _refused(f"{pattern!r} cannot be read: it {error}") from error
        if not allowed(url, self._prefixes):
            raise _refused(f"{pattern!r} is not below an address that this worker may read")
        try:
            urls = self._pinned(pins) if pins is not None else await self._listed(url)
        except BadUrl as error:
            raise _refused(f"{pattern!r}: the record of the job's first attempt {error}") from error
        except (OSError, httpx.HTTPError) as error:
            raise _refused(
                f"{pattern!r} cannot be listed: {error}", "Check the address and its permissions."
            ) from error
        fetched: list[Fetched] = []
        try:
            for index, one in enumerate(urls):
                found = await self._fetched(project, one)
                fetched.append(found)
                if pins is not None and found.sha256 != pins[index]["sha256"]:
                    raise _changed(found, pins[index])
        except BaseException:
            self.let_go(fetched)
            raise
        return fetched

    def let_go(self, fetched: Sequence[Fetched]) -> None:
        """A job reads them no more."""
        for one in fetched:
            self._cache.let_go(one.kept)

    def _pinned(self, pins: Sequence[dict[str, Any]]) -> list[str]:
        """The addresses of an earlier attempt, which a job's own record holds and nobody vouches for."""
        urls = [one.get("url") for one in pins if isinstance(one, dict) and isinstance(one.get("sha256"), str)]
        for one in urls:
            if not isinstance(one, str) or normalised(one) != one or not allowed(one, self._prefixes):
                raise BadUrl("names an address that this worker may not read")
        if not urls or len(urls) != len(pins):
            raise BadUrl("contains no files")
        return [str(one) for one in urls]

    async def _fetched(self, project: str, url: str) -> Fetched:
        for last in (*[False] * (TRIES - 1), True):
            try:
                return await self._kept(project, await self._head(url))
            except (OSError, httpx.TransportError) as error:
                if last or isinstance(error, FileNotFoundError | PermissionError):
                    raise _refused(f"{url} cannot be read: {error}", "Check the address and the server.") from error
            await asyncio.sleep(0.2)
        raise AssertionError("the last try returns or raises")

    async def _kept(self, project: str, remote: _Object) -> Fetched:
        if remote.bytes is not None and remote.bytes > self._most:
            raise _too_large(remote.url, remote.bytes, self._most)
        validator = remote.etag or hashlib.sha256(str(asyncio.get_running_loop().time()).encode()).hexdigest()
        name = hashlib.sha256(f"{remote.url}\n{validator}\n{remote.bytes}".encode()).hexdigest()
        kept = await self._cache.hold_made(
            project, f"{name}.remote", remote.bytes or 0, lambda folder: self._download(remote, folder)
        )
        noted = json.loads((kept.folder.parent / "digest.json").read_text())
        return Fetched(remote.url, remote.etag, noted["bytes"], noted["sha256"], kept)

    async def _download(self, remote: _Object, folder: Path) -> None:
        """The file below `folder/files`, under the path of its address; its digest beside them."""
        place = folder / "files" / _place(remote.url)
        place.parent.mkdir(parents=True)
        digest, size = hashlib.sha256(), 0
        async with self._stream(remote) as blocks:
            with place.open("wb") as file:
                async for block in blocks:
                    size += len(block)
                    if size > self._most:
                        raise _too_large(remote.url, size, self._most)
                    digest.update(block)
                    await asyncio.to_thread(file.write, block)
        if remote.bytes is not None and size != remote.bytes:
            raise Changed(f"{size} bytes arrived of {remote.bytes}")
        (folder / "digest.json").write_text(json.dumps({"sha256": digest.hexdigest(), "bytes": size}))

    # ── by scheme ──

    async def _listed(self, url: str) -> list[str]:
        if "*" not in url:
            return [url]
        if url.startswith("http"):
            raise _refused(f"{url}: a web server has no list of files, so an address names one file")
        store, key = _store(url)
        fixed = key.partition("*")[0].rpartition("/")[0]
        bucket = url[: len(url) - len(key)]
        found = []
        async for chunk in store.list(fixed or None):
            found += [bucket + one["path"] for one in chunk if _matches(one["path"], key)]
            if len(found) > MOST_OBJECTS:
                raise _refused(f"{url} names more than {MOST_OBJECTS} files", "Name fewer by a longer prefix.")
        if not found:
            raise _refused(f"no file matches {url}", "Check the address.")
        return sorted(found)

    async def _head(self, url: str) -> _Object:
        if not url.startswith("http"):
            store, key = _store(url)
            meta = await store.head_async(key)
            return _Object(url, meta.get("e_tag") or "", meta["size"])
        async with self._request("HEAD", url, {}) as answer:
            if answer.status_code in (405, 501):
                return _Object(url, "", None)
            _check(answer, url)
            length = answer.headers.get("content-length", "")
            whole = "content-encoding" not in answer.headers and length.isdigit()
            return _Object(url, _validator(answer), int(length) if whole else None)

    @asynccontextmanager
    async def _stream(self, remote: _Object) -> AsyncIterator[Any]:
        if remote.url.startswith("http"):
            yield self._of_web(remote)
            return
        store, key = _store(remote.url)
        answer = await store.get_async(key, options={"if_match": remote.etag} if remote.etag else None)
        yield answer.stream(min_chunk_size=1024 * 1024)

    async def _of_web(self, remote: _Object) -> AsyncIterator[bytes]:
        """The bytes of a file; after a broken connection the rest by a range, where it is the same file still."""
        done = 0
        for last in (*[False] * (TRIES - 1), True):
            headers = {"Accept-Encoding": "identity"}
            if done:
                headers |= {"Range": f"bytes={done}-", "If-Range": remote.etag}
            try:
                async with self._request("GET", remote.url, headers) as answer:
                    _check(answer, remote.url)
                    if (remote.etag and _validator(answer) != remote.etag) or (done and answer.status_code != 206):
                        raise Changed("it changed during the download")
                    async for block in answer.aiter_raw():
                        done += len(block)
                        yield block
                    return
            except httpx.TransportError:
                if last or not remote.etag.startswith('"'):
                    raise

    # ── HTTP ──

    @asynccontextmanager
    async def _request(self, method: str, url: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """An answer that is no redirect. Redirects are followed to the same host, within the allow-list."""
        host = urlsplit(url).netloc
        async with httpx.AsyncClient(timeout=self._timeout, trust_env=False) as client:
            for _ in range(REDIRECTS + 1):
                target, extensions = await self._resolved(url)
                sent = {**headers, "Host": urlsplit(url).netloc}
                request = client.build_request(method, target, headers=sent, extensions=extensions)
                answer = await client.send(request, stream=True)
                try:
                    if not answer.is_redirect:
                        yield answer
                        return
                    url = normalised(urljoin(url, answer.headers.get("location", "")))
                except BadUrl as error:
                    raise PermissionError(f"it redirects to an address that {error}") from error
                finally:
                    await answer.aclose()
                if urlsplit(url).netloc != host or not allowed(url, self._prefixes):
                    raise PermissionError(f"it redirects to {url}, which is another host or not allowed")
            raise PermissionError(f"it redirects more than {REDIRECTS} times")

    async def _resolved(self, url: str) -> tuple[str, dict[str, Any]]:
        """The address with the host's IP in its place, which is checked and then connected to."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return url, {}  # the allow-list itself holds this address
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise ConnectionError(f"the host {host} is not known: {error}") from error
        addresses = [str(one[4][0]) for one in found]
        private = [one for one in addresses if not ipaddress.ip_address(one.partition("%")[0]).is_global]
        if private and not self._private:
            raise PermissionError(f"the host {host} has the private address {private[0]}")
        chosen = addresses[0]
        netloc = f"[{chosen}]:{port}" if ":" in chosen else f"{chosen}:{port}"
        return parts._replace(netloc=netloc).geturl(), {"sni_hostname": host}


def _check(answer: httpx.Response, url: str) -> None:
    status = answer.status_code
    if status in (404, 410):
        raise FileNotFoundError("it does not exist (404)")
    if status in (401, 403):
        raise PermissionError(f"access is denied ({status})")
    if status not in (200, 206):
        raise ConnectionError(f"the server answered {status}")


def _validator(answer: httpx.Response) -> str:
    """The ETag, or the date and length where there is none."""
    etag = answer.headers.get("etag", "")
    return str(etag or answer.headers.get("last-modified", ""))


def _store(url: str) -> tuple[Any, str]:
    """The object store of an address, with the credentials of the worker's environment, and the key in it."""
    from obstore import store

    parts = urlsplit(url)
    kind = store.S3Store if parts.scheme == "s3" else store.GCSStore
    return kind(parts.netloc), parts.path.lstrip("/")


def _matches(path: str, pattern: str) -> bool:
    """As a glob: `*` within a folder, `**` across them."""
    return PurePosixPath(path).match(pattern) if "**" not in pattern else fnmatch.fnmatchcase(path, pattern)


def _place(url: str) -> Path:
    """Where a file lies below the folder of its cache entry."""
    parts = urlsplit(url)
    steps = [unquote(step) for step in parts.path.split("/") if step] or ["file"]
    return Path(*[step.replace("/", "_")[:200] for step in steps])


def _too_large(url: str, size: int, most: int) -> JobFailure:
    hint = "The worker's operator sets the size limit of a remote file (--remote-bytes)."
    return JobFailure(FailureCode.INVALID_DATA, f"{url} has {size} bytes or more, at most {most} are read", hint=hint)


def _changed(found: Fetched, pin: dict[str, Any]) -> JobFailure:
    return JobFailure(
        FailureCode.INVALID_DATA,
        f"{found.url} changed since the job's first attempt: its ETag was {pin.get('etag')!r}, it is {found.etag!r}",
        hint="Submit the job again to train on the new content, or store each version under its own name.",
    )


def _refused(message: str, hint: str = _HINT) -> JobFailure:
    return JobFailure(FailureCode.INVALID_DATA, message, hint=hint)
