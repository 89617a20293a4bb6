"""What a process that holds a bundle's code saw: `facts.json`, and `arrays.npy`, which is one array after another.

A verifier (`reload.py`, `certify.py`) writes with `write_observation`; the process that compares reads with
`read_observation`. The writer runs the code of a user, so the reader believes nothing: every array is announced by its
header alone, holds plain numbers, lies within the file, and is read when it is asked for. Nothing is unpickled.

`reload.py` imports this file by path: only the standard library and NumPy are used here.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

FACTS, ARRAYS = "facts.json", "arrays.npy"
MAX_ARRAYS = 1_000_000
_MAX_NAMES, _MAX_NAME = 1000, 200
_PLAIN = "biufcV"
"""Kinds of dtypes; `V` are the bits of a number that NumPy does not know."""


class ObservationRefused(Exception):
    """A file holds something else than plain arrays and facts; the message says what."""


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def write_observation(folder: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write both files into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ARRAYS).open("wb") as file:
        for array in arrays.values():
            plain = np.ascontiguousarray(array).reshape(array.shape)
            np.lib.format.write_array(file, plain, version=(1, 0), allow_pickle=False)
    document = {**facts, "arrays": list(arrays)}
    (folder / FACTS).write_text(json.dumps(document), encoding="utf-8")


def digest_rows(digests: Sequence[str]) -> np.ndarray:
    """Hex digests as rows of bytes: an array of uint8 of shape (count, 32)."""
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(len(digests), 32)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def read_observation(folder: Path) -> tuple[dict[str, Any], PlainArrays]:
    """The facts, and the arrays by name. Raises ObservationRefused, OSError."""
    try:
        facts = json.loads((folder / FACTS).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ObservationRefused(f"{FACTS} is not JSON: {error}") from error
    names = facts.get("arrays") if isinstance(facts, dict) else None
    if not isinstance(names, list) or len(names) > MAX_ARRAYS or not all(isinstance(name, str) for name in names):
        raise ObservationRefused(f"{FACTS} does not list the names of the arrays")
    file = folder / ARRAYS
    places: dict[str, ArrayPlace] = {}
    with file.open("rb") as opened:
        end = opened.seek(0, 2)
        opened.seek(0)
        for name in names:
            place = _announced(opened, file, end)
            opened.seek(place.offset + place.nbytes)
            places[name] = place
        if opened.tell() != end:
            raise ObservationRefused(f"{ARRAYS} holds more bytes than the arrays that are listed")
    return facts, PlainArrays(places)


def read_archive(file: Path) -> PlainArrays:
    """The arrays of an `.npz` file, none of them compressed or larger than its place in the file.

    Raises ObservationRefused, OSError.
    """
    places: dict[str, ArrayPlace] = {}
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as opened:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ObservationRefused(f"{file.name} is compressed at {info.filename!r}")
                opened.seek(info.header_offset + 26)
                name_length, extra_length = np.frombuffer(opened.read(4), "<u2").tolist()
                begin = info.header_offset + 30 + name_length + extra_length
                opened.seek(begin)
                places[info.filename.removesuffix(".npy")] = _announced(opened, file, begin + info.file_size)
    except (zipfile.BadZipFile, ValueError) as error:
        raise ObservationRefused(f"{file.name} cannot be read: {error}") from error
    return PlainArrays(places)


@dataclass(frozen=True)
class ArrayPlace:
    """Where an array lies in a file, and what it is."""

    file: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.dtype.itemsize * math.prod(self.shape)


class PlainArrays(Mapping[str, np.ndarray]):
    """Arrays by name, each read when it is asked for."""

    def __init__(self, places: Mapping[str, ArrayPlace]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> np.ndarray:
        place = self._places[name]
        count = math.prod(place.shape)
        found = np.fromfile(place.file, place.dtype, count, offset=place.offset)
        if found.size != count:
            raise ObservationRefused(f"{place.file.name} ends within the array {name!r}")
        return found.reshape(place.shape[::-1]).T if place.fortran else found.reshape(place.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _announced(opened: IO[bytes], file: Path, end: int) -> ArrayPlace:
    """The array whose header comes next; it must end before `end`."""
    try:
        version = np.lib.format.read_magic(opened)
        if version != (1, 0):
            raise ObservationRefused(f"{file.name} holds an array of the format {version}")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(opened)
    except (ValueError, TypeError, SyntaxError, RecursionError, EOFError) as error:
        raise ObservationRefused(f"{file.name} contains an entry that is not an array: {error}") from error
    if dtype.kind not in _PLAIN or dtype.hasobject or dtype.fields is not None or dtype.subdtype is not None:
        raise ObservationRefused(f"{file.name} holds an array of {dtype}, which is not a plain number type")
    place = ArrayPlace(file, opened.tell(), dtype, shape, fortran)
    if min(shape, default=0) < 0 or place.offset + place.nbytes > end:
        raise ObservationRefused(f"{file.name} holds an array of shape {shape} that is larger than the file")
    return place


def device_of(device: Mapping[str, Any]) -> dict[str, Any]:
    """Where a process says that it computed, typed and bounded."""
    return {"kind": "gpu" if device["kind"] == "gpu" else "cpu", "names": names_of(device["names"])}


def names_of(names: Sequence[Any]) -> list[str]:
    """Names that another process states, bounded."""
    return [str(name)[:_MAX_NAME] for name in names[:_MAX_NAMES]]
