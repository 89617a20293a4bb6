"""Uploads on a worker: downloaded once, unpacked once, kept as long as they are read, apart for each project."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tapeworks.errors import FailureCode, JobFailure
from tapeworks.schemas import worker_protocol
from tapeworks_workers.inputs.upload_cache import Cache


def an_input(data: bytes, **about: Any) -> worker_protocol.LeaseInput:
    given = {"from": "ds_1", "kind": "dataset", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return worker_protocol.LeaseInput.model_validate({**given, "about": {"name": "n", "format": "csv", **about}})


def a_zip(name: str, content: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


class Downloads:
    """Gives bytes, and counts how often."""

    def __init__(self, data: bytes) -> None:
        self.data, self.count = data, 0

    async def __call__(self, path: Path) -> None:
        self.count += 1
        await asyncio.sleep(0.01)
        path.write_bytes(self.data)


def test_two_jobs_at_once_download_it_once(tmp_path: Path) -> None:
    download = Downloads(b"a\n1\n")

    async def scene() -> None:
        cache = Cache(tmp_path, reserve=0)
        one = an_input(download.data)
        kept = await asyncio.gather(*(cache.hold("p", one, download) for _ in range(3)))
        assert {one.folder for one in kept} == {kept[0].folder}
        assert [file.name for file in kept[0].folder.iterdir()] == ["n.csv"]
        assert (kept[0].folder / "n.csv").stat().st_mode & 0o777 == 0o644
        other = await cache.hold("q", one, download)
        assert other.folder != kept[0].folder, "another project has its own"

    asyncio.run(scene())
    assert download.count == 2


def test_an_archive_is_unpacked_and_a_dangerous_one_leaves_nothing(tmp_path: Path) -> None:
    good, bad = Downloads(a_zip("d/a.csv", "a\n1\n")), Downloads(a_zip("../a.csv", "a\n"))

    async def scene() -> None:
        cache = Cache(tmp_path / "cache", reserve=0)
        kept = await cache.hold("p", an_input(good.data, archive="zip"), good)
        assert (kept.folder / "d" / "a.csv").read_text() == "a\n1\n"
        with pytest.raises(JobFailure) as failed:
            await cache.hold("p", an_input(bad.data, archive="zip"), bad)
        assert failed.value.code is FailureCode.INVALID_DATA
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".part"]

    asyncio.run(scene())
    assert not list(tmp_path.glob("*.csv"))


def test_what_was_not_used_for_long_goes_and_what_is_read_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        cache = Cache(tmp_path, reserve=0, most_bytes=250)
        downloads = [Downloads(os.urandom(100)) for _ in range(4)]
        held = await cache.hold("p", an_input(downloads[0].data), downloads[0])
        for download in downloads[1:]:
            kept = await cache.hold("p", an_input(download.data), download)
            cache.let_go(kept)
        assert held.folder.is_dir(), "a job reads it"
        entries = [entry for entry in cache.of_project("p").iterdir()]
        assert len(entries) == 2
        again = await cache.hold("p", an_input(downloads[1].data), downloads[1])
        assert downloads[1].count == 2
        assert again.folder.is_dir()

    asyncio.run(scene())


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    async def scene() -> None:
        cache = Cache(tmp_path, reserve=1 << 62)
        with pytest.raises(JobFailure) as failed:
            await cache.hold("p", an_input(b"x"), Downloads(b"x"))
        assert failed.value.code is FailureCode.STORAGE_FULL

    asyncio.run(scene())
