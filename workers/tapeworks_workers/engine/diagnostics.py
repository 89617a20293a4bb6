"""From any exception to a coded failure in the user's terms, with the place in the user's source.

`classify` gives the JobFailure; `failure` the document that a finish frame carries. Rules are tried
in order on each exception of the chain, outermost first: Keras and AutoGraph wrap what a component
raised, and TensorFlow raises one exception while it handles another.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from tapeworks.errors import FailureCode, JobFailure, Location
from tapeworks_workers.engine import sources_of_errors as places

MAX_MESSAGE = 2_000
MAX_TAIL = 8_000


def failure(error: BaseException, *, spec: Mapping[str, Any], phase: str | None) -> dict[str, Any]:
    """The `failure` of a finish frame. `spec`: the job's document."""
    precision = spec.get("training", {}).get("precision", "float32")
    found = classify(error, precision=precision)
    location = None if found.location is None else asdict(found.location)
    return {
        "code": found.code.value,
        "message": found.message[:MAX_MESSAGE],
        "hint": found.hint,
        "phase": phase,
        "retryable": found.retryable,
        "location": location,
        "traceback_tail": places.tail(error)[-MAX_TAIL:] or None,
    }


def revived(document: Mapping[str, Any]) -> JobFailure:
    """A failure that another process told."""
    location = document.get("location")
    return JobFailure(
        FailureCode(document["code"]),
        document["message"],
        hint=document.get("hint"),
        retryable=document.get("retryable"),
        location=Location(**location) if location else None,
    )


def classify(error: BaseException, *, precision: str = "float32") -> JobFailure:
    """The coded failure that an exception stands for."""
    errors = list(chain(error))
    told = next((e for e in errors if isinstance(e, JobFailure)), None)
    if told is not None and told.code is not FailureCode.COMPONENT_ERROR:
        return told if told.location is not None else _placed(told, error)
    for item in errors:
        for rule in RULES:
            if (found := rule(item, precision)) is not None:
                code, message, hint = found
                return JobFailure(code, message, hint=hint, location=places.location(error))
    if told is not None:
        return told if told.location is not None else _placed(told, error)
    code = FailureCode.COMPONENT_ERROR if places.in_component(error) else FailureCode.INTERNAL
    return JobFailure(code, f"{type(error).__name__}: {text(error)}", location=places.location(error))


def _placed(told: JobFailure, error: BaseException) -> JobFailure:
    return JobFailure(
        told.code, told.message, hint=told.hint, retryable=told.retryable, location=places.location(error)
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from or while handling, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def text(error: BaseException) -> str:
    """What an exception says, without the frames that Keras, AutoGraph and a running graph put around it."""
    message = str(error)
    message = re.split(r"\n+Arguments received by |\n+Call arguments received by |\nStack trace for op", message)[0]
    message = re.sub(r"Graph execution error:\n+|Detected at node [^\n]*\n+(\s*File [^\n]*\n+)*", "", message)
    message = re.sub(r"\s*\[\[\{\{.*", "", message, flags=re.DOTALL)
    message = re.sub(r"Exception encountered when calling [^\n]*\n+", "", message)
    message = re.sub(r"Could not automatically infer .*?Error encountered:\n+", "", message, flags=re.DOTALL)
    message = re.sub(r"in user code:\n+(\s+File .*\n.*\n)*\s*", "", message)
    message = re.sub(r"\{\{[^}]*\}\}\s*|\[Op:\w+\]\s*(name:)?|\x1b\[[0-9;]*m", "", message)
    return message.strip()


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
            message = f"float64 met {found if wanted == 'float64' else wanted} in a {precision} job: {text(error)}"
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
        "NumPy was called on a tensor of the graph: {text}",
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
        "Turn them into numbers first: labels into 0 … outputs-1 in the source, inputs by a keras/StringLookup layer.",
    ),
    _label,
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
        "Put ragged_to_dense before it, whose mask goes on to layers that know masks; or take attention_pooling, "
        "embedding_bag or text_classifier, which are called with ragged input as it is.",
    ),
    Pattern(
        FailureCode.INVALID_SPEC,
        r"calling (\w+)\.call\(\)\..{0,20}(?:Failed to convert elements of|Expected \w+, but got) SparseTensor",
        "{0} takes no SparseTensor",
        "Put sparse_dense or embedding_bag before it: what they give is dense and small.",
    ),
    Pattern(FailureCode.NON_FINITE, r"Tensor had (NaN|Inf|-Inf)", "{text}"),
    Pattern(
        FailureCode.INVALID_SPEC,
        r"is incompatible with the layer|The last dimension of the inputs to a|must be fully-defined"
        r"|must have the same shape|must have rank \(ndim\)|have the same rank"
        r"|Incompatible shapes|Dimensions must be equal|expects \d+ input\(s\), but it received",
        "the parts do not fit together: {text}",
        "Compare the element's shapes with what the model takes, and the model's outputs with what the loss takes.",
    ),
)
