"""How fast tables are read, against pyarrow's own readers: .venv/bin/python -m benchmarks.reading [--json]

Writes one table of numbers (65 MB, --megabytes) as CSV, JSON lines, Parquet and Arrow IPC into a temporary folder. Each
way reads a file from its start to the last batch, in this process, in turns:

pyarrow          by its streaming reader and its threads, as columns
pyarrow rows     the same, made float32 rows in batches of 1024 by NumPy, which a model needs
tapeworks        a job's own source and pipeline (`batch`, 1024), from the building of the source on; named: x is a dict
shuffled         with a shuffle of 1000 rows before the batch
random split     with a validation split of 0.2, in memory: both splits are read
streamed split   the training split of the same, where the rows are too many for memory

The figures are ratios of medians: rows per second to pyarrow's, and for the splits times to that of `tapeworks`.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.json
import pyarrow.parquet
import tensorflow as tf

from tapeworks.components.loading import load_installed
from tapeworks.spec.pipeline_ops import Batch, Shuffle
from tapeworks.spec.references import ReferenceFields
from tapeworks.spec.splits import Split
from tapeworks_workers.engine.data.pipeline_context import PipelineContext
from tapeworks_workers.engine.data.sources import apply_pipeline, open_source
from tapeworks_workers.engine.data.splitting import splits
from tapeworks_workers.engine.factory.build_context import BuildContext
from tapeworks_workers.engine.factory.data_files import DataFiles

BATCH = 1024
TURNS = 3
NUMBERS = 8
FORMATS = {"csv": "csv", "jsonl": "jsonl", "parquet": "parquet", "arrow": "parquet"}


def write(folder: Path, megabytes: float) -> dict[str, int]:
    """The table in every format, as many bytes of each; format → rows."""
    random = np.random.default_rng(0)
    rows = {}
    for form in FORMATS:
        count = 20_000
        for _ in range(2):  # the first time to know the size of a row
            table = pa.table(
                {f"x{number}": np.round(random.normal(size=count), 6) for number in range(NUMBERS)}
                | {"y": random.integers(0, 10, count)}
            )
            path = folder / f"t.{form}"
            _write(form, table, path)
            rows[form] = table.num_rows
            count = int(count * megabytes * 1e6 / path.stat().st_size)
    return rows


def _write(form: str, table: pa.Table, path: Path) -> None:
    if form == "csv":
        pa.csv.write_csv(table, path)
    elif form == "jsonl":
        names = table.column_names
        with path.open("w") as file:
            for batch in table.to_batches(10_000):
                columns = [column.to_pylist() for column in batch.columns]
                file.writelines(
                    json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in zip(*columns, strict=True)
                )
    elif form == "parquet":
        pa.parquet.write_table(table, path, row_group_size=64 * 1024)
    else:
        pa.feather.write_feather(table, str(path), chunksize=64 * 1024)


def by_pyarrow(form: str, path: Path) -> int:
    """Rows read by pyarrow's streaming reader."""
    return sum(batch.num_rows for batch in _batches(form, path))


def _batches(form: str, path: Path) -> Any:
    if form == "csv":
        batches: Any = pa.csv.open_csv(path)
    elif form == "jsonl":
        batches = pa.json.open_json(path)
    elif form == "parquet":
        batches = pa.parquet.ParquetFile(path).iter_batches(64 * 1024)
    else:
        batches = (reader.get_batch(number) for reader in [pa.ipc.open_file(path)]
                   for number in range(reader.num_record_batches))  # fmt: skip
    return batches


def by_pyarrow_as_rows(form: str, path: Path) -> int:
    """Rows read by pyarrow, each batch of 1024 an array of float32."""
    rows = 0
    for batch in _batches(form, path):
        columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns[:NUMBERS]]
        for start in range(0, batch.num_rows, BATCH):
            rows += len(np.stack([column[start : start + BATCH] for column in columns], axis=1).astype(np.float32))
    return rows


def by_tapeworks(
    form: str,
    path: Path,
    *,
    shuffled: bool = False,
    named: bool = False,
    split: bool = False,
    training_only: bool = False,
) -> int:
    """Rows of the splits that a job's own source and pipeline give."""
    config = {"files": path.name, "labels": "y", "named": named}
    if not named:
        config["features"] = [f"x{number}" for number in range(NUMBERS)]
    setting = PipelineContext(seed=1, deterministic=True, build=BuildContext(DataFiles([path.parent])))
    origin = open_source(ReferenceFields(component=FORMATS[form], config=config), setting, pointer="/data/source")
    pipeline: list[Any] = [Batch(op="batch", batch_size=BATCH)]
    if shuffled:
        pipeline.insert(0, Shuffle(op="shuffle", buffer_size=1000))
    raws = origin.split({"validation": Split(fraction=0.2)} if split else {})
    rows = 0
    for name, raw in raws.items():
        if training_only and name != "training":
            continue
        made = apply_pipeline(raw, pipeline, split=name, setting=setting, pointer="/data/pipeline").dataset(0)
        rows += int(made.prefetch(tf.data.AUTOTUNE).reduce(np.int64(0), _counted))  # in a graph, as a job's loop
    return rows


@tf.autograph.experimental.do_not_convert
def _counted(rows: tf.Tensor, *batch: Any) -> tf.Tensor:
    return rows + tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]


def by_streamed_split(form: str, path: Path) -> int:
    """Rows of the training split of what is not read into memory."""
    known, splits.IN_MEMORY_BYTES = splits.IN_MEMORY_BYTES, 0
    try:
        return by_tapeworks(form, path, split=True, training_only=True)
    finally:
        splits.IN_MEMORY_BYTES = known


def measured(read: Callable[[], int], rows: int) -> tuple[float, float]:
    """Seconds of wall and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = read()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if found != rows:
        raise SystemExit(f"{found} rows were read of {rows}")
    return wall, cpu


def compare(folder: Path, rows: dict[str, int], forms: list[str], turns: int) -> list[dict[str, Any]]:
    """One document for each way, with its ratio."""
    figures = []
    for form in forms:
        path = folder / f"t.{form}"
        ways: dict[str, Callable[[], int]] = {
            "pyarrow": functools.partial(by_pyarrow, form, path),
            "pyarrow rows": functools.partial(by_pyarrow_as_rows, form, path),
            "tapeworks": functools.partial(by_tapeworks, form, path),
            "named": functools.partial(by_tapeworks, form, path, named=True),
            "shuffled": functools.partial(by_tapeworks, form, path, shuffled=True),
        }
        if form == "csv":
            ways["random split"] = functools.partial(by_tapeworks, form, path, split=True)
            ways["streamed split"] = functools.partial(by_streamed_split, form, path)
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for turn in range(turns + 1):
            for way, read in ways.items():
                one = measured(read, rows[form] if way != "streamed split" else rows[form] - round(rows[form] * 0.2))
                if turn:  # the first fills caches of the disk and of TensorFlow
                    times[way].append(one)
        medians = {
            way: [statistics.median(column) for column in zip(*found, strict=True)] for way, found in times.items()
        }
        for way, (wall, cpu) in medians.items():
            base = medians["tapeworks" if "split" in way else "pyarrow"]
            ratios = [
                own / other if "split" in way else other / own for own, other in zip((wall, cpu), base, strict=True)
            ]
            figures.append({
                "format": form, "way": way, "rows": rows[form], "bytes": path.stat().st_size, "seconds": round(wall, 3),
                "cpu_seconds": round(cpu, 3), "ratio": round(ratios[0], 2), "cpu_ratio": round(ratios[1], 2),
            })  # fmt: skip
    return figures


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=65)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    load_installed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = compare(folder, write(folder, given.megabytes), given.formats, given.turns)
    if given.json:
        print(json.dumps(figures, indent=1))
    else:
        print("| format | way | s | CPU s | ratio | CPU ratio |\n|---|---|---|---|---|---|")
        for one in figures:
            print("| {format} | {way} | {seconds} | {cpu_seconds} | {ratio} | {cpu_ratio} |".format(**one))
    return 0


if __name__ == "__main__":
    sys.exit(main())
