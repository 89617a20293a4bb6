"""Layers for raw rows, compared with scikit-learn and pandas: fill_missing, date_parts, log, clip, stack_columns."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from sklearn.impute import SimpleImputer

from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.factory import build

NAN = math.nan
TABLE = np.array([[1, NAN, 5], [2, 4, NAN], [3, 4, 1e6], [7, NAN, -3], [NAN, 1, 5], [7, 1, 0.5]], "float32")
TEXTS = np.array([b"b", b"a", b"", b"a", b"b", b"c"], object)


def layer(name: str, **config: Any) -> Any:
    return build({"component": name, "config": config}, Kind.LAYER, pointer="/layer")


def reloaded(one: Any, spec: tf.TensorSpec, tmp_path: Path) -> Any:
    """A model of the layer, saved and loaded."""
    inputs = keras.Input(batch_shape=spec.shape, dtype=spec.dtype.name)
    model = keras.Model(inputs, one(inputs))
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


# ── fill_missing ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("indicator", [False, True])
@pytest.mark.parametrize(("strategy", "theirs"), [("mean", "mean"), ("median", "median"), ("mode", "most_frequent")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_vector_is_filled_as_scikit_learn_does(
    strategy: str, theirs: str, dtype: str, indicator: bool, tmp_path: Path
) -> None:
    table = TABLE.astype(dtype)
    imputer = SimpleImputer(strategy=theirs).fit(table[:4])
    one = layer("fill_missing", strategy=strategy, indicator=indicator)
    assert one.unlearned
    one.adapt(tf.constant(part) for part in (table[:3], table[3:4]))
    model = reloaded(one, tf.TensorSpec([None, 3], dtype), tmp_path)
    found = model(tf.constant(table)).numpy()
    assert found.dtype == dtype
    np.testing.assert_allclose(found[:, :3], imputer.transform(table), rtol=1e-6 if dtype == "float32" else 1e-15)
    assert found.shape == (6, 6 if indicator else 3)
    np.testing.assert_array_equal(found[:, 3:], np.isnan(table)[:, : found.shape[1] - 3])


@pytest.mark.parametrize(("strategy", "expected"), [("mean", 4.0), ("median", 3.0), ("mode", 7.0)])
def test_a_column_is_filled_with_one_value(strategy: str, expected: float, tmp_path: Path) -> None:
    column = TABLE[:, 0]
    one = layer("fill_missing", strategy=strategy, indicator=True)
    one.adapt(column)
    series = pd.Series(column)
    assert expected == pytest.approx(
        {"mean": series.mean(), "median": series.median(), "mode": series.mode()[0]}[strategy]
    )
    found = reloaded(one, tf.TensorSpec([None], "float32"), tmp_path)(tf.constant(column)).numpy()
    assert found.shape == (6, 2)
    np.testing.assert_allclose(found[:, 0], series.fillna(expected))
    assert found[:, 1].tolist() == [0, 0, 0, 0, 1, 0]


def test_values_of_many_batches_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    one = layer("fill_missing", strategy="median")
    monkeypatch.setattr(sys.modules[type(one).__module__], "_PENDING", 50)
    values = np.random.default_rng(0).integers(0, 40, (1001, 2)).astype("float32")
    values[::7] = NAN
    one.adapt(np.array_split(values, 60))
    np.testing.assert_array_equal(one.fill_values, np.nanmedian(values, axis=0))


def test_texts_are_filled(tmp_path: Path) -> None:
    mode = layer("fill_missing", strategy="mode")
    mode.adapt([tf.constant(TEXTS[:3]), tf.constant(TEXTS[3:])])
    assert mode.fill_values.item() == b"a", "of two that are as frequent the smaller"
    assert reloaded(mode, tf.TensorSpec([None], tf.string), tmp_path)(TEXTS).numpy().tolist()[2] == b"a"
    pair = layer("fill_missing", strategy="mode")
    pair.adapt(tf.constant([["x", "ü"], ["", "ü"], ["x", ""]]))
    found = reloaded(pair, tf.TensorSpec([None, 2], tf.string), tmp_path)(tf.constant([["", ""]])).numpy().tolist()
    assert found == [[b"x", "ü".encode()]]
    constant = layer("fill_missing", strategy="constant", value="none")
    assert reloaded(constant, tf.TensorSpec([None], tf.string), tmp_path)(tf.constant(["", "y"])).numpy().tolist() == [
        b"none", b"y",
    ]  # fmt: skip


def test_mixed_precision_fills_before_it_rounds() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    one = layer("fill_missing", strategy="mean")
    one.adapt(np.array([[70_000.0], [NAN], [90_000.0]], "float32"))
    found = one(tf.constant([[NAN], [70_000.0]]))
    assert found.dtype == tf.float32
    assert found.numpy().tolist() == [[80_000.0], [70_000.0]]


@pytest.mark.parametrize(
    ("config", "data", "why"),
    [
        ({"strategy": "mean"}, TEXTS, "texts have no mean"),
        ({"strategy": "mean"}, np.array([1, 2]), "int64 has no missing values"),
        ({"strategy": "median"}, np.array([[1.0, NAN], [2.0, NAN]]), "no row has a value"),
        ({"strategy": "mean"}, np.array([1.0, np.inf]), "mean of a feature with infinities is inf"),
        ({"strategy": "mode"}, np.array([b"", b""], object), "no row has a value"),
    ],
)
def test_what_cannot_be_learned_is_refused(config: dict[str, Any], data: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        layer("fill_missing", **config).adapt(data)


@pytest.mark.parametrize(
    ("config", "spec", "why"),
    [
        ({"strategy": "constant"}, None, "give both or neither"),
        ({"strategy": "mean", "value": 0.0}, None, "give both or neither"),
        ({"strategy": "constant", "value": ""}, None, "give another text"),
        ({"strategy": "constant", "value": "x", "indicator": True}, None, "no indicator"),
        ({"strategy": "constant", "value": "x"}, "float32", "cannot fill in float32"),
        ({"strategy": "constant", "value": 1.0}, "string", "texts take the strategy"),
        ({"strategy": "constant", "value": 1.0}, "int64", "int64 has no missing values"),
        ({"strategy": "mode", "indicator": True}, "string", "no indicator"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(config: dict[str, Any], spec: str | None, why: str) -> None:
    with pytest.raises(Exception, match=why):
        layer("fill_missing", **config)(keras.Input((), dtype=spec or "float32"))


def test_ragged_inputs_are_refused() -> None:
    with pytest.raises(Exception, match="takes dense inputs"):
        layer("fill_missing")(keras.Input((None,), ragged=True))


# ── date_parts ───────────────────────────────────────────────────────────────────────────────────

DAYS = pd.date_range("1899-12-25", "2101-01-10", freq="D")
PARTS = ["year", "month", "day", "day_of_year", "day_of_week", "hour", "minute", "second"]


def expected(moments: pd.DatetimeIndex, parts: list[str]) -> np.ndarray:
    return np.stack([getattr(moments, part) for part in parts], -1)


def test_every_day_of_two_centuries_is_that_of_pandas() -> None:
    days = (DAYS - pd.Timestamp("1970-01-01")).days.to_numpy()
    assert days.min() < -25_000
    found = layer("date_parts", parts=PARTS[:5], unit="days")(tf.constant(days))
    np.testing.assert_array_equal(found, expected(DAYS, PARTS[:5]))
    floats = layer("date_parts", parts=["day"], unit="days")(tf.constant([NAN, -1.0], tf.float32)).numpy()
    np.testing.assert_array_equal(floats, [[NAN], [31]])


@pytest.mark.parametrize("unit", ["microseconds", "milliseconds", "seconds", "minutes", "hours"])
def test_moments_of_every_unit_are_those_of_pandas(unit: str) -> None:
    random = np.random.default_rng(0).integers(-2_208_988_800, 4_102_444_800, 5_000)
    moments = pd.to_datetime(np.concatenate([random, [-1, 0, 86_399, -86_400]]), unit="s")
    length = {"microseconds": 1e-6, "milliseconds": 1e-3, "seconds": 1, "minutes": 60, "hours": 3600}[unit]
    moments = moments.floor({60: "min", 3600: "h"}.get(length, "s"))
    counted = np.asarray(moments.as_unit("s").astype("int64"))
    counted = counted // length if length >= 1 else counted * round(1 / length)
    found = layer("date_parts", parts=PARTS, unit=unit)(tf.constant(counted.astype("int64")))
    np.testing.assert_array_equal(found, expected(moments, PARTS))


def test_cyclic_parts_lie_on_a_circle(tmp_path: Path) -> None:
    one = layer("date_parts", parts=["year", "month", "hour"], cyclic=True)
    moments = pd.to_datetime(["2024-01-31 23:00", "2024-12-01 05:30", "1969-07-20 00:00"])
    model = reloaded(one, tf.TensorSpec([None], tf.int64), tmp_path)
    found = model(tf.constant(np.asarray(moments.as_unit("us").astype("int64")))).numpy()
    assert found.shape == (3, 5)
    month, hour = (moments.month - 1) / 12 * 2 * np.pi, moments.hour / 24 * 2 * np.pi
    circles = np.stack([moments.year, np.sin(month), np.cos(month), np.sin(hour), np.cos(hour)], -1)
    np.testing.assert_allclose(found, circles, atol=1e-6)


def test_texts_are_dates_of_iso_8601() -> None:
    texts = ["1900-02-28", "2012/01/31", "2000-02-29 23:59", "2024-12-31T12:34:56.789Z", " 1970-01-01T00:00:00 "]
    moments = pd.DatetimeIndex([pd.Timestamp(text.strip()).tz_localize(None) for text in texts])
    found = layer("date_parts", parts=PARTS)(tf.constant([*texts, ""])).numpy()
    np.testing.assert_array_equal(found[:-1], expected(moments, PARTS))
    assert np.isnan(found[-1]).all()
    for wrong in ("2023-02-29", "2024-13-01", "31.12.2024", "2024-01-01 24:00", "x", "2024-01-01T00:00+02:00"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="invalid data: date_parts takes texts such as"):
            layer("date_parts", parts=["year"])(tf.constant(["2024-01-01", wrong]))


def test_days_have_no_hours() -> None:
    with pytest.raises(Exception, match="days have no hour"):
        layer("date_parts", parts=["hour"], unit="days")


# ── log, clip, stack_columns ─────────────────────────────────────────────────────────────────────


def test_log_of_amounts() -> None:
    amounts = np.array([0.0, 1e-9, 3.5, 70_000.0, -3.5, NAN])
    np.testing.assert_allclose(layer("log")(tf.constant(amounts[:4])), np.log1p(amounts[:4]), rtol=1e-12)
    signed = layer("log", signed=True)(tf.constant(amounts)).numpy()
    np.testing.assert_allclose(signed, np.sign(amounts) * np.log1p(np.abs(amounts)), rtol=1e-12)
    assert layer("log")(tf.constant([7])).dtype == tf.float32
    keras.config.set_dtype_policy("mixed_float16")
    assert layer("log")(tf.constant([[70_000.0]])).numpy().item() == pytest.approx(math.log1p(70_000.0))


def test_clip_keeps_the_dtype() -> None:
    values = np.array([-5.0, 0.5, 9.0, NAN])
    np.testing.assert_array_equal(layer("clip", minimum=0, maximum=1.5)(tf.constant(values)), np.clip(values, 0, 1.5))
    assert layer("clip", maximum=3)(tf.constant([1, 9])).numpy().tolist() == [1, 3]
    with pytest.raises(Exception, match=r"1.5 is not an integer bound"):
        layer("clip", maximum=1.5)(tf.constant([1, 9]))
    with pytest.raises(Exception, match="must not exceed"):
        layer("clip", minimum=2, maximum=1)
    with pytest.raises(Exception, match="give minimum, maximum or both"):
        layer("clip")


def test_columns_side_by_side() -> None:
    one = layer("stack_columns")
    inputs = [keras.Input((), dtype="float32"), keras.Input((), dtype="int64"), keras.Input((2,), dtype="float32")]
    model = keras.Model(inputs, one(inputs))
    assert model.output.shape == (None, 4)
    found = model([tf.constant([0.5, 1.5]), tf.constant([3, 4], tf.int64), tf.constant([[1.0, 2.0], [3.0, 4.0]])])
    assert found.numpy().tolist() == [[0.5, 3, 1, 2], [1.5, 4, 3, 4]]
    with pytest.raises(Exception, match="input 1 holds texts: put keras/StringLookup"):
        one([keras.Input(()), keras.Input((), dtype="string")])
