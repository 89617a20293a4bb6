"""How the files of a dataset are read: arguments of its source that are stored when the dataset is pushed.

They have the names of the source's own arguments. The inspection of the dataset uses them, and a job that reads the
dataset inherits those that its own config does not give.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _character(value: str) -> str:
    if len(value) != 1 or not value.isascii() or value in "\r\n\0":
        raise ValueError(f"must be one ASCII character, got {value!r}")
    return value


def _encoding(value: str) -> str:
    try:
        b"a".decode(value, "ignore")  # refuses codecs that give no text, as zip
        codecs.getincrementaldecoder(value)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{value!r} is not a Python encoding; give one such as latin-1 or cp1252") from error
    return value


Character = Annotated[str, AfterValidator(_character)]
Encoding = Annotated[str, Field(max_length=50), AfterValidator(_encoding)]
Texts = Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=10_000)]


class ReadingOptions(BaseModel):
    """Arguments of the source `csv`; `encoding` is one of `jsonl` and `text` too. Null: the source's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delimiter: Character | None = None
    decimal: Character | None = None
    thousands: Character | None = None
    quotechar: Character | None = None
    comment: Character | None = None
    encoding: Encoding | None = None
    header: bool | None = None
    names: Texts | None = None
    na_values: Texts | None = None
    true_values: Texts | None = None
    false_values: Texts | None = None

    @model_validator(mode="after")
    def _together(self) -> ReadingOptions:
        used = [self.delimiter or ",", self.quotechar or '"', *([self.comment] if self.comment else [])]
        if len(set(used)) < len(used):
            raise ValueError("delimiter, quotechar and comment must differ")
        if (self.decimal or ".") == self.thousands:
            raise ValueError("decimal and thousands must differ")
        if self.names is not None and self.header is not False:
            raise ValueError("names are those of files without a header: set header to false")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not null, as the config of a source."""
        return self.model_dump(exclude_none=True)


OPTIONS_OF = {
    "csv": frozenset(ReadingOptions.model_fields),
    "jsonl": frozenset({"encoding"}),
    "text": frozenset({"encoding"}),
}
"""Format → the options that its source takes; other formats take none."""


def check_format(options: ReadingOptions, format: str) -> None:
    """Raises ValueError where the source of a format has no such argument."""
    others = sorted(set(options.given) - OPTIONS_OF.get(format, frozenset()))
    if others:
        known = ", ".join(sorted(OPTIONS_OF.get(format, ()))) or "no options"
        raise ValueError(f"{others[0]!r} is not an option of the format {format}; it accepts {known}")


def from_texts(texts: Iterable[str]) -> dict[str, Any]:
    """Options as a command line gives them: `NAME=VALUE`, or a JSON object. Raises ValueError.

    `na_values=-` and the other lists take one text, several times, or a JSON list.
    """
    options: dict[str, Any] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            options.update(json.loads(text))
            continue
        name, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"{text!r}: write NAME=VALUE, such as delimiter=';', or a JSON object")
        if name == "header":
            if value not in ("true", "false"):
                raise ValueError(f"header={value}: write header=true or header=false")
            options[name] = value == "true"
        elif name in ("names", "na_values", "true_values", "false_values"):
            more = json.loads(value) if value.startswith("[") else [value]
            options[name] = [*options.get(name, []), *more]
        else:
            options[name] = "\t" if value == "\\t" else value
    return options
