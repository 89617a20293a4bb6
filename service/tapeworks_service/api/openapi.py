"""The served OpenAPI document: FastAPI's, with the models of bodies that routes read themselves."""

from __future__ import annotations

import asyncio
import json
import threading
from functools import cache
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from pydantic.json_schema import models_json_schema

from tapeworks.schemas import access, assets, worker_protocol
from tapeworks.spec.job_spec import editor_schema
from tapeworks_service.api.jobs.routes import JobChange
from tapeworks_service.api.jobs.submission import RetryRequest
from tapeworks_service.api.messages import PROBLEM_SCHEMA
from tapeworks_service.api.openapi_examples import ACCEPTED, ANSWERS, BODIES, STREAMED
from tapeworks_service.auth.sessions import COOKIE

_REFERENCE = "#/components/schemas/{model}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BYTES = frozenset({"get_artifact", "get_model", "get_checkpoint", "read_checkpoint", "read_input"})
_BODIES = (
    JobChange, RetryRequest, worker_protocol.Registration, worker_protocol.LeaseRequest, worker_protocol.Heartbeat,
    worker_protocol.Records, worker_protocol.CheckpointAnnouncement, worker_protocol.Finish,
    worker_protocol.UploadRequest,
    assets.DatasetRequest, assets.PackageRequest, assets.BundleRequest,
    access.SessionRequest, access.KeyRequest,
)  # fmt: skip


def install(app: FastAPI) -> None:
    """Serve the completed document; made once, beside the loop: it takes half a second."""

    def openapi() -> dict[str, Any]:
        with making:
            if app.openapi_schema is None:
                app.openapi_schema = _document(app)
            return app.openapi_schema

    @cache
    def body() -> bytes:
        return json.dumps(openapi(), ensure_ascii=False).encode()

    async def serve(request: Request) -> Response:
        return Response(await asyncio.to_thread(body), media_type="application/json")

    making = threading.Lock()
    app.openapi = openapi  # type: ignore[method-assign]
    app.add_route("/openapi.json", serve, include_in_schema=False)


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, openapi_version="3.1.0", description=app.description, routes=app.routes
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    _, bodies = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REFERENCE)
    for name, schema in bodies["$defs"].items():
        schemas.setdefault(name, schema)
    spec = editor_schema()
    for name, schema in spec.pop("$defs", {}).items():
        schemas[f"Spec{name}"] = {**_moved(schema), "title": f"Spec{name}"}  # a generated client has a class of each
    spec.pop("$schema", None)
    schemas["JobSpecInput"] = {**_moved(spec), "title": "JobSpecInput"}
    schemas["Problem"] = PROBLEM_SCHEMA
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key of this installation (tw_…)."},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "The web page's log-in."},
    }
    document["security"] = [{"key": []}, {"session": []}, {}]
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("x-body-model", None)
            _describe_content(operation)
            # Parameters that are not valid are answered with problems too.
            if "422" in operation["responses"]:
                operation["responses"]["422"] = {
                    "description": "Problem",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    _drop_object_defaults(schemas)
    return document


def _drop_object_defaults(value: Any) -> None:
    """Generators of clients leave out what has an object as its default; the specs' own schema still tells it."""
    if isinstance(value, list):
        for item in value:
            _drop_object_defaults(item)
    elif isinstance(value, dict):
        if isinstance(value.get("default"), dict) and ("anyOf" in value or "$ref" in value or "type" in value):
            del value["default"]
        for item in value.values():
            _drop_object_defaults(item)


def _describe_content(operation: dict[str, Any]) -> None:
    """Examples, and the media types that routes answer with beside JSON."""
    name, responses = operation["operationId"], operation["responses"]
    if name in BODIES:
        operation["requestBody"]["content"]["application/json"]["example"] = BODIES[name]
    for status in ("200", "201"):
        if name in ANSWERS and status in responses:
            responses[status]["content"]["application/json"]["example"] = ANSWERS[name]
        if name in _BYTES and status in responses:
            responses[status]["content"] = {"application/octet-stream": _BINARY}
    if name in ACCEPTED:
        responses["202"]["content"]["application/json"]["example"] = ACCEPTED[name]
    if name in STREAMED:
        entry = STREAMED[name]
        message = f"id: {entry['seq']}\ndata: {json.dumps(entry)}\n\n"
        responses["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}, "example": message}
    if "206" in responses:
        responses["206"]["content"] = {"application/octet-stream": _BINARY}
    if name == "prometheus":
        text = {"schema": {"type": "string"}, "example": 'tapeworks_jobs{state="queued"} 1.0\n'}
        responses["200"]["content"] = {"text/plain": text}


def _moved(schema: Any) -> Any:
    """A schema whose `#/$defs/X` lies at `#/components/schemas/SpecX` now."""
    if isinstance(schema, list):
        return [_moved(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value) for key, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str):
        moved["$ref"] = reference.replace("#/$defs/", "#/components/schemas/Spec")
    if isinstance(moved.get("discriminator"), dict) and "mapping" in moved["discriminator"]:
        mapping = moved["discriminator"]["mapping"]
        moved["discriminator"]["mapping"] = {
            key: value.replace("#/$defs/", "#/components/schemas/Spec") for key, value in mapping.items()
        }
    return moved
