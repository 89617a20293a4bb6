"""What `data.validation` and `data.test` may be: rows of the source, some of its files, or a source of its own.

| class | in a spec | rows |
|---|---|---|
| `Split` | `{"fraction": 0.2, …}` | at random, by class, by group, the end, the latest |
| `FilesSplit` | `{"files": "ds_…/val/*.csv"}` | of some files of the source |
| `FoldersSplit` | `{"split": "folders"}` | of the folders `train`, `validation`, `test` |
| `ReferenceFields` | a source | all |
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from tapeworks.spec.pipeline_ops import FieldPath
from tapeworks.spec.references import ReferenceFields, from_name

MAX_GROUPS = 2_000_000
"""Different values of a field that `stratify` or `group` names."""
MAX_GROUP_BYTES = 256 * 1024 * 1024
"""Of those values, where they are texts."""

Fraction = Annotated[float, Field(gt=0, lt=1)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000)]


class _Holdout(BaseModel):
    """Strict, closed, immutable, as the rest of a spec."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Split(_Holdout):
    """A fraction of the source's elements, set aside before the pipeline. Each split keeps the source's order."""

    fraction: Fraction
    split: Literal["random", "tail", "time"] = "random"
    """`random`: a seeded permutation decides; `tail`: the end of the source; `time`: the latest, by the field `by`."""
    stratify: FieldPath | None = None
    """The field of a class: each class keeps its share, within one element."""
    group: FieldPath | None = None
    """The field of a group: all elements of a group are in one split. The fraction is approximate."""
    by: FieldPath | None = None
    """With `time`: the field of numbers or ISO 8601 texts. Elements of one time are in one split."""

    @model_validator(mode="after")
    def _consistent(self) -> Split:
        drawn = [name for name in ("stratify", "group") if getattr(self, name) is not None]
        if len(drawn) == 2:
            raise ValueError("stratify and group exclude each other: give one of them")
        if drawn and self.split != "random":
            raise ValueError(f'{drawn[0]} is for splits at random: leave "split": "{self.split}" out')
        if self.split == "time" and self.by is None:
            raise ValueError('a split by time needs the field of the time: "by": "x.date"')
        if self.split != "time" and self.by is not None:
            raise ValueError('by is for splits by time: add "split": "time"')
        return self

    @property
    def plain(self) -> bool:
        """Whether elements are drawn whatever they hold."""
        return self.split == "random" and self.stratify is None and self.group is None


class FilesSplit(_Holdout):
    """Files that the source would read: the split has them, training has the others."""

    files: Annotated[
        Annotated[Pattern, Tag("plain")] | Annotated[list[Pattern], Field(min_length=1, max_length=1000), Tag("list")],
        Discriminator(lambda value: "list" if isinstance(value, list) else "plain"),
    ]
    """As in the source's config; a pattern without a dataset's id is below the dataset that the source reads."""

    @property
    def patterns(self) -> list[str]:
        """The patterns as a list."""
        return [self.files] if isinstance(self.files, str) else list(self.files)


class FoldersSplit(_Holdout):
    """The files in the folder of the split: `validation`, `val`, `valid` or `dev`; `test` or `testing`."""

    split: Literal["folders"]


def _read(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"fraction": value}
    return from_name(value)


def _form(value: Any) -> str:
    """The form that is meant, so that an error is about it."""
    if isinstance(value, ReferenceFields) or (isinstance(value, dict) and "component" in value):
        return "plain"
    if isinstance(value, FilesSplit) or (isinstance(value, dict) and "files" in value):
        return "with files"
    if isinstance(value, FoldersSplit) or (isinstance(value, dict) and value.get("split") == "folders"):
        return "of folders"
    return "with fraction" if isinstance(value, Split) or (isinstance(value, dict) and _NAMES & set(value)) else "plain"


_NAMES = frozenset(Split.model_fields)

Holdout = Annotated[
    Annotated[Split, Tag("with fraction")]
    | Annotated[FilesSplit, Tag("with files")]
    | Annotated[FoldersSplit, Tag("of folders")]
    | Annotated[ReferenceFields, Tag("plain")],
    Discriminator(_form),
    BeforeValidator(_read, json_schema_input_type=Fraction | str | Split | FilesSplit | FoldersSplit | ReferenceFields),
]
"""A fraction, a split, files or folders of the source, or a source of its own."""


def check_together(validation: Any, test: Any) -> None:
    """Raises ValueError where the two splits of a job exclude each other."""
    both = [one for one in (validation, test) if isinstance(one, Split)]
    kinds = {one.split for one in both}
    if "time" not in kinds or len(both) < 2:
        return
    if "tail" in kinds:
        raise ValueError(
            'validation and test: "tail" and "time" both take the end of the data; give both the same "split"'
        )
    if kinds == {"time"} and both[0].by != both[1].by:
        raise ValueError(f"validation and test use the times {both[0].by!r} and {both[1].by!r}: give one field")
