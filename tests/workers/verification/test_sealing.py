"""Sealing a bundle: what is copied, and what a runner may leave in its place."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.verification import sealing
from tapeworks_workers.verification.sealing import SealedFile, copy_bounded, seal_bundle


def seal(folder: Path, **given: Any) -> dict[str, SealedFile]:
    options = {"limit": 1 << 30, "reserve": 0, "stop": threading.Event(), **given}
    return seal_bundle(folder, "bundle", folder / "sealed", **options)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "a" / "b" / "Größe.txt").write_bytes(b"x" * 100)
    (folder / "a" / "__pycache__").mkdir()
    (folder / "a" / "__pycache__" / "m.pyc").write_bytes(b"")
    return folder


def test_a_copy_has_the_digests_that_were_computed(bundle: Path) -> None:
    sealed = seal(bundle.parent)
    assert sorted(sealed) == ["a/b/Größe.txt", "manifest.json"]
    for name, entry in sealed.items():
        copy = bundle.parent / "sealed" / name
        data = copy.read_bytes()
        assert entry == SealedFile(len(data), hashlib.sha256(data).hexdigest())
        assert copy.stat().st_mode & 0o777 == 0o644
        assert copy.stat().st_ino != (bundle / name).stat().st_ino


def link(bundle: Path) -> None:
    (bundle / "a" / "secret").symlink_to("/etc/hostname")


def folder_link(bundle: Path) -> None:
    (bundle / "etc").symlink_to("/etc")


def pipe(bundle: Path) -> None:
    os.mkfifo(bundle / "pipe")


def whole(bundle: Path) -> None:
    bundle.rename(bundle.with_name("other"))
    bundle.symlink_to("other")


def deep(bundle: Path) -> None:
    (bundle / "/".join("d" * (sealing.MAX_DEPTH + 1))).mkdir(parents=True)


def no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def control(bundle: Path) -> None:
    (bundle / "a\x1b[2J").write_text("")


def large_json(bundle: Path) -> None:
    os.truncate(bundle / "manifest.json", sealing.MAX_JSON_BYTES + 1)


def nothing(bundle: Path) -> None:
    bundle.rename(bundle.with_name("other"))


@pytest.mark.parametrize("damage", [link, folder_link, pipe, whole, deep, no_manifest, control, large_json, nothing])
def test_what_is_no_bundle_is_refused(bundle: Path, damage: Callable[[Path], None]) -> None:
    damage(bundle)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(JobFailure, match="is not a bundle") as failed:
        seal(bundle.parent)
    assert failed.value.code is FailureCode.INTERNAL
    assert failed.value.retryable is False
    del failed
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("options", [{"limit": 1000}, {"reserve": 1 << 60}])
def test_more_than_may_be_copied_is_refused(bundle: Path, options: dict[str, int]) -> None:
    os.truncate(bundle / "a" / "b" / "Größe.txt", 1 << 40)
    with pytest.raises(JobFailure) as failed:
        seal(bundle.parent, **options)
    assert failed.value.code is FailureCode.STORAGE_FULL
    assert sum(file.stat().st_size for file in (bundle.parent / "sealed").rglob("*") if file.is_file()) < 1 << 20


def test_sealing_stops_when_it_is_not_needed_any_more(bundle: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(JobFailure):
        seal(bundle.parent, stop=stop)


def test_a_file_of_a_limited_size_is_copied(bundle: Path) -> None:
    copy_bounded(bundle, "manifest.json", bundle.parent / "own" / "copy", limit=2)
    assert (bundle.parent / "own" / "copy").read_text() == "{}"
    with pytest.raises(JobFailure, match=r"wrote 2 bytes to manifest\.json; at most 1 are read"):
        copy_bounded(bundle, "manifest.json", bundle.parent / "own" / "copy", limit=1)
