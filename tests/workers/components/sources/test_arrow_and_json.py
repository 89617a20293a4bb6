"""Arrow IPC and Feather by `parquet`, JSON arrays by `jsonl`, as pyarrow, pandas and polars write them."""

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from tapeworks.errors import JobFailure
from tapeworks_workers.components.sources import unpacked_size
from tapeworks_workers.components.sources.json_arrays import ArrayLines
from tests.workers.components.conftest import columns_of, fails_at_once, source

ROWS = 2_000


def table() -> pa.Table:
    numbers = np.random.default_rng(0)
    return pa.table(
        {
            "id": pa.array(numbers.integers(0, 2**40, ROWS)),
            "x": pa.array(numbers.normal(size=ROWS)),
            "city": pa.array(numbers.choice(["Graz", "Wien", "Ünnü"], ROWS)).dictionary_encode(),
            "day": pa.array(numbers.integers(0, 20_000, ROWS).astype("int32")).cast(pa.date32()),
            "text": [f"n{number}" * (number % 7) for number in range(ROWS)],
        }
    )


def write_file(path: Path, rows: pa.Table, **options: Any) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema, **options) as writer:
        writer.write_table(rows, max_chunksize=300)


def write_stream(path: Path, rows: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=300)


def zstd(path: Path, rows: pa.Table) -> None:
    write_file(path, rows, options=pa.ipc.IpcWriteOptions(compression="zstd"))


WRITERS = {
    "file": write_file,
    "zstd": zstd,
    "stream": write_stream,
    "feather": lambda path, rows: feather.write_feather(rows, path, chunksize=700),
    "pandas": lambda path, rows: rows.to_pandas().to_feather(path),
    "polars": lambda path, rows: polars.from_arrow(rows).write_ipc(path, compression="lz4"),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_to_write_arrow_reads_as_parquet_does(
    root: Path, writer: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        monkeypatch.setattr("tapeworks_workers.components.sources.parts.WHOLE_FILE_BYTES", 0)
    WRITERS[writer](root / "a.arrow", table())
    pq.write_table(table(), root / "a.parquet", row_group_size=999)
    arrow, parquet = (source("parquet", files=f"a.{form}", named=True) for form in ("arrow", "parquet"))
    assert columns_of(arrow) == columns_of(parquet)
    assert arrow.dataset().element_spec == parquet.dataset().element_spec
    assert int(arrow.dataset().cardinality()) == ROWS
    assert [one.dtype for one in arrow.describe()] == [one.dtype for one in parquet.describe()]


def test_dictionaries_that_change_between_batches_keep_their_words(root: Path) -> None:
    batches = [pa.record_batch({"w": pa.array(words).dictionary_encode()}) for words in (["a", "b"], ["c"], ["b", "a"])]
    with pa.OSFile(str(root / "s.arrow"), "wb") as sink, pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    assert columns_of(source("parquet", files="s.arrow", named=True)) == {"w": ["a", "b", "c", "b", "a"]}


def test_arrow_and_parquet_files_are_one_table_and_folders_give_columns(root: Path) -> None:
    for country, form in (("at", "arrow"), ("de", "parquet")):
        (root / f"country={country}").mkdir()
        path = root / f"country={country}" / f"a.{form}"
        rows = pa.table({"n": pa.array([1, 2], pa.int8() if form == "arrow" else pa.int32())})
        write_file(path, rows) if form == "arrow" else pq.write_table(rows, path)
    one = source("parquet", files="*/*", named=True)
    assert columns_of(one) == {"n": [1, 2, 1, 2], "country": ["at", "at", "de", "de"]}
    assert columns_of(source("parquet", files="country=at/*", features=["country"], named=True)) == {
        "country": ["at", "at"]
    }


@pytest.mark.parametrize(("cut", "form"), [(40, write_file), (3000, write_stream), (7, write_stream)])
def test_a_cut_arrow_file_is_refused_by_its_name(root: Path, cut: int, form: Any) -> None:
    form(root / "a.arrow", table())
    content = (root / "a.arrow").read_bytes()
    (root / "a.arrow").write_bytes(content[:-cut])
    with pytest.raises(JobFailure, match=r"a\.arrow cannot be read as Arrow IPC (file|stream): it .*cut"):
        source("parquet", files="a.arrow", named=True).dataset()


def test_bytes_of_an_arrow_file_changed_at_random_never_crash_the_reader(root: Path) -> None:
    write_stream(root / "good.arrow", table().slice(0, 900))
    content = (root / "good.arrow").read_bytes()
    numbers = np.random.default_rng(7)
    for _ in range(60):
        broken = bytearray(content)
        for place in numbers.integers(0, min(3000, len(content)), 4):
            broken[place] = numbers.integers(0, 256)
        (root / "a.arrow").write_bytes(broken)
        with contextlib.suppress(JobFailure):
            list(source("parquet", files="a.arrow", named=True).dataset().batch(1000))


def test_a_null_and_a_fraction_are_refused_with_the_row(root: Path) -> None:
    rows = pa.table({"n": pa.array([*range(500), None]), "x": [0.0] * 450 + [0.5] * 51})
    write_stream(root / "a.arrow", rows)
    fails_at_once(source("parquet", files="a.arrow", features="n"), r"a\.arrow, row 501: column 'n' has no value")
    cast = source("parquet", files="a.arrow", features="x", dtypes={"x": "int64"})
    fails_at_once(cast, r"a\.arrow, row 451: column 'x'.*losing its fraction")


def test_what_a_batch_unpacks_to_is_bounded_before_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zstd(root / "a.arrow", pa.table({"x": np.zeros(2_000_000)}))
    monkeypatch.setattr(unpacked_size, "LEAST_BYTES", 1000)
    monkeypatch.setattr(unpacked_size, "RATIO", 0)
    fails_at_once(source("parquet", files="a.arrow", features="x"), "record batch 0 unpacks to 2400 bytes")


def test_feather_1_says_what_to_do(root: Path) -> None:
    (root / "a.feather").write_bytes(b"FEA1" + bytes(100))
    fails_at_once(source("parquet", files="a.feather"), "a.feather is Feather version 1, which is obsolete")


# ── JSON arrays ──

OBJECTS = [
    {"n": 1, "t": 'a "quoted", [text] {with} \\ all \\" of it', "v": [1.5, 2], "o": {"indices": [1], "values": [2]}},
    {"n": 2, "t": "ünï\n,\t", "v": [], "o": {"indices": [], "values": []}},
    {"n": 3, "t": "", "v": [3.25], "o": {"indices": [0, 3], "values": [1, 1]}},
]
LAYOUTS = {
    "one line": lambda rows: json.dumps(rows),
    "compact": lambda rows: json.dumps(rows, separators=(",", ":"), ensure_ascii=False),
    "indented": lambda rows: json.dumps(rows, indent=4),
    "windows": lambda rows: "\ufeff\r\n" + json.dumps(rows, indent=1).replace("\n", "\r\n") + "\r\n",
    "pandas": lambda rows: pandas.DataFrame(rows).to_json(orient="records"),
    "polars": lambda rows: polars.DataFrame(rows).write_json(),
}


def read_as_lines(text: str, size: int) -> list[Any]:
    """An array by `ArrayLines` in blocks of a size."""
    content, lines = text.encode().removeprefix(b"\xef\xbb\xbf"), ArrayLines()
    found = b"".join(lines.lines(content[at : at + size]) for at in range(0, len(content), size))
    assert len(found) == len(content)
    assert lines.closed
    return [json.loads(line) for line in found.split(b"\n") if line.strip()]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_cut_anywhere_is_the_same_objects(layout: str) -> None:
    text = LAYOUTS[layout](OBJECTS)
    for size in (*range(1, 40), 10_000):
        assert read_as_lines(text, size) == json.loads(text.removeprefix("\ufeff"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_read_as_json_lines_do(root: Path, layout: str, streamed: None) -> None:
    (root / "a.json").write_bytes(LAYOUTS[layout](OBJECTS).encode())
    (root / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in OBJECTS))
    array, lines = (source("jsonl", files=f"a.{form}", named=True, sparse={"o": 4}) for form in ("json", "jsonl"))
    (found,), (right,) = array.dataset().ragged_batch(9), lines.dataset().ragged_batch(9)
    assert {name: str(one) for name, one in found.items()} == {name: str(one) for name, one in right.items()}
    assert array.describe() == lines.describe()


def test_a_large_array_is_read_in_parts_whatever_its_storage(root: Path, streamed: None) -> None:
    rows = [{"n": number, "t": "x" * (number % 50) + '",\\'} for number in range(60_000)]
    text = json.dumps(rows, indent=1)
    (root / "a.json").write_text(text)
    (root / "b.json.gz").write_bytes(gzip.compress(text.encode(), 1))
    (root / "c.json").write_text(text, encoding="utf-16")
    one = source("jsonl", files="a.json", named=True)
    assert len(one._parts(one.paths[0])[0]) > 2
    for path, encoding in (("a.json", "utf-8"), ("b.json.gz", "utf-8"), ("c.json", "utf-16")):
        found = columns_of(source("jsonl", files=path, named=True, encoding=encoding))
        assert found == {"n": [row["n"] for row in rows], "t": [row["t"] for row in rows]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"n": 1}, {"n": 2}', r"a\.json: the array has no end"),
        ('[{"n": 1}]\n[{"n": 2}]', r"a\.json, line 2: holds more after the end of the array"),
        ('[{"n": 1}]]', r"a\.json, line 1: holds more after the end"),
        ('[{"n": 1}, 7]', r"a\.json, lines from 1 on: .*"),
        ('[\n{"n": 1},\n{"n": null}]', r"a\.json, line 3, object 2: column 'n' has no value"),
        ("[]", r"a\.json is empty"),
        ('{\n "n": 1\n}', r"a\.json, line 1: .*; write one object a line, or one array of objects"),
    ],
)
def test_a_bad_array_is_refused_with_its_file_and_place(root: Path, text: str, message: str) -> None:
    (root / "a.json").write_text(text)
    fails_at_once(source("jsonl", files="a.json", named=True), message)
