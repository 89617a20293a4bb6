"""What columns of CSV hold, and their values: texts become numbers, booleans or stay texts.

Kinds come from rows of all files: `integer`, `number`, `boolean`, `string`. A blank is an empty field or one of pandas'
spellings of a missing value (`NA`, `null`, …); the spec's `nulls` and `na_values` say which of them are missing values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tapeworks_workers.components.sources.class_labels import class_numbers
from tapeworks_workers.components.sources.csv_rows import Dialect
from tapeworks_workers.components.sources.safe_casts import Array, Unfit, fitted

BLANKS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
"""What pandas takes for a missing value."""
TRUE, FALSE = ("True", "TRUE", "true"), ("False", "FALSE", "false")
_CONVERSION = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to [\w\[\]]+: (.*)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Values:
    """How texts are read as values."""

    decimal: str = "."
    thousands: str | None = None
    na_values: tuple[str, ...] = ()
    """Texts that are missing values in columns of numbers and booleans."""
    missing_texts: bool = False
    """Whether they are missing in columns of texts too."""
    true_values: tuple[str, ...] = ()
    false_values: tuple[str, ...] = ()

    @classmethod
    def given(
        cls, decimal: str, thousands: str | None, na_values: Sequence[str] | None, true_values: Sequence[str] | None,
        false_values: Sequence[str] | None, missing: bool,
    ) -> Values:  # fmt: skip
        """From a spec; `missing`: whether a field without a value is a missing one."""
        blanks = BLANKS if na_values is None and missing else tuple(na_values or ())
        return cls(decimal, thousands, blanks, missing, tuple(true_values or ()), tuple(false_values or ()))


@dataclass(frozen=True)
class Kind:
    """What a column holds."""

    name: str
    """`integer`, `number`, `boolean`, `string`; `binary` where it is no UTF-8, `blank` where no row has a value."""
    blanks: bool = False
    """Whether some rows have no value."""

    def joined(self, other: Kind) -> Kind:
        """What two pieces of a column hold together."""
        names = {self.name, other.name} - {"blank"}
        name = names.pop() if len(names) == 1 else "blank" if not names else "string"
        if {self.name, other.name} == {"integer", "number"}:
            name = "number"
        if "binary" in (self.name, other.name):
            name = "binary"
        return Kind(name, self.blanks or other.blanks)

    @property
    def dtype(self) -> str:
        """The dtype of a column by itself; blanks need a float."""
        if self.name == "integer" and not self.blanks:
            return "int64"
        if self.name in ("integer", "number") or (self.name == "boolean" and self.blanks):
            return str(keras.config.floatx())
        return "bool" if self.name == "boolean" else "string"


@dataclass(frozen=True)
class Wanted:
    """A column of a part: its dtype in the element."""

    dtype: str
    kind: Kind
    explicit: bool = False
    """Whether the spec names the dtype."""
    classes: tuple[str, ...] | None = None
    """Of a label of `string`: the list that numbers it."""

    @property
    def output(self) -> str:
        """The dtype of its tensor."""
        return self.dtype if self.classes is None else "int64"

    @property
    def exact(self) -> bool:
        """Whether integers must not be rounded."""
        return self.kind.name == "integer" and "float" in self.dtype and not self.explicit

    @property
    def parsed(self) -> Any:
        """The Arrow type that texts are parsed as."""
        import pyarrow as pa

        if self.dtype == "string":
            return pa.string()
        if self.dtype == "bool" or self.kind.name == "boolean":
            return pa.bool_()
        if "int" in self.dtype or (self.exact and not self.kind.blanks):
            return pa.uint64() if self.dtype == "uint64" else pa.int64()
        return pa.float64()


class BadRow(ValueError):
    """A row of a part that cannot be read: its position among the rows, and why."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row
        self.message = message


class Fields:
    """Reads the fields of whole rows.

    Args:
        dialect: what separates fields.
        values: how their texts are read.
    """

    def __init__(self, dialect: Dialect, values: Values) -> None:
        self.dialect = dialect
        self.values = values

    def kinds(self, text: bytes, names: Sequence[str]) -> dict[str, Kind]:
        """What each column holds in these rows. Raises BadRow where a row has another number of fields."""
        import pyarrow as pa

        table = self._table(text, names, {}, names, blanks=(*BLANKS, *self.values.na_values))
        found = {}
        for name in names:
            column = table[name].combine_chunks()
            types, kind = pa.types, "string"
            if types.is_null(column.type):
                kind = "blank"
            elif types.is_boolean(column.type):
                kind = "boolean"
            elif types.is_integer(column.type):
                kind = "integer"
            elif types.is_floating(column.type):
                kind = self._kind_of_floats(text, names, name, column)
            elif types.is_string(column.type):
                kind = self._kind_of_texts(column)
            elif types.is_binary(column.type):
                kind = "binary"
            found[name] = Kind(kind, column.null_count > 0)
        return found

    def _kind_of_floats(self, text: bytes, names: Sequence[str], name: str, column: Any) -> str:
        """Integers with a sign `+` look like floats; those beyond int64 are identifiers, which stay texts."""
        import pyarrow as pa

        values = column.drop_null().to_numpy(zero_copy_only=False)
        if not np.array_equal(values, np.floor(values)):
            return "number"
        texts = self._table(text, names, {name: pa.string()}, [name], blanks=())[name].to_pylist()
        if not all(_INTEGER.fullmatch(one.strip()) for one in texts if one not in BLANKS):
            return "number"
        return "string" if len(values) and np.abs(values).max() >= 2.0**63 else "integer"

    def _kind_of_texts(self, column: Any) -> str:
        import pyarrow as pa
        import pyarrow.compute as compute

        if not self.values.thousands and not compute.any(compute.match_substring_regex(column, r"^\s*\+[.\d]")).as_py():
            return "string"
        texts = column.filter(compute.invert(compute.is_in(column, pa.array([*BLANKS, *self.values.na_values]))))
        for kind, parsed in (("integer", pa.int64()), ("number", pa.float64())):
            try:
                self._plain(texts).cast(parsed)
            except pa.ArrowInvalid:
                continue
            return kind
        return "string"

    def arrays(self, text: bytes, names: Sequence[str], columns: Mapping[str, Wanted], rows: int) -> dict[str, Array]:
        """The columns of a part of whole rows. Raises BadRow.

        Args:
            text: of the rows.
            names: of all fields, in order.
            columns: those that are wanted.
            rows: how many were counted: another number of rows read is refused.
        """
        import pyarrow as pa

        numbers = {name for name, one in columns.items() if one.dtype not in ("string", "bool")}
        texts = set(numbers) if self.values.thousands else set()
        while True:
            types = {name: pa.string() if name in texts else one.parsed for name, one in columns.items()}
            try:
                table = self._table(text, names, types, list(columns))
                break
            except _Unconverted as error:
                if error.column not in numbers - texts:
                    raise BadRow(error.row, f"column {error.column!r} {error.message}") from error
                texts.add(error.column)  # a sign `+`, an integer written as 3.0: slower, and exact as well
        if table.num_rows != rows:
            raise BadRow(0, f"{table.num_rows} rows were read of {rows} that were counted")
        found = {}
        for name, one in columns.items():
            column = table[name].combine_chunks()
            try:
                found[name] = self._values(self._numbers(column, one) if name in texts else column, one)
            except Unfit as unfit:
                message, held = unfit.message, column[unfit.position].as_py()
                if name in texts and "int" in one.dtype and held is not None and held not in BLANKS:
                    message = _unconverted(held, one.parsed)
                raise BadRow(unfit.position, f"column {name!r} {message}") from unfit
        return found

    def _values(self, column: Any, wanted: Wanted) -> Array:
        import pyarrow as pa

        if wanted.dtype == "string":
            column = column.cast(pa.binary())
            texts = np.asarray((column.fill_null(b"") if column.null_count else column).to_numpy(zero_copy_only=False))
            texts = texts.astype(object)
            if wanted.classes is None:
                return texts
            return class_numbers(texts, wanted.classes, missing=self.values.missing_texts)
        if column.null_count and "float" not in wanted.dtype:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise Unfit(row, f"has no value, which {wanted.dtype} needs; give it the dtype float32")
        if column.null_count and pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8()).cast(pa.float64())
        values = np.asarray(column.to_numpy(zero_copy_only=False))
        if wanted.exact and values.dtype.kind == "f":  # of integers with blanks
            known = np.flatnonzero(np.isfinite(values) & (np.abs(values) > 2.0**24))
            back = values[known].astype(wanted.dtype).astype(np.float64)
            if (back != values[known]).any():
                position = int(known[np.flatnonzero(back != values[known])[0]])
                raise Unfit(position, f"holds {values[position]:.0f}, which {wanted.dtype} cannot hold exactly; "
                            f"dtypes of {wanted.dtype} for the column accepts rounding")  # fmt: skip
        try:
            return fitted(values, wanted.dtype, explicit=wanted.explicit)
        except Unfit as unfit:
            raise Unfit(unfit.position, f"holds {unfit.message}") from unfit

    # ── texts as numbers, where pyarrow's own parser does not read them ──

    def _plain(self, texts: Any) -> Any:
        """Numbers as texts without thousands' separators, a sign `+`, another decimal point."""
        import pyarrow.compute as compute

        texts = compute.utf8_trim_whitespace(texts)
        if self.values.thousands:
            texts = compute.replace_substring(texts, self.values.thousands, "")
        if self.values.decimal != ".":
            texts = compute.replace_substring(texts, self.values.decimal, ".")
        return compute.replace_substring_regex(texts, r"^\+", "")

    def _numbers(self, column: Any, wanted: Wanted) -> Any:
        import pyarrow as pa
        import pyarrow.compute as compute

        missing = compute.is_in(column, pa.array(self.values.na_values, pa.string()))
        plain = self._plain(compute.if_else(missing, pa.scalar(None, pa.string()), column))
        for parsed in dict.fromkeys([wanted.parsed, pa.float64()]):
            try:
                return plain.cast(parsed)
            except pa.ArrowInvalid:
                continue
        for position, text in enumerate(plain):
            try:
                text.cast(pa.float64())
            except pa.ArrowInvalid as error:
                raise Unfit(position, _unconverted(column[position].as_py(), wanted.parsed)) from error
        raise AssertionError("each text is a number, and all of them are not")

    def _table(
        self, text: bytes, names: Sequence[str], types: Mapping[str, Any], chosen: Sequence[str],
        blanks: Sequence[str] | None = None,
    ) -> Any:  # fmt: skip
        import pyarrow as pa
        import pyarrow.csv

        text = self.dialect.without_comments(text)
        bad: list[Any] = []

        def refuse(row: Any) -> str:
            bad.append(row)
            return "error"

        try:
            return pyarrow.csv.read_csv(
                pa.BufferReader(text),
                pyarrow.csv.ReadOptions(use_threads=False, column_names=list(names), block_size=len(text) + 1),
                pyarrow.csv.ParseOptions(
                    delimiter=self.dialect.delimiter, quote_char=self.dialect.quotechar, newlines_in_values=True,
                    invalid_row_handler=refuse,
                ),
                pyarrow.csv.ConvertOptions(
                    column_types=dict(types), include_columns=list(chosen), decimal_point=self.values.decimal,
                    null_values=list(self.values.na_values if blanks is None else blanks),
                    strings_can_be_null=self.values.missing_texts and blanks is None,
                    true_values=[*TRUE, *self.values.true_values], false_values=[*FALSE, *self.values.false_values],
                ),
            )  # fmt: skip
        except pa.ArrowInvalid as error:
            if bad:
                message = f"{bad[0].actual_columns} fields under {bad[0].expected_columns} columns"
                raise BadRow(bad[0].number - 1, message) from error
            found = _CONVERSION.search(str(error))
            if found is None:
                raise BadRow(0, str(error)) from error
            name = names[int(found[1])]
            value = re.search(r"invalid value '(.*)'", found[3], re.DOTALL)
            message = _unconverted(value[1], types[name]) if value else f"cannot be read: {found[3]}"
            raise _Unconverted(int(found[2] or 1) - 1, name, message) from error


class _Unconverted(BadRow):
    def __init__(self, row: int, column: str, message: str) -> None:
        super().__init__(row, message)
        self.column = column


def _unconverted(value: str, parsed: Any) -> str:
    """Why a text is refused, with the remedy."""
    import pyarrow as pa

    what = "true or false" if pa.types.is_boolean(parsed) else "a number"
    what = "a whole number" if pa.types.is_integer(parsed) else what
    return f"holds {value!r}, not {what}{_remedy(value) if value in BLANKS else ''}"


def _remedy(value: str) -> str:
    return f'; "nulls": "missing" reads missing values as NaN, and na_values: [{value!r}] this one'
