"""Splits by file: `{"files": …}`, and the folders `train`, `validation` and `test` of a dataset.

`divide(…)` gives each split its files; `split_named(file)` reads a split from a file's name, as Keras and
Hugging Face name folders and files: `train/cat/1.png`, `val.csv`, `test-00000-of-00002.parquet`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.schemas.assets import DataFormat, format_by_name
from tapeworks.spec.references import ReferenceFields
from tapeworks.spec.splits import FilesSplit, FoldersSplit
from tapeworks_workers.engine.factory.data_files import DataFiles

TRAINING = "training"
NAMES = {
    TRAINING: ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split → names of its folder."""
_SPLITS = {name: split for split, names in NAMES.items() for name in names}
_FILE = re.compile(rf"(?:.*[^a-z0-9])?({'|'.join(_SPLITS)})(?:[-_]?\d+(?:-of-\d+)?)?\.[^/]*")
"""A file of a split by its own name."""
_SHOWN = 3

FileSplit = FilesSplit | FoldersSplit


def split_named(file: Path) -> tuple[str, str] | None:
    """(split, the folder or file that names it) of the outermost one that does; None where nothing does.

    `file`: below its dataset or data root.
    """
    *folders, name = file.parts
    for folder in folders:
        if (split := _SPLITS.get(folder.lower())) is not None:
            return split, f"{folder}/"
    found = _FILE.fullmatch(name.lower())
    if found is None or format_by_name(name) is DataFormat.IMAGES:
        return None
    return _SPLITS[found[1]], name


def mixed(files: Iterable[Path], known: DataFiles) -> str | None:
    """The splits that files seem to be of, in words, where they are several; else None."""
    counts: dict[str, Counter[str]] = {}
    for file in files:
        if (found := split_named(known.inside(file))) is not None:
            counts.setdefault(found[0], Counter())[found[1]] += 1
    if len(counts) < 2:
        return None
    listed = []
    for split in NAMES:
        names = counts.get(split, Counter())
        shown = ", ".join(list(names)[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        listed += [f"{shown} ({names.total()})"] if names else []
    return ", ".join(listed)


# ── a job's files by split ───────────────────────────────────────────────────────────────────────


def divide(
    source: ReferenceFields, splits: Mapping[str, FileSplit], known: DataFiles, notes: list[tuple[str, str]]
) -> dict[str, list[str]]:
    """The files of `training` and of each split named.

    Args:
        known: the job's files.
        notes: gets a (code, message) for files that no split reads.

    Raises JobFailure: a source without files, a split without any, a file in two splits.
    """
    given = source.config.get("files")
    if not isinstance(given, str | list):
        raise JobFailure(
            FailureCode.INVALID_SPEC,
            f"data.{next(iter(splits))}: the source {source.component!r} has no `files` to split",
            hint="Take a fraction, or give the split a source of its own.",
        )
    patterns = [given] if isinstance(given, str) else [str(one) for one in given]
    files = known.resolve(patterns, component=source.component, pointer="/data/source/config/files")
    named = {name: one for name, one in splits.items() if isinstance(one, FilesSplit)}
    found = {name: _named(name, one, patterns, source, known) for name, one in named.items()}
    if len(named) < len(splits):
        others = [file for file in files if not any(file in of for of in found.values())]
        found |= _of_folders(others, splits, known, notes)
    taken: dict[str, str] = {}
    for name, of_split in found.items():
        for file in of_split:
            if (other := taken.setdefault(file, name)) != name:
                raise _refused(source, f"data.{other} and data.{name} both read {known.inside(Path(file))}")
    found.setdefault(TRAINING, [file for file in files if file not in taken])
    if not found[TRAINING]:
        raise _refused(
            source, f"data.{' and data.'.join(splits)} take all {len(files)} files: no file remains for training"
        )
    return {TRAINING: found.pop(TRAINING), **found}


def _named(name: str, split: FilesSplit, patterns: list[str], source: ReferenceFields, known: DataFiles) -> list[str]:
    datasets = {pattern.partition("/")[0] for pattern in patterns if pattern.startswith("ds_")}
    below = f"{datasets.pop()}/" if len(datasets) == 1 and all(one.startswith("ds_") for one in patterns) else ""
    whole = [one if one.startswith("ds_") else below + one for one in split.patterns]
    return known.resolve(whole, component=source.component, pointer=f"/data/{name}/files")


def _of_folders(
    files: list[str], splits: Mapping[str, FileSplit], known: DataFiles, notes: list[tuple[str, str]]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    nowhere: list[str] = []
    for file in files:
        named = split_named(known.inside(Path(file)))
        (nowhere if named is None else found.setdefault(named[0], [])).append(file)
    for name in [TRAINING, *(name for name, one in splits.items() if isinstance(one, FoldersSplit))]:
        if name not in found:
            raise JobFailure(
                FailureCode.INVALID_DATA,
                f"no folder or file of the source is named {' or '.join(NAMES[name])}, for the {name} split; "
                f"there are {_folders(files, known)}",
                hint='Name files instead: "validation": {"files": "held_out/*"}, or take a fraction.',
            )
    if nowhere:
        raise JobFailure(
            FailureCode.INVALID_DATA,
            f"{len(nowhere)} files are in no folder of a split, such as {known.inside(Path(nowhere[0]))}",
            hint="Name the files of the source so that all are in one of these folders, as "
            '"files": ["ds_…/train/**", "ds_…/test/**"].',
        )
    for name in [one for one in found if one != TRAINING and one not in splits]:
        notes.append(
            (
                "left_out",
                f"{len(found.pop(name))} files of {NAMES[name][0]} are in no split of the job: "
                f'"{name}": {{"split": "folders"}} reads them',
            )
        )
    return {name: one for name, one in found.items() if name == TRAINING or isinstance(splits[name], FoldersSplit)}


def _folders(files: list[str], known: DataFiles) -> str:
    names = dict.fromkeys(
        f"{parts[0]}/" if len(parts) > 1 else parts[0] for parts in (known.inside(Path(one)).parts for one in files)
    )
    return ", ".join(list(names)[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _refused(source: ReferenceFields, message: str) -> JobFailure:
    return JobFailure(
        FailureCode.INVALID_DATA,
        message,
        hint="Name the files of each split by patterns that have no file in common.",
        location=Location(component=source.component),
    )
