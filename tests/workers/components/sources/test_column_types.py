"""Types of `parquet` and `jsonl`: compared over all files, cast safely, times in one unit; the rest is refused."""

import datetime
import decimal
import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapeworks_workers.components.sources.safe_casts import Unfit, fitted
from tests.workers.components.conftest import columns_of, source
from tests.workers.components.conftest import fails_at_once as fails


def parquet(root: Path, **files: dict[str, Any]) -> Any:
    for name, columns in files.items():
        pq.write_table(pa.table(columns), root / f"{name}.parquet", row_group_size=2)
    return lambda **config: source("parquet", files="*.parquet", **config)


@pytest.mark.usefixtures("streamed")
def test_integers_of_one_file_and_floats_of_another_are_floats(root: Path) -> None:
    read = parquet(root, a={"price": [10, 20, 30, 40]}, b={"price": [10.5, 20.75, 30.25, 40.5]})
    assert sorted(columns_of(read(named=True))["price"]) == [10, 10.5, 20, 20.75, 30, 30.25, 40, 40.5]


@pytest.mark.usefixtures("streamed")
def test_integers_take_the_widest_type_of_all_files(root: Path) -> None:
    read = parquet(root, a={"n": pa.array([1, 2], pa.int8())}, b={"n": pa.array([70_000, 3], pa.int64())})
    assert sorted(columns_of(read(named=True))["n"]) == [1, 2, 3, 70_000]


@pytest.mark.usefixtures("streamed")
def test_timestamps_of_every_unit_are_microseconds(root: Path) -> None:
    when = [datetime.datetime(2024, 1, 1, hour) for hour in range(4)]
    for name, unit in zip("abcd", ("ns", "us", "ms", "s"), strict=True):
        pq.write_table(pa.table({"t": pa.array(when, pa.timestamp(unit))}), root / f"{name}.parquet", version="2.6")
    expected = sorted(int(one.timestamp() * 1e6) for one in pd.to_datetime(when, utc=True).tolist()) * 4
    assert sorted(columns_of(source("parquet", files="*.parquet", named=True))["t"]) == sorted(expected)


def test_every_arrow_type_has_its_form(root: Path) -> None:
    day, moment = datetime.date(1970, 1, 11), datetime.datetime(1970, 1, 1, 0, 0, 1, 5)
    nested = pa.array([[["a"], []]], pa.list_(pa.list_(pa.large_string())))
    table = pa.table({
        "date": pa.array([day]), "date64": pa.array([day], pa.date64()),
        "zone": pa.array([moment], pa.timestamp("us", "Europe/Vienna")),
        "time": pa.array([datetime.time(0, 0, 2)], pa.time32("s")),
        "time64": pa.array([datetime.time(0, 0, 2, 7)], pa.time64("us")),
        "duration": pa.array([datetime.timedelta(milliseconds=3)], pa.duration("ms")),
        "decimal": pa.array([decimal.Decimal("1.5")]), "half": pa.array(np.array([0.5], "float16")),
        "flag": pa.array([True]), "category": pa.array(["x"]).dictionary_encode(),
        "large": pa.array(["y"], pa.large_string()), "view": pa.array(["v"], pa.string_view()),
        "bytes": pa.array([b"\xff"], pa.binary()), "fixed": pa.array([b"\xff\0"], pa.binary(2)),
        "tiny": pa.array([7], pa.uint8()), "nested": nested,
    })  # fmt: skip
    pq.write_table(table, root / "t.parquet")
    one = source("parquet", files="t.parquet", named=True)
    ((element),) = one.dataset()
    assert {name: one.dtype.name for name, one in element.items()} == {
        "date": "int64", "date64": "int64", "zone": "int64", "time": "int64", "time64": "int64", "duration": "int64",
        "decimal": "float32", "half": "float32", "flag": "bool", "category": "string", "large": "string",
        "view": "string", "bytes": "string", "fixed": "string", "tiny": "uint8", "nested": "string",
    }  # fmt: skip
    assert element.pop("nested").to_list() == [[b"a"], []]
    assert {name: value.numpy() for name, value in element.items()} == {
        "date": 10, "date64": 10, "zone": 1_000_005, "time": 2_000_000, "time64": 2_000_007, "duration": 3_000,
        "decimal": 1.5, "half": 0.5, "flag": True, "category": b"x", "large": b"y", "view": b"v", "bytes": b"\xff",
        "fixed": b"\xff\0", "tiny": 7,
    }  # fmt: skip
    units = {one.name: one.unit for one in one.describe() if one.unit}
    assert units["date"] == "days since 1970-01-01"
    assert units["zone"] == "microseconds since 1970-01-01 UTC"


@pytest.mark.usefixtures("streamed")
@pytest.mark.parametrize(
    ("values", "dtypes", "why"),
    [
        ([1.0, 2.5], {"v": "int64"}, "row 2: column 'v': 2.5 cannot be int64 without losing its fraction"),
        ([1.0, float("nan")], {"v": "int64"}, "row 2: .*nan cannot be int64"),
        ([1, 70_000], {"v": "int16"}, "row 2: .*70000 is outside int16"),
        ([1, -1], {"v": "uint8"}, "row 2: .*-1 is outside uint8"),
        ([1, None], {"v": "float32"}, "row 2: column 'v' has no value"),
        ([1.0, 1e300], {}, r"row 2: .*1e\+300 is outside the range of float32"),
        ([1, 900_000_001], {"v": "bool"}, "row 2: .*neither 0 nor 1"),
        (["1", "x"], {"v": "int64"}, "row 2: .*'x' is no int64"),
        ([1], {"v": "resource"}, "'resource' is not a dtype"),
        (pa.array([1, 2**60], pa.timestamp("ms")), {}, "row 2: .*outside int64 as microseconds"),
        (pa.array([1000, 1001], pa.timestamp("ns")), {}, "row 2: .*not an integer number of microseconds"),
        ([[1, 2], [3, None]], {}, "row 2: column 'v' has no value"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_file_and_row(
    root: Path, values: Any, dtypes: dict[str, str], why: str
) -> None:
    read = parquet(root, a={"v": values})
    fails(read(features="v", dtypes=dtypes), rf"^invalid_data: a.parquet, {why}|{why}")


@pytest.mark.usefixtures("streamed")
def test_the_row_is_that_of_the_file(root: Path) -> None:
    read = parquet(root, a={"v": [1, 2, 3, 4, 5]}, b={"v": [1.0, 2.0, 3.0, 4.5]})
    with pytest.raises(Exception, match=r"b.parquet, row 4: column 'v': 4.5 cannot be int64"):
        list(read(features="v", dtypes={"v": "int64"}).dataset())


def test_large_integers_are_never_rounded_without_a_word(root: Path) -> None:
    read = parquet(root, a={"id": [900_000_001, 900_000_002], "x": [0.5, 1.5]})
    fails(read(), "a.parquet, row 1: column 'id': 900000001 cannot be float32 without rounding")
    assert columns_of(read(named=True))["id"] == [900_000_001, 900_000_002]
    assert read(dtypes={"id": "float32"}).dataset().element_spec.shape == [2]
    parquet(root, b={"id": [1.5], "x": [0.5]})
    fails(read(features="id"), "a.parquet, row 1: column 'id': 900000001 cannot be float32 without rounding")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"v": ["text"]}, "column 'v' is int64 in a.parquet and string in b.parquet"),
        ({"v": [[1]]}, r"column 'v' is int64 in a.parquet and int64 of shape \[None\] in b.parquet"),
        ({"w": [1]}, "column 'v' is not in b.parquet"),
    ],
)
def test_columns_of_unlike_files_are_refused_only_where_they_are_named(root: Path, other: Any, why: str) -> None:
    read = parquet(root, a={"v": [1], "x": [1.0]}, b={**other, "x": [2.0]})
    fails(read(features="v"), why)
    assert columns_of(read(features=["x"], named=True)) == {"x": [1, 2]}


def test_unreadable_columns_are_left_out_and_reported(root: Path) -> None:
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.UUID(int=1).bytes], pa.binary(16)))
    read = parquet(root, a={"s": [{"a": 1}], "u": ids, "m": [None], "x": [1.0]})
    one = read(named=True)
    assert columns_of(one) == {"x": [1]}
    assert [note.split(" is ")[0] for note in one.left_out()] == ["column 's'", "column 'u'", "column 'm'"]
    fails(read(features="s"), "column 's' is struct<a: int64>, which no tensor can hold: choose features")
    fails(read(features="u"), "column 'u' is extension<arrow.uuid>, which no tensor can hold")
    fails(read(features="m"), "column 'm' holds nothing but nulls")


def test_pandas_index_is_left_out_and_reported(root: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(6.0), "y": [0, 1] * 3}).iloc[[4, 0, 3]]
    frame.to_parquet(root / "d.parquet")
    one = source("parquet", files="d.parquet", labels="y")
    assert one.dataset().element_spec[0].shape == [1]
    assert one.left_out() == [
        "column '__index_level_0__' is left out: it is pandas' index; name it in features to use it"
    ]
    frame.set_index("y").to_parquet(root / "d.parquet")
    assert source("parquet", files="d.parquet", labels="y").left_out() == [], "an index with a name is a column"


def test_columns_in_the_names_of_folders_are_given_back(root: Path) -> None:
    frame = pd.DataFrame({"country": ["de", "de", "fr"], "year": [1, 2, 1], "a": [1.0, 2.0, 3.0]})
    frame.to_parquet(root / "t", partition_cols=["country", "year"])
    read = columns_of(source("parquet", files="t/**/*.parquet", named=True))
    expected = pd.read_parquet(root / "t").astype({"country": str, "year": int})
    assert read == expected.to_dict("list")
    fails(source("parquet", files="t/**/*.parquet"), "'country' is not a number")


# ── JSON lines ──


def jsonl(root: Path, name: str, rows: list[Any]) -> None:
    (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_fields_are_compared_over_all_lines_and_files(root: Path) -> None:
    jsonl(root, "a.jsonl", [{"n": 1, "l": []}, {"n": 2, "l": []}])
    jsonl(root, "b.jsonl", [{"n": 1.5, "l": [2]}])
    one = source("jsonl", files="*.jsonl", named=True)
    assert [row["n"].numpy() for row in one.dataset()] == [1, 2, 1.5]
    assert [row["l"].numpy().tolist() for row in one.dataset()] == [[], [], [2]]


def test_texts_that_look_like_times_stay_texts(root: Path) -> None:
    rows = [{"t": "2024-01-01 00:00:00", "d": "2024-01-01", "l": ["2024-01-01 00:00:00"]}]
    jsonl(root, "a.jsonl", rows)
    (row,) = source("jsonl", files="a.jsonl", named=True).dataset()
    assert (row["t"].numpy(), row["d"].numpy()) == (b"2024-01-01 00:00:00", b"2024-01-01")
    assert row["l"].numpy().tolist() == [b"2024-01-01 00:00:00"]


def test_a_field_of_several_types_is_refused_only_where_it_is_named(root: Path) -> None:
    jsonl(root, "a.jsonl", [{"v": 1, "x": 1}, {"v": "one", "x": 2}, {"v": {"a": 1}, "x": 3}])
    fails(source("jsonl", files="a.jsonl", features="v"), "column 'v' holds values of several types")
    assert columns_of(source("jsonl", files="a.jsonl", features=["x"], named=True)) == {"x": [1, 2, 3]}


def test_objects_of_several_lines_and_other_encodings(root: Path) -> None:
    (root / "p.jsonl").write_text('{"a":\n1}\n{"a": 2}\n')
    fails(source("jsonl", files="p.jsonl", named=True), "p.jsonl, lines from 1 on: 3 lines hold 2 objects")
    (root / "l.jsonl").write_bytes('{"a": "x"}\n{"a": "café"}\n'.encode("latin-1"))
    fails(source("jsonl", files="l.jsonl", named=True), "l.jsonl, line 2: is not UTF-8 .*give the source its encoding")
    assert columns_of(source("jsonl", files="l.jsonl", named=True, encoding="latin-1")) == {"a": ["x", "café"]}
    (root / "u.jsonl.gz").write_bytes(gzip.compress('\ufeff{"a": "é"}\r\n\r\n{"a": "ü"}'.encode()))
    assert columns_of(source("jsonl", files="u.jsonl.gz", named=True)) == {"a": ["é", "ü"]}


# ── casts ──


@pytest.mark.parametrize(
    ("value", "stored", "dtype", "fits"),
    [
        (2**63 - 1, "int64", "float64", False),
        (2**62, "int64", "float32", True),
        (2**64 - 1, "uint64", "float64", False),
        (-(2**24) - 1, "int64", "float32", False),
        (2.0**63, "float64", "int64", False),
        (-(2.0**63), "float64", "int64", True),
        (255.0, "float32", "uint8", True),
        (256.0, "float32", "uint8", False),
        (2**63, "uint64", "int64", False),
        (float("inf"), "float64", "float32", True),
    ],
)
def test_casts_keep_every_value_or_name_it(value: float, stored: str, dtype: str, fits: bool) -> None:
    values = np.array([0, value], stored)
    if fits:
        assert fitted(values, dtype, explicit=False)[1] == value
        return
    with pytest.raises(Unfit) as refused:
        fitted(values, dtype, explicit=False)
    assert refused.value.position == 1
