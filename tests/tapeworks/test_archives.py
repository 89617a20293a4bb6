"""Strangers' archives: what is in them is found without opening it, and unpacked as plain files below a folder."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapeworks.archives import Archive, UnsafeArchive, check_arrays, code_in, keras_config
from tapeworks.client.payloads import Tar, files_of, packed, sha256, zipped


def written(path: Path, data: bytes) -> Archive:
    path.write_bytes(data)
    found = Archive.open(path)
    assert found is not None
    return found


def a_zip(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def a_tar(*members: tarfile.TarInfo | tuple[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


@pytest.mark.parametrize("pack", [a_zip, a_tar, lambda *members: a_tar(*members, mode="w:gz")])
def test_plain_files_come_out_as_they_went_in(tmp_path: Path, pack: Any) -> None:
    archive = written(tmp_path / "a", pack(("a/b.txt", b"b"), ("ü.txt", b"u" * 5000), (".hidden", b""), ("a/c", b"")))
    assert {entry.name for entry in archive.check()} == {"a/b.txt", "ü.txt", ".hidden", "a/c"}
    assert sorted(archive.extract(tmp_path / "out")) == ["a/b.txt", "a/c", "ü.txt"]
    assert (tmp_path / "out" / "ü.txt").read_bytes() == b"u" * 5000
    assert not (tmp_path / "out" / ".hidden").exists()


NAMES = st.text(st.sampled_from("./\\ab․‥／\u0000\n:é"), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=1, max_size=3))
def test_whatever_the_names_nothing_is_written_outside(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    archive = written(folder / "a", a_tar(*((name, b"x") for name in names)))
    with suppress(UnsafeArchive):
        archive.extract(folder / "in" / "out")
    inside = {path for path in folder.rglob("*") if path.is_file()} - {folder / "a"}
    assert all(path.is_relative_to(folder / "in" / "out") for path in inside)


def special(kind: bytes, name: str = "x", target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    archive = written(tmp_path / "a.tar", a_tar(special(kind)))
    with pytest.raises(UnsafeArchive, match="not a regular file"):
        archive.extract(tmp_path / "out")


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = a_zip(("a", b"1"), ("a", b"2"))
    with pytest.raises(UnsafeArchive, match="twice"):
        written(tmp_path / "a.zip", data).check()


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    bomb = gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20))
    with pytest.raises(UnsafeArchive, match="header of more than 16 MiB"):
        written(tmp_path / "a.tar.gz", bomb).check()


def test_a_size_that_is_a_lie_is_found_while_it_is_unpacked(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(100 << 20))
    lying = out.getvalue().replace((100 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    with pytest.raises(UnsafeArchive):
        written(tmp_path / "a.zip", lying).extract(tmp_path / "out")
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*")) < 100 << 20


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 400), value=st.integers(0, 255))
def test_a_flipped_byte_ends_well_or_is_told(at: int, value: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    data = bytearray(a_zip(("a.npy", b"1" * 40), ("b/c", b"2")))
    data[at % len(data)] = value
    (folder / "a").write_bytes(bytes(data))
    archive = Archive.open(folder / "a")
    with suppress(UnsafeArchive):  # and nothing else
        _ = archive is None or archive.extract(folder / "out")


def test_a_name_that_a_nul_cuts_to_nothing_is_told(tmp_path: Path) -> None:
    data = a_zip(("a.npy", b"1")).replace(b"a.npy", b"\0.npy")
    with pytest.raises(UnsafeArchive, match="not a relative path"):
        written(tmp_path / "a.zip", data).extract(tmp_path / "out")


def test_what_is_no_archive_is_none(tmp_path: Path) -> None:
    for data in (b"", b"text", gzip.compress(b"text"), b"\x1f\x8b broken"):
        (tmp_path / "x").write_bytes(data)
        assert Archive.open(tmp_path / "x") is None


# ── arrays and models ────────────────────────────────────────────────────────────────────────────


def npz(**arrays: Any) -> io.BytesIO:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out


def test_arrays_of_numbers_and_texts_are_taken() -> None:
    structured = np.zeros(2, dtype=[("a", "f4"), ("b", "U3")])
    assert check_arrays(npz(x=np.zeros((2, 3)), t=np.array(["a", "b"]), s=structured)) == ["x", "t", "s"]


@pytest.mark.parametrize(
    "array", [np.array([{}], dtype=object), np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")])], ids=["O", "field"]
)
def test_pickled_arrays_are_refused(array: Any) -> None:
    with pytest.raises(UnsafeArchive, match="pickles"):
        check_arrays(npz(x=array))


def test_a_model_file_is_read_without_keras(tmp_path: Path) -> None:
    file = tmp_path / "m.keras"
    config = {"class_name": "Sequential", "config": {"layers": []}, "compile_config": {"loss": "mse"}}
    file.write_bytes(a_zip(("config.json", json.dumps(config).encode()), ("model.weights.h5", b"")))
    assert keras_config(file) == {"class_name": "Sequential", "config": {"layers": []}}
    file.write_bytes(a_zip(("config.json", b"{}"), ("evil.py", b"")))
    with pytest.raises(UnsafeArchive, match="is not expected"):
        keras_config(file)
    file.write_bytes(a_zip(("config.json", b"[" * 100_000)))
    with pytest.raises(UnsafeArchive):
        keras_config(file)


def test_code_is_found_wherever_it_stands() -> None:
    assert code_in({"a": [{"class_name": "Dense"}, {"config": {"class_name": "Lambda"}}]}) == "Lambda"
    assert code_in({"class_name": "Dense", "config": {"activation": {"class_name": "__lambda__"}}}) == "__lambda__"
    assert code_in({"class_name": "Dense"}) is None


# ── packing ──────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_one_file_that_can_be_read_from_anywhere(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name, size in (("b/two.bin", 1000), ("a.bin", 512), ("empty", 0), ("ü" * 60 + ".txt", 3)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(size))
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("not mine to send")
    payload = packed(folder)
    whole = payload.read(0, payload.size)
    pieces = b"".join(payload.read(at, 100) for at in range(0, payload.size, 100))
    assert pieces == whole
    assert len(whole) == payload.size
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert found == {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_of(folder)}
    assert len(found) == 4
    assert written(tmp_path / "sent", whole).kind == "tar"
    for file in files_of(folder):
        os.utime(file, (1, 1))
    assert sha256(Tar(folder, files_of(folder))) == sha256(payload), "times do not count"


def test_the_same_texts_are_the_same_zip() -> None:
    assert zipped({"b": b"2", "a": b"1"}) == zipped({"a": b"1", "b": b"2"})
