"""What TFDS says of its records: the `features.json` that lies beside the shards, as a schema of tf.train.Example.

| feature | stored as |
|---|---|
| Image, Video's frames, Audio as a file, Text | bytes; an image as its file |
| ClassLabel, integers, booleans | int64 |
| floats | float32 |
| Sequence of one of them | a list of any length, or of the length that it states |
| FeaturesDict inside | its own features, named `outer/inner` |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "features.json"
Schema = dict[str, dict[str, Any]]


class UnknownFeature(ValueError):
    """A feature whose form in a record is not known."""


def schema_beside(path: Path) -> Schema | None:
    """The schema of a shard; None where no `features.json` lies beside it. Raises UnknownFeature, ValueError."""
    described = path.parent / FILE
    return dict(_stored("", json.loads(described.read_text()))) if described.is_file() else None


def class_names(path: Path, feature: str) -> list[str] | None:
    """The names of a ClassLabel of a shard; None where they are not stored."""
    names = path.parent / f"{feature.replace('/', '-')}.labels.txt"
    return [line for line in names.read_text().split("\n") if line] if names.is_file() else None


def _stored(name: str, feature: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(feature, dict):
        raise UnknownFeature(f"{FILE}: the feature {name!r} is not an object")
    if (inner := feature.get("featuresDict")) is not None:
        for one, described in inner.get("features", {}).items():
            yield from _stored(f"{name}/{one}" if name else one, described)
    elif "classLabel" in feature:
        yield name, {"dtype": "int64"}
    elif "image" in feature or "text" in feature:
        yield name, {"dtype": "string"}
    elif (tensor := feature.get("tensor")) is not None:
        yield name, _of_tensor(name, tensor)
    elif (bounding := feature.get("boundingBox")) is not None or "bbox" in str(feature.get("pythonClassName", "")):
        shape = _shape((bounding or {}).get("shape", {"dimensions": ["4"]})) or [4]
        yield name, {"dtype": "float32", "shape": shape}
    elif (sequence := feature.get("sequence")) is not None:
        length = int(sequence.get("length", -1))
        for one, described in _stored(name, sequence.get("feature")):
            if described.get("shape"):
                raise UnknownFeature(
                    f"{FILE}: the feature {one!r} is a sequence of tensors; give the source a schema without it"
                )
            yield one, {**described, "shape": [None if length < 0 else length]}
    else:
        kind = str(feature.get("pythonClassName", "of an unknown class")).rpartition(".")[2]
        raise UnknownFeature(f"{FILE}: the feature {name!r} is {kind}, which is not read; give the source a schema")


def _of_tensor(name: str, tensor: dict[str, Any]) -> dict[str, Any]:
    dtype, shape = str(tensor.get("dtype", "")), _shape(tensor.get("shape", {}))
    if tensor.get("encoding", "none") not in ("none", "", "NONE"):
        raise UnknownFeature(f"{FILE}: the feature {name!r} is stored encoded; give the source a schema without it")
    kinds = {"int": "int64", "uint": "int64", "bool": "int64", "float": "float32", "bfloat": "float32"}
    plain = "string" if dtype in ("string", "object", "str") else kinds.get(dtype.rstrip("0123456789"))
    if plain is None:
        raise UnknownFeature(f"{FILE}: the feature {name!r} has the dtype {dtype!r}, which no record holds")
    if None in shape[1:]:
        raise UnknownFeature(f"{FILE}: the feature {name!r} has several dimensions of any length")
    return {"dtype": plain, "shape": shape} if shape else {"dtype": plain}


def _shape(given: dict[str, Any]) -> list[int | None]:
    """TFDS writes int64 as text, and -1 for a length that varies."""
    return [None if int(size) < 0 else int(size) for size in given.get("dimensions", [])]
