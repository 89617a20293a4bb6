"""Archives of strangers: looked through before anything in them is opened, and unpacked as plain files only.

    archive = Archive.open(path)      zip, tar or tar.gz; None where the file is no archive
    archive.check()                   names, kinds of entries, sizes: raises UnsafeArchive
    archive.extract(folder)           the same while it is written
    extract(path, folder)             the same of a file that must be an archive: of bundles, checkpoints, black boxes

Refused are names that lead outside, links and devices, entries twice, and archives that hold far more than they
weigh. `check_arrays` refuses pickled arrays, `keras_config` reads the architecture of a `.keras` file without Keras.
"""

from __future__ import annotations

import ast
import gzip
import json
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tapeworks.errors import TapeworksError

MAX_ENTRIES = 1_000_000
MAX_RATIO = 200
SMALL_BYTES = 64 << 20
"""An archive that unpacks to no more than this may be compressed as well as it likes."""
_MAX_READ = 16 << 20
"""At once: headers of a tar may claim any length, and are read whole."""
_MAX_NAME = 1000
_MAX_PART_BYTES = 255
_CHUNK = 1 << 20
_MAX_CONFIG_BYTES = 64 << 20
_MAX_HEADER_BYTES = 10_000
_JUNK = ("__MACOSX", "__pycache__")
_KERAS_FILES = ("config.json", "metadata.json", "model.weights.h5")
_CODE = {"Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper"}
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error)
_BROKEN_ZIP = (*_BROKEN, NotImplementedError, RuntimeError)


class UnsafeArchive(TapeworksError):
    """An archive that is not opened; the message says what is wrong with it."""


@dataclass(frozen=True)
class Entry:
    """A regular file in an archive."""

    name: str
    """Relative, forward slashes."""
    size: int
    """As the archive states it."""

    @property
    def hidden(self) -> bool:
        """What systems leave in archives beside a user's files."""
        return any(part.startswith(".") or part in _JUNK for part in PurePosixPath(self.name).parts)


@contextmanager
def _damaged() -> Iterator[None]:
    """What goes wrong while an archive is read is its own fault; what is done with its files stands outside."""
    try:
        yield
    except UnsafeArchive:
        raise
    except _BROKEN_ZIP as error:
        raise UnsafeArchive(f"the archive is damaged: {error}") from error


class Archive:
    """A zip, a tar or a gzipped tar on disk."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        """`zip`, `tar` or `tar.gz`."""
        self._most = max(SMALL_BYTES, MAX_RATIO * path.stat().st_size)

    @classmethod
    def open(cls, path: Path) -> Archive | None:
        """The archive in a file, by its first bytes; None where it is none. Raises OSError."""
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return cls(path, "zip")
        if head[257:262] == b"ustar":
            return cls(path, "tar")
        if head.startswith(b"\x1f\x8b"):
            with path.open("rb") as file, gzip.GzipFile(fileobj=file) as inner:
                try:
                    head = inner.read(512)
                except _BROKEN:
                    return None
            return cls(path, "tar.gz") if head[257:262] == b"ustar" else None
        return None

    def check(self) -> list[Entry]:
        """Every regular file in it. Raises UnsafeArchive."""
        with self.entries() as entries:
            return [entry for entry, _ in entries]

    @contextmanager
    def entries(self) -> Iterator[Iterator[tuple[Entry, Any]]]:
        """Its regular files in order, each with a function that opens it while the loop stands there."""
        with ExitStack() as stack:
            with _damaged():
                if self.kind == "zip":
                    found = self._of_zip(stack.enter_context(zipfile.ZipFile(self.path)))
                else:
                    found = self._of_tar(stack.enter_context(self._tar()))
            yield self._checked(found)

    def extract(self, folder: Path, *, wanted: Callable[[Entry], bool] = lambda entry: not entry.hidden) -> list[str]:
        """Write its files below `folder`, which is made; the names. Raises UnsafeArchive, OSError.

        `wanted`: which files; those that systems leave beside a user's are left out by default.
        """
        folder.mkdir(parents=True, exist_ok=True)
        written, left = [], self._most
        with self.entries() as entries:
            for entry, opened in entries:
                if not wanted(entry):
                    continue
                target = folder / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with _damaged():
                    source = opened()
                with source, target.open("xb") as file:
                    left = self._copy(source, file, left)
                written.append(entry.name)
        return written

    def _copy(self, source: IO[bytes], target: IO[bytes], left: int) -> int:
        while True:
            with _damaged():
                chunk = source.read(_CHUNK)
            if not chunk:
                return left
            left -= len(chunk)
            if left < 0:
                raise self._too_much()
            target.write(chunk)

    def _checked(self, found: Iterator[tuple[Entry, Any]]) -> Iterator[tuple[Entry, Any]]:
        seen: set[str] = set()
        left, count = self._most, 0
        while True:
            with _damaged():
                one = next(found, None)
            if one is None:
                return
            (entry, opened), count = one, count + 1
            if count > MAX_ENTRIES:
                raise UnsafeArchive(f"the archive has more than {MAX_ENTRIES} entries")
            left -= entry.size
            if left < 0:
                raise self._too_much()
            alike = unicodedata.normalize("NFC", entry.name)
            if alike in seen:
                raise UnsafeArchive(f"{_shown_name(entry.name)} appears twice in the archive")
            seen.add(alike)
            yield entry, opened

    def _of_zip(self, archive: zipfile.ZipFile) -> Iterator[tuple[Entry, Any]]:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if info.filename.endswith("/"):  # `is_dir` fails where a NUL leaves no name
                _check_name(info.filename.rstrip("/"))
                continue
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise UnsafeArchive(f"{_shown_name(info.filename)} is not a regular file: links are not accepted")
            if info.flag_bits & 1:
                raise UnsafeArchive(f"{_shown_name(info.filename)} is encrypted")
            entry = Entry(_check_name(info.filename), info.file_size)
            yield entry, lambda info=info: archive.open(info)

    def _of_tar(self, tar: tarfile.TarFile) -> Iterator[tuple[Entry, Any]]:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep every one
            name = member.name.removeprefix("./")
            if member.isdir():
                if name not in ("", "."):
                    _check_name(name)
                continue
            if not member.isreg() or member.issparse():
                raise UnsafeArchive(
                    f"{_shown_name(name)} is not a regular file: links, devices and sparse files are not accepted"
                )
            entry = Entry(_check_name(name), member.size)
            yield entry, lambda member=member: tar.extractfile(member)

    @contextmanager
    def _tar(self) -> Iterator[tarfile.TarFile]:
        with self.path.open("rb") as raw:
            inner: Any = gzip.GzipFile(fileobj=raw) if self.kind == "tar.gz" else raw
            # With its headers and padding, a tar of tiny files weighs much more than they do.
            limited: Any = _Limited(inner, self._most + 2048 * MAX_ENTRIES if self.kind == "tar" else 2 * self._most)
            with tarfile.open(fileobj=limited, mode="r:") as tar:
                yield tar

    def _too_much(self) -> UnsafeArchive:
        return UnsafeArchive(f"the archive unpacks to more than {MAX_RATIO} times its size")


def extract(path: Path, folder: Path, *, wanted: Callable[[Entry], bool] = lambda entry: True) -> None:
    """Write the wanted files of an archive below `folder`. Raises UnsafeArchive, OSError."""
    archive = Archive.open(path)
    if archive is None:
        raise UnsafeArchive("it is not a zip, tar or gzipped tar file")
    archive.extract(folder, wanted=wanted)


class _Limited:
    """A stream from which neither too much at once nor too much in all is read."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most

    def read(self, size: int = -1) -> bytes:
        """Part of the protocol that tarfile asks for."""
        if not 0 <= size <= _MAX_READ:
            raise UnsafeArchive("the archive has a header of more than 16 MiB")
        self._reaches(self._stream.tell() + size)
        data: bytes = self._stream.read(size)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Part of the protocol that tarfile asks for."""
        self._reaches(offset)
        return int(self._stream.seek(offset, whence))

    def seekable(self) -> bool:
        """Part of the protocol that tarfile asks for."""
        return True

    def tell(self) -> int:
        """Part of the protocol that tarfile asks for."""
        return int(self._stream.tell())

    def _reaches(self, offset: int) -> None:
        if offset > self._most + _MAX_READ:
            raise UnsafeArchive(f"the archive unpacks to more than {MAX_RATIO} times its size")


def _check_name(name: str) -> str:
    """The name, where it can only lie below a folder. Raises UnsafeArchive."""
    parts = name.split("/")
    plain = unicodedata.normalize("NFKC", name)
    wrong = (
        not name
        or len(name) > _MAX_NAME
        or "\\" in name
        or ":" in parts[0]
        or any(ord(character) < 32 or ord(character) == 127 for character in name)
        or any(part in ("", ".", "..") or len(part.encode(errors="replace")) > _MAX_PART_BYTES for part in parts)
        # `․․` and `／` are other characters that systems take for these.
        or any(part.strip() in ("", ".", "..") for part in plain.split("/"))
        or plain.count("/") != name.count("/")
        or "\\" in plain
        or _not_utf8(name)
    )
    if wrong:
        raise UnsafeArchive(f"{_shown_name(name)} is not a relative path inside the archive")
    return name


def _not_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _shown_name(name: str) -> str:
    return repr(name[:200])


# ── what may lie inside ──────────────────────────────────────────────────────────────────────────


def check_arrays(file: Any) -> list[str]:
    """The names of the arrays in an `.npz` file or stream. Raises UnsafeArchive for pickled ones, and for no `.npz`."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = []
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    raise UnsafeArchive(f"{_shown_name(info.filename)} is not an array: an .npz file holds .npy files")
                with archive.open(info) as array:
                    _check_header(array, info.filename)
                names.append(info.filename.removesuffix(".npy"))
            return names
    except UnsafeArchive:
        raise
    except _BROKEN_ZIP as error:
        raise UnsafeArchive(f"not an .npz file: {error}") from error


def check_array_file(file: IO[bytes]) -> None:
    """A `.npz` or `.npy` file, by its first bytes. Raises UnsafeArchive for pickled arrays, and for neither."""
    head = file.read(6)
    file.seek(0)
    if head == b"\x93NUMPY":
        _check_header(file, "the file")
    else:
        check_arrays(file)


def _check_header(array: IO[bytes], name: str) -> None:
    """What NumPy would read first; its `descr` says whether pickles follow."""
    head = array.read(8)
    if len(head) < 8 or head[:6] != b"\x93NUMPY":
        raise UnsafeArchive(f"{_shown_name(name)} is not an .npy file")
    width = "<H" if head[6] == 1 else "<I"
    (length,) = struct.unpack(width, array.read(struct.calcsize(width)))
    if length > _MAX_HEADER_BYTES:
        raise UnsafeArchive(f"{_shown_name(name)} has a header of {length} bytes")
    try:
        header = ast.literal_eval(array.read(length).decode("utf-8" if head[6] == 3 else "latin-1"))
        objects = _has_objects(header["descr"])
    except (SyntaxError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise UnsafeArchive(f"{_shown_name(name)} has a header that cannot be read") from error
    if objects:
        raise UnsafeArchive(
            f"{_shown_name(name)} holds Python objects (pickles): save it with a dtype of numbers or text"
        )


def _has_objects(descr: Any) -> bool:
    if isinstance(descr, str):
        return "O" in descr
    if isinstance(descr, (list, tuple)):
        return any(_has_objects(part) for part in descr)
    return False


def keras_config(file: Path) -> dict[str, Any]:
    """The config in a `.keras` file, without what the model was compiled with. Raises UnsafeArchive.

    Loading such a file can run code (CVE-2025-1550 and its successors got round `safe_mode`), and a small one can take
    all memory: it is looked at as a zip first.
    """
    try:
        archive = Archive.open(file)
        if archive is None or archive.kind != "zip":
            raise UnsafeArchive("it is not a .keras file")
        for entry in archive.check():
            if entry.name not in _KERAS_FILES and PurePosixPath(entry.name).parts[0] != "assets":
                raise UnsafeArchive(f"{_shown_name(entry.name)} is not expected in a .keras file")
        with zipfile.ZipFile(file) as opened:
            if opened.getinfo("config.json").file_size > _MAX_CONFIG_BYTES:
                raise UnsafeArchive("its config is too large")
            config = json.loads(opened.read("config.json"))
    except UnsafeArchive:
        raise
    except (*_BROKEN_ZIP, KeyError, RecursionError) as error:
        raise UnsafeArchive(f"{type(error).__name__}: {error}") from error
    if not isinstance(config, dict):
        raise UnsafeArchive("its config is not a JSON object")
    config.pop("compile_config", None)
    return config


def code_in(config: Any) -> str | None:
    """A class in a Keras config that carries code, or None. What else may not be revived only Keras can tell."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("class_name") in _CODE or value.get("class_name") == "__lambda__":
                return str(value["class_name"])
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return None
