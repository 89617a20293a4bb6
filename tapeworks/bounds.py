"""Bounds of the numbers in a job spec: each says why a number beyond it is refused.

`Bound(low, high, reason)` is metadata of an annotated number. Its JSON Schema has minimum and maximum, and a number
outside is refused with both ends, what was given and the reason. `docs/limits.md` is made from these bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue, ValidatorFunctionWrapHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

OUT_OF_BOUNDS = "out_of_bounds"
"""The type of the pydantic error; its context has `reason`."""


@dataclass(frozen=True)
class Bound:
    """Both ends are allowed, but for an `open` low end."""

    low: float
    high: float
    reason: str
    open: bool = False

    def __str__(self) -> str:
        low, high = _shown(self.low), _shown(self.high)
        return f"above {low}, at most {high}" if self.open else f"between {low} and {high}"

    def check(self, value: Any) -> Any:
        """The value. Raises PydanticCustomError."""
        if not (self.low < value <= self.high if self.open else self.low <= value <= self.high):
            raise PydanticCustomError(
                OUT_OF_BOUNDS,
                "must be {bounds}, got {value}",
                {"bounds": str(self), "value": _shown(value), "reason": self.reason},
            )
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def bounded_first(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
            # 1e30 is no integer, but to write it as one would not help: the bound is what the user must hear of.
            return validate(
                self.check(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
            )

        return core_schema.no_info_wrap_validator_function(bounded_first, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        low = "exclusiveMinimum" if self.open else "minimum"
        return {**handler(schema), low: self.low, "maximum": self.high}


def _shown(number: float) -> str:
    """Digits as a reader takes them in: 1048576, 1e+30, 0.5."""
    return str(number) if isinstance(number, int) and abs(number) < 10**19 else f"{float(number):g}"


INT32 = 2**31 - 1
INT64 = 2**63 - 1
YEAR = 366 * 86_400
_COUNTED = "TensorFlow counts in 64 bits"
_FINITE = "beyond it, sums of squares are not finite in float32"

Steps = Annotated[int, Bound(1, INT32, "the steps of an epoch are counted in 31 bits")]
TotalSteps = Annotated[int, Bound(1, 10**10, "four months at 1000 steps per second")]
Epochs = Annotated[int, Bound(0, 1_000_000, "each epoch leaves an event and a point of each metric in the database")]
BatchSize = Annotated[int, Bound(1, 1_048_576, "a batch is held in memory; gradient_accumulation makes larger ones")]
BufferSize = Annotated[int, Bound(1, INT32, "the buffer is held in memory")]
Size = Annotated[int, Bound(1, INT32, "the dimensions of a tensor are held in memory")]
Count = Annotated[int, Bound(1, INT64, _COUNTED)]
CountOrNone = Annotated[int, Bound(0, INT64, _COUNTED)]
Seed = Annotated[int, Bound(0, INT32, "seeds have 31 bits")]
OperationSeed = Annotated[int, Bound(-INT64 - 1, INT64, "seeds of tf.data have 64 bits")]
Accumulated = Annotated[int, Bound(1, 65_536, "summing more gradients loses precision in float32")]
StepsPerCall = Annotated[int, Bound(1, 100_000, "pause and cancel take effect between two calls")]
ReportSteps = Annotated[int, Bound(1, INT32, "the steps of an epoch are counted in 31 bits")]
Traces = Annotated[int, Bound(1, 1_000, "each trace takes seconds and memory that is not released")]
Kept = Annotated[int, Bound(1, 1_000, "with Adam, each checkpoint takes three times the model's size")]
Seconds = Annotated[float, Bound(0, YEAR, "no job runs longer than a year", open=True)]
Patience = Annotated[int, Bound(0, 1_000_000, "no job has more epochs")]
Delta = Annotated[float, Bound(0.0, 1e18, _FINITE)]
Weight = Annotated[float, Bound(-1e18, 1e18, _FINITE)]
Tolerance = Annotated[float, Bound(0.0, 1e6, "a larger difference means that the reloaded model is a different one")]
Gpus = Annotated[int, Bound(0, 1_024, "no worker has more")]
Cpus = Annotated[int, Bound(1, 65_536, "no worker has more")]
GiB = Annotated[float, Bound(0, 1_048_576, "no worker has more than a pebibyte", open=True)]
Workers = Annotated[int, Bound(1, 65_536, "no installation has more")]
Attempts = Annotated[int, Bound(1, 100, "a job that failed a hundred times will fail again")]
Bytes = Annotated[int, Bound(1, 2**50, "a pebibyte: sizes are stored in 64 bits")]
Priority = Annotated[int, Bound(-100, 100, "all users' jobs share this range")]

Scalar = bool | Annotated[int, Bound(-INT64 - 1, 2**64 - 1, "the integers of tensors have 64 bits")] | float | str
"""One value of a tensor."""


def _integers(value: JsonValue, at: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield at, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _integers(item, f"{at}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _integers(item, f"{at}.{index}")


def _check_config(config: dict[str, JsonValue]) -> Mapping[str, JsonValue]:
    for at, number in _integers(config, ""):
        if not -INT64 - 1 <= number <= 2**64 - 1:
            raise PydanticCustomError(
                OUT_OF_BOUNDS,
                "{at} must be between {low} and {high}, got {value}",
                {
                    "at": at.lstrip("."), "low": _shown(-INT64 - 1), "high": _shown(2**64 - 1),
                    "value": _shown(number), "reason": "the integers of tensors have 64 bits",
                },
            )  # fmt: skip
    return config


InConfig = AfterValidator(_check_config)
"""On a config: none of its integers, at any depth, has more than 64 bits."""
