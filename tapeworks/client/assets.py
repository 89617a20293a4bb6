"""The client's calls about what is uploaded: `client.datasets`, `client.packages`, `client.bundles`.

dataset = client.datasets.push("flowers/")        a file or a folder
package = client.packages.push("acme/")           a wheel, a zip, a project's folder, a file with components
bundle = client.bundles.push("model.tar.gz")      what a job left, here or elsewhere
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from tapeworks.client.connection import Connection, body, decoded
from tapeworks.client.payloads import NothingToSend, Payload, files_of, packed, zipped
from tapeworks.client.uploads import Progress, upload
from tapeworks.schemas.assets import SUFFIXES, Bundle, DataFormat, Dataset, Package, format_by_name
from tapeworks.schemas.jobs import Page

PAGE = 100
LOOK_SECONDS = 0.5

A = TypeVar("A", Dataset, Package, Bundle)


def _untold(done: int, total: int) -> None:
    """Nobody wants to know."""


class AssetClient(Generic[A]):
    """One kind of uploads of a project."""

    kind: type[A]
    path: str

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, name: str | None = None) -> Iterator[A]:
        """All of them, or the versions of a name; newest first."""
        after: str | None = None
        while True:
            params = {"name": name, "limit": PAGE, "after": after}
            answer = self._connection.request("GET", self.path, params=params)
            page: Page[A] = decoded(Page[self.kind], answer)  # type: ignore[name-defined]
            yield from page.data
            after = page.next
            if not page.has_more or after is None:
                return

    def get(self, asset_id: str) -> A:
        """One of them. Raises `NotFound`."""
        return decoded(self.kind, self._connection.request("GET", self._of(asset_id)))

    def delete(self, asset_id: str) -> None:
        """Delete it. Raises `Conflict` while an unfinished job uses it."""
        self._connection.request("DELETE", self._of(asset_id))

    def _of(self, asset_id: str) -> str:
        return f"{self.path}/{quote(asset_id, safe='')}"

    def _create(self, payload: Payload, progress: Progress, **fields: Any) -> A:
        sent = upload(self._connection, payload, progress)
        content = body({"upload_id": sent.id, **fields})
        # Repeatable: the same file under the same name and version is the same.
        answer = self._connection.request("POST", self.path, content=content, repeatable=True, wait=600)
        return decoded(self.kind, answer)

    def _settled(self, asset: A, pending: str, timeout: float | None) -> A:
        end = None if timeout is None else time.monotonic() + timeout
        while asset.state == pending:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"{asset.id} is still {pending} after {timeout:g} s")
            time.sleep(LOOK_SECONDS)
            asset = self.get(asset.id)
        return asset


class Datasets(AssetClient[Dataset]):
    """Uploaded data."""

    kind, path = Dataset, "/v1/datasets"

    def push(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        format: DataFormat | str | None = None,
        options: Mapping[str, Any] | None = None,
        progress: Progress = _untold,
    ) -> Dataset:
        """Upload a file or a folder as a version of a dataset; the same bytes again are the same dataset.

        `name` and `format` are taken from the file's name where they are not given. `options` are arguments of the
        format's source (`{"delimiter": ";"}`), which jobs inherit. Raises `NothingToSend`, `Rejected`.
        """
        source = Path(path)
        payload = packed(source)
        wanted = format_of(source) if format is None else DataFormat(format)
        given = {"options": dict(options)} if options else {}
        return self._create(payload, progress, name=name or _name_of(source), format=wanted.value, **given)

    def push_payload(self, payload: Payload, *, name: str, format: DataFormat, progress: Progress = _untold) -> Dataset:
        """Upload bytes that are no file; the same bytes again are the same dataset. Raises `Rejected`."""
        return self._create(payload, progress, name=name, format=format.value)

    def settled(self, dataset: Dataset, timeout: float | None = None) -> Dataset:
        """The dataset once a worker has looked at it. Raises TimeoutError."""
        return self._settled(dataset, "inspecting", timeout)


class Packages(AssetClient[Package]):
    """Uploaded component packages."""

    kind, path = Package, "/v1/packages"

    def push(self, path: str | os.PathLike[str], *, progress: Progress = _untold) -> Package:
        """Upload a component package: a wheel or zip as it is; a project's folder, or files that have no
        `pyproject.toml`, as a zip of their Python files. Raises `NothingToSend`, `Rejected`."""
        return self._create(packed_package(Path(path)), progress)

    def settled(self, package: Package, timeout: float | None = None) -> Package:
        """The package once it was tried. Raises TimeoutError."""
        return self._settled(package, "admitting", timeout)


class Bundles(AssetClient[Bundle]):
    """Uploaded model bundles."""

    kind, path = Bundle, "/v1/bundles"

    def push(self, path: str | os.PathLike[str], *, name: str | None = None, progress: Progress = _untold) -> Bundle:
        """Upload a `bundle.tar.gz`, for `from` in specs. Raises `Rejected`."""
        source = Path(path)
        return self._create(packed(source), progress, name=name or _name_of(source))

    def push_payload(self, payload: Payload, *, name: str, progress: Progress = _untold) -> Bundle:
        """Upload bytes that are no file. Raises `Rejected`."""
        return self._create(payload, progress, name=name)


# ── what is sent ─────────────────────────────────────────────────────────────────────────────────


def format_of(path: Path) -> DataFormat:
    """The format of a file or a folder's files, by their names. Raises NothingToSend where they do not say."""
    names = [file.name for file in files_of(path)] if path.is_dir() else [path.name]
    found = {format for name in names if (format := format_by_name(name)) is not None}
    if len(found) > 1:  # `.json` beside other data describes that data
        found -= {DataFormat.JSONL} - set(
            map(format_by_name, (one for one in names if not one.lower().endswith(".json")))
        )
    if len(found) == 1:
        return found.pop()
    reason = "no file name indicates the format" if not found else f"its files are of {' and '.join(sorted(found))}"
    raise NothingToSend(f"{path}: {reason} by its name; give format, one of {', '.join(DataFormat)}")


def _name_of(path: Path) -> str:
    name = path.resolve().name
    for suffix in (".tar.gz", ".tgz", ".tar", ".zip", ".gz", *(one for group in SUFFIXES.values() for one in group)):
        name = name.removesuffix(suffix)
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip(".-")[:100] or "data"


def packed_package(path: Path) -> Payload:
    """A package as it is sent. Raises NothingToSend, OSError."""
    if path.is_file() and path.suffix in (".whl", ".zip"):
        return packed(path)
    files = _sources(path)
    if not any(name.endswith(".py") for name in files):
        raise NothingToSend(f"{path} holds no Python file")
    if "pyproject.toml" not in files:
        files["pyproject.toml"] = _project(path, files)
    return zipped(files)


def _sources(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {path.name: path.read_bytes()} if path.suffix == ".py" else {}
    if (path / "__init__.py").is_file() and not (path / "pyproject.toml").is_file():
        root = path.resolve().parent  # a package's own folder: its name belongs to its modules
        return {file.resolve().relative_to(root).as_posix(): file.read_bytes() for file in files_of(path)}
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files_of(path)}


def _project(path: Path, files: dict[str, bytes]) -> bytes:
    """The metadata of files that have none: named after their place, its version a digest of them."""
    tops = {name.partition("/")[0] for name in files if name.endswith("/__init__.py") and name.count("/") == 1}
    tops |= {name.removesuffix(".py") for name in files if name.endswith(".py") and "/" not in name}
    listing = json.dumps(sorted((name, hashlib.sha256(content).hexdigest()) for name, content in files.items()))
    version = f"0.0.{int(hashlib.sha256(listing.encode()).hexdigest()[:8], 16)}"
    name = re.sub(r"[^A-Za-z0-9]+", "-", path.resolve().stem).strip("-") or "components"
    points = "\n".join(f"{top} = {json.dumps(top)}" for top in sorted(tops - {"setup", "conftest"}))
    project = f'[project]\nname = "{name}"\nversion = "{version}"\n'
    return f'{project}\n[project.entry-points."tapeworks.components"]\n{points}\n'.encode()
