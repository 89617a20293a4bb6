"""The job spec: what a user may ask for.

`JobSpec` is the canonical form: plural fields (`models`, `optimizers`, `losses`), every default
filled in. The singular forms (`model`, `optimizer`, `loss`, a bare list of metrics) are folded
into it before validation (`tapeworks.spec.parsing`), so `JobSpec.model_validate` takes both.
Unknown fields are refused, values are not coerced.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    model_validator,
)

from tapeworks.bounds import (
    Accumulated,
    Attempts,
    Bytes,
    Count,
    Cpus,
    Delta,
    Epochs,
    GiB,
    Gpus,
    Kept,
    Patience,
    Priority,
    ReportSteps,
    Seconds,
    Seed,
    Steps,
    StepsPerCall,
    Tolerance,
    TotalSteps,
    Traces,
    Weight,
    Workers,
)  # fmt: skip
from tapeworks.spec.pipeline_ops import Operation
from tapeworks.spec.references import Reference, ReferenceFields, from_name
from tapeworks.spec.shorthand import fold
from tapeworks.spec.splits import Holdout, check_together

DEFAULT_ROLE = "model"
"""The role of the one model of a plain job, and the name of its optimizer."""

Role = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Label = Annotated[str, StringConstraints(max_length=200)]


class SpecModel(BaseModel):
    """A part of a spec: strict, closed, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# ── data ─────────────────────────────────────────────────────────────────────────────────────────


def _alternative(key: str) -> Discriminator:
    """Tell two forms of one place apart by a key, so that an error speaks of the form that was meant."""

    def tag(value: Any) -> str:
        return "with " + key if (key in value if isinstance(value, dict) else hasattr(value, key)) else "plain"

    return Discriminator(tag)


class DataSpec(SpecModel):
    """Where the elements come from and what is done to them."""

    source: Reference
    validation: Holdout | None = None
    test: Holdout | None = None
    """Evaluated once, on the weights that are exported; its metrics are named `test_*`."""
    pipeline: list[Operation] = Field(default_factory=list, max_length=100)

    @model_validator(mode="after")
    def _splits_agree(self) -> DataSpec:
        check_together(self.validation, self.test)
        return self


# ── models, optimizers, losses, metrics ──────────────────────────────────────────────────────────


class Adapt(SpecModel):
    """A preprocessing layer that learns from the training split before the model is built."""

    layer: str
    take: Count | None = None


class InitialState(SpecModel):
    """Weights to start from: a job, a checkpoint, a registered model or a bundle."""

    from_: Annotated[str, Field(alias="from")]
    role: Role | None = None
    layers: list[str] | None = None
    strict: bool = True
    match: Literal["structure", "order", "names"] = "structure"
    """How layers with Keras' automatic names are matched: in their order, refused where names say otherwise; always in
    their order; by their names as they are."""


class ModelSpec(ReferenceFields):
    """A model of the job, and how it starts."""

    adapt: list[Adapt] = Field(default_factory=list)
    initial_state: InitialState | None = None
    copy_of: Role | None = None
    freeze: list[str] = Field(default_factory=list)
    """Globs over layer paths whose variables are not trained."""


class VariableSelection(SpecModel):
    """Variables that an optimizer owns."""

    model: Role
    layers: Annotated[list[str], Field(min_length=1)] | None = None
    """Globs over layer paths (`encoder/dense*`); None: the whole model."""


class OptimizerSpec(ReferenceFields):
    """An optimizer; `variables` default to the step's declaration."""

    variables: Annotated[list[VariableSelection], Field(min_length=1)] | None = None


class LossSpec(ReferenceFields):
    """A loss, and the factor of its value in the sum. For a model with several outputs it is computed for each."""

    weight: Weight = 1.0


OneLoss = Annotated[LossSpec, BeforeValidator(from_name, json_schema_input_type=str | LossSpec)]


class OutputLosses(SpecModel):
    """Losses by output: its name, its path (`h/0`) or its number. Several are added; an output may have none (null)."""

    outputs: Annotated[
        dict[
            str,
            Annotated[
                Annotated[list[OneLoss], Field(min_length=1), Tag("list")]
                | Annotated[OneLoss, Tag("one")]
                | Annotated[None, Tag("none")],
                Discriminator(lambda value: _LOSSES.get(type(value), "one")),
            ],
        ],
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _any(self) -> OutputLosses:
        if all(loss is None for loss in self.outputs.values()):
            raise ValueError("give one of the outputs a loss, or leave the role's loss out")
        return self


_LOSSES = {list: "list", type(None): "none"}


class MetricSpec(ReferenceFields):
    """A metric; only a `weighted` one sees sample weights, as in Keras."""

    weighted: bool = False


Metric = Annotated[MetricSpec, BeforeValidator(from_name, json_schema_input_type=str | MetricSpec)]


class OutputMetrics(SpecModel):
    """Metrics by output: its name, its path (`h/0`) or its number."""

    outputs: dict[str, list[Metric]]


Loss = Annotated[
    Annotated[OutputLosses, Tag("with outputs")] | Annotated[LossSpec, Tag("plain")],
    _alternative("outputs"),
    BeforeValidator(from_name, json_schema_input_type=str | LossSpec | OutputLosses),
]
Metrics = Annotated[
    Annotated[OutputMetrics, Tag("with outputs")] | Annotated[list[Metric], Tag("plain")],
    _alternative("outputs"),
]


class GradientSpec(ReferenceFields):
    """A gradient transform, for all optimizers or for one."""

    optimizer: Role | None = None


# ── training ─────────────────────────────────────────────────────────────────────────────────────


class Execution(SpecModel):
    """How steps are dispatched; `eager` runs without a graph, to debug."""

    plan: Literal["auto", "steps", "loop", "fused", "eager"] = "auto"
    steps_per_call: StepsPerCall | Literal["auto"] = "auto"


class Best(SpecModel):
    """A monitored value; `auto`: the direction that its metric, evaluator or step declares, `loss` is minimized."""

    monitor: str = "val_loss"
    mode: Literal["auto", "min", "max"] = "auto"


class CheckpointSpec(SpecModel):
    """When checkpoints are written: after so many steps or seconds, whichever is given (both: either)."""

    every_steps: TotalSteps | None = None
    every_seconds: Seconds | None = 60.0
    keep: Kept = 2
    best: Best | None = None


class EarlyStopping(SpecModel):
    """Stop when the monitored value has not improved by `min_delta` for `patience` epochs."""

    monitor: str = "val_loss"
    mode: Literal["auto", "min", "max"] = "auto"
    patience: Patience = 0
    min_delta: Delta = 0.0
    restore_best: bool = True


class TrainingStart(SpecModel):
    """Go on from earlier state: weights alone, or everything (optimizer, schedule, counters)."""

    from_: Annotated[str, Field(alias="from")]
    restore: Literal["weights", "all"] = "weights"


class TrainingSpec(SpecModel):
    """The training loop."""

    epochs: Epochs | None = None
    """Default: 1 where `max_steps` is not given; 0: evaluate only."""
    max_steps: TotalSteps | None = None
    steps_per_epoch: Steps | None = None
    seed: Seed = 0
    deterministic: bool = False
    precision: Literal["float32", "float64", "mixed_bfloat16", "mixed_float16"] = "float32"
    gradient_accumulation: Accumulated = 1
    """Counts `minimize` calls of each optimizer."""
    execution: Execution = Execution()
    checkpoint: CheckpointSpec | None = CheckpointSpec()
    early_stopping: EarlyStopping | None = None
    initial_state: TrainingStart | None = None
    report_every_steps: ReportSteps = 100
    """Metric points are recorded so often within an epoch, and at each epoch's end."""
    max_traces: Traces = 8
    """How often one function may be traced: the step, or a `tf.function` inside it. More fails as `retracing`."""

    @model_validator(mode="before")
    @classmethod
    def _default_epochs(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("epochs") is None and value.get("max_steps") is None:
            return {**value, "epochs": 1}
        return value


class ExportSpec(SpecModel):
    """What the bundle holds."""

    formats: list[Literal["keras", "saved_model"]] = Field(default=["keras", "saved_model"], min_length=1)
    models: list[Role] | None = None
    """Roles to export; default: every model that the step trains."""
    signatures: dict[str, JsonValue] | None = None
    tolerance: Tolerance = 1e-5
    """The largest absolute difference between a reloaded SavedModel's outputs and the trained model's."""


class Resources(SpecModel):
    """What a worker must have to take the job."""

    gpus: Gpus | None = None
    """None: one GPU where the worker has any, else a CPU slot."""
    gpu_memory_gib: GiB | None = None
    cpus: Cpus | None = None
    """Cores that it holds, and threads that it computes with. None: a CPU slot's share of the worker's."""
    memory_gib: GiB | None = None
    worker_labels: dict[Label, Label] = Field(default_factory=dict)
    workers: Workers = 1


class Limits(SpecModel):
    """Where a job ends."""

    timeout_seconds: Seconds | None = None
    """Of all attempts together, from the first start. None: the service's default, which a submitted job shows."""
    max_attempts: Attempts = 3
    """Failed attempts count; pause and drain do not."""
    max_artifact_bytes: Bytes | None = None


class JobSpec(SpecModel):
    """A training job."""

    name: Annotated[str, StringConstraints(max_length=200)] | None = None
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=64)
    data: DataSpec
    models: dict[Role, Annotated[ModelSpec, BeforeValidator(from_name)]] = Field(min_length=1)
    optimizers: dict[Role, Annotated[OptimizerSpec, BeforeValidator(from_name)]] = Field(default_factory=dict)
    losses: dict[Role, Loss] = Field(default_factory=dict)
    metrics: dict[Role, Metrics] = Field(default_factory=dict)
    step: Reference = ReferenceFields(component="supervised")
    gradients: list[Annotated[GradientSpec, BeforeValidator(from_name)]] = Field(default_factory=list)
    evaluators: list[Reference] = Field(default_factory=list)
    callbacks: list[Reference] = Field(default_factory=list)
    training: TrainingSpec = Field(default_factory=lambda: TrainingSpec.model_validate({}))
    export: ExportSpec | None = ExportSpec()
    resources: Resources = Resources()
    limits: Limits = Limits()
    priority: Priority = 0

    @model_validator(mode="before")
    @classmethod
    def _fold_singular_forms(cls, value: Any) -> Any:
        return fold(value).document if isinstance(value, dict) else value

    def document(self) -> dict[str, Any]:
        """The canonical JSON document: plural, every default filled in."""
        return self.model_dump(mode="json", by_alias=True)


def _either(schema: dict[str, Any], singular: str, plural: str, item: dict[str, Any]) -> None:
    schema["properties"][singular] = item
    if plural in schema.get("required", []):
        schema["required"].remove(plural)
        schema["anyOf"] = [{"required": [singular]}, {"required": [plural]}]


def editor_schema() -> dict[str, Any]:
    """The JSON Schema of what a user may write, singular forms included; for editors and OpenAPI."""
    schema = JobSpec.model_json_schema(by_alias=True, mode="validation")
    for singular, plural in (("model", "models"), ("optimizer", "optimizers"), ("loss", "losses")):
        (pattern, value), *_ = schema["properties"][plural]["patternProperties"].items()
        item = {"anyOf": [{"type": "string"}, value]}
        schema["properties"][plural]["patternProperties"][pattern] = item
        _either(schema, singular, plural, item)
    by_role = schema["properties"]["metrics"]
    ((_, one_role),) = by_role["patternProperties"].items()
    schema["properties"]["metrics"] = {"anyOf": [*one_role.get("anyOf", [one_role]), by_role]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Tapeworks job spec"
    return schema
