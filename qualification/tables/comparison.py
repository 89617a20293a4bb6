"""A table as its source reads it, against what a library reads and what was written."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from qualification.tables.libraries import read, write
from qualification.tables.setups import Setup
from tapeworks.errors import JobFailure
from tapeworks.spec.references import Kind
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.data_files import DataFiles
from tapeworks_workers.engine.factory.factory import build

BATCH = 50_000
MANY_ROWS = 100
DTYPES = {
    "integer": "int64", "id": "int64", "number": "float32", "mixed": "float32", "flag": "bool", "text": "string",
    "category": "string", "pad": "string", "blank": "float32", "date": "int64", "moment": "int64",
}  # fmt: skip


def differences(setup: Setup, folder: Path) -> list[str]:
    """What the source reads otherwise than the library, or than it was written; empty where all is equal."""
    paths = write(setup, folder)
    context = BuildContext(DataFiles([folder]))
    found = _refusals(setup, context)
    kinds = {name: kind for name, kind in setup.kinds.items() if setup.format == "csv" or kind != "blank"}
    ours = _by_source(setup, ["row", *kinds], context)
    order = np.argsort(ours["row"], kind="stable")
    written = pd.concat([frame.astype(object) for frame in setup.frames()], ignore_index=True)
    library = read(setup, paths).sort_values("row", ignore_index=True)
    if len(order) != len(library) or len(order) != sum(setup.rows):
        return [*found, f"{len(order)} rows were read, {len(library)} by {setup.reader}, {sum(setup.rows)} written"]
    for name, kind in kinds.items():
        values = [ours[name][at] for at in order.tolist()]
        for who, frame in ((setup.reader, library), ("the writer", written)):
            if who == "the writer" and kind in ("number", "mixed", "blank") and setup.format == "jsonl":
                continue  # pandas rounds to 15 digits
            expected = [_expected(kind, value) for value in frame[name].tolist()]
            wrong = [at for at, pair in enumerate(zip(values, expected, strict=True)) if not _equal(*pair)]
            if wrong:
                at = wrong[0]
                found.append(f"{name}, row {at}: {values[at]!r}, and {expected[at]!r} by {who} ({len(wrong)} rows)")
    return found


def _by_source(setup: Setup, names: Sequence[str], context: BuildContext) -> dict[str, list[Any]]:
    reference = {"component": setup.format, "config": _config(setup, names)}
    source = build(reference, Kind.SOURCE, pointer="/data/source", context=context)
    dataset = source.dataset()
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for batch in dataset.batch(BATCH):
        for name, tensor in batch.items():
            columns[name] += tensor.to_list() if isinstance(tensor, tf.RaggedTensor) else tensor.numpy().tolist()
    wrong = [
        f"{name} is {dataset.element_spec[name].dtype.name}, not {DTYPES[kind]}"
        for name, kind in setup.kinds.items()
        if name in names and kind in DTYPES and dataset.element_spec[name].dtype.name != _dtype(setup, kind)
    ]
    if wrong:
        raise AssertionError("; ".join(wrong))
    return columns


def _dtype(setup: Setup, kind: str) -> str:
    return "int64" if kind == "mixed" and len(setup.rows) == 1 else DTYPES[kind]


def _config(setup: Setup, names: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {"files": f"*.{setup.format}*", "features": list(names), "named": True}
    if setup.format == "csv":
        config |= {"delimiter": setup.options["delimiter"], "na_values": [""]}
        config |= {"encoding": setup.options["encoding"]} if "encoding" in setup.options else {}
        # A few rows of a column may hold blanks alone, or texts that look like numbers.
        config["dtypes"] = {name: "float32" for name, kind in setup.kinds.items() if kind == "blank"}
        if max(setup.rows) < MANY_ROWS:
            config["dtypes"] |= {name: "string" for name, kind in setup.kinds.items() if kind == "text"}
    return config


def _refusals(setup: Setup, context: BuildContext) -> list[str]:
    """A column with nulls is refused where it is named, with its name."""
    if setup.format == "csv":
        return []
    whole = pd.concat(setup.frames())
    found = []
    for name, kind in setup.kinds.items():
        if kind == "blank" and whole[name].isna().any():
            try:
                _by_source(setup, ["row", name], context)
            except (JobFailure, tf.errors.OpError) as error:
                if name not in str(error):
                    found.append(f"{name} is refused without its name: {error}")
            else:
                found.append(f"{name} has nulls, and is read")
    return found


def _expected(kind: str, value: Any) -> Any:
    if kind in ("number", "mixed", "blank"):
        return float("nan") if value is None or value is pd.NA or value == "" else float(np.float32(value))
    if kind in ("text", "category", "pad"):
        return b"" if value is None or value is pd.NA or value != value else str(value).encode()
    if kind == "list":
        return [int(one) for one in value]
    if kind == "date":
        return (pd.Timestamp(value).date() - datetime.date(1970, 1, 1)).days
    if kind == "moment":
        return int(pd.Timestamp(value).to_datetime64().astype("datetime64[us]").astype(np.int64))
    return bool(value) if kind == "flag" else int(value)


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other or (isinstance(one, float) and np.isnan(one) and np.isnan(other)))
