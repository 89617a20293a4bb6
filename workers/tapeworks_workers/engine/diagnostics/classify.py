"""From any exception to a coded failure in the user's terms, with the place in the user's source.

`classify` gives the JobFailure; `failure` the document that a finish frame carries. Rules are tried
in order on each exception of the chain, outermost first: Keras and AutoGraph wrap what a component
raised, and TensorFlow raises one exception while it handles another.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks.schemas.jobs import Failure
from tapeworks_workers.engine.diagnostics import error_owners, super_init
from tapeworks_workers.engine.diagnostics import source_locations as places
from tapeworks_workers.engine.diagnostics.error_text import cleaned, text

MAX_MESSAGE = 2_000
MAX_TAIL = 8_000


def failure(error: BaseException, *, spec: Mapping[str, Any], phase: str | None) -> dict[str, Any]:
    """The `failure` of a finish frame. `spec`: the job's document."""
    precision = spec.get("training", {}).get("precision", "float32")
    found = classify(error, precision=precision)
    location = None if found.location is None else asdict(found.location)
    return {
        "code": found.code.value,
        "message": cleaned(found.message)[:MAX_MESSAGE],
        "hint": found.hint,
        "phase": phase,
        "retryable": found.retryable,
        "location": location,
        "traceback_tail": places.tail(error)[-MAX_TAIL:] or None,
    }


def reported_failure(failure: Failure) -> JobFailure:
    """A failure that another process reported."""
    at = failure.location
    return JobFailure(
        failure.code,
        failure.message,
        hint=failure.hint or None,
        retryable=failure.retryable,
        location=None if at is None else Location(at.file, at.line, at.component),
    )


def classify(error: BaseException, *, precision: str = "float32") -> JobFailure:
    """The coded failure that an exception stands for."""
    return _of_part(_classified(error, precision), error)


def _of_part(failure: JobFailure, error: BaseException) -> JobFailure:
    """The failure, its message beginning with the loss or metric that was being called."""
    part = next(filter(None, map(error_owners.part_of, chain(error))), None)
    if part is None or part.what in failure.message:
        return failure
    message = f"{part.what}: {failure.message}"
    return JobFailure(failure.code, message, hint=failure.hint, retryable=failure.retryable, location=failure.location)


def _classified(error: BaseException, precision: str) -> JobFailure:
    errors = list(chain(error))
    classified = next((e for e in errors if isinstance(e, JobFailure)), None)
    if classified is not None and classified.code is not FailureCode.COMPONENT_ERROR:
        return classified if classified.location is not None else _placed(classified, error)
    for item in errors:
        for rule in RULES:
            if (found := rule(item, precision)) is not None:
                code, message, hint = found
                return JobFailure(code, message, hint=hint, location=places.location(error))
    if classified is not None:
        return classified if classified.location is not None else _placed(classified, error)
    code = FailureCode.COMPONENT_ERROR if places.in_component(error) else FailureCode.INTERNAL
    return JobFailure(code, f"{type(error).__name__}: {text(error)}", location=places.location(error))


def _placed(failure: JobFailure, error: BaseException) -> JobFailure:
    return JobFailure(
        failure.code, failure.message, hint=failure.hint, retryable=failure.retryable, location=places.location(error)
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from or while handling, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


# ── rules ────────────────────────────────────────────────────────────────────────────────────────

Found = tuple[FailureCode, str, str | None] | None
Rule = Callable[[BaseException, str], Found]


@dataclass(frozen=True)
class Pattern:
    """A code for every exception whose text matches; `message` may use the match's groups."""

    code: FailureCode
    regex: str
    message: str
    hint: str | None = None

    def __call__(self, error: BaseException, precision: str) -> Found:
        match = re.search(self.regex, str(error), re.DOTALL)
        if match is None:
            return None
        return self.code, self.message.format(*match.groups(), text=text(error)), self.hint


def _storage(error: BaseException, precision: str) -> Found:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in str(error):
        return FailureCode.STORAGE_FULL, f"no space is left on the worker: {text(error)}", None
    return None


def _memory(error: BaseException, precision: str) -> Found:
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return FailureCode.OUT_OF_MEMORY, f"the worker ran out of memory: {text(error)[:400]}", None
    return None


def _uninitialised(error: BaseException, precision: str) -> Found:
    """`super().__init__()` was never called: Keras says so for some classes, for others an attribute is missing."""
    said = None
    if isinstance(error, AttributeError):
        said = super_init.missing_super_call(error.obj)
    elif "forgot to call `super().__init__()`" in str(error):
        said = text(error).replace(" Go add it!", "")
    return (FailureCode.COMPONENT_ERROR, said, super_init.HINT) if said is not None else None


def _not_implemented(error: BaseException, precision: str) -> Found:
    """Keras' bases raise it without a word: the method that is missing is the frame's own."""
    if not isinstance(error, NotImplementedError) or text(error) or error.__traceback__ is None:
        return None
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if (owner := frame.f_locals.get("self")) is None:
        return None
    message = f"{type(owner).__name__} does not define {frame.f_code.co_name}()"
    return FailureCode.COMPONENT_ERROR, message, f"Define {frame.f_code.co_name}() in {type(owner).__name__}."


def _signature(error: BaseException, precision: str) -> Found:
    """A method that Keras or the engine calls with other arguments than it takes."""
    if not isinstance(error, TypeError | JobFailure):  # a failure: its message has the place in the spec before it
        return None
    match = re.search(r"(\w+)\.(\w+)\(\) (?:got an unexpected keyword argument|takes|missing)", text(error))
    expected = None if match is None else _SIGNATURES.get(match[2])
    if match is None or expected is None:
        return None
    return FailureCode.COMPONENT_ERROR, text(error), f"Define it as {match[2]}({expected}) in {match[1]}."


_SIGNATURES = {
    "update_state": "self, y_true, y_pred, sample_weight=None",
    "on_epoch_end": "self, epoch, logs, run",
    "on_report": "self, step, logs, run",
    "evaluate": "self, dataset, run",
    "train_step": "self, batch, run",
    "validation_step": "self, batch, run",
}
"""Methods of components that are called with these arguments, whatever they take."""

_DTYPES = {"float": "float32", "double": "float64", "half": "float16"}
_MISMATCHES = (
    # (regex, group of the dtype found, group of the dtype wanted, group of the operation)
    (r"Input '\w+' of '(\w+)' Op has type (\w+) that does not match type (\w+) of argument", 2, 3, 1),
    (r"Input '\w+' of '(\w+)' Op has type (\w+) that does not match expected type of (\w+)", 2, 3, 1),
    (r"cannot compute (\w+) as input #\d+\S* was expected to be a (\w+) tensor but is a (\w+) tensor", 3, 2, 1),
    (r"Tensor conversion requested dtype (\w+) for Tensor with dtype (\w+)", 2, 1, None),
    (r"of '(\w+)' Op have types \[(\w+), (\w+)[^\]]*\] that don't all match", 3, 2, 1),
    (r"Value passed to parameter '(\w+)' has DataType (\w+) not in list of allowed values: (\w+)", 2, 3, None),
    (r"Incompatible type conversion requested to type '(\w+)' for \S+ of type '(\w+)'", 2, 1, None),
)


def _dtype(error: BaseException, precision: str) -> Found:
    for regex, found_at, wanted_at, operation_at in _MISMATCHES:
        match = re.search(regex, str(error))
        if match is None:
            continue
        found, wanted = (_DTYPES.get(match[at], match[at]).removesuffix("_ref") for at in (found_at, wanted_at))
        where = f"{match[operation_at]} got" if operation_at else "an operation got"
        if precision != "float64" and "float64" in (found, wanted):
            message = f"float64 meets {found if wanted == 'float64' else wanted} in a {precision} job: {text(error)}"
            return FailureCode.FLOAT64_INPUT, message, None
        message = f"{where} {found} where {wanted} is needed: put tf.cast(…, tf.{wanted}) around the {found} tensor"
        return FailureCode.DTYPE_MISMATCH, message, f"tf.cast(value, tf.{wanted}) before the operation; {text(error)}"
    return None


def _label(error: BaseException, precision: str) -> Found:
    match = re.search(
        r"label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)", str(error)
    ) or re.search(r"indices\[.*\] = (?:\[\d+, )?(-?\d+)\]? is not in \[0, (\d+)\)", str(error))
    if match is None:
        return None
    label, outputs = int(match[1]), int(match[2])
    return (
        FailureCode.INVALID_DATA,
        f"the data holds the index or label {label}, valid are 0 … {outputs - 1}",
        f"Labels must lie in 0 … outputs-1: the model has {outputs}. Inputs of an embedding likewise.",
    )


_NONDETERMINISTIC = r"[Dd]eterminism is (not yet supported|enabled)|[Dd]eterministic GPU impl|is not deterministic"
_NO_PYTHON_VALUE = r"as a Python `?bool`? is not allowed|Iterating over a symbolic"
_OF_AN_OP = (
    r'"?([\w.]+)"? (?:requires|cannot be called)',
    r"(?:implementation of|supported for|support(?:ed)? in GPU implementation of) ([\w ]+?)(?: is | not |, |\.|$)",
    r"Deterministic GPU implementation of ([\w ]+?) not",
    r"from ([\w.]+) is not deterministic",
)


def _nondeterministic(error: BaseException, precision: str) -> Found:
    said = text(error)
    if not re.search(
        r"[Dd]eterminis\w+ (is|in|of|kernel|GPU|XLA)|not (\w+ )*deterministic|deterministic (GPU|XLA)", said
    ):
        return None
    named = next((match[1] for regex in _OF_AN_OP if (match := re.search(regex, said))), "an operation")
    return FailureCode.NONDETERMINISTIC_OP, f"{named} does not work in a deterministic job: {said}", None


def _control_flow(error: BaseException, precision: str) -> Found:
    said = text(error)
    named = re.search(r"'?(\w+)'? (?:must also be initialized|is None at the end|must be defined before)", said)
    if named is not None:
        hint = f"Give {named[1]} a value of one dtype and shape before the if or the loop."
        return FailureCode.PYTHON_CONTROL_FLOW, said, hint
    if isinstance(error, tf.errors.OperatorNotAllowedInGraphError) or re.search(_NO_PYTHON_VALUE, said):
        return FailureCode.PYTHON_CONTROL_FLOW, said.split(" You can attempt the following")[0], None
    return None


RULES: tuple[Rule, ...] = (
    _storage,
    _memory,
    _uninitialised,
    _not_implemented,
    _signature,
    _nondeterministic,
    Pattern(
        FailureCode.VARIABLE_CREATION_IN_GRAPH,
        r"only supports singleton tf\.Variables|tried to create variables on non-first call",
        "a variable is created inside the training step each time it is traced",
    ),
    Pattern(
        FailureCode.NUMPY_IN_GRAPH,
        r"Cannot convert a symbolic (?:tf|keras)\.?\w*Tensor|a NumPy call, which is not supported"
        r"|SymbolicTensor' object has no attribute 'numpy'|numpy\(\) is only available when eager",
        "NumPy was called on a symbolic tensor of the graph: {text}",
    ),
    _control_flow,
    Pattern(
        FailureCode.GRAPH_TENSOR_LEAKED,
        r"([^\n]*?)(?: is out of scope| cannot be accessed (?:from )?here|must be from the same graph)",
        "a tensor made in one graph is used in another: {0}",
    ),
    Pattern(FailureCode.NO_GRADIENT, r"No gradients provided for any variable", "{text}"),
    _dtype,
    Pattern(
        FailureCode.DTYPE_MISMATCH,
        r"Cast string to (\w+) is not supported",
        "strings reached an operation that computes with {0}",
        "Convert them to numbers first: labels into 0 … outputs-1 in the source, inputs by a keras/StringLookup layer.",
    ),
    _label,
    Pattern(FailureCode.INVALID_DATA, r"(?m)assertion failed: \[invalid data: (.+?)\](?:$| \[\[)", "{0}"),
    Pattern(FailureCode.INVALID_DATA, r"invalid data: (.+)", "{0}"),
    Pattern(
        FailureCode.INVALID_DATA,
        r"Cannot batch tensors with different shapes|Cannot add tensor to the batch",
        "elements of different shapes cannot be one batch: {text}",
        "Use padded_batch or ragged_batch, or give every element the same shape by a map before the batch.",
    ),
    Pattern(
        FailureCode.INVALID_SPEC,
        r"calling (\w+)\.call\(\)\..{0,20}(?:Cannot index into an inner ragged|noise_shape is not supported yet for"
        r"|Failed to convert elements of tf\.RaggedTensor)",
        "{0} takes no RaggedTensor",
        "Put ragged_to_dense before it, whose mask reaches the layers that use masks; or take attention_pooling, "
        "embedding_bag or text_classifier, which are called with ragged input as it is.",
    ),
    Pattern(
        FailureCode.INVALID_SPEC,
        r"calling (\w+)\.call\(\)\..{0,20}(?:Failed to convert elements of|Expected \w+, but got) SparseTensor",
        "{0} takes no SparseTensor",
        "Put sparse_dense or embedding_bag before it: what they give is dense and small.",
    ),
    Pattern(
        FailureCode.INVALID_DATA,
        r"Cannot iterate over a shape with unknown rank|as_list\(\) is not defined on an unknown TensorShape",
        "a tensor has a shape of unknown rank: {text}",
        "tf.py_function and tf.numpy_function forget shapes: call set_shape([…]) on what they return.",
    ),
    Pattern(FailureCode.NON_FINITE, r"Tensor had (NaN|Inf|-Inf)", "{text}"),
    Pattern(
        FailureCode.INVALID_SPEC,
        r"is incompatible with the layer|The last dimension of the inputs to a|must be fully-defined"
        r"|must have the same shape|must have rank \(ndim\)|have the same rank"
        r"|Incompatible shapes|Dimensions must be equal|expects \d+ input\(s\), but it received",
        "the shapes of the parts are not compatible: {text}",
        "Compare the element's shapes with what the model takes, and the model's outputs with what the loss takes.",
    ),
)
