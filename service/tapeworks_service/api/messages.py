"""Bodies in, JSON out: read with a limit, parsed strictly, errors as findings with pointers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from tapeworks.errors import ProblemCode
from tapeworks_service.auth.callers import still_allowed
from tapeworks_service.encoding import encoded
from tapeworks_service.problems import MEDIA_TYPE, Problem, of_validation

MessageT = TypeVar("MessageT", bound=BaseModel)

SHORT_BYTES = 16 << 10
"""A body of this size is read at once: a thread would wait longer for its turn than it works."""
MOST_FIELDS = 1_000
SLOW_SECONDS = 5.0
_DRAIN_BYTES = 16 * 1024 * 1024
_DRAIN_SECONDS = 5.0


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; content is JSON already, or a model."""
    if isinstance(content, BaseModel):
        content = content.model_dump(mode="json")
    return answered(encoded(content), status, headers)


def answered(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer whose JSON is there."""
    return Response(body, status, headers=headers, media_type="application/json")


async def body_chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes in. Raises 413 as soon as it is known to be longer than `limit` bytes."""
    declared = request.headers.get("content-length", "")
    stream = request.stream()
    if declared.isdigit() and int(declared) > limit:
        await _drain(request, stream)
        raise _too_large(limit)
    total = 0
    async for chunk in stream:
        total += len(chunk)
        if total > limit:
            await _drain(request, stream)
            raise _too_large(limit)
        yield chunk


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises 413, and 401 where the key was revoked while the body came slowly."""
    began = time.monotonic()
    body = b"".join([chunk async for chunk in body_chunks(request, limit)])
    if time.monotonic() - began > SLOW_SECONDS:
        await still_allowed(request)
    return body


async def read_message(request: Request, model: type[MessageT], limit: int) -> MessageT:
    """A message of a worker or a small request of a user. Raises 400, 413, 422.

    Workers relay what users' code printed and computed: NaN becomes a string and U+0000 the replacement
    character, or one odd line would block all that follow it.
    """
    raw = await read_body(request, limit)
    if len(raw) <= SHORT_BYTES:
        return _message(raw, model)
    return await asyncio.to_thread(_message, raw, model)


def _message(raw: bytes, model: type[MessageT]) -> MessageT:
    raw = raw.replace(b"\\u0000", b"\\ufffd")
    try:
        document = json.loads(raw.decode("utf-8"), parse_constant=str) if raw.strip() else {}
        if b"\\ud" in raw or b"\\uD" in raw:  # half a surrogate pair is no character: it becomes "?"
            document = json.loads(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise Problem(ProblemCode.INVALID_JSON, f"not valid JSON: {error}") from error
    if isinstance(document, dict) and len(document) > MOST_FIELDS:
        raise Problem(ProblemCode.INVALID_REQUEST, f"the message has more than {MOST_FIELDS} fields")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise of_validation(error) from error


async def _drain(request: Request, stream: AsyncIterator[bytes]) -> None:
    """Take in a little more: a client that is still sending reads no answer, and a reset would swallow it."""
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    total = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in stream:
                total += len(chunk)
                if total > _DRAIN_BYTES:
                    return
    except TimeoutError:
        return


def _too_large(limit: int) -> Problem:
    return Problem(
        ProblemCode.PAYLOAD_TOO_LARGE,
        f"the body is longer than {limit} bytes",
        headers={"Connection": "close"},
    )


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details",
    "required": ["type", "title", "status", "detail", "code", "hint", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable; docs/errors.md has a section for each."},
        "hint": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("pointer", "code", "message", "hint")},
            },
        },
    },
    "examples": [
        {
            "type": "urn:tapeworks:problem:invalid_request",
            "title": "The request is not valid",
            "status": 422,
            "detail": "/limit: Input should be less than or equal to 200",
            "code": "invalid_request",
            "hint": "See errors for each field.",
            "errors": [
                {
                    "pointer": "/limit",
                    "code": "invalid_value",
                    "message": "Input should be less than or equal to 200",
                    "hint": "",
                }
            ],
        }
    ],
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for the problems that an operation can answer with."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


def takes(model: type[BaseModel], example: Any = None) -> dict[str, Any]:
    """OpenAPI of a JSON body that the route reads itself."""
    media: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    if example is not None:
        media["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": media}}, "x-body-model": model.__name__}
