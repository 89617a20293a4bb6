"""`/docs`: the API reference as a page, with Swagger UI's files from a package: no other server takes part."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path as FilePath
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, Response

router = APIRouter(include_in_schema=False)

_FILES = FilePath(str(files("fastapi_offline"))) / "static"
_KEPT = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'"
)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The page. It sends what a reader tries out to this service and to nobody else."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Tapeworks",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # else a stranger's server is asked about the document
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@router.get("/docs/{name}")
async def docs_file(name: Literal["swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"]) -> Response:
    """A file of the page."""
    return FileResponse(_FILES / name, headers=_KEPT)
