"""Every refusal as one RFC 9457 document: `application/problem+json` with a stable `code`.

Routes raise `Problem` (or let `SpecInvalid`, database and store errors pass); one handler answers.
Nothing of the server's inside, no stack trace, ever reaches a client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tapeworks.errors import PROBLEMS, Finding, ProblemCode, SpecInvalid
from tapeworks.spec.parsing import MAX_FINDINGS
from tapeworks.spec.references import escape
from tapeworks_service.database.engine import AWAY
from tapeworks_service.observability.logging import REQUEST_ID_HEADER

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2


class Problem(Exception):
    """A request that is refused. Status, title and hint default to what `PROBLEMS` says of the code."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        hint: str | None = None,
        errors: Sequence[Finding] = (),
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        info = PROBLEMS[code]
        self.code = code
        self.detail = detail
        self.hint = info.hint if hint is None else hint
        self.errors = tuple(errors)
        self.status = status or info.status
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})
        if self.status in (503, 507):
            self.headers.setdefault("Retry-After", str(RETRY_SECONDS))

    def response(self) -> Response:
        """The answer."""
        info = PROBLEMS[self.code]
        body: dict[str, Any] = {
            "type": f"urn:tapeworks:problem:{self.code.value}",
            "title": info.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code.value,
            "hint": self.hint,
            "errors": [finding.document() for finding in self.errors],
            **self.extra,
        }
        return JSONResponse(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def not_found(what: str, name: str) -> Problem:
    """404 for one thing."""
    return Problem(ProblemCode.NOT_FOUND, f"there is no {what} {name[:200]!r}")


def not_supported(what: str) -> Problem:
    """422 for what the contract names and this version does not do."""
    return Problem(ProblemCode.NOT_SUPPORTED, f"{what}: not supported by this version of the service")


def invalid_value(pointer: str, message: str, hint: str = "") -> Problem:
    """422 for one value."""
    finding = Finding(pointer, ProblemCode.INVALID_VALUE, message, hint)
    return Problem(ProblemCode.INVALID_REQUEST, message, errors=[finding])


def of_spec(error: SpecInvalid) -> Problem:
    """Findings about a spec as one problem; a single finding lends it its code."""
    codes = {finding.code for finding in error.findings}
    general = {ProblemCode.UNKNOWN_FIELD, ProblemCode.MISSING_FIELD, ProblemCode.INVALID_VALUE}
    code = codes.pop() if len(codes) == 1 else ProblemCode.INVALID_SPEC
    if code in general:
        code = ProblemCode.INVALID_SPEC
    first = error.findings[0]
    more = f" (and {len(error.findings) - 1} more)" if len(error.findings) > 1 else ""
    detail = f"{first.pointer or 'the document'}: {first.message}{more}"
    return Problem(code, detail, hint=first.hint or None, errors=error.findings)


def of_validation(error: ValidationError | RequestValidationError, *, within: str = "") -> Problem:
    """Pydantic's errors about a body or about parameters as one problem."""
    findings = []
    for item in error.errors()[:MAX_FINDINGS]:
        location = [step for step in item["loc"] if step not in ("body", "query", "path", "header")]
        pointer = within + "".join(f"/{escape(str(step))}" for step in location)
        code = {"extra_forbidden": ProblemCode.UNKNOWN_FIELD, "missing": ProblemCode.MISSING_FIELD}.get(
            item["type"], ProblemCode.INVALID_VALUE
        )
        findings.append(Finding(pointer, code, str(item["msg"]).removeprefix("Value error, ")))
    detail = f"{findings[0].pointer}: {findings[0].message}" if findings else "the request is not valid"
    return Problem(ProblemCode.INVALID_REQUEST, detail, errors=findings)


def of_database(error: Exception) -> Problem:
    """The problem for a client when the database did not answer."""
    if re.search(r"disk is full|no space left", str(error), re.IGNORECASE):
        return Problem(ProblemCode.STORAGE_FULL, "the database has no space left")
    if isinstance(error, PoolTimeout) or re.search(r"locked|busy", str(error), re.IGNORECASE):
        return Problem(ProblemCode.UNAVAILABLE, "the database is busy")
    return Problem(ProblemCode.UNAVAILABLE, "the database does not respond")


_HTTP_CODES = {
    401: ProblemCode.UNAUTHENTICATED,
    403: ProblemCode.FORBIDDEN,
    404: ProblemCode.NOT_FOUND,
    405: ProblemCode.METHOD_NOT_ALLOWED,
    413: ProblemCode.PAYLOAD_TOO_LARGE,
}


def to_problem(error: Exception) -> Problem:
    """The one mapping from errors to problems for a client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, SpecInvalid):
        return of_spec(error)
    if isinstance(error, RequestValidationError):
        return of_validation(error)
    if isinstance(error, HTTPException):
        code = _HTTP_CODES.get(error.status_code, ProblemCode.INVALID_REQUEST)
        return Problem(code, str(error.detail), status=error.status_code, headers=error.headers)
    if isinstance(error, ClientDisconnect):
        return Problem(ProblemCode.INVALID_REQUEST, "the request body is incomplete")  # nobody reads it
    if isinstance(error, OverflowError):
        return Problem(ProblemCode.INVALID_REQUEST, "a number is too large")
    if isinstance(getattr(error.__cause__, "__cause__", None), asyncpg.DataError):
        return Problem(ProblemCode.INVALID_REQUEST, "the database cannot hold a value of the request")
    if isinstance(error, AWAY):
        log.error("database_error", error=str(error.__cause__ or error))
        return of_database(error)
    log.error("internal_error", exc_info=error)
    return Problem(ProblemCode.INTERNAL, "an unexpected error; the service's log has it under X-Request-Id")


def _methods(request: Request) -> set[str]:
    """All methods of a path: each operation is a route of its own, and the router knows of one only."""
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, APIRoute) and route.path_regex.match(request.url.path):
            found |= route.methods or set()
    return found


def install(app: FastAPI) -> None:
    """Answer every error of the application as a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        problem = to_problem(error)
        if problem.status == 405:
            problem.headers["Allow"] = ", ".join(sorted(_methods(request)))
        if problem.status == 500:  # answered outside the middleware that names requests
            problem.headers[REQUEST_ID_HEADER] = structlog.contextvars.get_contextvars().get("request_id", "")
        return problem.response()

    kinds = (
        Problem,
        SpecInvalid,
        RequestValidationError,
        HTTPException,
        *AWAY,
        OverflowError,
        ClientDisconnect,
        Exception,
    )
    for kind in kinds:
        app.add_exception_handler(kind, answer)
