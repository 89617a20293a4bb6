"""What a user uploads and names in specs: datasets, component packages, model bundles.

Each is a file of a project, known by its sha-256, immutable, with a name and a version. A dataset is looked at
(`inspecting`) and a package is tried (`admitting`) by a job on a worker; the service itself opens neither.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from tapeworks.schemas.jobs import Failure, RefusedComponent, ResponseModel
from tapeworks.schemas.worker_protocol import Message
from tapeworks.spec.reading_options import ReadingOptions, check_format
from tapeworks.spec.references import Kind

AssetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]


class DataFormat(StrEnum):
    """How the file of a dataset, or each file of its archive, is written; the sources that read it."""

    CSV = "csv"
    PARQUET = "parquet"
    """Arrow IPC files and Feather too."""
    JSONL = "jsonl"
    """JSON lines, or files that hold an array of objects each."""
    NPZ = "npz"
    """Read by the source `arrays`."""
    TFRECORD = "tfrecord"
    IMAGES = "images"
    """An archive with a folder for each class."""
    TEXT = "text"


SUFFIXES: dict[DataFormat, tuple[str, ...]] = {
    DataFormat.CSV: (".csv",),
    DataFormat.PARQUET: (".parquet", ".pq", ".arrow", ".feather"),
    DataFormat.JSONL: (".jsonl", ".ndjson", ".json"),
    DataFormat.NPZ: (".npz", ".npy"),
    DataFormat.TFRECORD: (".tfrecord", ".tfrecords"),
    DataFormat.IMAGES: (
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
        ".ppm", ".pgm", ".pbm", ".pnm",
    ),
    DataFormat.TEXT: (".txt", ".text"),
}  # fmt: skip
"""Names by which a format is known where nobody says it; the first is that of a stored file."""
_GZIPPED = (DataFormat.CSV, DataFormat.JSONL, DataFormat.TFRECORD)
"""Formats that are read with `.gz` after the name as well."""
_SHARD = re.compile(r"-\d{1,6}-of-\d{1,6}$")
"""Of TFDS, Beam and TensorFlow: `train.tfrecord-00000-of-00008`."""
_DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_dict.json", "state.json", "features.json"})
_CLASS_NAMES = ".labels.txt"
SOURCES = {DataFormat.NPZ: "arrays"}
"""The source of a format that is not called like it."""


def is_of(name: str, format: DataFormat) -> bool:
    """Whether a file is of a format by its name."""
    return format_by_name(name) is format


def describes_data(name: str) -> bool:
    """Whether a file is one that Hugging Face's `datasets` or TFDS writes beside the data, and no data itself."""
    plain = name.lower().rpartition("/")[2]
    return plain in _DESCRIPTIONS or plain.endswith(_CLASS_NAMES)


def format_by_name(name: str) -> DataFormat | None:
    """The format that a file's name states: by its suffix, before `.gz` and before the number of a shard."""
    if describes_data(name):
        return None
    plain = name.lower()
    packed = plain.endswith(".gz")
    plain = _SHARD.sub("", plain.removesuffix(".gz"))
    for format, suffixes in SUFFIXES.items():
        # `data-train.tfrecord-00000-of-00003`, and TFDS' older `data-00000-of-00003.tfrecord`.
        if plain.endswith(suffixes) and (format in _GZIPPED or not packed):
            return format
    return None


# ── what is asked ────────────────────────────────────────────────────────────────────────────────


class DatasetRequest(Message):
    """Body of `POST /v1/datasets`: a completed upload becomes a version of a dataset."""

    upload_id: Annotated[str, Field(max_length=100)]
    name: AssetName
    format: DataFormat
    options: ReadingOptions = Field(default_factory=ReadingOptions)
    """How the files are read; a job that reads the dataset inherits what its own config does not give."""

    @model_validator(mode="after")
    def _options_of_format(self) -> DatasetRequest:
        check_format(self.options, self.format)
        return self


class PackageRequest(Message):
    """Body of `POST /v1/packages`: a wheel or a zip of sources; its own metadata says name and version."""

    upload_id: Annotated[str, Field(max_length=100)]


class BundleRequest(Message):
    """Body of `POST /v1/bundles`: a `bundle.tar.gz` that some job of Tapeworks left."""

    upload_id: Annotated[str, Field(max_length=100)]
    name: AssetName


# ── responses ────────────────────────────────────────────────────────────────────────────────────


class Column(ResponseModel):
    """A column, a feature, an array: what one row holds under a name."""

    name: str
    dtype: str
    shape: list[int | None] = Field(default_factory=list)
    """Of one row; null: it varies. Empty: a scalar."""
    unreadable: str | None = None
    """Why a job that names this column is refused; null: it is read."""
    unit: str | None = None
    """What the integers of dates and times are, as `microseconds since 1970-01-01`."""


class DataContent(ResponseModel):
    """What a worker saw in a dataset."""

    rows: int | None = None
    """None: not counted."""
    columns: list[Column] = Field(default_factory=list)
    preview: list[dict[str, JsonValue]] = Field(default_factory=list)
    """The first rows, long values cut."""
    classes: dict[str, int] = Field(default_factory=dict)
    """Of files in folders: how many each has."""
    files: int = 1
    left_out: dict[str, int] = Field(default_factory=dict)
    """Suffix → files of other formats, which no source of this format reads."""
    notes: list[str] = Field(default_factory=list)
    """What a job that reads the files must know: an encoding to give, files that cannot be read, columns that it leaves
    out."""


class Dataset(ResponseModel):
    """A version of a dataset. `{"files": id}` in the config of its source reads it."""

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    version: str
    format: DataFormat
    bytes: int
    sha256: str
    state: Literal["inspecting", "ready", "refused"]
    """Jobs may name it while it is inspected; none may when it was refused."""
    source: str
    """The component that reads it."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """How its files are read, as arguments of that component: those with which it was pushed."""
    job_id: str | None = None
    content: DataContent | None = None
    failure: Failure | None = None
    created_at: datetime


class PackagedComponent(ResponseModel):
    """A component that a package brings."""

    kind: Kind
    name: str
    version: str


class Package(ResponseModel):
    """A version of a component package. Its components can be named once it is `admitted`."""

    id: str
    object: Literal["package"] = "package"
    name: str
    version: str
    bytes: int
    sha256: str
    state: Literal["admitting", "admitted", "refused"]
    job_id: str | None = None
    requires: list[str] = Field(default_factory=list)
    components: list[PackagedComponent] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    refused: list[RefusedComponent] = Field(default_factory=list)
    """Everything that keeps it out, component by component."""
    failure: Failure | None = None
    """Why it could not be tried at all."""
    created_at: datetime


class Bundle(ResponseModel):
    """An uploaded model bundle, for `from` in `initial_state` and `pretrained`."""

    id: str
    object: Literal["bundle"] = "bundle"
    name: str
    version: str
    bytes: int
    sha256: str
    state: Literal["ready"] = "ready"
    roles: list[str] = Field(default_factory=list)
    job_id: str | None = None
    """The job that made it, by its manifest."""
    created_at: datetime
