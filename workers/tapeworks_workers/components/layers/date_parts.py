"""`date_parts`: year, month, day of week and so on of a moment, in the proleptic Gregorian calendar.

Days become dates by the arithmetic of Hinnant, "chrono-Compatible Low-Level Date Algorithms" (2013), in integers.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import tensorflow as tf

from tapeworks import component

Part = Literal["year", "month", "day", "day_of_year", "day_of_week", "hour", "minute", "second"]
_PER_DAY = {"days": 1, "hours": 24, "minutes": 1440, "seconds": 86_400, "milliseconds": 86_400_000,
            "microseconds": 86_400_000_000}  # fmt: skip
_CYCLES = {"month": (1, 12), "day": (1, 31), "day_of_year": (1, 366), "day_of_week": (0, 7), "hour": (0, 24),
           "minute": (0, 60), "second": (0, 60)}  # fmt: skip
"""Part → its first value and the length of its cycle."""
_EXAMPLE = {"config": {"parts": ["year", "month", "day_of_week"]}, "inputs": tf.TensorSpec([None], tf.int64)}


@component("date_parts", example=_EXAMPLE)
class DateParts(keras.layers.Layer):
    """Parts of moments that are counted from 1970-01-01, as sources give timestamps (microseconds) and dates (days).

    Takes integers, or floats where NaN is a missing moment, `(batch,)` or `(batch, …)`; or texts such as `2024-02-29`,
    `2024/02/29`, `2024-02-29 23:59` and `2024-02-29T23:59:59.5Z`, of which an empty one is missing. Gives
    `(batch, …, numbers)` in the layer's variable dtype: one number for each part in order, or with `cyclic` two, sine
    and cosine, for each part but the year. A missing moment gives NaN. Moments before 1970 are negative; a time of day
    counts from the midnight before it.

    Args:
        parts: `year`, `month` (1 to 12), `day` (1 to 31), `day_of_year` (1 to 366), `day_of_week` (0 is Monday),
            `hour`, `minute`, `second` (whole).
        unit: of the integers.
        cyclic: sine and cosine of the part's place in its cycle, so that December lies beside January.

    Raises ValueError for unknown parts; a text that is no date ends the job as `invalid_data` with the text.
    """

    def __init__(
        self,
        parts: list[Part],
        unit: Literal["days", "hours", "minutes", "seconds", "milliseconds", "microseconds"] = "microseconds",
        cyclic: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        if not parts:
            raise ValueError(f"parts is empty: give one or more of year, {', '.join(_CYCLES)}")
        if unit == "days" and {*parts} & {"hour", "minute", "second"}:
            raise ValueError("days have no hour, minute or second: give the unit of the column, or leave these out")
        self.parts = parts
        self.unit = unit
        self.cyclic = cyclic

    def build(self, input_shape: Any) -> None:
        """No variables."""

    @property
    def _numbers(self) -> int:
        return sum(2 if self.cyclic and part != "year" else 1 for part in self.parts)

    def call(self, inputs: Any) -> Any:
        if inputs.dtype == tf.string:
            days, of_day, known = _parsed(inputs)
        else:
            known = ~tf.math.is_nan(inputs) if inputs.dtype.is_floating else tf.ones(tf.shape(inputs), tf.bool)
            moments = tf.cast(tf.where(known, inputs, tf.zeros_like(inputs)), tf.int64)
            per_day = _PER_DAY[self.unit]
            days = tf.math.floordiv(moments, per_day)
            of_day = tf.math.floordiv((moments - days * per_day) * 86_400, per_day)
        found = _values(days, of_day)
        columns = [column for part in self.parts for column in self._columns(part, found[part])]
        return tf.where(known[..., tf.newaxis], tf.stack(columns, -1), tf.constant(math.nan, self.variable_dtype))

    def _columns(self, part: str, value: tf.Tensor) -> list[tf.Tensor]:
        if not self.cyclic or part == "year":
            return [tf.cast(value, self.variable_dtype)]
        first, length = _CYCLES[part]
        angle = tf.cast(value - first, tf.float64) * (2 * math.pi / length)
        return [tf.cast(tf.sin(angle), self.variable_dtype), tf.cast(tf.cos(angle), self.variable_dtype)]

    def compute_output_spec(self, inputs: Any) -> Any:
        """Whatever the dtype of the moments is."""
        return keras.KerasTensor((*inputs.shape, self._numbers), dtype=self.variable_dtype)


def _values(days: tf.Tensor, of_day: tf.Tensor) -> dict[str, tf.Tensor]:
    """Part → int64, of days since 1970-01-01 and seconds since midnight."""
    floor = tf.math.floordiv
    shifted = days + 719_468  # since 0000-03-01: a year that begins in March has its leap day at its end
    era = floor(shifted, 146_097)
    of_era = shifted - era * 146_097
    year_of_era = floor(of_era - floor(of_era, 1_460) + floor(of_era, 36_524) - floor(of_era, 146_096), 365)
    since_march = of_era - (365 * year_of_era + floor(year_of_era, 4) - floor(year_of_era, 100))
    month_from_march = floor(5 * since_march + 2, 153)
    day = since_march - floor(153 * month_from_march + 2, 5) + 1
    month = tf.where(month_from_march < 10, month_from_march + 3, month_from_march - 9)
    year = year_of_era + era * 400 + tf.cast(month <= 2, tf.int64)
    return {
        "year": year, "month": month, "day": day, "day_of_year": days - _days(year, 1, 1) + 1,
        "day_of_week": tf.math.floormod(days + 3, 7), "hour": floor(of_day, 3_600),
        "minute": floor(tf.math.floormod(of_day, 3_600), 60), "second": tf.math.floormod(of_day, 60),
    }  # fmt: skip


def _days(year: Any, month: Any, day: Any) -> Any:
    """Days since 1970-01-01 of a date."""
    floor = tf.math.floordiv
    before_march = tf.cast(tf.convert_to_tensor(month) <= 2, tf.int64)
    year = year - before_march
    era = floor(year, 400)
    of_era = year - era * 400
    of_year = floor(153 * (month + 12 * before_march - 3) + 2, 5) + day - 1
    return era * 146_097 + of_era * 365 + floor(of_era, 4) - floor(of_era, 100) + of_year - 719_468


_TEXT = r"\d{4}[-/]\d{2}[-/]\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?Z?)?"


def _parsed(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Days, seconds since midnight, and whether there is a moment."""
    stripped = tf.strings.strip(texts)
    known = stripped != ""
    given = tf.where(known, stripped, "1970-01-01")
    length = tf.strings.length(given)
    padded = given + "T00:00:00"  # what a date alone lacks
    time = tf.where(length >= 19, given, tf.where(length >= 16, tf.strings.substr(padded, 0, 16) + ":00", padded))

    def number(text: tf.Tensor, start: int, count: int) -> tf.Tensor:
        part = tf.strings.substr(text, start, count)
        whole = tf.strings.regex_full_match(part, r"\d+")
        return tf.where(whole, tf.strings.to_number(tf.where(whole, part, "0"), tf.int64), tf.constant(-1, tf.int64))

    right = tf.strings.regex_full_match(given, _TEXT)
    safe = tf.where(right, time, "1970-01-01T00:00:00")
    year, month, day = number(safe, 0, 4), number(safe, 5, 2), number(safe, 8, 2)
    hour, minute, second = number(safe, 11, 2), number(safe, 14, 2), number(safe, 17, 2)
    days = _days(year, month, day)
    back = _values(days, days * 0)
    right &= (back["month"] == month) & (back["day"] == day) & (hour < 24) & (minute < 60) & (second < 60)
    wrong = tf.boolean_mask(given, ~right)
    message = tf.strings.join(["invalid data: date_parts takes texts such as 2024-02-29 or 2024-02-29T23:59:59, not ",
                               tf.concat([wrong, [""]], 0)[0]])  # fmt: skip
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(right), [message])]):
        return tf.identity(days), hour * 3_600 + minute * 60 + second, known
