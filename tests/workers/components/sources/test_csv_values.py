"""What `csv` reads from files as people have them: every value as pandas reads it, or a refusal with file and line."""

import gzip
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tapeworks.errors import JobFailure
from tapeworks_workers.components.sources import csv as csv_source
from tests.workers.components.conftest import columns_of, source
from tests.workers.components.conftest import fails_at_once as fails

# ── rows ──


def test_a_quotation_mark_in_a_header_or_a_field_is_text(root: Path) -> None:
    lines = [f"m{k},{k * 1.5},{k * 2.0}\n" if k != 20 else f'Dell 24" monitor,{k * 1.5},{k * 2.0}\n' for k in range(50)]
    (root / "tv.csv").write_text('model,diag ("),price\n' + "".join(lines))
    ((x, y),) = source("csv", files="tv.csv", features=['diag (")'], labels="price").dataset().batch(64)
    expected = pd.read_csv(root / "tv.csv")
    np.testing.assert_array_equal(x[:, 0], expected['diag (")'])
    np.testing.assert_array_equal(y, expected["price"])
    assert float(np.mean(np.square(y))) == 3234.0


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quoted_lines_across_every_part_are_the_rows_of_a_small_file(root: Path, end: str) -> None:
    rows = [
        '24" monitor broke' if k == 10 else f'"line one of review {k}{end}and ""two"" {"-" * 60} {k}"'
        for k in range(25_000)
    ]
    text = end.join(["review", *rows]) + end
    (root / "r.csv").write_text(text, newline="")
    assert len(text) > 2 * csv_source.PART_BYTES
    one = source("csv", files="r.csv", named=True)
    expected = pd.read_csv(io.StringIO(text))["review"].tolist()
    assert int(one.dataset().cardinality()) == 25_000
    assert columns_of(one)["review"] == expected


def test_mixed_line_ends_are_rows(root: Path) -> None:
    (root / "m.csv").write_bytes(b"a,b\r\n1,2\r3,4\n\n5,6\r\n\r\n7,8")
    assert columns_of(source("csv", files="m.csv", named=True)) == {"a": [1, 3, 5, 7], "b": [2, 4, 6, 8]}


@pytest.mark.usefixtures("streamed")
def test_a_row_far_into_a_stream_is_refused_with_its_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_source, "PART_BYTES", 64)
    monkeypatch.setattr("tapeworks_workers.components.sources.parts.SAMPLE_BYTES", 64)
    lines = [f"{k},{k}.5" for k in range(200)]
    lines[150] = "150.5,1"
    (root / "t.csv").write_text("\n\n".join(["a,b", *lines]))
    with pytest.raises(tf.errors.OpError, match=r"t.csv, line 303: column 'a' holds '150.5', not a whole number"):
        list(source("csv", files="t.csv", named=True).dataset())


# ── types ──


def test_ids_keep_their_integers(root: Path) -> None:
    ids = np.repeat(np.arange(900_000_001, 900_000_041), 5)
    pd.DataFrame({"user_id": ids, "clicked": ids % 2}).to_csv(root / "c.csv", index=False)
    ((x, y),) = source("csv", files="c.csv", labels="clicked", named=True).dataset().batch(1000)
    assert len(np.unique(x["user_id"])) == 40
    np.testing.assert_array_equal(x["user_id"], ids)
    np.testing.assert_array_equal(y, ids % 2)
    fails(source("csv", files="c.csv", labels="clicked"), "c.csv, line 2: column 'user_id' holds 900000001 cannot be")
    ((x, _),) = source("csv", files="c.csv", labels="clicked", dtypes={"user_id": "float32"}).dataset().batch(1000)
    assert x.dtype == tf.float32, "as the spec says"


def test_integers_of_one_file_and_floats_of_another_are_floats(root: Path) -> None:
    (root / "1.csv").write_text("price,n\n10,1\n20,2\n")
    (root / "2.csv").write_text("n,price\n3,30.5\n")
    assert columns_of(source("csv", files="*.csv", named=True)) == {"price": [10, 20, 30.5], "n": [1, 2, 3]}


def test_each_column_is_what_pandas_reads(root: Path) -> None:
    text = "i,f,b,t,d,huge,signed\n1,1.5,True,x,2024-01-01,12345678901234567890123,+1\n-2,1e3,false,1,2024-01-02,3,-2\n"
    (root / "t.csv").write_text(text)
    one = source("csv", files="t.csv", named=True)
    dtypes = {name: spec.dtype.name for name, spec in one.dataset().element_spec.items()}
    assert dtypes == {"i": "int64", "f": "float32", "b": "bool", "t": "string", "d": "string", "huge": "string",
                      "signed": "int64"}  # fmt: skip
    expected = pd.read_csv(io.StringIO(text)).astype({"t": str, "huge": str}).to_dict("list")
    assert columns_of(one) == expected


def test_values_that_a_dtype_cannot_hold_are_refused_with_their_line(root: Path) -> None:
    (root / "t.csv").write_text("a,b,c,d\n1,1.0,1e300,\n70000,nan,2,5\n")
    fails(source("csv", files="t.csv", features=["a"], dtypes={"a": "int8"}), "t.csv, line 3: column 'a' .*70000")
    fails(source("csv", files="t.csv", features=["b"], dtypes={"b": "int64"}), "line 3: column 'b' holds .*nan")
    fails(source("csv", files="t.csv", features=["c"]), "t.csv, line 2: column 'c' holds .*is outside the range")
    fails(
        source("csv", files="t.csv", features=["d"]),
        r"line 2: column 'd' holds '', not a number; \"nulls\": \"missing\" reads .*na_values: \[''\]",
    )
    assert columns_of(source("csv", files="t.csv", features=["d"], named=True, na_values=[""]))["d"][1] == 5


# ── headers ──


def test_pandas_index_is_left_out_and_reported(root: Path) -> None:
    pd.DataFrame({"a": [0.5, 1.5], "y": [0, 1]}).to_csv(root / "d.csv")
    one = source("csv", files="d.csv", labels="y")
    assert one.dataset().element_spec[0].shape == [1]
    (note,) = one.left_out()
    assert "'Unnamed: 0' is left out" in note
    named = source("csv", files="d.csv", labels="y", features=["Unnamed: 0", "a"])
    assert named.dataset().element_spec[0].shape == [2]
    assert named.left_out() == []


def test_columns_in_the_names_of_folders_are_given_back(root: Path) -> None:
    for year in (2023, 2024):
        folder = root / "t" / f"year={year}" / "country=d%20e"
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text(f"a\n{year}.5\n")
    read = columns_of(source("csv", files="t/**/*.csv", named=True))
    assert read == {"a": [2023.5, 2024.5], "year": [2023, 2024], "country": ["d e", "d e"]}


def test_files_without_a_header(root: Path) -> None:
    (root / "t.csv").write_text("1,x\n2,y\n")
    assert columns_of(source("csv", files="t.csv", named=True, header=False)) == {"f0": [1, 2], "f1": ["x", "y"]}
    one = source("csv", files="t.csv", named=True, header=False, names=["n", "t"])
    assert columns_of(one) == {"n": [1, 2], "t": ["x", "y"]}
    fails(source("csv", files="t.csv", header=False, names=["n"]), "t.csv has 2 columns, 1 names were given")


# ── options ──


def test_numbers_with_other_points_and_thousands(root: Path) -> None:
    (root / "t.csv").write_text('a;b\n"1.234,5";1.000\n2,25;12\n')
    one = source("csv", files="t.csv", named=True, delimiter=";", decimal=",", thousands=".")
    assert columns_of(one) == pd.read_csv(root / "t.csv", sep=";", decimal=",", thousands=".").to_dict("list")


def test_comments_quotes_and_words_for_true(root: Path) -> None:
    (root / "t.csv").write_text("# made by\na,b,c\n1,'x, y',yes # z\n\n#2\n3,24',no\n")
    one = source(
        "csv", files="t.csv", named=True, comment="#", quotechar="'", true_values=["yes ", "yes"], false_values=["no"]
    )
    assert columns_of(one) == {"a": [1, 3], "b": ["x, y", "24'"], "c": [True, False]}


def test_missing_values_are_nan_where_the_spec_says_so(root: Path) -> None:
    (root / "t.csv").write_text("a,b\n1,NA\n,NA\n3,x\n")
    fails(source("csv", files="t.csv", features=["a"], named=True), "t.csv, line 3: column 'a' holds ''")
    read = columns_of(source("csv", files="t.csv", named=True, na_values=["", "NA"]))
    np.testing.assert_array_equal(read["a"], [1, np.nan, 3])
    assert read["b"] == ["NA", "NA", "x"], "texts stay as they are"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8-sig", "shift_jis"])
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_and_compressed_files(root: Path, encoding: str, packed: bool) -> None:
    word = "日本" if encoding == "shift_jis" else "café"
    content = ("naïve,y\n" if encoding != "shift_jis" else "名,y\n").encode(encoding)
    content += "".join(f"{word} {k},{k}\n" for k in range(3)).encode("utf-16-le" if encoding == "utf-16" else
                                                                     encoding.removesuffix("-sig"))  # fmt: skip
    (root / "t.csv").write_bytes(gzip.compress(content) if packed else content)
    read = columns_of(source("csv", files="t.csv", named=True, encoding=encoding))
    assert list(read.values()) == [[f"{word} {k}" for k in range(3)], [0, 1, 2]]


@pytest.mark.usefixtures("streamed")
def test_a_compressed_file_is_a_stream_of_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_source, "PART_BYTES", 50)
    (root / "t.csv.gz").write_bytes(gzip.compress(b"n\n" + b"".join(b"%d\n" % k for k in range(500))))
    one = source("csv", files="t.csv.gz", named=True)
    assert columns_of(one)["n"] == list(range(500)) == columns_of(one)["n"]
    (root / "cut.csv.gz").write_bytes((root / "t.csv.gz").read_bytes()[:-20])
    fails(source("csv", files="cut.csv.gz"), "cut.csv.gz cannot be decompressed")


def test_text_that_is_no_utf_8_is_refused_with_its_line(root: Path) -> None:
    (root / "h.csv").write_bytes("größe\n1\n".encode("latin-1"))
    (root / "v.csv").write_bytes("a,b\n1,x\n2,café\n".encode("latin-1"))
    fails(source("csv", files="h.csv"), "h.csv is not UTF-8 in line 1: .*give its encoding")
    fails(source("csv", files="v.csv", named=True), "v.csv, line 3: column 'b' .*UTF8")
    fails(source("csv", files="v.csv", named=True, encoding="utf-16"), "v.csv is not utf-16")


def test_options_that_contradict_each_other_are_refused(root: Path) -> None:
    (root / "t.csv").write_text("a\n1\n")
    for wrong, why in [
        ({"delimiter": ";;"}, "delimiter is one ASCII character"),
        ({"comment": ","}, "delimiter, quotechar and comment must differ"),
        ({"thousands": "."}, "decimal and thousands must differ"),
        ({"names": ["a"]}, "set header to false"),
        ({"encoding": "latin1000"}, "unknown encoding"),
        ({"encoding": "zip"}, "not a text encoding"),
    ]:
        with pytest.raises(JobFailure, match=why):
            source("csv", files="t.csv", **wrong)
