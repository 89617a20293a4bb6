"""Every way in which Tapeworks says no.

The exceptions that a caller of this package can meet::

    TapeworksError
    ├── SpecInvalid           a job spec that cannot run; carries its findings
    ├── ComponentError        a class or function that cannot be a component
    │   └── DuplicateComponent    its name is taken by other code
    ├── JobFailure            an attempt that failed with a code (raised on workers)
    ├── BundleError           a downloaded bundle that is damaged or unreadable
    └── ApiError              the service answered with a problem (RFC 9457)
        ├── NotFound              404
        ├── Conflict              409
        ├── Rejected              422, and 400, 413: the request must change
        ├── Unauthorized          401, 403
        └── Unavailable           429, 5xx, or no answer at all: try again

Two sets of codes are part of the contract: `FailureCode` says why a job failed, `ProblemCode`
why a request was refused. `FAILURES` and `PROBLEMS` hold the texts that a user sees for each; the
pages of `docs/errors.md` are made from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tapeworks.error_codes import FailureCode as FailureCode
from tapeworks.error_codes import ProblemCode as ProblemCode


@dataclass(frozen=True)
class FailureInfo:
    """The title and hint of a failure code, and whether another attempt may go better."""

    summary: str
    hint: str
    retryable: bool = False


@dataclass(frozen=True)
class ProblemInfo:
    """The title and hint of a problem code, and its usual HTTP status."""

    title: str
    hint: str
    status: int = 422


FAILURES: dict[FailureCode, FailureInfo] = {
    FailureCode.INVALID_SPEC: FailureInfo(
        "The parts of the spec are not compatible",
        "Change the field of the spec that the message names; no training step ran.",
    ),
    FailureCode.INVALID_DATA: FailureInfo(
        "The data is not what the job needs",
        "Check the source's files, the element's fields and that integer labels lie in 0 … outputs-1.",
    ),
    FailureCode.DTYPE_MISMATCH: FailureInfo(
        "An operation combines tensors of different dtypes",
        "TensorFlow does not convert dtypes implicitly: put the tf.cast that the message names before the operation, "
        'or add a {"op": "cast"} to the pipeline.',
    ),
    FailureCode.FLOAT64_INPUT: FailureInfo(
        "The model of lower precision received float64 input",
        'NumPy makes float64 by default: add {"op": "cast", "dtype": "float32", "field": "x"} to the pipeline, '
        "or cast in the source.",
    ),
    FailureCode.NUMPY_IN_GRAPH: FailureInfo(
        "NumPy was called on a tensor inside the graph",
        "Use the tf.* or keras.ops.* function of the same name; NumPy would run once, at tracing.",
    ),
    FailureCode.VARIABLE_CREATION_IN_GRAPH: FailureInfo(
        "A variable was created inside the training step",
        "Create variables in __init__ or build(); the step is traced and may only use them.",
    ),
    FailureCode.PYTHON_CONTROL_FLOW: FailureInfo(
        "A Python if, while or bool() of a tensor could not become part of the graph",
        "AutoGraph converts the if, while and for of a component's functions, not what a library or a "
        "comprehension does with a tensor: use tf.cond, tf.while_loop or tf.where there.",
    ),
    FailureCode.GRAPH_TENSOR_LEAKED: FailureInfo(
        "A tensor of one graph was used in another",
        "Keep variables or NumPy arrays between calls, never tensors made while tracing.",
    ),
    FailureCode.BROADCAST_LOSS: FailureInfo(
        "A loss or metric combines different examples",
        "y of shape (n,) against outputs of shape (n, 1) becomes (n, n): give both the same rank. A loss that compares "
        "pairs on purpose sets the attribute pairwise = True.",
    ),
    FailureCode.NO_GRADIENT: FailureInfo(
        "No gradient reaches some variables",
        "The loss does not depend on them through differentiable operations: use them, freeze them, or fix the path.",
    ),
    FailureCode.NON_FINITE: FailureInfo(
        "The loss or a gradient became NaN or infinite",
        'Lower the learning rate, add {"component": "clip_by_global_norm"} to gradients, or check the data for NaN.',
    ),
    FailureCode.OUT_OF_MEMORY: FailureInfo(
        "The worker ran out of memory",
        "Use a smaller batch_size (with gradient_accumulation), a smaller model or shuffle buffer, or a larger worker.",
    ),
    FailureCode.NOT_SERIALIZABLE: FailureInfo(
        "A class cannot be rebuilt from its config",
        "Give every argument of __init__ a place in get_config(), or leave get_config out and let it be derived.",
    ),
    FailureCode.RELOAD_MISMATCH: FailureInfo(
        "The reloaded model is not the trained one",
        "Some state lives outside Keras variables or the config: the message names the first layer that differs.",
    ),
    FailureCode.COMPONENT_ERROR: FailureInfo(
        "A component raised an error",
        "See location and traceback_tail: the error is in the component's own code or its config.",
    ),
    FailureCode.COMPONENT_TIMEOUT: FailureInfo(
        "A component took too long to be built",
        "Move slow work from import and __init__ to the source's dataset() or the step's build().",
    ),
    FailureCode.WORKER_LOST: FailureInfo(
        "The process that ran the job ended unexpectedly",
        "The job is retried from its last checkpoint. If it happens each time, look for memory use or native crashes.",
        retryable=True,
    ),
    FailureCode.STORAGE_FULL: FailureInfo(
        "No space is left where the job writes",
        "Free space on the worker or in the artifact store, then retry.",
        retryable=True,
    ),
    FailureCode.STORAGE_UNAVAILABLE: FailureInfo(
        "The artifact store cannot be read or written",
        "Check the store's mount and permissions; the job is retried.",
        retryable=True,
    ),
    FailureCode.CHECKPOINT_CORRUPT: FailureInfo(
        "A checkpoint does not match its digest",
        "The previous checkpoint is used if there is one; otherwise retry from scratch.",
    ),
    FailureCode.DEPENDENCY_FAILED: FailureInfo(
        "A job that this one waits for failed",
        "Fix and retry that job first.",
    ),
    FailureCode.RETRACING: FailureInfo(
        "A function was traced more than max_traces times",
        "Give batches one rank and dtype; pass changing numbers as tensors, not as Python values; or raise "
        "training.max_traces.",
    ),
    FailureCode.NONDETERMINISTIC_OP: FailureInfo(
        "A deterministic job uses a nondeterministic operation",
        "Draw random numbers from run.random_*, use another operation in place of the one named, or set "
        "training.deterministic to false.",
    ),
    FailureCode.NOT_SUPPORTED: FailureInfo(
        "The job needs a feature that this version does not support",
        "The message names what this version does not support; leave it out of the spec.",
    ),
    FailureCode.TIMEOUT: FailureInfo(
        "The job ran longer than limits.timeout_seconds",
        "Raise limits.timeout_seconds (a spec without it has the service's default), or train fewer steps.",
    ),
    FailureCode.QUOTA_EXCEEDED: FailureInfo(
        "The job's reports exceed a quota of an attempt",
        "docs/limits.md lists the quotas. Report less: raise training.report_every_steps, use fewer metrics, events or "
        "checkpoints; write large results to files with run.artifact().",
    ),
    FailureCode.INTERNAL: FailureInfo(
        "Tapeworks itself failed",
        "This is a defect of Tapeworks: report it with the job's id and traceback_tail.",
        retryable=True,
    ),
}

PROBLEMS: dict[ProblemCode, ProblemInfo] = {
    ProblemCode.INVALID_REQUEST: ProblemInfo("The request is not valid", "See errors for each field.", 422),
    ProblemCode.INVALID_JSON: ProblemInfo("The body is not JSON", "Send UTF-8 JSON without NaN or Infinity.", 400),
    ProblemCode.INVALID_SPEC: ProblemInfo("The job spec is not valid", "See errors for each field."),
    ProblemCode.UNKNOWN_FIELD: ProblemInfo("Unknown field", "Remove it or correct its spelling."),
    ProblemCode.MISSING_FIELD: ProblemInfo("A field is missing", "Add it."),
    ProblemCode.INVALID_VALUE: ProblemInfo("A value is not valid", "Change it as the message describes."),
    ProblemCode.UNKNOWN_COMPONENT: ProblemInfo(
        "No worker has this component", "GET /v1/components lists the components."
    ),
    ProblemCode.UNKNOWN_ROLE: ProblemInfo(
        "The step does not declare this role", "GET /v1/components/step/NAME lists a step's roles."
    ),
    ProblemCode.MISSING_ROLE: ProblemInfo("A role of the step is not filled", "Add the role that the step declares."),
    ProblemCode.INVALID_CONFIG: ProblemInfo(
        "A component's config does not match its schema", "GET /v1/components/{kind}/{name} shows the schema."
    ),
    ProblemCode.MISSING_BATCH: ProblemInfo(
        "The data is never batched", 'Add {"op": "batch", "batch_size": 32} to data.pipeline.'
    ),
    ProblemCode.ENDLESS_DATA: ProblemInfo(
        "The data never ends", "Give repeat a count, or set training.steps_per_epoch or training.max_steps."
    ),
    ProblemCode.MISSING_VALIDATION_STEP: ProblemInfo(
        "The step cannot validate", "Give the step a validation_step, name evaluators, or set data.validation to null."
    ),
    ProblemCode.NOT_SUPPORTED: ProblemInfo(
        "Not supported yet", "Leave it out, or use the alternative that the message names."
    ),
    ProblemCode.IDEMPOTENCY_MISMATCH: ProblemInfo(
        "This Idempotency-Key was used with another body", "Use a new key for a new request."
    ),
    ProblemCode.NOT_FOUND: ProblemInfo("Not found", "Check the id; deleted resources cannot be restored.", 404),
    ProblemCode.METHOD_NOT_ALLOWED: ProblemInfo("Method not allowed", "See /docs for the methods of this path.", 405),
    ProblemCode.CONFLICT: ProblemInfo("The resource's state does not allow this", "Get the job to see its state.", 409),
    ProblemCode.IN_USE: ProblemInfo("The resource is still referenced", "Delete what refers to it first.", 409),
    ProblemCode.LEASE_LOST: ProblemInfo(
        "The lease of this attempt is no longer valid", "Stop the runner: another attempt owns the job now.", 409
    ),
    ProblemCode.DIGEST_MISMATCH: ProblemInfo("The content does not match its digest", "Send them again.", 422),
    ProblemCode.RANGE_NOT_SATISFIABLE: ProblemInfo("The range lies outside the file", "See Content-Range.", 416),
    ProblemCode.PAYLOAD_TOO_LARGE: ProblemInfo("The body is too large", "See the message for the limit.", 413),
    ProblemCode.HEADER_TOO_LARGE: ProblemInfo(
        "The header is too large", "Shorten the address: fewer and shorter parameters.", 431
    ),
    ProblemCode.REQUEST_TIMEOUT: ProblemInfo(
        "The request timed out before it was complete", "Send it again, over a faster connection.", 408
    ),
    ProblemCode.UNAUTHENTICATED: ProblemInfo(
        "An API key is required", "Send Authorization: Bearer tw_… with a key of this installation.", 401
    ),
    ProblemCode.FORBIDDEN: ProblemInfo("The API key does not allow this", "Use a key with the scope named.", 403),
    ProblemCode.QUOTA_EXCEEDED: ProblemInfo(
        "A quota of the project or of an attempt is used up", "docs/limits.md lists the quotas of an attempt.", 403
    ),
    ProblemCode.STORAGE_FULL: ProblemInfo("The artifact store is full", "Free space and send it again.", 507),
    ProblemCode.STORAGE_UNAVAILABLE: ProblemInfo(
        "The artifact store cannot be reached", "Try again after Retry-After seconds.", 503
    ),
    ProblemCode.UNAVAILABLE: ProblemInfo("The service is not available", "Try again after Retry-After seconds.", 503),
    ProblemCode.INTERNAL: ProblemInfo("Tapeworks itself failed", "Report it with the request's id.", 500),
}


class TapeworksError(Exception):
    """The root of everything this package raises on purpose."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a document, at one place of it."""

    pointer: str
    """RFC 6901 pointer into the document as the user wrote it; "" is the whole of it."""
    code: ProblemCode
    message: str
    hint: str = ""

    def document(self) -> dict[str, str]:
        """The finding as an entry of a problem's `errors`."""
        return {"pointer": self.pointer, "code": self.code.value, "message": self.message, "hint": self.hint}


class SpecInvalid(TapeworksError):
    """A job spec that cannot run. `findings` names every place that must change."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        lines = [f"{f.pointer or '/'}: {f.message}" + (f" ({f.hint})" if f.hint else "") for f in self.findings]
        super().__init__("; ".join(lines))


class ComponentError(TapeworksError):
    """A class or function that cannot be a component; the message says what to change."""


class DuplicateComponent(ComponentError):
    """The name and version are taken by other code."""


@dataclass(frozen=True)
class Location:
    """The place in the user's source that a failure points at."""

    file: str | None = None
    line: int | None = None
    component: str | None = None


class JobFailure(TapeworksError):
    """An attempt failed. `hint` and `retryable` default to what `FAILURES` says of the code."""

    def __init__(
        self,
        code: FailureCode,
        message: str,
        *,
        hint: str | None = None,
        retryable: bool | None = None,
        location: Location | None = None,
    ) -> None:
        super().__init__(message)
        info = FAILURES[code]
        self.code = code
        self.message = message
        self.hint = info.hint if hint is None else hint
        self.retryable = info.retryable if retryable is None else retryable
        self.location = location


class BundleError(TapeworksError):
    """A bundle that is damaged, incomplete or not a bundle at all."""


class ApiError(TapeworksError):
    """The service answered with a problem document, or not at all (`status` 0)."""

    def __init__(self, status: int, code: str, detail: str, problem: dict[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.status = status
        self.code = code
        self.detail = detail
        self.problem = problem or {}

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The places in the request that are wrong, each with a JSON pointer."""
        errors = self.problem.get("errors", [])
        return errors if isinstance(errors, list) else []


class NotFound(ApiError):
    """404: the thing does not exist, or belongs to another project."""


class Conflict(ApiError):
    """409: the state of the thing does not allow this."""


class Rejected(ApiError):
    """400, 413 or 422: the request must change before it is sent again."""


class Unauthorized(ApiError):
    """401 or 403: no key, an unknown key, or one without the scope."""


class Unavailable(ApiError):
    """429, 5xx or no answer: the same request may succeed later."""
