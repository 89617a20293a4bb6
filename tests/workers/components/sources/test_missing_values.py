"""`nulls` and `classes` of the table sources: missing values as pandas reads them, names of classes as numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests.workers.components.conftest import columns_of, source
from tests.workers.components.conftest import fails_at_once as fails

ROWS: dict[str, list[Any]] = {
    "age": [31, None, 7, 40], "fare": [7.25, 8.5, None, 1e-3], "sex": ["f", None, "m", "f"],
    "alive": [True, False, None, True], "id": [1, 2, 3, 4],
}  # fmt: skip
FORMATS = ("csv", "parquet", "jsonl")


def written(root: Path, form: str, rows: dict[str, list[Any]]) -> Any:
    """The rows as pandas and pyarrow write them, in two files; a function that reads them."""
    for place, part in (("a", slice(0, 2)), ("b", slice(2, None))):
        table = pa.table({name: pa.array(values).slice(part.start, part.stop or 100) for name, values in rows.items()})
        file = root / f"{place}.{form}"
        if form == "csv":
            table.to_pandas(types_mapper=pd.ArrowDtype).to_csv(file, index=False, na_rep="NA")
        elif form == "parquet":
            pq.write_table(table, file)
        else:
            lines = [{key: value for key, value in row.items() if value is not None or key == "age"}
                     for row in table.to_pylist()]  # fmt: skip
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lambda **config: source(form, files=f"*.{form}", **config)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("streamed", [False, True])
def test_missing_values_are_those_of_pandas(root: Path, form: str, streamed: bool, request: Any) -> None:
    if streamed:
        request.getfixturevalue("streamed")
    one = written(root, form, ROWS)(named=True, nulls="missing")
    spec = {name: leaf.dtype.name for name, leaf in one.dataset().element_spec.items()}
    assert spec == {"age": "float32", "fare": "float32", "sex": "string", "alive": "float32", "id": "int64"}
    read = columns_of(one)
    expected = pd.DataFrame(ROWS)
    for name in ("age", "fare", "alive"):
        np.testing.assert_array_equal(read[name], expected[name].astype("float64").astype("float32"), err_msg=name)
    assert read["sex"] == expected["sex"].fillna("").tolist()
    assert read["id"] == [1, 2, 3, 4]


@pytest.mark.parametrize("form", FORMATS)
def test_a_null_is_refused_with_its_place_and_the_option(root: Path, form: str) -> None:
    read = written(root, form, ROWS)
    row = {"csv": "a.csv, line 3", "parquet": "a.parquet, row 2", "jsonl": "a.jsonl, line 2"}[form]
    fails(read(features=["age"]), f'^(invalid_data: )?{row}: column \'age\' .*"nulls": "missing"')
    assert np.isnan(columns_of(read(features=["age"], named=True, nulls="missing"))["age"][1])
    what = "has no value.*float32" if form != "csv" else "has no value, which int64 needs; give it the dtype float32"
    fails(read(features=["age"], named=True, nulls="missing", dtypes={"age": "int64"}), what)


@pytest.mark.parametrize("form", FORMATS)
def test_an_integer_that_the_float_cannot_hold_is_no_silent_value(root: Path, form: str) -> None:
    read = written(root, form, {"n": [2**24 + 1, None, 3]})
    fails(read(named=True, nulls="missing"), "16777217")
    rounded = columns_of(read(named=True, nulls="missing", dtypes={"n": "float32"}))["n"]
    np.testing.assert_array_equal(rounded, np.array([2**24, np.nan, 3], "float32"))


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_nulls_within_lists(root: Path, form: str) -> None:
    read = written(root, form, {"v": [[1.5, None], [2.5], [], [None]], "w": [[1], [2], None, [3]]})
    assert str(next(iter(read(features="v", nulls="missing").dataset().batch(4))).to_list()) == (
        "[[1.5, nan], [2.5], [], [nan]]"
    )
    with pytest.raises(Exception, match=r"column 'w' has no value \(null\) where a list belongs"):
        list(read(features="w", nulls="missing").dataset())


def test_parquet_without_statistics_is_read_for_its_nulls(root: Path) -> None:
    pq.write_table(pa.table({"a.b": [1, 2, None], "c": [1, 2, 3]}), root / "t.parquet", write_statistics=False)
    read = columns_of(source("parquet", files="t.parquet", named=True, nulls="missing"))
    np.testing.assert_array_equal(read["a.b"], [1, 2, np.nan])
    assert read["c"] == [1, 2, 3]
    assert isinstance(read["c"][0], int)


def test_folders_without_a_value_are_missing(root: Path) -> None:
    for folder in ("n=3", "n=__HIVE_DEFAULT_PARTITION__"):
        (root / "t" / folder).mkdir(parents=True)
        (root / "t" / folder / "a.csv").write_text("x\n1\n")
        pq.write_table(pa.table({"x": [1]}), root / "t" / folder / "a.parquet")
    for form in ("csv", "parquet"):
        read = columns_of(source(form, files=f"t/**/*.{form}", named=True, nulls="missing"))
        np.testing.assert_array_equal(sorted(read["n"]), [3, np.nan])
    fails(source("csv", files="t/**/*.csv", named=True), "'n', from the name of its folder: has no value")


def test_na_values_say_what_is_missing(root: Path) -> None:
    (root / "t.csv").write_text("country,n\nNA,1\n,?\nDE,3\n")
    one = source("csv", files="t.csv", named=True, nulls="missing", na_values=["", "?"])
    read = columns_of(one)
    assert read["country"] == ["NA", "", "DE"]
    np.testing.assert_array_equal(read["n"], [1, np.nan, 3])
    plain = columns_of(source("csv", files="t.csv", named=True, na_values=["?"]))
    assert plain["country"] == ["NA", "", "DE"]
    assert columns_of(source("csv", files="t.csv", features=["country"], named=True, nulls="missing")) == {
        "country": ["", "", "DE"]
    }


# ── classes ──


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["yes", "no", "no", "maybe"], ["maybe", "no", "yes"]),
        ([10, 9, 10, -2], ["-2", "9", "10"]),
        ([True, False, True, True], ["false", "true"]),
    ],
)
def test_labels_are_numbered_in_order(root: Path, form: str, labels: list[Any], names: list[str]) -> None:
    one = written(root, form, {"x": [0.5, 1.5, 2.5, 3.5], "y": labels})(labels="y", classes="auto")
    names = [name.title() for name in names] if form == "csv" and labels[0] is True else names
    assert one.class_names() == names
    y = [int(label) for _, label in one.dataset()]
    assert one.dataset().element_spec[1].dtype == tf.int64
    assert [names[label].lower() for label in y] == [str(label).lower() for label in labels]
    backwards = written(root, form, {"x": [0.5, 1.5, 2.5, 3.5], "y": labels})(labels="y", classes=names[::-1])
    assert [int(label) for _, label in backwards.dataset()] == [len(names) - 1 - label for label in y]


@pytest.mark.parametrize("form", FORMATS)
def test_a_label_outside_the_list_is_refused_with_its_place(root: Path, form: str) -> None:
    read = written(root, form, {"x": [0.5, 1.5, 2.5], "y": ["no", "yes", "perhaps"]})
    row = {"csv": "b.csv, line 2", "parquet": "b.parquet, row 1", "jsonl": "b.jsonl, line 1"}[form]
    with pytest.raises(Exception, match=f"{row}: column 'y' holds the label 'perhaps'; the classes are 'no', 'yes'"):
        list(read(labels="y", classes=["no", "yes"]).dataset())
    missing = written(root, form, {"x": [0.5, 1.5, 2.5], "y": ["no", None, "yes"]})
    with pytest.raises(Exception, match=r"column 'y' has no|rows without a value|holds the label 'NA'"):
        list(missing(labels="y", classes=["no", "yes"]).dataset())
    for classes, expected in (("auto", [0, -1, 1]), (["no", "yes"], [0, -1, 1]), (["", "no", "yes"], [1, 0, 2])):
        known = missing(labels="y", classes=classes, nulls="missing")
        assert [int(label) for _, label in known.dataset()] == expected
        assert known.class_names() == (["no", "yes"] if classes == "auto" else classes)


def test_classes_are_of_one_column_of_names(root: Path) -> None:
    read = written(root, "parquet", {"x": [0.5, 1.5], "y": [0.5, 1.0]})
    with pytest.raises(Exception, match="'y' holds fractions"):
        read(labels="y", classes="auto").class_names()
    for config, why in (
        ({"classes": "auto"}, "one label column"), ({"labels": ["y"], "classes": "auto"}, "one label column"),
        ({"labels": "y", "classes": ["a", "a"]}, "different names"),
        ({"labels": "y", "classes": "auto", "dtypes": {"y": "int8"}}, "leave it out of dtypes"),
    ):  # fmt: skip
        with pytest.raises(Exception, match=why):
            read(**config)
    with pytest.raises(Exception, match="'y' is a feature and, by its classes, a label"):
        read(labels="y", features=["y"], classes=["0.5", "1"]).dataset()


def test_the_label_may_be_a_folder(root: Path) -> None:
    for name in ("setosa", "virginica"):
        (root / "t" / f"species={name}").mkdir(parents=True)
        pd.DataFrame({"x": [1.5, 2.5]}).to_csv(root / "t" / f"species={name}" / "a.csv", index=False)
        pd.DataFrame({"x": [1.5, 2.5]}).to_parquet(root / "t" / f"species={name}" / "a.parquet")
    for form in ("csv", "parquet"):
        one = source(form, files=f"t/**/*.{form}", labels="species", classes="auto")
        assert one.class_names() == ["setosa", "virginica"]
        assert [int(y) for _, y in one.dataset()] == [0, 0, 1, 1]
