"""Opening bundles that nobody vouches for: digests, and archives that would write elsewhere."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tapeworks.bundle import check, extract, load
from tapeworks.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle's folder with one file."""
    at = tmp_path / "bundle"
    at.mkdir()
    (at / "load.py").write_text("")
    entry = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (at / "manifest.json").write_text(json.dumps({"format": 1, "models": {}, "files": {"load.py": entry}}))
    return at


def change(folder: Path, **fields: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_whole_bundle_passes(folder: Path) -> None:
    assert check(folder)["format"] == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "load.py").write_text("pass"), "load.py is damaged"),
        (lambda folder: (folder / "load.py").unlink(), "load.py is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is not JSON"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not a bundle"),
        (lambda folder: change(folder, files=[]), "lacks 'files'"),
        (lambda folder: change(folder, format=2), "has format 2; this version reads 1"),
        (lambda folder: change(folder, files={"../x": {"sha256": ""}}), "points outside the bundle"),
        (lambda folder: change(folder, files={"/etc/passwd": {"sha256": ""}}), "points outside the bundle"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(BundleError, match=message):
        check(folder)


def test_a_part_may_lack_files_but_not_have_damaged_ones(folder: Path) -> None:
    (folder / "load.py").unlink()
    check(folder, complete=False)
    (folder / "load.py").write_text("pass")
    with pytest.raises(BundleError, match="damaged"):
        check(folder, complete=False)


def test_a_bundle_without_its_loader_is_told(folder: Path) -> None:
    (folder / "load.py").unlink()
    with pytest.raises(BundleError, match=r"has no load\.py"):
        load(folder)


def test_what_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        load(tmp_path / "nowhere.tar.gz")


# ── archives ─────────────────────────────────────────────────────────────────────────────────────


def archive(at: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(at, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return at


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_plain_files_are_unpacked(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", ("manifest.json", b"{}"), ("models/model.keras", b"zip"))
    folder = extract(made, tmp_path / "to")
    assert (folder / "models" / "model.keras").read_bytes() == b"zip"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../outside", b"x"), "is not a relative path inside"),
        (("/absolute", b"x"), "is not a relative path inside"),
        (("models/../../outside", b"x"), "is not a relative path inside"),
        (("models\\..\\outside", b"x"), "is not a relative path inside"),
        (("C:outside", b"x"), "is not a relative path inside"),
        (link("models", "/etc", tarfile.SYMTYPE), "is not a regular file"),
        (link("models", "manifest.json", tarfile.LNKTYPE), "is not a regular file"),
        (link("pipe", "", tarfile.FIFOTYPE), "is not a regular file"),
        (link("device", "", tarfile.CHRTYPE), "is not a regular file"),
    ],
)
def test_a_hostile_member_is_refused_and_nothing_stays(
    tmp_path: Path, member: tarfile.TarInfo | tuple[str, bytes], message: str
) -> None:
    made = archive(tmp_path / "a.tar.gz", ("manifest.json", b"{}"), member)
    with pytest.raises(BundleError, match=message):
        extract(made, tmp_path / "to")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz"]


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", ("zeros", bytes(80 << 20)))
    with pytest.raises(BundleError, match="unpacks to more than"):
        extract(made, tmp_path / "to")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00"])
def test_what_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(BundleError, match="cannot be unpacked"):
        extract(tmp_path / "a.tar.gz", tmp_path / "to")


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.tar.gz", ("manifest.json", b"{}"))
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").write_text("mine")
    with pytest.raises(BundleError, match="not an empty folder"):
        extract(made, tmp_path / "to")
    assert (tmp_path / "to" / "mine").read_text() == "mine"
