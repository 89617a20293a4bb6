"""`parquet`: Parquet files, a row group at a time, and Arrow IPC files and streams, some record batches at a time."""

from __future__ import annotations

from tapeworks import component
from tapeworks_workers.components.sources.columnar_files import ColumnarFiles


@component("parquet")
class Parquet(ColumnarFiles):
    """Rows of Parquet files, a row group at a time, and of Arrow IPC files, streams and Feather files.

    The first bytes of a file say which of them it is.

    Integers keep their dtype, floats and decimals take the job's; timestamps are int64 microseconds, dates int64 days,
    times and durations int64 microseconds; lists become RaggedTensors, fixed-size ones dense. A column of several
    files has the dtype that holds the values of all; a value that does not fit is refused with file and row. Columns
    in the names of folders (`country=de/a.parquet`) come after those of the file. pandas' index
    (`__index_level_0__`) and columns of no such type are left out, with a diagnostic, unless they are named.

    Args:
        files: a glob, or several, below a data root.
        labels: the column y; a list of columns gives a dict; null: elements are x alone.
        features: the column x, as it is; a list of columns gives a vector (numbers of one dtype) or, with `named`, a
            dict. Default: all that are neither labels nor weight.
        weight: the column of sample weights.
        named: x is a dict by column.
        dtypes: column → dtype to cast to.
        shapes: column → shape of one row's list, null where the length varies: `[null, 3]` a series of three values.
        sparse: column of `{indices, values}` → its size: rows become SparseTensors, never made dense.
        images: column of encoded images (binary, or Hugging Face's `{bytes, path}`) → how they are read: `size`,
            `channels` 3 and `scale` true, as in the source `images`.
        nulls: "fail" refuses a null; with "missing" it is NaN in numbers and "" in texts. Integers, booleans and times
            with nulls become the job's float, where that holds each of them exactly or `dtypes` names it.
        classes: of a label of texts, integers or booleans: y is int64, its place in this list; "auto": the values of
            the training split in order, which are read when the job starts.
    """
