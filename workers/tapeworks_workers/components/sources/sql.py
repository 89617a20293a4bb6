"""`sql`: rows of a query, which the worker runs before the job begins."""

from __future__ import annotations

from typing import Literal

from tapeworks import component
from tapeworks_workers.components.sources.class_labels import Classes
from tapeworks_workers.components.sources.columnar_files import ColumnarFiles
from tapeworks_workers.components.sources.query_results import result_of


@component("sql")
class Sql(ColumnarFiles):
    """Rows of a query on a database that the worker's operator configured. The worker runs it once, read-only, before
    the job begins; columns have the forms that `parquet` gives them, decimals are floats.

    Later attempts of a job need the same rows in the same order: order them by a unique key.

    Args:
        connection: the name that the operator gave to the database.
        query: one statement that reads: SELECT, WITH, VALUES or TABLE.
        labels: the column y; a list of columns gives a dict; null: elements are x alone.
        features: the column x, as it is; a list of columns gives a vector (numbers of one dtype) or, with `named`, a
            dict. Default: all that are neither labels nor weight.
        weight: the column of sample weights.
        named: x is a dict by column.
        dtypes: column → dtype to cast to.
        shapes: column → shape of one row's list, null where the length varies.
        nulls: "fail" refuses a null; with "missing" it is NaN in numbers and "" in texts, as in `parquet`.
        classes: of a label of texts, integers or booleans: y is its place in this list; "auto", as in `parquet`.
    """

    def __init__(
        self,
        connection: str,
        query: str,
        labels: str | list[str] | None = None,
        features: str | list[str] | None = None,
        weight: str | None = None,
        named: bool = False,
        dtypes: dict[str, str] | None = None,
        shapes: dict[str, list[int | None]] | None = None,
        nulls: Literal["fail", "missing"] = "fail",
        classes: Classes = None,
    ) -> None:
        path = result_of(connection, query)
        if path is None:
            raise ValueError(f"the query on {connection!r} was not run: only a worker's job can read a database")
        super().__init__([str(path)], labels, features, weight, named, dtypes, shapes, nulls=nulls, classes=classes)
