"""A small file that claims to unpack to gigabytes is refused by name, before the memory is taken."""

from __future__ import annotations

import io
import re
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure
from tapeworks_workers.components.sources.arrays import Arrays
from tapeworks_workers.components.sources.images import Images
from tapeworks_workers.components.sources.parquet import Parquet
from tapeworks_workers.components.sources.unpacked_size import MAX_PIXELS, check_arrays, check_pixels
from tapeworks_workers.engine.data.preview.preview import describe
from tests.support.job_files import uploaded

TAKEN = 256 << 20
"""What no test may need: each file claims more."""


def numbers(folder: Path) -> None:
    """Eighty million equal numbers in some kilobytes."""
    column = pa.array(np.zeros(8_000_000, "int64"))
    pq.write_table(pa.table({f"n{at}": column for at in range(10)}), folder / "a.parquet", row_group_size=8_000_000)


def texts(folder: Path) -> None:
    """A thousand rows with the same megabyte."""
    indices = pa.array(np.zeros(1_000, "int32"))
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * (1 << 20)]))
    pq.write_table(pa.table({"n": column}), folder / "a.parquet", compression="zstd")


def texts_of_columns(folder: Path) -> None:
    """The same without an Arrow schema: the pages alone have a dictionary."""
    file = folder / "a.parquet"
    table = pa.table({"n": pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000, "int32")), ["x" * (1 << 20)])})
    pq.write_table(table, file, compression="zstd", store_schema=False)


def zeros(folder: Path) -> None:
    """320 MiB of zeros, deflated."""
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (40 << 20,)})
            for _ in range(320):
                stream.write(bytes(1 << 20))


def shape(folder: Path) -> None:
    """A header that claims more than there is."""
    raw = io.BytesIO()
    np.lib.format.write_array_header_1_0(raw, {"descr": "<f8", "fortran_order": False, "shape": (1 << 48,)})
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("x.npy", raw.getvalue())


def png(folder: Path) -> None:
    (folder / "a").mkdir()
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (folder / "a/x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + bytes(100))


CLAIMS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "numbers": ("parquet", numbers, r"a\.parquet: row group 0 unpacks to 640000000 bytes"),
    "texts": ("parquet", texts, r"a\.parquet: a row group of column 'n' unpacks to 1048576000 bytes"),
    "texts of columns": ("parquet", texts_of_columns, r"a\.parquet: a row group of column 'n' unpacks to 1048576000"),
    "zeros": ("npz", zeros, r"a\.npz: its content unpacks to 3355\d+ bytes"),
    "shape": ("npz", shape, "the array 'x' claims the shape"),
    "png": ("images", png, r"a/x\.png has 60000 x 60000 pixels"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_file_that_claims_too_much_is_refused_by_name(tmp_path: Path, claim: str) -> None:
    format, make, message = CLAIMS[claim]
    make(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 3 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if claim.startswith("texts"):  # one column of others: it is described, and no job reads it
        (column,) = describe(uploaded(tmp_path, format))["columns"]
        assert re.search(message, column["unreadable"])
        with pytest.raises(JobFailure, match=message) as failed:
            Parquet([str(tmp_path / "a.parquet")], features="n").dataset()
    else:
        with pytest.raises(JobFailure, match=message) as failed:
            describe(uploaded(tmp_path, format))
    assert failed.value.code is FailureCode.INVALID_DATA
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < TAKEN


def test_the_same_is_refused_where_a_job_reads_it(tmp_path: Path) -> None:
    numbers(tmp_path)
    zeros(tmp_path)
    png(tmp_path)
    sources = (
        Parquet([str(tmp_path / "a.parquet")]), Arrays([str(tmp_path / "a.npz")], labels=None),
        Images([str(tmp_path / "a/x.png")], size=(8, 8)),
    )  # fmt: skip
    for source in sources:
        with pytest.raises(JobFailure) as failed:
            source.dataset()
        assert failed.value.code is FailureCode.INVALID_DATA


def test_a_parquet_file_with_many_equal_texts_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"t": ["a", "b"] * 10_000, "n": list(range(20_000))}), tmp_path / "a.parquet")
    source = Parquet([str(tmp_path / "a.parquet")], named=True)
    rows = list(source.dataset().take(2).as_numpy_iterator())
    assert [row["t"] for row in rows] == [b"a", b"b"]


def test_the_size_of_each_kind_of_picture_is_found_in_its_header(tmp_path: Path) -> None:
    image = tf.zeros((3, 5, 3), tf.uint8)
    (tmp_path / "x.png").write_bytes(tf.io.encode_png(image).numpy())
    (tmp_path / "x.jpg").write_bytes(tf.io.encode_jpeg(image).numpy())
    for name in ("x.png", "x.jpg"):
        check_pixels(tmp_path / name)
    wide = MAX_PIXELS // 1_000 + 1
    heads = {
        "x.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(20),
        "x.bmp": b"BM" + bytes(16) + struct.pack("<ii", wide, -1_000) + bytes(10),
        "x.jpg": (tmp_path / "x.jpg")
        .read_bytes()
        .replace(struct.pack(">HH", 3, 5), struct.pack(">HH", 65_000, 65_000)),
    }
    for name, content in heads.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(JobFailure, match="pixels"):
            check_pixels(tmp_path / name)


def test_arrays_within_their_bounds_are_described(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1_000, 100)), y=np.arange(1_000))
    assert {name: shape for name, (shape, _) in check_arrays(tmp_path / "a.npz").items()} == {
        "x": (1_000, 100), "y": (1_000,)
    }  # fmt: skip
