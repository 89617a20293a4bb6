"""Random tables: what their columns hold, how many rows each file has, who writes and who reads them.

Sizes lie around every threshold of the sources: a part of 1 MiB, the 8 MiB that are read at once.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

Library = Literal["pandas", "polars", "duckdb"]
LIBRARIES: tuple[Library, ...] = ("pandas", "polars", "duckdb")
MIB = 1024 * 1024
SMALL = (1, 2, 7, 300)
"""Rows."""
LARGE = (MIB - 1500, MIB + 1500, 2 * MIB + MIB // 2, 8 * MIB - 3000, 8 * MIB + 3000)
"""Bytes, about."""
KINDS = ("integer", "id", "small", "number", "mixed", "flag", "text", "blank")
MORE_KINDS = {"csv": (), "parquet": ("date", "moment", "list", "category"), "jsonl": ("list",)}
PIECES = (
    "a", "Zz", " ", ",", ";", "|", '"', '""', "'", '24"', "\n", "\r\n", "\t", "ü", "é", "NA", "null", "1", "-2.5",
    "true", "#", "\\", "日本", "😀",
)  # fmt: skip

_PADS = [f'{"pad " * 40}, "{number}"\n{"of two lines " * 10}' for number in range(50)]


@dataclass(frozen=True)
class Setup:
    """One table: files of one format with the same columns."""

    seed: int
    format: str
    writer: Library
    reader: Library
    kinds: dict[str, str]
    """Column → what it holds."""
    rows: list[int]
    """Of each file."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of CSV: delimiter, line end, quoting, encoding, compression."""

    def lines(self) -> list[str]:
        """The table in words."""
        return [
            f"{self.format} by {self.writer}, read by {self.reader}, rows {self.rows}, {self.options}, {self.kinds}"
        ]

    def frames(self) -> list[pd.DataFrame]:
        """The rows of each file; `row` numbers those of all files."""
        random, first, frames = np.random.default_rng(self.seed), 0, []
        for file, rows in enumerate(self.rows):
            columns = {"row": np.arange(first, first + rows)}
            columns |= {name: self._values(kind, rows, file, random) for name, kind in self.kinds.items()}
            frames.append(pd.DataFrame(columns))
            first += rows
        return frames

    def _values(self, kind: str, rows: int, file: int, random: np.random.Generator) -> Any:
        if kind == "mixed":  # the first file holds integers, the others floats
            kind = "number" if file else "integer"
        if kind in ("text", "category"):
            texts = _texts(random, self.options)
            chosen = pd.array([texts[at] for at in random.integers(0, len(texts), rows)], dtype="str")
            return chosen.astype("category") if kind == "category" else chosen
        if kind == "pad":
            return pd.array([_PADS[at] for at in random.integers(0, len(_PADS), rows)], dtype="str")
        if kind == "list":
            return [random.integers(-9, 9, size).tolist() for size in random.integers(1, 4, rows)]
        if kind == "date":
            start = datetime.date(1960, 1, 1)
            return [start + datetime.timedelta(days=int(days)) for days in random.integers(0, 40_000, rows)]
        makers = {
            "integer": lambda: random.integers(-1000, 1000, rows),
            "id": lambda: random.integers(2**60, 2**62, rows),
            "small": lambda: random.integers(-128, 128, rows).astype("int8"),
            "number": lambda: np.round(random.normal(size=rows) * 10.0 ** random.integers(-3, 6), 6) + 0.5,
            "flag": lambda: random.random(rows) < 0.5,
            "blank": lambda: np.where(random.random(rows) < 0.2, np.nan, np.round(random.normal(size=rows), 4)),
            "moment": lambda: random.integers(0, 2**50, rows).astype("datetime64[us]"),
        }
        return makers[kind]()


def setup(seed: int, *, large: float = 0.25) -> Setup:
    """The table of a seed. `large`: how often files are of megabytes."""
    random = np.random.default_rng([seed, 1])
    form = str(random.choice(["csv", "csv", "parquet", "jsonl"]))
    writer: Library = _chosen(LIBRARIES, random)
    reader: Library = _chosen(LIBRARIES, random)
    kinds = KINDS + MORE_KINDS[form]
    if writer == "pandas" and form != "jsonl":
        kinds = tuple(kind for kind in kinds if kind != "list")
    chosen = {f"c{index} {kind}": str(kind) for index, kind in enumerate(random.choice(kinds, random.integers(2, 7)))}
    options = _csv_options(writer, reader, random) if form == "csv" else {}
    if options.get("lineterminator") == "\r" and "text" in chosen.values():
        options["lineterminator"] = "\n"  # Python's writer quotes a line end only where it is the terminator
    large_files = random.random() < large
    if large_files:
        chosen["pad"] = "pad"  # long rows: files of megabytes with few of them
        options |= {"lineterminator": "\n"} if "lineterminator" in options else {}
    one = Setup(seed, form, writer, reader, chosen, [40], options)
    width = max(len(one.frames()[0].to_csv(index=False)) / 40, 8)
    rows = [
        int(int(_chosen(LARGE, random)) / width)
        if large_files and random.random() < 0.6
        else int(_chosen(SMALL, random))
        for _ in range(random.integers(1, 4))
    ]
    return Setup(seed, form, writer, reader, chosen, rows, options)


def _csv_options(writer: Library, reader: Library, random: np.random.Generator) -> dict[str, Any]:
    options = {"delimiter": _chosen(",;|\t", random), "quote_all": bool(random.random() < 0.3)}
    if writer == reader == "pandas":
        options["encoding"] = _chosen(("utf-8", "utf-8-sig", "latin-1", "utf-16"), random)
        options["lineterminator"] = _chosen(("\n", "\r\n", "\r"), random)
    options["packed"] = bool(random.random() < 0.2)
    return options


def _texts(random: np.random.Generator, options: dict[str, Any]) -> list[str]:
    pieces = [piece for piece in PIECES if options.get("encoding") != "latin-1" or piece.isascii() or piece in "üé"]
    return ["".join(random.choice(pieces, random.integers(0, 12))) for _ in range(64)]


def _chosen(values: Sequence[Any], random: np.random.Generator) -> Any:
    return values[int(random.integers(len(values)))]
