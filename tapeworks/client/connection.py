"""One HTTP connection to the service: addresses, the key, retries, and problems as exceptions.

A call that may be repeated without harm (a GET, a create with an Idempotency-Key) is repeated after
a broken connection and after 429, 502, 503 and 504. Any other call is repeated only where it
cannot have been carried out: the connection was refused, or the service said 429 or 503. Pauses
grow with jitter, are at least what `Retry-After` says, and end after `patience` seconds.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import tenacity
from pydantic import TypeAdapter, ValidationError

from tapeworks.errors import ApiError, Conflict, NotFound, Rejected, Unauthorized, Unavailable

PATIENCE = 5.0
"""Seconds for which a call is repeated."""
LONGEST_PAUSE = 5.0

_NEVER_CARRIED_OUT = frozenset({429, 503})
_TRANSIENT = _NEVER_CARRIED_OUT | {502, 504}
_HOPELESS = (httpx.UnsupportedProtocol, httpx.InvalidURL)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

T = TypeVar("T")


class Connection:
    """Requests to one service. `transport` is httpx's own seam: tests pass an `httpx.MockTransport`."""

    def __init__(self, url: str, *, key: str | None, transport: httpx.BaseTransport | None, timeout: float) -> None:
        headers = {"User-Agent": "tapeworks-client"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._http = httpx.Client(base_url=self.url, headers=headers, transport=transport, follow_redirects=True)
        # A script that never closes its client leaves no open socket behind.
        weakref.finalize(self, self._http.close)

    def close(self) -> None:
        """Close the pooled connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        wait: float = 0.0,
        patience: float = PATIENCE,
    ) -> httpx.Response:
        """A successful answer, read whole. `wait`: seconds that the service may hold the answer back.

        Raises `ApiError`; `Unavailable` with status 0 where there was no answer.
        """
        sent = dict(headers or {})
        if content is not None:
            sent.setdefault("Content-Type", "application/json")

        def once() -> httpx.Response:
            with self._answers():
                response = self._http.request(
                    method,
                    path,
                    params=_parameters(params),
                    content=content,
                    headers=sent,
                    timeout=httpx.Timeout(self.timeout, read=self.timeout + wait),
                )
            return checked(response)

        return self.repeat(once, repeatable=method == "GET" if repeatable is None else repeatable, patience=patience)

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        quiet: float | None = None,
    ) -> Iterator[httpx.Response]:
        """A successful answer to a GET, to be read as it comes. Not repeated: a reader knows where to go on.

        `quiet`: seconds without a byte after which the connection counts as broken.
        """
        timeout = httpx.Timeout(self.timeout, read=quiet or self.timeout)
        with (
            self._answers(),
            self._http.stream(
                "GET", path, params=_parameters(params), headers=dict(headers or {}), timeout=timeout
            ) as response,
        ):
            if response.is_error:
                response.read()
            yield checked(response)

    def repeat(self, call: Callable[[], T], *, repeatable: bool, patience: float = PATIENCE) -> T:
        """Make a call, again where that may help and cannot harm."""

        def may_help(error: BaseException) -> bool:
            if not isinstance(error, Unavailable) or isinstance(error.__cause__, _HOPELESS):
                return False
            if error.status:
                return error.status in (_TRANSIENT if repeatable else _NEVER_CARRIED_OUT)
            return repeatable or isinstance(error.__cause__, _NEVER_SENT)

        jitter = tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE)

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.problem.get("retry_after", 0.0) if isinstance(error, Unavailable) else 0.0
            return max(jitter(state), float(asked))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_help),
            wait=pause,
            stop=tenacity.stop_before_delay(patience),
            reraise=True,
        )
        return retrying(call)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """No answer is `Unavailable` with status 0."""
        try:
            yield
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(0, "unreachable", f"no answer from {self.url}: {reason}") from error
        except httpx.InvalidURL as error:
            raise Unavailable(0, "unreachable", f"{self.url!r} is not a valid URL: {error}") from error


def checked(response: httpx.Response) -> httpx.Response:
    """The response, or the exception for its problem document."""
    if response.is_success:
        return response
    try:
        problem = response.json()
    except (ValueError, UnicodeDecodeError):
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    if (asked := _retry_after(response)) is not None:
        problem["retry_after"] = asked
    code = str(problem.get("code") or f"http_{response.status_code}")
    detail = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    raise _exception(response.status_code)(response.status_code, code, detail, problem)


def decoded(kind: type[T], response: httpx.Response) -> T:
    """The answer as a typed model. Raises `ApiError` `invalid_answer` where it is something else."""
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "/".join(str(step) for step in first["loc"])
        raise ApiError(
            response.status_code,
            "invalid_answer",
            f"{response.request.url} did not return the response expected from a Tapeworks service of this version "
            f"({place or 'the body'}: {first['msg']})",
        ) from error


def body(document: Any) -> bytes:
    """A JSON body. Raises ValueError for NaN and infinities."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _parameters(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _exception(status: int) -> type[ApiError]:
    if status == 404:
        return NotFound
    if status == 409:
        return Conflict
    if status in (401, 403):
        return Unauthorized
    if status == 429 or status >= 500:
        return Unavailable
    return Rejected if status >= 400 else ApiError


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds: the header is a number or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    if value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
        now = parsedate_to_datetime(response.headers["Date"])
    except (KeyError, TypeError, ValueError):
        return None
    return max(0.0, (at - now).total_seconds())
